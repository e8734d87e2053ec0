/** A TLS connection as a stream of Node's: TLS in TLS by node:tls. */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { connect, TLSSocket } from 'node:tls'
import { identityOf } from '../harness/certificates.js'
import { KiB } from '../harness/memory.js'
import { forEachEngine, portOf } from '../harness/suite.js'
import { nodeOptions, serverOptions } from '../harness/tls.js'
import { dialTls } from '../harness/tls-ends.js'

forEachEngine('TLS in TLS', (test) => {
  for (const inner of ['tls1.2', 'tls1.3'] as const) {
    test(`${inner} inside: an echo through both, which ends in order`, async (t) => {
      const { cert, key } = identityOf('rsa')
      const server = await t.serve(
        () => ({
          connectionMade(transport) {
            const stream = new TLSSocket(transport.duplex({ allowHalfOpen: true }), {
              isServer: true,
              cert,
              key,
            })
            stream.on('error', () => {})
            stream.pipe(stream)
          },
        }),
        { tls: serverOptions() },
      )
      const [transport] = await dialTls(t, portOf(server), () => ({}))
      assert.equal(transport.getExtraInfo('peercert')?.serialNumber, identityOf('server').serialNumber)
      const stream = connect({ ...nodeOptions(inner), socket: transport.duplex({ allowHalfOpen: true }) })
      t.defer(() => void stream.destroy())
      await once(stream, 'secureConnect')
      assert.equal(stream.authorized, true)
      assert.equal(stream.getPeerCertificate().serialNumber, identityOf('rsa').serialNumber)
      assert.equal(stream.getProtocol(), inner === 'tls1.2' ? 'TLSv1.2' : 'TLSv1.3')
      const data = t.random.bytes(500 * KiB)
      const chunks: Buffer[] = []
      stream.on('data', (chunk: Buffer) => chunks.push(chunk))
      stream.end(data)
      await once(stream, 'end')
      assert.deepEqual(Buffer.concat(chunks), data)
      assert.equal(server.metrics().total.tls.truncated, 0)
    })
  }
})
