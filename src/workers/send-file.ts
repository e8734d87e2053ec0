import { read } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { constants } from 'node:os'
import { promisify } from 'node:util'
import { systemError } from '../errors.js'
import { FILE_READ_BYTES } from '../limits.js'
import { invalid } from './invalid.js'
import type { Transport } from './protocol.js'
import { unwatchSignal, watchSignal } from './shared-signals.js'
import { TcpTransport } from './transport.js'

/** Options of `sendFile`. */
export interface SendFileOptions {
  /** Whether what the kernel cannot send by itself is read and written instead. Default true. */
  readonly fallback?: boolean
  /** Ends it: the connection is aborted, for what is missing of the file cannot be made up for. */
  readonly signal?: AbortSignal
}

/** Largest number of a descriptor: native code takes 31 bits. */
const DESCRIPTOR_MAX = 0x7fff_ffff

const readDescriptor = promisify(read)

/**
 * Sends `count` bytes of a file from `offset` on, or what there is to its end, behind what was written; by sendfile(2), so
 * that the bytes do not pass through this process, or, where the kernel cannot (EINVAL, ENOSYS …), by reading and writing. Until
 * it has ended nobody may write to the connection (ERR_SHARDLOOP_STATE), as in asyncio; `writeEof` and `close` come behind it.
 *
 * With mio the shard's thread waits for what the kernel has to read from the disk, up to 256 KiB at a time.
 *
 * @param file may be closed once this has returned, unless it is read and written; a descriptor then has to stay open until
 * the end
 * @returns the number of bytes sent, less than `count` when the file is shorter
 * @throws the error of the file (ERR_SHARDLOOP_ARGUMENT, EBADF, EISDIR …), or what ended the connection
 */
export async function sendFile(
  transport: Transport,
  file: FileHandle | number,
  offset = 0,
  count: number | null = null,
  options: SendFileOptions = {},
): Promise<number> {
  const { fallback = true, signal } = options
  if (!(transport instanceof TcpTransport))
    throw invalid('transport', transport, 'the transport of a stream connection')
  const fd = typeof file === 'number' ? file : file?.fd
  if (typeof file === 'object' && fd === -1) throw systemError(constants.errno.EBADF, 'sendfile') // a closed FileHandle's
  if (!(Number.isInteger(fd) && fd >= 0 && fd <= DESCRIPTOR_MAX))
    throw invalid('file', file, 'an open FileHandle of node:fs/promises, or a descriptor')
  if (!(Number.isSafeInteger(offset) && offset >= 0))
    throw invalid('offset', offset, 'bytes: an integer, 0 or more')
  if (count !== null && !(Number.isSafeInteger(count) && count >= 0))
    throw invalid('count', count, 'bytes: an integer, 0 or more, or null for all to the end')
  signal?.throwIfAborted()
  const end = transport.barWriting()
  const listener = { handleEvent: (): void => transport.abort(asError(signal?.reason)) }
  if (signal !== undefined) watchSignal(signal, listener)
  try {
    const outcome = await transport.sendFile(fd, offset, count ?? -1)
    if (typeof outcome === 'number') return outcome
    if (!fallback || !CANNOT.has(outcome.code)) throw outcome
    return await readAndWrite(transport, file, offset, count ?? Number.POSITIVE_INFINITY)
  } catch (error) {
    if (signal?.aborted) throw signal.reason
    throw error
  } finally {
    if (signal !== undefined) unwatchSignal(signal, listener)
    end()
  }
}

/** What says that the kernel cannot send this file by itself (sendfile(2)), and nothing of the file. */
const CANNOT: ReadonlySet<string> = new Set([
  'EINVAL',
  'ENOSYS',
  'EOPNOTSUPP',
  'ENOTSUP',
  'ESPIPE',
  'EOVERFLOW',
])

async function readAndWrite(
  transport: TcpTransport,
  file: FileHandle | number,
  offset: number,
  count: number,
): Promise<number> {
  const buffer = Buffer.allocUnsafeSlow(FILE_READ_BYTES)
  let sent = 0
  while (sent < count) {
    const wanted = Math.min(buffer.length, count - sent)
    // A FileHandle knows whether it is closed; its number may be another file's by then.
    const { bytesRead } = await (typeof file === 'number'
      ? readDescriptor(file, buffer, 0, wanted, offset + sent)
      : file.read(buffer, 0, wanted, offset + sent))
    if (bytesRead === 0) break
    await transport.writeBarred(buffer.subarray(0, bytesRead))
    sent += bytesRead
  }
  return sent
}

function asError(reason: unknown): Error {
  return reason instanceof Error ? reason : new Error('sendFile was called off', { cause: reason })
}
