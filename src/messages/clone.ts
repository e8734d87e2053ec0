import { inspect } from 'node:util'
import { Deserializer, Serializer } from 'node:v8'

type View = ArrayBufferView<ArrayBuffer>
type ViewClass = new (buffer: ArrayBuffer) => View

/** By the number under which they travel. A Buffer stays one; Float16Array is newer than the oldest Node that we run on. */
const VIEW_NAMES = [
  'Buffer',
  'Int8Array',
  'Uint8Array',
  'Uint8ClampedArray',
  'Int16Array',
  'Uint16Array',
  'Int32Array',
  'Uint32Array',
  'Float32Array',
  'Float64Array',
  'BigInt64Array',
  'BigUint64Array',
  'DataView',
  'Float16Array',
]
const BUFFER = 0

export const VIEW_CLASSES: readonly ViewClass[] = VIEW_NAMES.map(
  (name) => (globalThis as Record<string, unknown>)[name] as ViewClass,
)

/**
 * As node:v8's `serialize`: structured clone, but that a typed array takes its own range of its memory along and not what lies
 * beside it, which may be another client's. What cannot be cloned is a DataCloneError, as that of `structuredClone`; of `serialize` it
 * is an Error.
 */
class PayloadSerializer extends Serializer {
  _getDataCloneError(message: string): DOMException {
    return new DOMException(message, 'DataCloneError')
  }

  _getSharedArrayBufferId(): never {
    throw this._getDataCloneError('a SharedArrayBuffer could not be cloned: its memory would be shared')
  }

  _writeHostObject(object: object): void {
    const number = ArrayBuffer.isView(object) ? viewNumber(object) : -1
    if (number < 0) throw this._getDataCloneError(`${inspect(object, { depth: -1 })} could not be cloned.`)
    const bytes = viewBytes(object as View)
    if (bytes === null) throw this._getDataCloneError('An ArrayBuffer is detached and could not be cloned.')
    this.writeUint32(number)
    this.writeUint32(bytes.length)
    this.writeRawBytes(bytes)
  }
}

/** What it makes refers to nothing of the memory that it reads. */
class PayloadDeserializer extends Deserializer {
  _readHostObject(): View {
    const number = this.readUint32()
    const length = this.readUint32()
    const bytes = this.readRawBytes(length)
    return makeView(number, bytes)
  }
}

/** Under which number a view travels; -1 for one that does not. */
export function viewNumber(view: ArrayBufferView): number {
  if (Buffer.isBuffer(view)) return BUFFER
  return VIEW_NAMES.indexOf((view as unknown as { [Symbol.toStringTag]: string })[Symbol.toStringTag])
}

/** What a view shows; null when its memory is gone. */
export function viewBytes(view: ArrayBufferView): Uint8Array | null {
  try {
    return new Uint8Array(view.buffer, view.byteOffset, view.byteLength)
  } catch {
    return null
  }
}

/** A view, in memory of its own, of the class that travels under a number. */
export function makeView(number: number, bytes: Uint8Array): View {
  const own = number === BUFFER ? Buffer.allocUnsafeSlow(bytes.length) : new Uint8Array(bytes.length)
  own.set(bytes)
  return number === BUFFER
    ? (own as View)
    : new (VIEW_CLASSES[number] as ViewClass)(own.buffer as ArrayBuffer)
}

/** @throws DataCloneError */
export function serialize(value: unknown): Uint8Array {
  const serializer = new PayloadSerializer()
  // Not in the declarations of Node: documented as `serializer._setTreatArrayBufferViewsAsHostObjects(flag)`.
  ;(serializer as unknown as Documented)._setTreatArrayBufferViewsAsHostObjects(true)
  serializer.writeHeader()
  serializer.writeValue(value)
  return serializer.releaseBuffer()
}

interface Documented {
  _setTreatArrayBufferViewsAsHostObjects(flag: boolean): void
}

/** Nothing of the memory is referred to. */
export function deserialize(memory: Uint8Array): unknown {
  const deserializer = new PayloadDeserializer(memory)
  deserializer.readHeader()
  return deserializer.readValue()
}
