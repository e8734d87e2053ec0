import { ShardloopError } from '../errors.js'
import { WRITE_HIGH_DEFAULT_BYTES, WRITE_MAX_DEFAULT_BYTES } from '../limits.js'
import { CLOSE_PROGRAM } from '../native/abi.js'
import type { ConnectionOwner, ExceptionContext } from './connection-server.js'
import { callExceptionHandler } from './exception-handler.js'
import type { ShardLoop } from './shard-loop.js'

/** The connections that this thread made to others, or was given. To native code they are those of one more server. */
export class Clients implements ConnectionOwner {
  readonly name = null
  readonly isDraining = false
  readonly idleTimeoutMs = 0
  readonly tls = 0
  readonly writeHighBytes: number = WRITE_HIGH_DEFAULT_BYTES
  readonly writeLowBytes: number = Math.floor(WRITE_HIGH_DEFAULT_BYTES / 4)
  readonly writeMaxBytes: number = WRITE_MAX_DEFAULT_BYTES
  /** The number of that server. */
  readonly id: number
  readonly stopped = undefined
  /** Connections, and requests for one. */
  private pending = 0
  private whenNone: (() => void)[] = []
  private readonly loop: ShardLoop
  private readonly released: () => void

  /** @param released called for each connection that is over, and for each request that came to nothing */
  constructor(loop: ShardLoop, id: number, released: () => void) {
    this.loop = loop
    this.id = id
    this.released = released
    const { writeHighBytes, writeLowBytes, writeMaxBytes } = this
    const limits = { writeHighBytes, writeLowBytes, writeMaxBytes, idleTimeoutMs: 0, moderation: true }
    loop.native.addServer(id, 0, { ...limits, tls: 0, tlsUpgrade: false })
  }

  requested(): void {
    this.pending += 1
  }

  opened(): void {}

  /** A connection is over, or a request has come to nothing. */
  ended(): void {
    this.pending -= 1
    this.released()
    if (this.pending === 0) for (const told of this.whenNone.splice(0)) told()
  }

  abort(): void {
    for (const transport of this.loop.transportsOf(this)) {
      const error = new ShardloopError(
        'ERR_SHARDLOOP_CLOSED',
        `the loop of connection ${transport.id} was closed`,
      )
      transport.abortFor(CLOSE_PROGRAM, error)
    }
  }

  /** Closes them, each when what was written is sent. */
  close(): void {
    for (const transport of this.loop.transportsOf(this)) transport.close()
  }

  /** Resolves when there is none. */
  none(): Promise<void> {
    if (this.pending === 0) return Promise.resolve()
    return new Promise((resolve) => this.whenNone.push(resolve))
  }

  handleException(context: ExceptionContext): void {
    callExceptionHandler(context)
  }
}
