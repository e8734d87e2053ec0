import { types } from 'node:util'

/** Objects and arrays in one payload, and properties of each, up to which it is looked through. */
const OBJECTS_MAX = 32
const PROPERTIES_MAX = 64

/** Those of the payload that is looked through: one that occurs twice is one object for structured clone, two for JSON. */
const seen: object[] = []

const { prototype: ordinary } = Object
const { prototype: list } = Array
const { getPrototypeOf, is, keys } = Object
const { toString: kindOf } = Object.prototype
const { isProxy } = types

/**
 * Whether JSON makes of an object what structured clone makes of it: plain objects and arrays without holes, of strings,
 * finite numbers, booleans, null and the same again, none of them twice, and few.
 */
export function isPlainData(payload: object | null): boolean {
  if (payload === null) return false
  try {
    return isPlain(payload)
  } finally {
    seen.length = 0 // also when a getter throws
  }
}

function isPlain(value: object): boolean {
  if (seen.length === OBJECTS_MAX || seen.includes(value)) return false
  seen.push(value)
  // Structured clone refuses proxies and `arguments`, whatever their number of properties, and knows a Date without its prototype.
  if (isProxy(value)) return false
  if ((value as { readonly toJSON?: unknown }).toJSON !== undefined) return false
  if (Array.isArray(value) && value.length > PROPERTIES_MAX) return false // before it has names of its elements made
  const names = keys(value)
  if (names.length > PROPERTIES_MAX) return false
  const prototype = getPrototypeOf(value)
  if (prototype !== ordinary) {
    // One with names of its own beside its elements, as a match of a regular expression, or with holes, is not plain.
    if (prototype !== list || !Array.isArray(value) || names.length !== value.length) return false
    for (const element of value) if (!isPlainValue(element)) return false
    return true
  }
  if (kindOf.call(value) !== '[object Object]') return false
  for (const name of names) if (!isPlainValue((value as Record<string, unknown>)[name])) return false
  return true
}

function isPlainValue(value: unknown): boolean {
  switch (typeof value) {
    case 'string':
    case 'boolean':
      return true
    case 'number':
      return Number.isFinite(value) && !is(value, -0)
    case 'object':
      return value === null || isPlain(value)
    default:
      return false
  }
}
