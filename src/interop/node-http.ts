import type { IncomingMessage, RequestListener, Server, ServerResponse } from 'node:http'
import { createRequire } from 'node:module'
import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'
import { HTTP_IDLE_GRACE_DEFAULT_MS, TIME_MAX_MS } from '../limits.js'
import { isThenable } from '../workers/callback-results.js'
import { exceptionContext } from '../workers/exception-handler.js'
import { invalid } from '../workers/invalid.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import { HttpProtocol } from './http-protocol.js'

/** Options of {@link nodeHttp}. */
export interface NodeHttpOptions {
  /**
   * Milliseconds for which a connection without a request may still send one when its server drains; that one is answered with
   * `Connection: close`, so that a request that is on its way is not lost. 0: none. Default 250.
   */
  readonly idleGraceMs?: number
}

/**
 * Runs an HTTP application as it is: makes the protocol of connections that are served by node:http's parser and objects, in every
 * shard that calls `createServer` with it.
 *
 * ```ts
 * await createServer(nodeHttp((request, response) => response.end('hello')), { port: 8080 })
 * ```
 *
 * @param source what `http.createServer` takes (so an Express application, Koa's `app.callback()`), or the server that it made,
 * with its options, timeouts and listeners (`'upgrade'`, `'checkContinue'`, …). It does not listen, and emits neither
 * `'listening'` nor `'close'`; its `'connection'` comes with a {@link TransportDuplex} in place of a `net.Socket`.
 *
 * What a listener throws, or its promise rejects with, reaches the server's exception handler. It is answered with 500, or ends
 * its connection when the head of the answer is sent; an answer that is complete stays as it is. What a request's reading rejects
 * with when its client has left is no failure. (With a server of node:http's what is thrown ends the connection and reaches
 * that handler; rejections of its listeners are the process' affair, as in node:http.)
 *
 * When the server drains (or its shard is replaced) what has been read is answered, the last of it with `Connection: close`, and the
 * connection ends. Connections without a request end after `idleGraceMs`. One that was upgraded gets the event `'draining'`; if
 * nobody listens to it, it ends as soon as it owes its peer nothing.
 *
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT
 */
export function nodeHttp(source: RequestListener | Server, options: NodeHttpOptions = {}): ProtocolFactory {
  const { idleGraceMs = HTTP_IDLE_GRACE_DEFAULT_MS } = options
  if (!(Number.isInteger(idleGraceMs) && idleGraceMs >= 0 && idleGraceMs <= TIME_MAX_MS))
    throw invalid('idleGraceMs', idleGraceMs, `an integer from 0 to ${TIME_MAX_MS}`)
  // Not imported above: it takes some milliseconds, which a program without HTTP has not to wait.
  const http = createRequire(import.meta.url)('node:http') as typeof import('node:http')
  const server = serverOf(source, http)
  trackConnections(server)
  return () => new HttpProtocol(server, idleGraceMs)
}

function serverOf(source: unknown, http: typeof import('node:http')): Server {
  if (source instanceof http.Server) return source
  if (typeof source === 'function') return http.createServer(guarded(source as RequestListener))
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `nodeHttp was given ${inspect(source, { depth: -1 })}; expected a request listener or a server of node:http (one of node:https ` +
      'or node:http2 is none)',
  )
}

/**
 * Has node:http look after headersTimeout, requestTimeout and `closeIdleConnections`: its server begins to when it listens, which
 * this one never does. Where the function has another name these do nothing, and a test fails.
 */
function trackConnections(server: Server): void {
  for (const listener of server.listeners('listening'))
    if (listener.name === 'setupConnectionsTracking') listener.call(server)
}

/** A listener whose failures are told and answered. */
function guarded(listener: RequestListener): RequestListener {
  return function guardedListener(this: Server, request, response) {
    try {
      const result: unknown = listener.call(this, request, response)
      if (isThenable(result)) result.then(undefined, (error: unknown) => failed(error, request, response))
    } catch (error) {
      failed(error, request, response)
    }
  }
}

function failed(error: unknown, request: IncomingMessage, response: ServerResponse): void {
  // To let through what the reading of a request rejects with whose client has left is no failure.
  if (error instanceof Error && error === request.errored && request.socket.destroyed) return
  const protocol = HttpProtocol.of(request.socket)
  protocol?.transport.server.handleException(
    exceptionContext(
      `the listener of ${request.method} ${request.url} on connection ${protocol.transport.id} threw`,
      error,
      { transport: protocol.transport, protocol },
    ),
  )
  if (response.writableEnded) return
  if (response.headersSent) {
    response.destroy()
    return
  }
  for (const name of response.getHeaderNames()) response.removeHeader(name)
  response.statusCode = 500
  response.statusMessage = '' // the usual one
  response.end('Internal Server Error')
}
