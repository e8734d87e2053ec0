import type { Duplex } from 'node:stream'
import { ShardloopError } from '../errors.js'
import { WRITE_BOUND_MAX_BYTES, WRITE_HIGH_DEFAULT_BYTES, WRITE_MAX_DEFAULT_BYTES } from '../limits.js'
import { GivenOptions, wrong } from '../server/given-options.js'
import { invalid } from '../workers/invalid.js'
import type { Protocol, Transport } from '../workers/protocol.js'
import { StreamTransport } from './stream-transport.js'

/** Options of `fromDuplex`. */
export interface FromDuplexOptions {
  /** What was read of the stream already, as with `'upgrade'` and `'connect'` of node:http: the protocol receives it first. */
  readonly head?: Uint8Array
  /** Bytes waiting to be sent above which `pauseWriting` is called. Default 64 KiB; the low watermark is a quarter. */
  readonly writeHighBytes?: number
  /** Bytes waiting to be sent above which it is aborted with ERR_SHARDLOOP_WRITE_OVERFLOW. Default 64 MiB. */
  readonly writeMaxBytes?: number
}

/**
 * Gives a stream of Node's to a protocol: a net.Socket, a TLSSocket, the socket of an `'upgrade'`, any other Duplex of bytes. The
 * stream is the transport's from then on. `connectionMade` has been called when this returns; the rest follows as with a
 * connection, the callbacks in one async context. What they throw aborts the stream and reaches the thread's exception handler.
 *
 * What is different from a connection:
 * - It has no native handle: `getExtraInfo('socket')` is undefined, `sendFile` and `subscribe` refuse it, and no metrics or
 *   diagnostics channels tell of it. The addresses are those that the stream tells.
 * - `duplex()` detaches the protocol and gives back the stream itself. Nothing is called after that.
 * - It is no server's: it is not drained, and `loop.close` leaves it.
 *
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT, ERR_SHARDLOOP_OPTION; what the factory throws. Then the stream is as it was.
 */
export function fromDuplex<Made extends Protocol>(
  stream: Duplex,
  factory: () => Made,
  options: FromDuplexOptions = {},
): [transport: Transport, protocol: Made] {
  if (typeof factory !== 'function') throw invalid('factory', factory, 'a function')
  refuse(stream)
  const given = new GivenOptions({ ...options })
  const writeMaxBytes = given.integer('writeMaxBytes', 1, WRITE_BOUND_MAX_BYTES, WRITE_MAX_DEFAULT_BYTES)
  const high = Math.min(WRITE_HIGH_DEFAULT_BYTES, writeMaxBytes)
  const writeHighBytes = given.integer('writeHighBytes', 0, writeMaxBytes, high)
  const head = given.parsed('head', (value) => {
    if (value === undefined || value instanceof Uint8Array) return value
    throw wrong('head', value, 'a Uint8Array or a Buffer')
  })
  given.refuseUnknown()
  const transport = new StreamTransport(stream, { writeHighBytes, writeMaxBytes })
  transport.begin(factory, head)
  return [transport, transport.protocol as Made]
}

const METHODS = ['on', 'write', 'end', 'destroy', 'pause', 'resume'] as const

/** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when it is no stream of bytes that is open */
function refuse(stream: Duplex & { readonly connecting?: boolean }): void {
  const problem = (): string | undefined => {
    if (
      typeof stream !== 'object' ||
      stream === null ||
      METHODS.some((name) => typeof stream[name] !== 'function')
    )
      return 'is no Duplex of node:stream'
    if (stream.destroyed) return 'is destroyed'
    if (stream.connecting === true) return 'is not connected yet: wait for its event'
    if (stream.readableObjectMode || stream.writableObjectMode) return 'is in object mode'
    if (stream.readableEncoding !== null) return 'has an encoding (setEncoding), so it gives text'
    return undefined
  }
  const found = problem()
  if (found !== undefined) throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `the stream ${found}`)
}
