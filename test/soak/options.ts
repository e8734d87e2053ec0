/** Arguments of `npm run soak`. */
import { parseArgs } from 'node:util'
import { between, oneOf, whole } from '../../bench/flags.js'
import { RESULTS } from '../../bench/load.js'
import { AVAILABLE } from '../harness/engines.js'
import { Random } from '../harness/random.js'
import { FAULTS, type Fault } from './faults.js'
import type { ServerPlan } from './plan.js'

const MINUTES_MIN = 0.1
/** A week. */
const MINUTES_MAX = 7 * 24 * 60
const SHARDS_MAX = 64
const VISITORS_MAX = 1_000
const SEED_MAX = 0xffff_ffff
const FAULT_NAMES = Object.keys(FAULTS) as readonly Fault[]
const ENGINE_NAMES = ['auto', ...AVAILABLE] as const

/** What the soak is to do. */
export interface SoakOptions extends ServerPlan {
  readonly minutes: number
  /** Clients that come and go at the same time. */
  readonly visitors: number
  /** Directory of the plot and the samples. */
  readonly output: string
}

const HELP = `npm run soak [-- OPTIONS]

Loads a server in every way at once, compares every byte, and fails when one is wrong, when a connection breaks or hangs
that should not, or when the server holds more at the end than it did when it was warm.

  --engine E      ${ENGINE_NAMES.join(', ')} (auto)
  --minutes M     length of the run, from ${MINUTES_MIN} to ${MINUTES_MAX} (10)
  --shards N      from 1 to ${SHARDS_MAX} (2)
  --visitors N    clients that come and go at once, from 1 to ${VISITORS_MAX} (40)
  --seed N        what is sent how, from 0 to ${SEED_MAX} (random; printed)
  --output DIR    where the plot and the samples go (bench/results)
  --fault NAME    plants a fault, to see the soak fail by it: ${FAULT_NAMES.slice(0, 5).join(', ')},
                  ${FAULT_NAMES.slice(5).join(', ')}
`

/** Parsed arguments; null when only help was asked for, which is printed. Throws by name when they are wrong. */
export function readOptions(args: readonly string[]): SoakOptions | null {
  const { values } = parseArgs({
    args: [...args],
    options: {
      engine: { type: 'string', default: 'auto' },
      minutes: { type: 'string', default: '10' },
      shards: { type: 'string', default: '2' },
      visitors: { type: 'string', default: '40' },
      seed: { type: 'string' },
      output: { type: 'string', default: RESULTS },
      fault: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return null
  }
  return {
    engine: oneOf('--engine', values.engine, ENGINE_NAMES),
    minutes: between('--minutes', values.minutes, MINUTES_MIN, MINUTES_MAX),
    shards: whole('--shards', values.shards, 1, SHARDS_MAX),
    visitors: whole('--visitors', values.visitors, 1, VISITORS_MAX),
    seed: values.seed === undefined ? Random.fresh().seed : whole('--seed', values.seed, 0, SEED_MAX),
    output: values.output,
    fault: values.fault === undefined ? null : oneOf('--fault', values.fault, FAULT_NAMES),
  }
}
