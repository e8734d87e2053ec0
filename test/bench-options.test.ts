import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { checkEngines } from '../bench/engines.js'
import { insideCommand } from '../bench/inside.js'
import { readOptions } from '../bench/options.js'
import { PEER_IDS, PEERS } from '../bench/peers.js'
import { serverCommand } from '../bench/programs.js'
import { BARS } from '../bench/rows.js'
import { startServer } from '../bench/servers.js'

const test = suite('bench options')

/** A program that says it is ready on `engine`, and ends on SIGTERM. */
function readyOn(engine: string): string[] {
  const line = `listening on tcp://127.0.0.1:1 (shards 1, engine ${engine})`
  return [process.execPath, '-e', `console.log('${line}'); setInterval(() => {}, 1000)`]
}

test('all servers on both engines are measured, unless some are chosen', () => {
  assert.deepEqual(readOptions([])?.peers, PEER_IDS)
  assert.deepEqual(readOptions([])?.engines, ['mio', 'tokio'])
  const mio = readOptions(['--engines', 'mio'])
  const others = ['node-net', 'raw-mio', 'raw-tokio', 'bun', 'rloop', 'rloop-proto', 'uvloop', 'uvloop-proto']
  assert.deepEqual(mio?.peers, ['mio-chunk', 'mio-borrowed', ...others])
  assert.deepEqual(mio?.engines, ['mio'])
})

test('a mode stands for the server in that mode on every engine that is chosen', () => {
  assert.deepEqual(readOptions(['--peers', 'chunk,node-net'])?.peers, [
    'mio-chunk',
    'tokio-chunk',
    'node-net',
  ])
  assert.deepEqual(readOptions(['--peers', 'chunk', '--engines', 'tokio'])?.peers, ['tokio-chunk'])
  assert.deepEqual(readOptions(['--peers', 'mio-borrowed,bun'])?.engines, ['mio'])
  assert.deepEqual(readOptions(['--peers', 'node-net'])?.engines, [])
})

test('names that are unknown or contradict each other are refused', () => {
  assert.throws(() => readOptions(['--engines', 'uring']), /--engines: uring is not one of mio, tokio/)
  assert.throws(() => readOptions(['--peers', 'mio']), /--peers: mio is not one of/)
  assert.throws(
    () => readOptions(['--engines', 'mio', '--peers', 'tokio-chunk,node-net']),
    /--peers: tokio-chunk contradicts --engines mio/,
  )
})

test('our programs are told the engine and the mode', () => {
  for (const [peer, { ours }] of Object.entries(PEERS)) {
    if (ours === null) continue
    for (const command of [serverCommand(peer as 'mio-chunk'), insideCommand(peer as 'mio-chunk')]) {
      assert.deepEqual(command?.slice(-4), ['--engine', ours.engine, '--mode', ours.mode])
    }
  }
})

test('tokio has to reach node:net on each echo row over TCP, and has no other bar beside mio', () => {
  const bars = BARS.filter(
    ({ kind, peer, against }) => kind === 'must' && peer.startsWith('tokio-') && against === 'node-net',
  )
  assert.deepEqual(
    bars.map(({ row, peer, metric, kind, direction, value }) => [row, peer, metric, kind, direction, value]),
    ['64x64', '64x64-p16', '64x16k', '1000x64'].flatMap((row) =>
      ['tokio-chunk', 'tokio-borrowed'].map((peer) => [
        row,
        peer,
        'requests-per-cpu-second',
        'must',
        'at-least',
        1,
      ]),
    ),
  )
})

test('an engine that the server refuses ends the run with its reason, before anything is measured', async () => {
  const refusing = `console.error('echo: engine: not here'); process.exit(2)`
  await assert.rejects(
    checkEngines(
      ['mio', 'tokio'],
      () => {},
      (engine) => (engine === 'mio' ? readyOn('mio') : [process.execPath, '-e', refusing]),
    ),
    ({ message }: Error) =>
      /does not run on engine tokio/.test(message) &&
      /ended with exit code 2\necho: engine: not here/.test(message) &&
      /--engines mio measures without it/.test(message),
  )
  await checkEngines(['mio', 'tokio'], () => {}, readyOn)
})

test('a server that runs on another engine than it was told is not measured', async () => {
  await assert.rejects(
    startServer(null, [...readyOn('mio'), '--', '--engine', 'tokio']),
    /runs on engine mio and was told tokio/,
  )
  const server = await startServer(null, [...readyOn('tokio'), '--', '--engine', 'tokio'])
  await server.stop()
})

test('a kind of rows stands for all of them, and names nobody beside them', () => {
  const ids = (rows: string): string[] | undefined => readOptions(['--rows', rows])?.rows.map((row) => row.id)
  assert.deepEqual(ids('raw'), ['raw-1k', 'raw-10k', 'raw-100k'])
  assert.deepEqual(ids('unix'), ['unix-64x64', 'unix-64x16k'])
  assert.deepEqual(ids('connect'), ['connect'])
  assert.deepEqual(ids('raw-1k,unix-64x64'), ['unix-64x64', 'raw-1k'])
  assert.throws(() => readOptions(['--rows', 'echo']), /--rows: echo is not one of/)
  const handles = readOptions(['--rows', 'handles'])
  assert.deepEqual([handles?.rows, handles?.parts], [[], ['handles']])
})

test('a quick run leaves out what it has no time for, unless that is chosen', () => {
  const ids = (...args: string[]): string[] | undefined => readOptions(args)?.rows.map((row) => row.id)
  const burn = ['burn-64', 'burn-16k']
  const tcp = ['64x64', '64x64-p16', '64x16k', '1000x64', 'churn']
  assert.deepEqual(ids('--quick'), [...tcp, 'unix-64x64', 'connect', ...burn])
  assert.deepEqual(ids('--quick', '--rows', 'raw-1k,unix'), ['unix-64x64', 'unix-64x16k', 'raw-1k'])
})

test.run()
