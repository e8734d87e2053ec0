import assert from 'node:assert/strict'
import { arrayBufferBytes, KiB, MiB } from './harness/memory.js'
import { MixedEcho } from './harness/mixed-echo.js'
import { forEachEngine } from './harness/suite.js'
import { echoThrough } from './harness/traffic.js'

const CONNECTIONS = 100
const SECONDS = 45

forEachEngine('soak', (test) => {
  test(
    `${CONNECTIONS} connections mix every way to receive, write, pause and switch, and no byte is wrong`,
    async (t) => {
      const server = await t.serve(() => new MixedEcho(t.random))
      const before = await arrayBufferBytes()
      const end = performance.now() + SECONDS * 1000
      let echoed = 0
      let connections = 0
      const live = async (): Promise<void> => {
        while (performance.now() < end) {
          const client = await t.connect(server)
          connections++
          for (let stretch = t.random.between(0, 6); stretch > 0; stretch--) {
            const data = t.random.bytes(t.random.size(1, 3 * MiB))
            // A reader that stops makes the server queue and pause.
            const stop = setInterval(() => (client.socket.isPaused() ? client.resume() : client.pause()), 3)
            try {
              await echoThrough(client, data, t.random, t.random.size(1 * KiB, 300 * KiB))
            } finally {
              clearInterval(stop)
              client.resume()
            }
            echoed += data.length
          }
          if (t.random.below(3) === 0) {
            client.reset()
            continue
          }
          client.end('the end')
          assert.equal((await client.readToEnd()).toString(), 'the end')
          assert.equal(await client.untilClose(), null)
        }
      }
      await Promise.all(Array.from({ length: CONNECTIONS }, live))
      assert.ok(echoed > 100 * MiB, `${echoed} bytes were echoed`)
      assert.ok(connections > 2 * CONNECTIONS, `${connections} connections`)
      const { total } = server.metrics()
      assert.ok(total.bytesWritten >= BigInt(echoed))
      const held = (await arrayBufferBytes()) - before
      assert.ok(held < 48 * MiB, `${held} bytes are held at the end`)
    },
    { timeoutMs: SECONDS * 1000 + 60_000 },
  )
})
