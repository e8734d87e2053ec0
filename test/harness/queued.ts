import assert from 'node:assert/strict'
import { Worker } from 'node:worker_threads'
import type { QueueingClients } from '../fixtures/queueing-clients.js'
import { fixtureUrl } from './child.js'
import { Deferred } from './deferred.js'
import type { TestContext } from './suite.js'

/** Indexes of what the clients' thread says: all have sent their request; all connections are over. */
const SENT = 0
const OVER = 1
/** No client takes so long. */
const TIMEOUT_MS = 10_000

/**
 * Has connections of another thread send `request` while this thread does nothing, so that those to a server of this
 * thread wait in its accept queue; runs `act`, and returns what each received until its end. `act` may go on blocking
 * this thread until all connections are over, by the function it is given.
 */
export async function whileBlocked(
  t: TestContext,
  port: number,
  count: number,
  request: string,
  act: (untilOver: () => void) => void,
): Promise<string[]> {
  const progress = new Int32Array(new SharedArrayBuffer(8))
  const workerData: QueueingClients = {
    port,
    count,
    request,
    sent: progress.subarray(SENT),
    over: progress.subarray(OVER),
  }
  const worker = new Worker(fixtureUrl('queueing-clients'), { workerData })
  t.defer(() => worker.terminate())
  const received = new Deferred<string[]>()
  worker.once('message', (texts: string[]) => received.resolve(texts))
  worker.once('error', (error) => received.reject(error))
  // A worker starts by itself, but its standard streams come by this thread: it writes none.
  const block = (until: number, what: string): void =>
    assert.notEqual(Atomics.wait(progress, until, 0, TIMEOUT_MS), 'timed-out', what)
  block(SENT, 'the clients have sent')
  act(() => block(OVER, 'the connections are over'))
  return await received.promise
}
