import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import type { EngineName } from '../src/index.js'
import { answersOf, endsBySigterm } from './harness/answers.js'
import { type Child, fixtureUrl } from './harness/child.js'
import { Project } from './harness/project.js'
import { newestNode, runtimes } from './harness/runtimes.js'
import { forEachEngine } from './harness/suite.js'

const ATTEMPTS = JSON.stringify(fixtureUrl('servers/attempts').href)
const UVU = fileURLToPath(new URL('../../node_modules/uvu/bin.js', import.meta.url))
/** A runner's file, as far as createServer can tell. */
const stub = (engine: EngineName): string =>
  `import(${ATTEMPTS}).then(({ attempt }) => attempt(console.log, '${engine}'))`
const nodeTest = (engine: EngineName): string => `import test from 'node:test'
import { attempt } from ${ATTEMPTS}
test('attempts', () => attempt(console.log, '${engine}'))`
/** A program that a test starts, with the engine as its argument. */
const SERVER = `import { createServer, isSupervisor, shardId } from 'shardloop'
const factory = () => ({ connectionMade(transport) {
  transport.write('hello from shard ' + shardId)
  transport.close()
} })
createServer(factory, { host: '127.0.0.1', shards: 2, engine: process.argv[2] }).then((server) => {
  if (isSupervisor) console.log('ready ' + server.addresses[0].port)
})`

/** A factory is refused by name, and what is advised works. */
async function assertRefused(child: Child, runner: string): Promise<void> {
  const [line] = await child.line(/factory fails: ERR_SHARDLOOP_START .*/)
  assert.ok(line.includes(`under ${runner} that is the test runner or the test file`), line)
  assert.match(line, /URL of a module whose default export is the factory, or use shards: 0/)
  await child.line(/url says hello\./)
  await child.line(/local says hello\./)
  assert.equal((await child.untilExit()).code, 0, child.describe())
}

forEachEngine('a factory under a test runner', (test, engine) => {
  for (const [suffix, command] of runtimes) {
    test(`node --test is refused by name${suffix}`, async (t) => {
      const project = new Project(t)
      project.write('one.test.js', nodeTest(engine))
      await assertRefused(t.spawn(['--test', project.path('one.test.js')], { command }), 'node:test')
    })

    test(`a file of node:test that is run by itself is refused too${suffix}`, async (t) => {
      const project = new Project(t)
      project.write('one.test.js', nodeTest(engine))
      await assertRefused(t.spawn([project.path('one.test.js')], { command }), 'node:test')
    })

    test(`a program that a test starts is not refused${suffix}`, async (t) => {
      const project = new Project(t)
      project.write('server.js', SERVER)
      const environment = { NODE_TEST_CONTEXT: 'child-v8', VITEST: 'true', JEST_WORKER_ID: '1', TAP: '1' }
      const child = t.spawn([project.path('server.js'), engine], { command, env: environment })
      const [, port] = await child.line(/^ready (\d+)$/)
      assert.deepEqual(await answersOf(t, Number(port), 2), ['hello from shard 0', 'hello from shard 1'])
      await endsBySigterm(child)
    })
  }

  const withoutIsolation = 'node --test --test-isolation=none is refused by name'
  if (newestNode === undefined) test.skip(withoutIsolation, 'the newest Node is not installed')
  else
    test(withoutIsolation, async (t) => {
      const project = new Project(t)
      project.write('one.test.js', nodeTest(engine))
      const args = ['--test', '--test-isolation=none', 'one.test.js']
      await assertRefused(
        t.spawn(args, { command: newestNode as string, cwd: project.directory }),
        'node:test',
      )
    })

  test('the command uvu is refused by name', async (t) => {
    const project = new Project(t)
    project.write(
      'tests/one.js',
      `import { attempt } from ${ATTEMPTS}\nawait attempt(console.log, '${engine}')`,
    )
    const child = t.spawn([UVU, 'tests'], { cwd: project.directory })
    await assertRefused(child, 'uvu')
  })

  const entries: [runner: string, file: string, link?: string][] = [
    ['mocha', 'mocha/bin/mocha.js', 'mocha'],
    ['vitest', 'vitest/dist/workers/forks.js'],
    ['vitest', 'tinypool/dist/esm/entry/process.js'],
    ['jest', 'jest/bin/jest.js', 'jest'],
    ['jest', 'jest-worker/build/processChild.js'],
    ['ava', 'ava/lib/worker/base.js'],
    ['uvu', 'uvu/bin.js', 'uvu'],
    ['playwright', '@playwright/test/cli.js', 'playwright'],
  ]
  for (const [runner, file, link] of entries) {
    test(`an entry that is ${link === undefined ? file : `.bin/${link}`} is refused by name`, async (t) => {
      const project = new Project(t)
      project.write(`node_modules/${file}`, stub(engine))
      if (link !== undefined) project.link(`node_modules/.bin/${link}`, `../${file}`)
      const entry = link === undefined ? file : `.bin/${link}`
      await assertRefused(t.spawn([project.path(`node_modules/${entry}`)]), runner)
    })
  }

  test('a test file of tap is refused by name, what it starts is not', async (t) => {
    const project = new Project(t)
    project.write('one.js', stub(engine))
    project.write('server.js', SERVER)
    const run = { TAP: '1', _TAPJS_PROCESSINFO_ROOT_: 'a' }
    await assertRefused(
      t.spawn([project.path('one.js')], { env: { ...run, _TAPJS_PROCESSINFO_PARENT_: 'a' } }),
      'tap',
    )
    const child = t.spawn([project.path('server.js'), engine], {
      env: { ...run, _TAPJS_PROCESSINFO_PARENT_: 'b' },
    })
    await child.line(/^ready \d+$/)
    await endsBySigterm(child)
  })

  test('in a worker thread of a runner shards are refused, with the advice to use processes; shards: 0 works', async (t) => {
    const project = new Project(t)
    const worker = 'node_modules/vitest/dist/workers/threads.js'
    project.write(worker, stub(engine))
    project.write('runner.cjs', `new (require('node:worker_threads').Worker)(process.argv[2])`)
    const child = t.spawn([project.path('runner.cjs'), project.path(worker)])
    for (const way of ['factory', 'url']) {
      const [line] = await child.line(new RegExp(`^${way} fails: ERR_SHARDLOOP_STATE .*`))
      assert.match(line, /vitest runs this file in a worker thread\. Use shards: 0, or .*--pool=forks/)
    }
    await child.line(/^local says hello\.$/)
    assert.equal((await child.untilExit()).code, 0, child.describe())
  })
})
