import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { BURN_US, MessageBurn, spin } from '../bench/burn/message-burn.js'
import { comparisonsOf, pairsOf } from '../bench/comparisons.js'
import { readOptions } from '../bench/options.js'
import { PEER_IDS, PEERS } from '../bench/peers.js'
import { rowCommand } from '../bench/programs.js'
import { evaluate, figuresOf, type Results, rateRatio } from '../bench/results.js'
import type { RowResult, Sample } from '../bench/rounds.js'
import { BARS, ROWS, type Row } from '../bench/rows.js'
import { forEachEngine } from './harness/suite.js'

const MESSAGES = 1000
const SIZE_BYTES = 64

const test = suite('bench burn')
const burnRow = ROWS.find((row) => row.id === 'burn-64') as Row
const echoRow = ROWS.find((row) => row.id === '64x64') as Row

/** Three rounds in which tokio answers `ratio` times as much as mio, and uses twice the processor time for a request. */
function burned(ratio: number): RowResult {
  const sample = (round: number, peer: Sample['peer'], requestsPerSec: number, cpuUs: number): Sample =>
    ({
      round,
      peer,
      requestsPerSec,
      requestsPerCpuSec: 1e6 / cpuUs,
      latencyUs: {},
      leftOut: null,
    }) as unknown as Sample
  const samples = [30_000, 31_000, 32_000].flatMap((perSec, round) => [
    sample(round, 'mio-chunk', perSec, 32),
    sample(round, 'tokio-chunk', perSec * ratio, 64),
  ])
  return { row: burnRow, rounds: 3, samples }
}

test('a message burns once, when its last byte has come, in however many pieces', () => {
  let burned = 0
  const work = new MessageBurn(100, () => {
    burned++
  })
  const after = (bytes: number): number => {
    work.received(bytes)
    return burned
  }
  assert.deepEqual([after(99), after(1), after(100), after(250), after(49), after(1)], [0, 1, 2, 4, 4, 5])
})

test('spinning takes as long as it was told, by the clock', () => {
  for (let turn = 0; turn < 100; turn++) {
    const started = performance.now()
    spin(BURN_US)
    assert.ok(performance.now() - started >= BURN_US / 1000)
  }
})

test('only ours burn, and are told the size of a message', () => {
  for (const peer of PEER_IDS) {
    const command = rowCommand({ ...burnRow, size: 4096 }, peer)
    assert.equal(command === null, PEERS[peer].ours === null)
    if (command !== null) assert.equal(command[command.indexOf('--size') + 1], '4096')
  }
})

test('tokio is compared with mio in the same mode', () => {
  assert.deepEqual(pairsOf(burnRow, PEER_IDS), [
    { peer: 'tokio-chunk', against: 'mio-chunk' },
    { peer: 'tokio-borrowed', against: 'mio-borrowed' },
  ])
  assert.deepEqual(pairsOf(burnRow, ['mio-chunk', 'tokio-borrowed', 'node-net']), [])
  const against = comparisonsOf(burnRow).map((column) => PEER_IDS.map(column.against))
  const others = PEER_IDS.slice(4).map(() => null)
  assert.deepEqual(against, [['mio-chunk', 'mio-borrowed', 'mio-chunk', 'mio-borrowed', ...others]])
})

test('burning is compared by requests per second, echoing by processor time', () => {
  const figures = figuresOf(burned(1.5), 'tokio-chunk')
  assert.equal(figures?.cpuUsPerRequest, 64)
  assert.ok(Math.abs((rateRatio(burned(1.5), pairsOf(burnRow, PEER_IDS)[0]!)?.middle ?? 0) - 1.5) < 1e-9)
  const echoed = { ...burned(1.5), row: echoRow }
  assert.ok(
    Math.abs((rateRatio(echoed, { peer: 'tokio-chunk', against: 'mio-chunk' })?.middle ?? 0) - 0.5) < 1e-9,
  )
})

test('tokio has to do 1.3 times what mio does, in both modes and with both sizes', () => {
  const bars = BARS.filter((bar) => bar.row.startsWith('burn-') && bar.metric === 'requests-per-second')
  assert.deepEqual(
    bars.map(({ row, peer, against, kind, value }) => [row, peer, against, kind, value]),
    ['burn-64', 'burn-16k'].flatMap((row) => [
      [row, 'tokio-chunk', 'mio-chunk', 'must', 1.3],
      [row, 'tokio-borrowed', 'mio-borrowed', 'must', 1.3],
    ]),
  )
  const verdict = (ratio: number) =>
    evaluate({
      plan: { wanted: 3 },
      peers: ['mio-chunk', 'tokio-chunk'],
      rows: [burned(ratio)],
      memory: [],
      syscalls: [],
      latency: [],
    } as unknown as Results).map(({ bar, verdict }) => [bar.row, bar.peer, verdict])
  assert.deepEqual(verdict(1.31), [['burn-64', 'tokio-chunk', 'pass']])
  assert.deepEqual(verdict(1.29), [['burn-64', 'tokio-chunk', 'fail']])
})

test('burn names both rows, and system calls are not counted there', () => {
  assert.deepEqual(
    readOptions(['--rows', 'burn'])?.rows.map((row) => row.id),
    ['burn-64', 'burn-16k'],
  )
  assert.deepEqual(
    readOptions(['--rows', 'burn-16k,64x64'])?.rows.map((row) => row.id),
    ['64x64', 'burn-16k'],
  )
  assert.deepEqual(readOptions([])?.syscallRows, ['64x64', '64x64-p16', '64x16k', '1000x64', 'churn'])
})

test.run()

forEachEngine('the server that burns', (test, engine) => {
  for (const mode of ['chunk', 'borrowed'] as const) {
    test(`${mode}: echoes every byte, and takes its time for each message though many come at once`, async (t) => {
      const [program, ...args] = rowCommand(burnRow, `${engine}-${mode}`) as [string, ...string[]]
      const server = t.spawn(args, { command: program })
      const port = Number((await server.line(/^listening on tcp:\/\/127\.0\.0\.1:(\d+)/))[1])
      const client = await t.connect(port)
      const sent = t.random.bytes(MESSAGES * SIZE_BYTES)
      const started = performance.now()
      await client.write(sent)
      assert.deepEqual(await client.readExactly(sent.length), sent)
      assert.ok(performance.now() - started >= (MESSAGES * BURN_US) / 1000)
      server.kill('SIGTERM')
      assert.deepEqual(await server.untilExit(), { code: 0, signal: null }, server.describe())
    })
  }
})
