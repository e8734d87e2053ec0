import { inspect, types } from 'node:util'
import { ERROR_CODES, ShardloopError, type ShardloopErrorCode } from '../errors.js'
import { ERROR_CAUSES_MAX } from '../limits.js'

/**
 * What was thrown in one thread, in a form that a message can carry. Structured clone alone would lose `code`,
 * `errno` and every other property of an error.
 */
export type TransferredError =
  | { readonly kind: 'value'; readonly value: unknown }
  | {
      readonly kind: 'error'
      readonly name: string
      readonly message: string
      readonly stack: string | undefined
      /** Own enumerable properties that can be cloned, and its `code` whosever property that is. */
      readonly properties: Readonly<Record<string, unknown>>
      readonly cause: TransferredError | null
      /** `errors` of an AggregateError. */
      readonly errors: readonly TransferredError[] | null
      /** Its class is DOMException: an AbortError, say. */
      readonly isDomException: boolean
    }

/** Of an error that cannot even be read. */
const UNREADABLE: TransferredError = {
  kind: 'error',
  name: 'Error',
  message: 'something was thrown whose properties throw when they are read',
  stack: undefined,
  properties: {},
  cause: null,
  errors: null,
  isDomException: false,
}

const BUILT_IN = { Error, EvalError, RangeError, ReferenceError, SyntaxError, TypeError, URIError }

/** Packs anything that may be thrown. Never throws. */
export function packError(thrown: unknown, depth = 0): TransferredError {
  try {
    return pack(thrown, depth)
  } catch {
    return UNREADABLE // by a getter, or a proxy
  }
}

function pack(thrown: unknown, depth: number): TransferredError {
  if (!isError(thrown)) return { kind: 'value', value: cloneable(thrown) ? thrown : inspect(thrown) }
  const properties: Record<string, unknown> = {}
  for (const [key, value] of Object.entries(thrown)) {
    if (key !== 'cause' && cloneable(value)) properties[key] = value
  }
  const { code } = thrown as { code?: unknown }
  if (typeof code === 'string' || typeof code === 'number') properties['code'] = code
  const deeper = depth + 1 < ERROR_CAUSES_MAX
  const errors = thrown instanceof AggregateError && deeper ? thrown.errors : null
  return {
    kind: 'error',
    name: String(thrown.name),
    message: String(thrown.message),
    stack: thrown.stack,
    properties,
    cause: thrown.cause !== undefined && deeper ? packError(thrown.cause, depth + 1) : null,
    errors: errors?.map((error: unknown) => packError(error, depth + 1)) ?? null,
    isDomException: thrown instanceof DOMException,
  }
}

/** Makes the thrown thing again: same class where it is Node's or ours, same message, stack, properties and cause. */
export function unpackError(packed: TransferredError): unknown {
  if (packed.kind === 'value') return packed.value
  const options = packed.cause === null ? {} : { cause: unpackError(packed.cause) }
  const error = construct(packed, options)
  if (!packed.isDomException) Object.assign(error, packed.properties) // its code comes of its name
  hide(error, 'stack', packed.stack)
  if (error.name !== packed.name) hide(error, 'name', packed.name)
  return error
}

function construct(packed: TransferredError & { kind: 'error' }, options: ErrorOptions): Error {
  if (packed.isDomException) return new DOMException(packed.message, packed.name)
  const code = packed.properties['code']
  if (packed.name === 'ShardloopError' && typeof code === 'string' && code in ERROR_CODES) {
    return new ShardloopError(code as ShardloopErrorCode, packed.message, options)
  }
  if (packed.errors !== null)
    return new AggregateError(packed.errors.map(unpackError), packed.message, options)
  const Class = Object.hasOwn(BUILT_IN, packed.name) ? BUILT_IN[packed.name as keyof typeof BUILT_IN] : Error
  return new Class(packed.message, options)
}

function hide(error: Error, key: string, value: unknown): void {
  Object.defineProperty(error, key, { value, configurable: true, writable: true, enumerable: false })
}

function isError(thrown: unknown): thrown is Error {
  return thrown instanceof Error || types.isNativeError(thrown)
}

function cloneable(value: unknown): boolean {
  try {
    structuredClone(value)
    return true
  } catch {
    return false
  }
}
