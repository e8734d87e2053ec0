import assert from 'node:assert/strict'
import type { Child } from './child.js'
import type { TestContext } from './suite.js'

/** A shard that serves answers within this: one that waits for a processor is given no connections meanwhile. */
const ANSWER_WITHIN_MS = 10_000

/** What every shard says, by connecting until `shards` of them have answered. */
export async function answersOf(t: TestContext, port: number, shards: number): Promise<string[]> {
  const answers = new Set<string>()
  const end = performance.now() + ANSWER_WITHIN_MS
  while (answers.size < shards && performance.now() < end) {
    const client = await t.connect(port)
    answers.add((await client.readToEnd()).toString())
    await client.destroy()
  }
  return [...answers].sort()
}

/**
 * The server drains, and the process ends by itself.
 *
 * @param pid the server's process, where the child may be one that runs it: tsx' command kills a program that does not tell it within
 *   60 ms that it got the signal
 */
export async function endsBySigterm(child: Child, pid?: number): Promise<void> {
  if (pid === undefined) child.kill('SIGTERM')
  else process.kill(pid, 'SIGTERM')
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
}
