import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { DuplexOptions, TransportDuplex } from '../../src/index.js'
import { assertBytes, type Client } from '../harness/client.js'
import { Deferred } from '../harness/deferred.js'
import type { Random } from '../harness/random.js'
import { streamed } from '../harness/streamed.js'
import { type ExceptionContext, forEveryTransport } from '../harness/suite.js'

const KiB = 1024
const MiB = 1024 * KiB

forEveryTransport('what listeners of streams throw', (test) => {
  const oops = new Error('oops')
  const throwing: [name: string, prepare: (duplex: TransportDuplex, client: Client) => unknown][] = [
    ['data', (duplex) => duplex.on('data', fail)],
    ['data after resume', (duplex) => once(duplex, 'readable').then(() => duplex.on('data', fail).resume())],
    ['end', (duplex, client) => client.end(duplex.on('end', fail).resume() && 'x')],
    ['finish', (duplex) => duplex.on('finish', fail).end()],
    ['drain', (duplex) => duplex.on('drain', fail).write(Buffer.alloc(8 * MiB))],
    ['timeout', (duplex) => duplex.on('timeout', fail).setTimeout(100)],
  ]
  for (const [name, prepare] of throwing) {
    test(`${name}: it aborts that connection alone, and reaches the exception handler`, async (t) => {
      const reports: ExceptionContext[] = []
      const reported = new Deferred()
      const { duplex, client, server } = await streamed(t, {
        exceptionHandler: (context) => {
          reports.push(context)
          reported.resolve()
        },
      })
      const closed = new Promise((resolve) => duplex.once('close', resolve))
      duplex.on('error', () => {})
      void prepare(duplex, client)
      if (!client.socket.writableEnded) client.socket.write('x')
      await reported.promise
      await closed
      assert.equal(reports.length, 1)
      assert.equal(reports[0]?.error, oops)
      assert.equal(reports[0]?.transport, duplex.transport)
      assert.match(reports[0]?.message ?? '', new RegExp(`listener of '${name.split(' ')[0]}' of connection`))
      const other = await t.connect(server)
      await other.write('echo')
      assert.equal((await other.readExactly(4)).toString(), 'echo')
    })
  }

  test("'error' without a listener: the thread goes on", async (t) => {
    const reported = new Deferred<ExceptionContext>()
    const { duplex } = await streamed(t, { exceptionHandler: reported.resolve.bind(reported) })
    duplex.destroy(oops)
    const report = await reported.promise
    assert.equal(report.error, oops)
    assert.match(report.message, /'error' without a listener/)
    await once(duplex, 'close')
  })

  function fail(): never {
    throw oops
  }
})

forEveryTransport('streams of a server that drains', (test) => {
  test('who listens to draining ends by itself', async (t) => {
    const { duplex, client, server } = await streamed(t)
    duplex.once('draining', () => duplex.end('bye'))
    const drained = server.drain()
    assert.equal((await client.readToEnd()).toString(), 'bye')
    client.end()
    duplex.resume()
    await drained
  })

  test('who does not is closed when nothing is owed', async (t) => {
    const { duplex, client, server } = await streamed(t)
    const closed = once(duplex, 'close')
    duplex.once('data', () => {
      void server.drain()
      setImmediate(() => duplex.write('answer'))
    })
    await client.write('question')
    assert.equal((await client.readToEnd()).toString(), 'answer')
    assert.deepEqual(await closed, [false])
  })

  // Between two pieces native code has nothing to send, and took the answer for complete.
  test('an answer in many pieces is sent whole', async (t) => {
    const { duplex, client, server } = await streamed(t, {
      writeMaxBytes: 64 * KiB,
      writeHighBytes: 16 * KiB,
    })
    const data = t.random.bytes(8 * MiB)
    duplex.once('data', () => {
      duplex.write(data)
      duplex.write('end')
      void server.drain()
    })
    await client.write('question')
    assertBytes(await client.readToEnd(), Buffer.concat([data, Buffer.from('end')]))
  })

  test('what nobody has read yet is owed', async (t) => {
    const { duplex, client, server } = await streamed(t)
    duplex.write('greeting')
    await client.readExactly(8)
    await client.write('question')
    await once(duplex, 'readable')
    duplex.write('first part')
    const drained = server.drain()
    await client.readExactly(10)
    duplex.once('data', () => duplex.write(', and the second'))
    assert.equal((await client.readToEnd()).toString(), ', and the second')
    await drained
  })
})

forEveryTransport('streams that end at any moment', (test) => {
  // A connection that closes is not read any more, so neither may close before it has sent.
  test('both ends have much to send, and end soon', async (t) => {
    const accepted = new Deferred<TransportDuplex>()
    const server = await t.serve(() => ({
      connectionMade: (transport) => accepted.resolve(transport.duplex()),
    }))
    const [transport] = await t.dial(server, () => ({}))
    const data = Buffer.alloc(16 * MiB)
    await Promise.all(
      [transport.duplex(), await accepted.promise].map((duplex) => {
        duplex.resume()
        duplex.write(data)
        duplex.destroySoon()
        duplex.on('error', () => {}) // the other one has ended before, and reads no more
        return new Promise((resolve) => duplex.once('close', resolve))
      }),
    )
  })

  test('whatever both ends do: every write is called back once, close comes once and last, what came before an end is whole', async (t) => {
    const { random } = t
    const data = random.bytes(4 * MiB)
    let accepted = new Deferred<TransportDuplex>()
    const server = await t.serve(() => ({
      connectionMade: (transport) => accepted.resolve(transport.duplex(randomOptions(random))),
    }))
    for (let round = 0; round < 40; round++) {
      const [transport] = await t.dial(server, () => ({}))
      const [near, far] = [transport.duplex(randomOptions(random)), await accepted.promise]
      accepted = new Deferred()
      const actors = [near, far].map((duplex) => new Actor(duplex, data, random))
      await Promise.all(actors.map((actor) => actor.run()))
      const [one, other] = actors as [Actor, Actor]
      one.check(other)
      other.check(one)
    }
  })
})

function randomOptions(random: Random): DuplexOptions {
  return { allowHalfOpen: random.below(2) === 0, highWaterMark: random.size(1, 128 * KiB) }
}

/** Does something by chance, and in the end destroys. */
class Actor {
  readonly duplex: TransportDuplex
  readonly chunks: Buffer[] = []
  readonly #events: string[] = []
  readonly #callbacks: number[] = []
  readonly #closed: Promise<void>
  readonly #data: Buffer
  readonly #random: Random
  #written = 0
  #endedAt: number | undefined

  constructor(duplex: TransportDuplex, data: Buffer, random: Random) {
    this.duplex = duplex
    this.#data = data
    this.#random = random
    for (const event of ['end', 'finish', 'error', 'close', 'drain'])
      duplex.on(event, () => this.#events.push(event))
    duplex.on('data', (chunk) => this.chunks.push(chunk))
    this.#closed = new Promise((resolve) => duplex.once('close', resolve))
  }

  async run(): Promise<void> {
    const { duplex } = this
    for (let step = this.#random.below(20); step > 0; step--) {
      this.#act()
      if (this.#random.below(2) === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    duplex.resume()
    while (duplex.writableCorked > 0) duplex.uncork()
    if (this.#random.below(2) === 0) duplex.destroySoon()
    else duplex.destroy()
    await this.#closed
    // Callbacks that come with the end.
    await new Promise((resolve) => setImmediate(resolve))
  }

  /** @param peer what it has read is the beginning of what this one has written, and all of it if this one has finished */
  check(peer: Actor): void {
    const counts = (event: string): number => this.#events.filter((noted) => noted === event).length
    assert.equal(this.#events.at(-1), 'close')
    for (const event of ['end', 'finish', 'error', 'close'])
      assert.ok(counts(event) <= 1, `${event} came twice`)
    assert.deepEqual(
      this.#callbacks,
      this.#callbacks.map(() => 1),
    )
    const read = Buffer.concat(peer.chunks)
    assertBytes(read, this.#data.subarray(0, read.length))
    if (peer.#events.includes('end') && this.#events.includes('finish') && this.#endedAt !== undefined)
      assert.equal(read.length, this.#endedAt)
    assert.equal(peer.duplex.bytesRead >= read.length, true)
  }

  #act(): void {
    const { duplex } = this
    switch (this.#random.below(12)) {
      case 0:
        duplex.pause()
        break
      case 1:
        duplex.resume()
        break
      case 2:
        if (duplex.writable) duplex.cork()
        break
      case 3:
        duplex.uncork()
        break
      case 4:
        if (this.#random.below(4) === 0) this.#end(() => duplex.end())
        break
      case 5:
        if (this.#random.below(8) === 0) this.#end(() => duplex.destroySoon())
        break
      case 6:
        if (this.#random.below(8) === 0) duplex.destroy()
        break
      case 7:
        if (this.#random.below(8) === 0) duplex.resetAndDestroy()
        break
      default:
        this.#write()
    }
  }

  #end(end: () => void): void {
    this.#endedAt ??= this.#written
    end()
  }

  #write(): void {
    const { duplex } = this
    if (!duplex.writable) return
    const chunk = this.#data.subarray(this.#written, this.#written + this.#random.size(1, 2 * MiB))
    this.#written += chunk.length
    const number = this.#callbacks.push(0) - 1
    duplex.write(chunk, () => {
      this.#callbacks[number] = (this.#callbacks[number] as number) + 1
    })
  }
}
