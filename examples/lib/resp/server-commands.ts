/** Commands about the connection and the server: what clients send by themselves before they come to the point, too. */
import type { Command, Run } from './commands.js'
import { NOT_AN_INTEGER, SYNTAX_ERROR } from './texts.js'

/** Clients look at it to know what they may ask for. */
const VERSION = '7.0.0'
const ABOUT: readonly (readonly [string, string | number])[] = [
  ['server', 'redis'],
  ['version', VERSION],
  ['proto', 2],
  ['mode', 'standalone'],
  ['role', 'master'],
]
const CONFIG: readonly (readonly [string, string])[] = [
  ['save', ''],
  ['appendonly', 'no'],
]

const ping: Run = (request, _, replies) => {
  if (request.count > 2) replies.error("wrong number of arguments for 'ping' command")
  else if (request.count === 2) replies.bulk(request.text(1))
  else replies.raw('+PONG\r\n')
}

const hello: Run = (request, _, replies) => {
  if (request.count > 1) {
    const version = request.integer(1)
    if (version === null) return replies.error('Protocol version is not an integer or out of range')
    if (version !== 2) return replies.error('unsupported protocol version', 'NOPROTO')
    const isNamed = request.count === 4 && request.is(2, 'setname')
    if (request.count > 2 && !isNamed)
      return replies.error(`Syntax error in HELLO option '${request.text(2)}'`)
  }
  replies.array(ABOUT.length * 2)
  for (const [name, value] of ABOUT) {
    replies.bulk(name)
    if (typeof value === 'number') replies.integer(value)
    else replies.bulk(value)
  }
}

/** A name or a library's version is taken note of by nobody. */
const client: Run = (request, _, replies) => {
  if (['setname', 'setinfo', 'no-evict', 'no-touch'].some((word) => request.is(1, word))) replies.ok()
  else if (request.is(1, 'getname')) replies.nil()
  else unknownSubcommand('CLIENT')(request, _, replies)
}

const command: Run = (request, _, replies) => {
  if (request.count === 1 || request.is(1, 'docs') || request.is(1, 'info')) replies.array(0)
  else unknownSubcommand('COMMAND')(request, _, replies)
}

const config: Run = (request, _, replies) => {
  if (!request.is(1, 'get') || request.count < 3) return unknownSubcommand('CONFIG')(request, _, replies)
  const asked = Array.from({ length: request.count - 2 }, (_unused, index) =>
    request.text(index + 2).toLowerCase(),
  )
  const found = CONFIG.filter(([name]) => asked.includes(name) || asked.includes('*'))
  replies.array(found.length * 2)
  for (const text of found.flat()) replies.bulk(text)
}

const info: Run = (_, keyspace, replies) => {
  replies.bulk(
    `# Server\r\nredis_version:${VERSION}\r\nredis_mode:standalone\r\nprocess_id:${process.pid}\r\n` +
      `# Memory\r\nused_memory:${keyspace.bytes}\r\n# Keyspace\r\ndb0:keys=${keyspace.size}\r\n`,
  )
}

const select: Run = (request, _, replies) => {
  const index = request.integer(1)
  if (index === null) replies.error(NOT_AN_INTEGER)
  else if (index !== 0) replies.error('DB index is out of range')
  else replies.ok()
}

function unknownSubcommand(name: string): Run {
  return (request, _, replies) => {
    if (request.count < 2) replies.error(SYNTAX_ERROR)
    else replies.error(`unknown subcommand '${request.text(1).slice(0, 128)}'. Try ${name} HELP.`)
  }
}

/** QUIT is answered here; the connection sees to the rest. */
const quit: Run = (_request, _keyspace, replies) => replies.ok()

export const connectionCommands: readonly Command[] = [
  { name: 'ping', arity: -1, keys: 'none', run: ping },
  { name: 'echo', arity: 2, keys: 'none', run: (request, _, replies) => replies.bulk(request.value(1)) },
  { name: 'hello', arity: -1, keys: 'none', run: hello },
  { name: 'client', arity: -2, keys: 'none', run: client },
  { name: 'command', arity: -1, keys: 'none', run: command },
  { name: 'config', arity: -2, keys: 'none', run: config },
  { name: 'info', arity: -1, keys: 'none', run: info },
  { name: 'select', arity: 2, keys: 'none', run: select },
  { name: 'quit', arity: -1, keys: 'none', run: quit },
]
