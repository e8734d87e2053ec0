export {
  type Blame,
  ERROR_CODES,
  IncompleteReadError,
  LimitOverrunError,
  ShardloopError,
  type ShardloopErrorCode,
  type SystemError,
  TlsError,
  type TlsErrorCode,
  type TlsErrorReason,
  type TlsPeer,
} from './errors.js'
export type { DuplexOptions, TransportDuplex } from './interop/duplex.js'
export { type FromDuplexOptions, fromDuplex } from './interop/from-duplex.js'
export { type NodeHttpOptions, nodeHttp } from './interop/node-http.js'
export type { Connected } from './loop/connect.js'
export type {
  AcceptedSocketOptions,
  ConnectionOptions,
  SecureConnectionOptions,
  UnixConnectionOptions,
} from './loop/connection-options.js'
export type { DatagramEndpoint } from './loop/datagram-endpoint.js'
export type {
  DatagramEndpointOptions,
  DatagramHost,
  DatagramTuningOptions,
} from './loop/datagram-options.js'
export { getLoop } from './loop/get-loop.js'
export type { Loop } from './loop/loop.js'
export type { LoopServerOptions } from './loop/loop-network.js'
export type { AddressLookupOptions, NameInfo, NameLookupOptions } from './loop/name-lookup.js'
export type { ConnectedPipe, PipeOptions, PipeSource } from './loop/pipes.js'
export {
  openSocket,
  type RawSocket,
  type RawSocketOptions,
  type RawSocketSettings,
  type SocketTarget,
  socketPair,
} from './loop/raw-socket.js'
export type { ExecutorTaskOptions } from './loop/run-in-executor.js'
export type { SocketOperationOptions } from './loop/socket-operations.js'
export type { ConnectedSubprocess, SubprocessProtocol, SubprocessTransport } from './loop/subprocess.js'
export type { SubprocessOptions, SubprocessStream } from './loop/subprocess-options.js'
export type { CallContext, CallOptions, CallTarget, ExposedFunction } from './messages/calls.js'
export type { BroadcastOptions } from './messages/topics.js'
export { DelimiterFramer, type DelimiterOptions } from './protocols/framing/delimiter.js'
export type { Framer, FramerOptions } from './protocols/framing/framer.js'
export { LengthPrefixedFramer, type LengthPrefixedOptions } from './protocols/framing/length-prefixed.js'
export { LineFramer, type LineOptions } from './protocols/framing/lines.js'
export type { Separator } from './protocols/separator-search.js'
export type { Stream, StreamTlsOptions } from './protocols/stream.js'
export type { StreamHandler } from './protocols/stream-protocol.js'
export type { ReadOptions, StreamReader } from './protocols/stream-reader.js'
export type { StreamWriter } from './protocols/stream-writer.js'
export {
  fromStream,
  openConnection,
  openUnixConnection,
  type StreamOptions,
  startServer,
} from './protocols/streams.js'
export type { WaitOptions } from './protocols/waiters.js'
export { createDatagramServer, createServer } from './server/create-server.js'
export type { DatagramServerOptions } from './server/datagram-options.js'
export type { ExecutorOptions } from './server/executor-options.js'
export type { ShardChange, ShardState } from './server/messages.js'
export type {
  AcceptErrorCounts,
  DatagramCounts,
  ExecutorMetrics,
  LoopLag,
  LoopLagBucket,
  ResetCounts,
  ServerMetrics,
  ShardMetrics,
  TlsCounts,
  TlsFailureCounts,
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
export { createTlsClientContext, TlsClientContext, type TlsClientUse } from './tls/client-context.js'
export type { TlsClientOptions } from './tls/client-options.js'
export type { TlsCommonOptions, TlsVersion } from './tls/common-options.js'
export type { TlsMaterial } from './tls/material.js'
export { createTlsServerContext, TlsServerContext } from './tls/server-context.js'
export type { TlsServerIdentity, TlsServerOptions } from './tls/server-options.js'
export type { TlsCipher, TlsSession } from './tls/session.js'
export type { StartTlsCommon, StartTlsOptions } from './tls/start-tls.js'
export { type TlsSupport, tlsSupport } from './tls/support.js'
export type {
  DatagramDestination,
  DatagramError,
  DatagramExtraInfo,
  DatagramProtocol,
  DatagramProtocolFactory,
  DatagramSocketOptions,
  DatagramTransport,
  DatagramTransportSocket,
} from './workers/datagram-protocol.js'
export {
  type ConnectionBroken,
  type ConnectionClosed,
  type ConnectionOpened,
  DIAGNOSTICS_CHANNELS,
} from './workers/diagnostics.js'
export type { EngineName } from './workers/engine.js'
export type { ExecutorTimes } from './workers/executor-counters.js'
export type { Handle, TimerHandle } from './workers/handles.js'
export { isSupervisor, shardId } from './workers/identity.js'
export type { Logger, LogLevel, LogMethod } from './workers/logger.js'
export { onSignal } from './workers/on-signal.js'
export type { ReadPipeTransport, WritePipeTransport } from './workers/pipe-transport.js'
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
export type { SendFileOptions } from './workers/send-file.js'
export type { ExceptionContext } from './workers/shard-loop.js'
export type { SignalName } from './workers/signal-handlers.js'
export type { HandledSignal, SignalListener } from './workers/signal-listeners.js'
export { getLogger, setLogger } from './workers/thread-log.js'
export type { SocketOptions, TransportSocket } from './workers/transport-socket.js'
