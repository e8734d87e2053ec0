import { once } from 'node:events'
import { createServer, type Socket } from 'node:net'
import { createServer as createTlsServer } from 'node:tls'
import { identityOf } from './certificates.js'
import type { Client } from './client.js'
import { Deferred, Observable } from './deferred.js'
import { type TestContext, whereIs } from './suite.js'

export interface SceneOptions {
  readonly allowHalfOpen?: boolean
  /** The peer reads nothing until it resumes. */
  readonly peerPaused?: boolean
}

/** One end of a connection as a stream, its peer, and what happened to it in order. */
export class Scene extends Observable {
  readonly socket: Socket
  readonly peer: Client
  /** Events with the state of the stream in them; consecutive pieces of data in one line. */
  readonly lines: string[] = []
  #data = 0

  constructor(socket: Socket, peer: Client) {
    super()
    this.socket = socket
    this.peer = peer
    socket.on('end', () => this.log(`end, ${stateOf(socket)}`))
    socket.on('finish', () => this.log(`finish, ${stateOf(socket)}`))
    socket.on('error', (error: NodeJS.ErrnoException) =>
      this.log(`error ${error.code ?? error.message}, ${stateOf(socket)}`),
    )
    socket.on('close', (...given: unknown[]) => this.log(`close ${given.join()}, ${stateOf(socket)}`))
    socket.on('drain', () => this.log('drain'))
    socket.on('timeout', () => this.log('timeout'))
  }

  log(line: string): void {
    this.#told()
    this.lines.push(line)
    this.changed()
  }

  /** Reads by 'data', and notes how much came between other lines. */
  flow(): void {
    this.socket.on('data', (chunk: Buffer) => {
      this.#data += chunk.length
      this.changed()
    })
  }

  /** A callback that notes how it was called. */
  noting(name: string): (error?: Error | null) => void {
    return (error) =>
      this.log(`${name}: ${error ? ((error as { code?: string }).code ?? error.message) : 'done'}`)
  }

  /** Resolves when a line begins so. */
  logged(start: string): Promise<void> {
    return this.until(() => this.lines.some((line) => line.startsWith(start)))
  }

  /** Resolves when so much was read since the last line. */
  read(bytes: number): Promise<void> {
    return this.until(() => this.#data >= bytes)
  }

  /** Leaves out what comes by chance. */
  forget(line: string): void {
    while (this.lines.includes(line)) this.lines.splice(this.lines.indexOf(line), 1)
  }

  replace(pattern: RegExp, by: string): void {
    for (const [at, line] of this.lines.entries()) this.lines[at] = line.replace(pattern, by)
  }

  closed(): Promise<void> {
    return this.logged('close')
  }

  #told(): void {
    if (this.#data > 0) this.lines.push(`data ${this.#data}`)
    this.#data = 0
  }
}

function stateOf(socket: Socket): string {
  const flags = [
    socket.destroyed && 'destroyed',
    socket.closed && 'closed',
    socket.readableEnded && 'read',
    socket.writableEnded && 'ending',
    socket.writableFinished && 'written',
    socket.errored != null && 'errored',
  ].filter(Boolean)
  return [socket.readyState, ...flags].join(' ')
}

/** A connection whose accepted end is a stream of Node's own. */
export async function netScene(t: TestContext, options: SceneOptions = {}): Promise<Scene> {
  const allowHalfOpen = options.allowHalfOpen === true
  const server =
    t.tls === null
      ? createServer({ allowHalfOpen })
      : createTlsServer({ ...identityOf('server'), allowHalfOpen })
  server.listen(t.transport === 'tcp' ? { port: 0, host: '127.0.0.1' } : { path: t.path() })
  await once(server, 'listening')
  t.defer(() => void server.close())
  const address = server.address()
  const accepted = once(server, t.tls === null ? 'connection' : 'secureConnection')
  const peer = await t.connect(
    typeof address === 'object' && address !== null ? address.port : String(address),
    {
      paused: options.peerPaused === true,
    },
  )
  const [socket] = (await accepted) as [Socket]
  t.defer(() => void socket.destroy())
  return new Scene(socket, peer)
}

/** The same with one of ours. */
export async function duplexScene(t: TestContext, options: SceneOptions = {}): Promise<Scene> {
  const accepted = new Deferred<Socket>()
  const { allowHalfOpen = false } = options
  const server = await t.serve(() => ({
    connectionMade: (transport) => accepted.resolve(transport.duplex({ allowHalfOpen })),
  }))
  const peer = await t.connect(whereIs(server), { paused: options.peerPaused === true })
  return new Scene(await accepted.promise, peer)
}
