import assert from 'node:assert/strict'
import { closeSync, writeSync } from 'node:fs'
import { openSocket, socketPair } from '../src/index.js'
import { anywhere, closing, listening, open, pair, whereOf } from './harness/raw-sockets.js'
import { assertRejects, assertThrows, forEachEngine } from './harness/suite.js'
import { TakenDescriptors } from './harness/taken-descriptors.js'

forEachEngine('RawSocket', (test) => {
  for (const family of ['IPv4', 'IPv6'] as const) {
    test(`${family}: options are read and set, and addresses told`, async (t) => {
      const socket = open(t, family)
      assert.equal(socket.family, family)
      for (const name of ['reuseAddress', 'reusePort', 'keepAlive', 'noDelay'] as const) {
        assert.equal(socket.getOption(name), false)
        socket.setOption(name, true)
        assert.equal(socket.getOption(name), true)
      }
      socket.setOption('linger', 5)
      assert.equal(socket.getOption('linger'), 5)
      socket.setOption('linger', -1)
      assert.equal(socket.getOption('linger'), -1)
      if (family === 'IPv6') socket.setOption('ipv6Only', true)
      socket.bind(anywhere(t, family))
      assert.ok((whereOf(socket.getsockname()) as number) > 0)
      assertThrows(() => socket.getpeername(), 'ENOTCONN')
      const datagrams = open(t, family, 'datagram')
      datagrams.setOption('broadcast', true)
      assert.equal(datagrams.getOption('broadcast'), true)
      const taken = open(t, family)
      assert.throws(() => taken.bind(socket.getsockname()), {
        code: 'EADDRINUSE',
        syscall: 'bind',
        port: whereOf(socket.getsockname()) as number,
      })
      assertThrows(() => taken.bind({ address: 'localhost', port: 0 }), 'ERR_SHARDLOOP_ARGUMENT')
    })
  }

  test('one that is closed says EBADF to everything but another close', (t) => {
    const socket = open(t, 'IPv4')
    socket.close()
    socket.close()
    assert.equal(socket.fd, -1)
    for (const call of [
      () => socket.bind({ address: '127.0.0.1', port: 0 }),
      () => socket.listen(),
      () => socket.getsockname(),
      () => socket.getpeername(),
      () => socket.getOption('keepAlive'),
      () => socket.setOption('keepAlive', true),
      () => socket.shutdown('both'),
      () => socket.family,
      () => socket.detach(),
    ])
      assertThrows(call, 'EBADF')
  })

  test('using closes it, and detach gives the descriptor away open', async (t) => {
    const [one, other] = pair(t)
    const end = t.loop.sockRecv(other, 10)
    {
      using _socket = one
    }
    assert.equal((await end).length, 0)
    const [two, three] = pair(t)
    const fd = two.detach()
    two.close()
    writeSync(fd, 'open')
    assert.equal((await t.loop.sockRecv(three, 10)).toString(), 'open')
    closeSync(fd)
  })

  test('out of descriptors everything says EMFILE, and works once there is one again', async (t) => {
    const listener = listening(t, 'IPv4')
    const client = open(t, 'IPv4')
    client.setOption('noDelay', true)
    const taken = new TakenDescriptors()
    t.defer(() => taken.free())
    taken.exhaust()
    // The watcher is to be opened by the first that waits.
    assertThrows(() => t.loop.addWriter(client, () => {}), 'EMFILE')
    await assertRejects(() => t.loop.sockAccept(listener), 'EMFILE')
    assert.throws(() => openSocket({ family: 'unix' }), { code: 'EMFILE', syscall: 'socket' })
    assert.throws(() => socketPair(), { code: 'EMFILE', syscall: 'socketpair' })
    assert.equal(t.loop.removeWriter(client), false)
    taken.free(2)
    const [[accepted]] = await Promise.all([
      t.loop.sockAccept(listener),
      t.loop.sockConnect(client, listener.getsockname()),
    ])
    closing(t, accepted)
    // One in the queue for which there is none.
    taken.free(1)
    const second = open(t, 'IPv4')
    await t.loop.sockConnect(second, listener.getsockname())
    taken.exhaust()
    await assert.rejects(() => t.loop.sockAccept(listener), { code: 'EMFILE', syscall: 'accept' })
    taken.free(1)
    const [late] = await t.loop.sockAccept(listener)
    closing(t, late)
    assert.deepEqual(late.getpeername(), second.getsockname())
  })
})
