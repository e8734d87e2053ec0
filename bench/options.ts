/** Arguments of `npm run bench`. */
import { parseArgs } from 'node:util'
import { list, positive } from './flags.js'
import type { LatencyPlan } from './inside-latency.js'
import {
  ENGINES,
  type Engine,
  enginesOf,
  MODES,
  type Mode,
  oursOn,
  PEER_IDS,
  PEERS,
  type PeerId,
} from './peers.js'
import { NOISE_TRIES, type RoundPlan } from './rounds.js'
import { PARTS, type Part, ROWS, type Row, type Work } from './rows.js'

/** What the benchmark is to do. */
export interface BenchOptions extends LatencyPlan {
  readonly quick: boolean
  /** Past this many seconds no further round or part is begun. */
  readonly timeLimitSecs: number
  readonly rows: readonly Row[]
  readonly parts: readonly Part[]
  /** Our engines among the peers. */
  readonly engines: readonly Engine[]
  readonly peers: readonly PeerId[]
  readonly plan: RoundPlan
  readonly memoryRepetitions: number
  readonly syscallRows: readonly string[]
  readonly syscallSecs: number
}

/** Leaves time for what has begun to end within four minutes. */
const QUICK_TIME_LIMIT_SECS = 220

/** Kinds of rows that `--rows` takes for all of them. */
const ROW_KINDS: readonly Work[] = ['unix', 'raw', 'burn']
/** What `--rows` takes. */
const ROW_NAMES: readonly string[] = [...ROWS.map((row) => row.id), ...ROW_KINDS, ...PARTS]

/** A quick run without `--rows` has no time for these: others of their kind, or as many servers, are in it. */
const QUICK_LEFT_OUT: readonly string[] = ['unix-64x16k', 'raw-1k', 'raw-10k', 'raw-100k']
const QUICK_NAMES: readonly string[] = [...ROWS.map((row) => row.id), ...PARTS].filter(
  (name) => !QUICK_LEFT_OUT.includes(name),
)

const HELP = `npm run bench [-- OPTIONS]
npm run bench -- supervision [--help]   breaks shards instead: stalls, deaths, queues
npm run bench -- threads [--help]       messages and calls between threads, and broadcasts
npm run bench -- datagrams [--help]     echo of datagrams
npm run bench -- http [--help]          HTTP applications
npm run bench -- streams [--help]       echo by streams and by Duplexes
npm run bench -- resp [--help]          a key-value server by Redis' protocol, beside node:net

  --quick          under four minutes: fewer and shorter rounds, good to see whether something broke; without --rows
                   not ${QUICK_LEFT_OUT.join(',')}
  --rows LIST      ${ROW_NAMES.join(',')};
                   ${ROW_KINDS.join(', ')} stand for all rows whose names begin so;
                   raw: one connection, as RLoop's own benchmark; connect: how fast clients connect
  --engines LIST   ${ENGINES.join(',')}
  --peers LIST     ${PEER_IDS.join(',')};
                   ${MODES.join(' and ')} are those of every engine
  --rounds N       rounds that must count, for each comparison (15; quick 3)
  --max-rounds N   rounds at most (1.6 times as many; quick no more)
  --secs S         length of a measured window (1; quick 0.5)

What is not installed is named and left out: Bun comes by "npm ci --prefix bench/peers", RLoop and uvloop (rows raw) by
"npm run --prefix bench/peers python".
Without options it takes about an hour and a half, with --engines mio an hour: it goes on until enough rounds count.
`

/** Parsed arguments; null when only help was asked for, which is printed. Throws by name when they are wrong. */
export function readOptions(args: readonly string[]): BenchOptions | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      rows: { type: 'string' },
      engines: { type: 'string' },
      peers: { type: 'string' },
      rounds: { type: 'string' },
      'max-rounds': { type: 'string' },
      secs: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return null
  }
  const { quick } = values
  const names = quick && values.rows === undefined ? QUICK_NAMES : list('--rows', values.rows, ROW_NAMES)
  const peers = chosenPeers(values.peers, list('--engines', values.engines, ENGINES))
  const wanted = positive('--rounds', values.rounds, quick ? 3 : 15)
  const max = positive('--max-rounds', values['max-rounds'], quick ? wanted : Math.ceil(wanted * 1.6))
  if (!Number.isInteger(wanted) || !Number.isInteger(max) || max < wanted) {
    throw new Error(
      '--rounds and --max-rounds are whole numbers, and the second is no smaller than the first',
    )
  }
  const tries = quick ? 1 : NOISE_TRIES
  return {
    quick,
    timeLimitSecs: quick ? QUICK_TIME_LIMIT_SECS : Number.POSITIVE_INFINITY,
    rows: ROWS.filter(
      ({ id, work }) => names.includes(id) || (ROW_KINDS.includes(work) && names.includes(work)),
    ),
    parts: PARTS.filter((part) => names.includes(part)),
    engines: enginesOf(peers),
    peers,
    plan: {
      wanted,
      max,
      tries,
      windowSecs: positive('--secs', values.secs, quick ? 0.5 : 1),
      warmupSecs: quick ? 0.1 : 0.3,
      firstWarmupSecs: quick ? 0.3 : 1.5,
    },
    memoryRepetitions: quick ? 1 : 5,
    latencyRounds: quick ? 1 : wanted,
    latencyRoundsMax: quick ? 1 : max,
    latencyTries: tries,
    latencySecs: quick ? 2 : 4,
    latencyWarmupSecs: quick ? 0.3 : 1,
    syscallRows: quick ? ['64x64', '64x16k'] : ROWS.filter((row) => row.work === 'echo').map((row) => row.id),
    syscallSecs: quick ? 0.3 : 2,
  }
}

/** Peers by their names, and by a mode's name on each of `engines`. Throws when a peer's engine is not one of these. */
function chosenPeers(given: string | undefined, engines: readonly Engine[]): readonly PeerId[] {
  const left = ENGINES.filter((engine) => !engines.includes(engine)).flatMap(oursOn)
  if (given === undefined) return PEER_IDS.filter((peer) => !(left as readonly PeerId[]).includes(peer))
  const names = list<PeerId | Mode>('--peers', given, [...PEER_IDS, ...MODES])
  const contradiction = left.find((peer) => names.includes(peer))
  if (contradiction !== undefined) {
    throw new Error(`--peers: ${contradiction} contradicts --engines ${engines.join(',')}`)
  }
  const byMode = engines.flatMap(oursOn).filter((peer) => names.includes(PEERS[peer].ours.mode))
  return PEER_IDS.filter((peer) => names.includes(peer) || (byMode as readonly PeerId[]).includes(peer))
}
