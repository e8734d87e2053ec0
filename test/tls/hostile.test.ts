/** What is no TLS, or wrong: it ends its own connection by name, is counted, and nobody else notices. */
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import type { TlsFailureCounts } from '../../src/index.js'
import type { Client } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { ChunkEcho } from '../harness/echo-protocols.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'
import { nodeOptions, serverOptions } from '../harness/tls.js'
import { assertTlsError, dialTls, type FailureShape, Failures, relay } from '../harness/tls-ends.js'
import { alert, CONTENT, clientHello, handshake, helloExtensions, record } from '../harness/tls-records.js'

interface Attack {
  readonly name: string
  readonly send: Buffer | ((t: TestContext) => Buffer)
  readonly failure: FailureShape
  readonly counted: keyof TlsFailureCounts
  /** The attacker ends its half behind it. */
  readonly ends?: boolean
}

const NOT_TLS = { failure: { code: 'PROTOCOL', reason: 'not-tls' }, counted: 'protocol' } as const
const MALFORMED = { failure: { code: 'PROTOCOL', reason: 'malformed' }, counted: 'protocol' } as const

const ATTACKS: readonly Attack[] = [
  { name: 'plain HTTP', send: Buffer.from('GET / HTTP/1.1\r\nHost: localhost\r\n\r\n'), ...NOT_TLS },
  { name: 'a line of SSH', send: Buffer.from('SSH-2.0-OpenSSH_9.9\r\n'), ...NOT_TLS },
  { name: 'zeros', send: Buffer.alloc(4096), ...NOT_TLS },
  { name: 'a record of an unknown type', send: record(77, Buffer.alloc(10)), ...NOT_TLS },
  {
    name: 'a record longer than any may be',
    send: record(CONTENT.handshake, Buffer.alloc(0xffff), 0xffff),
    ...NOT_TLS,
  },
  {
    name: 'a hello, and then a record longer than any may be',
    send: () => Buffer.concat([clientHello(), record(CONTENT.data, Buffer.alloc(0xffff), 0xffff)]),
    ...MALFORMED,
  },
  { name: 'an empty handshake record', send: record(CONTENT.handshake, Buffer.alloc(0)), ...NOT_TLS },
  {
    name: 'a handshake message that claims 16 MiB',
    send: Buffer.concat(
      Array.from({ length: 200 }, (_, at) =>
        record(
          CONTENT.handshake,
          at === 0 ? handshake(1, Buffer.alloc(16_000), 0xffffff) : Buffer.alloc(16_000),
        ),
      ),
    ),
    ...MALFORMED,
  },
  {
    name: 'another message first',
    send: record(CONTENT.handshake, handshake(20, Buffer.alloc(12))),
    ...MALFORMED,
  },
  { name: 'data before the handshake', send: record(CONTENT.data, Buffer.alloc(100)), ...NOT_TLS },
  {
    name: 'a hello whose inside is cut off',
    send: () => {
      const hello = clientHello()
      hello.writeUInt16BE(0xffff, hello.length - 40)
      return hello
    },
    ...MALFORMED,
  },
  {
    name: 'the same extension twice',
    send: () => clientHello([...helloExtensions(), ...helloExtensions()]),
    ...MALFORMED,
  },
  {
    name: 'a fatal alert',
    send: alert(40),
    failure: { code: 'ALERT', alert: 'handshake_failure' },
    counted: 'alert',
  },
  {
    name: 'a hello, and then a record that cannot be decrypted',
    send: () => Buffer.concat([clientHello(), record(CONTENT.data, Buffer.alloc(100, 7))]),
    ...MALFORMED,
  },
  {
    name: 'half a hello, and the end',
    send: () => clientHello().subarray(0, 50),
    ends: true,
    failure: { code: 'TRUNCATED', reason: 'handshake' },
    counted: 'abandoned',
  },
  {
    name: 'nothing but the end',
    send: Buffer.alloc(0),
    ends: true,
    failure: { code: 'TRUNCATED', reason: 'handshake' },
    counted: 'abandoned',
  },
]

forEachEngine('a TLS server', (test) => {
  for (const { name, send, failure, counted, ends = false } of ATTACKS) {
    test(`gets ${name}: that connection fails by name, is counted, and others go on`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions() })
      const { server } = accepting
      const failures = new Failures(server)
      const good = await t.join(accepting, { tls: nodeOptions() })
      const attacker = await t.connect(server)
      const port = attacker.socket.localPort
      const bytes = typeof send === 'function' ? send(t) : send
      attacker.socket.write(bytes)
      if (ends) attacker.end()
      const error = assertTlsError(await failures.at(0), failure)
      assert.deepEqual(error.peer, { address: '127.0.0.1', port, family: 'IPv4' })
      await closes(attacker)
      assert.equal(server.metrics().total.tls.failed[counted], 1)
      assert.equal(accepting.protocols.length, 1, 'no protocol was made for it')
      await good.client.write('still here')
      await good.protocol.receivedAtLeast(10)
      await t.join(accepting, { tls: nodeOptions() })
    })
  }

  test('gets random bytes a thousand times: each connection ends, and the server serves', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
    const before = server.metrics().total.connectionsOpen
    for (let round = 0; round < 20; round++) {
      await Promise.all(
        Array.from({ length: 50 }, async () => {
          const attacker = await t.connect(server, { mayBreak: true })
          const bytes = t.random.bytes(1 + t.random.below(2000))
          // Half of them look like TLS at first.
          if (t.random.below(2) === 0)
            record(CONTENT.handshake, bytes.subarray(0, 0), bytes.length).copy(bytes)
          attacker.socket.on('error', () => {})
          attacker.socket.end(bytes)
          await closes(attacker)
          await attacker.destroy()
        }),
      )
    }
    await eventually(() => server.metrics().total.connectionsOpen === before)
    const client = await t.connect(server, { tls: nodeOptions() })
    await client.write('well?')
    assert.equal((await client.readExactly(5)).toString(), 'well?')
    const { failed } = server.metrics().total.tls
    assert.equal(failed.protocol + failed.abandoned + failed.alert + failed.incompatible, 1000)
  })

  test('answers plain HTTP at its port with an alert or an end, and no byte of plain text', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
    const client = await t.connect(server)
    client.socket.write('GET / HTTP/1.0\r\n\r\n')
    const answer = await client.readToClose()
    assert.ok(answer.length === 0 || answer[0] === CONTENT.alert, answer.toString('latin1'))
  })

  test('takes a handshake and data byte by byte', async (t) => {
    for (const version of ['tls1.2', 'tls1.3'] as const) {
      const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions(version) })
      const port = (await relay(t, portOf(server), 1)).port
      const client = await t.connect(port, { tls: nodeOptions(version) })
      const data = t.random.bytes(2000)
      client.socket.write(data)
      assert.deepEqual(await client.readExactly(data.length), data)
      client.end()
      assert.equal((await client.readToEnd()).length, 0)
    }
  })
})

forEachEngine('a TLS client', (test) => {
  test('takes a handshake and data byte by byte', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { tls: serverOptions() })
    const port = (await relay(t, portOf(server), 1)).port
    const [transport, protocol] = await dialTls(t, port, () => new Recorder())
    const data = t.random.bytes(2000)
    transport.write(data)
    assert.deepEqual(await protocol.receivedAtLeast(data.length), data)
  })

  for (const [name, answer, failure] of [
    ['a plain server', Buffer.from('220 ready\r\n'), { code: 'PROTOCOL', reason: 'not-tls' }],
    ['plain HTTP', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n'), { code: 'PROTOCOL', reason: 'not-tls' }],
    ['an alert', alert(80), { code: 'ALERT', alert: 'internal_error' }],
    ['an alert of an unknown number', alert(222), { code: 'ALERT', alert: 'alert_222' }],
    ['nonsense', record(CONTENT.handshake, Buffer.alloc(500, 9)), { code: 'PROTOCOL', reason: 'malformed' }],
    ['data', record(CONTENT.data, Buffer.alloc(500, 9)), { code: 'PROTOCOL', reason: 'not-tls' }],
    ['an end', null, { code: 'TRUNCATED', reason: 'handshake' }],
  ] as const) {
    test(`that gets ${name} in answer rejects by name, with the peer`, async (t) => {
      const server = createServer((socket) => {
        socket.on('error', () => {})
        socket.once('data', () => (answer === null ? socket.end() : socket.write(answer)))
      })
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      t.defer(() => void server.close())
      const { port } = server.address() as { port: number }
      const made = new Recorder()
      const failed = await dialTls(t, port, () => made).catch((error: unknown) => error)
      const error = assertTlsError(failed, failure)
      assert.deepEqual(error.peer, { address: '127.0.0.1', port, family: 'IPv4' })
      assert.deepEqual(made.events, [])
    })
  }

  test('at a port of a server without TLS rejects, and the server sees its hello as data', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const dialled = dialTls(t, portOf(accepting.server), () => new Recorder()).catch(
      (error: unknown) => error,
    )
    const protocol = await accepting.protocol(0)
    const hello = await protocol.receivedAtLeast(5)
    assert.deepEqual([...hello.subarray(0, 2)], [CONTENT.handshake, 3])
    protocol.transport.write('500 what?\r\n')
    assertTlsError(await dialled, { code: 'PROTOCOL', reason: 'not-tls' })
  })
})

/** Resolves when a connection is over for its client. */
async function closes(client: Client): Promise<void> {
  client.resume()
  await client.until(() => client.ended || client.closed)
}
