import assert from 'node:assert/strict'
import { mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { connect } from 'node:tls'
import { TlsReload } from '../src/server/tls-reload.js'
import { SharedTls } from '../src/tls/server-context.js'
import { parseTlsServerOptions } from '../src/tls/server-options.js'
import { authority, type Identity, identityOf } from './harness/certificates.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { type Defer, plainSuite } from './harness/plain.js'
import { forEachEngine, portOf } from './harness/suite.js'

/** Files of a certificate and its key. */
class Files {
  readonly at: string
  readonly cert: string
  readonly key: string

  constructor(defer: Defer) {
    this.at = mkdtempSync(join(tmpdir(), 'shardloop-reload-'))
    defer(() => rmSync(this.at, { recursive: true }))
    this.cert = join(this.at, 'cert.pem')
    this.key = join(this.at, 'key.pem')
    this.put(identityOf('server'))
  }

  put({ cert, key }: Pick<Identity, 'cert' | 'key'>): void {
    this.replace(this.cert, cert)
    this.replace(this.key, key)
  }

  /** As those do who renew certificates: a new file in the place of the old one. */
  replace(path: string, text: string): void {
    writeFileSync(`${path}.new`, text)
    renameSync(`${path}.new`, path)
  }
}

/** A server's TLS whose files are looked at when the test says so. */
class Watched {
  readonly told: string[] = []
  readonly shared: SharedTls
  readonly watch: TlsReload

  constructor(defer: Defer, { cert, key }: { readonly cert: string; readonly key: string }) {
    this.shared = new SharedTls(parseTlsServerOptions({ cert, key }, 'tls.'))
    this.watch = new TlsReload(this.shared, {
      reloaded: () => this.told.push('reloaded'),
      failed: (error) => this.told.push(error.message),
    })
    defer(() => this.watch.stop())
    defer(() => this.shared.close())
  }

  async look(): Promise<string[]> {
    await this.watch.look()
    return this.told.splice(0)
  }
}

plainSuite('reload of certificates', (test) => {
  test('files that are as they were are not read again', async (defer) => {
    const watched = new Watched(defer, new Files(defer))
    assert.deepEqual(await watched.look(), [])
    assert.deepEqual(await watched.look(), [])
  })

  test('what has changed is read, once', async (defer) => {
    const files = new Files(defer)
    const watched = new Watched(defer, files)
    files.put(identityOf('rsa'))
    assert.deepEqual(await watched.look(), ['reloaded'])
    assert.deepEqual(await watched.look(), [])
  })

  test('what cannot be used is told once for each change, and the next change mends it', async (defer) => {
    const files = new Files(defer)
    const watched = new Watched(defer, files)
    files.replace(files.cert, identityOf('rsa').cert)
    const [failure, ...more] = await watched.look()
    assert.match(failure ?? '', /key does not belong to the certificate/)
    assert.deepEqual(more, [])
    assert.deepEqual(await watched.look(), [], 'told already')
    files.replace(files.key, identityOf('rsa').key)
    assert.deepEqual(await watched.look(), ['reloaded'])
  })

  test('both files bad at once are one failure', async (defer) => {
    const files = new Files(defer)
    const watched = new Watched(defer, files)
    files.replace(files.cert, 'nothing')
    files.replace(files.key, 'nothing')
    assert.equal((await watched.look()).length, 1)
    assert.deepEqual(await watched.look(), [])
  })

  test('a file that is gone is a failure, and its return is a change', async (defer) => {
    const files = new Files(defer)
    const watched = new Watched(defer, files)
    renameSync(files.key, `${files.key}.away`)
    assert.match((await watched.look())[0] ?? '', /option tls\.key: cannot read .*ENOENT/)
    assert.deepEqual(await watched.look(), [])
    renameSync(`${files.key}.away`, files.key)
    assert.deepEqual(await watched.look(), ['reloaded'])
  })

  test('a symbolic link that points elsewhere is a change, as Kubernetes has it', async (defer) => {
    const [before, after] = [new Files(defer), new Files(defer)]
    after.put(identityOf('rsa'))
    const link = join(before.at, 'current')
    symlinkSync(before.at, link)
    const watched = new Watched(defer, { cert: join(link, 'cert.pem'), key: join(link, 'key.pem') })
    symlinkSync(after.at, `${link}.new`)
    renameSync(`${link}.new`, link)
    assert.deepEqual(await watched.look(), ['reloaded'])
  })

  test('other options in their place have their own files, and a failure leaves those of before', async (defer) => {
    const [before, after] = [new Files(defer), new Files(defer)]
    const watched = new Watched(defer, before)
    const { shared } = watched
    const wrong = parseTlsServerOptions({ cert: after.cert, key: identityOf('rsa').key }, 'tls.')
    assert.throws(() => shared.reload(wrong), /key does not belong/)
    assert.deepEqual([...shared.files.keys()], [before.cert, before.key])
    shared.reload(parseTlsServerOptions({ cert: after.cert, key: after.key }, 'tls.'))
    assert.deepEqual([...shared.files.keys()], [after.cert, after.key])
    before.put(identityOf('rsa'))
    assert.deepEqual(await watched.look(), [])
    after.put(identityOf('rsa'))
    assert.deepEqual(await watched.look(), ['reloaded'])
  })

  test('a look that a stop overtakes is nothing', async (defer) => {
    const files = new Files(defer)
    const watched = new Watched(defer, files)
    files.put(identityOf('rsa'))
    const looking = watched.watch.look()
    watched.watch.stop()
    await looking
    assert.deepEqual(watched.told, [])
  })
})

/** The serial number of the certificate that a new connection is shown. */
async function shown(port: number): Promise<string> {
  const socket = connect({ port, host: '127.0.0.1', ca: authority().root, servername: 'localhost' })
  await new Promise<void>((resolve, reject) => {
    socket.once('secureConnect', resolve)
    socket.once('error', reject)
  })
  const { serialNumber } = socket.getPeerCertificate()
  socket.end()
  await new Promise((resolve) => socket.once('close', resolve))
  return serialNumber
}

forEachEngine('a server whose certificate changes', (test) => {
  for (const shards of [0, 2]) {
    test(`shows the new one without being asked, and says so (shards ${shards})`, async (t) => {
      const files = new Files((cleanup) => t.defer(cleanup))
      const { cert, key } = files
      const module = new URL('./fixtures/servers/obedient-module.js', import.meta.url)
      const server = await t.serve(shards === 0 ? () => new ChunkEcho() : module, {
        shards,
        logLevel: 'silent',
        tls: { cert, key, reload: { everyMs: 50 } },
      })
      const port = portOf(server)
      assert.equal(await shown(port), identityOf('server').serialNumber)
      const reloaded = new Promise<void>((resolve) => server.events.once('tlsReloaded', resolve))
      files.put(identityOf('rsa'))
      await reloaded
      assert.equal(await shown(port), identityOf('rsa').serialNumber)
      const failed = new Promise<{ error: Error }>((resolve) =>
        server.events.once('tlsReloadFailed', resolve),
      )
      files.replace(files.key, 'nothing')
      assert.match((await failed).error.message, /^option tls/)
      assert.equal(await shown(port), identityOf('rsa').serialNumber, 'the old one goes on')
      const { cert: own, key: ownKey } = identityOf('server')
      await server.reloadTls({ cert: own, key: ownKey })
      assert.equal(await shown(port), identityOf('server').serialNumber)
    })
  }
})
