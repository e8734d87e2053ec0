import { types } from 'node:util'
import { MessagePort, type TransferListItem } from 'node:worker_threads'

/** A value as it is sent to another thread, and what moves there with it. */
export interface Parcel {
  readonly value: unknown
  readonly transferList: readonly TransferListItem[]
}

/**
 * Arguments as they are sent: structured clones, but for what the caller transfers. Structured clone takes all of the memory
 * that a view looks at, which for a received chunk is a slab with other clients' bytes; so of a view of larger memory a copy of
 * its exact size is sent, wherever structured clone would find it.
 */
export function packArguments(args: readonly unknown[], transferList: readonly TransferListItem[]): Parcel {
  const packing = new Packing(new Set<unknown>(transferList), false)
  const value = packing.pack(args)
  return { value, transferList: [...transferList, ...packing.moved] }
}

/**
 * A result as it is sent: memory that it has for itself moves, so does a port; views of larger memory are sent as above, and
 * everything else is cloned.
 */
export function packResult(result: unknown): Parcel {
  const packing = new Packing(new Set(), true)
  const value = packing.pack(result)
  return { value, transferList: [...packing.moved] }
}

class Packing {
  /** What moves beside what the caller transfers. */
  readonly moved = new Set<TransferListItem>()
  readonly #given: ReadonlySet<unknown>
  readonly #movesWhole: boolean
  /** Containers, in the order in which they are looked into; it grows meanwhile. */
  readonly #seen = new Set<object>()
  /** Containers and views that are made anew, with what they become. */
  readonly #remade = new Map<object, object>()
  #hasPart = false

  /** @param movesWhole whether memory that has one owner moves, rather than only our own copies */
  constructor(given: ReadonlySet<unknown>, movesWhole: boolean) {
    this.#given = given
    this.#movesWhole = movesWhole
  }

  pack(value: unknown): unknown {
    this.#look(value)
    for (const container of this.#seen) for (const inner of contents(container)) this.#look(inner)
    if (!this.#hasPart) return value
    const holders = this.#holders()
    // All are made before any is filled, for they may contain each other.
    for (const holder of holders) this.#remade.set(holder, emptied(holder))
    for (const holder of holders) this.#fill(holder)
    return this.#packed(value)
  }

  #look(value: unknown): void {
    if (typeof value !== 'object' || value === null) return
    if (ArrayBuffer.isView(value)) {
      if (this.#isPart(value)) this.#hasPart = true
      else if (this.#movesWhole && value.buffer instanceof ArrayBuffer) this.moved.add(value.buffer)
    } else if (value instanceof ArrayBuffer || value instanceof MessagePort) {
      if (this.#movesWhole) this.moved.add(value)
    } else if (isContainer(value) && !this.#given.has(value)) this.#seen.add(value)
  }

  /** The containers that a part is in, however deep. The others are sent as they are. */
  #holders(): ReadonlySet<object> {
    const around = new Map<object, object[]>()
    const holders = new Set<object>()
    for (const container of this.#seen)
      for (const inner of contents(container)) {
        if (typeof inner !== 'object' || inner === null) continue
        if (ArrayBuffer.isView(inner)) {
          if (this.#isPart(inner)) holders.add(container)
        } else if (this.#seen.has(inner)) {
          const known = around.get(inner)
          if (known === undefined) around.set(inner, [container])
          else known.push(container)
        }
      }
    for (const holder of holders) for (const outer of around.get(holder) ?? []) holders.add(outer)
    return holders
  }

  #fill(holder: object): void {
    const made = this.#remade.get(holder)
    if (types.isMap(holder)) {
      for (const [key, inner] of entriesOf(holder))
        (made as Map<unknown, unknown>).set(this.#packed(key), this.#packed(inner))
    } else if (types.isSet(holder)) {
      for (const inner of valuesOf(holder)) (made as Set<unknown>).add(this.#packed(inner))
    } else if (types.isNativeError(holder)) define(made, 'cause', this.#packed(holder.cause))
    else for (const [key, inner] of Object.entries(holder)) define(made, key, this.#packed(inner))
  }

  #packed(value: unknown): unknown {
    if (typeof value !== 'object' || value === null) return value
    if (ArrayBuffer.isView(value)) return this.#isPart(value) ? this.#copy(value) : value
    return this.#remade.get(value) ?? value
  }

  /** Whether it looks at a part of memory that is the program's, and stays here. */
  #isPart(view: ArrayBufferView): boolean {
    const { buffer, byteLength } = view
    return buffer instanceof ArrayBuffer && byteLength < buffer.byteLength && !this.#given.has(buffer)
  }

  /** The same kind of view on memory of its own; a Buffer becomes a Uint8Array, as structured clone has it. */
  #copy(view: ArrayBufferView): ArrayBufferView {
    const known = this.#remade.get(view)
    if (known !== undefined) return known as ArrayBufferView
    const bytes = new Uint8Array(view.byteLength)
    bytes.set(new Uint8Array(view.buffer, view.byteOffset, view.byteLength))
    this.moved.add(bytes.buffer)
    const kind = (view as unknown as { [Symbol.toStringTag]: string })[Symbol.toStringTag]
    const View = (globalThis as unknown as Record<string, new (buffer: ArrayBuffer) => ArrayBufferView>)[kind]
    const copy = View === undefined ? bytes : new View(bytes.buffer)
    this.#remade.set(view, copy)
    return copy
  }
}

/** Of these structured clone takes what is in them: the own enumerable properties, but of errors their cause. */
function isContainer(value: object): boolean {
  if (types.isProxy(value)) return false
  if (Array.isArray(value)) return true
  // Most that are ordinary are told by that at once.
  return Object.prototype.toString.call(value) === '[object Object]' || !NOT_ORDINARY.some((is) => is(value))
}

/** It takes no properties of these, or refuses them. */
const NOT_ORDINARY: readonly ((value: unknown) => boolean)[] = [
  types.isAnyArrayBuffer,
  types.isBoxedPrimitive,
  types.isCryptoKey,
  types.isDate,
  types.isExternal,
  types.isGeneratorObject,
  types.isMapIterator,
  types.isPromise,
  types.isRegExp,
  types.isSetIterator,
  types.isWeakMap,
  types.isWeakSet,
  (value) => value instanceof Blob,
]

// Of classes that extend these it takes the contents all the same, whatever their methods do.
const entriesOf = (map: Map<unknown, unknown>): Iterable<[unknown, unknown]> =>
  Map.prototype.entries.call(map)
const valuesOf = (set: Set<unknown>): Iterable<unknown> => Set.prototype.values.call(set)

/** What a container has, keys of a map among it. */
function contents(container: object): readonly unknown[] {
  if (types.isMap(container)) return [...entriesOf(container)].flat()
  if (types.isSet(container)) return [...valuesOf(container)]
  if (types.isNativeError(container)) return [Object.getOwnPropertyDescriptor(container, 'cause')?.value]
  return Object.values(container)
}

/** What takes its place when it is sent, without what is in it: structured clone keeps no class. */
function emptied(container: object): object {
  if (types.isMap(container)) return new Map()
  if (types.isSet(container)) return new Set()
  if (Array.isArray(container)) return new Array(container.length)
  if (!types.isNativeError(container)) return {}
  const error = new Error(container.message)
  for (const key of ['name', 'stack'] as const) define(error, key, container[key])
  return error
}

/** Not an assignment, for which `__proto__` would be no key. */
function define(made: unknown, key: string, value: unknown): void {
  Object.defineProperty(made, key, { value, enumerable: true, writable: true, configurable: true })
}
