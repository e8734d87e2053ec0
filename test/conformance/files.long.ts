/** Files whose size needs more than 31 bits. */
import assert from 'node:assert/strict'
import { closeSync, ftruncateSync, openSync, writeSync } from 'node:fs'
import { Observable } from '../harness/deferred.js'
import { MiB } from '../harness/memory.js'
import { Recorder } from '../harness/recorder.js'
import { forEveryTransport } from '../harness/suite.js'

const SIZE_BYTES = 3 * 1024 * MiB + 7
/** More than the kernel holds of a connection may be in this process's memory only by mistake. */
const GROWTH_MAX_BYTES = 128 * MiB
const TIMEOUT_MS = 240_000

forEveryTransport('sendFile of 3 GiB', (test) => {
  test(
    'is sent and counted to the last byte, in flat memory',
    async (t) => {
      const path = t.path('sparse')
      const fd = openSync(path, 'w+')
      ftruncateSync(fd, SIZE_BYTES)
      writeSync(fd, 'the end', SIZE_BYTES - 7)
      const accepting = await t.serveEach(() => new Recorder())
      const counter = new Counter()
      await t.dial(accepting.server, () => counter)
      const { transport } = await accepting.protocol(0)
      await (await accepting.protocol(0)).noted('made')
      const before = process.memoryUsage().rss
      const sent = await t.loop.sendFile(transport, fd)
      closeSync(fd)
      await counter.until(() => counter.bytes >= SIZE_BYTES)
      assert.equal(sent, SIZE_BYTES)
      assert.equal(counter.bytes, SIZE_BYTES)
      assert.equal(counter.tail, 'the end')
      assert.ok(counter.rssMax - before < GROWTH_MAX_BYTES, `grew by ${counter.rssMax - before} bytes`)
    },
    { timeoutMs: TIMEOUT_MS },
  )
})

/** Keeps nothing but the last bytes. */
class Counter extends Observable {
  bytes = 0
  tail = ''
  rssMax = 0
  #chunks = 0

  bytesReceived(slab: Buffer, start: number, end: number): void {
    this.bytes += end - start
    this.tail = (this.tail + slab.toString('latin1', Math.max(start, end - 7), end)).slice(-7)
    this.#chunks += 1
    if (this.#chunks % 256 === 0) this.rssMax = Math.max(this.rssMax, process.memoryUsage.rss())
    this.changed()
  }
}
