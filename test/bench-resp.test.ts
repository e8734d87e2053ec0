import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { pairedWith } from '../bench/paired/benchmark.js'
import { helpOf, readPairedOptions } from '../bench/paired/options.js'
import { RESP } from '../bench/resp/benchmark.js'
import { readOutput } from '../bench/resp/redis-benchmark.js'

const test = suite('bench resp')

const HEAD =
  '"test","rps","avg_latency_ms","min_latency_ms","p50_latency_ms","p95_latency_ms","p99_latency_ms","max_latency_ms"'

test("redis-benchmark's figures and its processor time are read, in whatever order the columns are", () => {
  const times = '0m0.00s 0m0.01s\n1m0.25s 0m0.50s\n'
  const figures = '"SET","53361.79","0.581","0.128","0.199","4.239","8.279","12.431"'
  const expected = { perSec: 53361.79, p50: 199, p99: 8279, clientSecs: 60.75 }
  assert.deepEqual(readOutput(`${HEAD}\n${figures}\n${times}`), expected)
  const others = '"p99_latency_ms","rps","p50_latency_ms"\n"8.279","53361.79","0.199"'
  assert.deepEqual(readOutput(`${others}\n${times}`), expected)
})

test('what redis-benchmark does not print is no figure', () => {
  for (const text of [
    '',
    `${HEAD}\n`,
    `${HEAD}\n"SET","x"\n0m0.0s 0m0.0s\n0m0.0s 0m0.0s\n`,
    `${HEAD}\n"SET"\n`,
  ])
    assert.throws(() => readOutput(text), /redis-benchmark printed something else/)
})

test('each row compares both engines with node:net, and has a bar for mio', () => {
  for (const row of RESP.rows) {
    const pairs = pairedWith(row, ['mio', 'tokio', 'node-net'])
    assert.deepEqual(
      pairs.map(({ peer, against }) => `${peer}/${against}`),
      ['mio/node-net', 'tokio/node-net'],
    )
    const bars = RESP.bars.filter((bar) => bar.row === row.id && bar.kind === 'must')
    assert.deepEqual(
      bars.map(({ peer, value }) => [peer, value]),
      [['mio', 1.3]],
    )
    assert.ok(helpOf(RESP).includes(row.id))
  }
  assert.equal(readPairedOptions(RESP, ['--rows', 'get'])?.rows.length, 2)
})

test.run()
