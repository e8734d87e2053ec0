import assert from 'node:assert/strict'
import { networkInterfaces } from 'node:os'
import type { SocketAddress, SocketOptions, Transport } from '../src/index.js'
import { Deferred } from './harness/deferred.js'
import { Recorder } from './harness/recorder.js'
import { assertThrows, forEachEngine, portOf } from './harness/suite.js'

const hasIpv6 = Object.values(networkInterfaces()).some((list) =>
  list?.some(({ address }) => address === '::1'),
)

/** An address as an object of its own, to be compared with a literal. */
function plain(address: SocketAddress | undefined): object {
  return Object.assign({}, address)
}

forEachEngine('extra info', (test) => {
  test('sockname, peername and the socket agree with the peer', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder())
    const { transport } = protocol
    const ours = { address: '127.0.0.1', family: 'IPv4', port: portOf(server) }
    const theirs = { address: '127.0.0.1', family: 'IPv4', port: client.socket.localPort }
    assert.deepEqual(plain(transport.getExtraInfo('sockname')), ours)
    assert.deepEqual(plain(transport.getExtraInfo('peername')), theirs)
    const socket = transport.getExtraInfo('socket')
    assert.ok(socket !== undefined)
    assert.deepEqual(plain(socket.getsockname()), ours)
    assert.deepEqual(plain(socket.getpeername()), theirs)
    assert.ok(Number.isInteger(socket.fileno()) && socket.fileno() > 2, String(socket.fileno()))
    assert.equal(transport.getExtraInfo('socket'), socket, 'one object')
  })

  test('what it does not know is undefined, or the given fallback', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    const unknown = 'peercert' as 'peername'
    assert.equal(protocol.transport.getExtraInfo(unknown), undefined)
    assert.equal(protocol.transport.getExtraInfo(unknown, 'fallback'), 'fallback')
    assert.notEqual(protocol.transport.getExtraInfo('peername', 'fallback'), 'fallback')
    assert.equal(protocol.transport.getExtraInfo('toString' as 'peername'), undefined)
  })

  test('each connection has a descriptor of its own', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    for (let count = 0; count < 20; count++) await t.join(accepting)
    const descriptors = accepting.protocols.map(({ transport }) => transport.getExtraInfo('socket')?.fileno())
    assert.equal(new Set(descriptors).size, 20)
  })

  test('options can be read and set', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    const socket = protocol.transport.getExtraInfo('socket')
    assert.ok(socket !== undefined)
    assert.equal(socket.getOption('noDelay'), true, 'on by default')
    assert.equal(socket.getOption('keepAlive'), false)
    const toSet: Partial<SocketOptions> = {
      noDelay: false,
      keepAlive: true,
      keepAliveTime: 77,
      keepAliveInterval: 11,
      keepAliveRetries: 5,
      ttl: 33,
    }
    for (const [name, value] of Object.entries(toSet) as [string & keyof SocketOptions, never][]) {
      socket.setOption(name, value)
      assert.equal(socket.getOption(name), value, name)
    }
    for (const name of ['receiveBufferSize', 'sendBufferSize'] as const) {
      assert.ok(socket.getOption(name) > 0)
      socket.setOption(name, 40_000)
      const size = socket.getOption(name)
      // Linux doubles what is asked for, for its own bookkeeping.
      assert.ok(size === 40_000 || size === 80_000, `${name} is ${size}`)
    }
    assert.equal(typeof socket.getOption('reuseAddress'), 'boolean')
    assert.equal(typeof socket.getOption('reusePort'), 'boolean')
    socket.setOption('noDelay', true)
    assert.equal(socket.getOption('noDelay'), true)
  })

  test('an unknown option, a wrong value, or setting what can only be read is refused by name', async (t) => {
    const { protocol } = await t.pair(() => new Recorder())
    const socket = protocol.transport.getExtraInfo('socket')
    assert.ok(socket !== undefined)
    for (const name of ['nodelay', 'toString', '', undefined]) {
      assertThrows(() => socket.getOption(name as 'ttl'), 'ERR_SHARDLOOP_ARGUMENT')
      assertThrows(() => socket.setOption(name as 'ttl', 1), 'ERR_SHARDLOOP_ARGUMENT')
    }
    const wrong: [string, unknown][] = [
      ['noDelay', 1],
      ['noDelay', undefined],
      ['keepAlive', 'yes'],
      ['keepAliveTime', -1],
      ['keepAliveTime', 1.5],
      ['keepAliveTime', '7'],
      ['keepAliveRetries', Number.NaN],
      ['sendBufferSize', 2 ** 40],
      ['reuseAddress', true],
      ['reusePort', true],
    ]
    for (const [name, value] of wrong) {
      assertThrows(() => socket.setOption(name as 'ttl', value as number), 'ERR_SHARDLOOP_ARGUMENT')
    }
    assert.equal(socket.getOption('noDelay'), true)
  })

  test('the noDelay option of the server decides where connections start', async (t) => {
    for (const noDelay of [true, false]) {
      const { protocol } = await t.pair(() => new Recorder(), { noDelay })
      assert.equal(protocol.transport.getExtraInfo('socket')?.getOption('noDelay'), noDelay)
    }
  })

  test('after the connection is lost the addresses are still known, and the descriptor is -1', async (t) => {
    const endings: ((protocol: Recorder, client: { end(): void; reset(): void }) => void)[] = [
      (_, client) => client.end(),
      (_, client) => client.reset(),
      (protocol) => protocol.transport.abort(),
    ]
    for (const end of endings) {
      let atTheEnd: unknown
      class Looking extends Recorder {
        override connectionLost(error: Error | null): void {
          atTheEnd = this.transport.getExtraInfo('peername')?.port
          super.connectionLost(error)
        }
      }
      const { server, client, protocol } = await t.pair(() => new Looking())
      const { transport } = protocol
      const port = client.socket.localPort
      assert.equal(transport.getExtraInfo('sockname')?.port, portOf(server))
      end(protocol, client)
      await protocol.lost()
      assert.equal(atTheEnd, port, 'inside connectionLost')
      assert.equal(transport.getExtraInfo('peername')?.port, port)
      assert.equal(
        transport.getExtraInfo('sockname')?.port,
        portOf(server),
        'as it was when it was asked for',
      )
      const socket = transport.getExtraInfo('socket')
      assert.equal(socket?.fileno(), -1)
      assert.throws(() => socket?.getOption('noDelay'), { code: 'EBADF' })
      assert.throws(() => socket?.setOption('noDelay', true), { code: 'EBADF' })
      await client.destroy()
    }
  })

  test('the address of the peer is known afterwards although nobody asked before', async (t) => {
    let transport: Transport | undefined
    const ended = new Deferred()
    const server = await t.serve(() => ({
      connectionMade: (made) => {
        transport = made
      },
      connectionLost: () => ended.resolve(),
    }))
    const client = await t.connect(server)
    const port = client.socket.localPort
    client.end()
    await ended.promise
    assert.deepEqual(plain(transport?.getExtraInfo('peername')), {
      address: '127.0.0.1',
      family: 'IPv4',
      port,
    })
  })

  test('a lost connection never shows the descriptor or the address of its successor', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const first = await t.join(accepting)
    const { transport } = first.protocol
    const port = first.client.socket.localPort
    const descriptor = transport.getExtraInfo('socket')?.fileno()
    first.client.reset()
    await first.protocol.lost()
    // The kernel gives the lowest free number: a successor gets this one sooner or later. Its own client may be first, which
    // is in this process, too: then that has to go.
    const numbers: (number | undefined)[] = []
    for (let round = 0; round < 10 && !numbers.includes(descriptor); round++) {
      const successors = []
      for (let count = 0; count < 10; count++) successors.push(await t.join(accepting))
      for (const { protocol } of successors) numbers.push(protocol.transport.getExtraInfo('socket')?.fileno())
      if (numbers.includes(descriptor)) break
      for (const { client, protocol } of successors) {
        client.reset()
        await protocol.lost()
      }
    }
    if (process.platform === 'linux') assert.ok(numbers.includes(descriptor), `${descriptor} in ${numbers}`)
    assert.equal(transport.getExtraInfo('socket')?.fileno(), -1)
    assert.equal(transport.getExtraInfo('peername')?.port, port)
  })
})

forEachEngine('addresses', (test) => {
  test('IPv4: the server, its sockets and its connections tell the same', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder(), { host: '127.0.0.1' })
    assert.equal(server.sockets.length, 1)
    assert.deepEqual(plain(server.addresses[0]), {
      address: '127.0.0.1',
      family: 'IPv4',
      port: portOf(server),
    })
    assert.deepEqual(plain(server.sockets[0]?.getsockname()), plain(server.addresses[0]))
    assert.equal(client.socket.remotePort, portOf(server))
    assert.equal(protocol.transport.getExtraInfo('peername')?.family, 'IPv4')
  })

  if (!hasIpv6) {
    test.skip('IPv6', 'this machine has no ::1')
    test.skip('dual stack', 'this machine has no ::1')
    return
  }

  test('IPv6: the server, its sockets and its connections tell the same', async (t) => {
    const { server, client, protocol } = await t.pair(() => new Recorder(), {
      host: '::1',
      client: { host: '::1' },
    })
    assert.deepEqual(plain(server.addresses[0]), { address: '::1', family: 'IPv6', port: portOf(server) })
    const { transport } = protocol
    const theirs = { address: '::1', family: 'IPv6', port: client.socket.localPort }
    assert.deepEqual(plain(transport.getExtraInfo('peername')), theirs)
    assert.deepEqual(plain(transport.getExtraInfo('socket')?.getpeername()), theirs)
    assert.deepEqual(plain(transport.getExtraInfo('sockname')), plain(server.addresses[0]))
    const socket = transport.getExtraInfo('socket')
    socket?.setOption('ttl', 44)
    assert.equal(socket?.getOption('ttl'), 44)
    assert.ok(transport.getExtraInfo('socket')?.getOption('noDelay'))
  })

  test('dual stack: an IPv4 peer has its mapped address, as in node:net', async (t) => {
    const accepting = await t.serveEach(() => new Recorder(), { host: '::' })
    const four = await t.join(accepting, { host: '127.0.0.1' })
    const six = await t.join(accepting, { host: '::1' })
    const peers = [four, six].map(({ protocol }) => protocol.transport.getExtraInfo('peername'))
    assert.deepEqual(
      peers.map((peer) => [peer?.address, peer?.family]),
      [
        ['::ffff:127.0.0.1', 'IPv6'],
        ['::1', 'IPv6'],
      ],
    )
  })

  test('ipv6Only: an IPv4 peer is refused', async (t) => {
    const server = await t.serve(() => new Recorder(), { host: '::', ipv6Only: true })
    await t.connect(server, { host: '::1' })
    await assert.rejects(t.connect(server, { host: '127.0.0.1' }), { code: 'ECONNREFUSED' })
  })
})
