import { inspect } from 'node:util'
import { ShardloopError } from '../errors.js'

/** The error of a method that was given what it does not take. @param expected what it takes */
export function invalid(name: string, value: unknown, expected: string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `${name} is ${inspect(value, { depth: 0 })}; expected ${expected}`,
  )
}
