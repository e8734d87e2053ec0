import assert from 'node:assert/strict'
import { fixtureUrl } from './harness/child.js'
import { forEachEngine } from './harness/suite.js'

/** Where a write can come from; the fixture knows them by these names. */
const SOURCES = [
  'dataReceived',
  'nextTick',
  'microtask',
  'promise',
  'await',
  'immediate',
  'timer',
  'interval',
  'fs callback',
  'fs promise',
  'thread pool',
  'message port',
  'worker message',
  'node:net',
  'abort signal',
  'event in a timer',
  'timer chain',
] as const

/** Sent through the ring; and directly. */
const SIZES = [3, 200_000]

forEachEngine('where writes come from', (test) => {
  for (const shards of [0, 1]) {
    for (const source of SOURCES) {
      test(`shards ${shards}: a write from ${source} is sent, though nothing else happens`, async (t) => {
        const server = await t.serve(fixtureUrl('flush-sources'), { shards })
        const client = await t.connect(server)
        for (const size of SIZES) {
          for (let round = 0; round < 3; round++) {
            await client.write(`${source} ${size}\n`)
            const answer = await client.readLine()
            assert.equal(answer.length, size)
            assert.equal(answer, String(round).repeat(size))
          }
          client.socket.write('reset\n')
        }
      })
    }
  }
})
