import assert from 'node:assert/strict'
import type { TestContext } from './suite.js'

/** How a thread or the process is ended, with the exit code that must come of it. */
export const ENDINGS = {
  /** The thread of the shard is terminated by the one that started it, which then ends by itself. */
  terminate: 0,
  /** process.exit(7) in the process's main thread, in which the server runs. */
  exit: 7,
  /** An error that nobody catches, in the same thread. */
  throw: 1,
  /** A rejection that nobody handles, in the same thread. */
  reject: 1,
  /** A panic in native code, in the same thread: an error that nobody catches. */
  panic: 1,
  /** process.exit in a shard: the shard ends and is replaced; then the server is closed, and the process ends by itself. */
  'shard exit': 0,
  /** An error that nobody catches, in a shard. */
  'shard throw': 0,
  /** A panic in a shard's native code: that shard ends, not the process. */
  'shard panic': 0,
  /** The main thread calls process.exit while shards are under load. */
  'exit beside shards': 7,
} as const

export type Ending = keyof typeof ENDINGS

/** What a shard's death is reported as. */
const SHARD_REASONS: Partial<Record<Ending, string>> = {
  'shard exit': 'its thread ended with exit code 5',
  'shard throw': 'a disaster that was asked for',
  'shard panic': 'the native shard panicked: a test asked for it',
}

/**
 * Runs a process that is under load and ends in this way at a random moment and place, and checks that the end
 * is the one that was asked for: no signal, no abort, no hanging.
 */
export async function endUnderLoad(t: TestContext, ending: Ending): Promise<void> {
  const seed = t.random.u32()
  const child = t.start('teardown', [ending, String(seed)], {
    // Freed and fresh memory is filled, so that its use after the end shows.
    env: { MALLOC_PERTURB_: '165', RUST_BACKTRACE: '1' },
  })
  const exit = await child.untilExit()
  assert.deepEqual(
    exit,
    { code: ENDINGS[ending], signal: null },
    `${ending}, seed ${seed}\n${child.describe()}`,
  )
  assert.ok(child.lines.includes('under load'), child.describe())
  assert.doesNotMatch(child.stderr, /FATAL|Assertion|Check failed|napi_/, child.describe())
  // Rust tells of a panic, with its place.
  const panics = child.stderr.match(/thread.*panicked.*\n.*/g) ?? []
  const expected = ending.endsWith('panic')
    ? /^thread .* panicked at native\/src\/bind\/.*\na test asked for it$/
    : /^$/
  assert.match(panics.join(), expected, child.describe())
  const reason = SHARD_REASONS[ending]
  if (reason !== undefined) {
    assert.ok(child.lines.includes(`died ${reason}`), child.describe())
    assert.ok(child.lines.includes('replaced 1'), child.describe())
  }
}
