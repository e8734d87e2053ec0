/** What the servers of this benchmark do with what they receive; the same for ours and for the peers. */

const HEAP_PIECE = 1000

/**
 * `who` is answered by `id`; `spin MS` too, then the thread is blocked for that long; `die WAY MS` blocks it and then ends
 * it, before it looks for connections again. Anything else is echoed, as the load generator wants it.
 */
export function obey(chunk: Buffer, id: number, answer: (bytes: Buffer | string) => void): void {
  const [command, ...rest] = chunk.toString('latin1').trim().split(' ')
  if (command === 'die') {
    const [way = '', ms] = rest
    block(Number(ms))
    process.nextTick(die, way)
  } else if (command === 'who') answer(`${id}\n`)
  else if (command === 'spin') {
    answer(`${id}\n`)
    setImmediate(block, Number(rest[0]))
  } else answer(chunk)
}

/** Ways to die, for {@link obey}. */
export const WAYS = ['throw', 'reject', 'exit', 'heap'] as const

function block(ms: number): void {
  for (const end = performance.now() + ms; performance.now() < end; );
}

function die(way: string): void {
  if (way === 'exit') process.exit(3)
  if (way === 'throw') throw new Error('died as it was told')
  if (way === 'reject') void Promise.reject(new Error('died as it was told'))
  else for (const kept: unknown[] = []; ; ) kept.push(new Array(HEAP_PIECE).fill(kept))
}
