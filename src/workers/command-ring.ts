import {
  ADDRESS_IPV4,
  COMMAND_DATAGRAM,
  COMMAND_RING_RECORDS,
  COMMAND_WRITE,
  COMMAND_WRITE_SLAB,
  CONTROL_COMMANDS,
  CONTROL_WRITE_BYTES,
  KIND_MASK,
  RECORD_WORDS,
  SLAB_SHIFT,
  WRITE_SLAB_BYTES,
} from '../native/abi.js'
import { type AddressForm, wordsOf } from './datagram-addresses.js'

const CAPACITY = COMMAND_RING_RECORDS * RECORD_WORDS

/**
 * Commands on their way to native code, which takes them after each batch and before its loop waits. So a small write
 * is a copy and four integers, not a native call. Its memory never leaves this module and native code: nobody can
 * detach it.
 */
export class CommandRing {
  readonly commands: Int32Array = new Int32Array(CAPACITY)
  readonly writeSlab: Buffer = Buffer.allocUnsafeSlow(WRITE_SLAB_BYTES)
  /** The write slab in words. */
  private readonly slabWords: Int32Array = new Int32Array(this.writeSlab.buffer)
  private readonly control: Int32Array
  private readonly flush: () => void

  constructor(control: Int32Array, flush: () => void) {
    this.control = control
    this.flush = flush
  }

  /** Whether some wait to be taken. */
  get isWaiting(): boolean {
    return this.control[CONTROL_COMMANDS] !== 0
  }

  push(operation: number, handle: number, a: number, b: number): void {
    let at = this.control[CONTROL_COMMANDS] as number
    if (at === CAPACITY) {
      this.flush()
      at = 0
    }
    const commands = this.commands
    commands[at] = operation
    commands[at + 1] = handle
    commands[at + 2] = a
    commands[at + 3] = b
    this.control[CONTROL_COMMANDS] = at + RECORD_WORDS
  }

  /** Copies bytes, fewer than the slab holds. */
  write(handle: number, data: Uint8Array): void {
    const length = data.length
    if ((this.control[CONTROL_WRITE_BYTES] as number) + length > WRITE_SLAB_BYTES) this.flush()
    const offset = this.control[CONTROL_WRITE_BYTES] as number
    this.writeSlab.set(data, offset)
    this.record(handle, offset, length)
  }

  /**
   * Encodes text of which the slab holds at least three times the length, the most that UTF-8 takes.
   * @returns how many bytes it has
   */
  writeText(handle: number, text: string, encoding: 'utf8' | 'latin1'): number {
    if ((this.control[CONTROL_WRITE_BYTES] as number) + text.length * 3 > WRITE_SLAB_BYTES) this.flush()
    const offset = this.control[CONTROL_WRITE_BYTES] as number
    const length = this.writeSlab.write(text, offset, encoding)
    this.record(handle, offset, length)
    return length
  }

  /** Copies a datagram behind its destination. */
  datagram(endpoint: number, destination: AddressForm, data: Uint8Array): void {
    const { control, slabWords } = this
    const { first, words } = destination
    const length = wordsOf(first) * 4 + data.length
    // Words begin at multiples of their length.
    let offset = ((control[CONTROL_WRITE_BYTES] as number) + 3) & ~3
    if (offset + length > WRITE_SLAB_BYTES || control[CONTROL_COMMANDS] === CAPACITY) {
      this.flush()
      offset = 0
    }
    const at = offset >> 2
    slabWords[at] = first
    if (words !== null) slabWords.set(words, at)
    else if ((first & KIND_MASK) === ADDRESS_IPV4) slabWords[at + 1] = destination.second
    this.writeSlab.set(data, offset + length - data.length)
    control[CONTROL_WRITE_BYTES] = offset + length
    this.push(COMMAND_DATAGRAM, endpoint, offset, length)
  }

  /** Refers to bytes of a read slab, which stay as they are until the batch's commands are flushed. */
  writeFromSlab(handle: number, slab: number, offset: number, length: number): void {
    this.push(COMMAND_WRITE_SLAB | (slab << SLAB_SHIFT), handle, offset, length)
  }

  private record(handle: number, offset: number, length: number): void {
    const { commands, control } = this
    const at = control[CONTROL_COMMANDS] as number
    control[CONTROL_WRITE_BYTES] = offset + length
    // A write right behind the last of the same connection lengthens that one's record.
    if (
      at > 0 &&
      commands[at - 3] === handle &&
      commands[at - 4] === COMMAND_WRITE &&
      (commands[at - 2] as number) + (commands[at - 1] as number) === offset
    ) {
      commands[at - 1] = (commands[at - 1] as number) + length
      return
    }
    if (at === CAPACITY) {
      // The bytes stay where they are in the slab; only the position starts over, and nothing is written before the
      // record is.
      this.flush()
      control[CONTROL_WRITE_BYTES] = offset + length
    }
    this.push(COMMAND_WRITE, handle, offset, length)
  }
}
