import { MessagePort, type TransferListItem } from 'node:worker_threads'
import { EXECUTOR_COPY_DEPTH_MAX } from '../limits.js'

/** A value as it is sent to another thread, and what moves there with it. */
export interface Parcel {
  readonly value: unknown
  readonly transferList: readonly TransferListItem[]
}

/**
 * Arguments as they are sent: structured clones, but for what the caller transfers. Structured clone takes all of the memory
 * that a view looks at, which for a received chunk is a slab with other clients' bytes; so of a view of larger memory a copy of
 * its exact size is sent. Looks into arrays and plain objects.
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
  /** Containers that were looked into; those that had to be made anew, with what they became. */
  readonly #seen = new Set<object>()
  readonly #remade = new Map<object, unknown>()
  #hasPart = false

  /** @param movesWhole whether memory that has one owner moves, rather than only our own copies */
  constructor(given: ReadonlySet<unknown>, movesWhole: boolean) {
    this.#given = given
    this.#movesWhole = movesWhole
  }

  pack(value: unknown): unknown {
    this.#look(value, 0)
    return this.#hasPart ? this.#remake(value, 0) : value
  }

  #look(value: unknown, depth: number): void {
    if (typeof value !== 'object' || value === null) return
    if (ArrayBuffer.isView(value)) {
      if (this.#isPart(value)) this.#hasPart = true
      else if (this.#movesWhole && value.buffer instanceof ArrayBuffer) this.moved.add(value.buffer)
    } else if (value instanceof ArrayBuffer || value instanceof MessagePort) {
      if (this.#movesWhole) this.moved.add(value)
    } else if (isContainer(value, depth) && !this.#seen.has(value)) {
      this.#seen.add(value)
      for (const inner of Object.values(value)) this.#look(inner, depth + 1)
    }
  }

  #remake(value: unknown, depth: number): unknown {
    if (typeof value !== 'object' || value === null) return value
    if (ArrayBuffer.isView(value)) return this.#isPart(value) ? this.#copy(value) : value
    if (!isContainer(value, depth)) return value
    const known = this.#remade.get(value)
    if (known !== undefined) return known
    const made: Record<string, unknown> | unknown[] = Array.isArray(value) ? new Array(value.length) : {}
    this.#remade.set(value, made)
    for (const [key, inner] of Object.entries(value)) {
      // Not an assignment, for which `__proto__` would be no key.
      const property = {
        value: this.#remake(inner, depth + 1),
        enumerable: true,
        writable: true,
        configurable: true,
      }
      Object.defineProperty(made, key, property)
    }
    return made
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

function isContainer(value: object, depth: number): boolean {
  if (depth >= EXECUTOR_COPY_DEPTH_MAX) return false
  if (Array.isArray(value)) return true
  const prototype = Object.getPrototypeOf(value)
  return prototype === null || prototype === Object.prototype
}
