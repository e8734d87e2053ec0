import { ShardloopError } from '../errors.js'
import { WRITE_HIGH_DEFAULT_BYTES, WRITE_MAX_DEFAULT_BYTES } from '../limits.js'
import { CLOSE_PROGRAM } from '../native/abi.js'
import type { ConnectionOwner, ExceptionContext } from './connection-server.js'
import { callExceptionHandler } from './exception-handler.js'
import type { ShardLoop } from './shard-loop.js'
import type { TcpTransport } from './transport.js'

/** The connections that this thread made to others, or was given. To native code they are those of one more server. */
export class Clients implements ConnectionOwner {
  readonly isDraining = false
  readonly writeHighBytes: number = WRITE_HIGH_DEFAULT_BYTES
  readonly writeLowBytes: number = Math.floor(WRITE_HIGH_DEFAULT_BYTES / 4)
  readonly writeMaxBytes: number = WRITE_MAX_DEFAULT_BYTES
  /** The number of that server. */
  readonly id: number
  stopped: ((transport: TcpTransport) => void) | undefined = undefined
  private readonly loop: ShardLoop
  private readonly released: () => void

  /** @param released called for each connection that is over, and for each request that came to nothing */
  constructor(loop: ShardLoop, id: number, released: () => void) {
    this.loop = loop
    this.id = id
    this.released = released
    const { writeHighBytes, writeLowBytes, writeMaxBytes } = this
    loop.native.addServer(id, 0, { writeHighBytes, writeLowBytes, writeMaxBytes, idleTimeoutMs: 0 })
  }

  opened(): void {}

  ended(): void {
    this.released()
  }

  /** Aborts them, and those that are still to come. */
  abort(): void {
    this.stopped = (transport) => {
      transport.abortFor(
        CLOSE_PROGRAM,
        new ShardloopError('ERR_SHARDLOOP_STATE', `the loop of connection ${transport.id} was closed`),
      )
    }
    for (const transport of this.loop.transportsOf(this)) this.stopped(transport)
  }

  handleException(context: ExceptionContext): void {
    callExceptionHandler(context)
  }
}
