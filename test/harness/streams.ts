import assert from 'node:assert/strict'
import {
  fromStream,
  openConnection,
  openUnixConnection,
  type Server,
  type ServerOptions,
  type Stream,
  type StreamHandler,
  type StreamOptions,
  type WaitOptions,
} from '../../src/index.js'
import type { Client, ClientOptions } from './client.js'
import { Deferred } from './deferred.js'
import { type TestContext, whereIs } from './suite.js'

/** No test waits for it: what does not end by itself fails by the test's own timeout. */
const NEVER_MS = 600_000

/** A server of a handler; without an `exceptionHandler`, any report fails the test. */
export function serveStreams(
  t: TestContext,
  handler: StreamHandler,
  { limit, ...options }: ServerOptions & StreamOptions = {},
): Promise<Server> {
  return t.serve(fromStream(handler, limit === undefined ? {} : { limit }), {
    drainTimeoutMs: NEVER_MS,
    ...options,
  })
}

/** A stream of ours to a server. */
export function openStream(
  t: TestContext,
  server: Server,
  options: StreamOptions & WaitOptions = {},
): Promise<Stream> {
  const { engine } = t
  const where = whereIs(server)
  t.defer(() => t.loop.close())
  return typeof where === 'string'
    ? openUnixConnection({ engine, path: where, ...options })
    : openConnection({ engine, host: '127.0.0.1', port: where, ...t.clientTls(), ...options })
}

/** A connection whose handler leaves everything to the test, until it settles `handled`. */
export interface Held {
  readonly server: Server
  readonly client: Client
  readonly stream: Stream
  readonly handled: Deferred
}

export async function holdStream(
  t: TestContext,
  { client, ...options }: ServerOptions & StreamOptions & { client?: ClientOptions } = {},
): Promise<Held> {
  const [accepted, handled] = [new Deferred<Stream>(), new Deferred()]
  const server = await serveStreams(
    t,
    (stream) => {
      accepted.resolve(stream)
      return handled.promise
    },
    options,
  )
  return { server, client: await t.connect(server, client), stream: await accepted.promise, handled }
}

/** What a promise rejects with. */
export async function failure(promise: Promise<unknown>): Promise<Error & { code?: string }> {
  return await promise.then(
    (value) => assert.fail(`it was fulfilled: ${String(value)}`),
    (error: Error) => error,
  )
}

/** Sends back what it gets. */
export const echo: StreamHandler = async (stream) => {
  for await (const chunk of stream) await stream.write(chunk)
}
