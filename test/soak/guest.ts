import { assertBytes, Client } from '../harness/client.js'
import { KiB } from '../harness/memory.js'
import type { Random } from '../harness/random.js'
import { echoThrough, send } from '../harness/traffic.js'
import type { Material } from './material.js'
import type { Ready, Service } from './plan.js'

const PIECE_MAX_BYTES = 300 * KiB
const FAREWELL = Buffer.from('the end')

/** A client of a soak and its one connection: what it sends, and that what comes back is the same. */
export class Guest {
  readonly kind: string
  readonly number: number
  readonly service: Service
  readonly random: Random
  readonly #ports: Ready['ports']
  readonly #material: Material
  #client: Client | undefined
  /** Our end's; null before the connection stands. */
  port: number | null = null
  /** Bytes that came back as they had been sent. */
  echoed = 0

  constructor(
    kind: string,
    number: number,
    service: Service,
    random: Random,
    ports: Ready['ports'],
    material: Material,
  ) {
    this.kind = kind
    this.number = number
    this.service = service
    this.random = random
    this.#ports = ports
    this.#material = material
  }

  async open(): Promise<Client> {
    this.#client = await Client.open(this.#ports[this.service])
    this.port = this.#client.socket.localPort ?? null
    return this.#client
  }

  /** Bytes that went either way. */
  get moved(): number {
    return this.#client === undefined ? 0 : this.#client.received + this.#client.socket.bytesWritten
  }

  get client(): Client {
    if (this.#client === undefined) throw new Error('the connection was not opened')
    return this.#client
  }

  /** Bytes to send, of any order of magnitude. */
  take(least: number, most: number): Buffer {
    return this.#material.take(this.random, this.random.size(least, most))
  }

  /** Sends the bytes in pieces. */
  async send(data: Buffer): Promise<void> {
    await send(this.client, data, this.random, this.random.size(1 * KiB, PIECE_MAX_BYTES))
  }

  /** The same, and compares their echo while it comes. */
  async echo(data: Buffer): Promise<void> {
    await echoThrough(this.client, data, this.random, this.random.size(1 * KiB, PIECE_MAX_BYTES))
    this.echoed += data.length
  }

  /** Says goodbye and reads to the end. */
  async leave(): Promise<void> {
    this.client.end(FAREWELL)
    this.compareAll(await this.client.readToEnd(), FAREWELL)
    const error = await this.client.untilClose()
    if (error !== null) throw error
  }

  /** Compares all that came before the peer's end. An end that came too early is no wrong byte: it is the connection's. */
  compareAll(received: Buffer, sent: Buffer): void {
    this.comparePrefix(received, sent)
    if (received.length < sent.length)
      throw new Error(`the peer ended after ${received.length} of ${sent.length} bytes`)
  }

  /** Compares what came before the connection was broken. */
  comparePrefix(received: Buffer, sent: Buffer): void {
    assertBytes(received, sent.subarray(0, received.length), 'echo')
    this.echoed += received.length
  }

  /** Closes the connection, whatever it is doing. */
  async destroy(): Promise<void> {
    await this.#client?.destroy()
  }
}
