import { ShardloopError } from '../errors.js'

/** Whether it is a promise, of whatever make. What throws when it is asked for its `then` throws here. */
export function isThenable(value: unknown): value is PromiseLike<unknown> {
  return typeof (value as PromiseLike<unknown> | null | undefined)?.then === 'function'
}

/** What a connection or an endpoint ends with when one of its callbacks threw. @param name the callback's */
export function thrownError(name: string, thrown: unknown): Error {
  return thrown instanceof Error
    ? thrown
    : new Error(`${name} threw a value that is no Error`, { cause: thrown })
}

/** What a factory returned, if that is a protocol. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function checkedProtocol<Made extends object>(protocol: Made): Made {
  if (protocol === null || typeof protocol !== 'object' || 'then' in protocol) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_ARGUMENT',
      'the protocol factory returned no protocol object (it must not be async)',
    )
  }
  return protocol
}
