/** Serves a soak's connections in the shards; the URL's query says how: `?service=mixed&seed=1&fault=corrupt`. */
import { type ExceptionContext, type Protocol, shardId } from 'shardloop'
import { BorrowedEcho, BufferedEcho, ChunkEcho } from '../harness/echo-protocols.js'
import { MixedEcho } from '../harness/mixed-echo.js'
import { Random } from '../harness/random.js'
import { FAULTY_CONNECTIONS, type Fault } from './faults.js'
import { ABORTS_WITHIN_BYTES, ECHOING, IDLE_MAX_MS, IDLE_MIN_MS, type Service } from './plan.js'
import { begin, tellException } from './shard.js'

/** Echoes so many bytes, then breaks the connection. */
class AbortingEcho extends ChunkEcho {
  #left: number = random.size(1, ABORTS_WITHIN_BYTES)

  override dataReceived(chunk: Buffer): void {
    this.#left -= chunk.length
    super.dataReceived(chunk)
    if (this.#left <= 0) this.transport.abort()
  }
}

/** Breaks the connection when nothing moves. Not before the first byte: the client may not know yet that it stands. */
class ExpiringEcho extends ChunkEcho {
  override dataReceived(chunk: Buffer): void {
    super.dataReceived(chunk)
    this.transport.setIdleTimeout(random.between(IDLE_MIN_MS, IDLE_MAX_MS))
  }
}

class CorruptingEcho extends ChunkEcho {
  override dataReceived(chunk: Buffer): void {
    const at = random.below(chunk.length)
    chunk[at] = (chunk[at] as number) ^ 1
    super.dataReceived(chunk)
  }
}

/** Swallows everything, and never ends. */
class HangingEcho extends ChunkEcho {
  override dataReceived(): void {}
  eofReceived(): boolean {
    return true
  }
}

class CuttingEcho extends ChunkEcho {
  override dataReceived(): void {
    this.transport.close()
  }
}

class ThrowingEcho extends ChunkEcho {
  override dataReceived(): void {
    throw new Error('threw as it was told')
  }
}

const query = new URL(import.meta.url).searchParams
const service = query.get('service') as Service
const fault = query.get('fault') as Fault | null
const random = new Random(Number(query.get('seed')) + (shardId ?? 0))
const PROTOCOLS: Readonly<Record<Service, () => Protocol>> = {
  chunk: () => new ChunkEcho(),
  borrowed: () => new BorrowedEcho(),
  buffered: () => new BufferedEcho(),
  mixed: () => new MixedEcho(random),
  aborting: () => new AbortingEcho(),
  expiring: () => new ExpiringEcho(),
}
const FAULTY: Partial<Record<Fault, () => Protocol>> = {
  corrupt: () => new CorruptingEcho(),
  hang: () => new HangingEcho(),
  cut: () => new CuttingEcho(),
  throw: () => new ThrowingEcho(),
}
const faulty = ECHOING.includes(service) && fault !== null ? FAULTY[fault] : undefined
begin(fault)

export default (): Protocol => {
  if (faulty !== undefined && random.below(FAULTY_CONNECTIONS) === 0) return faulty()
  return PROTOCOLS[service]()
}

export function exceptionHandler(context: ExceptionContext): void {
  tellException(context)
}
