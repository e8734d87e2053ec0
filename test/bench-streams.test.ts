import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { runLoad } from '../bench/load.js'
import { startServer } from '../bench/servers.js'
import { STREAMS, streamLoad, streamServerCommand } from '../bench/streams/benchmark.js'
import { skipIn } from './harness/skip.js'

const test = suite('bench streams')
const skip = skipIn('bench streams', test)

test('the load is told size and server', () => {
  const [first] = STREAMS.rows.map((row) => streamLoad(row, { addr: '127.0.0.1:7', pid: 42 }))
  const how = ['--conns', '64', '--size', '1024']
  assert.deepEqual(first, ['echo', '--addr', '127.0.0.1:7', '--server-pid', '42', ...how])
})

for (const row of STREAMS.rows) {
  const name = `${row.id}: every peer echoes every byte`
  // Processor times of another process are read from /proc.
  if (process.platform !== 'linux') {
    skip(name, 'processor times are read from /proc')
    continue
  }
  test(name, async () => {
    for (const peer of row.peers) {
      const server = await startServer(null, streamServerCommand(row, peer))
      try {
        const load = [...streamLoad(row, server), '--warmup', '0.05', '--secs', '0.2']
        const { requestsTotal } = await runLoad(null, load)
        assert.ok(requestsTotal > 0, peer)
      } finally {
        await server.stop()
      }
    }
  })
}

test.run()
