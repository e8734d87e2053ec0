/** Ends of TLS connections for tests: servers on node:tls, and what failed at a server of ours. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { type AddressInfo, connect, createServer as createNetServer, type Socket } from 'node:net'
import { createServer, type TLSSocket, type TlsOptions, type Server as TlsServer } from 'node:tls'
import type {
  ConnectionOptions,
  Protocol,
  Server,
  TlsClientOptions,
  TlsError,
  Transport,
} from '../../src/index.js'
import { identityOf } from './certificates.js'
import { Observable } from './deferred.js'
import type { TestContext } from './suite.js'
import { clientOptions } from './tls.js'

/** The handshakes that failed at a server, as it tells them. */
export class Failures extends Observable {
  readonly errors: TlsError[] = []

  constructor(server: Server) {
    super()
    server.events.on('tlsClientError', ({ error }) => {
      this.errors.push(error)
      this.changed()
    })
  }

  /** The failure that comes as number `index`, counted from 0. */
  async at(index: number): Promise<TlsError> {
    await this.until(() => this.errors.length > index)
    return this.errors[index] as TlsError
  }
}

/** What fails with an error is to have of it. */
export interface FailureShape {
  readonly code: string
  readonly reason?: string | null
  readonly alert?: string
}

/** Asserts that `error` is a TlsError of that kind. */
export function assertTlsError(error: unknown, { code, reason, alert }: FailureShape): TlsError {
  const failure = error as TlsError
  assert.equal(failure?.code, `ERR_SHARDLOOP_TLS_${code}`, String(failure?.stack ?? failure))
  if (reason !== undefined) assert.equal(failure.reason, reason, failure.message)
  if (alert !== undefined) assert.equal(failure.alert, alert, failure.message)
  return failure
}

/** A server of node:tls, which sends back what it gets unless told otherwise. */
export async function nodeServer(
  t: TestContext,
  options: TlsOptions = {},
  serve: (socket: TLSSocket) => void = (socket) => void socket.pipe(socket),
): Promise<NodeTlsServer> {
  const { cert, key } = identityOf('server')
  const server = createServer({ cert, key, ...options })
  const ends = new NodeTlsServer(server)
  server.on('secureConnection', (socket) => {
    socket.on('error', () => {})
    ends.accepted(socket)
    serve(socket)
  })
  server.on('tlsClientError', (error: NodeJS.ErrnoException) => ends.failed(error))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  ends.port = (server.address() as AddressInfo).port
  t.defer(() => {
    server.close()
    for (const socket of ends.sockets) socket.destroy()
  })
  return ends
}

export class NodeTlsServer extends Observable {
  readonly server: TlsServer
  port = 0
  readonly sockets: TLSSocket[] = []
  readonly errors: NodeJS.ErrnoException[] = []

  constructor(server: TlsServer) {
    super()
    this.server = server
  }

  accepted(socket: TLSSocket): void {
    this.sockets.push(socket)
    this.changed()
  }

  failed(error: NodeJS.ErrnoException): void {
    this.errors.push(error)
    this.changed()
  }

  async socket(index: number): Promise<TLSSocket> {
    await this.until(() => this.sockets.length > index)
    return this.sockets[index] as TLSSocket
  }
}

/** A connection of ours over TLS to a port; trusts the tests' authority and asks for localhost. */
export function dialTls<Made extends Protocol>(
  t: TestContext,
  port: number,
  factory: () => Made,
  tls: TlsClientOptions = {},
  options: Partial<ConnectionOptions> = {},
): Promise<[Transport, Made]> {
  return t.loop.createConnection(factory, {
    engine: t.engine,
    host: '127.0.0.1',
    port,
    tls: { ...clientOptions(), ...tls },
    ...options,
  })
}

/**
 * A port that passes on what comes, in both directions.
 * @param piece how many bytes at a time
 */
export async function relay(t: TestContext, to: number, piece: number = 64 * 1024): Promise<Relay> {
  const relayed = new Relay()
  const server = createNetServer({ allowHalfOpen: true }, (near) => {
    const far = connect({ port: to, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
    near.setNoDelay()
    for (const [from, into] of [
      [near, far],
      [far, near],
    ] as const) {
      from.on('error', () => into.destroy())
      from.on('data', (chunk: Buffer) => {
        for (let at = 0; at < chunk.length; at += piece) into.write(chunk.subarray(at, at + piece))
      })
      from.on('end', () => into.end())
      t.defer(() => void from.destroy())
    }
    relayed.far = far
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.defer(() => void server.close())
  relayed.port = (server.address() as AddressInfo).port
  return relayed
}

export class Relay {
  port = 0
  /** Towards the server, of the connection that came last. */
  far!: Socket
}
