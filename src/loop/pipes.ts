import type { Socket } from 'node:net'
import { constants } from 'node:os'
import { ShardloopError, type SystemError } from '../errors.js'
import type { NativePipe } from '../native/binding.js'
import { show } from '../server/given-options.js'
import type { EngineName } from '../workers/engine.js'
import {
  ReadPipe,
  type ReadPipeTransport,
  WritePipe,
  type WritePipeTransport,
} from '../workers/pipe-transport.js'
import type { Protocol } from '../workers/protocol.js'
import { type Connects, connect, descriptorOf } from './connect.js'
import {
  type CommonConnectionOptions,
  type ConnectionSettings,
  type PipeTaking,
  takeOptions,
} from './connection-options.js'
import { descriptorOf as numberOf } from './descriptors.js'
import { isRawSocket, type RawSocket } from './raw-socket.js'
import { refuseTransport } from './refuse-transport.js'

/** A pipe and its protocol, as asyncio returns them. */
export type ConnectedPipe<End, Made extends Protocol> = [transport: End, protocol: Made]

/** Options of `connectReadPipe` and `connectWritePipe`. */
export type PipeOptions = Pick<CommonConnectionOptions, 'engine'>

/**
 * What can be read, or written, as a pipe: a pipe or FIFO, a socket, a terminal or another character device that can be waited
 * for. A descriptor: it is the transport's from now on, but that of 0, 1 and 2 a duplicate is taken, for those numbers must
 * not become other files'. A stream of Node with a handle (`process.stdin`, a socket of node:net) from which nothing was read
 * that is not consumed: a duplicate of its descriptor is taken, and the stream is destroyed. A RawSocket: it is detached.
 *
 * The descriptor becomes non-blocking, and with it its duplicates, in other processes, too (fcntl(2): O_NONBLOCK is the open
 * file's): who shares a terminal with others should give it a duplicate that was opened anew (`/dev/tty`).
 */
export type PipeSource = number | RawSocket | Socket | NodeJS.ReadStream | NodeJS.WriteStream

type End<Writes extends boolean> = Writes extends true ? WritePipeTransport : ReadPipeTransport

/**
 * Goes on with a pipe, or with an end of a new one. Rejects with ERR_SHARDLOOP_ARGUMENT for what is none, or with the system's
 * error; then a descriptor stays the caller's, unless the engine had it: one that cannot be watched (/dev/null) is closed.
 */
export async function connectPipe<Made extends Protocol, Writes extends boolean>(
  factory: () => Made,
  source: PipeSource | NativePipe,
  writes: Writes,
  engine: EngineName | null,
  createdAt: string | undefined,
  connects: Connects,
): Promise<ConnectedPipe<End<Writes>, Made>> {
  const settings: ConnectionSettings = {
    engine,
    signal: undefined,
    timeoutMs: 0,
    tls: null,
    to: {
      kind: 'pipe',
      take: () => taking(source, writes),
      transportClass: writes ? WritePipe : ReadPipe,
    },
  }
  try {
    return (await connect(factory, settings, createdAt, connects)) as unknown as ConnectedPipe<
      End<Writes>,
      Made
    >
  } catch (error) {
    throw explained(error, source)
  }
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parsePipeOptions(method: string, options: unknown): EngineName | null {
  const given = takeOptions(method, options)
  const engine = given.engine()
  given.refuseUnknown()
  return engine
}

/** @throws ShardloopError ERR_SHARDLOOP_ARGUMENT */
export function checkPipe(method: string, pipe: unknown): PipeSource {
  if (typeof pipe === 'number' && Number.isInteger(pipe) && pipe >= 0 && pipe <= 0x7fff_ffff) return pipe
  if (isRawSocket(pipe)) return pipe
  if (typeof pipe === 'object' && pipe !== null && '_handle' in pipe && 'destroy' in pipe)
    return pipe as unknown as PipeSource
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `${method}: expected a descriptor's number, a RawSocket, or a stream with a handle (process.stdin, a socket), given ${show(pipe)}`,
  )
}

/** The largest of the descriptors that a process has from its start. */
const STDERR = 2

function taking(source: PipeSource | NativePipe, writes: boolean): PipeTaking {
  if (typeof source === 'number') {
    refuseTransport(source)
    return { begin: (outgoing, attempt) => outgoing.adoptPipe(source, writes, source <= STDERR, attempt) }
  }
  if ('closeEnd' in source)
    return { begin: (outgoing, attempt) => outgoing.adoptPipeEnd(source, writes, attempt) }
  if (isRawSocket(source)) {
    const fd = numberOf(source)
    return {
      begin: (outgoing, attempt) => outgoing.adoptPipe(fd, writes, false, attempt),
      begun: () => void source.detach(),
    }
  }
  const fd = descriptorOf(source as Socket)
  return {
    begin: (outgoing, attempt) => outgoing.adoptPipe(fd, writes, true, attempt),
    begun: () => void source.destroy(),
  }
}

/** What the system says of something that is no pipe says little. */
function explained(error: unknown, source: unknown): unknown {
  // Not all that a program throws is an object.
  const { errno, syscall } = (error ?? {}) as Partial<SystemError>
  const what = typeof source === 'number' ? `descriptor ${source}` : 'the descriptor'
  const refused = (why: string): ShardloopError =>
    new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `${what} cannot be used as a pipe: ${why}`, { cause: error })
  if (errno === -constants.errno.ENOTSUP && syscall === 'fstat')
    return refused('expected a pipe, a socket or a character device; read and write files by node:fs')
  if (errno === -constants.errno.EPERM && (syscall === 'epoll_ctl' || syscall === 'kevent'))
    return refused('the device is one that cannot be waited for (as /dev/null); use node:fs')
  return error
}
