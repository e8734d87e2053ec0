import { types } from 'node:util'
import { viewBytes, viewNumber } from './clone.js'
import { SentShapes, type Shape, shapeWords } from './shapes.js'
import {
  DEPTH_MAX,
  HEADER_AGAIN,
  HEADER_NARROW,
  HEADER_SHAPES,
  HEADER_VALUES,
  HEADER_WIDE,
  HEADER_WORDS,
  PAYLOAD_SHAPES_MAX,
  TAG_AGAIN,
  TAG_ARRAY,
  TAG_BIGINT,
  TAG_BITS,
  TAG_DATE,
  TAG_FALSE,
  TAG_INTEGER,
  TAG_MAP,
  TAG_NULL,
  TAG_NUMBER,
  TAG_OBJECT,
  TAG_OBJECT_AND_MORE,
  TAG_SET,
  TAG_TRUE,
  TAG_UNDEFINED,
  TAG_VIEW,
} from './value-format.js'
import { copyWords, TOO_LARGE, ValueWriter } from './value-writer.js'

const { getPrototypeOf, keys } = Object
const { hasOwnProperty: hasOwn, toString: kindOf } = Object.prototype
const { isDate, isMap, isProxy, isSet } = types
const { getTime } = Date.prototype
const { forEach: forEachEntry } = Map.prototype
const { forEach: forEachValue } = Set.prototype

/** Objects of a payload up to which they are searched through for one that occurs twice. */
const SEARCHED_MAX = 16
/**
 * Elements of the longest array that begins with a number, another primitive, an object: to look for holes and names beside them takes a
 * string for each index, and from there on longer than what V8 saves us.
 */
const NUMBERS_MAX = 128
const PRIMITIVES_MAX = 512
const OBJECTS_MAX = 8192

/** Takes down payloads, one after the other, as `value-format.ts` has them. One is used for all messages of a thread. */
export class ValueEncoder extends ValueWriter {
  /** Words of the payload that it has taken down. */
  length = 0
  /** Objects in the order in which they began. */
  private readonly objects: (object | null)[] = new Array(SEARCHED_MAX).fill(null)
  private objectsUsed = 0
  private isAgain = false
  /** Their places, when there are many. */
  private places: Map<object, number> | null = null
  private readonly known = new SentShapes()
  /** Those of this payload. */
  private readonly shapes: (Shape | null)[] = []
  private shapesUsed = 0
  private shapeWords = 0
  private payload = 0
  /** What Maps and Sets hold, while that is taken down. */
  private readonly held: unknown[] = []
  private readonly hold = (value: unknown): void => void this.held.push(value)
  private readonly holdEntry = (value: unknown, key: unknown): void => void this.held.push(key, value)
  private isBusy = false

  /**
   * Takes down a value; its memory is good until the next one.
   * @returns false for one that is V8's affair
   */
  encode(value: object): boolean {
    // A getter of what is taken down may send something itself.
    if (this.isBusy) return false
    this.isBusy = true
    this.begin()
    this.forgetShapes()
    this.isAgain = false
    this.payload += 1
    try {
      if (!this.object(value, 0)) return false
      this.length = HEADER_WORDS + this.shapeWords + this.end()
      return true
    } catch (error) {
      if (error === TOO_LARGE) return false
      throw error
    } finally {
      for (let index = Math.min(this.objectsUsed, SEARCHED_MAX) - 1; index >= 0; index--)
        this.objects[index] = null
      this.objectsUsed = 0
      this.places = null
      if (this.held.length > 0) this.held.length = 0
      this.isBusy = false
    }
  }

  /** Puts the payload into words. */
  write(words: Int32Array, at: number): void {
    words[at + HEADER_VALUES] = this.used
    words[at + HEADER_WIDE] = this.wideUsed
    words[at + HEADER_NARROW] = this.narrowUsed
    words[at + HEADER_SHAPES] = this.shapesUsed
    words[at + HEADER_AGAIN] = this.isAgain ? 1 : 0
    let to = at + HEADER_WORDS
    for (let index = 0; index < this.shapesUsed; index++) {
      const shape = shapeWords(this.shapes[index] as Shape)
      to = copyWords(shape, words, to, shape.length)
    }
    this.copyTo(words, to)
  }

  /** Lets go of what a large payload took. */
  release(): void {
    if (this.isBusy) return
    this.shrink()
    this.forgetShapes()
  }

  /** One that is not in use any more would keep all that were known together with it. */
  private forgetShapes(): void {
    for (let index = this.shapesUsed - 1; index >= 0; index--) this.shapes[index] = null
    this.shapesUsed = 0
    this.shapeWords = 0
  }

  private value(value: unknown, depth: number): boolean {
    switch (typeof value) {
      case 'string':
        return this.string(value)
      case 'number':
        if ((value << TAG_BITS) >> TAG_BITS === value && (value !== 0 || 1 / value > 0))
          this.put((value << TAG_BITS) | TAG_INTEGER)
        else this.tagged(TAG_NUMBER, value)
        return true
      case 'boolean':
        this.put(value ? TAG_TRUE : TAG_FALSE)
        return true
      case 'undefined':
        this.put(TAG_UNDEFINED)
        return true
      case 'bigint': {
        const isNegative = value < 0n
        this.put((Number(isNegative) << TAG_BITS) | TAG_BIGINT)
        return this.string((isNegative ? -value : value).toString(16))
      }
      case 'object':
        if (value !== null) return this.object(value, depth)
        this.put(TAG_NULL)
        return true
      default:
        return false
    }
  }

  private object(value: object, depth: number): boolean {
    if (depth === DEPTH_MAX || isProxy(value)) return false
    const place = this.place(value)
    if (place >= 0) {
      this.isAgain = true
      this.put((place << TAG_BITS) | TAG_AGAIN)
      return true
    }
    switch (getPrototypeOf(value)) {
      case Object.prototype:
      case null:
        // It has no Date's, or other object's, prototype, and may be one all the same; `arguments` are.
        return kindOf.call(value) === '[object Object]' && this.plain(value as Record<string, unknown>, depth)
      case Array.prototype:
        return Array.isArray(value) && this.array(value, depth)
      case Date.prototype:
        if (!isDate(value)) return false
        this.tagged(TAG_DATE, getTime.call(value))
        return true
      case Map.prototype:
        if (!isMap(value)) return false
        return this.collection(TAG_MAP, value, depth)
      case Set.prototype:
        if (!isSet(value)) return false
        return this.collection(TAG_SET, value, depth)
      default:
        return ArrayBuffer.isView(value) && this.view(value)
    }
  }

  /** Where an object is among those that began before; -1 for one that had not, and which now has. */
  private place(value: object): number {
    const { objects } = this
    const count = this.objectsUsed
    if (count < SEARCHED_MAX) {
      for (let index = 0; index < count; index++) if (objects[index] === value) return index
      objects[count] = value
    } else {
      this.places ??= new Map(objects.map((object, index) => [object as object, index]))
      const place = this.places.get(value)
      if (place !== undefined) return place
      this.places.set(value, count)
    }
    this.objectsUsed = count + 1
    return -1
  }

  private plain(value: Record<string, unknown>, depth: number): boolean {
    const at = this.room(1)
    const { known } = this
    let shape = known.root
    let moreAt = -1
    let more = 0
    for (const name in value) {
      if (!hasOwn.call(value, name)) continue
      if (moreAt < 0) {
        const { last } = shape
        const next = last !== null && last.name === name ? last : known.follow(shape, name)
        if (next !== null) {
          shape = next
          if (!this.value(value[name], depth + 1)) return false
          continue
        }
        moreAt = this.room(1)
      }
      more += 1
      if (!(this.name(name) && this.value(value[name], depth + 1))) return false
    }
    // The elements of a typed array are as properties.
    if (shape.depth === 0 && (moreAt < 0 ? isDisguised(value) : ArrayBuffer.isView(value))) return false
    const above = this.shapeIndex(shape) << TAG_BITS
    if (moreAt < 0) this.words[at] = above | TAG_OBJECT
    else {
      this.words[at] = above | TAG_OBJECT_AND_MORE
      this.words[moreAt] = more
    }
    return true
  }

  /** The name of a property outside of a shape: an index as the integer that it is. */
  private name(name: string): boolean {
    const index = Number(name)
    if ((index << TAG_BITS) >> TAG_BITS !== index || String(index) !== name) return this.string(name)
    this.put((index << TAG_BITS) | TAG_INTEGER)
    return true
  }

  private shapeIndex(shape: Shape): number {
    if (shape.payload !== this.payload) {
      if (this.shapesUsed === PAYLOAD_SHAPES_MAX) throw TOO_LARGE
      shape.payload = this.payload
      shape.index = this.shapesUsed++
      this.shapes[shape.index] = shape
      this.shapeWords += shapeWords(shape).length
    }
    return shape.index
  }

  private array(value: readonly unknown[], depth: number): boolean {
    const count = value.length
    if (count > NUMBERS_MAX && count > longest(value[0])) return false
    // One with names of its own beside its elements, as a match of a regular expression, or with holes.
    if (keys(value).length !== count) return false
    this.put((count << TAG_BITS) | TAG_ARRAY)
    for (let index = 0; index < count; index++) {
      const element = value[index]
      if (element === undefined && !hasOwn.call(value, index)) return false
      if (!this.value(element, depth + 1)) return false
    }
    return value.length === count
  }

  private collection(tag: number, value: Map<unknown, unknown> | Set<unknown>, depth: number): boolean {
    const { held } = this
    const first = held.length
    if (tag === TAG_MAP) forEachEntry.call(value as Map<unknown, unknown>, this.holdEntry)
    else forEachValue.call(value as Set<unknown>, this.hold)
    const end = held.length
    const count = tag === TAG_MAP ? (end - first) >> 1 : end - first
    this.put((count << TAG_BITS) | tag)
    for (let index = first; index < end; index++) if (!this.value(held[index], depth + 1)) return false
    held.length = first
    return true
  }

  private view(value: ArrayBufferView): boolean {
    const number = viewNumber(value)
    const bytes = number < 0 ? null : viewBytes(value)
    if (bytes !== null) this.putBytes((number << TAG_BITS) | TAG_VIEW, bytes)
    return bytes !== null
  }
}

/** Elements of the longest array that we take down and that begins with this one. */
function longest(first: unknown): number {
  if (typeof first === 'number') return NUMBERS_MAX
  return typeof first === 'object' && first !== null ? OBJECTS_MAX : PRIMITIVES_MAX
}

/** Whether a value with nothing to tell of it but an ordinary object's prototype is something else. One with properties is not asked: see `value-format.ts`. */
function isDisguised(value: object): boolean {
  return DISGUISED.some((is) => is(value))
}

const DISGUISED = [
  ArrayBuffer.isView, // one without elements
  types.isAnyArrayBuffer,
  types.isBoxedPrimitive,
  types.isExternal,
  types.isGeneratorObject,
  types.isMap,
  types.isMapIterator,
  types.isPromise,
  types.isSet,
  types.isSetIterator,
  types.isWeakMap,
  types.isWeakSet,
]
