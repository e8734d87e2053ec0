import { KiB } from '../harness/memory.js'
import { Random } from '../harness/random.js'
import { Guest } from './guest.js'
import type { Material } from './material.js'
import { ECHOING, type Ready } from './plan.js'

const MESSAGE_MAX_BYTES = 64 * KiB

/** A client that stays for the whole soak. Every other one says something only when it comes and when it goes. */
export class Resident extends Guest {
  readonly #isSilent: boolean

  constructor(seed: number, number: number, ports: Ready['ports'], material: Material) {
    const service = ECHOING[(number >> 1) % ECHOING.length] ?? 'chunk'
    const kind = number % 2 === 0 ? 'resident' : 'silent resident'
    super(kind, number, service, new Random(seed + number), ports, material)
    this.#isSilent = kind === 'silent resident'
  }

  async come(): Promise<void> {
    await this.open()
    await this.#speak()
  }

  /** Once in a while. */
  async stay(): Promise<void> {
    if (!this.#isSilent) await this.#speak()
  }

  async go(): Promise<void> {
    await this.#speak()
    await this.leave()
  }

  async #speak(): Promise<void> {
    await this.echo(this.take(1, MESSAGE_MAX_BYTES))
  }
}
