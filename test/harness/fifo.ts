import { execFileSync } from 'node:child_process'
import { closeSync, constants, fstatSync, openSync, read, readSync, writeSync } from 'node:fs'
import { promisify } from 'node:util'
import type { TestContext } from './suite.js'

const readSome = promisify(read)

/** Both ends of a pipe, as descriptors; what is not given away is closed after the test. */
export interface Fifo {
  /** To read; does not wait. */
  readonly reader: number
  /** To write; does not wait. */
  readonly writer: number
  /** Closes one, once. */
  close(end: number): void
  /** It belongs to somebody else now. */
  give(end: number): number
}

/** A new pipe. */
export function openFifo(t: TestContext): Fifo {
  const path = t.path('fifo')
  execFileSync('mkfifo', [path])
  const reader = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  const writer = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK)
  const ours = new Set([reader, writer])
  const close = (end: number): void => {
    if (ours.delete(end)) closeSync(end)
  }
  t.defer(() => [...ours].forEach(close))
  const give = (end: number): number => {
    ours.delete(end)
    return end
  }
  return { reader, writer, close, give }
}

/** Reads so many bytes, or to the end when there are fewer. */
export async function readUpTo(fd: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  let filled = 0
  while (filled < length) {
    try {
      const { bytesRead } = await readSome(fd, buffer, filled, length - filled, null)
      if (bytesRead === 0) break
      filled += bytesRead
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
      await new Promise((resolve) => setImmediate(resolve))
    }
  }
  return buffer.subarray(0, filled)
}

/** Writes as much as goes in without waiting. @returns how many bytes of the content that was */
export function writeUntilFull(fd: number, content: Buffer): number {
  let written = 0
  while (written < content.length) {
    try {
      written += writeSync(fd, content, written)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
      break
    }
  }
  return written
}

/** Whether a descriptor is open. */
export function isOpen(fd: number): boolean {
  try {
    fstatSync(fd)
    return true
  } catch {
    return false
  }
}

/** What a read without waiting says: the bytes, or the code of the error. */
export function readNow(fd: number, length: number): Buffer | string {
  const buffer = Buffer.alloc(length)
  try {
    return buffer.subarray(0, readSync(fd, buffer))
  } catch (error) {
    return (error as NodeJS.ErrnoException).code ?? String(error)
  }
}
