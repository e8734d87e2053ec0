/** What the server understands: each command's name, how many arguments it takes, where its keys are, and what it does. */
import type { Keyspace } from './keyspace.js'
import { BATCH_REPLY_MAX_BYTES } from './limits.js'
import type { Replies } from './replies.js'
import type { Request } from './request.js'
import { connectionCommands } from './server-commands.js'
import { setCommand } from './set-command.js'
import { EXPIRE_MAX_MS, INVALID_EXPIRE, NOT_AN_INTEGER, OUT_OF_MEMORY, TOO_LONG_REPLIES } from './texts.js'

/** Answers a request. */
export type Run = (request: Request, keyspace: Keyspace, replies: Replies) => void

/** How a command that concerns keys of several shards is taken apart, into one for each key. */
export interface Split {
  /** What is asked for each key. */
  readonly verb: string
  /** The key and what goes with it. */
  readonly step: 1 | 2
  /** What the answers make together: an array of them, their sum, or that all is done. */
  readonly together: 'array' | 'sum' | 'ok'
}

export interface Command {
  readonly name: string
  /** As Redis tells it: arguments with the name, or, negative, at least so many. */
  readonly arity: number
  /** Where its keys are: it has none, one behind its name, several ({@link Split}), or concerns all that there are. */
  readonly keys: 'none' | 'one' | 'all' | Split
  readonly run: Run
}

/** The command that a request asks for; undefined when it was answered by an error, as there is none, or not with these arguments. */
export function commandOf(request: Request, replies: Replies): Command | undefined {
  const command = find(request)
  const { count } = request
  if (command === undefined) {
    unknown(request, replies)
    return undefined
  }
  const { arity, name, keys } = command
  const isOdd = typeof keys === 'object' && keys.step === 2 && count % 2 === 0
  if (isOdd || (arity < 0 ? count < -arity : count !== arity)) {
    replies.error(`wrong number of arguments for '${name}' command`)
    return undefined
  }
  return command
}

/** Names are found by their bytes, without a string for each. */
function find(request: Request): Command | undefined {
  const { memory } = request
  const end = request.ends[0] as number
  let hash = 0
  for (let at = request.starts[0] as number; at < end; at++)
    hash = (Math.imul(hash, 31) + ((memory[at] as number) | 0x20)) | 0
  const command = byHash.get(hash)
  return command !== undefined && request.is(0, command.name) ? command : undefined
}

function hashOf(name: string): number {
  let hash = 0
  for (const character of name) hash = (Math.imul(hash, 31) + character.charCodeAt(0)) | 0
  return hash
}

/** Longest part of a name, and of all arguments, that an error repeats (as Redis). */
const REPEATED_MAX = 128

function unknown(request: Request, replies: Replies): void {
  let args = ''
  for (let index = 1; index < request.count && args.length < REPEATED_MAX; index++)
    args += `'${request.text(index).slice(0, REPEATED_MAX - args.length)}' `
  const name = request.text(0).slice(0, REPEATED_MAX)
  replies.error(`unknown command '${name}', with args beginning with: ${args}`)
}

const get: Run = (request, keyspace, replies) => {
  const value = keyspace.get(request.text(1))
  if (value === undefined) replies.nil()
  else replies.bulk(value)
}

const mget: Run = (request, keyspace, replies) => {
  const before = replies.length
  replies.array(request.count - 1)
  for (let index = 1; index < request.count; index++) {
    if (replies.length - before > BATCH_REPLY_MAX_BYTES) {
      replies.cut(before)
      return replies.error(TOO_LONG_REPLIES)
    }
    const value = keyspace.get(request.text(index))
    if (value === undefined) replies.nil()
    else replies.bulk(value)
  }
}

const mset: Run = (request, keyspace, replies) => {
  for (let index = 1; index < request.count; index += 2)
    if (!keyspace.set(request.text(index), request.value(index + 1)))
      return replies.error(OUT_OF_MEMORY, 'OOM')
  replies.ok()
}

const del: Run = (request, keyspace, replies) => {
  let deleted = 0
  for (let index = 1; index < request.count; index++) if (keyspace.delete(request.text(index))) deleted += 1
  replies.integer(deleted)
}

/** A key that is named twice counts twice. */
const exists: Run = (request, keyspace, replies) => {
  let found = 0
  for (let index = 1; index < request.count; index++) if (keyspace.has(request.text(index))) found += 1
  replies.integer(found)
}

const INTEGER_MAX = 2n ** 63n - 1n
const INTEGER = /^(?:0|-?[1-9]\d{0,18})$/

/** Redis counts with 64 bits. */
const incr: Run = (request, keyspace, replies) => {
  const key = request.text(1)
  const value = keyspace.get(key) ?? '0'
  const text = typeof value === 'string' ? value : ''
  if (!INTEGER.test(text) || BigInt(text) > INTEGER_MAX || BigInt(text) < -INTEGER_MAX - 1n)
    return replies.error(NOT_AN_INTEGER)
  const next = Number.isSafeInteger(Number(text)) ? Number(text) + 1 : BigInt(text) + 1n
  if (next > INTEGER_MAX) return replies.error('increment or decrement would overflow')
  if (!keyspace.set(key, String(next), keyspace.expiresAt(key) ?? 0))
    return replies.error(OUT_OF_MEMORY, 'OOM')
  replies.integer(next)
}

function expire(name: string, unitMs: number): Run {
  return (request, keyspace, replies) => {
    if (request.count > 3) return replies.error(`Unsupported option ${request.text(3)}`)
    const given = request.integer(2)
    if (given === null) return replies.error(NOT_AN_INTEGER)
    const expiresAt = keyspace.now() + given * unitMs
    if (Math.abs(expiresAt) > EXPIRE_MAX_MS) return replies.error(INVALID_EXPIRE(name))
    // What has expired before 1970 has, too; 0 would be never.
    replies.integer(keyspace.expire(request.text(1), Math.max(1, expiresAt)) ? 1 : 0)
  }
}

function ttl(unitMs: number): Run {
  return (request, keyspace, replies) => {
    const expiresAt = keyspace.expiresAt(request.text(1))
    if (expiresAt === undefined) replies.integer(-2)
    else if (expiresAt === 0) replies.integer(-1)
    else replies.integer(Math.round((expiresAt - keyspace.now()) / unitMs))
  }
}

const flush: Run = (request, keyspace, replies) => {
  const isPlain =
    request.count === 1 || (request.count === 2 && (request.is(1, 'sync') || request.is(1, 'async')))
  if (!isPlain) return replies.error('syntax error')
  keyspace.clear()
  replies.ok()
}

export const COMMANDS: readonly Command[] = [
  { name: 'get', arity: 2, keys: 'one', run: get },
  { name: 'set', arity: -3, keys: 'one', run: setCommand },
  { name: 'incr', arity: 2, keys: 'one', run: incr },
  { name: 'expire', arity: -3, keys: 'one', run: expire('expire', 1_000) },
  { name: 'pexpire', arity: -3, keys: 'one', run: expire('pexpire', 1) },
  { name: 'ttl', arity: 2, keys: 'one', run: ttl(1_000) },
  { name: 'pttl', arity: 2, keys: 'one', run: ttl(1) },
  { name: 'mget', arity: -2, keys: { verb: 'GET', step: 1, together: 'array' }, run: mget },
  { name: 'mset', arity: -3, keys: { verb: 'SET', step: 2, together: 'ok' }, run: mset },
  { name: 'del', arity: -2, keys: { verb: 'DEL', step: 1, together: 'sum' }, run: del },
  { name: 'exists', arity: -2, keys: { verb: 'EXISTS', step: 1, together: 'sum' }, run: exists },
  { name: 'dbsize', arity: 1, keys: 'all', run: (_, { size }, replies) => replies.integer(size) },
  { name: 'flushall', arity: -1, keys: 'all', run: flush },
  { name: 'flushdb', arity: -1, keys: 'all', run: flush },
  ...connectionCommands,
]

const byHash: ReadonlyMap<number, Command> = new Map(
  COMMANDS.map((command) => [hashOf(command.name), command]),
)
