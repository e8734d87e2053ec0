import type { AsyncResource } from 'node:async_hooks'
import { constants } from 'node:os'
import { ShardloopError, systemError } from '../errors.js'
import {
  DATAGRAM_OVERFLOW,
  DATAGRAM_TRUNCATED,
  EVENT_DATAGRAM,
  EVENT_DATAGRAM_CLOSED,
  EVENT_DATAGRAM_FAILED,
  EVENT_DATAGRAM_PAUSE,
  KIND_MASK,
  SLAB_SHIFT,
} from '../native/abi.js'
import type { NativeDatagramSocket } from '../native/binding.js'
import { checkedProtocol, isThenable, thrownError } from './callback-results.js'
import { DatagramAddresses, wordsOf } from './datagram-addresses.js'
import type { DatagramError, DatagramProtocol, DatagramProtocolFactory } from './datagram-protocol.js'
import { Endpoint, type EndpointOwner, type HeldDatagram } from './datagram-transport.js'
import { exceptionContext } from './exception-handler.js'
import type { SocketAddress } from './protocol.js'
import { exactCopy } from './read-slabs.js'
import type { ShardLoop } from './shard-loop.js'

/** A callback's name in messages. */
type CallbackName = keyof DatagramProtocol | 'factory'

const WORD_SHIFT = 2
/** EMSGSIZE, from the system's own list, as its number differs between systems. */
const TOO_LONG = 'EMSGSIZE'

/** The endpoints of a thread: takes their events, and hands them to their protocols. */
export class Datagrams {
  readonly addresses: DatagramAddresses = new DatagramAddresses()
  private readonly loop: ShardLoop
  /** By number; numbers of endpoints that are over are used again. */
  private readonly endpoints: (Endpoint | undefined)[] = []
  private readonly free: number[] = []
  private sequence = 0

  constructor(loop: ShardLoop) {
    this.loop = loop
  }

  /**
   * Makes an endpoint of a socket, which is the endpoint's from now on. Its protocol is to be made by `begin`.
   * @param resource the async context of its callbacks
   * @throws the system's EMFILE for one too many; then the socket is closed
   */
  add(socket: NativeDatagramSocket, owner: EndpointOwner, resource: AsyncResource): Endpoint {
    const handle = this.free.pop() ?? this.endpoints.length
    const endpoint = new Endpoint(this.loop, owner, handle, ++this.sequence, socket, resource)
    this.endpoints[handle] = endpoint
    const { writeHighBytes, writeLowBytes, writeMaxBytes } = owner
    const failure = this.loop.native.addEndpoint(handle, socket, {
      writeHighBytes,
      writeLowBytes,
      writeMaxBytes,
    })
    if (failure === null) return endpoint
    if (handle === this.endpoints.length - 1) this.endpoints.pop()
    else this.endpoints[handle] = undefined
    socket.close()
    throw systemError(failure.errno, failure.syscall)
  }

  /**
   * Makes the protocol of an endpoint, and lets its datagrams come.
   * @throws what the factory throws; then the endpoint is aborted. What `connectionMade` throws is told as of any callback.
   */
  begin(endpoint: Endpoint, factory: DatagramProtocolFactory): void {
    let protocol: DatagramProtocol
    try {
      protocol = checkedProtocol(endpoint.resource.runInAsyncScope(factory))
    } catch (error) {
      endpoint.abort(error instanceof Error ? error : undefined)
      throw error
    }
    endpoint.protocol = protocol
    this.call(endpoint, 'connectionMade', endpoint)
    endpoint.start()
  }

  *[Symbol.iterator](): Generator<Endpoint> {
    for (const endpoint of this.endpoints) if (endpoint !== undefined) yield endpoint
  }

  /** Called for each record of these kinds. Never throws: what a callback throws ends its endpoint. */
  event(word: number, handle: number, a: number, b: number): void {
    const endpoint = this.endpoints[handle]
    if (endpoint === undefined) return
    const kind = word & KIND_MASK
    if (kind === EVENT_DATAGRAM) {
      if (!endpoint.closing) this.received(endpoint, word >> SLAB_SHIFT, a, b)
    } else if (kind === EVENT_DATAGRAM_CLOSED) {
      this.end(endpoint, a)
    } else if (kind === EVENT_DATAGRAM_FAILED) {
      if (!endpoint.closing) this.failed(endpoint, a, b, word >> SLAB_SHIFT !== 0)
    } else {
      // Also while the endpoint closes after sending: whoever waits for room learns of it.
      this.call(endpoint, kind === EVENT_DATAGRAM_PAUSE ? 'pauseWriting' : 'resumeWriting')
    }
  }

  /** A datagram that was held back while reading was paused. */
  deliverHeld(endpoint: Endpoint, { data, address }: HeldDatagram): void {
    this.deliver(endpoint, data, address)
  }

  /** In debug mode: warns of endpoints that are still open though nobody will use them any more. */
  warnOfUnclosed(warn: (message: string, fields: Record<string, unknown>) => void): void {
    for (const endpoint of this)
      if (!endpoint.closing) warn(`endpoint ${endpoint.id} was not closed`, endpoint.describe())
  }

  private received(endpoint: Endpoint, slabIndex: number, offset: number, length: number): void {
    const { slabs } = this.loop
    const slab = slabs.buffers[slabIndex] as Buffer
    if (slab.length === 0) {
      this.call(endpoint, 'errorReceived', counted(detachedError(endpoint), 1))
      return
    }
    const words = slabs.words[slabIndex] as Int32Array
    const at = offset >> WORD_SHIFT
    const address = this.addresses.read(words, at, slab)
    const start = offset + (wordsOf(words[at] as number) << WORD_SHIFT)
    if (endpoint.paused || endpoint.held !== undefined)
      endpoint.hold({ data: exactCopy(slab, start, start + length), address })
    else this.deliver(endpoint, slabs.chunk(slabIndex, start, length), address)
  }

  private deliver(endpoint: Endpoint, data: Buffer, address: SocketAddress): void {
    const { protocol } = endpoint
    if (protocol.datagramReceived === undefined) return
    try {
      const result = endpoint.resource.runInAsyncScope(protocol.datagramReceived, protocol, data, address)
      if (result !== undefined) this.watch(result, endpoint, 'datagramReceived')
    } catch (error) {
      this.report(error, endpoint, 'datagramReceived')
    }
  }

  private failed(endpoint: Endpoint, reason: number, count: number, sent: boolean): void {
    const error =
      reason === DATAGRAM_OVERFLOW
        ? new ShardloopError(
            'ERR_SHARDLOOP_DATAGRAM_DROPPED',
            `endpoint ${endpoint.id} had more than ${endpoint.owner.writeMaxBytes} bytes waiting to be sent (writeMaxBytes), ` +
              `and ${count === 1 ? 'a datagram was' : `${count} datagrams were`} dropped: stop sending at pauseWriting, or raise the limit`,
          )
        : systemError(reason === DATAGRAM_TRUNCATED ? tooLong() : reason, sent ? 'sendmsg' : 'recvmsg')
    this.call(endpoint, 'errorReceived', counted(error, count))
  }

  private end(endpoint: Endpoint, errno: number): void {
    this.endpoints[endpoint.handle] = undefined
    this.free.push(endpoint.handle)
    // A closed one that had no room for too long.
    const syscall = errno === constants.errno.ETIMEDOUT ? 'sendmsg' : 'recvmsg'
    const error =
      endpoint.error ?? (errno === 0 || endpoint.error === null ? null : systemError(errno, syscall))
    endpoint.ended()
    this.call(endpoint, 'connectionLost', error)
    endpoint.resource.emitDestroy()
    endpoint.owner.ended(endpoint)
  }

  private call(
    endpoint: Endpoint,
    name: Exclude<keyof DatagramProtocol, 'datagramReceived'>,
    argument?: unknown,
  ): void {
    const { protocol } = endpoint
    const callback = protocol[name] as ((argument?: unknown) => unknown) | undefined
    if (callback === undefined) return
    try {
      const result = endpoint.resource.runInAsyncScope(callback, protocol, argument)
      if (result !== undefined) this.watch(result, endpoint, name)
    } catch (error) {
      this.report(error, endpoint, name)
    }
  }

  private watch(result: unknown, endpoint: Endpoint, name: CallbackName): void {
    if (!isThenable(result)) return
    const fulfilled = endpoint.promised()
    result.then(fulfilled, (error: unknown) => this.report(error, endpoint, name))
  }

  /** A callback failed: its endpoint ends, its owner's handler is told, everything else goes on. */
  private report(error: unknown, endpoint: Endpoint, name: CallbackName): void {
    const consequence = endpoint.lost ? 'it was lost already' : 'the endpoint was aborted'
    const context = exceptionContext(`${name} of endpoint ${endpoint.id} threw; ${consequence}`, error, {
      endpoint,
      endpointProtocol: endpoint.protocol,
    })
    endpoint.abort(thrownError(name, error))
    endpoint.owner.handleException(context)
  }
}

function counted(error: Error, count: number): DatagramError {
  return Object.assign(error, { count })
}

function detachedError(endpoint: Endpoint): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_DETACHED',
    `memory with a datagram of endpoint ${endpoint.id} was detached before it was delivered`,
  )
}

function tooLong(): number {
  return constants.errno[TOO_LONG]
}
