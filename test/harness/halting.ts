import { connect, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from 'node:tls'
import type { Server } from '../../src/index.js'
import { Deferred, Observable } from './deferred.js'
import { portOf, type TestContext } from './suite.js'

/** How much of a client's part of the handshake goes out before {@link Halting.go}. */
export type Until = 'half a hello' | 'a hello' | 'all of it'

export const HALF_HELLO_BYTES: number = 100

/** What is between node:tls and the network, and passes on no more than it may. */
class Gate extends Duplex {
  readonly raw: Socket
  received = 0
  readonly #held: Buffer[] = []
  #until: Until

  constructor(port: number, until: Until) {
    super()
    this.#until = until
    this.raw = connect({ port, host: '127.0.0.1', noDelay: true })
    this.raw.on('data', (chunk) => {
      this.received += chunk.length
      this.push(chunk)
    })
    this.raw.on('end', () => this.push(null))
    this.raw.on('error', (error) => this.destroy(error))
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    if (this.#until === 'all of it') {
      this.raw.write(chunk, done)
      return
    }
    // A client's first write is its hello.
    const passes = this.#held.length > 0 ? 0 : this.#until === 'a hello' ? chunk.length : HALF_HELLO_BYTES
    this.raw.write(chunk.subarray(0, passes))
    this.#held.push(chunk.subarray(passes))
    done()
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.raw.destroy()
    done(error)
  }

  /** What waits for {@link go}. */
  get held(): number {
    return this.#held.reduce((sum, chunk) => sum + chunk.length, 0)
  }

  go(): void {
    this.#until = 'all of it'
    for (const chunk of this.#held.splice(0)) this.raw.write(chunk)
  }
}

/** A client of node:tls that stops in the middle of its handshake. */
export class Halting extends Observable {
  readonly gate: Gate
  readonly socket: TLSSocket
  /** Which shard has answered it. */
  readonly answer: Promise<number>
  isSecure = false

  constructor(
    t: TestContext,
    server: Server,
    until: Until,
    tls: ConnectionOptions | undefined = t.nodeTls().tls,
  ) {
    super()
    this.gate = new Gate(portOf(server), until)
    this.socket = tlsConnect({ ...tls, socket: this.gate })
    const answer = new Deferred<number>()
    this.answer = answer.promise
    this.answer.catch(() => {})
    let text = ''
    this.socket.on('data', (chunk: Buffer) => {
      text += chunk.toString()
      if (text.endsWith('\n')) answer.resolve(Number(text))
    })
    this.socket.on('error', (error) => answer.reject(error))
    this.socket.on('close', () => answer.reject(new Error('the connection ended without an answer')))
    this.socket.on('secureConnect', () => {
      this.isSecure = true
      this.changed()
    })
    this.gate.raw.on('data', () => this.changed())
    this.socket.write('who\n')
    t.defer(() => {
      this.socket.destroy()
      this.gate.destroy()
    })
  }

  /** Goes on. What it has to say is with the kernel when this returns. */
  go(): void {
    this.gate.go()
  }
}
