import assert from 'node:assert/strict'
import { connect as connectTcp, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import { connect as connectTls, TLSSocket } from 'node:tls'
import {
  createTlsServerContext,
  openConnection,
  type StartTlsOptions,
  startServer,
  TlsError,
} from '../src/index.js'
import { identityOf } from './harness/certificates.js'
import { BufferedRecorder, RECORDERS, Recorder } from './harness/recorder.js'
import { assertCode, forEachEngine, portOf, type TestContext } from './harness/suite.js'
import { clientOptions, nodeOptions, serverOptions } from './harness/tls.js'

const COMMAND = Buffer.from('STARTTLS\n')
const UPGRADE = { tls: { ...serverOptions(), upgrade: true } } as const

/** A client's bytes, behind a line in plain text, in pieces of that size. */
class Behind extends Duplex {
  readonly #socket: Socket
  readonly #piece: number
  #before = COMMAND

  constructor(socket: Socket, piece: number) {
    super({ allowHalfOpen: false })
    this.#socket = socket
    this.#piece = piece
    socket.setNoDelay(true)
    socket.on('data', (chunk) => this.push(chunk))
    socket.on('end', () => this.push(null))
    socket.on('close', () => this.destroy())
    socket.on('error', (error) => this.destroy(error))
  }

  override _read(): void {}

  override _write(chunk: Buffer, _encoding: string, done: (error?: Error | null) => void): void {
    const all = Buffer.concat([this.#before, chunk])
    this.#before = Buffer.alloc(0)
    const send = (from: number): void => {
      if (from >= all.length) return done()
      this.#socket.write(all.subarray(from, from + this.#piece), () => setImmediate(send, from + this.#piece))
    }
    send(0)
  }

  override _final(done: () => void): void {
    this.#socket.end(done)
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#socket.destroy()
    done(error)
  }
}

/** Echoes in plain text until it is told to begin TLS; then by TLS. */
function upgrading(Base: new () => Recorder, options: (rest: Buffer) => StartTlsOptions) {
  return class Upgrading extends Base {
    /** Resolves when it is TLS. */
    upgraded: Promise<void> | undefined
    #seen = 0

    protected override record(bytes: Uint8Array): void {
      super.record(bytes)
      const at = this.bytes.indexOf('\n', this.#seen)
      if (this.upgraded !== undefined || at < 0) return
      const rest = this.bytes.subarray(at + 1)
      this.chunks.splice(0)
      this.received = 0
      this.upgraded = this.transport.startTls(options(rest))
      this.changed()
      this.upgraded.then(
        () => this.note('secured'),
        () => this.note('refused'),
      )
    }
  }
}

async function behind(t: TestContext, port: number, piece: number): Promise<TLSSocket> {
  const socket = connectTcp(port, '127.0.0.1')
  await new Promise((resolve) => socket.once('connect', resolve))
  const secured = connectTls({ socket: new Behind(socket, piece), ...nodeOptions() })
  t.defer(() => void secured.destroy())
  await new Promise<void>((resolve, reject) => {
    secured.once('secureConnect', resolve)
    secured.once('error', reject)
  })
  return secured
}

forEachEngine('startTls of a server', (test) => {
  for (const [kind, Base] of Object.entries(RECORDERS)) {
    for (const piece of [1, 7, 100_000]) {
      test(`takes a handshake that came with the command, in pieces of ${piece} bytes (${kind})`, async (t) => {
        const Upgrading = upgrading(Base, (received) => ({ server: true, received }))
        const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
        const client = await behind(t, portOf(accepting.server), piece)
        client.write('hello')
        const protocol = await accepting.protocol(0)
        assert.equal(String(await protocol.receivedAtLeast(5)), 'hello')
        assert.deepEqual(protocol.events, ['made', 'secured'])
        assert.equal(protocol.transport.getExtraInfo('tlsVersion'), 'TLSv1.3')
        protocol.transport.write('back')
        const answer = await new Promise<Buffer>((resolve) => client.once('data', resolve))
        assert.equal(String(answer), 'back')
        client.end()
        assert.equal(await protocol.lost(), null)
      })
    }
  }

  test('what BufferedProtocol has not taken yet of the chunk belongs to TLS', async (t) => {
    class Small extends BufferedRecorder {
      #memory = new Uint8Array(COMMAND.length)
      isSecured = false
      override getBuffer(sizeHint: number): Uint8Array {
        return this.isSecured ? super.getBuffer(sizeHint) : this.#memory
      }
      override bufferUpdated(bytes: number): void {
        if (this.isSecured) super.bufferUpdated(bytes)
        else {
          assert.equal(String(Buffer.from(this.#memory.subarray(0, bytes))), String(COMMAND))
          this.isSecured = true
          void this.transport.startTls({ server: true })
        }
      }
    }
    const accepting = await t.serveEach(() => new Small(), UPGRADE)
    const client = await behind(t, portOf(accepting.server), 100_000)
    client.write('hello')
    assert.equal(String(await (await accepting.protocol(0)).receivedAtLeast(5)), 'hello')
    client.destroy()
    await (await accepting.protocol(0)).lost()
  })

  test('goes on with reading paused, and resumes when it is asked to', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    class Paused extends Upgrading {
      protected override record(bytes: Uint8Array): void {
        if (this.upgraded === undefined) this.transport.pauseReading()
        super.record(bytes)
      }
    }
    const accepting = await t.serveEach(() => new Paused(), UPGRADE)
    const client = await behind(t, portOf(accepting.server), 100_000)
    client.write('hello')
    const protocol = await accepting.protocol(0)
    await protocol.noted('secured')
    await new Promise((resolve) => setImmediate(resolve))
    assert.equal(protocol.received, 0)
    protocol.transport.resumeReading()
    assert.equal(String(await protocol.receivedAtLeast(5)), 'hello')
    client.destroy()
    await protocol.lost()
  })

  test('gives the connection to another protocol before anything of TLS is delivered', async (t) => {
    const next = new Recorder()
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received, protocol: next }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const client = await behind(t, portOf(accepting.server), 100_000)
    client.write('hello')
    assert.equal(String(await next.receivedAtLeast(5)), 'hello')
    assert.equal((await accepting.protocol(0)).received, 0)
    client.end()
    assert.equal(await next.lost(), null)
  })

  test('of a context, where the server has no TLS of its own', async (t) => {
    const { cert, key } = identityOf('server')
    const context = createTlsServerContext({ cert, key, alpn: ['a'] })
    t.defer(() => context.close())
    const Upgrading = upgrading(Recorder, (received) => ({ server: context, received }))
    const accepting = await t.serveEach(() => new Upgrading())
    const client = await behind(t, portOf(accepting.server), 100_000)
    client.end('hello')
    assert.equal(String(await (await accepting.protocol(0)).receivedAtLeast(5)), 'hello')
    await (await accepting.protocol(0)).lost()
  })

  test('counts no time that its own thread is away before it begins', async (t) => {
    class Busy extends upgrading(Recorder, (received) => ({ server: true, received })) {
      override dataReceived(chunk: Buffer): void {
        const begins = this.upgraded === undefined
        super.dataReceived(chunk)
        const end = performance.now() + 1_500
        while (begins && performance.now() < end);
      }
    }
    const accepting = await t.serveEach(() => new Busy(), {
      tls: { ...UPGRADE.tls, handshakeTimeoutMs: 1_000 },
    })
    const client = await behind(t, portOf(accepting.server), 100_000)
    client.end('hello')
    const protocol = await accepting.protocol(0)
    assert.equal(String(await protocol.receivedAtLeast(5)), 'hello')
    await protocol.lost()
  })

  test('plain text in place of a handshake ends the connection by name', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const client = await t.connect(accepting.server, { mayBreak: true })
    await client.write('STARTTLS\nMAIL FROM:<injected@example.com>\r\n')
    const protocol = await accepting.protocol(0)
    const error = assertCode(await protocol.lost(), 'ERR_SHARDLOOP_TLS_PROTOCOL') as TlsError
    assert.equal(error.reason, 'not-tls')
    assert.deepEqual(error.peer, protocol.transport.getExtraInfo('peername'))
    await assert.rejects(protocol.upgraded as Promise<void>, error)
    assert.equal(protocol.received, 0, 'nothing of it was delivered')
    await client.readToClose()
  })

  test('a peer that leaves meanwhile rejects it', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const client = await t.connect(accepting.server)
    await client.write(String(COMMAND))
    const protocol = await accepting.protocol(0)
    await protocol.until(() => protocol.upgraded !== undefined)
    await client.destroy()
    const error = assertCode(await protocol.lost(), 'ERR_SHARDLOOP_TLS_TRUNCATED') as TlsError
    assert.equal(error.reason, 'handshake')
    await assert.rejects(protocol.upgraded as Promise<void>, error)
  })

  test('a close meanwhile rejects it, and is no failure, though something waits to be encrypted', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const client = await t.connect(accepting.server)
    await client.write(String(COMMAND))
    const protocol = await accepting.protocol(0)
    await protocol.until(() => protocol.upgraded !== undefined)
    protocol.transport.write('for nobody')
    protocol.transport.close()
    await assert.rejects(protocol.upgraded as Promise<void>, { code: 'ERR_SHARDLOOP_CLOSED' })
    assert.equal(await protocol.lost(), null)
    assert.equal((await client.readToClose()).length, 0, 'nothing of it went out in clear')
  })

  for (const text of ['all there is', '']) {
    test(`an end of the sending half meanwhile is TLS's, behind what was written: '${text}'`, async (t) => {
      class Ending extends upgrading(Recorder, (received) => ({ server: true, received })) {
        protected override record(bytes: Uint8Array): void {
          const before = this.upgraded
          super.record(bytes)
          if (before !== undefined || this.upgraded === undefined) return
          this.transport.write(text)
          this.transport.writeEof()
        }
      }
      const accepting = await t.serveEach(() => new Ending(), UPGRADE)
      const client = await behind(t, portOf(accepting.server), 100_000)
      const chunks: Buffer[] = []
      client.on('data', (chunk: Buffer) => chunks.push(chunk))
      await new Promise((resolve) => client.once('end', resolve))
      client.end()
      assert.equal(String(Buffer.concat(chunks)), text)
      const protocol = await accepting.protocol(0)
      assert.equal(await protocol.lost(), null)
    })
  }
})

forEachEngine('startTls of a client', (test) => {
  test('what is written before is plain, and what is written after waits for the handshake', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const [transport, protocol] = await t.dial(accepting.server, () => new Recorder())
    transport.write(COMMAND)
    const upgraded = transport.startTls(clientOptions())
    transport.write('at once')
    await upgraded
    assert.equal(transport.getExtraInfo('tlsVersion'), 'TLSv1.3')
    assert.equal(transport.getExtraInfo('servername'), 'localhost')
    const other = await accepting.protocol(0)
    assert.equal(String(await other.receivedAtLeast(7)), 'at once')
    other.transport.write('answer')
    assert.equal(String(await protocol.receivedAtLeast(6)), 'answer')
    transport.close()
    assert.equal(await protocol.lost(), null)
    assert.equal(await other.lost(), null)
  })

  test('loop.startTls gives it to another protocol', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const [transport, before] = await t.dial(accepting.server, () => new Recorder())
    transport.write(COMMAND)
    const next = new Recorder()
    assert.equal(await t.loop.startTls(transport, next, clientOptions()), transport)
    assert.equal(transport.protocol, next)
    ;(await accepting.protocol(0)).transport.write('hello')
    assert.equal(String(await next.receivedAtLeast(5)), 'hello')
    transport.close()
    assert.equal(await next.lost(), null)
    assert.deepEqual(before.events, ['made'])
  })

  test('a certificate that is not accepted rejects it, and the connection ends with that', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const [transport, protocol] = await t.dial(accepting.server, () => new Recorder())
    transport.write(COMMAND)
    const error = await transport.startTls({ servername: 'localhost' }).catch((reason: unknown) => reason)
    assert.ok(error instanceof TlsError)
    assert.deepEqual([error.code, error.reason], ['ERR_SHARDLOOP_TLS_CERTIFICATE', 'untrusted'])
    assert.equal(await protocol.lost(), error)
    assertCode(await (await accepting.protocol(0)).lost(), 'ERR_SHARDLOOP_TLS_ALERT')
  })

  test('what cannot be is refused, and the connection goes on as it was', async (t) => {
    const accepting = await t.serveEach(() => new Recorder())
    const [transport, protocol] = await t.dial(accepting.server, () => new Recorder())
    const cases: [unknown, string, RegExp][] = [
      [undefined, 'ERR_SHARDLOOP_ARGUMENT', /options is undefined; expected an object/],
      [{ server: 7 }, 'ERR_SHARDLOOP_ARGUMENT', /server is 7; expected true, or a context/],
      [{ server: true }, 'ERR_SHARDLOOP_OPTION', /the connection's server has no option tls/],
      [{ server: true, alpn: ['x'] }, 'ERR_SHARDLOOP_OPTION', /option alpn: expected nothing beside server/],
      [{}, 'ERR_SHARDLOOP_OPTION', /option servername: expected the name of the host/],
      [{ servername: 'localhost', received: 'x' }, 'ERR_SHARDLOOP_ARGUMENT', /received is 'x'/],
      [{ servername: 'localhost', protocol: 7 }, 'ERR_SHARDLOOP_ARGUMENT', /protocol is 7/],
      [{ servername: 'localhost', bogus: 1 }, 'ERR_SHARDLOOP_OPTION', /unknown option 'bogus'/],
    ]
    for (const [options, code, message] of cases) {
      const error = await transport.startTls(options as StartTlsOptions).catch((reason: unknown) => reason)
      assert.equal((error as { code?: string }).code, code)
      assert.match((error as Error).message, message)
    }
    ;(await accepting.protocol(0)).transport.write('plain')
    assert.equal(String(await protocol.receivedAtLeast(5)), 'plain')
    transport.writeEof()
    await assert.rejects(
      transport.startTls(clientOptions()),
      /cannot become TLS: .* was written to after writeEof/,
    )
    transport.close()
    await protocol.lost()
    await assert.rejects(transport.startTls(clientOptions()), { code: 'ERR_SHARDLOOP_CLOSED' })
  })

  test('a second one is refused', async (t) => {
    const Upgrading = upgrading(Recorder, (received) => ({ server: true, received }))
    const accepting = await t.serveEach(() => new Upgrading(), UPGRADE)
    const [transport, protocol] = await t.dial(accepting.server, () => new Recorder())
    transport.write(COMMAND)
    const first = transport.startTls(clientOptions())
    await assert.rejects(transport.startTls(clientOptions()), /cannot become TLS: it is about to already/)
    await first
    await assert.rejects(transport.startTls(clientOptions()), {
      code: 'ERR_SHARDLOOP_STATE',
      message: /it is TLS already; run TLS in TLS by node:tls, through duplex\(\)/,
    })
    transport.close()
    await protocol.lost()
  })
})

forEachEngine('startTls of a stream', (test) => {
  test('gives back what its reader has, on both sides', async (t) => {
    const server = await startServer(
      async (stream) => {
        await stream.readLine()
        await stream.startTls({ server: true })
        for await (const chunk of stream) await stream.write(chunk)
      },
      { shards: 0, host: '127.0.0.1', engine: t.engine, signals: false, ...UPGRADE },
    )
    t.defer(() => server.abort())
    // The client's hello comes with the command: it is in the reader when the handler asks for TLS.
    const eager = await behind(t, portOf(server), 100_000)
    eager.end('eager')
    let got = ''
    for await (const chunk of eager) got += chunk
    assert.match(got, /eager$/)
  })

  test('by both ends of ours', async (t) => {
    const server = await startServer(
      async (stream) => {
        await stream.readLine()
        await stream.write('ready\n')
        await stream.startTls({ server: true })
        for await (const chunk of stream) await stream.write(chunk)
      },
      { shards: 0, host: '127.0.0.1', engine: t.engine, signals: false, ...UPGRADE },
    )
    t.defer(() => server.abort())
    const stream = await openConnection({ host: '127.0.0.1', port: portOf(server), engine: t.engine })
    await stream.write(COMMAND)
    assert.equal(String(await stream.readLine()), 'ready\n')
    await stream.startTls(clientOptions())
    await stream.write('secret\n')
    assert.equal(String(await stream.readLine()), 'secret\n')
    stream.close()
    await stream.waitClosed()
    await server.close()
  })
})

forEachEngine('TLS in TLS', (test) => {
  test('is node:tls on a stream of a connection of ours, on both sides', async (t) => {
    const { cert, key } = identityOf('rsa')
    const server = await t.serve(
      () => ({
        connectionMade: (transport) => {
          const inner = new TLSSocket(transport.duplex(), { isServer: true, cert, key })
          inner.on('error', () => {}) // 'close' follows
          inner.pipe(inner)
        },
      }),
      { tls: serverOptions() },
    )
    const [transport] = await t.dial(server, () => new Recorder(), { tls: clientOptions() })
    const inner = connectTls({ socket: transport.duplex(), ...nodeOptions() })
    t.defer(() => void inner.destroy())
    await new Promise((resolve, reject) => inner.once('secureConnect', resolve).once('error', reject))
    assert.equal(inner.getPeerCertificate().serialNumber, identityOf('rsa').serialNumber)
    assert.equal(transport.getExtraInfo('peercert')?.serialNumber, identityOf('server').serialNumber)
    const sent = Buffer.alloc(1_000_000, 'abc')
    inner.write(sent)
    const got: Buffer[] = []
    let bytes = 0
    for await (const chunk of inner) {
      got.push(chunk)
      bytes += chunk.length
      if (bytes === sent.length) inner.end()
    }
    assert.ok(Buffer.concat(got).equals(sent))
  })
})
