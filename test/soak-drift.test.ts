import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { mebibytes } from '../bench/format.js'
import type { Moment } from '../bench/timeline.js'
import { Random } from './harness/random.js'
import { level, MOMENTS_MIN, sameCount, slope, type Verdict, warmUpSecs } from './soak/drift.js'
import { FAULTS } from './soak/faults.js'
import { readOptions } from './soak/options.js'

const test = suite('drift of a soak')
const BOUND = 10
const COUNT = 40

/** A value every ten seconds. */
function moments(count: number, valueAt: (share: number, index: number) => number): Moment[] {
  return Array.from({ length: count }, (_, index) => ({
    atSecs: index * 10,
    value: valueAt(index / (count - 1), index),
  }))
}

function levelOf(valueAt: (share: number, index: number) => number, count = COUNT): Verdict {
  return level('amount', moments(count, valueAt), BOUND, (value) => value.toFixed(1))
}

test('an amount that stays where it is passes, and so does one that falls', () => {
  assert.equal(levelOf(() => 100).passed, true)
  assert.equal(levelOf((share) => 100 - 50 * share).passed, true)
})

test('a steady rise fails when all of it is more than the bound', () => {
  assert.equal(levelOf((share) => 100 + 0.9 * BOUND * share).passed, true)
  const { passed, text } = levelOf((share) => 100 + 2 * BOUND * share)
  assert.equal(passed, false)
  assert.match(text, /grew by 20\.0, 10\.0 too much; bound: 10\.0$/)
})

test('a step up that stays fails, wherever it is before the last sixth', () => {
  for (const at of [0.2, 0.4, 0.5, 0.6, 0.8]) {
    assert.equal(levelOf((share) => (share < at ? 100 : 100 + 1.5 * BOUND)).passed, false, `step at ${at}`)
    assert.equal(levelOf((share) => (share < at ? 100 : 100 + 0.5 * BOUND)).passed, true, `step at ${at}`)
  }
})

test('noise as large as the bound passes, with moments that are far out of line', () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed)
    const noisy = levelOf((_, index) => 100 + random.below(BOUND) + (index % 9 === 8 ? 50 * BOUND : 0))
    assert.ok(noisy.passed, `seed ${seed}: ${noisy.text}`)
  }
})

test('a rise shows through noise', () => {
  for (let seed = 0; seed < 200; seed++) {
    const random = new Random(seed)
    const rising = levelOf((share) => 100 + random.below(BOUND) + 3 * BOUND * share)
    assert.ok(!rising.passed, `seed ${seed}: ${rising.text}`)
  }
})

test('the slope is by the second, of many moments as of few', () => {
  assert.equal(slope(moments(MOMENTS_MIN, (_, index) => 30 * index)), 3)
  assert.ok(Math.abs(slope(moments(5_000, (_, index) => 30 * index)) - 3) < 1e-9)
  assert.equal(slope([]), 0)
})

test('a count must be the same in every moment, and the first that is not is named', () => {
  assert.equal(
    sameCount(
      'threads',
      moments(COUNT, () => 14),
    ).passed,
    true,
  )
  const { passed, text } = sameCount(
    'threads',
    moments(COUNT, (_, index) => (index < 12 ? 14 : 15)),
  )
  assert.equal(passed, false)
  assert.equal(text, '14 after 0 s, 15 after 120 s, 15 at the end; bound: no change (+1)')
  // What came and went was not all given back at that moment.
  const once = moments(COUNT, (_, index) => (index === 20 ? 15 : 14))
  assert.equal(sameCount('threads', once).passed, false)
  const fewer = moments(COUNT, (_, index) => (index < 12 ? 14 : 13))
  assert.match(sameCount('threads', fewer).text, /\(−1\)$/)
})

test('too few moments decide nothing, so they do not pass', () => {
  const few = MOMENTS_MIN - 1
  assert.equal(levelOf(() => 100, few).passed, false)
  assert.match(
    sameCount(
      'threads',
      moments(few, () => 14),
    ).text,
    /^5 quiet moments .* 6 are needed/,
  )
  assert.equal(sameCount('threads', []).passed, false)
})

test('a third of a run warms up, ten minutes at most', () => {
  assert.equal(warmUpSecs(60), 20)
  assert.equal(warmUpSecs(8 * 3600), 600)
})

test('bytes are told in MiB or GiB', () => {
  assert.equal(mebibytes(1.5 * 2 ** 20), '1.5 MiB')
  assert.equal(mebibytes(5 * 2 ** 30), '5.00 GiB')
})

test('without arguments two shards are soaked for ten minutes', () => {
  const { seed, output, ...rest } = readOptions([]) ?? assert.fail()
  assert.deepEqual(rest, { engine: 'auto', minutes: 10, shards: 2, visitors: 40, fault: null })
  assert.match(output, /bench\/results$/)
  assert.notEqual(seed, readOptions([])?.seed)
})

test('arguments are taken, and what is wrong is refused by name', () => {
  const given = '--engine tokio --minutes 0.5 --seed 7 --shards 3 --visitors 9 --fault hang'.split(' ')
  const { output: _, ...read } = readOptions(given) ?? assert.fail()
  assert.deepEqual(read, { engine: 'tokio', minutes: 0.5, seed: 7, shards: 3, visitors: 9, fault: 'hang' })
  const refused: readonly [args: string[], message: RegExp][] = [
    [['--engine', 'uring'], /^--engine: uring is not one of auto, mio, tokio$/],
    [['--minutes', '0'], /^--minutes: 0 is not a number from 0\.1 to 10080$/],
    [['--minutes', 'soon'], /^--minutes: soon is not a number/],
    [['--minutes', ''], /^--minutes: {2}is not a number/],
    [['--minutes', 'Infinity'], /^--minutes: Infinity is not a number/],
    [['--shards', '0'], /^--shards: 0 is not a whole number from 1 to 64$/],
    [['--shards', '1.5'], /^--shards: 1\.5 is not a whole number/],
    [['--seed', '-1'], /--seed/],
    [['--seed', '4294967296'], /^--seed: 4294967296 is not a whole number from 0 to 4294967295$/],
    [['--fault', 'none'], /^--fault: none is not one of leak-descriptor, /],
    [['--fast'], /--fast/],
    [['10'], /10/],
  ]
  for (const [args, message] of refused)
    assert.throws(
      () => readOptions(args),
      ({ message: text }: Error) => message.test(text) || assert.fail(text),
    )
  for (const fault of Object.keys(FAULTS)) assert.equal(readOptions(['--fault', fault])?.fault, fault)
})

test.run()
