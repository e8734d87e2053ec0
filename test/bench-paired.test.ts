import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { DATAGRAMS } from '../bench/datagrams/benchmark.js'
import type { LoadResult } from '../bench/load.js'
import type { Environment } from '../bench/machine.js'
import {
  type Measurable,
  type PairedBar,
  type PairedBenchmark,
  type PairedRow,
  pairedWith,
  planOf,
} from '../bench/paired/benchmark.js'
import { helpOf, readPairedOptions } from '../bench/paired/options.js'
import { pairedReport } from '../bench/paired/report.js'
import { evaluatePaired, type PairedResults, pairedFiguresOf, pairedRatio } from '../bench/paired/results.js'
import {
  measurePairedRow,
  type PairedRowResult,
  type PairedSample,
  pairedSample,
  peersStillNeeded,
} from '../bench/paired/rounds.js'
import { pairedTables } from '../bench/paired/tables.js'
import { GENERATION_ROUNDS, type RoundPlan } from '../bench/rounds.js'
import { seededRandom } from '../bench/statistics.js'
import { THREADS } from '../bench/threads/benchmark.js'

const test = suite('bench paired')

const threads = THREADS as unknown as PairedBenchmark
const rowOf = (id: string): PairedRow => threads.rows.find((row) => row.id === id) as PairedRow
const PLAN: RoundPlan = { wanted: 3, max: 5, tries: 2, windowSecs: 1, warmupSecs: 0.1, firstWarmupSecs: 0.2 }

function sampled(
  round: number,
  peer: string,
  perSec: number,
  others: Partial<PairedSample> = {},
): PairedSample {
  return {
    ...{ round, peer, perSec, perCpuSec: perSec, p50: 1e6 / perSec, p99: 2e6 / perSec },
    ...{ busy: 1, clientBusy: 0.5, otherCpu: 0, steal: 0, lost: null, leftOut: null },
    ...others,
  }
}

/** Rounds in which ours does `ratio` times what the peer does. */
function rounds(id: string, ours: string, theirs: string, ratios: readonly number[]): PairedRowResult {
  const samples = ratios.flatMap((ratio, round) => [
    sampled(round, ours, 1000 * (round + 1) * ratio),
    sampled(round, theirs, 1000 * (round + 1)),
  ])
  return { row: rowOf(id), rounds: ratios.length, samples }
}

function resultsOf(rows: readonly PairedRowResult[]): PairedResults {
  const environment = {
    ...{ commit: 'c0ffee', modified: false, date: '2026-01-01T00:00:00.000Z', cpu: 'a <CPU>', cpus: 2 },
    ...{ memoryGiB: 4, kernel: 'Linux', virtual: true, node: 'v20', rust: 'rustc', bun: null, python: null },
    ...{ serverCpu: 0, clientCpu: 1 },
  } satisfies Environment
  const peers = [...new Set(rows.flatMap(({ samples }) => samples.map(({ peer }) => peer)))]
  const syscalls = [
    { row: 'broadcast-16', peer: 'mio', requests: 10, perRequest: 1.25, byName: { sendto: 1 } },
  ]
  return {
    environment,
    quick: false,
    plan: PLAN,
    peers,
    rows,
    syscalls,
    absent: ['C: none'],
    durationSecs: 1,
  }
}

/** What a measurement says that used this much of a CPU besides. */
function loaded(requests: number, otherSecs: number): LoadResult {
  const latency = { count: 1, mean: 1, p50: 10, p90: 11, p99: 12, p999: 13, p9999: 14, max: 15 }
  return {
    ...{ ok: true, secs: 2, requests, requestsTotal: requests, requestsPerSec: requests / 2 },
    ...{ latencyUs: latency, failures: { first: null } },
    cpu: { serverSecs: 0.5, clientSecs: 1, machineBusySecs: 1.5 + otherSecs, machineStealSecs: 0 },
  }
}

test('all rows and peers are measured, unless some are chosen', () => {
  const all = readPairedOptions(THREADS, [])
  assert.deepEqual(all?.rows, THREADS.rows)
  assert.deepEqual(all?.peers, Object.keys(THREADS.peers))
  assert.deepEqual([all?.plan.wanted, all?.plan.max, all?.plan.windowSecs], [15, 24, 1])
  const ids = (...args: string[]): string[] | undefined =>
    readPairedOptions(THREADS, args)?.rows.map((row) => row.id)
  assert.deepEqual(ids('--rows', 'calls,broadcast-16'), ['calls-bytes', 'calls-paused', 'broadcast-16'])
  assert.equal(ids('--rows', 'messages')?.length, 6)
  const chosen = readPairedOptions(THREADS, [
    '--quick',
    '--peers',
    'node-net,mio',
    '--rounds',
    '2',
    '--secs',
    '0.2',
  ])
  assert.deepEqual(chosen?.peers, ['mio', 'node-net'])
  assert.deepEqual([chosen?.plan.wanted, chosen?.plan.max, chosen?.plan.windowSecs], [2, 2, 0.2])
})

test('names and numbers that cannot be are refused by the option', () => {
  const refused =
    (...args: string[]) =>
    () =>
      readPairedOptions(DATAGRAMS, args)
  assert.throws(refused('--rows', 'echo'), /--rows: echo is not one of 64x64-w1, /)
  assert.throws(refused('--peers', 'bun'), /--peers: bun is not one of mio, tokio, node-dgram, c/)
  assert.throws(refused('--rounds', '0'), /--rounds: 0 is not a number above 0/)
  assert.throws(refused('--rounds', '9', '--max-rounds', '8'), /no smaller than the first/)
  assert.throws(refused('--conns', '8'), /--conns/)
  assert.throws(() => readPairedOptions(THREADS, ['--rows', 'syscalls']), /--rows: syscalls is not one of/)
})

test('system calls are counted by default, and alone when only they are asked for', () => {
  assert.equal(readPairedOptions(DATAGRAMS, [])?.countsCalls, true)
  const alone = readPairedOptions(DATAGRAMS, ['--rows', 'syscalls'])
  assert.deepEqual([alone?.countsCalls, alone?.rows], [true, []])
  assert.equal(readPairedOptions(DATAGRAMS, ['--rows', '64x64-w1'])?.countsCalls, false)
  assert.equal(readPairedOptions(THREADS, [])?.countsCalls, false)
})

test('the help names every row, group and peer', () => {
  for (const benchmark of [threads, DATAGRAMS as unknown as PairedBenchmark]) {
    const help = helpOf(benchmark)
    for (const name of [
      ...benchmark.rows.map(({ id }) => id),
      ...benchmark.groups,
      ...Object.keys(benchmark.peers),
    ])
      assert.ok(help.includes(name), name)
  }
})

test('ours are compared with the baselines, and of two baselines the one with the other once', () => {
  const pairs = pairedWith(DATAGRAMS.rows[0]!, ['mio', 'node-dgram', 'c'])
  assert.deepEqual(
    pairs.map(({ peer, against }) => `${peer}/${against}`),
    ['mio/node-dgram', 'mio/c', 'node-dgram/c'],
  )
  assert.deepEqual(pairedWith(DATAGRAMS.rows[0]!, ['mio', 'tokio']), [])
})

test('every bar is about a row, and about peers that take part in it', () => {
  for (const { rows, bars } of [threads, DATAGRAMS as unknown as PairedBenchmark]) {
    for (const bar of bars) {
      const row = rows.find(({ id }) => id === bar.row) as PairedRow
      assert.ok(row?.figures.includes(bar.figure), bar.row)
      assert.ok(
        pairedWith(row, row.peers).some(({ peer, against }) => peer === bar.peer && against === bar.against),
        `${bar.row}: ${bar.peer} / ${bar.against}`,
      )
    }
  }
})

test('what must be reached', () => {
  const must = ({ bars }: PairedBenchmark): string[] =>
    bars
      .filter(({ kind }) => kind === 'must')
      .map(({ row, peer, against, figure, direction, value }) =>
        [row, peer, figure, direction, value, against].join(' '),
      )
  assert.deepEqual(must(threads), [
    'messages-bytes shardloop per-second at-least 4 message-port',
    'messages-object shardloop per-second at-least 1 message-port',
    'messages-nested shardloop per-second at-least 1 message-port',
    'messages-mapdate shardloop per-second at-least 1 message-port',
    'messages-string shardloop per-second at-least 1 message-port',
    'messages-number shardloop per-second at-least 1 message-port',
    'calls-bytes shardloop p50 at-most 1 message-port',
    'broadcast-1 mio per-cpu-second at-least 0.85 c',
    'broadcast-1 mio per-cpu-second at-least 1.1 node-net',
    'broadcast-16 mio per-cpu-second at-least 5 node-net',
  ])
  assert.deepEqual(must(DATAGRAMS as unknown as PairedBenchmark), [
    '64x64-w1 mio per-cpu-second at-least 2 node-dgram',
    '64x64-w8 mio per-cpu-second at-least 2 node-dgram',
  ])
})

test('a bar passes, fails or stays undecided by its interval', () => {
  const verdict = (id: string, ...ratios: number[]): string | undefined => {
    const { row } = rounds(id, 'a', 'b', [])
    const [ours, theirs] = row.id.startsWith('broadcast')
      ? ['mio', 'node-net']
      : ['shardloop', 'message-port']
    const found = evaluatePaired(threads.bars, resultsOf([rounds(id, ours, theirs, ratios)]))
    return found.find(({ bar }) => bar.kind === 'must')?.verdict
  }
  assert.equal(verdict('messages-bytes', 4.1, 4.2, 4.3), 'pass')
  assert.equal(verdict('messages-bytes', 3.9, 4.2, 4.3), 'undecided')
  assert.equal(verdict('messages-bytes', 3.7, 3.8, 3.9), 'fail')
  assert.equal(verdict('messages-bytes', 5, 5), 'undecided')
  assert.equal(verdict('broadcast-16', 4.9, 4.9, 4.8), 'fail')
  // Twice as fast is half the latency.
  assert.equal(verdict('calls-bytes', 2, 2.1, 2.2), 'pass')
  assert.equal(verdict('calls-bytes', 0.5, 0.6, 0.7), 'fail')
  assert.deepEqual(evaluatePaired(threads.bars, resultsOf([])), [])
})

test('only rounds in which both count make a ratio, and what is left out is told', () => {
  const result = rounds('broadcast-16', 'mio', 'node-net', [2, 2, 2, 8])
  const noisy = result.samples.map((sample) =>
    sample.round === 3 && sample.peer === 'mio' ? { ...sample, leftOut: 'noise' as const } : sample,
  )
  const ratio = pairedRatio({ ...result, samples: noisy }, { peer: 'mio', against: 'node-net' }, 'per-second')
  assert.ok(Math.abs((ratio?.middle ?? 0) - 2) < 1e-9 && ratio?.count === 3)
  const figures = pairedFiguresOf({ ...result, samples: noisy }, 'mio')
  assert.deepEqual([figures?.rounds, figures?.leftOut, figures?.perSec, figures?.lost], [3, 1, 4000, null])
  assert.equal(pairedFiguresOf(result, 'tokio'), null)
})

test('a measurement is left out when others used the machine, and tells what share was lost', () => {
  const clean = pairedSample(1, 'mio', { ...loaded(1000, 0), sent: 1000, lost: 10 })
  assert.deepEqual(
    [clean.perSec, clean.perCpuSec, clean.busy, clean.clientBusy, clean.p50, clean.lost, clean.leftOut],
    [500, 2000, 0.25, 0.5, 10, 0.01, null],
  )
  assert.equal(pairedSample(1, 'mio', loaded(1000, 0.2)).leftOut, 'noise')
})

test('a peer is measured until its comparisons have their rounds', () => {
  const row = rowOf('broadcast-16')
  const peers = ['mio', 'tokio', 'node-net']
  const { samples } = rounds('broadcast-16', 'mio', 'node-net', [2, 2])
  assert.deepEqual(peersStillNeeded(row, samples, peers, 2), ['tokio', 'node-net'])
  assert.deepEqual(peersStillNeeded(row, samples, peers, 3), peers)
  assert.deepEqual(peersStillNeeded(row, samples, ['mio', 'node-net'], 2), [])
  // Nobody to compare with: a figure all the same.
  assert.deepEqual(peersStillNeeded(row, samples, ['mio', 'tokio'], 2), ['tokio'])
})

/** Programs that do nothing; `answer` is what each measurement says. */
function imagined(answer: (peer: string, measurement: number) => LoadResult): {
  readonly start: (peer: string) => Promise<Measurable>
  readonly log: string[]
} {
  const log: string[] = []
  const count = new Map<string, number>()
  return {
    log,
    start: async (peer) => {
      log.push(`start ${peer}`)
      return {
        measure: async () => {
          const measurement = (count.get(peer) ?? 0) + 1
          count.set(peer, measurement)
          return answer(peer, measurement)
        },
        stop: async () => void log.push(`stop ${peer}`),
        kill: () => void log.push(`kill ${peer}`),
      }
    },
  }
}

const measured = (start: (peer: string) => Promise<Measurable>, plan: RoundPlan): Promise<PairedRowResult> =>
  measurePairedRow(
    rowOf('broadcast-16'),
    ['mio', 'node-net'],
    start,
    plan,
    seededRandom(1),
    () => {},
    () => false,
  )

test('a measurement that noise spoils is made again, and programs are started anew every few rounds', async () => {
  // The first of each is its warm-up; of mio the first round's is noisy.
  const { start, log } = imagined((peer, number) => loaded(1000, peer === 'mio' && number === 2 ? 1 : 0))
  const wanted = GENERATION_ROUNDS + 1
  const { samples, rounds: made } = await measured(start, { ...PLAN, wanted, max: 20 })
  assert.equal(made, wanted)
  assert.equal(samples.length, 2 * wanted + 1)
  assert.equal(samples.filter(({ leftOut }) => leftOut === 'noise').length, 1)
  const generation = ['start mio', 'start node-net', 'stop mio', 'stop node-net']
  assert.deepEqual(log, [...generation, ...generation])
})

test('a row ends at its most rounds, and a program that fails takes the others with it', async () => {
  const noisy = imagined(() => loaded(1000, 1))
  assert.equal((await measured(noisy.start, PLAN)).rounds, PLAN.max)
  const failing = imagined((peer, number) => {
    if (peer === 'node-net' && number === 2) throw new Error('it broke')
    return loaded(1000, 0)
  })
  await assert.rejects(measured(failing.start, PLAN), /it broke/)
  assert.deepEqual(failing.log.slice(2).sort(), ['kill mio', 'kill node-net'])
})

test('tables and page tell figures, ratios, verdicts and what is missing', () => {
  const results = resultsOf([
    rounds('broadcast-16', 'mio', 'node-net', [6, 6.1, 6.2]),
    rounds('messages-bytes', 'shardloop', 'message-port', [3, 3.1, 3.2]),
  ])
  const text = pairedTables(threads, results)
  for (const part of [
    /shardloop mio \/ node:net +6\.10 \[6\.00, 6\.20\]/,
    /must +broadcast-16 +shardloop mio: deliveries per server-CPU-second +≥ 5 × node:net +6\.10 \[6\.00, 6\.20\] +pass/,
    /must +messages-bytes +shardloop: messages per second +≥ 4 × MessagePort +3\.10 \[3\.00, 3\.20\] +FAIL/,
    /broadcast-16 +shardloop mio +1\.250 +sendto 1\.000/,
    /not measured: C: none/,
  ])
    assert.match(text, part)
  const page = pairedReport(threads, results)
  assert.ok(page.includes('a &lt;CPU&gt;') && !page.includes('a <CPU>'))
  assert.match(page, /<svg[^>]*aria-label="Deliveries or messages per server-CPU-second, as a ratio"/)
  assert.match(page, /<b class="pass">1<\/b>of 2 bars pass/)
  assert.ok(!/NaN|undefined/.test(page + text))
})

test('what a server tells of itself is compared, and has columns of its own', () => {
  const row = rowOf('broadcast-16')
  const idle = { ...row, figures: ['bytes'], peers: ['mio', 'node-net'], baselines: ['node-net'] } as const
  const load = { ...loaded(0, 9), cpu: null }
  const samples = [0, 1, 2].flatMap((round) => [
    pairedSample(round, 'mio', { ...load, inside: { bytes: 1000 } }),
    pairedSample(round, 'node-net', { ...load, inside: { bytes: 4000 } }),
  ])
  // Others that use the processor do not matter where it is not measured.
  assert.ok(samples.every(({ leftOut }) => leftOut === null))
  const result = { row: idle, rounds: 3, samples }
  assert.equal(
    pairedRatio(result, { peer: 'mio', against: 'node-net' }, 'bytes')?.middle.toFixed(4),
    '0.2500',
  )
  const pair = { row: row.id, peer: 'mio', against: 'node-net' }
  const bars: PairedBar[] = [{ ...pair, kind: 'must', figure: 'bytes', direction: 'at-most', value: 1 / 3 }]
  const results = resultsOf([result])
  assert.equal(evaluatePaired(bars, results)[0]?.verdict, 'pass')
  const benchmark = { ...threads, bars }
  const text = pairedTables(benchmark, results)
  assert.match(text, /per connection +p50/)
  assert.match(text, /shardloop mio +1,000 B/)
  assert.match(text, /resident bytes per connection +≤ 0\.333 × node:net +0\.25 /)
  const page = pairedReport(benchmark, results)
  assert.match(page, /aria-label="Resident bytes per connection, as a ratio"/)
  assert.ok(!/NaN|undefined/.test(page + text))
})

test('a row may be content with fewer rounds than the plan has', () => {
  const row = rowOf('broadcast-16')
  assert.equal(planOf(row, PLAN), PLAN)
  assert.equal(planOf({ ...row, rounds: 4 }, PLAN), PLAN)
  const { wanted, max } = planOf({ ...row, rounds: 2 }, PLAN)
  assert.deepEqual([wanted, max], [2, 4])
})

test('where each measurement starts a process of its own, nothing is warmed', async () => {
  const { start, log } = imagined(() => loaded(1000, 0))
  let measurements = 0
  const counted = async (peer: string): Promise<Measurable> => {
    const one = await start(peer)
    const measure: Measurable['measure'] = (...secs) => {
      measurements += 1
      return one.measure(...secs)
    }
    return { ...one, measure }
  }
  const row = { ...rowOf('broadcast-16'), fresh: true }
  const random = seededRandom(1)
  const result = await measurePairedRow(
    row,
    ['mio', 'node-net'],
    counted,
    PLAN,
    random,
    () => {},
    () => false,
  )
  assert.equal(measurements, result.samples.length)
  assert.ok(log.includes('stop mio'))
})

test.run()
