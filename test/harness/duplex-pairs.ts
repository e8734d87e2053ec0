import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { Duplex } from 'node:stream'
import tls from 'node:tls'
import type { TransportDuplex } from '../../src/index.js'
import { Deferred } from './deferred.js'
import type { TestContext } from './suite.js'

/** Two streams, of which each reads what the other one writes. */
export type DuplexPair = [Duplex, Duplex]

/** Each kind of stream, by a function that opens both ends of one. */
export const PAIRS: Readonly<Record<string, (t: TestContext) => Promise<DuplexPair>>> = {
  'net.Socket': (t) => sockets(t, { port: 0, host: '127.0.0.1' }),
  'net.Socket (unix)': (t) => sockets(t, { path: t.path() }),
  TLSSocket: secureSockets,
  'stream of ours': ourStreams,
  Duplex: () => Promise.resolve(plainPair()),
}

async function sockets(
  t: TestContext,
  where: { port: number; host: string } | { path: string },
): Promise<DuplexPair> {
  const server = createServer().listen(where)
  await once(server, 'listening')
  t.defer(() => void server.close())
  const accepted = once(server, 'connection')
  const address = server.address()
  const socket =
    typeof address === 'object' && address !== null
      ? connect(address.port, '127.0.0.1')
      : connect(String(address))
  await once(socket, 'connect')
  const [other] = (await accepted) as [Socket]
  t.defer(() => void socket.destroy())
  t.defer(() => void other.destroy())
  return [socket, other]
}

/** By a secret that both know, as a certificate would have to be made first. */
async function secureSockets(t: TestContext): Promise<DuplexPair> {
  const secret = { ciphers: 'PSK-AES256-GCM-SHA384', maxVersion: 'TLSv1.2' } as const
  const [one, other] = (await sockets(t, { port: 0, host: '127.0.0.1' })) as [Socket, Socket]
  const psk = Buffer.alloc(32, 7)
  const server = new tls.TLSSocket(other, {
    ...secret,
    isServer: true,
    ...({ pskCallback: () => psk } as object),
  })
  const client = tls.connect({
    ...secret,
    socket: one,
    pskCallback: () => ({ psk, identity: 'test' }),
    checkServerIdentity: () => undefined,
  })
  await once(client, 'secureConnect')
  t.defer(() => void client.destroy())
  t.defer(() => void server.destroy())
  return [client, server]
}

async function ourStreams(t: TestContext): Promise<DuplexPair> {
  const accepted = new Deferred<TransportDuplex>()
  const server = await t.serve(() => ({
    connectionMade: (transport) => accepted.resolve(transport.duplex()),
  }))
  const [transport] = await t.dial(server, () => ({}))
  return [transport.duplex(), await accepted.promise]
}

/** In memory, with backpressure. */
export function plainPair(): DuplexPair {
  const [one, other] = [new HalfPair(), new HalfPair()]
  one.other = other
  other.other = one
  return [one, other]
}

class HalfPair extends Duplex {
  other!: HalfPair
  #whenRead: (() => void) | undefined

  override _read(): void {
    const told = this.#whenRead
    this.#whenRead = undefined
    told?.()
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: () => void): void {
    // Whoever writes may use the memory again once it is called back.
    if (this.other.push(Buffer.from(chunk))) setImmediate(callback)
    else this.other.#whenRead = callback
  }

  override _final(callback: () => void): void {
    this.other.push(null)
    callback()
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    if (!this.writableFinished) setImmediate(() => this.other.destroy())
    callback(error)
  }
}
