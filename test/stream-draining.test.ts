/** A server that drains lets handlers of streams go on until they wait for their peers, and owe them nothing. */
import assert from 'node:assert/strict'
import { assertBytes, type Client } from './harness/client.js'
import { Deferred, eventually } from './harness/deferred.js'
import { MiB } from './harness/memory.js'
import { Recorder } from './harness/recorder.js'
import { echo, failure, holdStream, openStream, serveStreams } from './harness/streams.js'
import { assertCode, forEachTransport, settle } from './harness/suite.js'

forEachTransport('draining of streams', (test) => {
  test(
    'handlers that wait in a read are at rest, and read an end',
    async (t) => {
      const ends: string[] = []
      const server = await serveStreams(t, async (stream) => {
        const kind = (await stream.readLine()).toString().trim()
        // Two of them have never written, and one never will.
        if (kind === 'echo') await echo(stream)
        else if (kind === 'exactly') await stream.readExactly(4).catch(() => {})
        else while ((await stream.readLine()).length > 0);
        ends.push(kind)
        await stream.write('bye')
      })
      const clients = await Promise.all(Array.from({ length: 5 }, () => t.connect(server)))
      const kinds = ['echo', 'exactly', 'sink', 'sink', '']
      for (const [index, client] of clients.slice(0, 4).entries()) await client.write(`${kinds[index]}\n`)
      await (clients[0] as Client).write('hello')
      await (clients[0] as Client).readExactly(5)
      await (clients[2] as Client).write('stored\nand stored\n')
      await eventually(
        () =>
          server.metrics().total.bytesRead ===
          BigInt('echo\nexactly\nsink\nsink\nhellostored\nand stored\n'.length),
      )
      const drained = server.drain()
      for (const [index, client] of clients.entries()) {
        // Who waits for a number of bytes, and has read without an answer, may be in the middle of something.
        if (kinds[index] === 'exactly') continue
        assert.equal((await client.readToEnd()).toString(), 'bye')
        client.end()
      }
      assert.equal(clients[1]?.ended, false)
      await clients[1]?.write('body')
      assert.equal((await clients[1]?.readToEnd())?.toString(), 'bye')
      clients[1]?.end()
      await drained
      assert.deepEqual(ends.sort(), ['', 'echo', 'exactly', 'sink', 'sink'])
      assert.equal(server.metrics().total.resets.server, 0)
    },
    { notOverTls: 'it waits until the server has read so many bytes, and TLS has more of its own' },
  )

  test(
    'a request that is still in the kernel is answered, and so is one that has come in part',
    async (t) => {
      const probe = await t.pair(() => new Recorder())
      const server = await serveStreams(t, async (stream) => {
        for (let line = await stream.readLine(); line.length > 0; line = await stream.readLine())
          await stream.write(line)
      })
      const [whole, part] = [await t.connect(server), await t.connect(server)]
      await part.write('in two ')
      await eventually(() => server.metrics().total.bytesRead === 7n)
      await settle(probe)
      whole.socket.write('in time\n')
      // Nothing of the server ran since: this very thread is its shard.
      const drained = server.drain()
      assert.equal((await whole.readToEnd()).toString(), 'in time\n')
      assert.equal(part.ended, false)
      await part.write('parts\n')
      assert.equal((await part.readToEnd()).toString(), 'in two parts\n')
      for (const client of [whole, part]) client.end()
      await drained
    },
    { notOverTls: 'it waits until the server has read so many bytes, and TLS has more of its own' },
  )

  test('one that is in the middle of an answer finishes it, however large, and then reads an end', async (t) => {
    const going = new Deferred()
    const bytes = t.random.bytes(8 * MiB)
    const server = await serveStreams(t, async (stream) => {
      while ((await stream.readLine()).length > 0) {
        await stream.write('begun ')
        await going.promise
        await stream.write(bytes)
      }
    })
    const client = await t.connect(server)
    await client.write('question\n')
    await client.readExactly(6)
    const drained = server.drain()
    going.resolve()
    assertBytes(await client.readToEnd(), bytes)
    client.end()
    await drained
  })

  test('stream.draining tells handlers that wait for something else, or want to say goodbye', async (t) => {
    const server = await serveStreams(t, async (stream) => {
      assert.equal(stream.draining.aborted, false)
      const line = await stream.readLine({ signal: stream.draining }).catch(() => 'goodbye')
      await stream.write(line)
      if (line === 'goodbye') return
      await new Promise((resolve) => stream.draining.addEventListener('abort', resolve))
      await stream.write('and goodbye')
    })
    const [reading, waiting] = [await t.connect(server), await t.connect(server)]
    await waiting.write('hello\n')
    assert.equal(await waiting.readLine(), 'hello')
    await eventually(() => server.metrics().total.connectionsOpen === 2)
    const drained = server.drain()
    assert.equal((await reading.readToEnd()).toString(), 'goodbye')
    assert.equal((await waiting.readToEnd()).toString(), 'and goodbye')
    for (const client of [reading, waiting]) client.end()
    await drained
  })

  test('what never reads is aborted at the deadline; its draining is aborted from the start when asked for later', async (t) => {
    const { server, client, stream } = await holdStream(t, { drainTimeoutMs: 50 })
    const drained = server.drain()
    assert.equal(stream.draining.aborted, true)
    await drained
    assertCode(await failure(stream.waitClosed()), 'ERR_SHARDLOOP_SERVER_ABORTED')
    await client.untilReset()
  })

  test('a client of ours is never told to drain', async (t) => {
    const server = await serveStreams(t, echo)
    const stream = await openStream(t, server)
    const { draining } = stream
    await stream.write('x')
    await stream.readExactly(1)
    const drained = server.close()
    assert.equal((await stream.read()).length, 0)
    assert.equal(draining.aborted, false)
    stream.close()
    await drained
  })

  test.overTcp(
    'startServer on shards: each runs the handler of its own, and ends by SIGTERM though clients wait',
    async (t) => {
      const child = t.start('servers/streams')
      const port = Number((await child.line(/"ready":(\d+)/))[1])
      const shards = new Set<string>()
      while (shards.size < 2) {
        const client = await t.connect(port)
        await client.write('hello\n')
        const [, shard] = /^shard (\d): hello$/.exec(await client.readLine()) ?? []
        shards.add(String(shard))
      }
      assert.deepEqual([...shards].sort(), ['0', '1'])
      child.kill('SIGTERM')
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    },
    { notOverTls: 'the server is a program of its own, without TLS' },
  )
})
