/** Handshakes that are slow, or never done: how long, how many at once, and what they cost. */
import assert from 'node:assert/strict'
import { createServer } from 'node:net'
import type { Client } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { Halting } from '../harness/halting.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine } from '../harness/suite.js'
import { nodeOptions, serverOptions } from '../harness/tls.js'
import { assertTlsError, dialTls, Failures, nodeServer } from '../harness/tls-ends.js'
import { clientHello } from '../harness/tls-records.js'

const MODULE = new URL('../fixtures/servers/tls-module.js', import.meta.url)

forEachEngine('handshakes that are never done', (test) => {
  for (const [name, first] of [
    ['that send nothing', Buffer.alloc(0)],
    ['that send half a hello', clientHello().subarray(0, 60)],
    ['that send a hello and nothing more', clientHello()],
  ] as const) {
    test(`${name}: end after handshakeTimeoutMs, by name, and others are served meanwhile`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), {
        tls: { ...serverOptions(), handshakeTimeoutMs: 300 },
      })
      const failures = new Failures(accepting.server)
      const began = performance.now()
      const slow = await t.connect(accepting.server)
      slow.socket.write(first)
      const { client, protocol } = await t.join(accepting, { tls: nodeOptions() })
      await client.write('meanwhile')
      await protocol.receivedAtLeast(9)
      assertTlsError(await failures.at(0), { code: 'TIMEOUT' })
      const took = performance.now() - began
      assert.ok(took >= 290, `after ${took} ms`)
      await over(slow)
      assert.equal(accepting.server.metrics().total.tls.failed.timeout, 1)
      assert.equal(accepting.protocols.length, 1)
    })
  }

  test('a hello that comes byte by byte does not make the time longer', async (t) => {
    const accepting = await t.serveEach(() => new Recorder(), {
      tls: { ...serverOptions(), handshakeTimeoutMs: 300 },
    })
    const failures = new Failures(accepting.server)
    const slow = await t.connect(accepting.server)
    const hello = clientHello()
    let sent = 0
    const drip = setInterval(() => {
      if (sent < hello.length - 1) slow.socket.write(hello.subarray(sent, ++sent))
    }, 20)
    t.defer(() => clearInterval(drip))
    assertTlsError(await failures.at(0), { code: 'TIMEOUT' })
    assert.ok(sent < hello.length - 1)
  })

  for (const maxVersion of ['TLSv1.2', 'TLSv1.3'] as const) {
    test(`${maxVersion}: of which the peer was not the cause, but the thread that was blocked for longer, are done`, async (t) => {
      const accepting = await t.serveEach(() => new Recorder(), {
        tls: { ...serverOptions(), handshakeTimeoutMs: 1_000 },
      })
      const tls = { ...nodeOptions(), maxVersion }
      const clients = Array.from({ length: 5 }, () => new Halting(t, accepting.server, 'a hello', tls))
      await eventually(() => clients.every(({ gate }) => gate.held > 0))
      for (const client of clients) client.go()
      const end = performance.now() + 1_500
      while (performance.now() < end);
      for (const client of clients) await client.until(() => client.isSecure)
      for (const at of clients.keys()) await (await accepting.protocol(at)).receivedAtLeast(4)
      assert.equal(accepting.server.metrics().total.tls.failed.timeout, 0)
    })
  }

  test('a peer that always has a byte for a blocked thread has no more than twice the time', async (t) => {
    const accepting = await t.serveEach(() => new Recorder(), {
      tls: { ...serverOptions(), handshakeTimeoutMs: 300 },
    })
    const failures = new Failures(accepting.server)
    const slow = await t.connect(accepting.server, { mayBreak: true })
    const hello = clientHello()
    for (let sent = 0; failures.errors.length === 0; sent++) {
      assert.ok(sent < 4, `${sent} times`)
      slow.socket.write(hello.subarray(sent, sent + 1))
      const end = performance.now() + 400
      while (performance.now() < end);
      // What it hears of that comes in these turns.
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
    }
    assertTlsError(failures.errors[0], { code: 'TIMEOUT' })
    await over(slow)
  })

  test('by a server end for a client of ours after handshakeTimeoutMs', async (t) => {
    const server = createServer((socket) => void socket.on('error', () => {}).resume())
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
    t.defer(() => void server.close())
    const { port } = server.address() as { port: number }
    const failed = await dialTls(t, port, () => new Recorder(), { handshakeTimeoutMs: 200 }).catch(
      (error: unknown) => error,
    )
    const { peer } = assertTlsError(failed, { code: 'TIMEOUT' })
    assert.deepEqual(peer, { address: '127.0.0.1', port, family: 'IPv4' })
  })

  test('of which there may be maxHandshakes at once: who comes then waits, and is served when one has ended', async (t) => {
    const accepting = await t.serveEach(() => new Recorder(), {
      tls: { ...serverOptions(), maxHandshakes: 4, handshakeTimeoutMs: 60_000 },
    })
    const failures = new Failures(accepting.server)
    // One that stands does not count any more.
    const standing = await t.join(accepting, { tls: nodeOptions() })
    const idlers = await Promise.all(Array.from({ length: 4 }, () => t.connect(accepting.server)))
    for (const idler of idlers) idler.socket.write(clientHello())
    for (const idler of idlers) await idler.until(() => idler.received > 0)
    const late = t.connect(accepting.server, { tls: nodeOptions() })
    let isIn = false
    late.then(
      () => {
        isIn = true
      },
      () => {},
    )
    // Two ways through the server and back: whoever gets in without waiting is in by now.
    for (const text of ['still', 'here!']) {
      const before = standing.protocol.received
      await standing.client.write(text)
      await standing.protocol.receivedAtLeast(before + 5)
    }
    assert.equal(isIn, false)
    assert.equal(accepting.protocols.length, 1)
    await idlers[0]?.destroy()
    const client = await late
    await client.write('at last')
    await (await accepting.protocol(1)).receivedAtLeast(7)
    assertTlsError(await failures.at(0), { code: 'TRUNCATED', reason: 'handshake' })
  })

  test('two thousand at once cost less than 48 KiB each with their clients, and end with them', async (t) => {
    const server = await t.serve(MODULE, {
      shards: 1,
      tls: { ...serverOptions(), maxHandshakes: 4096, handshakeTimeoutMs: 60_000 },
    })
    const warm = await t.connect(server, { tls: nodeOptions() })
    await warm.write('x\n')
    await warm.readLine()
    const before = process.memoryUsage.rss()
    const hello = clientHello()
    const idlers: Client[] = []
    for (let batch = 0; batch < 20; batch++) {
      const opened = await Promise.all(Array.from({ length: 100 }, () => t.connect(server)))
      for (const idler of opened) idler.socket.write(hello)
      for (const idler of opened) await idler.until(() => idler.received > 0)
      idlers.push(...opened)
    }
    const each = (process.memoryUsage.rss() - before) / idlers.length
    // Half of it is this very process' own sockets, at the other ends.
    assert.ok(each < 48 * 1024, `${Math.round(each)} bytes each`)
    await warm.write('still\n')
    assert.match(await warm.readLine(), /still/)
    await Promise.all(idlers.map((idler) => idler.destroy()))
    await eventually(() => server.metrics().total.tls.failed.abandoned === idlers.length)
    const next = await t.connect(server, { tls: nodeOptions() })
    await next.write('next\n')
    assert.match(await next.readLine(), /next/)
  })

  test('by node:tls clients that leave at any moment are only counted', async (t) => {
    const accepting = await t.serveEach(() => new Recorder(), { tls: serverOptions() })
    const probe = await t.join(accepting, { tls: nodeOptions() })
    await Promise.all(
      Array.from({ length: 60 }, async (_, at) => {
        const client = await t.connect(accepting.server)
        const hello = clientHello()
        client.socket.on('error', () => {})
        client.socket.write(hello.subarray(0, t.random.below(hello.length + 1)))
        if (at % 2 === 0) client.reset()
        else await client.destroy()
      }),
    )
    await eventually(() => {
      const { failed } = accepting.server.metrics().total.tls
      return failed.abandoned === 60
    })
    await probe.client.write('still here')
    await probe.protocol.receivedAtLeast(10)
  })
})

forEachEngine('many handshakes at once', (test) => {
  test('by clients of ours with node:tls, all are done', async (t) => {
    const server = await nodeServer(t)
    const made = await Promise.all(
      Array.from({ length: 50 }, () => dialTls(t, server.port, () => new Recorder())),
    )
    for (const [transport] of made) transport.write('x')
    for (const [, protocol] of made) await protocol.receivedAtLeast(1)
  })
})

async function over(client: Client): Promise<void> {
  await client.until(() => client.ended || client.closed)
}
