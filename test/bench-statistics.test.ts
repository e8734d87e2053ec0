import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { pairsOf } from '../bench/comparisons.js'
import type { PeerId } from '../bench/peers.js'
import { verdictOf } from '../bench/results.js'
import { cleanPairs, type LeftOut, type Sample } from '../bench/rounds.js'
import { BARS, type Bar } from '../bench/rows.js'
import {
  geometricMean,
  median,
  quantile,
  ratioInterval,
  seededRandom,
  shuffled,
} from '../bench/statistics.js'
import { parseTable } from '../bench/syscalls.js'

const test = suite('bench statistics')

test('the same seed gives the same numbers and the same interval', () => {
  const [one, other] = [seededRandom(7), seededRandom(7)]
  assert.deepEqual([one(), one(), one()], [other(), other(), other()])
  assert.deepEqual(ratioInterval([1.1, 1.2, 1.3, 1.4]), ratioInterval([1.1, 1.2, 1.3, 1.4]))
})

test('random numbers fill 0 to 1 evenly', () => {
  const random = seededRandom(1)
  const counts = new Array<number>(10).fill(0)
  for (let draw = 0; draw < 100_000; draw++) counts[Math.floor(random() * 10)]! += 1
  for (const count of counts) assert.ok(Math.abs(count - 10_000) < 500, `${counts}`)
})

test('shuffling keeps every item', () => {
  assert.deepEqual(shuffled([1, 2, 3, 4, 5], seededRandom(3)).sort(), [1, 2, 3, 4, 5])
})

test('quantiles interpolate', () => {
  assert.equal(median([3, 1, 2]), 2)
  assert.equal(quantile([0, 10], 0.25), 2.5)
  assert.ok(Number.isNaN(median([])))
})

test('a ratio and its inverse have inverse means', () => {
  assert.ok(Math.abs(geometricMean([2, 8]) - 4) < 1e-9)
  assert.ok(Math.abs(geometricMean([1 / 2, 1 / 8]) - 1 / 4) < 1e-9)
})

test('the interval holds the mean, narrows with agreement, and needs three values', () => {
  const wide = ratioInterval([1, 1.5, 2, 2.5])
  const narrow = ratioInterval([1.7, 1.71, 1.69, 1.7])
  assert.ok(wide !== null && narrow !== null)
  assert.ok(wide.low < wide.middle && wide.middle < wide.high)
  assert.ok(narrow.high - narrow.low < 0.02)
  assert.equal(ratioInterval([1, 2]), null)
})

test('a bar fails only when the whole interval misses it', () => {
  const atLeast = { ...(BARS[0] as Bar), direction: 'at-least', value: 1.5 } as const
  const verdict = (low: number, high: number) =>
    verdictOf(atLeast, { low, middle: (low + high) / 2, high, count: 15 })
  assert.equal(verdict(1.5, 1.6), 'pass')
  assert.equal(verdict(1.4, 1.6), 'undecided')
  assert.equal(verdict(1.3, 1.49), 'fail')
  const atMost = { ...atLeast, direction: 'at-most', value: 1 } as const
  assert.equal(verdictOf(atMost, { low: 0.8, middle: 0.9, high: 1, count: 15 }), 'pass')
  assert.equal(verdictOf(atMost, { low: 1.01, middle: 1.1, high: 1.2, count: 15 }), 'fail')
})

test('a round counts for a pair only when both of it count', () => {
  const sample = (round: number, peer: PeerId, leftOut: LeftOut | null): Sample =>
    ({ round, peer, leftOut }) as unknown as Sample
  const samples = [
    sample(0, 'mio-chunk', null),
    sample(0, 'node-net', 'noise'),
    sample(1, 'mio-chunk', null),
    sample(1, 'node-net', null),
    sample(2, 'mio-chunk', 'not-busy'),
    sample(2, 'node-net', null),
    // Made again, for the first was noisy.
    sample(3, 'node-net', 'noise'),
    sample(3, 'node-net', null),
    sample(3, 'mio-chunk', 'noise'),
    sample(3, 'mio-chunk', 'noise'),
    sample(3, 'mio-chunk', null),
  ]
  const pairs = cleanPairs(samples, { peer: 'mio-chunk', against: 'node-net' })
  assert.deepEqual(
    pairs.map(([ours, theirs]) => [ours.round, ours.peer, theirs.peer]),
    [
      [1, 'mio-chunk', 'node-net'],
      [3, 'mio-chunk', 'node-net'],
    ],
  )
})

test('ours are compared with everyone, peers with node:net and raw mio', () => {
  const peers: PeerId[] = ['mio-chunk', 'tokio-borrowed', 'node-net', 'raw-mio', 'raw-tokio', 'bun']
  const pairs = pairsOf({ work: 'echo' }, peers).map(({ peer, against }) => `${peer}/${against}`)
  assert.deepEqual(pairs.sort(), [
    'bun/node-net',
    'bun/raw-mio',
    'mio-chunk/bun',
    'mio-chunk/node-net',
    'mio-chunk/raw-mio',
    'mio-chunk/raw-tokio',
    'node-net/raw-mio',
    'raw-mio/node-net',
    'raw-tokio/node-net',
    'raw-tokio/raw-mio',
    'tokio-borrowed/bun',
    'tokio-borrowed/node-net',
    'tokio-borrowed/raw-mio',
    'tokio-borrowed/raw-tokio',
  ])
})

test("strace's table is read with and without errors", () => {
  const text = [
    '% time     seconds  usecs/call     calls    errors syscall',
    '------ ----------- ----------- --------- --------- ----------------',
    ' 74.00    0.100000           5     20000           sendto',
    ' 26.00    0.030000           1     20100       100 recvfrom',
    '------ ----------- ----------- --------- --------- ----------------',
    '100.00    0.130000           3     40100       100 total',
  ].join('\n')
  assert.deepEqual(parseTable(text), { sendto: 20_000, recvfrom: 20_100 })
})

test.run()
