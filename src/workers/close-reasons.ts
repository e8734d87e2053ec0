import { ShardloopError, systemError } from '../errors.js'
import { CLOSE_DETACHED, CLOSE_PROGRAM, CLOSE_WRITE_OVERFLOW } from '../native/abi.js'
import { isTlsReason, tlsError } from '../tls/failures.js'
import type { TcpTransport } from './transport.js'

/** What `connectionLost` is told. @param reason as native code tells it: 0, a CLOSE_ or TLS_ constant, or an errno */
export function closeError(transport: TcpTransport, reason: number): Error | null {
  // What the program aborted without an error is no failure.
  if (reason === 0 || reason === CLOSE_PROGRAM) return null
  if (reason === CLOSE_WRITE_OVERFLOW) {
    return new ShardloopError(
      'ERR_SHARDLOOP_WRITE_OVERFLOW',
      `connection ${transport.id} had more than ${transport.server.writeMaxBytes} bytes waiting to be sent (writeMaxBytes): stop writing at pauseWriting, or raise the limit`,
    )
  }
  if (reason === CLOSE_DETACHED) return detachedError(transport)
  if (isTlsReason(reason)) {
    const detail = transport.loop.native.tlsDetail(transport.handle)
    return tlsError(reason, `connection ${transport.id}`, detail, transport.getExtraInfo('peername') ?? null)
  }
  const error = systemError(reason, transport.failingCall)
  return error.code === 'EPIPE' ? systemError(reason, 'write') : error
}

/** Memory with bytes that were written, or received, is not there any more. */
export function detachedError(transport: TcpTransport): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_DETACHED',
    `memory with bytes of connection ${transport.id} was detached or shrunk before they were sent or delivered`,
  )
}

/** It was idle for longer than its server, or it itself, allows. */
export function idleError(transport: TcpTransport): ShardloopError {
  return new ShardloopError('ERR_SHARDLOOP_IDLE_TIMEOUT', `connection ${transport.id} was idle`)
}

/** The end of a connection that nothing broke, for those who still waited for it. */
export function closedError(id: string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_CLOSED',
    `connection ${id} was closed before these bytes were sent`,
  )
}
