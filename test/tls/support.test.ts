import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createTlsServerContext, tlsSupport } from '../../src/index.js'
import { identityOf } from '../harness/certificates.js'
import { plainSuite } from '../harness/plain.js'

plainSuite('what TLS has here', (test) => {
  test('the names that are told are those that options take', () => {
    const { ciphers, groups } = tlsSupport()
    assert.ok(ciphers.includes('TLS_AES_128_GCM_SHA256'), String(ciphers))
    assert.ok(ciphers.includes('TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384'), String(ciphers))
    assert.equal(groups[0], 'X25519MLKEM768')
    const { cert, key } = identityOf('server')
    createTlsServerContext({ cert, key, ciphers, groups })
  })

  test('whether the kernel would encrypt is asked of it, and a no has a reason', () => {
    const { kernelOffload } = tlsSupport()
    // The list of what can be put over TCP names it where it is.
    const listed =
      process.platform === 'linux' &&
      readFileSync('/proc/sys/net/ipv4/tcp_available_ulp', 'utf8').split(/\s+/).includes('tls')
    if (listed) assert.equal(kernelOffload, null)
    else if (kernelOffload !== null) {
      const reasons =
        "the kernel's module tls is not loaded \\(modprobe tls\\)|the kernel has no kTLS \\(CONFIG_TLS\\)|kTLS is Linux's"
      assert.match(kernelOffload, new RegExp(`^kTLS is not available: (${reasons})$`))
    }
  })
})
