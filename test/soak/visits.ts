import { setTimeout as sleep } from 'node:timers/promises'
import { KiB, MiB } from '../harness/memory.js'
import { Random } from '../harness/random.js'
import { Guest } from './guest.js'
import type { Material } from './material.js'
import { ABORTS_WITHIN_BYTES, ECHOING, type Ready, type Service } from './plan.js'

export const TRANSFER_MAX_BYTES: number = 4 * MiB
const SLOW_MAX_BYTES = 2 * MiB
const CHURN_MAX_BYTES = 64
/** For so long a slow reader reads nothing at first, so that the server has to queue and to pause. */
const UNREAD_MIN_MS = 20
const UNREAD_MAX_MS = 300
const LINGER_MIN_MS = 50
const LINGER_MAX_MS = 2_000

/** How often each kind of visit comes, as a weight. */
const WEIGHTS = {
  churn: 40,
  fleeting: 10,
  transfer: 14,
  'slow reader': 6,
  'half close': 8,
  reset: 8,
  aborted: 6,
  expired: 3,
  lingering: 5,
} as const

export type Kind = keyof typeof WEIGHTS

export const KINDS = Object.keys(WEIGHTS) as readonly Kind[]
const WEIGHT_SUM = KINDS.reduce((sum, kind) => sum + WEIGHTS[kind], 0)

/** Of the kinds that go to one service; the others go to any that echoes. */
const SERVICE_OF: Partial<Record<Kind, Service>> = { aborted: 'aborting', expired: 'expiring' }

/** A client that comes, does one of many things, and is gone within seconds. */
export class Visit extends Guest {
  declare readonly kind: Kind
  readonly #hurry: AbortSignal

  /**
   * All that it does follows from the seed of the run and its number.
   *
   * @param hurry aborts when the server is to be quiet
   */
  constructor(seed: number, number: number, ports: Ready['ports'], material: Material, hurry: AbortSignal) {
    // Not `seed + number`: neighbours would draw the same numbers, one after the other.
    const random = new Random(new Random(seed).u32() ^ Math.imul(number, 0x85eb_ca6b))
    const kind = pickKind(random)
    super(kind, number, SERVICE_OF[kind] ?? random.pick(ECHOING), random, ports, material)
    this.#hurry = hurry
  }

  /** Rejects when anything is not as it should be. Leaves no connection behind. */
  async run(): Promise<void> {
    try {
      await this.open()
      await VISITS[this.kind](this)
    } finally {
      await this.destroy()
    }
  }

  /** Waits for so long, or until the server is to be quiet. */
  async pause(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: this.#hurry }).catch(() => {})
  }
}

const VISITS: Readonly<Record<Kind, (visit: Visit) => Promise<void>>> = {
  /** Says a few bytes, and goes. */
  churn: async (visit) => {
    await visit.echo(visit.take(1, CHURN_MAX_BYTES))
    await visit.leave()
  },

  /** Goes as soon as it came, in order or by a reset. */
  fleeting: async (visit) => {
    if (visit.random.below(2) === 0) visit.client.reset()
    await visit.destroy()
  },

  /** Echoes a byte or megabytes, several times. */
  transfer: async (visit) => {
    for (let stretch = visit.random.between(1, 4); stretch > 0; stretch--)
      await visit.echo(visit.take(1, TRANSFER_MAX_BYTES))
    await visit.leave()
  },

  /** Sends while it reads nothing, then reads with stops. */
  'slow reader': async (visit) => {
    const { client, random } = visit
    client.pause()
    let stops: NodeJS.Timeout | undefined
    const reading = visit.pause(random.between(UNREAD_MIN_MS, UNREAD_MAX_MS)).then(() => {
      client.resume()
      const stop = (): void => (client.socket.isPaused() ? client.resume() : client.pause())
      stops = setInterval(stop, random.between(1, 10))
    })
    try {
      await Promise.all([visit.echo(visit.take(100 * KiB, SLOW_MAX_BYTES)), reading])
    } finally {
      await reading
      clearInterval(stops)
      client.resume()
    }
    await visit.leave()
  },

  /** Ends its half behind what it sends, and gets the echo all the same. */
  'half close': async (visit) => {
    const data = visit.take(1, MiB)
    const sending = visit.send(data).then(() => visit.client.end())
    const [received] = await Promise.all([visit.client.readToEnd(), sending])
    visit.compareAll(received, data)
  },

  /** Breaks the connection in the middle of an echo. */
  reset: async (visit) => {
    const data = visit.take(1, TRANSFER_MAX_BYTES)
    const sending = visit.send(data).catch(() => {})
    visit.comparePrefix(await visit.client.readExactly(visit.random.size(1, data.length)), data)
    visit.client.reset()
    await visit.destroy()
    await sending
  },

  /** Sends until the server breaks the connection. */
  aborted: async (visit) => {
    const data = visit.take(ABORTS_WITHIN_BYTES, MiB)
    const sending = visit.send(data).catch(() => {})
    visit.comparePrefix(await visit.client.readToClose(), data)
    await visit.client.untilReset()
    await visit.destroy()
    await sending
  },

  /** Says something, and then nothing until the server breaks the connection. */
  expired: async (visit) => {
    await visit.echo(visit.take(1, CHURN_MAX_BYTES))
    await visit.client.untilReset()
  },

  /** Stays for a while without a word. */
  lingering: async (visit) => {
    await visit.pause(visit.random.between(LINGER_MIN_MS, LINGER_MAX_MS))
    await visit.echo(visit.take(1, 10 * KiB))
    await visit.leave()
  },
}

function pickKind(random: Random): Kind {
  let left = random.below(WEIGHT_SUM)
  for (const kind of KINDS) {
    left -= WEIGHTS[kind]
    if (left < 0) return kind
  }
  throw new Error('a draw is below the sum of the weights')
}
