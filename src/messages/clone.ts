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

const VIEW_CLASSES = VIEW_NAMES.map((name) => (globalThis as Record<string, unknown>)[name] as ViewClass)

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
    const number = ArrayBuffer.isView(object) ? numberOf(object) : -1
    if (number < 0) throw this._getDataCloneError(`${inspect(object, { depth: -1 })} could not be cloned.`)
    const { buffer, byteOffset, byteLength } = object as View
    this.writeUint32(number)
    this.writeUint32(byteLength)
    this.writeRawBytes(new Uint8Array(buffer, byteOffset, byteLength))
  }
}

/** What it makes refers to nothing of the memory that it reads. */
class PayloadDeserializer extends Deserializer {
  _readHostObject(): View {
    const number = this.readUint32()
    const length = this.readUint32()
    const bytes = this.readRawBytes(length)
    const own = number === BUFFER ? Buffer.allocUnsafeSlow(length) : new Uint8Array(length)
    own.set(bytes)
    return number === BUFFER
      ? (own as View)
      : new (VIEW_CLASSES[number] as ViewClass)(own.buffer as ArrayBuffer)
  }
}

function numberOf(view: ArrayBufferView): number {
  if (Buffer.isBuffer(view)) return BUFFER
  return VIEW_NAMES.indexOf((view as unknown as { [Symbol.toStringTag]: string })[Symbol.toStringTag])
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
