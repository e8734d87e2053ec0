/** Certificates that change while clients connect all the time: none of them fails. */
import assert from 'node:assert/strict'
import { renameSync, writeFileSync } from 'node:fs'
import { authority, type Identity, identityOf } from '../harness/certificates.js'
import { Client } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { forEachEngine, portOf, type TestContext } from '../harness/suite.js'
import { nodeOptions } from '../harness/tls.js'

const MODULE = new URL('../fixtures/servers/tls-module.js', import.meta.url)
const CLIENTS = 8
const SWAPS = 6

/** Connects without a pause until it is told to stop, and notes whose certificate it was shown. */
class Load {
  readonly seen: string[] = []
  #stopped = false
  readonly #running: Promise<unknown>

  constructor(port: number) {
    this.#running = Promise.all(Array.from({ length: CLIENTS }, () => this.#run(port)))
    this.#running.catch(() => {})
  }

  async #run(port: number): Promise<void> {
    while (!this.#stopped) {
      const client = await Client.open(port, { tls: nodeOptions() })
      this.seen.push(client.secure.getPeerCertificate().serialNumber)
      await client.write('hello\n')
      assert.match(await client.readLine(), /"echo":"hello"/)
      client.end()
      await client.readToEnd()
      await client.destroy()
    }
  }

  /** Rejects when any of them failed. */
  async stop(): Promise<void> {
    this.#stopped = true
    await this.#running
  }

  /** Resolves when somebody was shown that certificate. */
  async sees({ serialNumber }: Identity): Promise<void> {
    const from = this.seen.length
    await Promise.race([
      eventually(() => this.seen.slice(from).includes(serialNumber)),
      this.#running.then(() => assert.fail('the load has ended')),
    ])
  }
}

forEachEngine('reloading under load', (test) => {
  for (const how of ['by reloadTls', 'by files that change'] as const) {
    test(`${how}: no connection fails, and new ones are shown the new certificate`, async (t) => {
      const files = how === 'by reloadTls' ? null : new Files(t, identityOf('server'))
      const server = await t.serve(MODULE, {
        shards: 2,
        logLevel: 'silent',
        tls: files?.options ?? both(identityOf('server')),
      })
      const port = portOf(server)
      const staying = await t.connect(server, { tls: nodeOptions() })
      const load = new Load(port)
      t.defer(() => load.stop().catch(() => {}))
      let current = identityOf('server')
      await load.sees(current)
      for (let swap = 0; swap < SWAPS; swap++) {
        current = authority().issue()
        if (files === null) await server.reloadTls(both(current))
        else files.put(current)
        await load.sees(current)
        // What cannot be used changes nothing.
        const bad = { cert: current.cert, key: identityOf('client').key }
        if (files === null)
          await assert.rejects(() => server.reloadTls(bad), { code: 'ERR_SHARDLOOP_OPTION' })
        else {
          const failed = new Promise((resolve) => server.events.once('tlsReloadFailed', resolve))
          files.put(bad)
          await failed
        }
        await load.sees(current)
      }
      await load.stop()
      const shown = new Set(load.seen.slice(-CLIENTS))
      assert.deepEqual([...shown], [current.serialNumber])
      await staying.write('still here\n')
      assert.match(await staying.readLine(), /still here/)
      const { failed } = server.metrics().total.tls
      assert.deepEqual(Object.values(failed), [0, 0, 0, 0, 0, 0])
    })
  }
})

function both({ cert, key }: Identity): { cert: string; key: string } {
  return { cert, key }
}

/** A certificate and its key in one file, so that both change at once. */
class Files {
  readonly #path: string

  constructor(t: TestContext, identity: Pick<Identity, 'cert' | 'key'>) {
    this.#path = t.path('both.pem')
    this.put(identity)
  }

  get options(): { cert: string; key: string; reload: { everyMs: number } } {
    return { cert: this.#path, key: this.#path, reload: { everyMs: 50 } }
  }

  put({ cert, key }: Pick<Identity, 'cert' | 'key'>): void {
    writeFileSync(`${this.#path}.new`, key + cert)
    renameSync(`${this.#path}.new`, this.#path)
  }
}
