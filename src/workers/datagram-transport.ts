import type { AsyncResource } from 'node:async_hooks'
import { systemError } from '../errors.js'
import {
  COMMAND_DATAGRAM_ABORT,
  COMMAND_DATAGRAM_CLOSE,
  COMMAND_DATAGRAM_LIMITS,
  COMMAND_DATAGRAM_PAUSE,
  COMMAND_DATAGRAM_RESUME,
  COMMAND_DATAGRAM_START,
  DATAGRAM_MAX_BYTES,
} from '../native/abi.js'
import type { NativeDatagramSocket } from '../native/binding.js'
import type { ExceptionContext } from './connection-server.js'
import { type AddressForm, NO_ADDRESS } from './datagram-addresses.js'
import type {
  DatagramDestination,
  DatagramExtraInfo,
  DatagramProtocol,
  DatagramTransport,
} from './datagram-protocol.js'
import { EndpointSocket } from './datagram-socket.js'
import { invalid } from './invalid.js'
import type { SocketAddress, WriteData } from './protocol.js'
import type { ShardLoop } from './shard-loop.js'
import { isFailure } from './transport-socket.js'
import { type Watermarks, WRITE_DATA_EXPECTED, type WriteLimits, watermarksOf } from './writing.js'

/** Whose endpoints they are. */
export interface EndpointOwner extends WriteLimits {
  /** The server's name, if it is one. */
  readonly name: string | null
  /** It is over; after `connectionLost`. */
  ended(endpoint: Endpoint): void
  /** Tells what a callback threw. Never throws. */
  handleException(context: ExceptionContext): void
}

/** A datagram that came while reading was paused. */
export interface HeldDatagram {
  readonly data: Buffer
  readonly address: SocketAddress
}

/** As it was before the program may have replaced it (a test runner's timers). */
const later = setImmediate

const NO_PROTOCOL: DatagramProtocol = {}

/** One endpoint. */
export class Endpoint implements DatagramTransport {
  /** @internal */ readonly loop: ShardLoop
  /** @internal */ readonly owner: EndpointOwner
  /** @internal Its number in native code. */ readonly handle: number
  /** @internal Callbacks run in this endpoint's own async context. */ readonly resource: AsyncResource
  /** @internal Why it ends, when the program ended it; null: without an error. */
  error: Error | null | undefined = undefined
  /** @internal `close` or `abort` was called, or it is lost: no more events but its end. */ closing = false
  /** @internal */ lost = false
  /** @internal */ paused = false
  /** @internal Those of the batch in which reading was paused. */ held: HeldDatagram[] | undefined =
    undefined
  protocol: DatagramProtocol = NO_PROTOCOL
  private readonly socket: NativeDatagramSocket
  private readonly sequence: number
  /** null: it is not connected. */
  private readonly peer: SocketAddress | null
  private limits: Watermarks
  private socketView: EndpointSocket | undefined = undefined
  private sockname: SocketAddress | undefined = undefined
  private releasing = false
  private draining = false
  /** How many promises that callbacks returned are pending. */
  private pending = 0
  private readonly fulfilled = (): void => {
    this.pending -= 1
    this.finish()
  }
  private whenLost: (() => void)[] | undefined = undefined

  constructor(
    loop: ShardLoop,
    owner: EndpointOwner,
    handle: number,
    sequence: number,
    socket: NativeDatagramSocket,
    resource: AsyncResource,
  ) {
    this.loop = loop
    this.owner = owner
    this.handle = handle
    this.sequence = sequence
    this.socket = socket
    this.resource = resource
    this.limits = { high: owner.writeHighBytes, low: owner.writeLowBytes }
    const peer = socket.peerAddress()
    // A Unix socket tells no error when it is connected to one without a name.
    this.peer = isFailure(peer) ? null : frozen(peer as SocketAddress)
  }

  get id(): string {
    return `${this.loop.shardId}-d${this.sequence}`
  }

  /** @internal Its descriptor's number; -1 once it is lost. */
  get fd(): number {
    return this.socket.fd
  }

  sendto(data: WriteData, address?: DatagramDestination | null): void {
    const bytes = typeof data === 'string' ? Buffer.from(data) : data
    if (!(bytes instanceof Uint8Array)) throw invalid('data', data, WRITE_DATA_EXPECTED)
    if (bytes.length > DATAGRAM_MAX_BYTES)
      throw invalid('the length of data', bytes.length, `at most ${DATAGRAM_MAX_BYTES} bytes for a datagram`)
    const destination =
      this.peer === null && address !== null && address !== undefined
        ? this.loop.datagrams.addresses.form(address)
        : this.connectedDestination(address)
    if (this.closing) return
    this.loop.commands.datagram(this.handle, destination, bytes)
  }

  close(): void {
    if (this.closing) return
    this.closing = true
    this.held = undefined
    this.loop.commands.push(COMMAND_DATAGRAM_CLOSE, this.handle, 0, 0)
  }

  abort(error?: Error): void {
    if (this.lost) return
    // After `close` it still cuts short what waits to be sent.
    this.error ??= error ?? null
    this.closing = true
    this.held = undefined
    this.loop.commands.push(COMMAND_DATAGRAM_ABORT, this.handle, 0, 0)
  }

  isClosing(): boolean {
    return this.closing
  }

  pauseReading(): void {
    if (this.paused || this.closing) return
    this.paused = true
    this.loop.commands.push(COMMAND_DATAGRAM_PAUSE, this.handle, 0, 0)
  }

  resumeReading(): void {
    if (!this.paused || this.closing) return
    this.paused = false
    if (this.held === undefined) this.readOn()
    else this.releaseLater()
  }

  isReading(): boolean {
    return !this.paused && !this.closing && !this.draining
  }

  setWriteBufferLimits(limits: Partial<Watermarks> = {}): void {
    const watermarks = watermarksOf(limits, this.owner.writeHighBytes)
    if (this.closing) return
    this.limits = watermarks
    this.loop.commands.push(COMMAND_DATAGRAM_LIMITS, this.handle, watermarks.high, watermarks.low)
  }

  getWriteBufferLimits(): Watermarks {
    return this.limits
  }

  getWriteBufferSize(): number {
    return this.lost ? 0 : this.loop.native.endpointBufferedBytes(this.handle)
  }

  getExtraInfo<Name extends keyof DatagramExtraInfo>(name: Name): DatagramExtraInfo[Name] | undefined
  getExtraInfo<Name extends keyof DatagramExtraInfo, Default>(
    name: Name,
    fallback: Default,
  ): DatagramExtraInfo[Name] | Default
  getExtraInfo(name: keyof DatagramExtraInfo, fallback?: unknown): unknown {
    switch (name) {
      case 'socket':
        this.socketView ??= new EndpointSocket(this.socket)
        return this.socketView
      case 'peername':
        return this.peer ?? fallback
      case 'sockname':
        return this.ownName() ?? fallback
      default:
        return fallback
    }
  }

  joinMulticast(group: string, interfaceName = ''): void {
    this.setMembership(group, interfaceName, true)
  }

  leaveMulticast(group: string, interfaceName = ''): void {
    this.setMembership(group, interfaceName, false)
  }

  setMulticastInterface(interfaceName: string): void {
    if (typeof interfaceName !== 'string') throw invalid('interfaceName', interfaceName, INTERFACE_EXPECTED)
    const failure = this.socket.setMulticastInterface(interfaceName)
    if (failure !== null) throw systemError(failure.errno, failure.syscall)
  }

  [Symbol.asyncDispose](): Promise<void> {
    this.close()
    if (this.lost) return Promise.resolve()
    return new Promise((resolve) => {
      this.whenLost ??= []
      this.whenLost.push(resolve)
    })
  }

  /** @internal The protocol is there: datagrams may come. */
  start(): void {
    if (!this.closing) this.loop.commands.push(COMMAND_DATAGRAM_START, this.handle, 0, 0)
  }

  /** @internal A callback returned a promise: what to call when it is fulfilled. */
  promised(): () => void {
    this.pending += 1
    return this.fulfilled
  }

  /** @internal Receives no more, and closes once all that came is dealt with. */
  drain(): void {
    if (this.closing || this.draining) return
    this.draining = true
    this.loop.commands.push(COMMAND_DATAGRAM_PAUSE, this.handle, 0, 0)
    // Behind the callback that may have called this, and what was received before.
    later(() => this.finish())
  }

  /** @internal Keeps a datagram for when reading goes on. */
  hold(datagram: HeldDatagram): void {
    this.held ??= []
    this.held.push(datagram)
  }

  /** @internal Native code has let go of the socket. Our name is kept for who asks later. */
  ended(): void {
    this.ownName()
    this.closing = true
    this.lost = true
    this.held = undefined
    this.socket.close()
    for (const resolve of this.whenLost ?? []) resolve()
  }

  /** @internal What log records tell of it. */
  describe(): Record<string, unknown> {
    return {
      endpoint: this.id,
      ...(this.owner.name !== null && { server: this.owner.name }),
      sockname: this.ownName(),
      protocol: this.protocol.constructor?.name,
    }
  }

  /** Closes an endpoint that drains, unless a callback's promise is pending, or the program has held something back. */
  private finish(): void {
    if (this.draining && this.pending === 0 && this.held === undefined) this.close()
  }

  /** Nothing is held back any more. */
  private readOn(): void {
    // Behind the callback that resumed: its promise is not known yet.
    if (this.draining) later(() => this.finish())
    else this.loop.commands.push(COMMAND_DATAGRAM_RESUME, this.handle, 0, 0)
  }

  private connectedDestination(address: DatagramDestination | null | undefined): AddressForm {
    const { peer } = this
    if (peer === null)
      throw invalid('address', address, 'where to send, as the endpoint is not connected (option remote)')
    const isPeer =
      address === null ||
      address === undefined ||
      address === peer ||
      (typeof address === 'object' && address.address === peer.address && address.port === peer.port)
    if (!isPeer) throw invalid('address', address, 'none, or the address that the endpoint is connected to')
    return NO_ADDRESS
  }

  private ownName(): SocketAddress | undefined {
    if (this.sockname !== undefined) return this.sockname
    const address = this.socket.localAddress()
    if (isFailure(address)) return undefined
    // An endpoint that was not bound is given its port by its first datagram.
    const sockname = frozen(address as SocketAddress)
    if (typeof sockname === 'string' || sockname.port !== 0) this.sockname = sockname
    return sockname
  }

  private setMembership(group: string, interfaceName: string, joins: boolean): void {
    if (typeof group !== 'string') throw invalid('group', group, 'an IP address')
    if (typeof interfaceName !== 'string') throw invalid('interfaceName', interfaceName, INTERFACE_EXPECTED)
    const failure = this.socket.setMembership(group, interfaceName, joins)
    if (failure !== null) throw systemError(failure.errno, failure.syscall, group)
  }

  /** Held datagrams come after the callback that resumed. */
  private releaseLater(): void {
    if (this.releasing) return
    this.releasing = true
    process.nextTick(() => {
      this.releasing = false
      while (this.held !== undefined && !this.paused && !this.closing) {
        const datagram = this.held.shift()
        if (datagram === undefined) {
          this.held = undefined
          this.readOn()
        } else {
          this.loop.datagrams.deliverHeld(this, datagram)
        }
      }
    })
  }
}

const INTERFACE_EXPECTED = "an interface's address, name or number"

function frozen(address: SocketAddress): SocketAddress {
  return typeof address === 'string' ? address : Object.freeze(address)
}
