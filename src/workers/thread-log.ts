import { inspect } from 'node:util'
import { isMainThread } from 'node:worker_threads'
import { LOG_WAIT_TOLD_MS } from '../limits.js'
import type { NativeLog, NativeLogRecord } from '../native/binding.js'
import { native } from '../native/index.js'
import { isThenable } from './callback-results.js'
import { shardIdentity } from './identity.js'
import {
  LOG_LEVEL_DEFAULT,
  type LogFields,
  type Logger,
  type LogLevel,
  parseLoggerArguments,
  type RecordLevel,
  rankOf,
} from './logger.js'
import { StderrLogger } from './stderr-logger.js'
import { threadSingleton } from './thread-singleton.js'

/** The public id of a connection, by its native handle; undefined when there is none of that handle (any more). */
export type ConnectionNames = (handle: number) => string | undefined

/**
 * The log of this thread: hands our records, and those that native code wrote on its account, to the logger that is set.
 * Nothing that a logger does disturbs who logs.
 */
export class ThreadLog {
  /** Whether native code may tell of connections one by one. */
  isVerbose = false
  readonly #shard: number | null = shardIdentity()?.shardId ?? null
  readonly #default = new StderrLogger(LOG_LEVEL_DEFAULT, { shard: this.#shard })
  readonly #native: NativeLog
  #logger: Logger = this.#default
  #level: LogLevel = LOG_LEVEL_DEFAULT
  #connectionNames: ConnectionNames = () => undefined
  #delivering = false
  /** It was told that this logger throws. */
  #failureTold = false

  constructor() {
    this.#native = new native.NativeLog(this.#shard, isMainThread, () => this.deliver())
    this.#native.setLevel(this.#level)
    // The loop runs no more, so nobody wakes us.
    process.on('exit', () => this.deliver())
  }

  get logger(): Logger {
    return this.#logger
  }

  /** @param logger null for the default one, undefined for the one that is set */
  set(logger: Logger | null | undefined, level: LogLevel): void {
    if (logger !== undefined) {
      this.#logger = logger ?? this.#default
      this.#failureTold = false
    }
    this.#level = level
    this.#default.level = level
    this.isVerbose = rankOf(level) <= rankOf('debug')
    this.#native.setLevel(level)
  }

  /** What native code names by a handle is named by this from now on. */
  nameConnections(names: ConnectionNames): void {
    this.deliver() // which are about those that were
    this.#connectionNames = names
  }

  /** Logs a record. */
  write(level: RecordLevel, message: string, fields: LogFields = {}): void {
    this.#hand(level, { shard: this.#shard, ...fields }, message)
  }

  /** Hands on what native code has written so far. */
  deliver(): void {
    if (this.#delivering) return // a logger that comes back to us
    this.#delivering = true
    try {
      const { records, dropped } = this.#native.take()
      for (const record of records) this.#deliverRecord(record)
      if (dropped > 0)
        this.write('warn', `${dropped} native log records were dropped, as too many came at once`, {
          dropped,
        })
    } finally {
      this.#delivering = false
    }
  }

  #deliverRecord(record: NativeLogRecord): void {
    const { level, message, keys, values, isOwn, waitedMs } = record
    const fields: Record<string, unknown> = { shard: record.shard ?? null }
    for (const [index, key] of keys.entries()) fields[key] = values[index]
    const { connection } = fields
    // The handle in another thread's last words may be one of ours too.
    if (typeof connection === 'number' && isOwn)
      fields['connection'] = this.#connectionNames(connection) ?? connection
    if (waitedMs >= LOG_WAIT_TOLD_MS) fields['waitedMs'] = Math.round(waitedMs)
    this.#hand(level, fields, message)
  }

  #hand(level: RecordLevel, fields: LogFields, message: string): void {
    if (rankOf(level) < rankOf(this.#level)) return
    const logger = this.#logger
    const failed = (error: unknown): void => this.#failed(error)
    try {
      if (logger.isLevelEnabled?.(level) === false) return
      const result: unknown = logger[level](fields, message)
      // An async method: what it rejects with must not end the thread.
      if (isThenable(result)) void result.then(undefined, failed)
    } catch (error) {
      failed(error)
    }
  }

  #failed(error: unknown): void {
    if (this.#failureTold) return
    this.#failureTold = true
    try {
      process.stderr.write(
        `shardloop: the logger threw, and its record is lost; this is told once: ${inspect(error)}\n`,
      )
    } catch {
      // Nobody is left to be told.
    }
  }
}

/** The log of the calling thread, opened at first use. */
export function threadLog(): ThreadLog {
  return threadSingleton('thread-log', () => new ThreadLog())
}

/**
 * Has the calling thread's log records go to `logger`: shardloop's own and those of its native code, from the level on that
 * `options` say. Other threads keep theirs: a program that runs in each shard calls it in each, or gives `createServer` the
 * option `logger`. What a logger throws is told once on standard error, and its record is lost.
 *
 * @param logger one of pino's, or anything with the same methods; null for the default, which writes lines to standard error
 * @param options `level`: default `'warn'`, whatever level the logger has itself
 * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for what is no logger, ERR_SHARDLOOP_OPTION
 */
export function setLogger(logger: Logger | null, options: { readonly level?: LogLevel } = {}): void {
  const level = parseLoggerArguments(logger, options)
  threadLog().set(logger, level)
}

/** The calling thread's logger: what was set, or the default one. */
export function getLogger(): Logger {
  return threadLog().logger
}

/** As {@link setLogger}, for options of `createServer`, of which neither need be given. */
export function adoptLogger(logger: Logger | undefined, level: LogLevel | null): void {
  if (logger !== undefined || level !== null) threadLog().set(logger, level ?? LOG_LEVEL_DEFAULT)
}
