import { ShardloopError } from '../errors.js'
import { createServer } from '../server/create-server.js'
import { wrong } from '../server/given-options.js'
import type { ServerOptions } from '../server/options.js'
import type { Server } from '../server/server.js'
import type { DatagramProtocol } from '../workers/datagram-protocol.js'
import { creationStack } from '../workers/debug-mode.js'
import type { ReadPipeTransport, WritePipeTransport } from '../workers/pipe-transport.js'
import type { Protocol, ProtocolFactory } from '../workers/protocol.js'
import { threadChildren } from '../workers/thread-children.js'
import { threadLoop } from '../workers/thread-loop.js'
import { UNIX_PATH_EXPECTED } from '../workers/unix-path.js'
import { type Connected, type Connects, connect } from './connect.js'
import {
  type AcceptedSocketOptions,
  type ConnectionOptions,
  checkFactory,
  parseConnectionOptions,
  parseSocketOptions,
  parseUnixConnectionOptions,
  type UnixConnectionOptions,
} from './connection-options.js'
import { type DatagramEndpoint, LoopEndpoints } from './datagram-endpoint.js'
import { type DatagramEndpointOptions, parseDatagramOptions } from './datagram-options.js'
import {
  type ConnectedPipe,
  checkPipe,
  connectPipe,
  type PipeOptions,
  type PipeSource,
  parsePipeOptions,
} from './pipes.js'
import { type ConnectedSubprocess, type SubprocessProtocol, startSubprocess } from './subprocess.js'
import type { SubprocessSettings } from './subprocess-options.js'

/** Options of a server in the calling thread. */
export type LoopServerOptions = Omit<ServerOptions, 'shards'>

/** What a loop serves and connects to. */
export class LoopNetwork {
  /** Those that are starting, too. */
  readonly #servers = new Set<Promise<Server>>()
  readonly #connects: Connects = new Set()
  readonly #endpoints = new LoopEndpoints()
  #closed = false

  async createServer(source: ProtocolFactory | URL, options: LoopServerOptions = {}): Promise<Server> {
    const { shards } = options as ServerOptions
    if (shards !== undefined && shards !== 0)
      throw wrong('shards', shards, "none: a loop's servers run in its thread; createServer uses shards")
    const starting = createServer(source, { ...options, shards: 0 })
    this.#servers.add(starting)
    const forget = (): void => void this.#servers.delete(starting)
    starting.then((server) => server.events.once('close', forget), forget)
    const server = await starting
    if (!this.#closed) return server
    await server.abort()
    throw new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the loop was closed before the server had started')
  }

  createUnixServer(source: ProtocolFactory | URL, options: LoopServerOptions): Promise<Server> {
    if (options?.path === undefined) return Promise.reject(wrong('path', undefined, UNIX_PATH_EXPECTED))
    return this.createServer(source, options)
  }

  /** Throws what is wrong with its arguments, as the two below do. */
  createConnection<Made extends Protocol>(
    factory: () => Made,
    options: ConnectionOptions,
  ): Promise<Connected<Made>> {
    checkFactory('createConnection', factory)
    const source = creationStack(this.createConnection)
    return connect(factory, parseConnectionOptions(options), source, this.#connects)
  }

  createUnixConnection<Made extends Protocol>(
    factory: () => Made,
    options: UnixConnectionOptions,
  ): Promise<Connected<Made>> {
    checkFactory('createUnixConnection', factory)
    const source = creationStack(this.createUnixConnection)
    return connect(factory, parseUnixConnectionOptions(options), source, this.#connects)
  }

  connectAcceptedSocket<Made extends Protocol>(
    factory: () => Made,
    options: AcceptedSocketOptions,
  ): Promise<Connected<Made>> {
    checkFactory('connectAcceptedSocket', factory)
    const source = creationStack(this.connectAcceptedSocket)
    return connect(factory, parseSocketOptions(options), source, this.#connects)
  }

  async createDatagramEndpoint<Made extends DatagramProtocol>(
    factory: () => Made,
    options: DatagramEndpointOptions,
  ): Promise<DatagramEndpoint<Made>> {
    checkFactory('createDatagramEndpoint', factory)
    return this.#endpoints.create(factory, parseDatagramOptions(options))
  }

  connectReadPipe<Made extends Protocol>(
    factory: () => Made,
    pipe: PipeSource,
    options: PipeOptions = {},
  ): Promise<ConnectedPipe<ReadPipeTransport, Made>> {
    checkFactory('connectReadPipe', factory)
    const [source, engine] = [
      checkPipe('connectReadPipe', pipe),
      parsePipeOptions('connectReadPipe', options),
    ]
    return connectPipe(factory, source, false, engine, creationStack(this.connectReadPipe), this.#connects)
  }

  connectWritePipe<Made extends Protocol>(
    factory: () => Made,
    pipe: PipeSource,
    options: PipeOptions = {},
  ): Promise<ConnectedPipe<WritePipeTransport, Made>> {
    checkFactory('connectWritePipe', factory)
    const [source, engine] = [
      checkPipe('connectWritePipe', pipe),
      parsePipeOptions('connectWritePipe', options),
    ]
    return connectPipe(factory, source, true, engine, creationStack(this.connectWritePipe), this.#connects)
  }

  /** @param method for messages */
  subprocess<Made extends SubprocessProtocol>(
    method: 'subprocessExec' | 'subprocessShell',
    factory: () => Made,
    settings: SubprocessSettings,
  ): Promise<ConnectedSubprocess<Made>> {
    checkFactory(method, factory)
    return startSubprocess(factory, settings, this.#connects)
  }

  /** Aborts all of it; resolves when nothing is left. */
  async close(): Promise<void> {
    this.#closed = true
    for (const connecting of [...this.#connects])
      connecting.callOff(
        new ShardloopError('ERR_SHARDLOOP_CLOSED', 'the loop was closed before it was connected'),
      )
    // Before anything is waited for: what is connected then is another loop's.
    const endpointsGone = this.#endpoints.close()
    const childrenGone = threadChildren().close()
    const clientsGone = threadLoop().abortClients()
    await Promise.all([...this.#servers].map((starting) => starting.then(abort, () => {})))
    await endpointsGone
    await childrenGone
    await clientsGone
    await threadLoop().closeUnused()
  }
}

function abort(server: Server): Promise<void> {
  return server.abort()
}
