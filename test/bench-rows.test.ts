import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { connect } from 'node:net'
import { dirname } from 'node:path'
import { suite } from 'uvu'
import { comparisonsOf, pairsOf, takesPart } from '../bench/comparisons.js'
import { type ConnectReport, connectAsFastAsPossible } from '../bench/connect/load.js'
import { measureConnects, startTarget, targetFlags } from '../bench/connect/measure.js'
import { isOurs, isPython, PEER_IDS, type PeerId } from '../bench/peers.js'
import { rowCommand, serverCommand } from '../bench/programs.js'
import { BARS, ROWS, type Row } from '../bench/rows.js'
import { ProgramFailure, startServer } from '../bench/servers.js'
import { socketPath } from '../bench/sockets.js'
import { skipIn } from './harness/skip.js'

const test = suite('bench rows')
const skip = skipIn('bench rows', test)
const row = (id: string): Row => ROWS.find((one) => one.id === id) as Row

/** A program that prints a line and waits for SIGTERM. */
function saying(line: string): string[] {
  return [process.execPath, '-e', `console.log(${JSON.stringify(line)}); setInterval(() => {}, 1000)`]
}

/** A program that says on stderr why it ends, with this exit code. */
function endingWith(code: number, reason: string): string[] {
  return [process.execPath, '-e', `console.error(${JSON.stringify(reason)}); process.exit(${code})`]
}

/** What comes back of `bytes` from HOST:PORT. */
async function echoed(addr: string, bytes: Buffer): Promise<Buffer> {
  const [host, port] = addr.split(':')
  const socket = connect(Number(port), host)
  socket.write(bytes)
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of socket as AsyncIterable<Buffer>) {
    chunks.push(chunk)
    length += chunk.length
    if (length >= bytes.length) break
  }
  return Buffer.concat(chunks)
}

test("Python's loops take part with one connection only, and clients have no mode", () => {
  const part = (id: string): PeerId[] => PEER_IDS.filter((peer) => takesPart(row(id), peer))
  for (const id of ['64x64', 'churn', 'unix-64x64'])
    assert.deepEqual(
      part(id),
      PEER_IDS.filter((peer) => !isPython(peer)),
    )
  assert.deepEqual(part('raw-1k'), PEER_IDS)
  assert.deepEqual(part('connect'), ['mio-chunk', 'tokio-chunk', 'node-net'])
})

test('who takes no part in a row is not compared there', () => {
  for (const one of ROWS)
    for (const pair of pairsOf(one, PEER_IDS))
      for (const peer of [pair.peer, pair.against]) assert.ok(takesPart(one, peer), `${one.id}: ${peer}`)
  assert.deepEqual(
    pairsOf(row('raw-1k'), ['mio-chunk', 'node-net', 'rloop', 'uvloop-proto']).map(
      ({ peer, against }) => `${peer}/${against}`,
    ),
    [
      'mio-chunk/node-net',
      'rloop/node-net',
      'uvloop-proto/node-net',
      'mio-chunk/rloop',
      'mio-chunk/uvloop-proto',
    ],
  )
  assert.deepEqual(
    comparisonsOf(row('raw-1k')).map(({ title }) => title),
    ['node:net', 'RLoop', 'uvloop'],
  )
})

test('the bars of the new rows', () => {
  const values = (id: string, kind: 'must' | 'aim'): string[] =>
    BARS.filter((bar) => bar.row === id && bar.kind === kind).map(
      ({ peer, metric, against, value }) => `${peer} ${metric} ${value} ${against}`,
    )
  assert.deepEqual(values('unix-64x16k', 'must'), [
    'mio-chunk requests-per-cpu-second 1.4 node-net',
    'mio-borrowed requests-per-cpu-second 1.4 node-net',
  ])
  assert.deepEqual(values('connect', 'must'), ['mio-chunk connections-per-cpu-second 1.5 node-net'])
  const raw = ['mio-chunk', 'mio-borrowed'].flatMap((peer) =>
    ['node-net', 'rloop', 'uvloop'].flatMap((against) =>
      ['requests-per-second', 'requests-per-cpu-second'].map((metric) => `${peer} ${metric} 1 ${against}`),
    ),
  )
  for (const id of ['raw-1k', 'raw-10k', 'raw-100k']) assert.deepEqual(values(id, 'must'), raw)
})

test('no two Unix sockets have the same path, and all are in one directory', () => {
  const paths = [rowCommand(row('unix-64x64'), 'node-net'), rowCommand(row('unix-64x64'), 'raw-mio')].map(
    (command) => command?.[command.indexOf('--path') + 1] ?? '',
  )
  assert.notEqual(paths[0], paths[1])
  assert.equal(dirname(paths[0] as string), dirname(socketPath('any')))
  assert.ok(existsSync(dirname(paths[0] as string)))
})

test('servers on Unix sockets and clients are ready by lines of their own', async () => {
  const server = await startServer(null, saying('listening on unix:/tmp/x.sock (shards 1, engine mio)'))
  assert.equal(server.addr, 'unix:/tmp/x.sock')
  await server.stop()
  const client = await startServer(null, saying('connecting to tcp://127.0.0.1:7 (shards 0, engine mio)'))
  assert.equal(client.addr, '127.0.0.1:7')
  await client.stop()
})

test('node:net echoes over a Unix socket', async () => {
  const server = await startServer(null, rowCommand(row('unix-64x64'), 'node-net') ?? [])
  assert.match(server.addr, /^unix:.*node-net\.sock$/)
  await server.stop()
})

test('a program that ends before it is ready tells its exit code', async () => {
  const failure = await startServer(null, endingWith(3, 'why')).catch((error: unknown) => error)
  assert.ok(failure instanceof ProgramFailure)
  assert.equal(failure.exitCode, 3)
})

test('our programs of the new rows start', async () => {
  for (const id of ['unix-64x64', 'connect']) {
    for (const peer of PEER_IDS.filter((one) => isOurs(one) && takesPart(row(id), one))) {
      const server = await startServer(null, rowCommand(row(id), peer) ?? [])
      await server.stop()
    }
  }
})

const python = PEER_IDS.filter((peer) => isPython(peer))
if (serverCommand('rloop') === null) {
  skip("Python's loops echo, by socket calls and by a Protocol", 'they are not installed in bench/peers')
} else {
  test("Python's loops echo, by socket calls and by a Protocol", async () => {
    for (const peer of python) {
      const server = await startServer(null, rowCommand(row('raw-1k'), peer) ?? [])
      const sent = Buffer.alloc(300_000, 'shardloop')
      assert.deepEqual(await echoed(server.addr, sent), sent, peer)
      await server.stop()
    }
  })
}

if (process.platform === 'linux') {
  test('so many connections are under way as were asked for, and the next one follows the end of one', async () => {
    let [underWay, most, opened] = [0, 0, 0]
    const hosts = new Set<string>()
    const connector = {
      engine: 'none',
      open(host: string, _port: number, established: () => void, ended: (error: null) => void): void {
        hosts.add(host)
        opened += 1
        underWay += 1
        most = Math.max(most, underWay)
        setImmediate(() => {
          established()
          setImmediate(() => {
            underWay -= 1
            ended(null)
          })
        })
      },
    }
    const target = { hosts: ['127.0.0.1', '127.0.0.2'], port: 1, pid: 'self' }
    const report = await connectAsFastAsPossible(connector, target, 5, 0.01, 0.05)
    assert.deepEqual([most, underWay, [...hosts]], [5, 0, target.hosts])
    assert.equal(report.connectionsTotal, opened)
    assert.ok(
      report.connections > 5 && report.connections < opened && report.failure === null,
      JSON.stringify(report),
    )
    assert.ok(
      report.secs > 0.04 && report.latencyUs.count > 0 && report.latencyUs.p50 > 0,
      JSON.stringify(report),
    )
  })

  test('a connection that fails is told, and none is opened after it', async () => {
    let opened = 0
    const connector = {
      engine: 'none',
      open(_host: string, _port: number, _established: () => void, ended: (error: Error) => void): void {
        opened += 1
        setImmediate(ended, new Error('refused'))
      },
    }
    const target = { hosts: ['127.0.0.1'], port: 1, pid: 'self' }
    const report: ConnectReport = await connectAsFastAsPossible(connector, target, 3, 0, 0.02)
    assert.deepEqual([report.failure, opened], ['refused', 3])
  })

  test('node:net is measured while it connects, again and again, and fails when nobody listens', async () => {
    const target = await startTarget(null)
    const client = await startServer(null, [
      ...(rowCommand(row('connect'), 'node-net') ?? []),
      ...targetFlags(target),
    ])
    for (let time = 0; time < 2; time++) {
      const { requests, cpu, latencyUs } = await measureConnects(client, 0.05, 0.3)
      assert.ok(
        requests > 16 && latencyUs.p50 > 0 && (cpu.serverSecs ?? 0) > 0,
        JSON.stringify({ requests, cpu }),
      )
    }
    await client.stop()
    await target.stop()
    // The port is nobody's now; the processor time is then its own.
    const late = await startServer(null, [
      ...(rowCommand(row('connect'), 'node-net') ?? []),
      '--addr',
      target.addr,
    ])
    await assert.rejects(measureConnects(late, 0, 0.05), /ECONNREFUSED/)
    await late.stop()
  })
} else {
  skip('clients that connect', 'processor times are read from /proc')
}

test.run()
