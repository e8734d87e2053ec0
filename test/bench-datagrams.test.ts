import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { cProgram } from '../bench/c-program.js'
import {
  DATAGRAMS,
  type DatagramPeer,
  datagramLoad,
  datagramServerCommand,
} from '../bench/datagrams/benchmark.js'
import { runLoad } from '../bench/load.js'
import { startServer } from '../bench/servers.js'
import { skipIn } from './harness/skip.js'

const test = suite('bench datagrams')
const skip = skipIn('bench datagrams', test)

test('the load is told sockets, size, window and the server', () => {
  const [first, second] = DATAGRAMS.rows.map((row) => datagramLoad(row, { addr: '127.0.0.1:7', pid: 42 }))
  const how = ['datagrams', '--addr', '127.0.0.1:7', '--server-pid', '42', '--sockets', '64', '--size', '64']
  assert.deepEqual(first, [...how, '--window', '1'])
  assert.deepEqual(second, [...how, '--window', '8'])
})

test('without a C compiler its server is left out, with the reason', () => {
  const found = cProgram('udp-echo', 'no-such-compiler', join(tmpdir(), 'shardloop-no-such-program'))
  const expected = process.platform === 'linux' ? /no C compiler no-such-compiler .*CC/ : /calls of Linux/
  assert.match('absent' in found ? found.absent : '', expected)
})

const compiled = cProgram('udp-echo')
if ('absent' in compiled) skip('the program in C is compiled once', compiled.absent)
else {
  test('the program in C is compiled once', () => {
    const directory = mkdtempSync(join(tmpdir(), 'shardloop-bench-'))
    try {
      const program = join(directory, 'below', 'udp-echo')
      assert.deepEqual(cProgram('udp-echo', undefined, program), { path: program })
      // It is there, so that nobody is asked to compile it.
      assert.deepEqual(cProgram('udp-echo', 'no-such-compiler', program), { path: program })
    } finally {
      rmSync(directory, { recursive: true })
    }
  })
}

// Processor times of another process are read from /proc.
const isMeasured = process.platform === 'linux'
for (const peer of Object.keys(DATAGRAMS.peers) as DatagramPeer[]) {
  const name = `${peer} echoes every datagram as it was`
  if (!isMeasured || (peer === 'c' && 'absent' in compiled)) {
    skip(name, 'absent' in compiled ? compiled.absent : 'processor times are read from /proc')
    continue
  }
  test(name, async () => {
    const server = await startServer(null, datagramServerCommand(peer))
    try {
      for (const row of DATAGRAMS.rows) {
        const result = await runLoad(null, [
          ...datagramLoad(row, server),
          '--warmup',
          '0.02',
          '--secs',
          '0.1',
        ])
        assert.ok(result.requests > 0 && result.latencyUs.p50 > 0, JSON.stringify(result))
        assert.ok(result.sent !== undefined && result.lost !== undefined)
      }
    } finally {
      await server.stop()
    }
  })
}

test.run()
