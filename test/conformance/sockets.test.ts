/**
 * Sockets of the program's own (asyncio: "Working with socket objects directly"; RLoop, TokioLoop: tests/test_sockets.py,
 * tests/tcp/test_tcp_server.py; CPython: test_sock_lowlevel.py; uvloop: test_tcp, test_sockets).
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { closeSync } from 'node:fs'
import { connect, type Socket } from 'node:net'
import { constants } from 'node:os'
import { getLoop, openSocket, type RawSocket, socketPair } from '../../src/index.js'
import { SOCKET_OPERATIONS_MAX, SOCKET_RECEIVE_MAX_BYTES } from '../../src/limits.js'
import { assertBytes } from '../harness/client.js'
import { MiB } from '../harness/memory.js'
import {
  anywhere,
  assertAtRest,
  closing,
  connected,
  FAMILIES,
  fill,
  listening,
  open,
  pair,
  receiveAll,
  turn,
  whereOf,
} from '../harness/raw-sockets.js'
import { Recorder } from '../harness/recorder.js'
import { assertRejects, assertThrows, forEachEngine, type TestContext, whereIs } from '../harness/suite.js'

/** As in RLoop's tests. */
const SIZE = MiB
/** As in TokioLoop's. */
const ECHO_SIZE = 1_024_000

forEachEngine('sockets of the program', (test) => {
  for (const family of FAMILIES) {
    // RLoop and TokioLoop: test_socket_accept_recv
    test(`${family}: a connection that sockAccept gave receives 1 MiB`, async (t) => {
      const listener = listening(t, family)
      const data = t.random.bytes(SIZE)
      const client = dial(t, listener)
      client.end(data)
      const [accepted, address] = await t.loop.sockAccept(listener)
      closing(t, accepted)
      assert.deepEqual(address, accepted.getpeername())
      assertBytes(await receiveAll(t.loop, accepted, SIZE), data)
      assert.equal((await t.loop.sockRecv(accepted, 1)).length, 0, 'the end')
    })

    // RLoop and TokioLoop: test_socket_accept_send
    test(`${family}: a connection that sockAccept gave sends 1 MiB`, async (t) => {
      const listener = listening(t, family)
      const data = t.random.bytes(SIZE)
      const client = dial(t, listener)
      const chunks: Buffer[] = []
      client.on('data', (chunk) => chunks.push(chunk))
      const [accepted] = await t.loop.sockAccept(listener)
      await t.loop.sockSendall(accepted, data)
      accepted.close()
      await once(client, 'end')
      assertBytes(Buffer.concat(chunks), data)
    })

    // TokioLoop: test_raw_tcp_server
    test(`${family}: an echo by sockAccept, sockRecv and sockSendall, to a client that has ended its half`, async (t) => {
      const listener = listening(t, family)
      const serve = async (): Promise<void> => {
        const [client] = await t.loop.sockAccept(listener)
        if (family !== 'unix') client.setOption('noDelay', true)
        for (;;) {
          const data = await t.loop.sockRecv(client, 102_400)
          if (data.length === 0) break
          await t.loop.sockSendall(client, data)
        }
        client.close()
      }
      const serving = serve()
      const client = open(t, family)
      await t.loop.sockConnect(client, listener.getsockname())
      const data = t.random.bytes(ECHO_SIZE)
      const sending = t.loop.sockSendall(client, data).then(() => client.shutdown('write'))
      assertBytes(await receiveAll(t.loop, client, ECHO_SIZE), data)
      await Promise.all([sending, serving])
      assert.equal((await t.loop.sockRecv(client, 1)).length, 0)
    })

    // CPython: test_sock_lowlevel.test_recvfrom, test_sendto_blocking
    test(`${family}: datagrams go by sockSendto and come by sockRecvfrom, with the sender's address`, async (t) => {
      const [one, other] = [open(t, family, 'datagram'), open(t, family, 'datagram')]
      one.bind(anywhere(t, family))
      other.bind(anywhere(t, family))
      const waiting = t.loop.sockRecvfrom(other, 65_536)
      assert.equal(await t.loop.sockSendto(one, Buffer.from('first'), other.getsockname()), 5)
      const [first, from] = await waiting
      assert.equal(first.toString(), 'first')
      assert.deepEqual(from, one.getsockname())
      assert.equal(await t.loop.sockSendto(other, Buffer.alloc(0), from as never), 0)
      const room = Buffer.alloc(8)
      assert.deepEqual(await t.loop.sockRecvfromInto(one, room), [0, other.getsockname()])
      await t.loop.sockSendto(other, Buffer.from('cut off at eight'), from as never)
      assert.deepEqual(await t.loop.sockRecvfromInto(one, room), [8, other.getsockname()])
      assert.equal(room.toString(), 'cut off ')
    })

    // CPython: test_create_connection_sock, test_connect_accepted_socket
    test(`${family}: an accepted socket goes on as a transport, and so does one that connected`, async (t) => {
      const [accepted, client] = await connected(t, family)
      await t.loop.sockSendall(client, Buffer.from('before '))
      const { fd } = accepted
      const waiting = t.loop.sockRecv(client, 1)
      const { engine } = t
      const [transport, protocol] = await t.loop.connectAcceptedSocket(() => new Recorder(), {
        socket: accepted,
        engine,
      })
      assert.equal(accepted.fd, -1, 'it was detached')
      assert.equal(transport.getExtraInfo('socket')?.fileno(), fd)
      transport.write('!')
      assert.equal((await waiting).toString(), '!')
      const create = family === 'unix' ? 'createUnixConnection' : 'createConnection'
      const [ours, other] = await t.loop[create](() => new Recorder(), { socket: client, engine })
      ours.write('and after')
      assert.equal((await protocol.receivedAtLeast(16)).toString(), 'before and after')
      ours.close()
      assert.equal(await protocol.lost(), null)
      assert.equal(await other.lost(), null)
    })
  }

  test('a socket that cannot be a transport stays the RawSocket that it was', async (t) => {
    const listener = listening(t, 'IPv4')
    const { engine } = t
    const take = (socket: RawSocket): Promise<unknown> =>
      t.loop.connectAcceptedSocket(() => new Recorder(), { socket, engine })
    await assert.rejects(() => take(listener), { code: 'ENOTCONN', syscall: 'getpeername' })
    assert.ok(listener.fd >= 0)
    dial(t, listener)
    closing(t, (await t.loop.sockAccept(listener))[0])
    listener.close()
    await assert.rejects(() => take(listener), { code: 'EBADF' })
  })

  test('a RawSocket talks to a server of ours in the same thread', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const client = open(t, 'IPv4')
    const port = whereIs(accepting.server) as number
    await t.loop.sockConnect(client, { address: '127.0.0.1', port })
    const protocol = await accepting.protocol(0)
    await t.loop.sockSendall(client, Buffer.from('to a protocol'))
    assert.equal((await protocol.receivedAtLeast(13)).toString(), 'to a protocol')
    protocol.transport.write('and back')
    assert.equal((await receiveAll(t.loop, client, 8)).toString(), 'and back')
    client.close()
    assert.equal(await protocol.lost(), null)
  })

  // CPython: test_sock_lowlevel.test_sock_client_connect... with a name; sock_connect looks names up since 3.4
  test('sockConnect looks a name up, among addresses of the family of the socket', async (t) => {
    const listener = listening(t, 'IPv4')
    const port = whereOf(listener.getsockname()) as number
    const client = open(t, 'IPv4')
    await t.loop.sockConnect(client, { address: 'localhost', port })
    assert.deepEqual(client.getpeername(), listener.getsockname())
    await assert.rejects(
      () => t.loop.sockConnect(open(t, 'IPv4'), { address: 'no-such-name.invalid', port }),
      { syscall: 'getaddrinfo' },
    )
  })

  // CPython: test_sock_lowlevel.test_sock_client_fail
  test('nobody there is ECONNREFUSED with the address, and a socket that is not connected is ENOTCONN', async (t) => {
    const listener = listening(t, 'IPv4')
    const { port } = listener.getsockname() as { port: number }
    listener.close()
    const client = open(t, 'IPv4')
    await assert.rejects(() => t.loop.sockConnect(client, { address: '127.0.0.1', port }), {
      code: 'ECONNREFUSED',
      errno: -constants.errno.ECONNREFUSED,
      syscall: 'connect',
      address: '127.0.0.1',
      port,
    })
    await assert.rejects(() => t.loop.sockConnect(open(t, 'unix'), t.path()), {
      code: 'ENOENT',
      syscall: 'connect',
    })
    await assert.rejects(() => t.loop.sockRecv(open(t, 'IPv4'), 1), { code: 'ENOTCONN', syscall: 'recv' })
    await assertRejects(() => t.loop.sockAccept(open(t, 'IPv4')), 'EINVAL')
  })

  test('a Unix listener whose queue is full is tried until there is room', async (t) => {
    const listener = listening(t, 'unix', 1)
    const path = listener.getsockname()
    const clients: RawSocket[] = []
    const connecting = Array.from({ length: 5 }, async () => {
      const client = open(t, 'unix')
      await t.loop.sockConnect(client, path)
      clients.push(client)
    })
    await Promise.race(connecting)
    await turn(t)
    assert.ok(clients.length < 5, `${clients.length} are in a queue for two`)
    const abort = new AbortController()
    const calledOff = t.loop.sockConnect(open(t, 'unix'), path, { signal: abort.signal })
    abort.abort(new Error('called off'))
    await assert.rejects(calledOff, /called off/)
    for (let nth = 0; nth < 5; nth++) closing(t, (await t.loop.sockAccept(listener))[0])
    await Promise.all(connecting)
    assert.equal(clients.length, 5)
  })

  // CPython: test_sock_lowlevel.test_huge_content
  test('both ends send at once more than the system holds, and receive by sockRecvInto', async (t) => {
    const [one, other] = await connected(t, 'IPv4')
    const flow = async (from: RawSocket, to: RawSocket): Promise<void> => {
      const data = t.random.bytes(8 * MiB)
      const sending = t.loop.sockSendall(from, data)
      const into = Buffer.alloc(data.length)
      for (let at = 0; at < into.length; ) at += await t.loop.sockRecvInto(to, into.subarray(at))
      assertBytes(into, data)
      await sending
    }
    await Promise.all([flow(one, other), flow(other, one)])
  })
})

forEachEngine('operations on sockets that wait', (test) => {
  test('several of one direction are served in the order of their calls', async (t) => {
    const [one, other] = pair(t)
    const received = ['a', 'b', 'c', 'd'].map(() => t.loop.sockRecv(one, 1))
    await t.loop.sockSendall(other, Buffer.from('abcd'))
    assert.equal(Buffer.concat(await Promise.all(received)).toString(), 'abcd')

    const filled = fill(one)
    const sent: string[] = []
    const sending = ['first', 'second', 'third'].map(async (text) => {
      await t.loop.sockSendall(one, Buffer.from(text))
      sent.push(text)
    })
    await turn(t)
    assert.deepEqual(sent, [])
    const all = await receiveAll(t.loop, other, filled + 16)
    await Promise.all(sending)
    assert.deepEqual(sent, ['first', 'second', 'third'])
    assert.equal(all.subarray(filled).toString(), 'firstsecondthird')
  })

  test('they may be called off, and then nothing waits and nothing is lost', async (t) => {
    const [one, other] = pair(t)
    const reason = new Error('called off')
    const abort = new AbortController()
    const { signal } = abort
    const listener = listening(t, 'IPv4')
    const kept = t.loop.sockRecv(one, 10)
    fill(other)
    assert.equal((await kept).length, 10)
    const waiting = [
      t.loop.sockSendall(other, Buffer.alloc(4096), { signal }),
      t.loop.sockAccept(listener, { signal }),
      t.loop.sockRecv(pair(t)[0], 1, { signal }),
      t.loop.sockRecvfromInto(pair(t)[0], Buffer.alloc(1), { signal }),
    ]
    const behind = t.loop.sockAccept(listener)
    await turn(t)
    abort.abort(reason)
    await Promise.all(waiting.map((operation) => assert.rejects(operation, (error) => error === reason)))
    await assert.rejects(t.loop.sockRecv(one, 1, { signal }), (error) => error === reason, 'from the start')
    dial(t, listener)
    closing(t, (await behind)[0])
  })

  test('closing a RawSocket, detaching it or closing the loop ends those that wait for it', async (t) => {
    const [one, other] = pair(t)
    fill(one)
    const waiting = [
      t.loop.sockSendall(one, Buffer.alloc(4096)),
      t.loop.sockRecv(one, 1),
      t.loop.sockRecv(one, 1),
    ]
    one.close()
    await Promise.all(waiting.map((operation) => assertRejects(() => operation, 'ERR_SHARDLOOP_CLOSED')))
    await assertRejects(() => t.loop.sockRecv(one, 1), 'EBADF')
    one.close()

    const [two] = pair(t)
    const held = t.loop.sockRecv(two, 1)
    const fd = two.detach()
    await assert.rejects(held, { code: 'ERR_SHARDLOOP_CLOSED', message: new RegExp(`${fd}, was detached`) })
    closeSync(fd)

    const [three] = pair(t)
    const { loop } = t
    const last = assert.rejects(loop.sockRecv(three, 1), {
      code: 'ERR_SHARDLOOP_CLOSED',
      message: /the loop was closed/,
    })
    await Promise.all([last, loop.close()])
    await assert.rejects(() => loop.sockRecv(three, 1), { code: 'ERR_SHARDLOOP_STATE' })
    // Another loop of the thread goes on with the same socket.
    const next = getLoop()
    t.defer(() => next.close())
    const [four, five] = pair(t)
    const received = next.sockRecv(four, 5)
    await next.sockSendall(five, Buffer.from('again'))
    assert.equal((await received).toString(), 'again')
    other.close()
  })

  test('a descriptor has a reader or operations that read, not both', async (t) => {
    const [one, other] = pair(t)
    t.loop.addReader(one, () => {})
    await assert.rejects(() => t.loop.sockRecv(one, 1), {
      code: 'ERR_SHARDLOOP_STATE',
      message: /has a reader.*removeReader first/,
    })
    t.loop.removeReader(one)
    const waiting = t.loop.sockRecv(one, 1)
    assertThrows(() => t.loop.addReader(one, () => {}), 'ERR_SHARDLOOP_STATE')
    assert.equal(t.loop.removeReader(one), false, 'an operation is not removed by it')
    // The other direction is free.
    let writable = 0
    t.loop.addWriter(one, () => void writable++)
    await turn(t)
    t.loop.removeWriter(one)
    assert.equal(writable, 1)
    await t.loop.sockSendall(other, Buffer.from('x'))
    assert.equal((await waiting).toString(), 'x')
    t.loop.addReader(one, () => {})
  })

  test('more than 1,024 that wait for one direction are refused, and those that wait are served', async (t) => {
    const [one, other] = pair(t)
    const waiting = Array.from({ length: SOCKET_OPERATIONS_MAX }, () => t.loop.sockRecv(one, 1))
    await assert.rejects(() => t.loop.sockRecv(one, 1), {
      code: 'ERR_SHARDLOOP_STATE',
      message: /1024 operations wait/,
    })
    const data = t.random.bytes(SOCKET_OPERATIONS_MAX)
    await t.loop.sockSendall(other, data)
    assertBytes(Buffer.concat(await Promise.all(waiting)), data)
  })

  test('a program whose operations never wait leaves others their turn', async (t) => {
    const [one, other] = pair(t)
    await t.loop.sockSendall(other, Buffer.alloc(2000))
    let [received, atTurn] = [0, 0]
    setImmediate(() => {
      atTurn = received
    })
    while (received < 2000) received += (await t.loop.sockRecv(one, 1)).length
    assert.ok(atTurn > 0 && atTurn < 200, `${atTurn} operations before an immediate had its turn`)
  })

  test('an operation that waits keeps a thread alive, and a watch that nobody waits for does not', async (t) => {
    const child = t.start('watching', ['operation'])
    await child.line(/^received: x$/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('what comes for a socket that nobody waits for any more makes the loop turn once, not for ever', async (t) => {
    const [one, other] = pair(t)
    const received = t.loop.sockRecv(one, 1)
    await t.loop.sockSendall(other, Buffer.from('abc'))
    assert.equal((await received).toString(), 'a')
    await assertAtRest()
    assert.equal((await t.loop.sockRecv(one, 2)).toString(), 'bc')
    const again = t.loop.sockRecv(one, 1)
    await t.loop.sockSendall(other, Buffer.from('d'))
    assert.equal((await again).toString(), 'd')
  })

  test('what is received is of its exact size, and at most 1 MiB at once', async (t) => {
    const [one, other] = pair(t)
    one.setOption('receiveBufferSize', 4 * MiB)
    other.setOption('sendBufferSize', 4 * MiB)
    const data = t.random.bytes(5)
    await t.loop.sockSendall(other, data)
    const small = await t.loop.sockRecv(one, 2 ** 31 - 1)
    assertBytes(small, data)
    assert.equal(small.buffer.byteLength, 5)
    const many = t.random.bytes(3 * MiB)
    const sending = t.loop.sockSendall(other, many)
    const chunks: Buffer[] = []
    for (let left = many.length; left > 0; ) {
      const chunk = await t.loop.sockRecv(one, 2 ** 31 - 1)
      assert.ok(chunk.length > 0 && chunk.length <= SOCKET_RECEIVE_MAX_BYTES)
      chunks.push(chunk)
      left -= chunk.length
    }
    assertBytes(Buffer.concat(chunks), many)
    await sending
  })

  test('memory that is detached while an operation waits ends it by name', async (t) => {
    const [one, other] = pair(t)
    const detach = (array: Uint8Array<ArrayBuffer>): void =>
      void structuredClone(array.buffer, { transfer: [array.buffer] })
    const into = new Uint8Array(100)
    const receiving = t.loop.sockRecvInto(one, into)
    detach(into)
    await t.loop.sockSendall(other, Buffer.from('x'))
    await assertRejects(() => receiving, 'ERR_SHARDLOOP_DETACHED')
    assert.equal((await t.loop.sockRecv(one, 10)).toString(), 'x', 'nothing was taken')

    const filled = fill(one)
    const data = new Uint8Array(MiB)
    const sending = t.loop.sockSendall(one, data)
    const behind = t.loop.sockSendall(one, Buffer.from('behind'))
    detach(data)
    sending.catch(() => {})
    let received = 0
    const drained = (async () => {
      while (received < filled + 6) received += (await t.loop.sockRecv(other, MiB)).length
    })()
    await assertRejects(() => sending, 'ERR_SHARDLOOP_DETACHED')
    await behind
    await drained
  })

  test('descriptors by number: what blocks is refused with advice, what does not works', async (t) => {
    const [one, other] = pair(t)
    const number = other.detach()
    const received = t.loop.sockRecv(number, 10)
    await t.loop.sockSendall(one, Buffer.from('by number'))
    assert.equal((await received).toString(), 'by number')
    const taken = closing(t, openSocket({ fd: number }))
    assert.equal(taken.fd, number)
    assert.equal(taken.family, 'unix')
    await t.loop.sockSendall(taken, Buffer.from('back'))
    assert.equal((await t.loop.sockRecv(one, 10)).toString(), 'back')

    await assert.rejects(() => t.loop.sockRecv(2 ** 30, 1), { code: 'EBADF' })
    assert.throws(() => openSocket({ fd: 2 ** 30 }), { code: 'EBADF' })
    const child = t.start('watching', ['blocking'])
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    assert.match(child.stdout, /ERR_SHARDLOOP_ARGUMENT sockRecv: descriptor \d+ is blocking.*openSocket/)
    assert.match(child.stdout, /ENOTSOCK/)
  })

  test('arguments that cannot be are refused by name', async (t) => {
    const [one] = pair(t)
    // biome-ignore lint/suspicious/noExplicitAny: wrong types are what is tested
    const any = t.loop as any
    const refused = (make: () => Promise<unknown>): Promise<void> =>
      assertRejects(make, 'ERR_SHARDLOOP_ARGUMENT')
    for (const size of [0, -1, 1.5, '1', undefined, 2 ** 31]) await refused(() => any.sockRecv(one, size))
    for (const data of ['text', new Uint8Array(0), [1], undefined])
      await refused(() => any.sockRecvInto(one, data))
    for (const data of ['text', [1], undefined, new Float64Array(1)])
      await refused(() => any.sockSendall(one, data))
    for (const sock of [-1, {}, '1', null]) await refused(() => any.sockRecv(sock, 1))
    for (const address of [
      undefined,
      '',
      { port: 1 },
      { address: '', port: 1 },
      { address: '::1', port: 65_536 },
      'x'.repeat(200),
    ]) {
      await refused(() => any.sockConnect(one, address))
      await refused(() => any.sockSendto(one, Buffer.alloc(1), address))
      assertThrows(() => one.bind(address as never), 'ERR_SHARDLOOP_ARGUMENT')
    }
    await refused(() => any.sockSendto(one, Buffer.alloc(1), { address: 'localhost', port: 1 }))
    for (const options of [{ signal: 1 }, { timeout: 1 }, 1])
      await assertRejects(() => any.sockRecv(one, 1, options), 'ERR_SHARDLOOP_OPTION')
    for (const options of [{}, { family: 'IPv5' }, { family: 'IPv4', kind: 1 }, { fd: 1, family: 'IPv4' }, 1])
      assertThrows(() => openSocket(options as never), 'ERR_SHARDLOOP_OPTION')
    assertThrows(() => socketPair({ type: 'raw' as never }), 'ERR_SHARDLOOP_OPTION')
    assertThrows(() => one.setOption('noDelay', 1 as never), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => one.getOption('delay' as never), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => one.listen(0), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => one.shutdown('all' as never), 'ERR_SHARDLOOP_ARGUMENT')
    assert.throws(() => structuredClone(one), { name: 'DataCloneError' })
  })
})

/** A client on node:net, ended with the test. */
function dial(t: TestContext, listener: RawSocket): Socket {
  const address = listener.getsockname()
  const socket =
    typeof address === 'string' ? connect(address) : connect(address.port as number, address.address)
  socket.on('error', () => {})
  t.defer(() => socket.destroy())
  return socket
}
