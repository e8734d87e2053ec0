import { assertBytes, Client, type ClientOptions } from './client.js'
import { Observable } from './deferred.js'
import type { Random } from './random.js'

/** Largest message, in bytes. */
const MESSAGE_MAX = 64 * 1024

/** Shard of a connection that broke before it was told. */
const UNKNOWN = -1

/** A connection that lives on a shard, and echoes for as long as it lives. */
interface Resident {
  readonly client: Client
  readonly shard: number
  /** Messages that came back. */
  echoes: number
}

/**
 * Connections that live on the shards of a server of crash-module and keep it busy: each sends bytes of a random length,
 * and compares what comes back, over and over. One that breaks is noted with its shard; a wrong byte fails {@link end}.
 */
export class Residents extends Observable {
  readonly #port: number
  readonly #random: Random
  readonly #options: ClientOptions
  readonly #living = new Set<Resident>()
  readonly #lives: Promise<void>[] = []
  #wrong: unknown
  #ending = false
  /** Shards of those that broke, in the order in which they did. */
  readonly broken: number[] = []
  /** Bytes that came back as they should. */
  echoed = 0

  constructor(port: number, random: Random, options: ClientOptions = {}) {
    super()
    this.#port = port
    this.#random = random
    this.#options = { ...options, mayBreak: true }
  }

  /** Opens connections until there are `count`. */
  async fill(count: number): Promise<void> {
    await Promise.all(Array.from({ length: count - this.#living.size }, () => this.#settle()))
  }

  /** How many live on a shard. */
  on(shard: number): number {
    return [...this.#living].filter((resident) => resident.shard === shard).length
  }

  /** Resolves when nobody lives on a shard any more. */
  async untilNoneOn(shard: number): Promise<void> {
    await this.until(() => this.on(shard) === 0 || this.#wrong !== undefined)
    if (this.#wrong !== undefined) throw this.#wrong
  }

  /** Resolves when each of them has got one more echo, or broken. */
  async echoOnce(): Promise<void> {
    const echoes = [...this.#living].map((resident) => ({ resident, before: resident.echoes }))
    await this.until(() =>
      echoes.every(({ resident, before }) => resident.echoes > before || !this.#living.has(resident)),
    )
  }

  /** Closes them all. Rejects when a byte was wrong. */
  async end(): Promise<void> {
    this.#ending = true
    await Promise.all([...this.#living].map(({ client }) => client.destroy()))
    await Promise.all(this.#lives)
    if (this.#wrong !== undefined) throw this.#wrong
  }

  async #settle(): Promise<void> {
    const client = await Client.open(this.#port, this.#options)
    const answer = client.write('echo\n').then(() => client.readLine())
    const line = await answer.catch(() => undefined)
    if (line === undefined) {
      this.broken.push(UNKNOWN)
      await client.destroy()
      this.changed()
      return
    }
    const resident = { client, shard: Number(line), echoes: 0 }
    this.#living.add(resident)
    this.#lives.push(this.#live(resident))
  }

  async #live(resident: Resident): Promise<void> {
    const { client, shard } = resident
    const data = this.#random.bytes(MESSAGE_MAX)
    while (!this.#ending) {
      const message = data.subarray(0, this.#random.size(1, MESSAGE_MAX))
      const echo = await Promise.all([client.readExactly(message.length), client.write(message)]).catch(
        () => null,
      )
      if (echo === null) break
      try {
        assertBytes(echo[0], message, `an echo of shard ${shard}`)
      } catch (error) {
        this.#wrong ??= error
        break
      }
      this.echoed += message.length
      resident.echoes++
      this.changed()
    }
    if (!this.#ending) this.broken.push(shard)
    this.#living.delete(resident)
    await client.destroy()
    this.changed()
  }
}
