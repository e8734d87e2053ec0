import { constants } from 'node:os'
import { ShardloopError, systemError } from '../errors.js'
import type { NativeDatagramSocket, SystemFailure } from '../native/binding.js'
import { native } from '../native/index.js'
import type { ExceptionContext } from '../workers/connection-server.js'
import type { DatagramProtocol, DatagramTransport } from '../workers/datagram-protocol.js'
import type { Endpoint, EndpointOwner } from '../workers/datagram-transport.js'
import { callExceptionHandler } from '../workers/exception-handler.js'
import { threadLoop } from '../workers/thread-loop.js'
import { connectionResource } from '../workers/transport.js'
import type { DatagramPlace, DatagramSettings } from './datagram-options.js'
import { descriptorOf } from './descriptors.js'
import { lookUp, unlessAborted } from './name-lookup.js'
import { isRawSocket, type RawSocket } from './raw-socket.js'
import { refuseTransport } from './refuse-transport.js'

/** An endpoint and its protocol, as asyncio returns them. */
export type DatagramEndpoint<Made extends DatagramProtocol> = [transport: DatagramTransport, protocol: Made]

/** The endpoints of one loop. */
export class LoopEndpoints {
  readonly #endpoints = new Set<Endpoint>()
  readonly #whenGone: (() => void)[] = []
  #closed = false

  /**
   * Opens an endpoint; its protocol's callbacks run in the async context of the caller. Rejects with the system's error, in
   * Node's shape, with what the factory threw, or with the signal's reason. Then nothing is left behind.
   */
  async create<Made extends DatagramProtocol>(
    factory: () => Made,
    settings: DatagramSettings,
  ): Promise<DatagramEndpoint<Made>> {
    const { signal } = settings
    signal?.throwIfAborted()
    const resource = connectionResource()
    const places = await unlessAborted(placesOf(settings), signal)
    signal?.throwIfAborted()
    if (this.#closed)
      throw new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the loop was closed before it was opened')
    // First, as it refuses another engine than runs.
    const { loop } = threadLoop().acquire(settings.engine)
    let socket: NativeDatagramSocket
    try {
      socket = open(settings, places)
    } catch (error) {
      threadLoop().releaseLater()
      throw error
    }
    const owner: EndpointOwner = {
      name: null,
      writeHighBytes: settings.writeHighBytes,
      writeLowBytes: settings.writeLowBytes,
      writeMaxBytes: settings.writeMaxBytes,
      ended: (endpoint) => this.#ended(endpoint),
      handleException: (context: ExceptionContext) => callExceptionHandler(context),
    }
    let endpoint: Endpoint
    try {
      endpoint = loop.datagrams.add(socket, owner, resource)
    } catch (error) {
      threadLoop().releaseLater()
      throw error
    }
    this.#endpoints.add(endpoint)
    loop.datagrams.begin(endpoint, factory)
    return [endpoint, endpoint.protocol as Made]
  }

  /** Aborts all of them; resolves when they are gone. Those that are being opened reject. */
  async close(): Promise<void> {
    this.#closed = true
    for (const endpoint of this.#endpoints)
      endpoint.abort(
        new ShardloopError('ERR_SHARDLOOP_CLOSED', `the loop of endpoint ${endpoint.id} was closed`),
      )
    if (this.#endpoints.size > 0) await new Promise<void>((resolve) => this.#whenGone.push(resolve))
  }

  #ended(endpoint: Endpoint): void {
    this.#endpoints.delete(endpoint)
    threadLoop().releaseLater()
    if (this.#endpoints.size === 0) for (const told of this.#whenGone.splice(0)) told()
  }
}

/** What to try, one behind the other: addresses in place of names. */
interface Places {
  readonly local: DatagramPlace | string | null
  readonly remote: DatagramPlace | string | null
}

async function placesOf({ socket, local, remote, family }: DatagramSettings): Promise<Places[]> {
  if (socket !== undefined || family === 'unix' || typeof local === 'string' || typeof remote === 'string')
    return [{ local, remote }]
  const locals = await addressesOf(local, family)
  const remotes = await addressesOf(remote, family)
  if (remotes === null) {
    const chosen = locals ?? [anyAddress(family === 0 ? 4 : family, local?.port ?? 0)]
    return chosen.map((one) => ({ local: one, remote: null }))
  }
  return remotes.flatMap((one): Places[] => {
    if (local === null) return [{ local: null, remote: one }]
    const version = versionOf(one)
    const fitting = locals?.filter((other) => versionOf(other) === version) ?? [
      anyAddress(version, local.port),
    ]
    return fitting.map((other) => ({ local: other, remote: one }))
  })
}

function versionOf({ host }: DatagramPlace): 4 | 6 {
  return host?.includes(':') ? 6 : 4
}

function anyAddress(version: 4 | 6, port: number): DatagramPlace {
  return { host: version === 6 ? '::' : '0.0.0.0', port }
}

/** null: none, or any address. */
async function addressesOf(place: DatagramPlace | null, family: 0 | 4 | 6): Promise<DatagramPlace[] | null> {
  if (place === null || place.host === null) return null
  const found = await lookUp(place.host, family)
  return found.map(({ address }) => ({ host: address, port: place.port }))
}

/** Opens the first that can be had. @throws the system's error of the first that cannot */
function open(settings: DatagramSettings, places: readonly Places[]): NativeDatagramSocket {
  if (settings.socket !== undefined) return adopt(settings.socket, settings.offload)
  let failure: Error | undefined
  for (const { local, remote } of places) {
    try {
      return openOne(settings, local, remote)
    } catch (error) {
      failure ??= error as Error
    }
  }
  // A name has no address of the other one's family.
  throw failure ?? systemError(constants.errno.EAFNOSUPPORT, 'bind')
}

/** @throws what is wrong with the socket; then it stays the caller's */
function adopt(socket: number | RawSocket, offload: boolean): NativeDatagramSocket {
  if (typeof socket === 'number') refuseTransport(socket)
  const adopted = native.adoptDatagramSocket(descriptorOf(socket), offload)
  if ('errno' in adopted) throw systemError(adopted.errno, adopted.syscall)
  if (isRawSocket(socket)) socket.detach()
  return adopted
}

function openOne(
  settings: DatagramSettings,
  local: DatagramPlace | string | null,
  remote: DatagramPlace | string | null,
): NativeDatagramSocket {
  const [from, to] = [inNative(local), inNative(remote)]
  const { ipv6Only, receiveBufferBytes, sendBufferBytes } = settings
  const opened = native.openDatagramSocket({
    ...(from !== null && { local: from.name }),
    localPort: from?.port ?? 0,
    ...(to !== null && { remote: to.name }),
    remotePort: to?.port ?? 0,
    reuseAddress: settings.reuseAddress,
    reusePort: settings.reusePort,
    exclusive: false,
    ...(ipv6Only !== null && { ipv6Only }),
    broadcast: settings.broadcast,
    ...(receiveBufferBytes !== null && { receiveBufferBytes }),
    ...(sendBufferBytes !== null && { sendBufferBytes }),
    offload: settings.offload,
  })
  if ('errno' in opened) {
    const where = opened.syscall === 'connect' ? to : from
    throw systemError(opened.errno, opened.syscall, where?.name, where?.port === -1 ? undefined : where?.port)
  }
  const { multicastTtl, multicastLoop, multicastInterface } = settings
  const failure =
    (multicastTtl === null ? null : opened.setOption('multicastTtl', multicastTtl)) ??
    (multicastLoop === null ? null : opened.setOption('multicastLoop', Number(multicastLoop))) ??
    (multicastInterface === null ? null : opened.setMulticastInterface(multicastInterface))
  if (failure === null) return opened
  opened.close()
  throw failureOf(failure)
}

/** A Unix socket has port -1 there. */
function inNative(place: DatagramPlace | string | null): { name: string; port: number } | null {
  if (place === null) return null
  return typeof place === 'string'
    ? { name: place, port: -1 }
    : { name: place.host ?? '0.0.0.0', port: place.port }
}

function failureOf({ errno, syscall }: SystemFailure): Error {
  return systemError(errno, syscall)
}
