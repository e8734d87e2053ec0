import { isIPv4 } from 'node:net'
import { ShardloopError } from '../errors.js'
import {
  BACKLOG_DEFAULT,
  BACKLOG_MAX,
  DRAIN_TIMEOUT_DEFAULT_MS,
  MAX_RESTARTS_MAX,
  STALL_AFTER_DEFAULT_MS,
  STALL_AFTER_MIN_MS,
  START_TIMEOUT_DEFAULT_MS,
  TIME_MAX_MS,
  WRITE_BOUND_MAX_BYTES,
  WRITE_HIGH_DEFAULT_BYTES,
  WRITE_MAX_DEFAULT_BYTES,
} from '../limits.js'
import {
  parseTlsServerOptions,
  type TlsServerOptions,
  type TlsServerSettings,
} from '../tls/server-options.js'
import type { EngineName } from '../workers/engine.js'
import type { Logger, LogLevel } from '../workers/logger.js'
import type { ProtocolFactory } from '../workers/protocol.js'
import type { ExceptionContext } from '../workers/shard-loop.js'
import { type ExecutorOptions, type ExecutorSettings, parseExecutor } from './executor-options.js'
import { GivenOptions, show, wrong } from './given-options.js'
import type { ShardResourceLimits } from './worker-shard.js'

/**
 * Options of `createServer`. All are optional; they are checked once, before anything starts, and a wrong type, an
 * unknown key or a contradiction throws ERR_SHARDLOOP_OPTION. In a shard only `name`, `startTimeoutMs` and functions
 * count: everything else is the supervisor's.
 */
export interface ServerOptions {
  /**
   * Where to listen: an address, a name (looked up, first address), or several of them. Default as in node:net: `'::'`
   * for IPv6 and IPv4, or `'0.0.0.0'` on a system without IPv6. At most 64.
   */
  readonly host?: string | readonly string[]
  /** 0 to 65535. Default 0: the system chooses one port, the same for every host and shard. */
  readonly port?: number
  /**
   * A Unix socket to listen on, in place of `host` and `port`: a path, which is removed when the server has stopped
   * listening, or on Linux an abstract name behind a zero character. A file that a process left behind when it died is
   * replaced; one that somebody listens on is EADDRINUSE. All shards share its listener.
   */
  readonly path?: string
  /** Permissions of that file, 0 to 0o777, as for chmod(2): who may write to it may connect. Default: what the umask leaves. */
  readonly socketMode?: number
  /** Connections that may wait to be accepted, per listener; at least 1. Default 4096; the kernel caps it by its somaxconn. */
  readonly backlog?: number
  /** Whether an IPv6 listener refuses IPv4. Default false. */
  readonly ipv6Only?: boolean
  /**
   * Worker threads, 0 to 256. `'auto'` (default): the CPUs that the process may use, no more than its cgroup's quota pays
   * for, at least 1. 0: the server runs in this very thread. All servers of a process share the same shards; a later
   * one that leaves this out takes those that run.
   */
  readonly shards?: 'auto' | number
  /**
   * What does the I/O. `'auto'` (default): what the servers run on whose shards (with `shards: 0`, whose thread) this one
   * shares, else mio. While some of them run, another engine is refused.
   */
  readonly engine?: 'auto' | EngineName
  /**
   * `'reuseport'`: one listener per shard, balanced by the kernel (Linux; default there). `'shared'`: one listener for all
   * shards (default elsewhere).
   */
  readonly balance?: 'reuseport' | 'shared'
  /**
   * What this server is called, 1 to 128 characters; unique among the servers that run. Matches this call to the
   * same call in the shards, instead of its place among the calls. Default: a name made of that place.
   */
  readonly name?: string
  /** TCP_NODELAY on every connection. Default true. */
  readonly noDelay?: boolean
  /**
   * Whether a shard may sleep for some 70 µs between two small batches when many peers keep it busy, as network adapters moderate
   * their interrupts: requests take less of the processor, and where no queue is an answer comes that much later. Default
   * true; false for the shortest latency. A shard rests only where all its servers of connections allow it; only on mio, and on Linux.
   */
  readonly moderation?: boolean
  /** Milliseconds until every shard must listen, at least 1. Default 10,000; past it createServer rejects with ERR_SHARDLOOP_START. A shard's replacement has as long, and counts as dead past it. */
  readonly startTimeoutMs?: number
  /**
   * How many deaths of a shard within `restartWindowMs` are answered by a replacement, 0 to 10,000. Default 10. The first
   * is replaced at once, the next after 50 to 100 ms, then after twice as long each time, 10 seconds at most. A shard
   * that dies once more has failed for good, and the others serve on. 0: none is ever replaced. As for `shards`, a later
   * server that leaves this out takes what runs, and one that wants another number is refused; so for the next two.
   * These three mean nothing with `shards: 0`.
   */
  readonly maxRestarts?: number
  /** Milliseconds, at least 1. Default 60,000. */
  readonly restartWindowMs?: number
  /**
   * Bounds of each shard's JavaScript memory: MiB above 0, no more than 1,048,576. Default: Node's own. Memory of buffers is
   * not bounded by it, and some ways to run out of heap end the whole process, as Node cannot end the thread in time.
   */
  readonly resourceLimits?: ShardResourceLimits
  /**
   * The executor, which runs the tasks of `runInExecutor`: threads beside those of the shards, which the supervisor owns and
   * all threads share. Its own options have their defaults in {@link ExecutorOptions}.
   */
  readonly executor?: ExecutorOptions
  /**
   * Milliseconds for which a shard may be stuck (running without a look at its poll) until `'stalled'` is emitted, at
   * least 50. Default 1,000; 0: never. Whatever this is, connections that come to a shard which is stuck for more than
   * 10 ms are served by others.
   */
  readonly stallAfterMs?: number
  /**
   * Milliseconds after which a shard that stays stuck is terminated and replaced, at least 50: its connections are lost.
   * Default 0: never. All servers of a process share their shards: the shortest time that is given counts.
   */
  readonly killAfterMs?: number
  /** Milliseconds that open connections have to finish what is in flight when the server drains or closes. Default 10,000; past it they are aborted. */
  readonly drainTimeoutMs?: number
  /**
   * Whether SIGINT and SIGTERM drain this server (a second one ends the process), SIGHUP and SIGUSR2 are its events, and
   * shards get the signals that they listen to by `onSignal`. Default true; main thread only. Where all servers say
   * false, nothing is caught.
   */
  readonly signals?: boolean
  /**
   * Closes the server when it is aborted, as `close()` would; aborted before it listens, createServer rejects with its
   * reason. In shards it means nothing, as the main thread's counts.
   */
  readonly signal?: AbortSignal
  /** Bytes waiting for one peer above which `pauseWriting` is called, at least 1. Default 64 KiB. */
  readonly writeHighBytes?: number
  /** Bytes waiting for one peer at or below which `resumeWriting` is called. Default a quarter of `writeHighBytes`. */
  readonly writeLowBytes?: number
  /** Bytes waiting for one peer above which its connection is aborted. Default 64 MiB; no less than `writeHighBytes`. */
  readonly writeMaxBytes?: number
  /** Milliseconds without a byte either way after which a connection has timed out. Default 0: never. */
  readonly idleTimeoutMs?: number
  /**
   * TLS: certificate, key and what else {@link TlsServerOptions} has. Connections are accepted as ever and begin (`connectionMade`) when
   * their handshake is done. Default: none.
   */
  readonly tls?: TlsServerOptions
  /**
   * Where log records go, as `setLogger(logger, { level: logLevel })` on the main thread and in each shard, where it is taken
   * from the shard's own call. With a factory named by URL that module exports it instead, for the shards. It stays when the
   * server has closed. Default: what is set in the thread; at first lines on standard error.
   */
  readonly logger?: Logger
  /**
   * How grave a log record is at least: `'trace'`, `'debug'`, `'info'`, `'warn'`, `'error'`, `'fatal'` or `'silent'`, on the
   * main thread and in the shards. Default `'warn'` for a `logger` that is given; without one what is set in the thread.
   */
  readonly logLevel?: LogLevel
  /**
   * Receives what a protocol's callback threw; runs in the shard, and is taken from the shard's own call. With a factory
   * named by URL that module exports it instead. Default: writes to the log.
   */
  readonly exceptionHandler?: (context: ExceptionContext) => void
}

/** Checked and completed options. */
export interface ServerSettings {
  /** null: node:net's default. */
  readonly hosts: readonly string[] | null
  readonly port: number
  /** A Unix socket, in place of hosts and port. */
  readonly path: string | null
  readonly socketMode: number | null
  readonly backlog: number
  readonly ipv6Only: boolean
  /** null: not given; those that run, else 'auto'. 0: this thread. */
  readonly shards: number | null
  /** null: not given; those that run, else the default. So the next two. */
  readonly maxRestarts: number | null
  readonly stallAfterMs: number
  readonly killAfterMs: number
  readonly restartWindowMs: number | null
  readonly resourceLimits: ShardResourceLimits | null
  /** null: not given; what runs, else the defaults. */
  readonly executor: ExecutorSettings | null
  /** null: 'auto'; what runs, else the automatic one. */
  readonly engine: EngineName | null
  readonly balance: 'reuseport' | 'shared'
  readonly name: string | undefined
  readonly noDelay: boolean
  readonly moderation: boolean
  readonly startTimeoutMs: number
  readonly drainTimeoutMs: number
  readonly signals: boolean
  readonly writeHighBytes: number
  readonly writeLowBytes: number
  readonly writeMaxBytes: number
  readonly idleTimeoutMs: number
  /** null: none. */
  readonly tls: TlsServerSettings | null
  readonly logger: Logger | undefined
  /** null: not given. */
  readonly logLevel: LogLevel | null
  readonly exceptionHandler: ((context: ExceptionContext) => void) | undefined
  readonly signal: AbortSignal | undefined
  /** Of a datagram server. */
  readonly datagrams?: DatagramServing
}

/** How a datagram server's sockets are opened. */
export interface DatagramServing {
  readonly broadcast: boolean
  /** null: the system's default. */
  readonly receiveBufferBytes: number | null
  readonly sendBufferBytes: number | null
  readonly offload: boolean
}

/**
 * Checks the arguments of `createServer`.
 * @param kernelBalances whether SO_REUSEPORT spreads connections on this system
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for the source, ERR_SHARDLOOP_OPTION for the options
 */
export function parseOptions(
  source: ProtocolFactory | URL,
  options: unknown,
  kernelBalances: boolean,
): ServerSettings {
  return readOptions(source, takeOptions('createServer', source, options), kernelBalances)
}

/**
 * Options of any kind of server, to be read by name.
 * @param method for messages
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for the source, ERR_SHARDLOOP_OPTION when the options are no object
 */
export function takeOptions(method: string, source: unknown, options: unknown): GivenOptions {
  checkSource(source, method)
  if (typeof options === 'object' && options !== null && !Array.isArray(options))
    return new GivenOptions(options as Record<string, unknown>)
  throw new ShardloopError('ERR_SHARDLOOP_OPTION', `options: expected an object, given ${show(options)}`)
}

/**
 * Reads what is in common, behind what is of one kind of server alone; what nobody has asked for by then is unknown.
 * @param refused those of `createServer` that this kind has not: a message does not name them as known
 * @throws ShardloopError ERR_SHARDLOOP_OPTION
 */
export function readOptions(
  source: ProtocolFactory | URL,
  given: GivenOptions,
  kernelBalances: boolean,
  refused: readonly string[] = [],
): ServerSettings {
  const writeHighBytes = given.integer('writeHighBytes', 1, WRITE_BOUND_MAX_BYTES, WRITE_HIGH_DEFAULT_BYTES)
  const path = given.path()
  const reusePort = kernelBalances && path === null
  const settings: ServerSettings = {
    path,
    socketMode: given.integer('socketMode', 0, 0o777, null),
    hosts: given.hosts(),
    port: given.integer('port', 0, 65535, 0),
    backlog: given.integer('backlog', 1, BACKLOG_MAX, BACKLOG_DEFAULT),
    ipv6Only: given.boolean('ipv6Only', false),
    shards: given.shards(),
    stallAfterMs: given.milliseconds('stallAfterMs', STALL_AFTER_MIN_MS, STALL_AFTER_DEFAULT_MS),
    killAfterMs: given.milliseconds('killAfterMs', STALL_AFTER_MIN_MS, 0),
    maxRestarts: given.integer('maxRestarts', 0, MAX_RESTARTS_MAX, null),
    restartWindowMs: given.integer('restartWindowMs', 1, TIME_MAX_MS, null),
    resourceLimits: given.resourceLimits(),
    executor: given.parsed('executor', parseExecutor),
    engine: given.engine(),
    balance: given.oneOf('balance', ['reuseport', 'shared'], reusePort ? 'reuseport' : 'shared'),
    name: given.name(),
    noDelay: given.boolean('noDelay', true),
    moderation: given.boolean('moderation', true),
    startTimeoutMs: given.integer('startTimeoutMs', 1, TIME_MAX_MS, START_TIMEOUT_DEFAULT_MS),
    drainTimeoutMs: given.integer('drainTimeoutMs', 0, TIME_MAX_MS, DRAIN_TIMEOUT_DEFAULT_MS),
    signals: given.boolean('signals', true),
    writeHighBytes,
    writeLowBytes: given.integer('writeLowBytes', 0, WRITE_BOUND_MAX_BYTES, Math.floor(writeHighBytes / 4)),
    writeMaxBytes: given.integer(
      'writeMaxBytes',
      1,
      WRITE_BOUND_MAX_BYTES,
      Math.max(WRITE_MAX_DEFAULT_BYTES, writeHighBytes),
    ),
    idleTimeoutMs: given.integer('idleTimeoutMs', 0, TIME_MAX_MS, 0),
    tls: given.parsed('tls', (tls) => (tls === undefined ? null : parseTlsServerOptions(tls, 'tls.'))),
    logger: given.logger(),
    logLevel: given.logLevel(),
    signal: given.signal(),
    exceptionHandler: given.callable('exceptionHandler'),
  }
  given.refuseUnknown(refused)
  if (path === null) given.refuse(['socketMode'], "nothing without 'path': it is for a Unix socket's file")
  else
    given.refuse(
      ['host', 'port', 'ipv6Only', 'noDelay'],
      `nothing beside path (${show(path)}): it is for TCP`,
    )
  refuseContradictions(settings, source, kernelBalances)
  return Object.freeze(settings)
}

/**
 * Checks what `drain` was given.
 * @returns milliseconds, or null when none were given
 */
export function parseDeadline(options: unknown): number | null {
  if (options === undefined) return null
  if (typeof options !== 'object' || options === null)
    throw wrong('drain', options, 'an object: { deadlineMs }')
  const given = new GivenOptions(options as Record<string, unknown>)
  const deadlineMs = given.integer('deadlineMs', 0, TIME_MAX_MS, -1)
  given.refuseUnknown()
  return deadlineMs === -1 ? null : deadlineMs
}

function checkSource(source: unknown, method: string): void {
  if (typeof source === 'function') return
  const expected = 'a function that makes protocols, or the URL of a module whose default export is one'
  if (!(source instanceof URL)) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_ARGUMENT',
      `${method}: expected ${expected}, given ${show(source)}`,
    )
  }
  if (source.protocol !== 'file:' && source.protocol !== 'data:') {
    throw new ShardloopError(
      'ERR_SHARDLOOP_ARGUMENT',
      `${method}: expected a file: or data: URL, given ${show(source.href)}`,
    )
  }
}

function refuseContradictions(
  settings: ServerSettings,
  source: ProtocolFactory | URL,
  kernelBalances: boolean,
): void {
  const { hosts, ipv6Only, balance, writeHighBytes, writeLowBytes, writeMaxBytes } = settings
  if (writeLowBytes > writeHighBytes) {
    throw wrong('writeLowBytes', writeLowBytes, `no more than writeHighBytes (${writeHighBytes})`)
  }
  if (writeMaxBytes < writeHighBytes) {
    throw wrong('writeMaxBytes', writeMaxBytes, `no less than writeHighBytes (${writeHighBytes})`)
  }
  if (ipv6Only && hosts?.every((host) => isIPv4(host))) {
    throw wrong('ipv6Only', ipv6Only, `false, as host has IPv4 addresses only (${hosts.join(', ')})`)
  }
  if (balance === 'reuseport' && settings.path !== null) {
    throw wrong('balance', balance, "'shared', as the kernel does not balance listeners on one Unix socket")
  }
  if (balance === 'reuseport' && !kernelBalances) {
    throw wrong(
      'balance',
      balance,
      `'shared', as the kernel of ${process.platform} does not balance SO_REUSEPORT listeners`,
    )
  }
  for (const name of ['exceptionHandler', 'logger'] as const) {
    if (settings[name] === undefined || !(source instanceof URL)) continue
    throw wrong(
      name,
      settings[name],
      `nothing here, as a function cannot be sent to a shard: export it by that name from ${source.href}`,
    )
  }
}
