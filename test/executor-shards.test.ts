import assert from 'node:assert/strict'
import type { Server, ServerOptions } from '../src/index.js'
import {
  EXECUTOR_QUEUE_TIME,
  executorCounters,
  readTimes,
  recordTime,
} from '../src/workers/executor-counters.js'
import { nextDeath } from './harness/crashes.js'
import { eventually } from './harness/deferred.js'
import { serveTasks, TASKS, type TaskClient, taskClients, until } from './harness/executor.js'
import { openDescriptors, threadCount } from './harness/leaks.js'
import { Project } from './harness/project.js'
import { assertCode, forEachEngine, type TestContext } from './harness/suite.js'

/** Two shards, and a client of each. */
async function twoShards(
  t: TestContext,
  executor: ServerOptions['executor'],
  options: ServerOptions = {},
): Promise<{ server: Server; first: TaskClient; second: TaskClient }> {
  const server = await serveTasks(t, {
    shards: 2,
    maxRestarts: 100,
    ...options,
    ...(executor && { executor }),
  })
  const [first, second] = (await taskClients(t, server, 2)) as [TaskClient, TaskClient]
  return { server, first, second }
}

forEachEngine('the executor of shards', (test) => {
  for (const shards of [0, 2]) {
    test(`runs tasks by URL and by name, and tells what they threw (shards ${shards})`, async (t) => {
      const server = await serveTasks(t, { shards, executor: { maxThreads: 2, tasks: { echo: TASKS } } })
      const before = server.metrics().executor
      for (const client of await taskClients(t, server, shards)) {
        assert.deepEqual((await client.ask({ do: 'run', args: [1, 2] })).result, [1, 2])
        assert.equal((await client.ask({ do: 'run', task: 'echo', args: ['named'] })).result, 'named')
        const { error } = await client.ask({ do: 'run', name: 'fail', args: ['thrown'] })
        assert.deepEqual(error, { name: 'RangeError', code: 'ERR_OF_TASK', message: 'thrown' })
        const unknown = await client.ask({ do: 'run', task: 'unknown' })
        assert.equal(unknown.error?.code, 'ERR_SHARDLOOP_ARGUMENT')
        assert.match(unknown.error?.message ?? '', /^no task is named 'unknown' .*there are \[ 'echo' \]/)
      }
      const clients = Math.max(1, shards)
      await until(server, {
        completed: before.completed + 2 * clients,
        failed: before.failed + 2 * clients,
        running: 0,
      })
      const { queueMs, runMs } = server.metrics().executor
      for (const times of [queueMs, runMs]) {
        assert.ok(times.p50 <= times.p99 && times.p99 <= times.max && times.max > 0, JSON.stringify(times))
        assert.ok(times.sum >= times.max && times.mean <= times.max)
        assert.equal(times.histogram.at(-1)?.count, times.count)
      }
      assert.equal(runMs.count, before.runMs.count + 3 * clients, 'who was not run has no time')
    })

    test(`while tasks compute, connections beside them are served (shards ${shards})`, async (t) => {
      const server = await serveTasks(t, { shards, executor: { maxThreads: 1 } })
      const [client] = (await taskClients(t, server, shards)) as [TaskClient]
      const id = await client.run('forever')
      await until(server, { running: 1 })
      for (let round = 0; round < 100; round++)
        assert.deepEqual((await client.ask({ do: 'echo', args: [round] })).result, [round])
      assert.equal(server.metrics().executor.running, 1)
      await client.send({ do: 'abort', id })
      await client.answer(id)
    })

    test(`a drain waits for the tasks that connections wait for (shards ${shards})`, async (t) => {
      const server = await serveTasks(t, { shards, executor: { maxThreads: 1 } })
      const [client] = (await taskClients(t, server, shards)) as [TaskClient]
      const id = await client.run('busy', [100, 'done'])
      await until(server, { running: 1 })
      const closed = server.close()
      assert.equal((await client.answer(id)).result, 'done')
      client.client.end()
      await closed
      assert.equal(server.metrics().executor.threads, 0)
    })

    test(`an abort ends the thread of its task and disturbs no other (shards ${shards})`, async (t) => {
      const server = await serveTasks(t, { shards, executor: { maxThreads: 2 } })
      const { cancelled } = server.metrics().executor
      const clients = await taskClients(t, server, shards)
      const [aborting, other] = [clients[0] as TaskClient, clients.at(-1) as TaskClient]
      const spinning = await aborting.run('forever')
      const computing = await other.run('busy', [50, 'computed'])
      await until(server, { running: 2 })
      const waiting = await aborting.run('asleep')
      await until(server, { queued: 1 })
      for (const id of [waiting, spinning]) {
        await aborting.send({ do: 'abort', id })
        assert.equal((await aborting.answer(id)).error?.message, `aborted ${id}`)
      }
      assert.equal((await other.answer(computing)).result, 'computed')
      await until(server, { running: 0, queued: 0, cancelled: cancelled + 2 })
      assert.equal((await aborting.ask({ do: 'run', args: ['next'] })).result, 'next')
    })
  }

  for (const [way, command] of [
    ['exits', { do: 'exit' }],
    ['is terminated', { do: 'spin' }],
  ] as const) {
    test(`a shard that ${way} has its tasks cancelled, those that run and those that wait, and no other's`, async (t) => {
      const { server, first, second } = await twoShards(t, { maxThreads: 2 }, { killAfterMs: 200 })
      const { cancelled } = server.metrics().executor
      await first.run('asleep')
      const others = await second.run('busy', [300, 'of another'])
      await until(server, { running: 2 })
      for (let task = 0; task < 3; task++) await first.run('asleep')
      const waiting = await second.run('busy', [1, 'waited'])
      await until(server, { running: 2, queued: 4 })
      const died = nextDeath(server)
      await first.send(command)
      assert.equal((await died).id, 0)
      assert.equal((await second.answer(others)).result, 'of another')
      assert.equal((await second.answer(waiting)).result, 'waited')
      await until(server, { running: 0, queued: 0, cancelled: cancelled + 4 })
      assert.ok(server.metrics().executor.threads <= 2)
    })
  }

  test('shards take turns: one that has many tasks waiting does not keep another one waiting', async (t) => {
    const { server, first, second } = await twoShards(t, { maxThreads: 1 })
    const blocker = await first.run('asleep')
    await until(server, { running: 1 })
    const many = []
    for (let task = 0; task < 20; task++) many.push(await first.run('nth'))
    await until(server, { queued: 20 })
    const single = await second.run('nth')
    await until(server, { queued: 21 })
    // Its thread ends, so another one counts.
    await first.send({ do: 'abort', id: blocker })
    const nth = Number((await second.answer(single)).result)
    assert.ok(nth <= 3, `it was number ${nth} of them`)
    const others = Array.from({ length: 21 }, (_, index) => index + 1).filter((number) => number !== nth)
    for (const [task, id] of many.entries()) assert.equal((await first.answer(id)).result, others[task])
  })

  test('every bound exceeded once: the queue of all, and what one shard may have in the executor', async (t) => {
    const { server, first, second } = await twoShards(t, { maxThreads: 1, maxQueue: 4 })
    const { refused } = server.metrics().executor
    const blocker = await first.run('asleep')
    const ids: number[] = []
    for (let task = 0; task < 4; task++) ids.push(await first.run('busy', [1, task]))
    await until(server, { running: 1, queued: 4 })
    // The shard knows by itself that it has as many as it may; the other one is told by the supervisor.
    const own = await first.ask({ do: 'run' })
    assert.equal(own.error?.code, 'ERR_SHARDLOOP_EXECUTOR_FULL')
    assert.match(own.error?.message ?? '', /^5 tasks of this thread run or wait in the executor/)
    const others = await second.ask({ do: 'run' })
    assert.equal(others.error?.code, 'ERR_SHARDLOOP_EXECUTOR_FULL')
    assert.match(others.error?.message ?? '', /^5 tasks run or wait in the executor/)
    assert.equal(server.metrics().executor.refused, refused + 2)
    await first.send({ do: 'abort', id: blocker })
    for (const [task, id] of ids.entries()) assert.equal((await first.answer(id)).result, task)
    assert.equal((await second.ask({ do: 'run', args: ['room'] })).result, 'room')
  })

  test('a received chunk goes to a task without the slab that it lies in', async (t) => {
    const server = await serveTasks(t, { shards: 1 })
    const [client] = (await taskClients(t, server, 1)) as [TaskClient]
    const { result } = await client.ask({ do: 'size' })
    const [bytes, memory] = result as [number, number]
    assert.equal(bytes, memory)
    assert.ok(bytes > 0 && bytes < 100)
  })

  test('no thread, descriptor or pending task is left by shards that come and go with tasks', async (t) => {
    const [threads, descriptors] = [threadCount(), openDescriptors().size]
    const { server, first, second } = await twoShards(t, { maxThreads: 2 })
    for (let task = 0; task < 4; task++) await first.run('asleep')
    await until(server, { running: 2, queued: 2 })
    await server.abort()
    const { running, queued } = server.metrics().executor
    assert.deepEqual([server.metrics().executor.threads, running, queued], [0, 0, 0])
    // A shard may have closed in good order: then the client's half is still open.
    for (const { client } of [first, second]) await client.destroy()
    // What the test before has left to end may have been counted.
    await eventually(() => threadCount() <= threads && openDescriptors().size <= descriptors)
  })

  test('an executor that the shards do not have is refused by name; in a shard the option means nothing', async (t) => {
    const server = await serveTasks(t, { shards: 1, executor: { maxThreads: 1 } })
    const refused = await serveTasks(t, { shards: 1, executor: { maxQueue: 1 } }).catch(
      (error: unknown) => error,
    )
    assert.equal(
      assertCode(refused, 'ERR_SHARDLOOP_OPTION').message,
      'option executor.maxQueue: expected 1024, as the whole process shares one executor, given 1',
    )
    const local = await serveTasks(t, { shards: 0, executor: { maxThreads: 2 } }).catch(
      (error: unknown) => error,
    )
    assertCode(local, 'ERR_SHARDLOOP_OPTION')
    const [client] = (await taskClients(t, server, 1)) as [TaskClient]
    assert.equal((await client.ask({ do: 'run', args: ['on'] })).result, 'on')
  })

  test('prometheus tells what metrics() tells of it', async (t) => {
    const server = await serveTasks(t, { name: 'tasks' })
    const [client] = (await taskClients(t, server, 0)) as [TaskClient]
    const { completed } = server.metrics().executor
    assert.equal((await client.ask({ do: 'run', args: ['told'] })).result, 'told')
    await until(server, { completed: completed + 1, running: 0 })
    const { executor } = server.metrics()
    const text = await server.prometheus()
    const sample = (name: string, labels = ''): number => {
      const found = new RegExp(`^${name}\\{server="tasks"${labels}\\} (\\S+)$`, 'm').exec(text)
      assert.ok(found !== null, `${name} in ${text}`)
      return Number(found[1])
    }
    assert.equal(sample('shardloop_executor_threads'), executor.threads)
    assert.equal(sample('shardloop_executor_running'), 0)
    assert.equal(sample('shardloop_executor_queued'), 0)
    for (const end of ['completed', 'failed', 'cancelled', 'refused'] as const)
      assert.equal(sample('shardloop_executor_tasks_total', `,end="${end}"`), executor[end])
    for (const [name, times] of [
      ['queue', executor.queueMs],
      ['run', executor.runMs],
    ] as const) {
      assert.equal(sample(`shardloop_executor_${name}_seconds_count`), times.count)
      assert.equal(sample(`shardloop_executor_${name}_seconds_sum`), times.sum / 1000)
      assert.equal(sample(`shardloop_executor_${name}_seconds_bucket`, ',le="\\+Inf"'), times.count)
    }
  })

  test('times are kept by length: percentiles are at most a sixteenth too large, and the histogram is exact', () => {
    const counters = new BigUint64Array(new SharedArrayBuffer(executorCounters().byteLength))
    const lengths = Array.from({ length: 1_000 }, (_, index) => 0.001 * 1.02 ** index)
    for (const ms of lengths) recordTime(counters, EXECUTOR_QUEUE_TIME, ms)
    const { count, p50, p99, max, sum, mean, histogram } = readTimes(counters, EXECUTOR_QUEUE_TIME)
    assert.equal(count, lengths.length)
    for (const [percentile, index] of [
      [p50, 499],
      [p99, 989],
    ] as const) {
      const exact = Math.ceil((lengths[index] as number) * 1000) / 1000
      assert.ok(
        percentile >= exact && percentile <= exact * (1 + 1 / 16) + 0.001,
        `${percentile} for ${exact}`,
      )
    }
    assert.ok(Math.abs(max - (lengths.at(-1) as number)) <= 0.001)
    assert.ok(Math.abs(mean - sum / count) < 1e-6)
    for (const bucket of histogram)
      assert.equal(bucket.count, lengths.filter((ms) => Math.ceil(ms * 1000) / 1000 <= bucket.leMs).length)
  })

  test('a task in TypeScript runs where the program runs under tsx', async (t) => {
    const project = new Project(t)
    project.write('task.ts', 'export default (text: string): string => text.toUpperCase()\n')
    project.write(
      'server.ts',
      `import { createServer, getLoop, isSupervisor, type Transport } from 'shardloop'
       const task: URL = new URL('./task.ts', import.meta.url)
       const server = await createServer(() => ({
         async connectionMade(transport: Transport) {
           transport.write(await getLoop().runInExecutor<string>(task, ['typescript']))
           transport.close()
         },
       }), { host: '127.0.0.1', shards: 1, engine: '${t.engine}' })
       if (isSupervisor) console.log('port ' + server.addresses[0]!.port)`,
    )
    const child = t.spawn(['--import', 'tsx', project.path('server.ts')], { cwd: project.directory })
    const [, port] = await child.line(/^port (\d+)$/)
    const client = await t.connect(Number(port))
    assert.equal((await client.readToEnd()).toString(), 'TYPESCRIPT')
    client.end()
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})
