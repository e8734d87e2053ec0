export {
  type Blame,
  ERROR_CODES,
  ShardloopError,
  type ShardloopErrorCode,
  type SystemError,
} from './errors.js'
export { createServer } from './server/create-server.js'
export type { ShardChange, ShardState } from './server/messages.js'
export type {
  AcceptErrorCounts,
  LoopLag,
  LoopLagBucket,
  ResetCounts,
  ServerMetrics,
  ShardMetrics,
} from './server/metrics.js'
export type { ServerOptions } from './server/options.js'
export type {
  EventSignal,
  ListenerOptions,
  ListenerSocket,
  Server,
  ServerEvents,
  ServerHealth,
  ShardInfo,
  ShardStall,
} from './server/server.js'
export type { ShardResourceLimits } from './server/worker-shard.js'
export {
  type ConnectionBroken,
  type ConnectionClosed,
  type ConnectionOpened,
  DIAGNOSTICS_CHANNELS,
} from './workers/diagnostics.js'
export type { EngineName } from './workers/engine.js'
export { isSupervisor, shardId } from './workers/identity.js'
export type { Logger, LogLevel, LogMethod } from './workers/logger.js'
export { onSignal } from './workers/on-signal.js'
export type {
  ExtraInfo,
  IpSocketAddress,
  Protocol,
  ProtocolFactory,
  SocketAddress,
  Transport,
  UnixSocketAddress,
  WriteData,
} from './workers/protocol.js'
export type { ExceptionContext } from './workers/shard-loop.js'
export type { HandledSignal, SignalListener } from './workers/signal-listeners.js'
export { getLogger, setLogger } from './workers/thread-log.js'
export type { SocketOptions, TransportSocket } from './workers/transport-socket.js'
