/** What is measured. Each part returns figures, some with a bar. */
import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { ROOT } from '../load.js'
import { measuredCpus, onCpu } from '../machine.js'
import { NOISE_TRIES, STEAL_MAX } from '../rounds.js'
import { type RunningServer, startServer, within } from '../servers.js'
import {
  geometricMean,
  median,
  quantile,
  ratioInterval,
  SEED,
  seededRandom,
  shuffled,
} from '../statistics.js'
import {
  type Answer,
  ask,
  askAndClose,
  epochMs,
  pause,
  stream,
  type TracedConnection,
  traceLoad,
} from './clients.js'
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
  readonly deathRounds: number
  /** Length of one round. */
  readonly deathSecs: number
  readonly crashes: number
}

const EVENT_TIMEOUT_MS = 20_000
/** After this the thread that was told to block itself does. */
const SETTLE_MS = 50
const SHARE_CONNECTIONS = 1000
const STREAM_PER_SEC = 400
/** Until connections count: the server's code is cold. */
const WARM_MS = 1500
/** Until the first death. */
const CALM_MS = 6000
const DEATH_EVERY_MS = 300
/** So long after its word a replacement's code is still cold. */
const FRESH_MS = 50
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

  /** All its threads on `cpu`, or with null on any. */
  static async start(kind: Kind, shards: number, cpu: number | null): Promise<Broken> {
    const program = join(ROOT, 'dist', 'bench', 'supervision', 'server.js')
    return new Broken(await startServer(cpu, [process.execPath, program, kind, String(shards)]))
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
  cpu: number | null,
  use: (server: Broken) => Promise<Found>,
): Promise<Found> {
  const server = await Broken.start(kind, shards, cpu)
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
      const answers = await withServer(kind, 2, null, async ({ port }) => {
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
        const answers = await withServer(kind, 2, null, async ({ port }) => {
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

/** Connections of the load generator to a server of which one shard or worker dies again and again. */
interface DeathRound {
  readonly deaths: readonly Death[]
  readonly connections: readonly TracedConnection[]
  /** Opened before the first death. */
  readonly before: readonly number[]
  /** Opened between an order to die and the replacement's word. */
  readonly during: readonly number[]
  /** Opened in the {@link FRESH_MS} after it. */
  readonly after: readonly number[]
  /** The hypervisor took more than {@link STEAL_MAX} of a CPU: it does not count. */
  readonly noisy: boolean
}

interface Death {
  readonly fromMs: number
  readonly toMs: number
}

/**
 * New connections while one of two dies again and again. The server has one CPU and the clients the other: it is the
 * server's threads that compete for a processor here.
 */
export async function measureDeath(
  plan: SupervisionPlan,
  progress: (text: string) => void,
): Promise<{ figures: Figure[]; timelines: Timeline[] }> {
  const [serverCpu, clientCpu] = measuredCpus()
  const rounds = new Map<Kind, DeathRound[]>(KINDS.map((kind) => [kind, []]))
  const random = seededRandom(SEED)
  await onCpu(clientCpu, async () => {
    for (let round = 1; round <= plan.deathRounds; round++) {
      for (const kind of shuffled(KINDS, random)) {
        for (let attempt = 1; attempt <= NOISE_TRIES; attempt++) {
          const again =
            attempt > 1 ? `, again (${attempt} of ${NOISE_TRIES}): the hypervisor took processor time` : ''
          progress(`death: ${TITLES[kind]}, ${round} of ${plan.deathRounds}${again}`)
          const found = await deathRound(kind, { serverCpu, clientCpu }, plan.deathSecs)
          rounds.get(kind)?.push(found)
          if (!found.noisy) break
        }
      }
    }
  })
  const all = [...rounds]
  return {
    figures: all.flatMap(([kind, ofKind]) => deathFigures(kind, ofKind)),
    timelines: all.flatMap(([kind, ofKind]) =>
      ofKind
        .filter(({ noisy }) => !noisy)
        .slice(-1)
        .map((last) => timeline(kind, last)),
    ),
  }
}

function deathRound(
  kind: Kind,
  { serverCpu, clientCpu }: { serverCpu: number; clientCpu: number },
  secs: number,
): Promise<DeathRound> {
  return withServer(kind, 2, serverCpu, async (server) => {
    const orders: number[] = []
    let over = false
    const load = traceLoad(clientCpu, server.port, STREAM_PER_SEC, secs).finally(() => {
      over = true
    })
    const dying = (async () => {
      await pause(CALM_MS)
      while (!over) {
        orders.push(epochMs())
        void askAndClose(server.port, 'die throw 0')
        await server.replaced(orders.length)
        await pause(DEATH_EVERY_MS)
      }
    })()
    const [{ connections, steal }] = await Promise.all([load, dying]).catch(async (error: unknown) => {
      await load.catch(() => {}) // it must not run on beside what is measured next
      throw error
    })
    const ready = server.events.filter(({ what }) => what === 'ready').map(({ atMs }) => atMs)
    const deaths = orders.map((fromMs, index) => ({ fromMs, toMs: ready[index] ?? fromMs }))
    const served = (which: (openedAtMs: number) => boolean): number[] =>
      connections.flatMap(({ openedAtMs, echoedInMs }) =>
        echoedInMs !== null && which(openedAtMs) ? [echoedInMs] : [],
      )
    const warm = (connections[0]?.openedAtMs ?? 0) + WARM_MS
    return {
      deaths,
      connections,
      noisy: steal > STEAL_MAX,
      before: served((at) => at >= warm && at < (deaths[0]?.fromMs ?? 0)),
      during: served((at) => deaths.some(({ fromMs, toMs }) => at >= fromMs && at <= toMs)),
      after: served((at) => deaths.some(({ toMs }) => at > toMs && at <= toMs + FRESH_MS)),
    }
  })
}

function timeline(kind: Kind, { connections, deaths }: DeathRound): Timeline {
  const start = connections[0]?.openedAtMs ?? 0
  return {
    server: TITLES[kind],
    points: connections.map(({ openedAtMs, echoedInMs }) => ({
      atSecs: (openedAtMs - start) / 1000,
      ms: echoedInMs,
    })),
    deaths: deaths.map(({ fromMs, toMs }) => ({
      fromSecs: (fromMs - start) / 1000,
      toSecs: (toMs - start) / 1000,
    })),
  }
}

function deathFigures(kind: Kind, all: readonly DeathRound[]): Figure[] {
  const rounds = all.filter(({ noisy }) => !noisy)
  if (rounds.length === 0) throw new Error(`${TITLES[kind]}: the hypervisor took too much in every round`)
  const before = rounds.flatMap((round) => round.before)
  const during = rounds.flatMap((round) => round.during)
  const failed = rounds.flatMap(({ connections }) =>
    connections.filter(({ echoedInMs }) => echoedInMs === null),
  )
  const p99 = (values: readonly number[]): number => quantile(values, 0.99)
  const ratios = rounds.map((round) => p99(round.during) / p99(round.before))
  // As everywhere: a drift of the machine from round to round must not pass for a difference.
  const interval = ratioInterval(ratios)
  const mean = geometricMean(ratios)
  const figure = (what: string, value: number, unit: '' | 'ms', bar: number | null = null): Figure => ({
    part: 'death',
    server: TITLES[kind],
    what,
    value,
    unit,
    bar: ours(kind) ? bar : null,
  })
  return [
    figure('rounds', rounds.length, ''),
    figure('rounds left out for noise', all.length - rounds.length, ''),
    figure('deaths', rounds.flatMap(({ deaths }) => deaths).length, ''),
    figure('connections before a death', before.length, ''),
    figure('connections during a death', during.length, ''),
    figure('first byte before, p50', median(before), 'ms'),
    figure('first byte during a death, p50', median(during), 'ms'),
    figure('first byte before, p99', p99(before), 'ms'),
    figure('first byte during a death, p99', p99(during), 'ms'),
    figure(
      `first byte in the ${FRESH_MS} ms after it, p99`,
      p99(rounds.flatMap((round) => round.after)),
      'ms',
    ),
    figure(`ratio of the p99 during and before, mean of ${rounds.length} rounds`, mean, '', 3),
    ...(interval === null
      ? []
      : [
          figure('the same, 95 % interval from', interval.low, ''),
          figure('the same, 95 % interval to', interval.high, ''),
        ]),
    figure('the same, lowest round', Math.min(...ratios), ''),
    figure('the same, highest round', Math.max(...ratios), ''),
    figure('the same, all rounds together', p99(during) / p99(before), ''),
    figure('failed (they lived on the one that died)', failed.length, ''),
  ]
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
      const lost = await withServer(kind, shards, null, async (server) => {
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
