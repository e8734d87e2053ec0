import { realpathSync } from 'node:fs'
import { ShardloopError } from '../errors.js'

/**
 * Packages whose files are the entry of a process that runs tests, with what they are called: the runner's own process,
 * or one that it starts for test files. Their environment variables (VITEST, JEST_WORKER_ID) would not do, as they are
 * inherited by every program that a test starts, and that has an entry of its own.
 */
const RUNNER_PACKAGES: ReadonlyMap<string, string> = new Map([
  ['mocha', 'mocha'],
  ['jest', 'jest'],
  ['jest-cli', 'jest'],
  ['jest-worker', 'jest'],
  ['vitest', 'vitest'],
  ['tinypool', 'vitest'],
  ['ava', 'ava'],
  ['uvu', 'uvu'],
  ['jasmine', 'jasmine'],
  ['@tapjs/run', 'tap'],
  ['playwright', 'playwright'],
  ['@playwright/test', 'playwright'],
])

/** The test runner whose process this is, so that its entry is the runner or a test file; null in any other program. */
export function testRunner(): string | null {
  const [, entry] = process.argv
  const runner = entry === undefined ? null : runnerOfEntry(entry)
  return runner ?? (isNodeTest() ? 'node:test' : isTap() ? 'tap' : null)
}

/** The error for a factory under a test runner: the shards would run the runner, or all tests, again. */
export function underRunner(runner: string): ShardloopError {
  return new ShardloopError(
    'ERR_SHARDLOOP_START',
    `createServer with a factory runs the program again in every shard, and under ${runner} that is the test runner ` +
      'or the test file. Give createServer the URL of a module whose default export is the factory, or use shards: 0' +
      (runner === 'node:test'
        ? '. (If this program is no test, something that it imports loads node:test.)'
        : ''),
  )
}

/** The error for shards that are to be started from a thread which is not the main one. */
export function notOnMainThread(): ShardloopError {
  const runner = testRunner()
  const where =
    runner === null
      ? '; in a worker thread of your own use shards: 0'
      : `, and ${runner} runs this file in a worker thread. Use shards: 0, or have it run test files in processes ` +
        '(vitest --pool=forks, ava --no-worker-threads)'
  return new ShardloopError(
    'ERR_SHARDLOOP_STATE',
    `createServer starts shards on the main thread only${where}`,
  )
}

function runnerOfEntry(entry: string): string | null {
  const [, name] = /.*[\\/]node_modules[\\/]((?:@[^\\/]+[\\/])?[^\\/]+)[\\/]/.exec(realPath(entry)) ?? []
  return RUNNER_PACKAGES.get(name?.replace('\\', '/') ?? '') ?? null
}

/** Where `node_modules/.bin/mocha` leads. */
function realPath(file: string): string {
  try {
    return realpathSync(file)
  } catch {
    return file
  }
}

/**
 * Under `node --test` each test file is the entry of its own process, or of the runner's own (`--test-isolation=none`);
 * run by plain `node` it runs its tests too. NODE_TEST_CONTEXT is inherited by what tests start; that the
 * module is loaded is true of this process alone.
 */
function isNodeTest(): boolean {
  const { moduleLoadList } = process as { moduleLoadList?: readonly string[] }
  return moduleLoadList?.includes('NativeModule internal/test_runner/harness') ?? false
}

/** tap starts test files as programs. What these start has another parent than the run's root. */
function isTap(): boolean {
  const { TAP, _TAPJS_PROCESSINFO_ROOT_: root, _TAPJS_PROCESSINFO_PARENT_: parent } = process.env
  return TAP === '1' && root !== undefined && root === parent
}
