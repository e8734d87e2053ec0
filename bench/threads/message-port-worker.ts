/** The worker of {@link messagePortChannel}. */
import { parentPort, workerData } from 'node:worker_threads'
import { Receiver } from './channel.js'
import type { Request, WorkerPorts } from './message-port-channel.js'
import { ownThread } from './own-thread.js'

const { messages, requests } = workerData as WorkerPorts
const receiver = new Receiver((count) => messages.postMessage(count))
messages.on('message', () => receiver.received())
requests.on('message', ({ id, payload }: Request) => {
  requests.postMessage({ id, payload } satisfies Request)
})
parentPort?.postMessage(ownThread())
