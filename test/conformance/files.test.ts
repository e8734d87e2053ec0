/** asyncio's loop.sendfile: CPython Lib/test/test_asyncio/test_sendfile.py (SendfileMixin), uvloop tests/test_tcp.py. */
import assert from 'node:assert/strict'
import { closeSync, constants, openSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { type FileHandle, open } from 'node:fs/promises'
import type { SendFileOptions, Transport } from '../../src/index.js'
import { assertBytes } from '../harness/client.js'
import { openDescriptors } from '../harness/leaks.js'
import { MiB } from '../harness/memory.js'
import { Recorder } from '../harness/recorder.js'
import { assertRejects, assertThrows, forEveryTransport, type TestContext } from '../harness/suite.js'

/** Far more than the kernel's buffers on both sides take. */
const LARGE_BYTES = 24 * MiB
/** The kernel sends no such file by itself (EINVAL), and it has content. */
const UNSENDABLE = '/proc/self/environ'

forEveryTransport('sendFile', (test) => {
  // CPython: test_sendfile_success
  test('sends a whole file, and says how much that was', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const content = t.random.bytes(300_001)
    assert.equal(await send(t, protocol.transport, await fileOf(t, content)), content.length)
    assertBytes(await client.readExactly(content.length), content)
  })

  // CPython: test_sendfile (offset and count), loop.sendfile's documentation
  for (const [what, offset, count, sent] of [
    ['from an offset on', 1_000, null, 9_000],
    ['so many bytes', 0, 17, 17],
    ['so many bytes from an offset on', 4_095, 2, 2],
    ['what there is when fewer are left', 9_990, 100_000, 10],
    ['nothing behind the end', 20_000, 5, 0],
    ['nothing when none is asked for', 5, 0, 0],
  ] as const) {
    test(`sends ${what}`, async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      const content = t.random.bytes(10_000)
      const file = await fileOf(t, content)
      assert.equal(await send(t, protocol.transport, file, offset, count), sent)
      protocol.transport.close()
      assertBytes(await client.readToEnd(), content.subarray(offset, offset + sent))
    })
  }

  // CPython: test_sendfile_zero_size
  test('an empty file is 0 bytes, and the connection goes on', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    assert.equal(await send(t, protocol.transport, await fileOf(t, Buffer.alloc(0))), 0)
    protocol.transport.write('on')
    assert.equal(String(await client.readExactly(2)), 'on')
  })

  test('a descriptor does as well, and keeps its own position', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const path = t.path('file')
    writeFileSync(path, 'a descriptor')
    const fd = openSync(path, 'r')
    assert.equal(await send(t, protocol.transport, fd, 2), 10)
    assert.equal(String(await client.readExactly(10)), 'descriptor')
    assert.equal(readFileSync(fd, 'utf8'), 'a descriptor')
    closeSync(fd)
  })

  // CPython: test_sendfile_pre_and_post_data
  test('comes behind what was written before, and before what is written after', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    const [before, content, after] = [t.random.bytes(2 * MiB), t.random.bytes(3 * MiB), t.random.bytes(MiB)]
    const file = await fileOf(t, content)
    const received = client.readExactly(6 * MiB)
    transport.write('small')
    transport.write(before)
    const owned = transport.writeOwned(before)
    await send(t, transport, file)
    transport.write(after)
    transport.write('small')
    await owned
    assertBytes(await client.readExactly(0), Buffer.alloc(0))
    assertBytes(
      Buffer.concat([await received, await client.readExactly(2 * MiB + 10)]),
      Buffer.concat([Buffer.from('small'), before, before, content, after, Buffer.from('small')]),
    )
  })

  test('one file after the other', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const contents = Array.from({ length: 10 }, () => t.random.bytes(t.random.size(1, MiB)))
    const all = Buffer.concat(contents)
    const received = client.readExactly(all.length)
    for (const content of contents)
      assert.equal(await send(t, protocol.transport, await fileOf(t, content)), content.length)
    assertBytes(await received, all)
  })

  // asyncio: "RuntimeError: unable to write; sendfile is in progress" (CPython: test_sendfile_prevents_bare_write)
  test('whoever writes meanwhile is refused by name, also with another file', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    const content = t.random.bytes(100_000)
    const file = await fileOf(t, content)
    const sent = send(t, transport, file)
    assert.throws(() => transport.write('x'), { code: 'ERR_SHARDLOOP_STATE', message: /sendFile/ })
    assertThrows(() => transport.write(Buffer.alloc(MiB)), 'ERR_SHARDLOOP_STATE')
    assertThrows(() => transport.writev(['x']), 'ERR_SHARDLOOP_STATE')
    await assertRejects(async () => transport.writeOwned(Buffer.from('x')), 'ERR_SHARDLOOP_STATE')
    await assertRejects(() => send(t, transport, file), 'ERR_SHARDLOOP_STATE')
    assert.equal(await sent, content.length)
    transport.write('behind')
    assertBytes(await client.readExactly(content.length + 6), Buffer.concat([content, Buffer.from('behind')]))
  })

  test('writeEof meanwhile comes behind it, and so does a second one', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    const content = t.random.bytes(2 * MiB)
    const sent = send(t, transport, await fileOf(t, content))
    transport.writeEof()
    transport.writeEof()
    assertBytes(await client.readToEnd(), content)
    assert.equal(await sent, content.length)
    assertThrows(() => transport.write('x'), 'ERR_SHARDLOOP_STATE')
    await assertRejects(() => send(t, transport, 0), 'ERR_SHARDLOOP_STATE')
    await client.write('the other way is open')
    await protocol.receivedAtLeast(21)
  })

  // asyncio: transport.close() flushes; CPython: test_sendfile_close_peer_after_receiving
  test('close meanwhile comes behind it', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    const content = t.random.bytes(2 * MiB)
    const sent = send(t, transport, await fileOf(t, content))
    transport.close()
    assert.equal(transport.isClosing(), true)
    await client.write('nobody reads this')
    assertBytes(await client.readToEnd(), content)
    assert.equal(await sent, content.length)
    client.end()
    assert.equal(await protocol.lost(), null)
  })

  test('on a connection that is closed it is refused by name', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const file = await fileOf(t, Buffer.from('x'))
    protocol.transport.close()
    await assertRejects(() => send(t, protocol.transport, file), 'ERR_SHARDLOOP_CLOSED')
    client.end()
    await protocol.lost()
    await assertRejects(() => send(t, protocol.transport, file), 'ERR_SHARDLOOP_CLOSED')
  })

  test('a peer that stops reading costs no memory, and gets the rest later', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const content = t.random.bytes(LARGE_BYTES)
    const file = await fileOf(t, content)
    const before = process.memoryUsage().arrayBuffers
    const sent = send(t, protocol.transport, file)
    // Another connection has its turns meanwhile.
    const other = await t.pair(() => new Recorder())
    for (let round = 0; round < 20; round += 1) {
      await other.client.write('.')
      await other.protocol.receivedAtLeast(round + 1)
    }
    assert.ok(process.memoryUsage().arrayBuffers - before < 2 * MiB)
    assert.ok(protocol.transport.getWriteBufferSize() < MiB)
    client.resume()
    assertBytes(await client.readExactly(content.length), content)
    assert.equal(await sent, content.length)
  })

  // CPython: test_sendfile_close_peer_in_the_middle_of_receiving
  test(
    'a peer that resets in the middle rejects it with what connectionLost gets',
    async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
      const file = await fileOf(t, Buffer.alloc(LARGE_BYTES))
      const sent = send(t, protocol.transport, file)
      await client.write('go on')
      await protocol.receivedAtLeast(5)
      client.reset()
      const error = await sent.then(
        () => assert.fail('it was sent'),
        (reason: NodeJS.ErrnoException) => reason,
      )
      assert.ok(['ECONNRESET', 'EPIPE'].includes(error.code ?? ''), String(error))
      assert.equal(await protocol.lost(), error)
    },
    { notOverTls: 'a client of node:tls may say its end before it resets' },
  )

  test('abort and a signal end it: the signal with its reason, and the connection is lost', async (t) => {
    for (const by of ['abort', 'signal'] as const) {
      const { protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
      const file = await fileOf(t, Buffer.alloc(LARGE_BYTES))
      const aborting = new AbortController()
      const reason = new Error('enough of it')
      const sent = send(t, protocol.transport, file, 0, null, { signal: aborting.signal })
      if (by === 'abort') protocol.transport.abort(reason)
      else aborting.abort(reason)
      await assert.rejects(sent, reason)
      assert.equal(await protocol.lost(), reason)
    }
  })

  test('a signal that was aborted before does nothing else; one that is aborted after it does nothing', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const file = await fileOf(t, Buffer.from('a file'))
    const aborting = new AbortController()
    await assert.rejects(() => send(t, protocol.transport, file, 0, null, { signal: AbortSignal.abort() }), {
      name: 'AbortError',
    })
    assert.equal(await send(t, protocol.transport, file, 0, null, { signal: aborting.signal }), 6)
    aborting.abort()
    protocol.transport.write('!')
    assert.equal(String(await client.readExactly(7)), 'a file!')
  })

  test(
    'a FileHandle that is closed is EBADF; one that is closed right after the call is sent',
    async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      const content = t.random.bytes(4 * MiB)
      const file = await fileOf(t, content)
      const sent = send(t, protocol.transport, file)
      await file.close()
      assertBytes(await client.readExactly(content.length), content)
      assert.equal(await sent, content.length)
      await assertRejects(() => send(t, protocol.transport, file), 'EBADF')
      protocol.transport.write('on')
      await client.readExactly(2)
    },
    { notOverTls: 'the file is read and written, and has to stay open' },
  )

  test(
    'no descriptor is left of a file, whatever became of it',
    async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
      const path = t.path('counted')
      writeFileSync(path, Buffer.alloc(LARGE_BYTES))
      const count = (): number => [...openDescriptors().values()].filter((target) => target === path).length
      const file = await open(path)
      const sent = send(t, protocol.transport, file)
      await file.close()
      if (process.platform === 'linux') assert.equal(count(), 1, 'the duplicate')
      protocol.transport.abort()
      await assertRejects(() => sent, 'ERR_SHARDLOOP_CLOSED')
      assert.equal(count(), 0)
      await client.destroy()
    },
    { notOverTls: 'the file is read and written, and has to stay open' },
  )

  for (const [what, file, offset, count] of [
    ['no file', 'path', 0, null],
    ['no descriptor', -1, 0, null],
    ['a descriptor of more than 31 bits', 2 ** 32 + 1, 0, null],
    ['an offset below 0', 0, -1, null],
    ['an offset that is no integer', 0, 0.5, null],
    ['a count below 0', 0, 0, -1],
    ['a count that is no number', 0, 0, '1'],
  ] as const) {
    test(`${what} is refused by name`, async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      await assertRejects(
        () => send(t, protocol.transport, file as number, offset, count as number | null),
        'ERR_SHARDLOOP_ARGUMENT',
      )
      protocol.transport.write('on')
      await client.readExactly(2)
    })
  }

  test('a descriptor that is not open is EBADF', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    await assertRejects(() => send(t, protocol.transport, 2 ** 20), 'EBADF')
  })

  test('a directory is refused by the system, and the connection goes on', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder())
    const directory = await open(new URL('.', import.meta.url), constants.O_RDONLY)
    t.defer(() => directory.close())
    await assertRejects(() => send(t, protocol.transport, directory), 'EISDIR')
    await assert.rejects(() => send(t, protocol.transport, directory, 0, null, { fallback: false }), {
      // What is encrypted is nothing that the kernel could send by itself.
      code: t.tls === null ? /^(EINVAL|EISDIR|ENOTSUP|EOPNOTSUPP)$/ : 'ENOSYS',
      syscall: 'sendfile',
    })
    protocol.transport.write('on')
    await client.readExactly(2)
  })

  test('a file that gets shorter while it is sent ends with it', async (t) => {
    const { client, protocol } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const path = t.path('shrinks')
    writeFileSync(path, Buffer.alloc(LARGE_BYTES))
    const file = await open(path)
    t.defer(() => file.close())
    const sent = send(t, protocol.transport, file)
    truncateSync(path, 1)
    client.resume()
    const bytes = await sent
    assert.ok(bytes >= 1 && bytes < LARGE_BYTES, String(bytes))
    protocol.transport.close()
    assert.equal((await client.readToEnd()).length, bytes)
  })

  test('many connections send the same file at once', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const content = t.random.bytes(2 * MiB)
    const file = await fileOf(t, content)
    await Promise.all(
      Array.from({ length: 20 }, async (_, number) => {
        const { client, protocol } = await t.join(accepting)
        const sent = send(t, protocol.transport, file, number)
        assertBytes(await client.readExactly(content.length - number), content.subarray(number))
        assert.equal(await sent, content.length - number)
      }),
    )
  })

  test('a connection of ours to others sends files, too', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [transport] = await t.dial(accepting.server, () => new Recorder())
    const content = t.random.bytes(MiB)
    const sent = send(t, transport, await fileOf(t, content))
    transport.close()
    const other = await accepting.protocol(0)
    assertBytes(await other.receivedAtLeast(content.length), content)
    assert.equal(await sent, content.length)
    assert.equal(await other.lost(), null)
  })

  test('a server that is closed waits for the file', async (t) => {
    const { client, protocol, server } = await t.pair(() => new Recorder(), { client: { paused: true } })
    const content = t.random.bytes(LARGE_BYTES)
    const sent = send(t, protocol.transport, await fileOf(t, content))
    const closed = server.close()
    let isClosed = false
    void closed.then(() => {
      isClosed = true
    })
    const file = await fileOf(t, Buffer.from('a moment'))
    await file.stat()
    assert.equal(isClosed, false)
    client.resume()
    assertBytes(await client.readToEnd(), content)
    assert.equal(await sent, content.length)
    client.end()
    await closed
  })

  test('a shard that drains sends the file to its end', async (t) => {
    const content = t.random.bytes(LARGE_BYTES)
    const path = t.path('content')
    writeFileSync(path, content)
    const server = await t.serve(new URL('../fixtures/servers/file-module.js', import.meta.url), {
      shards: 2,
    })
    const client = await t.connect(server, { paused: true })
    await client.write(path)
    // It has begun once bytes come.
    client.resume()
    const first = await client.readExactly(1)
    client.pause()
    const closed = server.close()
    client.resume()
    assertBytes(Buffer.concat([first, await client.readToEnd()]), content)
    client.end()
    await closed
  })

  test('a loop that is closed ends it by name', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [transport] = await t.dial(accepting.server, () => new Recorder())
    ;(await accepting.protocol(0)).transport.pauseReading()
    const sent = send(t, transport, await fileOf(t, Buffer.alloc(LARGE_BYTES)))
    const refused = assertRejects(() => sent, 'ERR_SHARDLOOP_CLOSED')
    const { loop } = t
    await loop.close()
    await refused
    await assertRejects(() => loop.sendFile(transport, 0), 'ERR_SHARDLOOP_STATE')
  })
})

if (process.platform === 'linux') {
  // CPython: test_sendfile_fallback..., test_sendfile_no_fallback...
  forEveryTransport('sendFile of what the kernel does not send by itself', (test) => {
    test('reads and writes it', async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      const content = readFileSync(UNSENDABLE)
      const file = await unsendable(t)
      assert.equal(await send(t, protocol.transport, file), content.length)
      assert.equal(await send(t, protocol.transport, file, 5, 20), 20)
      assert.equal(await send(t, protocol.transport, file.fd, content.length - 3, 20), 3)
      protocol.transport.close()
      const expected = [content, content.subarray(5, 25), content.subarray(-3)]
      assertBytes(await client.readToEnd(), Buffer.concat(expected))
    })

    test('fallback: false refuses it, with the error of the system', async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      const file = await unsendable(t)
      await assert.rejects(() => send(t, protocol.transport, file, 0, null, { fallback: false }), {
        code: t.tls === null ? 'EINVAL' : 'ENOSYS',
        syscall: 'sendfile',
      })
      protocol.transport.write('on')
      assert.equal(String(await client.readExactly(2)), 'on')
    })

    for (const end of ['writeEof', 'close'] as const) {
      test(`${end} meanwhile comes behind it`, async (t) => {
        const { client, protocol } = await t.pair(() => new Recorder())
        const content = readFileSync(UNSENDABLE)
        const sent = send(t, protocol.transport, await unsendable(t))
        assertThrows(() => protocol.transport.write('x'), 'ERR_SHARDLOOP_STATE')
        protocol.transport[end]()
        assertBytes(await client.readToEnd(), content)
        assert.equal(await sent, content.length)
        client.end()
        assert.equal(await protocol.lost(), null)
      })
    }

    test('a FileHandle that is closed meanwhile is EBADF, and no other file is read in its place', async (t) => {
      const { client, protocol } = await t.pair(() => new Recorder())
      const file = await unsendable(t)
      const { fd } = file
      const sent = send(t, protocol.transport, file)
      const refused = assertRejects(() => sent, 'EBADF')
      await file.close()
      const path = t.path('secret')
      writeFileSync(path, 'secret')
      const taken = openSync(path, 'r')
      assert.equal(taken, fd, 'the next file has its number')
      await refused
      closeSync(taken)
      protocol.transport.close()
      assert.equal((await client.readToEnd()).length, 0)
    })

    test('abort and a signal end it', async (t) => {
      for (const by of ['abort', 'signal'] as const) {
        const { protocol } = await t.pair(() => new Recorder())
        const aborting = new AbortController()
        const reason = new Error('enough of it')
        const sent = send(t, protocol.transport, await unsendable(t), 0, null, { signal: aborting.signal })
        if (by === 'abort') protocol.transport.abort(reason)
        else aborting.abort(reason)
        await assert.rejects(sent, reason)
        assert.equal(await protocol.lost(), reason)
      }
    })
  })
}

function send(
  t: TestContext,
  transport: Transport,
  file: FileHandle | number,
  offset?: number,
  count?: number | null,
  options?: SendFileOptions,
): Promise<number> {
  return t.loop.sendFile(transport, file, offset, count, options)
}

/** An open file with this content, closed after the test. */
async function fileOf(t: TestContext, content: Uint8Array): Promise<FileHandle> {
  const path = t.path('file')
  writeFileSync(path, content)
  const file = await open(path)
  t.defer(() => file.close())
  return file
}

async function unsendable(t: TestContext): Promise<FileHandle> {
  const file = await open(UNSENDABLE)
  t.defer(() => file.close())
  return file
}
