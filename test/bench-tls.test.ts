import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { ask } from '../bench/inside.js'
import { runLoad } from '../bench/load.js'
import { residentSlope } from '../bench/memory.js'
import type { PairedRow } from '../bench/paired/benchmark.js'
import { startServer } from '../bench/servers.js'
import { checkHandshakes, TLS, tlsLoad } from '../bench/tls/benchmark.js'
import { laggingServerCommand, type TlsPeer, tlsServerCommand } from '../bench/tls/servers.js'
import { skipIn } from './harness/skip.js'

const test = suite('bench tls')
const skip = skipIn('bench tls', test)

/** Until the example echo takes --tls-cert and --tls-key. */
const isHere = (peer: TlsPeer): boolean => TLS.absent(peer) === null

const rowOf = (id: string): PairedRow<TlsPeer> => TLS.rows.find((row) => row.id === id) as PairedRow<TlsPeer>
const NOWHERE = { addr: 'tls://127.0.0.1:7', pid: 42 }
const SHORT = ['--warmup', '0.05', '--secs', '0.2']

test('the load is told what to do, and the server by its scheme', () => {
  const server = ['--addr', 'tls://127.0.0.1:7', '--server-pid', '42']
  const at = ['--conns', '64', '--size']
  assert.deepEqual(tlsLoad(rowOf('echo-16k'), NOWHERE), ['echo', ...at, '16384', ...server])
  assert.deepEqual(tlsLoad(rowOf('handshakes-full'), NOWHERE), ['churn', ...at, '64', ...server])
  const resumed = ['churn', ...at, '64', '--tls-resume', ...server]
  assert.deepEqual(tlsLoad(rowOf('handshakes-resumed'), NOWHERE), resumed)
})

test('every bar is about peers that take part in its row, by a figure of it', () => {
  for (const { row, peer, against, figure } of TLS.bars) {
    const { peers, baselines, figures } = rowOf(row)
    assert.ok(peers.includes(peer) && baselines.includes(against) && figures.includes(figure), row)
  }
})

test('a measurement whose handshakes were of the other kind is refused', () => {
  const of = (handshakes: number, resumed: number) => ({
    tls: { version: '1.3', cipherSuite: 'TLS_AES_128_GCM_SHA256', handshakes, resumed },
  })
  checkHandshakes(rowOf('handshakes-full'), of(100, 0))
  checkHandshakes(rowOf('handshakes-resumed'), of(100, 95))
  assert.throws(() => checkHandshakes(rowOf('handshakes-full'), of(100, 1)), /1 of 100 handshakes were/)
  assert.throws(() => checkHandshakes(rowOf('handshakes-resumed'), of(100, 94)), /94 of 100/)
  assert.throws(() => checkHandshakes(rowOf('echo-64'), {}), /has not spoken TLS/)
})

for (const row of TLS.rows.filter(({ fresh }) => fresh !== true)) {
  const name = `${row.id}: every peer does it`
  // Processor times of another process are read from /proc.
  if (process.platform !== 'linux') {
    skip(name, 'processor times are read from /proc')
    continue
  }
  test(name, async () => {
    for (const peer of row.peers.filter(isHere)) {
      const server = await startServer(null, tlsServerCommand(peer))
      try {
        const result = await runLoad(null, [...tlsLoad(row, server), ...SHORT])
        assert.ok(result.requestsTotal > 0, peer)
        checkHandshakes(row, result)
      } finally {
        await server.stop()
      }
    }
  })
}

if (process.platform === 'linux') {
  test('servers that Node runs tell how late a timer was, and end as they do without', async () => {
    for (const peer of rowOf('lag').peers.filter(isHere)) {
      const server = await startServer(null, laggingServerCommand(peer))
      try {
        await ask(server, 'reset')
        await runLoad(null, [...tlsLoad(rowOf('lag'), server), ...SHORT])
        const { count, p99, max } = await ask(server, 'report')
        assert.ok((count as number) > 0 && (p99 as number) > 0 && (max as number) >= (p99 as number), peer)
      } finally {
        await server.stop()
      }
    }
  })

  test('memory of idle connections is measured by TLS', async () => {
    const server = await startServer(null, tlsServerCommand('node-tls'))
    assert.ok(Number.isFinite((await residentSlope(server, [20, 100])).slope))
  })
} else skip('what servers tell of themselves', 'it is read from /proc')

test.run()
