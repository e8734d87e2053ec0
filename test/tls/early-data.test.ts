/** Data that a client sends ahead of its handshake (0-RTT, RFC 8446 section 2.3), by OpenSSL's s_client. */
import assert from 'node:assert/strict'
import type { Server } from '../../src/index.js'
import { fileWith, OPENSSL } from '../harness/programs.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'
import { serverOptions } from '../harness/tls.js'

/** Answers each line, and says whether it came early. */
class Answering extends Recorder {
  override dataReceived(chunk: Buffer): void {
    super.dataReceived(chunk)
    const { earlyData } = this.transport.getExtraInfo('sslObject') as { earlyData: boolean }
    this.transport.write(`${earlyData ? 'early' : 'in time'}: ${chunk.toString()}`)
  }
}

/** A connection that says one line behind its handshake, and ends. @returns all that it printed */
async function visit(t: TestContext, server: Server, args: readonly string[]): Promise<string> {
  const to = ['-connect', `127.0.0.1:${portOf(server)}`, '-servername', 'localhost', '-tls1_3']
  const child = t.spawn(['s_client', ...to, ...args], { command: OPENSSL.command })
  await child.line(/^\s*Verify return code/)
  child.send('behind it')
  await child.until(() => /(early|in time): behind it/.test(child.stdout))
  child.process.stdin.end()
  await child.untilExit()
  return child.stdout
}

forEachEngine('early data', (test) => {
  const define = (name: string, body: (t: TestContext) => Promise<void>): void => {
    if (OPENSSL.missing === null) test(name, body)
    else test.skip(name, OPENSSL.missing)
  }

  define('is delivered and answered once, and never to who repeats it', async (t) => {
    const { server } = await t.serveEach(() => new Answering(), {
      tls: { ...serverOptions(), sessions: 'stateful', earlyDataBytes: 4096 },
    })
    const session = t.path('session')
    const early = fileWith(t, 'early', 'ahead of it\n')
    assert.match(await visit(t, server, ['-sess_out', session]), /in time: behind it/)

    const first = await visit(t, server, ['-sess_in', session, '-early_data', early])
    assert.match(first, /Early data was accepted/)
    assert.match(first, /early: ahead of it/)

    const repeated = await visit(t, server, ['-sess_in', session, '-early_data', early])
    assert.match(repeated, /Early data was rejected/)
    assert.doesNotMatch(repeated, /ahead of it/)
    assert.equal(server.metrics().total.tls.resumed, 1)
  })

  define('that is rejected is skipped, as much of it as was allowed', async (t) => {
    const earlyDataBytes = 4096
    const { server } = await t.serveEach(() => new Answering(), {
      tls: { ...serverOptions(), sessions: 'stateful', earlyDataBytes },
    })
    const session = t.path('session')
    const overhead = 17 // of a record (RFC 8446 section 5.2)
    const early = fileWith(t, 'early', `${'x'.repeat(earlyDataBytes - overhead - 1)}\n`)
    await visit(t, server, ['-sess_out', session])
    assert.match(
      await visit(t, server, ['-sess_in', session, '-early_data', early]),
      /Early data was accepted/,
    )
    const repeated = await visit(t, server, ['-sess_in', session, '-early_data', early])
    assert.match(repeated, /Early data was rejected/)
    assert.match(repeated, /in time: behind it/)
    assert.doesNotMatch(repeated, /early: /)
    assert.equal(server.metrics().total.tls.failed.protocol, 0)
  })

  define('is refused unless it was asked for', async (t) => {
    const { server } = await t.serveEach(() => new Answering(), {
      tls: { ...serverOptions(), sessions: 'stateful' },
    })
    const session = t.path('session')
    const early = fileWith(t, 'early', 'ahead of it\n')
    await visit(t, server, ['-sess_out', session])
    const refused = await visit(t, server, ['-sess_in', session, '-early_data', early])
    assert.doesNotMatch(refused, /Early data was accepted/)
    assert.doesNotMatch(refused, /: ahead of it/)
  })
})
