import assert from 'node:assert/strict'
import { createDatagramServer, type Server } from '../src/index.js'
import type { BindOptions, DatagramOpenOptions } from '../src/native/binding.js'
import { native } from '../src/native/index.js'
import { isFailure } from '../src/workers/transport-socket.js'
import { PlainDatagrams } from './harness/datagrams.js'
import { Deferred, eventually } from './harness/deferred.js'
import { collectGarbage } from './harness/memory.js'
import { forEachEngine, portOf } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/datagram-module.js', import.meta.url)

/** Opens by `open`, tells the port, and forgets what was opened. */
function portOfForgotten(open: () => ReturnType<typeof openDatagrams | typeof listen>): number {
  const socket = open()
  if (isFailure(socket)) throw new Error(`${socket.syscall}: ${socket.errno}`)
  const address = 'localAddress' in socket ? socket.localAddress() : socket.address()
  if (typeof address === 'string' || isFailure(address)) throw new Error('it has an IP address')
  if ('share' in socket) socket.share()
  return address.port
}

function openDatagrams(port: number) {
  const options: DatagramOpenOptions = {
    local: '127.0.0.1',
    localPort: port,
    remotePort: 0,
    reuseAddress: false,
    reusePort: false,
    exclusive: true,
    broadcast: false,
    offload: false,
  }
  return native.openDatagramSocket(options)
}

function listen(port: number) {
  const options: BindOptions = {
    host: '127.0.0.1',
    port,
    backlog: 1,
    reusePort: false,
    ipv6Only: false,
    noDelay: false,
    exclusive: true,
  }
  return native.bindTcp(options)
}

forEachEngine('forgotten sockets', (test) => {
  for (const [what, open] of [
    ['a socket of datagrams', openDatagrams],
    ['a listener', listen],
  ] as const) {
    test(`${what} that all threads could find closes once nobody holds it any more`, async () => {
      const port = portOfForgotten(() => open(0))
      await eventually(async () => {
        await collectGarbage()
        const again = open(port)
        if (isFailure(again)) return false
        again.close()
        return true
      })
    })
  }

  test('a server that the program has forgotten keeps its sockets: a shard that takes the place of another serves them', async (t) => {
    const restarted = new Deferred()
    const serve = async (): Promise<{ server: WeakRef<Server>; port: number }> => {
      const server = await createDatagramServer(MODULE, {
        host: '127.0.0.1',
        shards: 1,
        signals: false,
        engine: t.engine,
      })
      server.events.on('error', () => {})
      server.events.on('shard', ({ state }) => {
        if (state === 'starting') restarted.resolve()
      })
      return { server: new WeakRef(server), port: portOf(server) }
    }
    const { server, port } = await serve()
    t.defer(async () => server.deref()?.abort())
    await collectGarbage()
    const client = await PlainDatagrams.open(t)
    await client.send('exit', port)
    await restarted.promise
    await collectGarbage()
    await client.send('who there', port)
    await client.receivedAtLeast(1)
    assert.equal(client.came[0]?.data.toString(), '0 0 there')
    assert.notEqual(server.deref(), undefined)
  })
})
