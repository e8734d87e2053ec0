import { connect, type Socket } from 'node:net'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import { Deferred, Observable } from './deferred.js'

export interface ClientOptions {
  readonly host?: string
  /** Reads nothing from the kernel until `resume()`. */
  readonly paused?: boolean
  /** The server may break the connection before this end knows that it stands; that resolves `open` too. */
  readonly mayBreak?: boolean
  /** Over TLS, by node:tls. `open` resolves after the handshake. */
  readonly tls?: ConnectionOptions
  /** Called when the kernel has connected it; a handshake is still to come. */
  readonly onConnect?: () => void
}

/** A peer on node:net: real sockets, with promises. Never ends its writing half by itself. */
export class Client extends Observable {
  /** What is read from and written to; over TLS a TLSSocket. */
  readonly socket: Socket
  /** What the kernel has: `socket` itself but over TLS. */
  readonly raw: Socket
  /** Unix sockets know no reset: a connection that is broken off ends, and only unread input makes it an error. */
  readonly isUnix: boolean
  /** Bytes read from the socket so far. */
  received = 0
  /** The peer ended its writing half. */
  ended = false
  /** What broke the connection; `null` while nothing did. */
  error: NodeJS.ErrnoException | null = null
  closed = false
  #chunks: Buffer[] = []
  #buffered = 0

  private constructor(socket: Socket, raw: Socket, isUnix: boolean) {
    super()
    this.socket = socket
    this.raw = raw
    this.isUnix = isUnix
    socket.on('data', (chunk) => {
      this.#chunks.push(chunk)
      this.#buffered += chunk.length
      this.received += chunk.length
      this.changed()
    })
    socket.on('end', () => {
      if (socket !== raw && !socket.writableEnded && isReset(raw)) {
        socket.destroy(Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET' }))
        return
      }
      this.ended = true
      this.changed()
    })
    socket.on('error', (error) => {
      this.error = error
      this.changed()
    })
    socket.on('close', () => {
      this.closed = true
      this.changed()
    })
  }

  /** Resolves when the connection stands. @param to a port, or the path of a Unix socket */
  static open(to: number | string, options: ClientOptions = {}): Promise<Client> {
    const where = typeof to === 'string' ? { path: to } : { port: to, host: options.host ?? '127.0.0.1' }
    const raw = connect({ ...where, allowHalfOpen: true, noDelay: true })
    const socket = options.tls === undefined ? raw : tlsConnect({ ...options.tls, socket: raw })
    const client = new Client(socket, raw, typeof to === 'string')
    if (options.onConnect !== undefined) raw.once('connect', options.onConnect)
    const opened = new Deferred<Client>()
    socket.once(socket === raw ? 'connect' : 'secureConnect', () => {
      if (options.paused === true) socket.pause()
      opened.resolve(client)
    })
    if (options.mayBreak === true) socket.once('close', () => opened.resolve(client))
    else socket.once('error', (error) => opened.reject(error))
    return opened.promise
  }

  /** Hands `data` to the kernel; resolves when it took everything. */
  write(data: Uint8Array | string): Promise<void> {
    return new Promise((resolve, reject) => {
      this.socket.write(data, (error) => (error == null ? resolve() : reject(error)))
    })
  }

  /** Ends our writing half after what is queued. */
  end(data?: Uint8Array | string): void {
    if (data === undefined) this.socket.end()
    else this.socket.end(data)
  }

  /** Breaks the connection: over TCP the server sees ECONNRESET. */
  reset(): void {
    if (this.isUnix) this.socket.destroy()
    else this.raw.resetAndDestroy()
  }

  /** The TLS side of a connection that was opened with `tls`. */
  get secure(): TLSSocket {
    return this.socket as TLSSocket
  }

  pause(): void {
    this.socket.pause()
  }

  resume(): void {
    this.socket.resume()
  }

  /** The next `length` bytes. Rejects when the connection ends before. */
  async readExactly(length: number): Promise<Buffer> {
    await this.until(() => this.#buffered >= length || this.#over)
    if (this.#buffered < length) {
      throw this.error ?? new Error(`the peer ended after ${this.#buffered} of ${length} bytes`)
    }
    return this.#take(length)
  }

  /** The next line, without its end. */
  async readLine(): Promise<string> {
    let searched = 0
    for (;;) {
      const all = Buffer.concat(this.#chunks)
      const at = all.indexOf(10, searched)
      if (at >= 0) return this.#take(at + 1).toString('utf8', 0, at)
      searched = all.length
      await this.until(() => this.#buffered > searched || this.#over)
      if (this.#buffered === searched)
        throw this.error ?? new Error(`the peer ended within a line: ${all.toString()}`)
    }
  }

  /** Everything up to the peer's end. Rejects when the connection breaks instead. */
  async readToEnd(): Promise<Buffer> {
    await this.until(() => this.#over)
    if (!this.ended)
      throw this.error ?? new Error(`the connection closed without an end after ${this.#buffered} bytes`)
    return this.#take(this.#buffered)
  }

  /** Whatever arrived before the connection closed or broke. */
  async readToClose(): Promise<Buffer> {
    await this.until(() => this.#over)
    return this.#take(this.#buffered)
  }

  /**
   * Resolves when the connection was broken by a reset, rejects when it ended in order (over TCP). A socket that was not being
   * read when the reset came reports a mere end (with node:net on Linux), but writing to it fails at once.
   */
  async untilReset(): Promise<void> {
    this.resume()
    await this.until(() => this.#over)
    if (this.isUnix) return this.destroy()
    if (this.error?.code === 'ECONNRESET') return
    // Behind its own end a TLSSocket has nothing to ask by.
    if (this.socket !== this.raw && this.socket.writableEnded) return this.destroy()
    const failure = await this.write('?').then(
      () => new Error('the peer ended the connection in order, not by a reset'),
      (error: NodeJS.ErrnoException) => error,
    )
    const code = (failure as NodeJS.ErrnoException).code
    if (code !== 'EPIPE' && code !== 'ECONNRESET') throw failure
    await this.until(() => this.closed)
  }

  /** What arrived and was not read yet. */
  get buffered(): number {
    return this.#buffered
  }

  /** Resolves with what broke the connection, or `null`, once both directions are closed. Over TCP it does not end our half. */
  async untilClose(): Promise<NodeJS.ErrnoException | null> {
    if (this.isUnix) {
      await this.until(() => this.#over)
      this.socket.end()
    }
    await this.until(() => this.closed)
    return this.error
  }

  /** Closes at once (orderly if nothing is unread or unsent); resolves when the descriptor is closed. */
  async destroy(): Promise<void> {
    const { socket } = this
    // TLS's own end goes before that of TCP.
    if (socket === this.raw || socket.writableEnded || socket.writableLength > 0) socket.destroy()
    else socket.end(() => socket.destroy())
    await this.until(() => this.closed)
  }

  get #over(): boolean {
    return this.ended || this.closed
  }

  #take(length: number): Buffer {
    const all = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks)
    this.#chunks = length < all.length ? [all.subarray(length)] : []
    this.#buffered -= length
    return all.subarray(0, length)
  }
}

/**
 * Whether a reset has come to a socket whose writing half is open, which libuv tells as a mere end when it comes right behind what
 * is read: a TLS connection begins with what nobody asked for, its tickets.
 */
function isReset(socket: Socket): boolean {
  const { _handle } = socket as unknown as { _handle: { getpeername(to: object): number } | null }
  return _handle === null || _handle.getpeername({}) !== 0
}

/** What came is not what was sent. */
export class WrongBytes extends Error {}

/** Asserts that `actual` equals `expected`, and names the first byte that differs rather than print megabytes. */
export function assertBytes(actual: Uint8Array, expected: Uint8Array, what = 'bytes'): void {
  if (actual.length === expected.length && Buffer.compare(actual, expected) === 0) return
  const limit = Math.min(actual.length, expected.length)
  let at = 0
  while (at < limit && actual[at] === expected[at]) at++
  const show = (bytes: Uint8Array): string => Buffer.from(bytes.subarray(at, at + 16)).toString('hex')
  throw new WrongBytes(
    `${what}: ${actual.length} bytes, expected ${expected.length}; they differ from byte ${at} on: ` +
      `${show(actual)}, expected ${show(expected)}`,
  )
}
