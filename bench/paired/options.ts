/** Arguments of a paired benchmark's command. */
import { parseArgs } from 'node:util'
import { list, positive } from '../flags.js'
import { NOISE_TRIES, type RoundPlan } from '../rounds.js'
import type { PairedBenchmark, PairedRow } from './benchmark.js'

/** What it is to do. */
export interface PairedOptions<Peer extends string = string> {
  readonly quick: boolean
  /** Past this many seconds no further round or row is begun. */
  readonly timeLimitSecs: number
  readonly rows: readonly PairedRow<Peer>[]
  readonly peers: readonly Peer[]
  readonly plan: RoundPlan
  /** Whether system calls are counted, and how long a count takes. */
  readonly countsCalls: boolean
  readonly syscallSecs: number
}

/** Leaves time for what has begun to end within four minutes. */
const QUICK_TIME_LIMIT_SECS = 220
/** What `--rows` takes beside rows, where system calls can be counted: of all rows that are chosen, or of all. */
const SYSCALLS = 'syscalls'

/** Parsed arguments; null when only help was asked for, which is printed. Throws by name when they are wrong. */
export function readPairedOptions<Peer extends string>(
  benchmark: PairedBenchmark<Peer>,
  args: readonly string[],
): PairedOptions<Peer> | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      rows: { type: 'string' },
      peers: { type: 'string' },
      rounds: { type: 'string' },
      'max-rounds': { type: 'string' },
      secs: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(helpOf(benchmark))
    return null
  }
  const { quick } = values
  const names = list('--rows', values.rows, rowNames(benchmark))
  const chosen = benchmark.rows.filter(
    ({ id }) =>
      names.includes(id) || benchmark.groups.some((group) => names.includes(group) && id.startsWith(group)),
  )
  const wanted = positive('--rounds', values.rounds, quick ? 3 : 15)
  const max = positive('--max-rounds', values['max-rounds'], quick ? wanted : Math.ceil(wanted * 1.6))
  if (!Number.isInteger(wanted) || !Number.isInteger(max) || max < wanted) {
    throw new Error(
      '--rounds and --max-rounds are whole numbers, and the second is no smaller than the first',
    )
  }
  const countsCalls = benchmark.countCalls !== null && names.includes(SYSCALLS)
  return {
    quick,
    timeLimitSecs: quick ? QUICK_TIME_LIMIT_SECS : Number.POSITIVE_INFINITY,
    rows: chosen,
    peers: list('--peers', values.peers, peerNames(benchmark)),
    plan: {
      wanted,
      max,
      tries: quick ? 1 : NOISE_TRIES,
      windowSecs: positive('--secs', values.secs, quick ? 0.5 : 1),
      warmupSecs: quick ? 0.1 : 0.3,
      firstWarmupSecs: quick ? 0.3 : 1.5,
    },
    countsCalls,
    syscallSecs: quick ? 0.3 : 2,
  }
}

function peerNames<Peer extends string>({ peers }: PairedBenchmark<Peer>): readonly Peer[] {
  return Object.keys(peers) as Peer[]
}

function rowNames<Peer extends string>({
  rows,
  groups,
  countCalls,
}: PairedBenchmark<Peer>): readonly string[] {
  const names = [...rows.map(({ id }) => id), ...groups]
  return countCalls === null ? names : [...names, SYSCALLS]
}

/** The text of `--help`. */
export function helpOf<Peer extends string>(benchmark: PairedBenchmark<Peer>): string {
  const { name, title, rows, groups, countCalls, duration } = benchmark
  const stand =
    groups.length === 0 ? '' : `;\n                   ${groups.join(', ')} stand for all that begin so`
  const calls =
    countCalls === null ? '' : `;\n                   ${SYSCALLS}: system calls per request, by strace`
  return `npm run bench -- ${name} [OPTIONS]   ${title}

  --quick          under four minutes: fewer and shorter rounds, good to see whether something broke
  --rows LIST      ${rows.map(({ id }) => id).join(',')}${stand}${calls}
  --peers LIST     ${peerNames(benchmark).join(',')}
  --rounds N       rounds that must count, for each comparison (15; quick 3)
  --max-rounds N   rounds at most (1.6 times as many; quick no more)
  --secs S         length of a measured window (1; quick 0.5)

Exit code 1: a bar that must be reached fails; 2: something could not be measured. Without options it takes ${duration}.
`
}
