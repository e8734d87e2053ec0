/** What the servers of this benchmark do with a line; the same for ours and for the peers. */

const HEAP_PIECE = 1000

/**
 * `who` is answered by `id`; `spin MS` too, then the thread is blocked for that long; `die WAY MS` blocks it and then ends
 * it, before it looks for connections again.
 */
export function obey(line: string, id: number, answer: (text: string) => void): void {
  const [command, ...rest] = line.trim().split(' ')
  if (command === 'die') {
    const [way = '', ms] = rest
    block(Number(ms))
    process.nextTick(die, way)
    return
  }
  answer(`${id}\n`)
  if (command === 'spin') setImmediate(block, Number(rest[0]))
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
