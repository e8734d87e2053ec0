import assert from 'node:assert/strict'
import { writeSync } from 'node:fs'
import type { Loop, RawSocket, SocketAddress } from '../../src/index.js'
import { openSocket, socketPair } from '../../src/index.js'
import type { TestContext } from './suite.js'

/** Ways for two sockets to be connected. */
export const FAMILIES = ['IPv4', 'IPv6', 'unix'] as const
export type Family = (typeof FAMILIES)[number]

/** A socket that the test closes in the end. */
export function open(t: TestContext, family: Family, type: 'stream' | 'datagram' = 'stream'): RawSocket {
  return closing(t, openSocket({ family, type }))
}

export function closing(t: TestContext, socket: RawSocket): RawSocket {
  t.defer(() => socket.close())
  return socket
}

/** Where a socket of that family can be bound. */
export function anywhere(t: TestContext, family: Family): Parameters<RawSocket['bind']>[0] {
  if (family === 'unix') return t.path()
  return { address: family === 'IPv4' ? '127.0.0.1' : '::1', port: 0 }
}

/** One that listens. */
export function listening(t: TestContext, family: Family, backlog?: number): RawSocket {
  const socket = open(t, family)
  socket.bind(anywhere(t, family))
  socket.listen(backlog)
  return socket
}

/** Two that are connected by accept and connect: the accepted one first. */
export async function connected(
  t: TestContext,
  family: Family,
): Promise<[accepted: RawSocket, client: RawSocket]> {
  const listener = listening(t, family)
  const client = open(t, family)
  const [[accepted]] = await Promise.all([
    t.loop.sockAccept(listener),
    t.loop.sockConnect(client, listener.getsockname()),
  ])
  listener.close()
  return [closing(t, accepted), client]
}

/** Two Unix sockets that are connected. */
export function pair(t: TestContext, type: 'stream' | 'datagram' = 'stream'): [RawSocket, RawSocket] {
  const [one, other] = socketPair({ type })
  return [closing(t, one), closing(t, other)]
}

/** Receives until there are so many bytes, as RLoop's tests do. */
export async function receiveAll(loop: Loop, socket: RawSocket, length: number): Promise<Buffer> {
  const chunks: Buffer[] = []
  for (let left = length; left > 0; ) {
    const chunk = await loop.sockRecv(socket, left)
    if (chunk.length === 0) break
    chunks.push(chunk)
    left -= chunk.length
  }
  return Buffer.concat(chunks)
}

/** Sends until the kernel takes no more, past the loop; returns how much it took. */
export function fill(socket: RawSocket): number {
  const piece = Buffer.alloc(4096)
  for (let sent = 0; ; ) {
    try {
      sent += writeSync(socket.fd, piece)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'EAGAIN') return sent
      throw error
    }
  }
}

/** The port of an address over IP, or the path. */
export function whereOf(address: SocketAddress): number | string {
  return typeof address === 'string' ? address : (address.port as number)
}

/**
 * Resolves behind the next batch of descriptors that are ready, all of which were told in it: a descriptor that is always ready is
 * among them.
 * @param given that one; else one that is opened for it, and has the lowest number that is free
 */
export function turn(t: TestContext, given?: RawSocket): Promise<void> {
  const probe = given ?? pair(t)[0]
  return new Promise((resolve) => {
    t.loop.addWriter(probe, () => {
      t.loop.removeWriter(probe)
      if (given === undefined) probe.close()
      resolve()
    })
  })
}

/**
 * Throws when the thread's loop turns for ever where nothing is to be done. For a while it may: V8 does its garbage collection in
 * tasks that ask for the next turn themselves, for as long as the threads that help it get no CPU.
 */
export async function assertAtRest(): Promise<void> {
  const loopCount = (): number =>
    (performance.nodeTiming as unknown as { uvMetricsInfo?: { loopCount: number } }).uvMetricsInfo
      ?.loopCount ?? 0
  const turns: number[] = []
  for (let window = 0; window < 40; window++) {
    const before = loopCount()
    await new Promise((resolve) => setTimeout(resolve, 50))
    const turned = loopCount() - before
    if (turned < 25) return
    turns.push(turned)
  }
  assert.fail(`nothing was to be done, and the loop turned, in each 50 ms: ${turns.join(', ')}`)
}
