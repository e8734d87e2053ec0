import { constants } from 'node:os'
import { ShardloopError, systemError } from '../errors.js'
import { DATAGRAM_REOPEN_MS } from '../limits.js'
import { native } from '../native/index.js'
import type { ExceptionContext, ExceptionHandler, ServedServer, ServeOptions } from './connection-server.js'
import type { DatagramProtocolFactory } from './datagram-protocol.js'
import type { Endpoint, EndpointOwner } from './datagram-transport.js'
import { callExceptionHandler, exceptionContext, tell } from './exception-handler.js'
import type { ShardLoop } from './shard-loop.js'
import { connectionResource } from './transport.js'

/** As it was before the program may have replaced it (a test runner's timers). */
const later = setTimeout

/** One endpoint of a server in this thread. */
interface Place {
  /** Native token of its socket, which is the supervisor's. */
  readonly token: number
  /** null: it is to be opened anew. */
  endpoint: Endpoint | null
  openedAt: number
  timer: NodeJS.Timeout | undefined
}

/**
 * One datagram server's part in this thread: an endpoint on each of its sockets. An endpoint that ends though the server goes on
 * (a callback threw) is opened anew on its socket, with a new protocol; what came meanwhile waits there.
 */
export class DatagramServer implements ServedServer, EndpointOwner {
  readonly name: string
  readonly writeHighBytes: number
  readonly writeLowBytes: number
  readonly writeMaxBytes: number
  private readonly loop: ShardLoop
  private readonly factory: DatagramProtocolFactory
  private readonly exceptionHandler: ExceptionHandler | null
  private readonly places: Place[]
  private draining: Promise<void> | undefined = undefined
  private whenEmpty: (() => void) | undefined = undefined

  /** @throws what a factory throws, or the system's error; then nothing is left. */
  constructor(loop: ShardLoop, options: ServeOptions) {
    this.loop = loop
    this.name = options.name
    this.factory = options.factory as unknown as DatagramProtocolFactory
    this.exceptionHandler = options.exceptionHandler
    this.writeHighBytes = options.writeHighBytes
    this.writeLowBytes = options.writeLowBytes
    this.writeMaxBytes = options.writeMaxBytes
    this.places = options.listeners.map((token) => ({
      token,
      endpoint: null,
      openedAt: Number.NEGATIVE_INFINITY,
      timer: undefined,
    }))
    try {
      for (const place of this.places) this.open(place)
    } catch (error) {
      void this.drain()
      for (const { endpoint } of this.places) endpoint?.close()
      throw error
    }
  }

  get connectionCount(): number {
    return this.places.filter(({ endpoint }) => endpoint !== null).length
  }

  stopListening(): void {
    void this.drain()
  }

  /** Receives no more; closes each endpoint when no promise of its callbacks is pending, behind what is queued to be sent. */
  drain(): Promise<void> {
    this.draining ??= new Promise((resolve) => {
      this.whenEmpty = resolve
      for (const { endpoint, timer } of this.places) {
        clearTimeout(timer)
        endpoint?.drain()
      }
      if (this.connectionCount === 0) resolve()
    })
    return this.draining
  }

  abort(): void {
    void this.drain()
    for (const { endpoint } of this.places)
      endpoint?.abort(
        new ShardloopError(
          'ERR_SHARDLOOP_SERVER_ABORTED',
          `the server of endpoint ${endpoint.id} was stopped by force`,
        ),
      )
  }

  /** @internal */
  ended(endpoint: Endpoint): void {
    const place = this.places.find((candidate) => candidate.endpoint === endpoint)
    if (place === undefined) return
    place.endpoint = null
    if (this.draining !== undefined) {
      if (this.connectionCount === 0) this.whenEmpty?.()
      return
    }
    const restMs = place.openedAt + DATAGRAM_REOPEN_MS - performance.now()
    // One that fails again and again has a pause between.
    if (restMs <= 0) this.reopen(place)
    else place.timer = later(() => this.reopen(place), restMs)
  }

  /** @internal */
  handleException(context: ExceptionContext): void {
    if (this.exceptionHandler === null) callExceptionHandler(context)
    else tell(this.exceptionHandler, context)
  }

  private reopen(place: Place): void {
    try {
      this.open(place)
    } catch (error) {
      this.handleException(exceptionContext('a new protocol for a datagram server could not be made', error))
    }
  }

  private open(place: Place): void {
    const socket = native.findDatagramSocket(place.token)
    if (socket === null) throw systemError(constants.errno.EBADF, 'recvmsg')
    place.openedAt = performance.now()
    const endpoint = this.loop.datagrams.add(socket, this, connectionResource())
    place.endpoint = endpoint
    this.loop.datagrams.begin(endpoint, this.factory)
  }
}
