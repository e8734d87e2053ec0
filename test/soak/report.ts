/** What a soak found: its verdicts, and the files that it leaves. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { mebibytes } from '../../bench/format.js'
import { type Machine, resultName } from '../../bench/machine.js'
import { type Curve, type Moment, timelineImage } from '../../bench/timeline.js'
import { MiB } from '../harness/memory.js'
import { level, sameCount, type Verdict, warmUpSecs } from './drift.js'
import type { ThreadMemory } from './holding.js'
import type { SoakOptions } from './options.js'
import { type Problem, RESIDENTS, type Sample, type SoakRecord } from './soak.js'
import { KINDS } from './visits.js'

/** How much more the server may hold at the end than when it was warm. */
const BOUNDS = {
  /** Code is compiled late, and compiled again. */
  heapBytes: 4 * MiB,
  /** Slabs and pools that the last load before a quiet moment happened to need. */
  bufferBytes: 8 * MiB,
  /** The arenas of malloc keep what was freed, and each grows to what its busiest moment needed. */
  residentBytes: 48 * MiB,
} as const

/** A rate is over a second or so: quiet moments come between the samples of every second. */
const RATE_SECS_MIN = 0.9

/** Every check of a record, in order. */
export function judge(record: SoakRecord, options: SoakOptions): readonly Verdict[] {
  const problems = (['content', 'connections', 'hangs', 'server'] as const).map((check) =>
    ofProblems(check, record.problems),
  )
  const last = record.samples.at(-1)
  const [death, exception] = [last?.causes.find(ofDeath), last?.causes.find((cause) => !ofDeath(cause))]
  const told = [
    { check: 'shards', passed: death === undefined, text: death ?? 'none died' },
    { check: 'exceptions', passed: exception === undefined, text: exception ?? 'no callback threw' },
  ]
  const found = [...problems, ...told]
  // What comes to a sudden end has not settled, and says nothing of what is kept.
  if (found.some(({ passed }) => !passed)) return found
  return [...found, duration(record, options), visits(record), ...drift(record)]
}

function ofDeath(cause: string): boolean {
  return cause.startsWith('a shard died')
}

function ofProblems(check: Problem['check'], problems: readonly Problem[]): Verdict {
  const texts = problems.filter((problem) => problem.check === check).map(({ text }) => text)
  return { check, passed: texts.length === 0, text: texts.join('\n') || 'no problem' }
}

function duration({ secs, interrupted }: SoakRecord, { minutes }: SoakOptions): Verdict {
  const text = `${Math.round(secs)} s of ${Math.round(minutes * 60)} s`
  return {
    check: 'duration',
    passed: !interrupted && secs >= minutes * 60,
    text: interrupted ? `interrupted after ${text}` : text,
  }
}

/** A run in which some kind never came to its end would show nothing about it. */
function visits({ visits: done }: SoakRecord): Verdict {
  const missing = KINDS.filter((kind) => (done[kind] ?? 0) === 0)
  const text = KINDS.map((kind) => `${done[kind] ?? 0} ${kind}`).join(', ')
  return { check: 'visits', passed: missing.length === 0, text }
}

function drift({ samples, secs }: SoakRecord): readonly Verdict[] {
  const quiet = samples.filter(({ isQuiet }) => isQuiet)
  const warm = quiet.filter(({ atSecs }) => atSecs >= warmUpSecs(secs))
  const open = quiet.find(({ connections }) => connections !== RESIDENTS)
  const left =
    open === undefined
      ? `${RESIDENTS} that last in each of ${quiet.length} quiet moments`
      : `${open.connections} after ${Math.round(open.atSecs)} s with nobody there; bound: the ${RESIDENTS} that last`
  return [
    { check: 'open connections', passed: open === undefined, text: left },
    sameCount('descriptors', moments(warm, descriptors)),
    sameCount('threads', moments(warm, threads)),
    level('JavaScript heap', moments(warm, heapBytes), BOUNDS.heapBytes, mebibytes),
    level('array buffers', moments(warm, bufferBytes), BOUNDS.bufferBytes, mebibytes),
    level('resident memory', moments(warm, residentBytes), BOUNDS.residentBytes, mebibytes),
  ]
}

/** Writes the plot and the samples, and returns their paths. */
export function save(
  machine: Machine,
  options: SoakOptions,
  record: SoakRecord,
  verdicts: readonly Verdict[],
): readonly string[] {
  mkdirSync(options.output, { recursive: true })
  const base = join(options.output, `${resultName(machine)}-soak-${record.engine}`)
  const { node, kernel, cpu, cpus, commit } = machine
  const failed = verdicts.filter(({ passed }) => !passed)
  const facts = [
    `${Math.round(record.secs)} s, ${options.shards} shards, seed ${options.seed}${options.fault === null ? '' : `, fault ${options.fault}`}; Node.js ${node}, ${kernel}, ${cpus} × ${cpu}, commit ${commit.slice(0, 7)}`,
    failed.length === 0 ? 'passed' : `failed: ${failed.map(({ check }) => check).join(', ')}`,
    'dots: quiet moments, which are compared from the dashed line on',
  ]
  const title = `Soak on ${record.engine}`
  writeFileSync(`${base}.svg`, timelineImage(title, facts, curves(record), warmUpSecs(record.secs)))
  writeFileSync(`${base}.json`, `${JSON.stringify({ machine, options, verdicts, ...record }, null, 1)}\n`)
  return [`${base}.svg`, `${base}.json`]
}

function curves({ samples }: SoakRecord): readonly Curve[] {
  const quiet = samples.filter(({ isQuiet }) => isQuiet)
  const held = (title: string, read: (of: Sample) => number, format: (value: number) => string): Curve => ({
    title,
    points: moments(samples, read),
    marks: moments(quiet, read),
    format,
  })
  const count = (value: number): string => String(Math.round(value))
  return [
    held('resident memory', residentBytes, mebibytes),
    held('JavaScript heap in use, all threads', heapBytes, mebibytes),
    held('array buffers, all threads', bufferBytes, mebibytes),
    held('open descriptors', descriptors, count),
    held('threads', threads, count),
    held('open connections', ({ connections }) => connections, count),
    { title: 'echoed a second', points: rates(samples, (one) => one.echoedBytes), format: mebibytes },
    { title: 'visits a second', points: rates(samples, (one) => one.visits), format: count },
  ]
}

function moments(samples: readonly Sample[], read: (of: Sample) => number): readonly Moment[] {
  return samples.map((sample) => ({ atSecs: sample.atSecs, value: read(sample) }))
}

/** What a sum grew by, by the second, over stretches of about a second. */
function rates(samples: readonly Sample[], read: (of: Sample) => number): readonly Moment[] {
  const points: Moment[] = []
  let from: Sample | undefined
  for (const sample of samples) {
    const secs = sample.atSecs - (from?.atSecs ?? 0)
    if (secs < RATE_SECS_MIN) continue
    points.push({ atSecs: sample.atSecs, value: (read(sample) - (from ? read(from) : 0)) / secs })
    from = sample
  }
  return points
}

function descriptors(of: Sample): number {
  return of.descriptors
}

function threads(of: Sample): number {
  return of.threads
}

function residentBytes(of: Sample): number {
  return of.residentBytes
}

function heapBytes(of: Sample): number {
  return sumOf(of, ({ heapBytes: bytes }) => bytes)
}

function bufferBytes(of: Sample): number {
  return sumOf(of, ({ bufferBytes: bytes }) => bytes)
}

function sumOf({ supervisor, shards }: Sample, read: (of: ThreadMemory) => number): number {
  return [supervisor, ...shards].reduce((sum, memory) => sum + read(memory), 0)
}
