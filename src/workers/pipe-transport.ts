import { ShardloopError } from '../errors.js'
import type { Transport } from './protocol.js'
import { TcpTransport } from './transport.js'

/** What both ends of a pipe have of a {@link Transport}; `getExtraInfo` knows `'pipe'`. */
type OfBothEnds =
  | 'id'
  | 'protocol'
  | 'close'
  | 'abort'
  | 'isClosing'
  | 'getExtraInfo'
  | 'setIdleTimeout'
  | 'setProtocol'

/**
 * The end of a pipe that is read: asyncio's ReadTransport. Its protocol gets `eofReceived` at the writer's end, whatever that
 * returns the transport closes then, and `connectionLost(null)` follows. `close` reads no more: the writer gets EPIPE.
 */
export interface ReadPipeTransport
  extends Pick<Transport, OfBothEnds | 'pauseReading' | 'resumeReading' | 'isReading'>,
    AsyncDisposable {}

/**
 * The end of a pipe that is written: asyncio's WriteTransport. `close` and `writeEof` are the same: what was written is sent,
 * then it ends. When its reader has gone, the protocol gets `connectionLost` at once: with EPIPE if something waited to be
 * sent, or was written since, and with null if nothing did, as in asyncio.
 */
export interface WritePipeTransport
  extends Pick<
      Transport,
      | OfBothEnds
      | 'write'
      | 'writev'
      | 'writeOwned'
      | 'writeEof'
      | 'canWriteEof'
      | 'setWriteBufferLimits'
      | 'getWriteBufferLimits'
      | 'getWriteBufferSize'
    >,
    AsyncDisposable {}

/** A pipe that is read. It is a whole transport for those that handle all alike; what a pipe cannot do throws. */
export class ReadPipe extends TcpTransport implements ReadPipeTransport {
  override write(): never {
    throw this.oneWay('written to')
  }

  override writev(): never {
    throw this.oneWay('written to')
  }

  override writeOwned(): never {
    throw this.oneWay('written to')
  }

  override writeBorrowed(): never {
    throw this.oneWay('written to')
  }

  override writeEof(): never {
    throw this.oneWay('written to')
  }

  override canWriteEof(): boolean {
    return false
  }

  override barWriting(): never {
    throw this.oneWay('written to')
  }

  protected override pipe(): number {
    return descriptorOf(this)
  }

  private oneWay(what: string): ShardloopError {
    return new ShardloopError('ERR_SHARDLOOP_STATE', `pipe ${this.id} was ${what}, but it is only read`)
  }
}

/** A pipe that is written. */
export class WritePipe extends TcpTransport implements WritePipeTransport {
  /** A pipe has one half. */
  override writeEof(): void {
    this.close()
  }

  override pauseReading(): never {
    throw this.oneWay()
  }

  override resumeReading(): never {
    throw this.oneWay()
  }

  override isReading(): boolean {
    return false
  }

  override get failingCall(): 'write' {
    return 'write'
  }

  protected override pipe(): number {
    return descriptorOf(this)
  }

  private oneWay(): ShardloopError {
    return new ShardloopError('ERR_SHARDLOOP_STATE', `pipe ${this.id} was read from, but it is only written`)
  }
}

function descriptorOf(transport: TcpTransport): number {
  return transport.lost ? -1 : transport.loop.native.descriptor(transport.handle)
}
