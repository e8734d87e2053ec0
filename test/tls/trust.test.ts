/** Whom a client of ours trusts when nothing is said: those that the system does. */
import assert from 'node:assert/strict'
import { authorityFile } from '../harness/programs.js'
import { Recorder } from '../harness/recorder.js'
import { forEachEngine, portOf } from '../harness/suite.js'
import { serverOptions } from '../harness/tls.js'

forEachEngine('the authorities of the system', (test) => {
  const name = 'are those that a client trusts, and no other; the key exchange resists quantum computers'
  if (process.platform !== 'linux') {
    test.skip(name, 'only OpenSSL systems take authorities from SSL_CERT_FILE')
    return
  }
  test(name, async (t) => {
    const { server } = await t.serveEach(() => new Recorder(), { tls: serverOptions() })
    const port = String(portOf(server))
    const trusts = { env: { SSL_CERT_FILE: authorityFile(t) } }
    const trusting = t.start('trusting-client', [port], trusts)
    assert.match((await trusting.line(/.+/))[0], /^trusted true by X25519MLKEM768$/)
    const named = t.start('trusting-client', [port, 'elsewhere.test'], trusts)
    assert.match((await named.line(/.+/))[0], /^refused ERR_SHARDLOOP_TLS_CERTIFICATE wrong-name$/)
    const other = t.start('trusting-client', [port])
    assert.match((await other.line(/.+/))[0], /^refused ERR_SHARDLOOP_TLS_CERTIFICATE untrusted$/)
    for (const child of [trusting, named, other]) assert.equal((await child.untilExit()).code, 0)
  })
})
