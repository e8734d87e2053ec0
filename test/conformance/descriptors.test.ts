/** Watching descriptors (asyncio: "Watching file descriptors"; CPython: test_events, test_selector_events; uvloop: test_base). */
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { closeSync, openSync, readSync, writeSync } from 'node:fs'
import { createServer as createNetServer, type Socket } from 'node:net'
import { getLogger, getLoop, type RawSocket, setLogger } from '../../src/index.js'
import { Descriptors } from '../../src/loop/descriptors.js'
import { Scheduler } from '../../src/workers/scheduler.js'
import { Deferred } from '../harness/deferred.js'
import { assertAtRest, closing, pair, turn } from '../harness/raw-sockets.js'
import { Recorder } from '../harness/recorder.js'
import { RecordingLogger } from '../harness/recording-logger.js'
import { assertThrows, forEachEngine } from '../harness/suite.js'

forEachEngine('addReader and addWriter', (test) => {
  // CPython: test_events.test_add_reader... ; RLoop: event_loop.rs add_reader
  test('a reader is called with its arguments while there is something to read, and not before', async (t) => {
    const [one, other] = pair(t)
    const calls: unknown[][] = []
    t.loop.addReader(one, (...args: unknown[]) => void calls.push(args), 'a', 2)
    await turn(t)
    assert.equal(calls.length, 0)
    await t.loop.sockSendall(other, Buffer.from('x'))
    await turn(t)
    await turn(t)
    assert.deepEqual(calls, [
      ['a', 2],
      ['a', 2],
    ])
    // Taken within a callback it is told no more.
    assert.equal(t.loop.removeReader(one), true)
    assert.equal((await t.loop.sockRecv(one, 10)).toString(), 'x')
    t.loop.addReader(one, () => void calls.push([]))
    await turn(t)
    assert.equal(calls.length, 2)
  })

  test('a writer is called while there is room, and a descriptor has both', async (t) => {
    const [one, other] = pair(t)
    const calls: string[] = []
    t.loop.addWriter(one, () => void calls.push('writer'))
    t.loop.addReader(one, () => void calls.push('reader'))
    await turn(t)
    assert.deepEqual(calls, ['writer'])
    await t.loop.sockSendall(other, Buffer.from('x'))
    await turn(t)
    assert.deepEqual(calls, ['writer', 'reader', 'writer'])
    assert.equal(t.loop.removeWriter(one), true)
    await turn(t)
    assert.deepEqual(calls, ['writer', 'reader', 'writer', 'reader'])
  })

  // asyncio: selector_events._add_reader cancels the one before and keeps the writer. RLoop registers the old interest again.
  test('another reader takes the place of the first, and the writer stays', async (t) => {
    const [one, other] = pair(t)
    await t.loop.sockSendall(other, Buffer.from('x'))
    const calls: string[] = []
    t.loop.addWriter(one, () => void calls.push('writer'))
    t.loop.addReader(one, () => void calls.push('first'))
    t.loop.addReader(one, () => void calls.push('second'))
    await turn(t)
    assert.deepEqual(calls, ['second', 'writer'])
  })

  test('removing says whether there was one, by RawSocket as by number', async (t) => {
    const [one] = pair(t)
    assert.equal(t.loop.removeReader(one), false)
    t.loop.addReader(one.fd, () => {})
    assert.equal(t.loop.removeWriter(one), false)
    assert.equal(t.loop.removeReader(one), true)
    assert.equal(t.loop.removeReader(one.fd), false)
    t.loop.addWriter(one, () => {})
    assert.equal(t.loop.removeWriter(one.fd), true)
    assert.equal(t.loop.removeWriter(2 ** 30), false)
  })

  // asyncio: _process_events makes handles of what is ready, and one that is cancelled by then is not run.
  test('who is removed by another one of the same turn is not called', async (t) => {
    const sockets = Array.from({ length: 8 }, () => pair(t))
    const calls: RawSocket[] = []
    for (const [one, other] of sockets) {
      await t.loop.sockSendall(other, Buffer.from('x'))
      t.loop.addReader(one, () => {
        calls.push(one)
        for (const [socket] of sockets) t.loop.removeReader(socket)
      })
    }
    await turn(t)
    assert.equal(calls.length, 1)
  })

  test('who is added in the place of another one of the same turn is called in the next', async (t) => {
    const sockets = Array.from({ length: 4 }, () => pair(t))
    const calls: string[] = []
    for (const [one, other] of sockets) {
      await t.loop.sockSendall(other, Buffer.from('x'))
      t.loop.addReader(one, () => {
        calls.push('old')
        for (const [socket] of sockets) t.loop.addReader(socket, () => void calls.push('new'))
      })
    }
    await turn(t)
    assert.deepEqual(calls, ['old'])
    await turn(t)
    assert.deepEqual(calls, ['old', 'new', 'new', 'new', 'new'])
  })

  test('what a callback throws reaches the exception handler, and it is called again', async (t) => {
    const [one] = pair(t)
    const told: string[] = []
    t.loop.setExceptionHandler(({ message, exception, handle }) => {
      told.push(`${message}: ${(exception as Error).message} ${handle?.cancelled()}`)
    })
    t.loop.addWriter(one, () => {
      throw new Error('mine')
    })
    await turn(t)
    await turn(t)
    assert.deepEqual(told, Array(2).fill('a callback of addWriter threw: mine false'))
  })

  // asyncio: Handle has the context of the call that made it
  test('a callback runs in the async context of its addReader', async (t) => {
    const [one] = pair(t)
    const storage = new AsyncLocalStorage<string>()
    const seen: (string | undefined)[] = []
    storage.run('of addWriter', () => t.loop.addWriter(one, () => void seen.push(storage.getStore())))
    storage.run('of another', () => t.loop.callSoon(() => {}))
    await turn(t)
    assert.deepEqual(seen, ['of addWriter'])
  })

  test('next ticks and microtasks of callbacks run behind the batch', async (t) => {
    const [one] = pair(t)
    const [two] = pair(t)
    const order: string[] = []
    for (const socket of [one, two]) {
      t.loop.addWriter(socket, () => {
        order.push('callback')
        t.loop.removeWriter(socket)
        process.nextTick(() => order.push('tick'))
      })
    }
    await turn(t)
    assert.deepEqual(order, ['callback', 'callback', 'tick', 'tick'])
  })

  test('debug mode names a slow callback, where it was added, and one that waits for what was closed', async (t) => {
    const before = getLogger()
    const records = new RecordingLogger()
    setLogger(records)
    t.loop.setDebug(true)
    const duration = t.loop.slowCallbackDuration
    t.loop.slowCallbackDuration = 0.02
    t.defer(() => {
      getLoop().slowCallbackDuration = duration
      getLoop().setDebug(false)
      setLogger(before)
    })
    const [one] = pair(t)
    t.loop.addWriter(one, function slowOne() {
      t.loop.removeWriter(one)
      for (const end = performance.now() + 30; performance.now() < end; );
    })
    const { message, fields } = await records.record(/took/)
    assert.match(message, /^the callback slowOne of addWriter took 0\.\d{3} seconds$/)
    assert.match(String(fields['scheduledAt']), /descriptors\.test/)

    // And a watch that is found to be of what was closed.
    const fd = one.detach()
    t.loop.addReader(fd, function forgotten() {})
    closeSync(fd)
    const [next] = pair(t)
    assert.equal(next.fd, fd)
    t.loop.addWriter(next, () => {})
    const dropped = await records.record(/dropped/)
    assert.equal(dropped.message, 'the callback forgotten of addReader is dropped')
    assert.match(String(dropped.fields['err']), /EBADF.*was closed while it was waited for/)
  })

  // uvloop: test_tcp/test_unix "test_..._pipe"; asyncio's documentation watches a socketpair
  test('pipes, terminals and descriptors that libuv itself watches can be watched', async (t) => {
    const child = spawn('cat', [], { stdio: ['pipe', 'pipe', 'ignore'] })
    t.defer(() => child.kill())
    const { fd } = (child.stdout as unknown as { _handle: { fd: number } })._handle
    const readable = new Deferred()
    t.loop.addReader(fd, () => {
      t.loop.removeReader(fd)
      readable.resolve()
    })
    child.stdin.end('through the pipe')
    const [chunk] = await once(child.stdout, 'data')
    assert.equal(String(chunk), 'through the pipe')
    await once(child, 'close')

    const server = createNetServer().listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.defer(() => server.close())
    const accepted = once(server, 'connection') as Promise<[Socket]>
    const client = await t.connect((server.address() as { port: number }).port)
    const [socket] = await accepted
    const number = (socket as unknown as { _handle: { fd: number } })._handle.fd
    let calls = 0
    const told = new Deferred()
    t.loop.addReader(number, () => {
      calls += 1
      t.loop.removeReader(number)
      told.resolve()
    })
    socket.once('data', (data) => socket.end(data))
    await client.write('to node:net')
    await told.promise
    assert.equal((await client.readToEnd()).toString(), 'to node:net')
    assert.equal(calls, 1)
    client.end()
  })

  test('closing the loop ends every watch', async (t) => {
    const [one, other] = pair(t)
    let calls = 0
    const { loop } = t
    loop.addWriter(one, () => void calls++)
    loop.addReader(other, () => void calls++)
    await turn(t)
    const before = calls
    await loop.close()
    for (let round = 0; round < 3; round++) await new Promise(setImmediate)
    assert.equal(calls, before)
    assert.throws(() => loop.addReader(one, () => {}), { code: 'ERR_SHARDLOOP_STATE', message: /^addReader/ })
    assert.throws(() => loop.removeWriter(one), { code: 'ERR_SHARDLOOP_STATE' })
    const next = getLoop()
    t.defer(() => next.close())
    await new Promise<void>((resolve) => next.addWriter(one, resolve))
    next.removeWriter(one)
  })

  test('a loop that is closed by a callback calls nobody else', async (t) => {
    const sockets = Array.from({ length: 4 }, () => pair(t)[0])
    let calls = 0
    const closed = new Deferred()
    for (const socket of sockets) {
      t.loop.addWriter(socket, () => {
        calls += 1
        t.loop.close().then(closed.resolve)
      })
    }
    await closed.promise
    assert.equal(calls, 1)
  })

  test('watching keeps a thread alive, and removing lets it end', async (t) => {
    const child = t.start('watching', ['reader'])
    await child.line(/^watching$/)
    await child.line(/^still here$/)
    child.send('bytes')
    await child.line(/^readable: bytes$/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  // asyncio: _ensure_fd_no_transport, "File descriptor … is used by transport"
  test('descriptors of transports and servers of this thread are refused', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const { client, protocol } = await t.join(accepting)
    const fd = protocol.transport.getExtraInfo('socket')?.fileno() as number
    for (const used of [fd, accepting.server.sockets[0]?.fileno() as number]) {
      assert.ok(used > 2)
      assertThrows(() => t.loop.addReader(used, () => {}), 'ERR_SHARDLOOP_ARGUMENT')
      assertThrows(() => t.loop.addWriter(used, () => {}), 'ERR_SHARDLOOP_ARGUMENT')
      await assert.rejects(() => t.loop.sockRecv(used, 1), {
        code: 'ERR_SHARDLOOP_ARGUMENT',
        message: /is used by a transport/,
      })
    }
    await client.write('whole')
    assert.equal((await protocol.receivedAtLeast(5)).toString(), 'whole')
    client.end()
    await protocol.lost()
  })

  test('arguments that cannot be are refused by name, and change nothing', async (t) => {
    const [one] = pair(t)
    // biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
    const any = t.loop as any
    for (const fd of [-1, 1.5, '3', null, undefined, {}, Number.NaN, 2 ** 31]) {
      assertThrows(() => any.addReader(fd, () => {}), 'ERR_SHARDLOOP_ARGUMENT')
      assertThrows(() => any.removeReader(fd), 'ERR_SHARDLOOP_ARGUMENT')
    }
    for (const callback of [undefined, null, 'function', {}])
      assertThrows(() => any.addWriter(one, callback), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(t.loop.removeWriter(one), false)
    one.close()
    assertThrows(() => t.loop.addReader(one, () => {}), 'EBADF')
    assert.equal(t.loop.removeReader(one), false)
  })

  test('a file that is always ready cannot be watched, nor can a number that is no descriptor', async (t) => {
    const file = openSync(process.execPath, 'r')
    t.defer(() => closeSync(file))
    if (process.platform === 'linux') {
      assert.throws(() => t.loop.addReader(file, () => {}), {
        code: 'EPERM',
        syscall: 'epoll_ctl',
        message: new RegExp(`descriptor ${file}, a file that is always ready`),
      })
    }
    assertThrows(() => t.loop.addReader(1_000_000, () => {}), 'EBADF')
    assert.equal(t.loop.removeReader(file), false)
    // And nothing of it is left: the thread's watcher works, and ends.
    const [one] = pair(t)
    let calls = 0
    t.loop.addWriter(one, () => void calls++)
    await turn(t)
    assert.equal(calls, 1)
  })

  test('more descriptors than the bound are refused, and one less makes room', async (t) => {
    const scheduler = new Scheduler((error) => assert.fail(error as Error))
    const descriptors = new Descriptors(scheduler, 3)
    t.defer(() => Promise.all([descriptors.close(new Error('the end')), scheduler.close()]))
    const sockets = [pair(t), pair(t)].flat()
    const add = (index: number): void => descriptors.add('writer', sockets[index] as RawSocket, () => {}, [])
    for (const index of [0, 1, 2]) add(index)
    assert.throws(() => add(3), { code: 'ERR_SHARDLOOP_STATE', message: /^3 descriptors are watched/ })
    descriptors.add('reader', sockets[0] as RawSocket, () => {}, [])
    descriptors.remove('writer', sockets[1] as RawSocket)
    add(3)
    assert.throws(() => add(1), { code: 'ERR_SHARDLOOP_STATE' })
  })
})

forEachEngine('descriptors that are closed while they are watched', (test) => {
  test('a RawSocket takes its watches out when it is closed', async (t) => {
    const [one, other] = pair(t)
    let calls = 0
    t.loop.addReader(one, () => void calls++)
    t.loop.addWriter(one, () => void calls++)
    const { fd } = one
    one.close()
    assert.equal(t.loop.removeReader(fd), false)
    other.close()
    // The number is another one's now.
    const [next] = pair(t)
    assert.equal(next.fd, fd)
    await turn(t)
    assert.equal(calls, 0)
  })

  test('a number that is closed is told nothing of, and neither is what has it next', async (t) => {
    const [one, other] = pair(t)
    let calls = 0
    const fd = one.detach()
    t.loop.addReader(fd, () => void calls++)
    closeSync(fd)
    const [next, peer] = pair(t)
    assert.equal(next.fd, fd, 'the lowest number that is free')
    await t.loop.sockSendall(peer, Buffer.from('for another'))
    await turn(t)
    assert.equal(calls, 0)
    // The new one can be watched, for either, and the old one is over.
    let fresh = 0
    t.loop.addWriter(next, () => void fresh++)
    await turn(t)
    assert.deepEqual([calls, fresh], [0, 1])
    assert.equal(t.loop.removeReader(next), false)
    assert.equal((await t.loop.sockRecv(next, 100)).toString(), 'for another')
    other.close()
  })

  test('the same by number only', async (t) => {
    const [one] = pair(t)
    let calls = 0
    const fd = one.detach()
    t.loop.addReader(fd, () => void calls++)
    closeSync(fd)
    const [next, peer] = pair(t)
    const again = next.detach()
    assert.equal(again, fd)
    await t.loop.sockSendall(peer, Buffer.from('for another'))
    let fresh = 0
    t.loop.addWriter(again, () => void fresh++)
    await turn(t)
    assert.deepEqual([calls, fresh], [0, 1])
    assert.equal(t.loop.removeReader(again), false, 'the reader was of another descriptor')
    assert.equal(t.loop.removeWriter(again), true)
    closeSync(again)
  })

  // epoll(7), "Will closing a file descriptor cause it to be removed from all epoll interest lists?": not while a duplicate lives.
  for (const removes of [false, true]) {
    for (const number of ['free', "a file's", 'that of a socket that is watched'] as const) {
      const what = `${removes ? 'closed and then removed' : 'closed'} while a child has its file`
      test(`what is ${what}, its number now being ${number}: nobody is called, nothing spins`, async (t) => {
        const [one, other] = pair(t)
        const fd = one.detach()
        const [probe, bystander] = pair(t)
        // The child does nothing with it, and holds it open.
        const child = spawn('cat', [], { stdio: ['pipe', 'ignore', 'ignore', fd] })
        t.defer(() => child.kill())
        await once(child, 'spawn')
        let [calls, others, news] = [0, 0, 0]
        t.loop.addReader(fd, () => void calls++)
        t.loop.addReader(bystander, () => void others++)
        await turn(t, probe)
        closeSync(fd)
        if (removes) assert.equal(t.loop.removeReader(fd), true)
        let peer: RawSocket | undefined
        if (number === "a file's") {
          assert.equal(openSync('/dev/zero', 'r'), fd)
          t.defer(() => closeSync(fd))
        } else if (number === 'that of a socket that is watched') {
          const [next, its] = pair(t)
          peer = its
          assert.equal(next.fd, fd)
          t.loop.addReader(next, () => {
            news += 1
            t.loop.removeReader(next)
          })
        }
        // What the watch was of is readable now, and stays so.
        await t.loop.sockSendall(other, Buffer.from('for the child'))
        await turn(t, probe)
        await turn(t, probe)
        assert.deepEqual([calls, others, news], [0, 0, 0])
        await assertAtRest()
        if (peer !== undefined) {
          await t.loop.sockSendall(peer, Buffer.from('for the new one'))
          await turn(t, probe)
          assert.deepEqual([calls, others, news], [0, 0, 1])
        }
        // Who watched beside it is told as before.
        t.loop.addWriter(bystander, () => void others++)
        await turn(t, probe)
        assert.equal(others, 1)
        child.stdin?.end()
        await once(child, 'exit')
      })
    }
  }

  test('a pipe whose other end is closed is told to its reader and to its writer', async (t) => {
    const child = spawn('cat', [], { stdio: ['pipe', 'pipe', 'ignore'] })
    t.defer(() => child.kill())
    const [one, other] = pair(t)
    const calls: string[] = []
    t.loop.addReader(one, () => {
      calls.push('reader')
      t.loop.removeReader(one)
    })
    other.close()
    await turn(t)
    assert.deepEqual(calls, ['reader'])
    assert.equal((await t.loop.sockRecv(one, 1)).length, 0)
    child.kill()
    await once(child, 'close')
  })

  test('numbers stay whose they are after detach', async (t) => {
    const [one, other] = pair(t)
    const fd = one.detach()
    assert.equal(one.fd, -1)
    writeSync(fd, 'by number')
    assert.equal((await t.loop.sockRecv(other, 100)).toString(), 'by number')
    other.close()
    assert.equal(readSync(fd, Buffer.alloc(10)), 0)
    closeSync(fd)
    assertThrows(() => one.detach(), 'EBADF')
    closing(t, one).close()
  })
})
