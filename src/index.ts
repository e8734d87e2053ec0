export {
  type Blame,
  ERROR_CODES,
  ShardloopError,
  type ShardloopErrorCode,
  type SystemError,
} from './errors.js'
export { createServer } from './server/create-server.js'
export type { ShardChange, ShardState } from './server/messages.js'
export type { LoopLag, ServerMetrics, ShardMetrics } from './server/metrics.js'
export type { ServerOptions } from './server/options.js'
export type { ListenerOptions, ListenerSocket, Server, ServerEvents, ShardInfo } from './server/server.js'
export { isSupervisor, shardId } from './workers/identity.js'
export type {
  ExtraInfo,
  Protocol,
  ProtocolFactory,
  SocketAddress,
  Transport,
  WriteData,
} from './workers/protocol.js'
export type { ExceptionContext } from './workers/shard-loop.js'
export type { SocketOptions, TransportSocket } from './workers/transport-socket.js'
