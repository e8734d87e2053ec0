import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { HTTP, type HttpPeer, httpLoad, httpServerCommand } from '../bench/http/benchmark.js'
import { runLoad } from '../bench/load.js'
import type { PairedRow } from '../bench/paired/benchmark.js'
import { startServer } from '../bench/servers.js'
import { skipIn } from './harness/skip.js'

const test = suite('bench http')
const skip = skipIn('bench http', test)

function rowNamed(id: string): PairedRow<HttpPeer> {
  const found = HTTP.rows.find((row) => row.id === id)
  if (found === undefined) throw new Error(`there is no row ${id}`)
  return found
}

test('the load is told the URL, the server and what a row asks of it', () => {
  const load = (id: string): string[] => httpLoad(rowNamed(id), { addr: '127.0.0.1:7', pid: 42 })
  const base = ['http', '--url', 'http://127.0.0.1:7/', '--server-pid', '42', '--conns', '64']
  assert.deepEqual(load('hello'), base)
  assert.deepEqual(load('pipelined'), [...base, '--pipeline', '16'])
  assert.deepEqual(load('new-connection'), [...base, '--new-connection'])
  assert.deepEqual(load('upload'), [...base, '--method', 'POST', '--body-bytes', '65536'])
})

test('peers differ in what serves, rows in what is served', () => {
  const [hello, express] = ['hello', 'express'].map(rowNamed) as [PairedRow<HttpPeer>, PairedRow<HttpPeer>]
  const told = (row: PairedRow<HttpPeer>, peer: HttpPeer): string =>
    httpServerCommand(row, peer).slice(2).join(' ')
  assert.equal(told(express, 'node-http'), '--peer node-http --app express')
  assert.equal(told(express, 'tokio'), '--peer shardloop --app express --shards 0 --engine tokio')
  assert.equal(told(hello, 'mio-shard'), '--peer shardloop --app hello --shards 1 --engine mio')
  assert.equal(told(hello, 'fastify'), '--peer node-http --app fastify')
  assert.equal(told(hello, 'cluster'), '--peer cluster --app hello')
})

test('every bar is of a row and of peers that take part in it', () => {
  for (const { row, peer, against } of HTTP.bars) {
    const { peers, baselines } = rowNamed(row)
    assert.ok(peers.includes(peer) && baselines.includes(against), `${row}: ${peer}`)
  }
})

for (const row of HTTP.rows) {
  const name = `${row.id}: every peer answers every request well`
  // Processor times of another process are read from /proc.
  if (process.platform !== 'linux') {
    skip(name, 'processor times are read from /proc')
    continue
  }
  test(name, async () => {
    for (const peer of row.peers) {
      const server = await startServer(null, httpServerCommand(row, peer))
      try {
        const load = [...httpLoad(row, server), '--warmup', '0.05', '--secs', '0.2']
        const { requestsTotal } = await runLoad(null, load)
        assert.ok(requestsTotal > 0, peer)
      } finally {
        await server.stop()
      }
    }
  })
}

test.run()
