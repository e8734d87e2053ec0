import { Buffer } from 'node:buffer'
import { ShardloopError } from '../errors.js'
import { invalid } from '../workers/invalid.js'

/** What bytes can be separated by. A string is UTF-8. */
export type Separator = string | Uint8Array

/** One of the separators, and how much of it the bytes end with that were looked through. */
interface Pattern {
  readonly bytes: Uint8Array
  /** For each length of a beginning: the longest shorter beginning that it ends with (Knuth, Morris and Pratt). */
  readonly shorter: Uint32Array
  matched: number
}

/**
 * Looks for the first of some separators in bytes that come in pieces. The first is the one that ends first; of several that
 * end there, the shortest. Linear in the bytes, however they are cut.
 */
export class SeparatorSearch {
  /** Bytes of the longest separator. */
  readonly longest: number
  /** Bytes of the one that was found last. */
  found = 0
  /** The shortest first. */
  private readonly patterns: readonly Pattern[]
  /** What all of them begin with; -1 when they do not begin alike. */
  private readonly beginning: number
  private readonly isOneByte: boolean
  /** The bytes so far end with the beginning of a separator. */
  private begun = false

  /** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT when there is none, or an empty one */
  constructor(separators: Separator | readonly Separator[]) {
    const list = (Array.isArray(separators) ? separators : [separators]) as readonly Separator[]
    if (list.length === 0)
      throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', 'there is no separator; expected at least one')
    this.patterns = list.map(patternOf).sort((one, other) => one.bytes.length - other.bytes.length)
    const [first, ...others] = this.patterns as [Pattern, ...Pattern[]]
    this.longest = (this.patterns[this.patterns.length - 1] as Pattern).bytes.length
    const beginning = first.bytes[0] as number
    this.beginning = others.every(({ bytes }) => bytes[0] === beginning) ? beginning : -1
    this.isOneByte = this.longest === 1 && this.beginning >= 0
  }

  /** @returns where behind the first separator the piece goes on, or -1; then the next piece is what comes behind it */
  find(piece: Buffer, from: number): number {
    if (this.isOneByte) {
      const at = piece.indexOf(this.beginning, from)
      this.found = 1
      return at < 0 ? -1 : at + 1
    }
    let at = from
    while (at < piece.length) {
      if (!this.begun) {
        at = this.nextBeginning(piece, at)
        if (at < 0) return -1
      }
      const found = this.step(piece[at] as number)
      at += 1
      if (found > 0) {
        this.found = found
        this.reset()
        return at
      }
    }
    return -1
  }

  /** Forgets what was looked through. */
  reset(): void {
    if (!this.begun) return
    this.begun = false
    for (const pattern of this.patterns) pattern.matched = 0
  }

  /** @returns the length of the separator that ends with this byte, or 0 */
  private step(byte: number): number {
    this.begun = false
    for (const pattern of this.patterns) {
      const { bytes, shorter } = pattern
      let { matched } = pattern
      while (matched > 0 && bytes[matched] !== byte) matched = shorter[matched - 1] as number
      if (bytes[matched] === byte) matched += 1
      pattern.matched = matched
      if (matched > 0) this.begun = true
      if (matched === bytes.length) return matched
    }
    return 0
  }

  private nextBeginning(piece: Buffer, from: number): number {
    if (this.beginning >= 0) return piece.indexOf(this.beginning, from)
    for (let at = from; at < piece.length; at++) {
      for (const { bytes } of this.patterns) if (bytes[0] === piece[at]) return at
    }
    return -1
  }
}

/** A separator's own bytes. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function separatorBytes(separator: Separator): Buffer {
  if (typeof separator !== 'string' && !(separator instanceof Uint8Array))
    throw invalid('a separator', separator, 'a string or a Uint8Array')
  const bytes = Buffer.from(separator as string) // a copy: the caller's may change
  if (bytes.length === 0) throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', 'a separator is empty')
  return bytes
}

function patternOf(separator: Separator): Pattern {
  const bytes = separatorBytes(separator)
  const shorter = new Uint32Array(bytes.length)
  for (let at = 1, matched = 0; at < bytes.length; at++) {
    while (matched > 0 && bytes[matched] !== bytes[at]) matched = shorter[matched - 1] as number
    if (bytes[matched] === bytes[at]) matched += 1
    shorter[at] = matched
  }
  return { bytes, shorter, matched: 0 }
}
