import type { FileHandle } from 'node:fs/promises'
import type { CallOptions, CallTarget, ExposedFunction } from '../messages/calls.js'
import type { BroadcastOptions } from '../messages/topics.js'
import type { Server } from '../server/server.js'
import type { StartTlsOptions } from '../tls/start-tls.js'
import type { ExceptionContext, ExceptionHandler } from '../workers/connection-server.js'
import type { DatagramProtocol } from '../workers/datagram-protocol.js'
import type { Handle, TimerHandle } from '../workers/handles.js'
import type { ReadPipeTransport, WritePipeTransport } from '../workers/pipe-transport.js'
import type {
  IpSocketAddress,
  Protocol,
  ProtocolFactory,
  SocketAddress,
  Transport,
  WriteData,
} from '../workers/protocol.js'
import type { SendFileOptions, sendFile } from '../workers/send-file.js'
import type { SignalName } from '../workers/signal-handlers.js'
import type { Connected } from './connect.js'
import type { AcceptedSocketOptions, ConnectionOptions, UnixConnectionOptions } from './connection-options.js'
import type { DatagramEndpoint } from './datagram-endpoint.js'
import type { DatagramEndpointOptions } from './datagram-options.js'
import type { LoopServerOptions } from './loop-network.js'
import type { AddressLookupOptions, NameInfo, NameLookupOptions } from './name-lookup.js'
import type { ConnectedPipe, PipeOptions, PipeSource } from './pipes.js'
import type { RawSocket, SocketTarget } from './raw-socket.js'
import type { ExecutorTaskOptions } from './run-in-executor.js'
import type { SocketOperationOptions } from './socket-operations.js'
import type { ConnectedSubprocess, SubprocessProtocol } from './subprocess.js'
import type { SubprocessOptions } from './subprocess-options.js'

/**
 * A thread's loop, as asyncio has it: {@link getLoop} gives it in every thread, whether or not it serves anything.
 *
 * **Rounds.** Callbacks run in rounds, as in asyncio. A round takes what is ready when it begins, in the order in which it
 * was scheduled, and then the timers that are due by then; what is scheduled meanwhile runs in the next one. Between
 * two rounds Node's own timers and I/O have their turn. Next ticks and microtasks run after a round, not between its
 * callbacks: in asyncio, too, a future's callbacks wait for their turn.
 *
 * **Context.** Each callback runs in the async context (AsyncLocalStorage) of the call that scheduled it, with `this`
 * undefined. What it throws reaches the thread's exception handler, in the same context, and stops no other callback.
 *
 * **Life.** What waits keeps the thread alive, as setTimeout does; an empty loop does not.
 *
 * Every method but `isClosed`, `close`, `getExceptionHandler`, `callExceptionHandler` and `defaultExceptionHandler` throws (or
 * rejects with) ShardloopError ERR_SHARDLOOP_STATE once the loop is closed, and ERR_SHARDLOOP_ARGUMENT for an argument that it does not take.
 */
export interface Loop extends AsyncDisposable {
  /** Seconds of the system's monotonic clock (CLOCK_MONOTONIC on Linux): of the same clock in all threads of the process. */
  time(): number
  /** The same in milliseconds. */
  timeMs(): number
  /** Calls back in the next round. Callbacks run in the order of the calls. */
  callSoon<Args extends unknown[]>(callback: (...args: Args) => unknown, ...args: Args): Handle
  /**
   * Calls back once `delaySeconds` have passed: never early by `time()`, and of those that are due the earliest first, those
   * of the same time in the order of the calls. A delay of 0 or less is `callSoon`. There is no longest delay.
   */
  callLater<Args extends unknown[]>(
    delaySeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle
  /** As `callLater`, at a time of `time()`. */
  callAt<Args extends unknown[]>(
    whenSeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle
  /**
   * Lets other threads of the process call a function of this one by a name (1 to 256 bytes in UTF-8), with `callSoonThreadsafe`
   * and `call`. Each call runs in an async context of its own, made in that of this call, with `this` undefined, and gets the
   * payload and a {@link CallContext}. A name can be exposed once in each thread; 65,536 different ones in a process
   * (ERR_SHARDLOOP_STATE). What is exposed does not keep the thread alive.
   */
  expose(name: string, callback: ExposedFunction): void
  /** Takes it back; whether it was exposed. */
  unexpose(name: string): boolean
  /**
   * Has a function that another thread exposes called there: in a shard, by its number, in `'all'` shards, this one
   * included, or in the `'supervisor'`, the main thread. Nobody waits for it; what it throws reaches the exception handler of
   * its thread. Calls of one thread run in another in their order, those of `call` included.
   *
   * The payload is copied before this returns: bytes (a Uint8Array) arrive as a Buffer of their own, anything else as
   * structured clone has it, without transfer; but a typed array in it brings along its own range of its memory only, and a Buffer stays
   * one. A getter may be asked twice. It leaves when the callback that runs is over; what an exposed function sends, when those that came
   * with it have run.
   *
   * Throws ERR_SHARDLOOP_GONE when the shard is not running, ERR_SHARDLOOP_NOT_EXPOSED when no thread has exposed the name,
   * ERR_SHARDLOOP_MAILBOX_FULL when the thread has not read 64 MiB (of which each message takes 64 bytes and its payload), and
   * what cannot be cloned as a DataCloneError. With `'all'` the other shards are called all the same. A thread that does not
   * expose the name tells its exception handler; messages for one that ends before it has read them are lost.
   */
  callSoonThreadsafe(target: CallTarget | 'all', name: string, payload?: unknown): void
  /**
   * Calls a function that another thread exposes, as `callSoonThreadsafe`, and resolves with what it returns, or what the promise
   * that it returns resolves with. Rejects with what it throws (class, message, stack, `code` and other properties are
   * carried over, if they can be cloned); with ERR_SHARDLOOP_GONE when the thread ends before it has answered, though another has taken its place;
   * with ERR_SHARDLOOP_NOT_EXPOSED; with the signal's reason; and as `callSoonThreadsafe` throws. A result for which this
   * thread's mailbox has no room is ERR_SHARDLOOP_MAILBOX_FULL; of an error what is left then is short. 65,536 calls of a thread may be under way
   * (ERR_SHARDLOOP_STATE); as long as one is, the thread stays alive.
   */
  call(target: CallTarget, name: string, payload?: unknown, options?: CallOptions): Promise<unknown>
  /**
   * A connection of this thread gets what is broadcast to a topic (a text of 1 to 256 bytes in UTF-8) from now on, until it
   * closes. Twice is once. 1,024 topics for each connection (ERR_SHARDLOOP_STATE).
   */
  subscribe(transport: Transport, topic: string): void
  /** It does not any more. Whether it had subscribed. */
  unsubscribe(transport: Transport, topic: string): boolean
  /**
   * Sends bytes, or a text in UTF-8, to the connections of all threads that have subscribed to a topic, as `write` would, but by
   * native code: no JavaScript runs for it in the other threads. The bytes are copied once, for all. A connection gets the
   * broadcasts of one thread in their order, behind what that thread wrote to it before; what it writes, or ends, afterwards may come first. One that closes, or has written
   * its end, gets none; one with more than `writeMaxBytes` waiting is aborted, as by `write`.
   *
   * Throws ERR_SHARDLOOP_MAILBOX_FULL when a thread has 16 MiB of broadcasts (64 bytes for each, and what it says) that it has
   * not sent to its connections yet; the other threads send it all the same.
   */
  broadcast(topic: string, data: WriteData, options?: BroadcastOptions): void
  /**
   * The addresses of a host, all of them, in the order in which the system prefers them (node:dns `lookup`); those of the
   * loopback interface for null. Rejects with Node's error when there is none (`ENOTFOUND`, `syscall: 'getaddrinfo'`), and
   * with the signal's reason; with ERR_SHARDLOOP_OPTION for an option that it does not know.
   * @param port 0 to 65535, for the result
   */
  getaddrinfo(host: string | null, port: number, options?: AddressLookupOptions): Promise<IpSocketAddress[]>
  /** The name of an address, and that of the service on its port (node:dns `lookupService`). Rejects as `getaddrinfo` does. */
  getnameinfo(
    socketAddress: Pick<IpSocketAddress, 'address' | 'port'>,
    options?: NameLookupOptions,
  ): Promise<NameInfo>
  /**
   * A server in this very thread, as `createServer` with `shards: 0`; in a shard it is that shard's own affair. Resolves when it
   * listens.
   */
  createServer(source: ProtocolFactory | URL, options?: LoopServerOptions): Promise<Server>
  /** The same on a Unix socket; `path` is required. */
  createUnixServer(source: ProtocolFactory | URL, options: LoopServerOptions): Promise<Server>
  /**
   * Connects over TCP. Of a name's addresses all are tried, the next one beside those before it after a moment (RFC 8305).
   * Resolves when the protocol's `connectionMade` was called; its callbacks run in the async context of this call. Rejects
   * with the system's error in Node's shape (an AggregateError of several addresses' has the first one's `code`), with what
   * the factory threw, or with the signal's reason; with ERR_SHARDLOOP_OPTION for options that cannot be.
   *
   * A shard whose last server is over ends: its connections to others are closed in good order then.
   */
  createConnection<Made extends Protocol>(
    factory: () => Made,
    options: ConnectionOptions,
  ): Promise<Connected<Made>>
  /**
   * Connects to a Unix socket. One whose queue is full is tried until there is room, as a blocking connect(2) would wait. Else
   * as `createConnection`.
   */
  createUnixConnection<Made extends Protocol>(
    factory: () => Made,
    options: UnixConnectionOptions,
  ): Promise<Connected<Made>>
  /** Goes on with a connection that was accepted elsewhere. Rejects with EBADF, ENOTCONN … when it is none. */
  connectAcceptedSocket<Made extends Protocol>(
    factory: () => Made,
    options: AcceptedSocketOptions,
  ): Promise<Connected<Made>>
  /**
   * An endpoint of datagrams: UDP or a Unix socket, bound, connected, or both. Resolves when the protocol's `connectionMade` was
   * called; its callbacks run in the async context of this call. Rejects with the system's error in Node's shape, with what the
   * factory threw, or with the signal's reason; with ERR_SHARDLOOP_OPTION for options that cannot be. A datagram may be lost on
   * its way; what is lost here is told (`errorReceived`) and counted.
   */
  createDatagramEndpoint<Made extends DatagramProtocol>(
    factory: () => Made,
    options: DatagramEndpointOptions,
  ): Promise<DatagramEndpoint<Made>>
  /**
   * Reads from a pipe, a socket or a terminal; see {@link PipeSource}. Resolves when the protocol's `connectionMade` was called.
   * Rejects with ERR_SHARDLOOP_ARGUMENT for what cannot be waited for (a regular file), with the system's error else.
   */
  connectReadPipe<Made extends Protocol>(
    factory: () => Made,
    pipe: PipeSource,
    options?: PipeOptions,
  ): Promise<ConnectedPipe<ReadPipeTransport, Made>>
  /** Writes to one; as `connectReadPipe`. */
  connectWritePipe<Made extends Protocol>(
    factory: () => Made,
    pipe: PipeSource,
    options?: PipeOptions,
  ): Promise<ConnectedPipe<WritePipeTransport, Made>>
  /**
   * Starts a program, which is looked up in PATH unless its name has a slash, with these arguments. Resolves when it runs and
   * the protocol's `connectionMade` was called. Rejects with the system's error (`spawn ENOENT` …), with what the factory threw,
   * or with the signal's reason; with ERR_SHARDLOOP_LIMIT when 4,096 run in the process. It ends with its thread: what runs when the
   * loop is closed, or its thread ends in whatever way, is killed (SIGKILL) and reaped; only its own children are not.
   */
  subprocessExec<Made extends SubprocessProtocol>(
    factory: () => Made,
    command: readonly [program: string, ...args: string[]],
    options?: SubprocessOptions,
  ): Promise<ConnectedSubprocess<Made>>
  /** The same with a command for `/bin/sh -c`. Whatever in it comes from others has to be quoted for the shell. */
  subprocessShell<Made extends SubprocessProtocol>(
    factory: () => Made,
    command: string,
    options?: SubprocessOptions,
  ): Promise<ConnectedSubprocess<Made>>
  /**
   * asyncio's `start_tls`: makes a connection TLS and gives it to a protocol, see `Transport.startTls`. Resolves with the transport,
   * which is the same. The protocol's `connectionMade` is not called.
   */
  startTls(transport: Transport, protocol: Protocol, options: StartTlsOptions): Promise<Transport>
  /** See {@link sendFile}. */
  sendFile(
    transport: Transport,
    file: FileHandle | number,
    offset?: number,
    count?: number | null,
    options?: SendFileOptions,
  ): Promise<number>
  /**
   * Runs a function of a module on a thread of the executor, which the supervisor owns and all shards share; resolves with what
   * it returns, or what the promise that it returns resolves with. On the main thread and in shards.
   *
   * Arguments and result are structured clones (a Buffer arrives as a Uint8Array), but what `transferList` names moves. Of
   * a result moves what it has for itself: an ArrayBuffer, memory of a typed array that spans all of it, a MessagePort, wherever
   * structured clone finds them. So a task that keeps such memory returns a copy, or marks it by `markAsUntransferable`. Of
   * views of larger memory a copy of their exact size is sent, either way.
   *
   * Rejects with what the task threw or its import failed with, as it was there: class, message, stack, code, cause; with the
   * signal's reason at once, then the thread that runs the task is ended; with ERR_SHARDLOOP_EXECUTOR_FULL when as many wait as
   * may, ERR_SHARDLOOP_EXECUTOR_DIED when the thread ends by itself, ERR_SHARDLOOP_CLOSED when the loop is closed or the shard ends
   * with its last server, and ERR_SHARDLOOP_STATE in a worker thread of the program's own.
   *
   * @param task the file: URL of a module, or a name of the option `executor.tasks` of createServer
   * @param args what the function is called with
   */
  runInExecutor<Result = unknown>(
    task: URL | string,
    args?: readonly unknown[],
    options?: ExecutorTaskOptions,
  ): Promise<Result>
  /**
   * Calls back whenever a descriptor can be read from, or has ended or failed, for as long as that is so (level-triggered): a
   * callback that leaves it so is called again in the next turn. There is one reader for each descriptor: another takes its
   * place, and its writer stays. Callbacks run like those of `callSoon`. It keeps the thread alive.
   *
   * Remove it before the descriptor is closed. One that was closed all the same is told nothing of, and neither is what has its
   * number by then; a RawSocket takes its own out when it is closed.
   *
   * Throws ERR_SHARDLOOP_ARGUMENT for a descriptor that a transport or server of this thread uses, ERR_SHARDLOOP_STATE for one
   * that an operation (`sockRecv` …) waits for or when 65,536 are watched, and the system's error for what cannot be watched: EBADF,
   * or on Linux EPERM for a regular file or a directory.
   */
  addReader<Args extends unknown[]>(
    fd: number | RawSocket,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void
  /** Whether there was a reader. It is not called any more, not even when it was found ready by then. */
  removeReader(fd: number | RawSocket): boolean
  /** As `addReader`, for when it can be written to: there is room, a connection was made, or it has failed. */
  addWriter<Args extends unknown[]>(
    fd: number | RawSocket,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void
  /** As `removeReader`. */
  removeWriter(fd: number | RawSocket): boolean
  /**
   * Receives what there is, up to `maxBytes` (1 to 2^31 - 1) and at most 1 MiB at once; an empty Buffer at the peer's end.
   *
   * This and the ones below make their system call at once and wait where it would. Several that wait for one direction of one
   * descriptor do so in the order of their calls, up to 1,024 of them. They take a RawSocket, or the number of a descriptor that
   * is non-blocking (ERR_SHARDLOOP_ARGUMENT else; `openSocket({ fd })` makes a RawSocket of one), which is slower, as it is
   * checked each time. They reject with the system's error in Node's shape, with ERR_SHARDLOOP_CLOSED when the RawSocket or
   * the loop is closed meanwhile, with ERR_SHARDLOOP_STATE when there is a reader (or writer) by `addReader`, with
   * ERR_SHARDLOOP_DETACHED when the memory that they were given was detached, and with the signal's reason.
   */
  sockRecv(sock: number | RawSocket, maxBytes: number, options?: SocketOperationOptions): Promise<Buffer>
  /** As `sockRecv`, into memory of at least a byte; how many bytes came, 0 at the peer's end. */
  sockRecvInto(sock: number | RawSocket, data: Uint8Array, options?: SocketOperationOptions): Promise<number>
  /** As `sockRecv`, with the sender's address: null on a stream over IP, '' of a Unix socket without a name. */
  sockRecvfrom(
    sock: number | RawSocket,
    maxBytes: number,
    options?: SocketOperationOptions,
  ): Promise<[Buffer, SocketAddress | null]>
  /** As `sockRecvInto`, with the sender's address. */
  sockRecvfromInto(
    sock: number | RawSocket,
    data: Uint8Array,
    options?: SocketOperationOptions,
  ): Promise<[number, SocketAddress | null]>
  /**
   * Sends all of it. The caller must not change it until the promise resolves: it is not copied, as in asyncio. After a
   * rejection nobody knows how much of it was sent.
   */
  sockSendall(sock: number | RawSocket, data: Uint8Array, options?: SocketOperationOptions): Promise<void>
  /** Sends one datagram to an address, not a name; how many bytes that were. */
  sockSendto(
    sock: number | RawSocket,
    data: Uint8Array,
    address: SocketTarget,
    options?: SocketOperationOptions,
  ): Promise<number>
  /**
   * Connects. Of a name the first address of the socket's family is taken (`createConnection` tries them all). A Unix
   * socket whose queue is full is tried until there is room. When it is called off the socket may still connect: close it.
   */
  sockConnect(
    sock: number | RawSocket,
    address: SocketTarget,
    options?: SocketOperationOptions,
  ): Promise<void>
  /** Accepts a connection: its RawSocket, and the peer's address. */
  sockAccept(sock: number | RawSocket, options?: SocketOperationOptions): Promise<[RawSocket, SocketAddress]>
  /**
   * Calls back for each such signal that the process gets; in a shard the supervisor hands it on. There is one handler for
   * each signal, as in asyncio: another takes its place. (`onSignal` is for several.) Signals that cannot be handled are
   * refused by name (ERR_SHARDLOOP_ARGUMENT), SIGCHLD among them; a worker thread of the program's own has none
   * (ERR_SHARDLOOP_STATE). What the callback throws or rejects with reaches the exception handler.
   */
  addSignalHandler<Args extends unknown[]>(
    signal: SignalName,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void
  /** Whether there was a handler. With the last listener for a signal its default action comes back. */
  removeSignalHandler(signal: SignalName): boolean
  /**
   * Who is told, in this thread, of what callbacks throw where no server has a handler of its own. null: the default one,
   * which logs. What the handler itself throws is logged.
   */
  setExceptionHandler(handler: ExceptionHandler | null): void
  /** The handler that was set, or null. */
  getExceptionHandler(): ExceptionHandler | null
  /** Tells the handler, with asyncio's keys: `message`, and what is concerned. */
  callExceptionHandler(context: Omit<ExceptionContext, 'error'>): void
  /** What the default handler does: logs an error. */
  defaultExceptionHandler(context: Omit<ExceptionContext, 'error'>): void
  /**
   * Switches this thread's debug mode, which is on from the start where the environment has SHARDLOOP_DEBUG=1. While it is on,
   * callbacks that take `slowCallbackDuration` or longer are logged (level `warn`) with their duration and with where they come
   * from; so are, when a loop is closed, what still waits and, as at the end of the thread, connections that were not closed,
   * with the stack of the call that made them. It costs time.
   */
  setDebug(enabled: boolean): void
  getDebug(): boolean
  /** Seconds from which on debug mode calls a callback slow, 0 or more. Default 0.1, as in asyncio. Of the whole thread. */
  slowCallbackDuration: number
  /**
   * Cancels all callbacks that wait, those of the round that runs included, aborts the servers that the loop made and the
   * connections and pipes that this thread made (ERR_SHARDLOOP_CLOSED), also those that it was about to make, kills its subprocesses
   * and its tasks in the executor, rejects calls of other threads' functions that wait (ERR_SHARDLOOP_CLOSED), takes back what
   * it exposed, watches no descriptor any more (operations that wait reject with ERR_SHARDLOOP_CLOSED), and removes its signal
   * handlers and the thread's exception handler.
   * Resolves when nothing native is left. A subprocess that has not ended 3 s after it was killed is logged, and left alone. Look-ups
   * that run end as they would have. Idempotent; `getLoop` gives another loop from now on.
   */
  close(): Promise<void>
  /** Whether `close` was called. */
  isClosed(): boolean
}
