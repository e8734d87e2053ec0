import { ShardloopError, systemError } from '../errors.js'
import {
  MAIL_CALL_NUMBER,
  MAIL_CONTROL_END,
  MAIL_CONTROL_WORDS,
  MAIL_FROM,
  MAIL_FROM_PLACE,
  MAIL_HEADER_WORDS,
  MAIL_INBOX_BYTES,
  MAIL_INLINE_MAX_BYTES,
  MAIL_KIND,
  MAIL_LARGE,
  MAIL_LENGTH,
  MAIL_MESSAGE_BYTES,
  MAIL_NAME,
  MAIL_OUTBOX_BYTES,
  MAIL_PAYLOAD_SHIFT,
  MAILBOX_MAX_BYTES,
  PAYLOAD_INTEGER,
  PLACE_SUPERVISOR,
} from '../native/abi.js'
import type { NativeMailbox } from '../native/binding.js'
import { native } from '../native/index.js'
import { decodeLarge, decodePayload, EncodedPayload } from './payload.js'

/** Who is told of messages. */
export interface MessageReader {
  /**
   * @param kind a MAIL_ constant
   * @param name number of a function's name
   * @param call number of a call
   */
  message(kind: number, from: number, fromPlace: number, name: number, call: number, payload: unknown): void
  /** As `message`, of one whose payload cannot be read. */
  unreadable(kind: number, from: number, fromPlace: number, name: number, call: number, error: unknown): void
}

type HotCalls = ReturnType<NativeMailbox['hotCalls']>

const HEADER_BYTES = MAIL_HEADER_WORDS * 4
const KIND_MASK = (1 << MAIL_PAYLOAD_SHIFT) - 1
const PAYLOAD_MASK = 0xff
/** An outbox begins with so much and grows. */
const OUTBOX_FIRST_BYTES = 4096

/** What this thread has to say to one other and has not sent yet. */
class Outbox {
  readonly address: number
  readonly place: number
  memory: Buffer = Buffer.allocUnsafeSlow(OUTBOX_FIRST_BYTES)
  words: Int32Array = new Int32Array(this.memory.buffer)
  /** Bytes in it. */
  used = 0
  /** Of the receiver's room: what it costs... */
  cost = 0
  /** ... and what is granted beyond that. */
  credit = 0
  /** Messages in it that nobody waits for an answer to. */
  messages = 0

  constructor(address: number, place: number) {
    this.address = address
    this.place = place
  }

  /** Makes room for so many bytes more; false when it is as large as it may be. */
  grow(bytes: number): boolean {
    let size = this.memory.length
    while (size < this.used + bytes) size *= 4
    if (size > MAIL_OUTBOX_BYTES) return false
    const memory = Buffer.allocUnsafeSlow(size)
    memory.set(this.memory)
    this.memory = memory
    this.words = new Int32Array(memory.buffer)
    return true
  }
}

export type { Outbox }

/** As it was before the program may have replaced it. */
const nextTick = process.nextTick

/**
 * This thread's mailbox: what it has to say to others is gathered, and sent when the callback that says it is over, with one
 * native call for each other thread; what others say comes in batches.
 */
export class Post {
  readonly address: number
  readonly #place: number
  readonly #reader: MessageReader
  readonly #native: NativeMailbox
  readonly #calls: HotCalls
  readonly #control: Int32Array = new Int32Array(MAIL_CONTROL_WORDS)
  readonly #inbox: Buffer = Buffer.allocUnsafeSlow(MAIL_INBOX_BYTES)
  readonly #words: Int32Array = new Int32Array(this.#inbox.buffer)
  readonly #payload = new EncodedPayload()
  /** By address. */
  readonly #outboxes = new Map<number, Outbox>()
  /** Those to be sent. */
  #waiting: Outbox[] = []
  #lost = 0
  /** What is in the inbox is being read: it is sent behind that. */
  #isReading = false
  readonly #whenClosed: Promise<void>
  readonly #flush: () => void = () => this.flush()
  readonly #end: () => void = () => {
    this.#isEnding = true
    this.flush()
  }
  /** The thread's last callbacks run: there is no later at which to send. */
  #isEnding = false
  #isClosed = false

  /**
   * @param place a shard's number, or a PLACE_ constant
   * @throws the system's error when there is no descriptor left
   */
  constructor(place: number, reader: MessageReader) {
    this.#place = place
    this.#reader = reader
    let closed!: () => void
    this.#whenClosed = new Promise((resolve) => {
      closed = resolve
    })
    const opened = native.openMailbox({
      place,
      control: this.#control,
      inbox: this.#inbox,
      read: () => this.#read(),
      closed,
    })
    if ('errno' in opened) throw systemError(opened.errno, opened.syscall)
    this.#native = opened
    this.address = opened.address
    this.#calls = opened.hotCalls()
    process.on('exit', this.#end)
  }

  /** Whether somebody here waits for an answer, which keeps the thread alive. */
  keepAlive(alive: boolean): void {
    this.#native.keepAlive(alive)
  }

  /** Sends what waits and closes the mailbox. Resolves when its native half is gone. */
  close(): Promise<void> {
    this.flush()
    this.#isClosed = true
    process.removeListener('exit', this.#end)
    this.#native.close()
    return this.#whenClosed
  }

  /** For who is at an address. */
  outbox(address: number, place: number): Outbox {
    let outbox = this.#outboxes.get(address)
    if (outbox === undefined) {
      outbox = new Outbox(address, place)
      this.#outboxes.set(address, outbox)
    }
    return outbox
  }

  /** A mailbox is gone: what waits for it is lost. */
  forget(address: number): void {
    this.#native.forget(address)
    const outbox = this.#outboxes.get(address)
    if (outbox === undefined) return
    this.#outboxes.delete(address)
    this.#lost += outbox.messages
    outbox.used = 0
    outbox.credit = 0
  }

  /**
   * Puts a message into an outbox.
   * @returns false when the mailbox is gone
   * @throws ShardloopError ERR_SHARDLOOP_MAILBOX_FULL, or a DataCloneError; then nothing is sent
   */
  write(outbox: Outbox, kind: number, name: number, call: number, payload: unknown): boolean {
    try {
      this.#payload.set(payload)
      return this.#put(outbox, kind, name, call)
    } finally {
      this.#payload.release()
    }
  }

  /**
   * Puts a message into several outboxes; those of mailboxes that are gone are left out.
   * @returns the errors of those that are full
   * @throws a DataCloneError; then nothing is sent
   */
  writeAll(outboxes: readonly Outbox[], kind: number, name: number, payload: unknown): unknown[] {
    const refused: unknown[] = []
    try {
      this.#payload.set(payload)
      for (const outbox of outboxes) {
        try {
          this.#put(outbox, kind, name, 0)
        } catch (error) {
          refused.push(error)
        }
      }
    } finally {
      this.#payload.release()
    }
    return refused
  }

  /** As `write`, for what needs no room: answers to those who wait for them. */
  answer(outbox: Outbox, kind: number, call: number, payload: unknown): void {
    try {
      this.#payload.set(payload)
      this.#append(outbox, kind, 0, call, 0)
    } finally {
      this.#payload.release()
    }
  }

  /** Sends what waits. */
  flush(): void {
    if (this.#waiting.length === 0) return
    const waiting = this.#waiting
    this.#waiting = []
    for (const outbox of waiting) this.#send(outbox)
  }

  /** How many messages were for threads that were gone when they were sent, since it was asked last. */
  takeLost(): number {
    const lost = this.#lost
    this.#lost = 0
    return lost
  }

  /** Puts the payload into an outbox, if there is room; false when the mailbox is gone. */
  #put(outbox: Outbox, kind: number, name: number, call: number): boolean {
    const cost = MAIL_MESSAGE_BYTES + this.#payload.length
    if (outbox.credit < cost) {
      const granted = cost > MAILBOX_MAX_BYTES ? 0 : this.#calls.reserve(outbox.address, cost - outbox.credit)
      if (granted < 0) return false
      if (granted === 0) throw this.#fullError(outbox, cost)
      outbox.credit += granted
    }
    outbox.credit -= cost
    this.#append(outbox, kind, name, call, cost)
    return true
  }

  #append(outbox: Outbox, kind: number, name: number, call: number, cost: number): void {
    const payload = this.#payload
    const { length } = payload
    if (length > MAIL_INLINE_MAX_BYTES) {
      this.#send(outbox) // what was said before comes before
      const header = Buffer.allocUnsafeSlow(HEADER_BYTES)
      this.#head(new Int32Array(header.buffer), 0, kind | MAIL_LARGE, name, call)
      if (!this.#calls.sendLarge(outbox.address, header, payload.whole(), cost) && call === 0) this.#lost += 1
      return
    }
    const bytes = HEADER_BYTES + ((length + 3) & ~3)
    if (outbox.used + bytes > outbox.memory.length && !outbox.grow(bytes)) this.#send(outbox)
    const at = outbox.used
    if (at === 0) this.#wait(outbox)
    this.#head(outbox.words, at >> 2, kind, name, call)
    if (length > 0) payload.write(outbox.memory, outbox.words, at + HEADER_BYTES)
    outbox.used = at + bytes
    outbox.cost += cost
    if (call === 0) outbox.messages += 1
    if (this.#isEnding) this.#send(outbox)
  }

  #head(words: Int32Array, at: number, kind: number, name: number, call: number): void {
    const { encoding, length, integer } = this.#payload
    words[at + MAIL_KIND] = kind | (encoding << MAIL_PAYLOAD_SHIFT)
    words[at + MAIL_FROM] = this.address
    words[at + MAIL_FROM_PLACE] = this.#place
    words[at + MAIL_NAME] = name
    words[at + MAIL_CALL_NUMBER] = call
    words[at + MAIL_LENGTH] = encoding === PAYLOAD_INTEGER ? integer : length
  }

  #wait(outbox: Outbox): void {
    if (this.#waiting.length === 0 && !this.#isReading) nextTick(this.#flush)
    this.#waiting.push(outbox)
  }

  #send(outbox: Outbox): void {
    const { used } = outbox
    if (used === 0) return
    const sent = this.#calls.send(outbox.address, outbox.memory, used, outbox.cost)
    // Who waits for an answer is told by the note that the mailbox is gone.
    if (!sent) this.#lost += outbox.messages
    outbox.used = 0
    outbox.cost = 0
    outbox.messages = 0
  }

  /** Called by native code with messages in the inbox. */
  #read(): void {
    const end = this.#control[MAIL_CONTROL_END] as number
    this.#isReading = true
    try {
      this.#readUntil(end)
    } finally {
      this.#isReading = false
      this.flush()
    }
  }

  #readUntil(end: number): void {
    const words = this.#words
    const inbox = this.#inbox
    let at = 0
    // Once it is closed, which a function that is called may do, nothing is heard any more.
    while (at < end && !this.#isClosed) {
      const word = at >> 2
      const first = words[word + MAIL_KIND] as number
      const length = words[word + MAIL_LENGTH] as number
      const encoding = (first >> MAIL_PAYLOAD_SHIFT) & PAYLOAD_MASK
      const begins = at + HEADER_BYTES
      const kind = first & KIND_MASK
      const from = words[word + MAIL_FROM] as number
      const fromPlace = words[word + MAIL_FROM_PLACE] as number
      const name = words[word + MAIL_NAME] as number
      const call = words[word + MAIL_CALL_NUMBER] as number
      const isLarge = (first & MAIL_LARGE) !== 0
      at = isLarge || encoding === PAYLOAD_INTEGER ? begins : begins + ((length + 3) & ~3)
      let payload: unknown
      try {
        payload = isLarge
          ? decodeLarge(encoding, this.#calls.takeLarge())
          : decodePayload(encoding, inbox, words, begins, length)
      } catch (error) {
        // One that is nested too deep for this thread's stack, say; those behind it are for others.
        this.#reader.unreadable(kind, from, fromPlace, name, call, error)
        continue
      }
      this.#reader.message(kind, from, fromPlace, name, call, payload)
    }
  }

  #fullError(outbox: Outbox, cost: number): ShardloopError {
    const whose = describePlace(outbox.place)
    const why =
      cost > MAILBOX_MAX_BYTES
        ? `a message of ${cost} bytes is larger than a mailbox`
        : `the mailbox of ${whose} is full: it has not read what it was sent`
    return new ShardloopError(
      'ERR_SHARDLOOP_MAILBOX_FULL',
      `${why} (${MAILBOX_MAX_BYTES} bytes, of which each message takes ${MAIL_MESSAGE_BYTES} and its payload): ` +
        'send less, or wait for answers',
    )
  }
}

/** A thread, for people. */
export function describePlace(place: number): string {
  if (place === PLACE_SUPERVISOR) return 'the supervisor'
  return place < 0 ? 'a thread of the program' : `shard ${place}`
}
