/** asyncio's create_datagram_endpoint, its transport and protocol, and what users of node:dgram expect. */
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { networkInterfaces } from 'node:os'
import { fileURLToPath } from 'node:url'
import {
  type DatagramEndpointOptions,
  type DatagramTransport,
  type SocketAddress,
  type SystemError,
  socketPair,
} from '../../src/index.js'
import { DatagramEcho, DatagramRecorder, endpoint, PlainDatagrams, portOf } from '../harness/datagrams.js'
import { eventually } from '../harness/deferred.js'
import { openDescriptors } from '../harness/leaks.js'
import { assertCode, assertRejects, assertThrows, forEachEngine, type TestContext } from '../harness/suite.js'

const HERE = { local: { host: '127.0.0.1' } } as const
const IS_LINUX = process.platform === 'linux'
const HAS_IPV6 = Object.values(networkInterfaces()).some((all) =>
  all?.some(({ address }) => address === '::1'),
)

/** An endpoint, and one that is connected to it. */
async function pair<Made extends DatagramRecorder = DatagramRecorder>(
  t: TestContext,
  make?: () => Made,
  options: DatagramEndpointOptions = {},
): Promise<{ bound: Made; connected: DatagramRecorder }> {
  const bound = await endpoint(t, { ...HERE, ...options }, make)
  const remote = { host: '127.0.0.1', port: portOf(bound) }
  return { bound, connected: await endpoint(t, { ...options, remote }) }
}

/** Two Unix sockets, of which the second sends to the first; it can be told how much may wait. */
async function unixPair(
  t: TestContext,
  options: DatagramEndpointOptions = {},
): Promise<{ reader: DatagramRecorder; writer: DatagramRecorder; path: string }> {
  const path = t.path()
  const reader = await endpoint(t, { local: path })
  const writer = await endpoint(t, { remote: path, ...options })
  return { reader, writer, path }
}

/** The numbers of the datagrams that came. */
function numbers({ came }: DatagramRecorder): number[] {
  return came.map(({ data }) => data.readUInt32LE())
}

function numbered(number: number, length = 4): Buffer {
  const data = Buffer.alloc(length)
  data.writeUInt32LE(number)
  return data
}

forEachEngine('datagrams', (test, engine) => {
  // RLoop: tests/udp/test_udp.py test_create_datagram_endpoint_sock
  test('a socket that was opened elsewhere is taken over with its address', async (t) => {
    const plain = await PlainDatagrams.open(t)
    const client = await PlainDatagrams.open(t)
    const { fd } = (plain.socket as unknown as { _handle: { fd: number } })._handle
    const fixture = fileURLToPath(new URL('../fixtures/datagram-descriptor.js', import.meta.url))
    const child = spawn(process.execPath, [fixture, '--engine', engine], { stdio: ['ignore', 'pipe', 2, fd] })
    let said = ''
    child.stdout?.on('data', (text) => {
      said += text
    })
    await eventually(() => said.includes('made'))
    const { port } = plain
    await plain.close()
    t.defer(() => child.kill('SIGKILL'))
    await client.send('payload', port)
    await client.receivedAtLeast(1)
    assert.equal(client.came[0]?.data.toString(), 'payload')
    await client.send('', port)
    await eventually(() => child.exitCode !== null)
    assert.match(said, new RegExp(`^made .*"port":${port}.*\nlost null\n$`))
    assert.equal(child.exitCode, 0)
  })

  // RLoop: test_create_datagram_endpoint_sock_unix
  test('a Unix socket without a name', async (t) => {
    const protocol = await endpoint(t, { family: 'unix' })
    assert.equal(protocol.transport.getExtraInfo('sockname'), '')
    assert.ok(protocol.transport.getExtraInfo('socket')?.fileno() ?? -1 >= 0)
    protocol.transport.close()
    assert.equal(await protocol.lost(), null)
    assert.equal(protocol.state, 'CLOSED')
  })

  // RLoop: test_create_datagram_endpoint_local_addr
  test('a local address: datagrams come with their source, and answers go back', async (t) => {
    const protocol = await endpoint(t, HERE, () => new DatagramEcho())
    const client = await PlainDatagrams.open(t)
    await client.send('hello', portOf(protocol))
    await client.receivedAtLeast(1)
    assert.equal(client.came[0]?.data.toString(), 'hello')
    assert.equal(client.came[0]?.from.port, portOf(protocol))
    const [first] = protocol.came
    assert.deepEqual(first?.address, { address: '127.0.0.1', family: 'IPv4', port: client.port })
    assert.equal(protocol.transport.getExtraInfo('peername'), undefined)
    protocol.transport.close()
    assert.equal(await protocol.lost(), null)
    assert.deepEqual(protocol.events, ['made', 'lost'])
  })

  // RLoop: test_create_datagram_endpoint_remote_addr
  test('a remote address: datagrams go there without one, and come from there alone', async (t) => {
    const { bound, connected } = await pair(t, () => new DatagramEcho())
    const stranger = await PlainDatagrams.open(t)
    assert.deepEqual(connected.transport.getExtraInfo('peername'), bound.transport.getExtraInfo('sockname'))
    await stranger.send('not for you', portOf(connected))
    connected.transport.sendto('hello')
    connected.transport.sendto('again', connected.transport.getExtraInfo('peername') as SocketAddress)
    const came = await connected.receivedAtLeast(2)
    assert.deepEqual(
      came.map(({ data }) => data.toString()),
      ['hello', 'again'],
    )
    assert.deepEqual(came[0]?.address, bound.transport.getExtraInfo('sockname'))
    const elsewhere = { address: '127.0.0.1', port: stranger.port }
    assertThrows(() => connected.transport.sendto('x', elsewhere), 'ERR_SHARDLOOP_ARGUMENT')
    connected.transport.close()
    assert.equal(await connected.lost(), null)
    assert.equal(connected.state, 'CLOSED')
  })

  for (const offload of [true, false]) {
    test(`datagrams of every length arrive whole, offload ${offload}`, async (t) => {
      const { bound, connected } = await pair(t, () => new DatagramEcho(), { offload })
      const lengths = [0, 1, 3, 64, 64, 64, 63, 1452, 1452, 1453, 9000, 9000, 65_507, 0, 64]
      for (const [index, length] of lengths.entries()) connected.transport.sendto(Buffer.alloc(length, index))
      const came = await connected.receivedAtLeast(lengths.length)
      assert.deepEqual(
        came.map(({ data }) => data.length),
        lengths,
      )
      for (const [index, { data }] of came.entries())
        assert.ok(
          data.every((byte) => byte === index),
          `datagram ${index}`,
        )
      assert.equal(bound.came.length, lengths.length)
    })

    test(`2,000 datagrams, 100 at a time, arrive in order, offload ${offload}`, async (t) => {
      const { bound, connected } = await pair(t, undefined, { offload, receiveBufferBytes: 1 << 20 })
      for (let number = 0; number < 2000; number++) {
        connected.transport.sendto(numbered(number, 64))
        if (number % 100 === 99) await bound.receivedAtLeast(number + 1)
      }
      assert.deepEqual(
        numbers(bound),
        Array.from({ length: 2000 }, (_, number) => number),
      )
    })
  }

  test('a datagram that is too long, and what is none, is refused by name', async (t) => {
    const { bound, connected } = await pair(t)
    const to = { address: '127.0.0.1', port: portOf(connected) }
    const { transport } = bound
    for (const send of [
      () => transport.sendto(Buffer.alloc(65_508), to),
      () => transport.sendto(5 as unknown as string, to),
      () => transport.sendto('x'),
      () => transport.sendto('x', { address: 'localhost', port: 1 }),
      () => transport.sendto('x', { address: '127.0.0.1', port: 0 }),
      () => transport.sendto('x', { address: '127.0.0.1', port: 65_536 }),
      () => transport.sendto('x', ''),
    ])
      assertThrows(send, 'ERR_SHARDLOOP_ARGUMENT')
    assert.throws(() => transport.sendto(Buffer.alloc(65_508), to), /65508.*at most 65507 bytes/)
    transport.sendto('it goes on', to)
    await connected.receivedAtLeast(1)
    assert.equal(connected.came.length, 1)
  })

  if (HAS_IPV6) {
    test('IPv6, and IPv4 on a socket for both', async (t) => {
      const six = await endpoint(t, { local: { host: '::1' } }, () => new DatagramEcho())
      const client = await PlainDatagrams.open(t, '::1')
      await client.send('hello', portOf(six), '::1')
      await client.receivedAtLeast(1)
      assert.deepEqual(six.came[0]?.address, { address: '::1', family: 'IPv6', port: client.port })
      six.transport.sendto('from an object', { address: '0:0::1', port: client.port })
      await client.receivedAtLeast(2)
      const both = await endpoint(t, { local: { host: '::' }, ipv6Only: false }, () => new DatagramEcho())
      const four = await PlainDatagrams.open(t)
      await four.send('hello', portOf(both))
      await four.receivedAtLeast(1)
      const mapped = { address: '::ffff:127.0.0.1', family: 'IPv6', port: four.port }
      assert.deepEqual(both.came[0]?.address, mapped)
    })
  }

  test('the address of a peer is the same frozen object each time, and what was received may be kept', async (t) => {
    const { bound, connected } = await pair(t)
    connected.transport.sendto(Buffer.alloc(9000, 'a'))
    const first = (await bound.receivedAtLeast(1))[0]
    // More than the slabs hold.
    for (let round = 1; round <= 40; round++) {
      for (let number = 0; number < 5; number++) connected.transport.sendto(Buffer.alloc(9000, 'b'))
      await bound.receivedAtLeast(1 + round * 5)
    }
    assert.ok(first?.data.every((byte) => byte === 0x61))
    assert.ok(bound.came.every(({ address }) => address === first?.address))
    assert.ok(Object.isFrozen(first?.address))
    assert.deepEqual(Object.keys(first?.address ?? {}), ['address', 'family', 'port'])
  })

  test('memory that was given to sendto, and the address, may be used again at once', async (t) => {
    const [one, other] = [await PlainDatagrams.open(t), await PlainDatagrams.open(t)]
    const { transport } = await endpoint(t, HERE)
    const [data, to] = [Buffer.from('one'), { address: '127.0.0.1', port: one.port }]
    transport.sendto(data, to)
    data.write('two')
    to.port = other.port
    transport.sendto(data, to)
    await Promise.all([one.receivedAtLeast(1), other.receivedAtLeast(1)])
    assert.equal(one.came[0]?.data.toString(), 'one')
    assert.equal(other.came[0]?.data.toString(), 'two')
  })

  test('a closed port: errorReceived gets ECONNREFUSED, and the endpoint goes on', async (t) => {
    const { bound, connected } = await pair(t)
    const port = portOf(bound)
    bound.transport.close()
    await bound.lost()
    connected.transport.sendto('nobody is there')
    const error = assertCode(await connected.failed(), 'ECONNREFUSED') as unknown as SystemError
    assert.ok(['recvmsg', 'sendmsg'].includes(error.syscall), error.syscall)
    assert.ok((connected.errors[0]?.count ?? 0) >= 1)
    const again = await endpoint(t, { local: { host: '127.0.0.1', port } })
    connected.transport.sendto('somebody is')
    assert.equal((await again.receivedAtLeast(1))[0]?.data.toString(), 'somebody is')
    assert.equal(connected.transport.isClosing(), false)
  })

  test('a closed port while reading is paused: errorReceived is told at once, and the loop sleeps after it', async (t) => {
    const { bound, connected } = await pair(t)
    bound.transport.close()
    await bound.lost()
    connected.transport.pauseReading()
    for (let round = 1; round <= 3; round++) {
      connected.transport.sendto('nobody is there')
      await connected.until(() => connected.errors.reduce((sum, { count }) => sum + count, 0) >= round)
    }
    for (const error of connected.errors) assertCode(error, 'ECONNREFUSED')
    const before = process.cpuUsage()
    await new Promise((resolve) => setTimeout(resolve, 250))
    const { user, system } = process.cpuUsage(before)
    assert.ok(user + system < 125_000, `${user + system} µs of processor time in 250 ms`)
  })

  test('what the system refuses to send is told with its error, and the rest is sent', async (t) => {
    const client = await PlainDatagrams.open(t)
    const protocol = await endpoint(t, HERE)
    const to = { address: '127.0.0.1', port: client.port }
    protocol.transport.sendto('before', to)
    protocol.transport.sendto('x', { address: '255.255.255.255', port: 9 })
    protocol.transport.sendto('x', { address: '255.255.255.255', port: 9 })
    protocol.transport.sendto('behind', to)
    await client.receivedAtLeast(2)
    assert.deepEqual(
      client.came.map(({ data }) => data.toString()),
      ['before', 'behind'],
    )
    await protocol.failed()
    const told = protocol.errors.map((error) => [(error as { code?: string }).code, error.count])
    assert.deepEqual(told, [['EACCES', 2]])
    assert.equal((protocol.errors[0] as { syscall?: string }).syscall, 'sendmsg')
  })

  test('a datagram that the system finds too long is EMSGSIZE, and those around it are sent', async (t) => {
    const { reader, writer } = await unixPair(t, { sendBufferBytes: 4608, writeMaxBytes: 1024 * 1024 })
    const lengths = [1000, 60_000, 60_000, 1001, 60_000, 1002]
    for (const length of lengths) writer.transport.sendto(Buffer.alloc(length))
    await reader.receivedAtLeast(3)
    assert.deepEqual(
      reader.came.map(({ data }) => data.length),
      [1000, 1001, 1002],
    )
    await eventually(() => writer.errors.reduce((sum, { count }) => sum + count, 0) === 3)
    for (const error of writer.errors as (SystemError & { count: number })[])
      assert.deepEqual([error.code, error.syscall], ['EMSGSIZE', 'sendmsg'])
  })

  if (IS_LINUX) {
    test('a received datagram of more than 65,536 bytes is EMSGSIZE and not delivered, and the next one is', async (t) => {
      const [ours, theirs] = socketPair({ type: 'datagram' })
      t.defer(() => theirs.close())
      theirs.setOption('sendBufferSize', 200_000)
      const protocol = await endpoint(t, { socket: ours })
      for (const length of [65_536, 65_537, 70_000, 3])
        await t.loop.sockSendall(theirs, Buffer.alloc(length, 1))
      await protocol.receivedAtLeast(2)
      assert.deepEqual(
        protocol.came.map(({ data }) => data.length),
        [65_536, 3],
      )
      await eventually(() => protocol.errors.reduce((sum, { count }) => sum + count, 0) === 2)
      for (const error of protocol.errors as (SystemError & { count: number })[])
        assert.deepEqual([error.code, error.syscall], ['EMSGSIZE', 'recvmsg'])
    })
  }

  test('broadcast is received by who is bound to every address', async (t) => {
    const everywhere = await endpoint(t, { local: { host: '0.0.0.0' } })
    const sender = await endpoint(t, { ...HERE, broadcast: true })
    assert.equal(sender.transport.getExtraInfo('socket')?.getOption('broadcast'), true)
    sender.transport.sendto('to all', { address: '127.255.255.255', port: portOf(everywhere) })
    assert.equal((await everywhere.receivedAtLeast(1))[0]?.data.toString(), 'to all')
  })

  test('a group is received from joinMulticast to leaveMulticast', async (t) => {
    const group = '239.255.77.77'
    const member = await endpoint(t, { local: { host: '0.0.0.0' } })
    const sender = await endpoint(t, {
      ...HERE,
      multicastInterface: '127.0.0.1',
      multicastTtl: 1,
      multicastLoop: true,
    })
    assert.equal(sender.transport.getExtraInfo('socket')?.getOption('multicastTtl'), 1)
    const [to, direct] = [
      { address: group, port: portOf(member) },
      { address: '127.0.0.1', port: portOf(member) },
    ]
    const round = async (text: string, count: number): Promise<void> => {
      sender.transport.sendto(text, to)
      sender.transport.sendto(`behind ${text}`, direct)
      await member.receivedAtLeast(count)
    }
    await round('before', 1)
    member.transport.joinMulticast(group, '127.0.0.1')
    await round('joined', 3)
    member.transport.leaveMulticast(group, '127.0.0.1')
    await round('left', 4)
    const texts = member.came.map(({ data }) => data.toString())
    assert.deepEqual(texts, ['behind before', 'joined', 'behind joined', 'behind left'])
    assertThrows(() => member.transport.joinMulticast('127.0.0.1'), 'EINVAL')
    assertThrows(() => member.transport.joinMulticast(group, 'no-such-interface'), 'ENODEV')
    assertThrows(() => member.transport.leaveMulticast(group, '127.0.0.1'), 'EADDRNOTAVAIL')
  })

  test('Unix sockets: names are addresses, and a file goes with its endpoint', async (t) => {
    const [here, there] = [t.path(), t.path()]
    const one = await endpoint(t, { local: here })
    const other = await endpoint(t, { local: there }, () => new DatagramEcho())
    assert.equal(one.transport.getExtraInfo('sockname'), here)
    one.transport.sendto('hello', there)
    assert.deepEqual(await one.receivedAtLeast(1), [{ data: Buffer.from('hello'), address: there }])
    assert.equal(other.came[0]?.address, here)
    await assertRejects(() => endpoint(t, { local: here }), 'EADDRINUSE')
    one.transport.close()
    await one.lost()
    assert.equal(existsSync(here), false)
    other.transport.sendto('nobody', here)
    assertCode(await other.failed(), 'ENOENT')
  })

  if (IS_LINUX) {
    test('an abstract name, and a peer without one', async (t) => {
      const name = `\0shardloop-${process.pid}-${engine}`
      const bound = await endpoint(t, { local: name })
      const nameless = await endpoint(t, { remote: name })
      nameless.transport.sendto('hello')
      assert.deepEqual(await bound.receivedAtLeast(1), [{ data: Buffer.from('hello'), address: '' }])
      assert.equal(nameless.transport.getExtraInfo('peername'), name)
    })
  }

  test('a full socket buffer: pauseWriting once, and when the peer reads, all arrive in order, and resumeWriting once', async (t) => {
    const { reader, writer } = await unixPair(t, { writeHighBytes: 8192, writeLowBytes: 1024 })
    reader.transport.pauseReading()
    let sent = 0
    for (; !writer.events.includes('pause'); sent++) {
      writer.transport.sendto(numbered(sent, 1000))
      if (sent % 50 === 49) await new Promise((resolve) => setImmediate(resolve))
    }
    assert.ok(writer.transport.getWriteBufferSize() > 8192)
    reader.transport.resumeReading()
    await reader.receivedAtLeast(sent)
    await writer.noted('resume')
    assert.deepEqual(
      numbers(reader),
      Array.from({ length: sent }, (_, number) => number),
    )
    assert.deepEqual(writer.events, ['made', 'pause', 'resume'])
    assert.equal(writer.transport.getWriteBufferSize(), 0)
  })

  test('beyond writeMaxBytes datagrams are dropped, and errorReceived says how many', async (t) => {
    const limits = { writeHighBytes: 4096, writeLowBytes: 0, writeMaxBytes: 16_384 }
    const { reader, writer } = await unixPair(t, limits)
    reader.transport.pauseReading()
    const all = 3000
    for (let number = 0; number < all; number++) writer.transport.sendto(numbered(number, 100))
    const error = assertCode(await writer.failed(), 'ERR_SHARDLOOP_DATAGRAM_DROPPED')
    assert.match(error.message, /more than 16384 bytes.*were dropped/)
    reader.transport.resumeReading()
    writer.transport.close()
    assert.equal(await writer.lost(), null)
    const dropped = writer.errors.reduce((sum, { count }) => sum + count, 0)
    assert.ok(dropped > 0 && dropped < all, `${dropped} dropped`)
    await reader.receivedAtLeast(all - dropped)
    assert.equal(reader.came.length, all - dropped)
  })

  if (IS_LINUX) {
    test('a full receive buffer: what came and what the kernel dropped is all that was sent', async (t) => {
      const { bound, connected } = await pair(t, undefined, { receiveBufferBytes: 8192, offload: false })
      const option = (): number => bound.transport.getExtraInfo('socket')?.getOption('drops') ?? -1
      assert.equal(option(), 0)
      bound.transport.pauseReading()
      await new Promise((resolve) => setImmediate(resolve))
      const all = 500
      for (let number = 0; number < all; number++) connected.transport.sendto(numbered(number, 500))
      await eventually(() => connected.transport.getWriteBufferSize() === 0 && option() > 0)
      bound.transport.resumeReading()
      await eventually(() => bound.came.length + option() === all)
      assert.ok(bound.came.length > 0)
    })
  }

  test('while reading is paused nothing is delivered, then what waited, in order', async (t) => {
    const bound = await endpoint(
      t,
      { ...HERE, receiveBufferBytes: 1 << 20 },
      () =>
        new (class extends DatagramRecorder {
          override datagramReceived(data: Buffer, address: SocketAddress): void {
            assert.ok(this.transport.isReading(), 'a datagram came while reading was paused')
            void super.datagramReceived(data, address)
            if (this.came.length % 10 === 0) {
              this.transport.pauseReading()
              setImmediate(() => this.transport.resumeReading())
            }
          }
        })(),
    )
    const sender = await endpoint(t, { remote: { host: '127.0.0.1', port: portOf(bound) } })
    for (let number = 0; number < 100; number++) sender.transport.sendto(numbered(number))
    await bound.receivedAtLeast(100)
    assert.deepEqual(
      numbers(bound),
      Array.from({ length: 100 }, (_, number) => number),
    )
  })

  test('close sends what waits; sending after it is ignored; connectionLost comes once', async (t) => {
    const { reader, writer } = await unixPair(t)
    reader.transport.pauseReading()
    for (let number = 0; number < 1000; number++) writer.transport.sendto(numbered(number))
    writer.transport.close()
    writer.transport.close()
    writer.transport.sendto('too late')
    assert.ok(writer.transport.isClosing())
    reader.transport.resumeReading()
    assert.equal(await writer.lost(), null)
    writer.transport.sendto('too late')
    await reader.receivedAtLeast(1000)
    assert.deepEqual(
      numbers(reader),
      Array.from({ length: 1000 }, (_, number) => number),
    )
    assert.equal(writer.events.filter((event) => event === 'lost').length, 1)
    assert.equal(writer.transport.getExtraInfo('socket')?.fileno(), -1)
    assertThrows(() => writer.transport.getExtraInfo('socket')?.getsockname(), 'EBADF')
  })

  test('what is said to one that is over does not reach the next, which connectionLost opens', async (t) => {
    let next: Promise<DatagramRecorder> | undefined
    const over = await endpoint(
      t,
      HERE,
      () =>
        new (class extends DatagramRecorder {
          override connectionLost(error: Error | null): void {
            super.connectionLost(error)
            next = endpoint(t, { family: 'unix' })
          }
        })(),
    )
    const witness = await endpoint(
      t,
      { local: t.path() },
      () =>
        new (class extends DatagramRecorder {
          override datagramReceived(data: Buffer, address: SocketAddress): void {
            // In the batch that has the end of the other: it is closed in native code, and does not know it yet.
            if (this.came.length === 0) over.transport.abort()
            void super.datagramReceived(data, address)
          }
        })(),
    )
    const to = witness.transport.getExtraInfo('sockname') as string
    const sender = await endpoint(t, { family: 'unix' })
    sender.transport.sendto('first', to)
    over.transport.close()
    await over.lost()
    const opened = await (next as unknown as Promise<DatagramRecorder>)
    opened.transport.sendto('second', to)
    await witness.receivedAtLeast(2)
    assert.equal(opened.state, 'INITIALIZED')
    assert.equal(opened.transport.isClosing(), false)
  })

  test('addReader refuses the descriptor of an endpoint', async (t) => {
    const { transport } = await endpoint(t, HERE)
    const fd = transport.getExtraInfo('socket')?.fileno() ?? -1
    assertThrows(() => t.loop.addReader(fd, () => {}), 'ERR_SHARDLOOP_ARGUMENT')
  })

  test('abort drops what waits, and hands its error to connectionLost', async (t) => {
    const { reader, writer } = await unixPair(t)
    reader.transport.pauseReading()
    for (let number = 0; number < 3000; number++) writer.transport.sendto(numbered(number))
    const error = new Error('enough')
    writer.transport.abort(error)
    assert.equal(await writer.lost(), error)
    const { transport } = await endpoint(t, HERE)
    const other = transport.protocol as DatagramRecorder
    transport.abort()
    assert.equal(await other.lost(), null)
  })

  for (const callback of ['connectionMade', 'datagramReceived', 'errorReceived'] as const) {
    test(`what ${callback} throws ends its endpoint with that error, is reported once, and disturbs no other`, async (t) => {
      const reported: unknown[] = []
      t.loop.setExceptionHandler((context) => void reported.push(context))
      const error = new Error('thrown')
      const broken = await endpoint(
        t,
        HERE,
        () =>
          new (class extends DatagramRecorder {
            override connectionMade(transport: DatagramTransport): void {
              super.connectionMade(transport)
              if (callback === 'connectionMade') throw error
            }
            override async datagramReceived(): Promise<void> {
              if (callback === 'datagramReceived') throw error
            }
            override errorReceived(): void {
              throw error
            }
          })(),
      )
      const { bound, connected } = await pair(t, () => new DatagramEcho())
      if (callback === 'errorReceived') broken.transport.sendto('x', { address: '255.255.255.255', port: 9 })
      else connected.transport.abort()
      const sender = await endpoint(t, HERE)
      if (callback === 'datagramReceived')
        sender.transport.sendto('x', { address: '127.0.0.1', port: portOf(broken) })
      assert.equal(await broken.lost(), error)
      assert.equal(reported.length, 1)
      const context = reported[0] as { error: unknown; endpoint: unknown; message: string }
      assert.equal(context.error, error)
      assert.equal(context.endpoint, broken.transport)
      assert.match(context.message, new RegExp(`^${callback} of endpoint `))
      sender.transport.sendto('y', { address: '127.0.0.1', port: portOf(bound) })
      await sender.receivedAtLeast(1)
    })
  }

  test('each endpoint has an async context of its own, that of the call', async (t) => {
    const storage = new AsyncLocalStorage<string>()
    const seen: (string | undefined)[] = []
    class Seeing extends DatagramRecorder {
      override datagramReceived(data: Buffer, address: SocketAddress): void {
        seen.push(storage.getStore())
        storage.enterWith('leaked')
        void super.datagramReceived(data, address)
      }
    }
    const one = await storage.run('one', () => endpoint(t, HERE, () => new Seeing()))
    const other = await storage.run('other', () => endpoint(t, HERE, () => new Seeing()))
    const sender = await endpoint(t, HERE)
    for (const to of [one, other]) {
      sender.transport.sendto('x', { address: '127.0.0.1', port: portOf(to) })
      await to.receivedAtLeast(1)
    }
    assert.deepEqual(seen, ['one', 'other'])
  })

  test('a factory that throws, or makes no protocol, rejects the call and leaves nothing', async (t) => {
    const anchor = await endpoint(t, HERE)
    const before = openDescriptors().size
    const error = new Error('no protocol')
    await assert.rejects(
      t.loop.createDatagramEndpoint(
        () => {
          throw error
        },
        { engine, ...HERE },
      ),
      error,
    )
    const none = () => 5 as unknown as DatagramRecorder
    await assertRejects(
      () => t.loop.createDatagramEndpoint(none, { engine, ...HERE }),
      'ERR_SHARDLOOP_ARGUMENT',
    )
    await assertRejects(
      () => t.loop.createDatagramEndpoint(5 as unknown as () => DatagramRecorder, { engine, ...HERE }),
      'ERR_SHARDLOOP_ARGUMENT',
    )
    await eventually(() => openDescriptors().size === before)
    assert.equal(anchor.transport.isClosing(), false)
  })

  test('a port that is taken is EADDRINUSE with its address, and reusePort shares it', async (t) => {
    const first = await endpoint(t, { ...HERE, reusePort: true })
    const local = { host: '127.0.0.1', port: portOf(first) }
    const rejected = await t.loop
      .createDatagramEndpoint(() => ({}), { engine, local })
      .then(
        () => undefined,
        (error: unknown) => error,
      )
    const error = assertCode(rejected, 'EADDRINUSE') as unknown as SystemError
    assert.deepEqual([error.syscall, error.address, error.port], ['bind', '127.0.0.1', local.port])
    const second = await endpoint(t, { local, reusePort: true })
    assert.equal(portOf(second), local.port)
    assert.equal(second.transport.getExtraInfo('socket')?.getOption('reusePort'), true)
  })

  test('options that cannot be are refused by name, before anything is opened', async (t) => {
    const cases: [unknown, RegExp][] = [
      [null, /createDatagramEndpoint: expected an object/],
      [{}, /option local: expected a local or a remote address/],
      [{ local: { host: '' } }, /option local\.host/],
      [{ local: { host: '::1', port: 70_000 } }, /option local\.port/],
      [{ local: { host: '::1', prot: 1 } }, /option local: expected \{ host, port \} and nothing else/],
      [{ remote: { host: '127.0.0.1' } }, /option remote\.port/],
      [{ local: '/tmp/x', remote: { port: 1 } }, /option remote/],
      [{ local: '/tmp/x', family: 4 }, /option family/],
      [{ local: '/tmp/x', broadcast: true }, /option broadcast/],
      [{ family: 5 }, /option family/],
      [{ ...HERE, multicastTtl: 256 }, /option multicastTtl/],
      [{ ...HERE, receiveBufferBytes: 0 }, /option receiveBufferBytes/],
      [{ ...HERE, writeHighBytes: 10, writeMaxBytes: 9 }, /option writeMaxBytes/],
      [{ ...HERE, writeHighBytes: 10, writeLowBytes: 11 }, /option writeLowBytes/],
      [{ ...HERE, socket: 3 }, /option local: expected nothing beside socket/],
      [{ socket: -1 }, /option socket/],
      [{ ...HERE, allowBroadcast: true }, /unknown option 'allowBroadcast'/],
    ]
    for (const [options, message] of cases) {
      const error = await t.loop
        .createDatagramEndpoint(() => ({}), options as DatagramEndpointOptions)
        .then(
          () => undefined,
          (thrown: unknown) => thrown,
        )
      assert.match(assertCode(error, 'ERR_SHARDLOOP_OPTION').message, message)
    }
    await assertRejects(() => endpoint(t, { socket: 0x7fff_ffff }), 'EBADF')
  })

  test('an aborted signal opens nothing, and closing the loop ends every endpoint with ERR_SHARDLOOP_CLOSED', async (t) => {
    const reason = new Error('not any more')
    await assert.rejects(endpoint(t, { ...HERE, signal: AbortSignal.abort(reason) }), reason)
    const protocol = await endpoint(t, HERE)
    await t.loop.close()
    assertCode(await protocol.lost(), 'ERR_SHARDLOOP_CLOSED')
    await assertRejects(() => t.loop.createDatagramEndpoint(() => ({}), HERE), 'ERR_SHARDLOOP_STATE')
  })

  test('watermarks and options of the socket are told and set; those that cannot be are refused by name', async (t) => {
    const { transport } = await endpoint(t, HERE)
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 65_536, low: 16_384 })
    transport.setWriteBufferLimits({ high: 100 })
    assert.deepEqual(transport.getWriteBufferLimits(), { high: 100, low: 25 })
    assertThrows(() => transport.setWriteBufferLimits({ high: 1, low: 2 }), 'ERR_SHARDLOOP_ARGUMENT')
    const socket = transport.getExtraInfo('socket')
    assert.ok(socket !== undefined)
    socket.setOption('receiveBufferSize', 65_536)
    assert.ok(socket.getOption('receiveBufferSize') >= 65_536)
    socket.setOption('multicastLoop', false)
    assert.equal(socket.getOption('multicastLoop'), false)
    assertThrows(() => socket.setOption('broadcast', 1 as unknown as boolean), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => socket.setOption('drops' as 'ttl', 1), 'ERR_SHARDLOOP_ARGUMENT')
    assertThrows(() => socket.getOption('noDelay' as 'ttl'), 'ERR_SHARDLOOP_ARGUMENT')
    assert.deepEqual(socket.getsockname(), transport.getExtraInfo('sockname'))
    assertThrows(() => socket.getpeername(), 'ENOTCONN')
    assert.equal(transport.getExtraInfo('peername', 'none'), 'none')
  })
})
