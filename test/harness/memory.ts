import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

/** Collects all garbage, twice: weak references and their memory go in the turn after. */
export async function collectGarbage(): Promise<void> {
  for (let round = 0; round < 3; round++) {
    collect()
    await new Promise((resolve) => setImmediate(resolve))
  }
}

/** Bytes in ArrayBuffers (slabs, Buffers) of this thread that are still reachable. */
export async function arrayBufferBytes(): Promise<number> {
  await collectGarbage()
  return process.memoryUsage().arrayBuffers
}

export const KiB = 1024
export const MiB: number = 1024 * KiB
