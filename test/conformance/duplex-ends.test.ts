import assert from 'node:assert/strict'
import { once } from 'node:events'
import type { TransportDuplex } from '../../src/index.js'
import { assertBytes, type Client } from '../harness/client.js'
import { Deferred } from '../harness/deferred.js'
import { streamed } from '../harness/streamed.js'
import { type ExceptionContext, forEachTransport } from '../harness/suite.js'

const KiB = 1024
const MiB = 1024 * KiB

forEachTransport('what listeners of streams throw', (test) => {
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
      client.socket.write('x')
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

forEachTransport('streams of a server that drains', (test) => {
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
