/** A peer that does not read: what waits is plain text, counts for the watermarks, and is there once. */
import assert from 'node:assert/strict'
import type { Server } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { collectGarbage, KiB, MiB } from '../harness/memory.js'
import { Recorder } from '../harness/recorder.js'
import { forEachTransport } from '../harness/suite.js'

const HIGH = 256 * KiB
const LOW = 32 * KiB
const PIECE = 10 * KiB

/** Writes a piece a turn until it is told to pause; notes what waits then, and when it may go on. */
class Writer extends Recorder {
  written = 0
  sizeMax = 0
  /** What waited at each resumeWriting. */
  readonly waited: number[] = []
  readonly data: Buffer

  constructor(data: Buffer) {
    super()
    this.data = data
  }

  async writeUntilPaused(): Promise<void> {
    const pauses = this.count('pause')
    while (this.count('pause') === pauses && this.written < this.data.length) {
      const piece = this.data.subarray(this.written, this.written + PIECE)
      this.transport.write(piece)
      this.written += piece.length
      // An I/O thread of its own is asked, so what waits is not what that has not seen yet.
      this.sizeMax = Math.max(this.sizeMax, this.transport.getWriteBufferSize())
      await new Promise((resolve) => setImmediate(resolve))
    }
  }

  override resumeWriting(): void {
    this.waited.push(this.transport.getWriteBufferSize())
    super.resumeWriting()
  }
}

/** Bytes that the kernel has had from this thread. */
function sent(server: Server): number {
  return Number(server.metrics().total.bytesWritten)
}

forEachTransport(
  'a peer that does not read',
  (test, engine) => {
    test('has pauseWriting called at the high watermark: plain text that waits, and records that the kernel did not take', async (t) => {
      const data = t.random.bytes(40 * MiB)
      const { server, client, protocol } = await t.pair(() => new Writer(data), {
        writeHighBytes: HIGH,
        writeLowBytes: LOW,
        client: { paused: true },
      })
      const before = sent(server)
      await protocol.writeUntilPaused()
      let [waits, withKernel] = [0, -1]
      while (withKernel !== sent(server) - before) {
        withKernel = sent(server) - before
        waits = protocol.transport.getWriteBufferSize()
      }
      assert.ok(protocol.written < data.length, 'the kernel takes less than there is')
      assert.ok(waits > HIGH && waits <= HIGH + 8 * PIECE, `${waits} bytes wait`)
      // A record has 22 bytes more than its plain text, or 29 in TLS 1.2, and the first ones are short.
      const overhead = withKernel + waits - protocol.written
      assert.ok(
        overhead > 0 && overhead < 4 * KiB + protocol.written / 200,
        `${protocol.written} bytes are ${withKernel} with the kernel and ${waits} that wait`,
      )
      client.resume()
      assertBytes(await client.readExactly(protocol.written), data.subarray(0, protocol.written))
      await protocol.noted('resume')
      assert.deepEqual(protocol.events, ['made', 'pause', 'resume'])
      assert.ok((protocol.waited[0] as number) <= LOW, `resumed at ${protocol.waited[0]}`)
      await eventually(() => protocol.transport.getWriteBufferSize() === 0)
    })

    test('and reads now and then: pauseWriting and resumeWriting alternate, and every byte arrives', async (t) => {
      const data = t.random.bytes(24 * MiB)
      const { client, protocol } = await t.pair(() => new Writer(data), {
        writeHighBytes: HIGH,
        writeLowBytes: LOW,
        client: { paused: true },
      })
      const received: Buffer[] = []
      while (protocol.written < data.length) {
        await protocol.writeUntilPaused()
        const length = protocol.written - received.reduce((sum, chunk) => sum + chunk.length, 0)
        client.resume()
        received.push(await client.readExactly(length))
        client.pause()
        await protocol.until(() => protocol.count('resume') === protocol.count('pause'))
      }
      assertBytes(Buffer.concat(received), data)
      const calls = protocol.events.slice(1)
      assert.ok(calls.length >= 2, 'the peer was slow enough')
      assert.deepEqual(
        calls,
        calls.map((_, at) => (at % 2 === 0 ? 'pause' : 'resume')),
      )
      for (const waited of protocol.waited) assert.ok(waited <= LOW, `resumed at ${waited}`)
      assert.ok(protocol.sizeMax <= HIGH + 8 * PIECE, `at most ${protocol.sizeMax} bytes waited`)
    })

    test('what it shall have is not encrypted ahead: it is in memory once', async (t) => {
      const size = 64 * MiB
      const data = t.random.bytes(size)
      const { client, protocol } = await t.pair(() => new Recorder(), {
        writeMaxBytes: 2 * size,
        client: { paused: true },
      })
      await collectGarbage()
      const before = process.memoryUsage.rss()
      let flushed = false
      const owned = protocol.transport.writeOwned(data).then(() => {
        flushed = true
      })
      await protocol.noted('pause')
      await eventually(() => protocol.transport.getWriteBufferSize() > size / 2)
      await collectGarbage()
      const grown = process.memoryUsage.rss() - before
      // `mio` refers to what it is given; the thread of `tokio` has a copy.
      const copies = engine === 'tokio' ? 1 : 0
      assert.ok(grown < copies * size + size / 4, `${Math.round(grown / MiB)} MiB more for ${size / MiB} MiB`)
      if (engine === 'mio') assert.equal(flushed, false, 'it is referred to')
      client.resume()
      assertBytes(await client.readExactly(size), data)
      await owned
      await protocol.noted('resume')
      await eventually(() => protocol.transport.getWriteBufferSize() === 0)
    })
  },
  ['tls1.2', 'tls1.3'],
)
