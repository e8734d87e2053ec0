import { SOCKET_BUFFER_MAX_BYTES } from '../limits.js'
import type { DatagramTuningOptions } from '../loop/datagram-options.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import {
  type DatagramServing,
  readOptions,
  type ServerOptions,
  type ServerSettings,
  takeOptions,
} from './options.js'

/** Those of `createServer` that have to do with connections. */
const STREAMS_ONLY = [
  'path',
  'socketMode',
  'backlog',
  'noDelay',
  'moderation',
  'idleTimeoutMs',
  'balance',
  'tls',
] as const

/**
 * Options of `createDatagramServer`: those of `createServer` that have nothing to do with connections, and those of the
 * sockets. `writeHighBytes`, `writeLowBytes` and `writeMaxBytes` are of one socket, all its peers together. `balance` is not
 * there: each shard has a socket of its own. (Where the kernel does not spread datagrams over them, as on macOS, one shard gets
 * all.)
 */
export interface DatagramServerOptions
  extends Omit<ServerOptions, (typeof STREAMS_ONLY)[number]>,
    Pick<DatagramTuningOptions, 'broadcast' | 'receiveBufferBytes' | 'sendBufferBytes' | 'offload'> {}

/** @throws ShardloopError as `parseOptions` does */
export function parseDatagramServerOptions(
  source: ProtocolFactory | URL,
  options: unknown,
  kernelBalances: boolean,
): ServerSettings {
  const given = takeOptions('createDatagramServer', source, options)
  given.refuse(STREAMS_ONLY, 'nothing: it is for connections, of which a datagram server has none')
  const datagrams: DatagramServing = {
    broadcast: given.boolean('broadcast', false),
    receiveBufferBytes: given.integer('receiveBufferBytes', 1, SOCKET_BUFFER_MAX_BYTES, null),
    sendBufferBytes: given.integer('sendBufferBytes', 1, SOCKET_BUFFER_MAX_BYTES, null),
    offload: given.boolean('offload', true),
  }
  const settings = readOptions(source, given, kernelBalances, STREAMS_ONLY)
  return Object.freeze({ ...settings, datagrams })
}
