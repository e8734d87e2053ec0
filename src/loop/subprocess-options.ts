import { fileURLToPath } from 'node:url'
import { ShardloopError } from '../errors.js'
import { GivenOptions, show, wrong } from '../server/given-options.js'
import type { EngineName } from '../workers/engine.js'
import { type CommonConnectionOptions, takeOptions } from './connection-options.js'

/**
 * Where a stream of a child process goes to, or comes from. `'pipe'`: the protocol, by a pipe; `'ignore'`: /dev/null;
 * `'inherit'`: that of this process; a descriptor: that one, which stays the caller's.
 */
export type SubprocessStream = 'pipe' | 'ignore' | 'inherit' | number

/** Options of `subprocessExec` and `subprocessShell`. */
export interface SubprocessOptions extends Pick<CommonConnectionOptions, 'engine'> {
  /** Default `'pipe'`, as of the two below. */
  readonly stdin?: SubprocessStream
  readonly stdout?: SubprocessStream
  /** `'stdout'`: to where stdout goes. */
  readonly stderr?: SubprocessStream | 'stdout'
  /** The working directory, a path or a file: URL. Default: that of this process. */
  readonly cwd?: string | URL
  /** The environment. Default: that of this process. */
  readonly env?: Readonly<Record<string, string | undefined>>
  /** Whether it leads a session and a process group of its own (setsid(2)). It ends with its thread all the same. Default false. */
  readonly detached?: boolean
  /** The user that it runs as (setuid(2)). Default: that of this process. */
  readonly uid?: number
  /** The group that it runs as (setgid(2)). */
  readonly gid?: number
  /**
   * Before it runs, calls it off: the promise rejects with the signal's reason. Later it closes the transport, which kills the
   * process, and `connectionLost` gets the reason.
   */
  readonly signal?: AbortSignal
}

/** What to run and how, as it was checked. */
export interface SubprocessSettings {
  readonly program: string
  readonly args: readonly string[]
  readonly stdio: readonly [SubprocessStream, SubprocessStream, SubprocessStream | 'stdout']
  readonly engine: EngineName | null
  readonly signal: AbortSignal | undefined
  /** As node:child_process takes them. */
  readonly spawn: {
    readonly cwd?: string
    readonly env?: Record<string, string | undefined>
    readonly detached: boolean
    readonly uid?: number
    readonly gid?: number
  }
}

/** Largest user or group number. */
const ID_MAX = 0xffff_fffe
const STREAM_EXPECTED = "'pipe', 'ignore', 'inherit' or a descriptor's number"
const COMMAND_EXPECTED = 'an array of a program and its arguments, all strings without a zero character'

/** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT or ERR_SHARDLOOP_OPTION */
export function parseExec(command: unknown, options: unknown): SubprocessSettings {
  if (!Array.isArray(command) || command.length === 0 || !command.every(isText) || command[0] === '')
    throw refused('subprocessExec', COMMAND_EXPECTED, command)
  const [program, ...args] = command as [string, ...string[]]
  return parse('subprocessExec', program, args, options)
}

/** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT or ERR_SHARDLOOP_OPTION */
export function parseShell(command: unknown, options: unknown): SubprocessSettings {
  if (!isText(command) || command === '')
    throw refused('subprocessShell', 'a command: a string without a zero character', command)
  return parse('subprocessShell', '/bin/sh', ['-c', command], options)
}

function parse(
  method: string,
  program: string,
  args: readonly string[],
  options: unknown,
): SubprocessSettings {
  takeOptions(method, options)
  const given = new SubprocessGiven(options as Record<string, unknown>)
  const stdin = given.stream('stdin')
  const stdout = given.stream('stdout')
  const stderr = given.stream('stderr', 'stdout')
  const [cwd, env] = [given.cwd(), given.env()]
  const [uid, gid] = [given.integer('uid', 0, ID_MAX, null), given.integer('gid', 0, ID_MAX, null)]
  const detached = given.boolean('detached', false)
  const [engine, signal] = [given.engine(), given.signal()]
  given.refuseUnknown()
  return {
    program,
    args,
    stdio: [stdin as SubprocessStream, stdout as SubprocessStream, stderr],
    engine,
    signal,
    spawn: {
      detached,
      ...(cwd !== undefined && { cwd }),
      ...(env !== undefined && { env }),
      ...(uid !== null && { uid }),
      ...(gid !== null && { gid }),
    },
  }
}

class SubprocessGiven extends GivenOptions {
  stream(name: string, also?: 'stdout'): SubprocessStream | 'stdout' {
    const value = this.take(name) ?? 'pipe'
    if (value === 'pipe' || value === 'ignore' || value === 'inherit') return value
    if (also !== undefined && value === also) return also
    if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 0x7fff_ffff)
      return value
    throw wrong(name, value, also === undefined ? STREAM_EXPECTED : `'${also}', ${STREAM_EXPECTED}`)
  }

  cwd(): string | undefined {
    const value = this.take('cwd')
    if (value === undefined) return undefined
    if (isText(value) && value !== '') return value
    if (value instanceof URL && value.protocol === 'file:') return fileURLToPath(value)
    throw wrong('cwd', value, 'a path or a file: URL')
  }

  env(): Record<string, string | undefined> | undefined {
    const value = this.take('env')
    if (value === undefined) return undefined
    const isPlain = typeof value === 'object' && value !== null && !Array.isArray(value)
    const fits = ([name, text]: [string, unknown]): boolean =>
      isText(name) && !name.includes('=') && (text === undefined || isText(text))
    if (isPlain && Object.entries(value).every(fits)) return value as Record<string, string | undefined>
    throw wrong('env', value, 'an object of strings without zero characters')
  }
}

function isText(value: unknown): value is string {
  return typeof value === 'string' && !value.includes('\0')
}

function refused(method: string, expected: string, value: unknown): ShardloopError {
  return new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `${method}: expected ${expected}, given ${show(value)}`)
}
