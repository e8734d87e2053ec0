import type { FileHandle } from 'node:fs/promises'
import { ShardloopError } from '../errors.js'
import {
  type CallOptions,
  type CallTarget,
  type ExposedFunction,
  NO_OPTIONS as NO_CALL_OPTIONS,
  threadCalls,
} from '../messages/calls.js'
import { type BroadcastOptions, broadcast, subscribe, unsubscribe } from '../messages/topics.js'
import type { Server } from '../server/server.js'
import { type StartTlsOptions, startTls } from '../tls/start-tls.js'
import { monotonicTime } from '../workers/clock.js'
import type { ExceptionContext, ExceptionHandler } from '../workers/connection-server.js'
import type { DatagramProtocol } from '../workers/datagram-protocol.js'
import { debugMode } from '../workers/debug-mode.js'
import { callExceptionHandler, exceptionHandler, setExceptionHandler } from '../workers/exception-handler.js'
import { printException } from '../workers/exception-report.js'
import type { Handle, TimerHandle } from '../workers/handles.js'
import { invalid } from '../workers/invalid.js'
import type { ReadPipeTransport, WritePipeTransport } from '../workers/pipe-transport.js'
import type {
  IpSocketAddress,
  Protocol,
  ProtocolFactory,
  SocketAddress,
  Transport,
  WriteData,
} from '../workers/protocol.js'
import { Scheduler } from '../workers/scheduler.js'
import { type SendFileOptions, sendFile } from '../workers/send-file.js'
import { SignalHandlers, type SignalName } from '../workers/signal-handlers.js'
import { TcpTransport } from '../workers/transport.js'
import type { Connected } from './connect.js'
import type { AcceptedSocketOptions, ConnectionOptions, UnixConnectionOptions } from './connection-options.js'
import type { DatagramEndpoint } from './datagram-endpoint.js'
import type { DatagramEndpointOptions } from './datagram-options.js'
import { Descriptors } from './descriptors.js'
import type { Loop } from './loop.js'
import { LoopNetwork, type LoopServerOptions } from './loop-network.js'
import { checkedContext, reportCallback, warnOfPending } from './loop-reports.js'
import {
  type AddressLookupOptions,
  lookupAddresses,
  lookupName,
  type NameInfo,
  type NameLookupOptions,
} from './name-lookup.js'
import type { ConnectedPipe, PipeOptions, PipeSource } from './pipes.js'
import type { RawSocket, SocketTarget } from './raw-socket.js'
import { type ExecutorTaskOptions, LoopTasks } from './run-in-executor.js'
import { NO_OPTIONS, type SocketOperationOptions, SocketOperations } from './socket-operations.js'
import type { ConnectedSubprocess, SubprocessProtocol } from './subprocess.js'
import { parseExec, parseShell, type SubprocessOptions } from './subprocess-options.js'

/** See {@link Loop}. */
export class EventLoop implements Loop {
  /** A function of its own, so that structured clone refuses it: it belongs to its thread. */
  protected readonly isOfOneThread = (): true => true
  readonly #scheduler: Scheduler = new Scheduler(reportCallback)
  readonly #network = new LoopNetwork()
  readonly #tasks = new LoopTasks()
  readonly #signals = new SignalHandlers()
  readonly #descriptors = new Descriptors(this.#scheduler)
  readonly #sockets = new SocketOperations(this.#descriptors)
  readonly #whenClosing: () => void
  #closed: Promise<void> | null = null

  /** @param whenClosing called when it closes */
  constructor(whenClosing: () => void) {
    this.#whenClosing = whenClosing
  }

  time(): number {
    this.#open('time')
    return monotonicTime()
  }

  timeMs(): number {
    this.#open('timeMs')
    return monotonicTime() * 1000
  }

  callSoon<Args extends unknown[]>(callback: (...args: Args) => unknown, ...args: Args): Handle {
    if (this.#closed !== null) throw closedError('callSoon')
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    return this.#scheduler.callSoon(callback, args.length === 0 ? undefined : args)
  }

  callLater<Args extends unknown[]>(
    delaySeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle {
    if (this.#closed !== null) throw closedError('callLater')
    if (!isFiniteNumber(delaySeconds)) throw invalid('delaySeconds', delaySeconds, SECONDS_EXPECTED)
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    return this.#scheduler.callLater(delaySeconds, callback, args.length === 0 ? undefined : args)
  }

  callAt<Args extends unknown[]>(
    whenSeconds: number,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): TimerHandle {
    if (this.#closed !== null) throw closedError('callAt')
    if (!isFiniteNumber(whenSeconds)) throw invalid('whenSeconds', whenSeconds, SECONDS_EXPECTED)
    if (typeof callback !== 'function') throw invalid('callback', callback, 'a function')
    return this.#scheduler.callAt(whenSeconds, callback, args.length === 0 ? undefined : args)
  }

  expose(name: string, callback: ExposedFunction): void {
    this.#open('expose')
    threadCalls().expose(name, callback)
  }

  unexpose(name: string): boolean {
    this.#open('unexpose')
    return threadCalls().unexpose(name)
  }

  callSoonThreadsafe(target: CallTarget | 'all', name: string, payload?: unknown): void {
    if (this.#closed !== null) throw closedError('callSoonThreadsafe')
    threadCalls().send(target, name, payload)
  }

  async call(
    target: CallTarget,
    name: string,
    payload?: unknown,
    options: CallOptions = NO_CALL_OPTIONS,
  ): Promise<unknown> {
    this.#open('call')
    return threadCalls().call(target, name, payload, options)
  }

  subscribe(transport: Transport, topic: string): void {
    this.#open('subscribe')
    subscribe(transport, topic)
  }

  unsubscribe(transport: Transport, topic: string): boolean {
    this.#open('unsubscribe')
    return unsubscribe(transport, topic)
  }

  broadcast(topic: string, data: WriteData, options?: BroadcastOptions): void {
    this.#open('broadcast')
    broadcast(topic, data, options)
  }

  async getaddrinfo(
    host: string | null,
    port: number,
    options: AddressLookupOptions = {},
  ): Promise<IpSocketAddress[]> {
    this.#open('getaddrinfo')
    return await lookupAddresses(host, port, options)
  }

  async getnameinfo(
    socketAddress: Pick<IpSocketAddress, 'address' | 'port'>,
    options: NameLookupOptions = {},
  ): Promise<NameInfo> {
    this.#open('getnameinfo')
    return await lookupName(socketAddress, options)
  }

  async createServer(source: ProtocolFactory | URL, options: LoopServerOptions = {}): Promise<Server> {
    return this.#open('createServer').#network.createServer(source, options)
  }

  async createUnixServer(source: ProtocolFactory | URL, options: LoopServerOptions): Promise<Server> {
    return this.#open('createUnixServer').#network.createUnixServer(source, options)
  }

  /** Not an async function: the promise of its own that each of those makes costs a client as much as a system call. */
  createConnection<Made extends Protocol>(
    factory: () => Made,
    options: ConnectionOptions,
  ): Promise<Connected<Made>> {
    try {
      return this.#open('createConnection').#network.createConnection(factory, options)
    } catch (error) {
      return Promise.reject(error)
    }
  }

  async createUnixConnection<Made extends Protocol>(
    factory: () => Made,
    options: UnixConnectionOptions,
  ): Promise<Connected<Made>> {
    return this.#open('createUnixConnection').#network.createUnixConnection(factory, options)
  }

  async connectAcceptedSocket<Made extends Protocol>(
    factory: () => Made,
    options: AcceptedSocketOptions,
  ): Promise<Connected<Made>> {
    return this.#open('connectAcceptedSocket').#network.connectAcceptedSocket(factory, options)
  }

  async createDatagramEndpoint<Made extends DatagramProtocol>(
    factory: () => Made,
    options: DatagramEndpointOptions,
  ): Promise<DatagramEndpoint<Made>> {
    return this.#open('createDatagramEndpoint').#network.createDatagramEndpoint(factory, options)
  }

  async connectReadPipe<Made extends Protocol>(
    factory: () => Made,
    pipe: PipeSource,
    options?: PipeOptions,
  ): Promise<ConnectedPipe<ReadPipeTransport, Made>> {
    return this.#open('connectReadPipe').#network.connectReadPipe(factory, pipe, options)
  }

  async connectWritePipe<Made extends Protocol>(
    factory: () => Made,
    pipe: PipeSource,
    options?: PipeOptions,
  ): Promise<ConnectedPipe<WritePipeTransport, Made>> {
    return this.#open('connectWritePipe').#network.connectWritePipe(factory, pipe, options)
  }

  async subprocessExec<Made extends SubprocessProtocol>(
    factory: () => Made,
    command: readonly [program: string, ...args: string[]],
    options: SubprocessOptions = {},
  ): Promise<ConnectedSubprocess<Made>> {
    const network = this.#open('subprocessExec').#network
    return network.subprocess('subprocessExec', factory, parseExec(command, options))
  }

  async subprocessShell<Made extends SubprocessProtocol>(
    factory: () => Made,
    command: string,
    options: SubprocessOptions = {},
  ): Promise<ConnectedSubprocess<Made>> {
    const network = this.#open('subprocessShell').#network
    return network.subprocess('subprocessShell', factory, parseShell(command, options))
  }

  async startTls(transport: Transport, protocol: Protocol, options: StartTlsOptions): Promise<Transport> {
    this.#open('startTls')
    if (!(transport instanceof TcpTransport))
      throw invalid('transport', transport, 'the transport of a stream connection')
    if (typeof protocol !== 'object' || protocol === null) throw invalid('protocol', protocol, 'an object')
    await startTls(transport, options, { protocol })
    return transport
  }

  async sendFile(
    transport: Transport,
    file: FileHandle | number,
    offset?: number,
    count?: number | null,
    options?: SendFileOptions,
  ): Promise<number> {
    this.#open('sendFile')
    return sendFile(transport, file, offset, count, options)
  }

  /** Not an async function: a task that is cancelled and that nobody waits for must not end the process. */
  runInExecutor<Result = unknown>(
    task: URL | string,
    args: readonly unknown[] = [],
    options: ExecutorTaskOptions = {},
  ): Promise<Result> {
    try {
      return this.#open('runInExecutor').#tasks.run(task, args, options) as Promise<Result>
    } catch (error) {
      return Promise.reject(error)
    }
  }

  addReader<Args extends unknown[]>(
    fd: number | RawSocket,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void {
    this.#open('addReader').#descriptors.add('reader', fd, callback, args)
  }

  removeReader(fd: number | RawSocket): boolean {
    return this.#open('removeReader').#descriptors.remove('reader', fd)
  }

  addWriter<Args extends unknown[]>(
    fd: number | RawSocket,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void {
    this.#open('addWriter').#descriptors.add('writer', fd, callback, args)
  }

  removeWriter(fd: number | RawSocket): boolean {
    return this.#open('removeWriter').#descriptors.remove('writer', fd)
  }

  async sockRecv(
    sock: number | RawSocket,
    maxBytes: number,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<Buffer> {
    return this.#open('sockRecv').#sockets.receive(sock, maxBytes, options)
  }

  async sockRecvInto(
    sock: number | RawSocket,
    data: Uint8Array,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<number> {
    return this.#open('sockRecvInto').#sockets.receiveInto(sock, data, options)
  }

  async sockRecvfrom(
    sock: number | RawSocket,
    maxBytes: number,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<[Buffer, SocketAddress | null]> {
    return this.#open('sockRecvfrom').#sockets.receiveFrom(sock, maxBytes, options)
  }

  async sockRecvfromInto(
    sock: number | RawSocket,
    data: Uint8Array,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<[number, SocketAddress | null]> {
    return this.#open('sockRecvfromInto').#sockets.receiveFromInto(sock, data, options)
  }

  async sockSendall(
    sock: number | RawSocket,
    data: Uint8Array,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<void> {
    return this.#open('sockSendall').#sockets.sendAll(sock, data, options)
  }

  async sockSendto(
    sock: number | RawSocket,
    data: Uint8Array,
    address: SocketTarget,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<number> {
    return this.#open('sockSendto').#sockets.sendTo(sock, data, address, options)
  }

  async sockConnect(
    sock: number | RawSocket,
    address: SocketTarget,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<void> {
    return this.#open('sockConnect').#sockets.connect(sock, address, options)
  }

  async sockAccept(
    sock: number | RawSocket,
    options: SocketOperationOptions = NO_OPTIONS,
  ): Promise<[RawSocket, SocketAddress]> {
    return this.#open('sockAccept').#sockets.accept(sock, options)
  }

  addSignalHandler<Args extends unknown[]>(
    signal: SignalName,
    callback: (...args: Args) => unknown,
    ...args: Args
  ): void {
    this.#open('addSignalHandler')
    this.#signals.add(signal, callback, args)
  }

  removeSignalHandler(signal: SignalName): boolean {
    this.#open('removeSignalHandler')
    return this.#signals.remove(signal)
  }

  setExceptionHandler(handler: ExceptionHandler | null): void {
    this.#open('setExceptionHandler')
    if (handler !== null && typeof handler !== 'function')
      throw invalid('handler', handler, 'a function, or null for the default')
    setExceptionHandler(handler)
  }

  getExceptionHandler(): ExceptionHandler | null {
    return exceptionHandler()
  }

  callExceptionHandler(context: Omit<ExceptionContext, 'error'>): void {
    callExceptionHandler(checkedContext(context))
  }

  defaultExceptionHandler(context: Omit<ExceptionContext, 'error'>): void {
    printException(checkedContext(context))
  }

  setDebug(enabled: boolean): void {
    this.#open('setDebug')
    if (typeof enabled !== 'boolean') throw invalid('enabled', enabled, 'true or false')
    debugMode().enabled = enabled
  }

  getDebug(): boolean {
    return debugMode().enabled
  }

  get slowCallbackDuration(): number {
    return debugMode().slowCallbackDuration
  }

  set slowCallbackDuration(seconds: number) {
    if (!(isFiniteNumber(seconds) && seconds >= 0))
      throw invalid('slowCallbackDuration', seconds, 'seconds, 0 or more')
    debugMode().slowCallbackDuration = seconds
  }

  close(): Promise<void> {
    if (this.#closed === null) {
      if (debugMode().enabled) warnOfPending(this.#scheduler.pending())
      this.#signals.clear()
      setExceptionHandler(null)
      this.#closed = Promise.all([
        this.#scheduler.close(),
        this.#network.close(),
        this.#tasks.close(),
        this.#descriptors.close(
          new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the loop was closed while the operation waited'),
        ),
        threadCalls().close(),
      ]).then(() => {})
      this.#whenClosing()
    }
    return this.#closed
  }

  isClosed(): boolean {
    return this.#closed !== null
  }

  /** The loop, unless it is closed. */
  #open(method: keyof Loop & string): this {
    if (this.#closed !== null) throw closedError(method)
    return this
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

const SECONDS_EXPECTED = 'seconds, as a finite number'

function isFiniteNumber(value: unknown): boolean {
  return typeof value === 'number' && Number.isFinite(value)
}

function closedError(method: keyof Loop & string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_STATE',
    `${method} was called on a loop that is closed: getLoop() gives another`,
  )
}
