import {
  PAYLOAD_BYTES,
  PAYLOAD_CLONE,
  PAYLOAD_FALSE,
  PAYLOAD_INTEGER,
  PAYLOAD_LATIN1,
  PAYLOAD_NULL,
  PAYLOAD_NUMBER,
  PAYLOAD_TRUE,
  PAYLOAD_UNDEFINED,
  PAYLOAD_UTF16,
  PAYLOAD_VALUES,
} from '../native/abi.js'
import { deserialize, serialize } from './clone.js'
import { ValueDecoder } from './value-decoder.js'
import { ValueEncoder } from './value-encoder.js'

/**
 * A payload in the form in which it travels between threads: bytes, strings and numbers in forms of their
 * own, plain objects, Maps, Dates and the like as `value-format.ts` has them, everything else as V8 serialises it (structured clone,
 * `clone.ts`). What arrives is the same. One object is used for all messages of a thread.
 */
export class EncodedPayload {
  /** A PAYLOAD_ constant. */
  encoding: number = PAYLOAD_UNDEFINED
  /** Bytes. */
  length = 0
  /** What goes in the place of the length, of PAYLOAD_INTEGER. */
  integer = 0
  private number = 0
  private text = ''
  private bytes: Uint8Array | null = null
  private readonly values = new ValueEncoder()

  /** @throws DataCloneError for what structured clone does not take */
  set(payload: unknown): void {
    this.length = 0
    if (typeof payload === 'string') {
      this.setText(payload, PAYLOAD_LATIN1, PAYLOAD_UTF16)
    } else if (payload instanceof Uint8Array) {
      this.setBytes(PAYLOAD_BYTES, payload)
    } else if (typeof payload === 'number') {
      if ((payload | 0) === payload && !Object.is(payload, -0)) {
        this.encoding = PAYLOAD_INTEGER
        this.integer = payload
      } else {
        this.encoding = PAYLOAD_NUMBER
        this.number = payload
        this.length = 8
      }
    } else if (payload === undefined) this.encoding = PAYLOAD_UNDEFINED
    else if (payload === null) this.encoding = PAYLOAD_NULL
    else if (typeof payload === 'boolean') this.encoding = payload ? PAYLOAD_TRUE : PAYLOAD_FALSE
    else if (typeof payload === 'object' && this.values.encode(payload)) {
      this.encoding = PAYLOAD_VALUES
      this.length = this.values.length * 4
    } else this.setBytes(PAYLOAD_CLONE, serialize(payload))
  }

  /**
   * Puts it at a place, a whole word; there must be room for its length.
   * @param words the same memory
   */
  write(memory: Buffer, words: Int32Array, at: number): void {
    switch (this.encoding) {
      case PAYLOAD_BYTES:
      case PAYLOAD_CLONE:
        memory.set(this.bytes as Uint8Array, at)
        break
      case PAYLOAD_LATIN1:
        memory.write(this.text, at, this.length, 'latin1')
        break
      case PAYLOAD_UTF16:
        memory.write(this.text, at, this.length, 'utf16le')
        break
      case PAYLOAD_NUMBER:
        memory.writeDoubleLE(this.number, at)
        break
      case PAYLOAD_VALUES:
        this.values.write(words, at >> 2)
        break
    }
  }

  /** Its bytes, when they travel by themselves. */
  whole(): Uint8Array {
    if (this.bytes !== null) return this.bytes
    const copy = Buffer.allocUnsafeSlow(this.length)
    this.write(copy, wordsOf(copy), 0)
    return copy
  }

  /** Lets go of the caller's, once it was sent, or not. */
  release(): void {
    this.values.release()
    this.bytes = null
    this.text = ''
  }

  private setText(text: string, latin1: number, utf16: number): void {
    this.text = text
    // In UTF-8 a byte for each character: it has none that is not ASCII.
    const isAscii = Buffer.byteLength(text, 'utf8') === text.length
    this.encoding = isAscii ? latin1 : utf16
    this.length = isAscii ? text.length : text.length * 2
  }

  private setBytes(encoding: number, bytes: Uint8Array): void {
    this.encoding = encoding
    this.bytes = bytes
    this.length = bytes.length
  }
}

/**
 * The value of a payload in memory that is used again: nothing of it is referred to.
 * @param words the same memory
 * @param at a whole word
 * @param length as it stands in the message
 */
export function decodePayload(
  encoding: number,
  memory: Buffer,
  words: Int32Array,
  at: number,
  length: number,
): unknown {
  switch (encoding) {
    case PAYLOAD_BYTES:
      return ownCopy(memory, at, length)
    case PAYLOAD_INTEGER:
      return length
    case PAYLOAD_LATIN1:
      return memory.toString('latin1', at, at + length)
    case PAYLOAD_UTF16:
      return memory.toString('utf16le', at, at + length)
    case PAYLOAD_NUMBER:
      return memory.readDoubleLE(at)
    case PAYLOAD_VALUES:
      return values.decode(memory, words, at, length)
    case PAYLOAD_CLONE:
      return deserialize(memory.subarray(at, at + length))
    default:
      return DECODED[encoding]
  }
}

/** The value of a payload that came by itself, in memory of its own. */
export function decodeLarge(encoding: number, bytes: Buffer): unknown {
  return encoding === PAYLOAD_BYTES ? bytes : decodePayload(encoding, bytes, wordsOf(bytes), 0, bytes.length)
}

const values = new ValueDecoder()

function wordsOf(memory: Buffer): Int32Array {
  return new Int32Array(memory.buffer, memory.byteOffset, memory.length >> 2)
}

/** By encoding: values without bytes. */
const DECODED: readonly unknown[] = Object.assign([], {
  [PAYLOAD_UNDEFINED]: undefined,
  [PAYLOAD_NULL]: null,
  [PAYLOAD_TRUE]: true,
  [PAYLOAD_FALSE]: false,
})

/** Up to here a loop is faster than a call of the engine's own copy, which needs a view of the range first. */
const LOOP_MAX_BYTES = 80

/** A copy that shares its memory with nothing. */
function ownCopy(memory: Buffer, at: number, length: number): Buffer {
  const copy = Buffer.allocUnsafeSlow(length)
  if (length > LOOP_MAX_BYTES) memory.copy(copy, 0, at, at + length)
  else for (let index = 0; index < length; index++) copy[index] = memory[at + index] as number
  return copy
}
