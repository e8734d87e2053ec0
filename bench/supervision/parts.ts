/** What is measured. Each part returns figures, some with a bar. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { ROOT } from '../load.js'
import { type RunningServer, startServer, within } from '../servers.js'
import { median, quantile } from '../statistics.js'
import { type Answer, ask, askAndClose, epochMs, pause, stream } from './clients.js'
import { WAYS } from './commands.js'
import type { Kind } from './server.js'

/** How the servers are called. */
export const TITLES: Readonly<Record<Kind, string>> = {
  reuseport: 'shardloop',
  shared: "shardloop, balance 'shared'",
  'cluster-rr': 'node:cluster, round-robin',
  'cluster-none': 'node:cluster, SCHED_NONE',
}

/** The servers, in the order of the tables. */
export const KINDS = Object.keys(TITLES) as Kind[]

/** The parts, in the order in which they run. */
export const PARTS = ['stall', 'share', 'replacement', 'death', 'queue'] as const

/** One of {@link PARTS}. */
export type Part = (typeof PARTS)[number]

/** One figure. */
export interface Figure {
  readonly part: Part
  readonly server: string
  readonly what: string
  readonly value: number
  readonly unit: '' | 'ms'
  /** What it must not exceed; null for what is only told. */
  readonly bar: number | null
}

/** What the death part saw of one server, for the plot. */
export interface Timeline {
  readonly server: string
  /** Seconds since the first connection, and milliseconds to the first byte; null: failed. */
  readonly points: readonly { readonly atSecs: number; readonly ms: number | null }[]
  /** Of the deaths: from the order to the replacement. */
  readonly deaths: readonly { readonly fromSecs: number; readonly toSecs: number }[]
}

/** How much of it. */
export interface SupervisionPlan {
  readonly stallMs: number
  readonly stallConnections: number
  readonly stallRounds: number
  readonly shareRounds: number
  readonly replacementRounds: number
  readonly deaths: number
  readonly crashes: number
}

const EVENT_TIMEOUT_MS = 20_000
/** After this the thread that was told to block itself does. */
const SETTLE_MS = 50
const SHARE_CONNECTIONS = 1000
const STREAM_PER_SEC = 400
const CALM_MS = 6000
const DEATH_EVERY_MS = 500
const QUEUED = 200
const QUEUE_BLOCK_MS = 200

function ours(kind: Kind): boolean {
  return kind === 'reuseport' || kind === 'shared'
}

/** A server under test, with what it tells. */
class Broken {
  readonly port: number
  readonly events: { readonly what: 'dead' | 'ready'; readonly atMs: number }[] = []
  readonly #server: RunningServer
  #changed: () => void = () => {}

  private constructor(server: RunningServer) {
    this.#server = server
    this.port = Number(server.addr.split(':')[1])
    void this.#listen()
  }

  static async start(kind: Kind, shards = 2): Promise<Broken> {
    const program = join(ROOT, 'dist', 'bench', 'supervision', 'server.js')
    return new Broken(await startServer(null, [process.execPath, program, kind, String(shards)]))
  }

  /** Resolves when it has told of `count` replacements. */
  async replaced(count: number): Promise<void> {
    const waiting = new Promise<void>((resolve) => {
      this.#changed = () => {
        if (this.events.filter(({ what }) => what === 'ready').length >= count) resolve()
      }
      this.#changed()
    })
    if (
      (await within(
        EVENT_TIMEOUT_MS,
        waiting.then(() => true),
      )) === null
    )
      throw new Error(`no replacement ${count} within ${EVENT_TIMEOUT_MS} ms`)
  }

  stop(): Promise<void> {
    return this.#server.stop()
  }

  async #listen(): Promise<void> {
    const { lines } = this.#server
    for (let line = await lines.next(); line.done !== true; line = await lines.next()) {
      this.events.push(JSON.parse(line.value))
      this.#changed()
    }
  }
}

async function withServer<Found>(
  kind: Kind,
  shards: number,
  use: (server: Broken) => Promise<Found>,
): Promise<Found> {
  const server = await Broken.start(kind, shards)
  try {
    return await use(server)
  } finally {
    await server.stop()
  }
}

function times(answers: readonly Answer[]): number[] {
  return answers.flatMap(({ firstByteMs }) => (firstByteMs === null ? [] : [firstByteMs]))
}

/** One of two is blocked; new connections come all the while. */
export async function measureStall(
  plan: SupervisionPlan,
  progress: (text: string) => void,
): Promise<Figure[]> {
  const found = new Map<Kind, Answer[]>(KINDS.map((kind) => [kind, []]))
  for (let round = 1; round <= plan.stallRounds; round++) {
    for (const kind of KINDS) {
      progress(`stall: ${TITLES[kind]}, ${round} of ${plan.stallRounds}`)
      const answers = await withServer(kind, 2, async ({ port }) => {
        for (let warm = 0; warm < 50; warm++) await askAndClose(port, 'who')
        const { socket } = await ask(port, `spin ${plan.stallMs}`)
        await pause(SETTLE_MS)
        const perSec = plan.stallConnections / ((plan.stallMs * 0.9) / 1000)
        const end = performance.now() + plan.stallMs * 0.9
        const all = await stream(port, perSec, () => performance.now() >= end)
        socket.destroy()
        return all
      })
      found.get(kind)?.push(...answers)
    }
  }
  return [...found].flatMap(([kind, answers]) => {
    const figure = (what: string, value: number, unit: '' | 'ms', bar: number | null): Figure => ({
      part: 'stall',
      server: TITLES[kind],
      what,
      value,
      unit,
      bar: ours(kind) ? bar : null,
    })
    const ms = times(answers)
    return [
      figure('connections', answers.length, '', null),
      figure('without an answer', answers.length - ms.length, '', 0),
      figure('first byte, p50', quantile(ms, 0.5), 'ms', null),
      figure('first byte, p99', quantile(ms, 0.99), 'ms', 30),
      figure('first byte, max', Math.max(...ms), 'ms', 100),
    ]
  })
}

/** How evenly connections are spread over two. */
export async function measureShare(
  plan: SupervisionPlan,
  progress: (text: string) => void,
): Promise<Figure[]> {
  const figures: Figure[] = []
  for (const kind of KINDS) {
    const larger = { 'one by one': [] as number[], 'in a burst': [] as number[] }
    for (let round = 1; round <= plan.shareRounds; round++) {
      progress(`share: ${TITLES[kind]}, ${round} of ${plan.shareRounds}`)
      for (const way of Object.keys(larger) as (keyof typeof larger)[]) {
        const answers = await withServer(kind, 2, async ({ port }) => {
          const all: Answer[] = []
          if (way === 'one by one') {
            for (let made = 0; made < SHARE_CONNECTIONS; made++) all.push(await ask(port, 'who'))
          } else {
            all.push(
              ...(await Promise.all(Array.from({ length: SHARE_CONNECTIONS }, () => ask(port, 'who')))),
            )
          }
          for (const { socket } of all) socket.destroy()
          return all
        })
        const first = answers.filter(({ id }) => id === answers[0]?.id).length
        larger[way].push(Math.max(first, answers.length - first))
      }
    }
    for (const [way, shares] of Object.entries(larger)) {
      const what = `larger share of ${SHARE_CONNECTIONS} ${way}, worst of ${shares.length}`
      const bar = kind === 'reuseport' ? 530 : null
      figures.push({ part: 'share', server: TITLES[kind], what, value: Math.max(...shares), unit: '', bar })
    }
  }
  return figures
}

/** How soon a shard is replaced. */
export async function measureReplacement(
  plan: SupervisionPlan,
  progress: (text: string) => void,
): Promise<Figure[]> {
  progress(`replacement: ${plan.replacementRounds} rounds`)
  const program = join(ROOT, 'dist', 'bench', 'supervision', 'replacement.js')
  const child = spawn(process.execPath, [program, String(plan.replacementRounds)], {
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  let text = ''
  child.stdout.setEncoding('utf8').on('data', (part: string) => {
    text += part
  })
  const code = await new Promise((resolve, reject) => child.once('error', reject).once('close', resolve))
  if (code !== 0) throw new Error(`replacement.js ended with ${code}`)
  const { shardMs, bareMs } = JSON.parse(text) as { shardMs: number[]; bareMs: number[] }
  const [shard, bare] = [median(shardMs), median(bareMs)]
  const figure = { part: 'replacement', server: TITLES.reuseport } as const
  return [
    { ...figure, what: 'death to ready, median', value: shard, unit: 'ms', bar: null },
    {
      ...figure,
      server: 'bare worker thread',
      what: 'to imported, median',
      value: bare,
      unit: 'ms',
      bar: null,
    },
    { ...figure, what: 'ratio to the bare worker thread', value: shard / bare, unit: '', bar: 2 },
  ]
}

/** New connections while one of two dies again and again. */
export async function measureDeath(
  plan: SupervisionPlan,
  progress: (text: string) => void,
): Promise<{ figures: Figure[]; timelines: Timeline[] }> {
  const figures: Figure[] = []
  const timelines: Timeline[] = []
  for (const kind of KINDS) {
    progress(`death: ${TITLES[kind]}`)
    const { answers, deaths } = await withServer(kind, 2, async (server) => {
      for (let warm = 0; warm < 200; warm++) await askAndClose(server.port, 'who')
      let over = false
      const streaming = stream(server.port, STREAM_PER_SEC, () => over)
      await pause(CALM_MS)
      const orders: number[] = []
      for (let death = 1; death <= plan.deaths; death++) {
        orders.push(epochMs())
        void askAndClose(server.port, 'die throw 0')
        await server.replaced(death)
        await pause(DEATH_EVERY_MS)
      }
      over = true
      const all = await streaming
      const ready = server.events.filter(({ what }) => what === 'ready').map(({ atMs }) => atMs)
      return { answers: all, deaths: orders.map((from, index) => ({ from, to: ready[index] ?? from })) }
    })
    const isDuring = ({ openedAtMs }: Answer): boolean =>
      deaths.some(({ from, to }) => openedAtMs >= from && openedAtMs <= to)
    const start = answers[0]?.openedAtMs ?? 0
    const calm = times(answers.filter(({ openedAtMs }) => openedAtMs < (deaths[0]?.from ?? 0)))
    const during = answers.filter(isDuring)
    const server = TITLES[kind]
    const [before, while_] = [quantile(calm, 0.99), quantile(times(during), 0.99)]
    const figure = { part: 'death', server } as const
    figures.push(
      { ...figure, what: 'first byte before, p99', value: before, unit: 'ms', bar: null },
      { ...figure, what: 'first byte during a death, p99', value: while_, unit: 'ms', bar: null },
      { ...figure, what: 'ratio', value: while_ / before, unit: '', bar: ours(kind) ? 3 : null },
      { ...figure, what: 'connections during a death', value: during.length, unit: '', bar: null },
      {
        ...figure,
        what: 'failed (they lived on the one that died)',
        value: answers.length - times(answers).length,
        unit: '',
        bar: null,
      },
    )
    timelines.push({
      server,
      points: answers.map(({ openedAtMs, firstByteMs }) => ({
        atSecs: (openedAtMs - start) / 1000,
        ms: firstByteMs,
      })),
      deaths: deaths.map(({ from, to }) => ({
        fromSecs: (from - start) / 1000,
        toSecs: (to - start) / 1000,
      })),
    })
  }
  return { figures, timelines }
}

/** Connections in the queue of one that dies. */
export async function measureQueue(
  plan: SupervisionPlan,
  progress: (text: string) => void,
): Promise<Figure[]> {
  const figures: Figure[] = []
  const runs = KINDS.flatMap((kind) => (ours(kind) ? [1, 2] : [2]).map((shards) => ({ kind, shards })))
  for (const { kind, shards } of runs) {
    for (const way of WAYS) {
      progress(`queue: ${TITLES[kind]}, ${way}, shards ${shards}`)
      const lost = await withServer(kind, shards, async (server) => {
        let failed = 0
        for (let crash = 1; crash <= plan.crashes; crash++) {
          void askAndClose(server.port, `die ${way} ${QUEUE_BLOCK_MS}`)
          await pause(SETTLE_MS)
          const answers = await Promise.all(
            Array.from({ length: QUEUED }, () => askAndClose(server.port, 'who')),
          )
          failed += answers.length - times(answers).length
          await server.replaced(crash)
        }
        return failed
      })
      const what = `lost of ${plan.crashes * QUEUED} queued (${way}, ${shards} shard${shards > 1 ? 's' : ''})`
      const server = TITLES[kind]
      figures.push({ part: 'queue', server, what, value: lost, unit: '', bar: ours(kind) ? 0 : null })
    }
  }
  return figures
}
