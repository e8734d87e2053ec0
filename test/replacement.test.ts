import assert from 'node:assert/strict'
import { existsSync, readdirSync } from 'node:fs'
import { createServer, type Server, type ServerOptions, type ShardChange } from '../src/index.js'
import { eventually, Observable } from './harness/deferred.js'
import { openDescriptors } from './harness/leaks.js'
import { clientOf, flood, kill, statesOf } from './harness/obedient.js'
import { assertCode, assertRejects, forEachEngine, type TestContext } from './harness/suite.js'

const MODULE = new URL('./fixtures/servers/obedient-module.js', import.meta.url)

/** What a server's events tell of its shards. */
class Watch extends Observable {
  readonly changes: ShardChange[] = []
  readonly errors: Error[] = []
  closed = false

  constructor(server: Server) {
    super()
    server.events.on('shard', (change) => {
      this.changes.push(change)
      this.changed()
    })
    server.events.on('error', (error) => this.errors.push(error))
    server.events.on('close', () => {
      this.closed = true
      this.changed()
    })
  }

  /** The first change of the shard that fits, of those from number `from` on. */
  async change(id: number, fits: (change: ShardChange) => boolean, from = 0): Promise<ShardChange> {
    const find = (): ShardChange | undefined =>
      this.changes.slice(from).find((change) => change.id === id && fits(change))
    await this.until(() => find() !== undefined || this.closed)
    const found = find()
    assert.ok(found !== undefined, `closed without it: ${JSON.stringify(this.changes)}`)
    return found
  }

  /** The shard's replacement of this number listens. */
  ready(id: number, restarts: number): Promise<ShardChange> {
    return this.change(id, (change) => change.state === 'ready' && change.restarts === restarts)
  }

  /** The shard's death of this number, counted from 0. */
  async death(id: number, nth = 0): Promise<ShardChange> {
    const deaths = (): ShardChange[] =>
      this.changes.filter((change) => change.id === id && change.reason !== undefined)
    await this.until(() => deaths().length > nth || this.closed)
    return deaths()[nth] as ShardChange
  }

  async end(): Promise<void> {
    await this.until(() => this.closed)
  }
}

async function watched(t: TestContext, options: ServerOptions): Promise<{ server: Server; watch: Watch }> {
  const server = await t.serve(MODULE, options)
  return { server, watch: new Watch(server) }
}

function threads(): number {
  const tasks = '/proc/self/task'
  return existsSync(tasks) ? readdirSync(tasks).length : 0
}

forEachEngine('a shard that dies', (test) => {
  const ways: [command: string, reason: RegExp, exitCode: number, error: object | undefined][] = [
    ['throw', /^thrown outside of any callback$/, 1, { name: 'TypeError', code: 'E_THROWN' }],
    ['reject', /^rejected and not handled$/, 1, { name: 'RangeError' }],
    ['exit 5', /^its thread ended with exit code 5$/, 5, undefined],
    ['exit 0', /^its thread ended with exit code 0$/, 0, undefined],
    ['heap', /reaching memory limit/, 1, { code: 'ERR_WORKER_OUT_OF_MEMORY' }],
    ['panic', /^the native shard panicked: a test asked for it$/, 1, { name: 'Error' }],
  ]
  for (const [command, reason, exitCode, error] of ways) {
    test(`by ${command}: is reported with its cause, replaced at once under its number, and serves again`, async (t) => {
      const { server, watch } = await watched(t, {
        shards: 2,
        resourceLimits: { maxOldGenerationSizeMb: 50 },
      })
      const other = await clientOf(t, server, 0)
      await kill(t, server, 1, command)
      const death = await watch.death(1)
      assert.match(death.reason ?? '', reason)
      assert.deepEqual(
        { ...death, error: undefined },
        {
          id: 1,
          state: 'starting',
          restarts: 0,
          reason: death.reason,
          exitCode,
          connectionsLost: 1,
          restartInMs: 0,
          error: undefined,
        },
      )
      assert.equal('error' in death, error !== undefined)
      for (const [key, value] of Object.entries(error ?? {}))
        assert.equal((death.error as Record<string, unknown>)[key], value)
      assert.deepEqual(await watch.ready(1, 1), { id: 1, state: 'ready', restarts: 1 })
      await clientOf(t, server, 1)
      assert.deepEqual(statesOf(server), [
        { id: 0, state: 'ready', restarts: 0 },
        { id: 1, state: 'ready', restarts: 1 },
      ])
      await other.write('who\n')
      assert.equal(await other.readLine(), '0', 'the other shard has not noticed')
      await server.close()
      assert.deepEqual(watch.errors, [])
    })
  }

  for (const how of ['', 'async']) {
    test(`ends though a listener of exit throws (exit called ${how || 'in a callback'}), and nobody hangs`, async (t) => {
      const { server, watch } = await watched(t, { shards: 2 })
      const client = await clientOf(t, server, 1)
      await client.write(`exit-unheard ${how}\n`)
      const asked = Array.from({ length: 40 }, async () => {
        const other = await t.connect(server)
        await other.write('who\n')
        return await other.readLine()
      })
      const outcomes = await Promise.all(asked.map((answer) => answer.catch(({ code }) => String(code))))
      const { exitCode, connectionsLost = 0 } = await watch.death(1)
      assert.equal(exitCode, 3)
      const broken = outcomes.filter((outcome) => !/^[01]$/.test(outcome))
      assert.deepEqual(new Set([...broken, 'ECONNRESET']), new Set(['ECONNRESET']))
      assert.ok(
        broken.length <= connectionsLost,
        `${broken.length} broke, ${connectionsLost} lived on the shard`,
      )
      await watch.ready(1, 1)
      await clientOf(t, server, 1)
    })
  }

  test('does not when its program merely emits exit: it takes new connections as before', async (t) => {
    const { server, watch } = await watched(t, { shards: 2 })
    const client = await clientOf(t, server, 1)
    await client.write('emit-exit\n')
    assert.equal(await client.readLine(), 'emitted')
    await clientOf(t, server, 1)
    assert.deepEqual(watch.changes, [])
  })

  test('is replaced after a delay when it dies again, and its counters go on', async (t) => {
    const { server, watch } = await watched(t, { shards: 1 })
    await kill(t, server, 0)
    await watch.ready(0, 1)
    const before = server.metrics().total.connectionsTotal
    assert.ok(before >= 1)
    await kill(t, server, 0)
    const { restarts, restartInMs = 0 } = await watch.death(0, 1)
    assert.equal(restarts, 1)
    assert.ok(restartInMs >= 50 && restartInMs <= 100, String(restartInMs))
    await watch.ready(0, 2)
    await clientOf(t, server, 0)
    await eventually(() => server.metrics().total.connectionsTotal > before)
  })

  test('is replaced at once again when its deaths are further apart than the window', async (t) => {
    const { server, watch } = await watched(t, { shards: 1, maxRestarts: 1, restartWindowMs: 1 })
    for (let round = 0; round < 3; round++) {
      await kill(t, server, 0)
      assert.equal((await watch.death(0, round)).restartInMs, 0)
      await watch.ready(0, round + 1)
    }
  })

  test('in a loop is failed for good, and the others serve on', async (t) => {
    const { server, watch } = await watched(t, { shards: 2, maxRestarts: 1 })
    await kill(t, server, 0, 'throw')
    await watch.ready(0, 1)
    await kill(t, server, 0, 'exit 7')
    const death = await watch.change(0, ({ state }) => state === 'failed')
    assert.deepEqual(death, {
      id: 0,
      state: 'failed',
      restarts: 1,
      reason: 'its thread ended with exit code 7',
      exitCode: 7,
      connectionsLost: 1,
    })
    await clientOf(t, server, 1)
    assert.deepEqual(
      server.shards.map(({ state }) => state),
      ['failed', 'ready'],
    )
    // A server that comes later starts with the rest.
    const later = await t.serve(MODULE, { balance: 'shared', shards: 2 })
    assert.deepEqual(
      later.shards.map(({ state }) => state),
      ['failed', 'ready'],
    )
    await clientOf(t, later, 1)
    await later.close()
    await server.close()
    assert.deepEqual(watch.errors, [])
    assert.deepEqual(
      server.shards.map(({ state }) => state),
      ['failed', 'stopped'],
    )
  })

  test('as the last one ends every server, with the first cause of its loop', async (t) => {
    const { server, watch } = await watched(t, { shards: 1, maxRestarts: 1 })
    const local = await t.serve(MODULE, { shards: 0 })
    const other = await t.serve(MODULE, { shards: 1 })
    const otherWatch = new Watch(other)
    await kill(t, server, 0, 'throw')
    await Promise.all([watch.ready(0, 1), otherWatch.ready(0, 1)])
    await kill(t, other, 0, 'exit 7')
    for (const ended of [watch, otherWatch]) {
      await ended.end()
      assert.equal(ended.errors.length, 1)
      const error = assertCode(ended.errors[0], 'ERR_SHARDLOOP_SHARD_DIED')
      assert.equal(error.message, 'shard 0 died: thrown outside of any callback')
      assert.equal((error.cause as { code: string }).code, 'E_THROWN')
    }
    await assertRejects(() => t.connect(server), 'ECONNREFUSED')
    assert.equal(local.shards[0]?.state, 'ready', 'it has a loop of its own')
    // A new server gets new shards, and may have other settings.
    const next = await t.serve(MODULE, { shards: 1, maxRestarts: 5 })
    await clientOf(t, next, 0)
  })

  test('while another is being replaced, is replaced too', async (t) => {
    const { server, watch } = await watched(t, { shards: 3, balance: 'shared' })
    const [one, two] = [await clientOf(t, server, 1), await clientOf(t, server, 2)]
    await kill(t, server, 0)
    await watch.ready(0, 1)
    await kill(t, server, 0)
    await watch.death(0, 1)
    // Shard 0 waits for its turn.
    await Promise.all([one.write('throw\n'), two.write('exit 0\n')])
    await Promise.all([watch.ready(0, 2), watch.ready(1, 1), watch.ready(2, 1)])
    for (const shard of [0, 1, 2]) await clientOf(t, server, shard)
  })

  test('all at once: each is replaced, and every connection is served then', async (t) => {
    const { server, watch } = await watched(t, { shards: 2 })
    const clients = [await clientOf(t, server, 0), await clientOf(t, server, 1)]
    for (const client of clients) await client.write('exit 3\n')
    await Promise.all([watch.ready(0, 1), watch.ready(1, 1)])
    for (const client of await Promise.all(Array.from({ length: 20 }, () => t.connect(server)))) {
      await client.write('who\n')
      assert.match(await client.readLine(), /^[01]$/)
    }
    await Promise.all(clients.map((client) => client.readToClose()))
  })

  test('with a queue: what waits there is served by the replacement', async (t) => {
    const { server } = await halfDown(t, 1)
    const waiting = await Promise.all(Array.from({ length: 50 }, () => t.connect(server)))
    for (const client of waiting) await client.write('who\n')
    for (const client of waiting) assert.equal(await client.readLine(), '0')
  })

  test('twenty times leaves threads and descriptors as they were', async (t) => {
    const { server, watch } = await watched(t, { shards: 2, restartWindowMs: 1 })
    const cycle = async (restarts: number, command: string): Promise<void> => {
      await kill(t, server, 1, command)
      await watch.ready(1, restarts)
    }
    await cycle(1, 'exit 1')
    await clientOf(t, server, 1).then((client) => client.destroy())
    const before = { descriptors: openDescriptors().size, threads: threads() }
    for (let restarts = 2; restarts <= 21; restarts++)
      await cycle(restarts, restarts % 2 === 0 ? 'throw' : 'exit 1')
    await clientOf(t, server, 1).then((client) => client.destroy())
    await eventually(() => openDescriptors().size <= before.descriptors && threads() <= before.threads)
  })
})

/** A server whose shard 0 has died for the second time in a row, so that its replacement takes a while. */
async function halfDown(t: TestContext, shards: number): Promise<Awaited<ReturnType<typeof watched>>> {
  const { server, watch } = await watched(t, { shards })
  await kill(t, server, 0)
  await watch.ready(0, 1)
  await kill(t, server, 0)
  await watch.death(0, 1)
  return { server, watch }
}

forEachEngine('a death and the servers on the shard', (test) => {
  test('while one drains: the drain goes on without the shard, which is replaced for the other', async (t) => {
    const { server: draining, watch: drain } = await watched(t, { shards: 2, drainTimeoutMs: 600_000 })
    const { server, watch } = await watched(t, { shards: 2 })
    const slow = await clientOf(t, draining, 1)
    await flood(slow)
    const ended = draining.drain()
    await drain.change(1, ({ state }) => state === 'draining')
    await kill(t, server, 1, 'throw')
    await ended
    const death = await drain.death(1)
    assert.equal(death.state, 'failed')
    assert.equal(death.reason, 'thrown outside of any callback')
    assert.equal(death.restartInMs, undefined)
    assert.deepEqual(
      draining.shards.map(({ state }) => state),
      ['stopped', 'failed'],
    )
    assert.deepEqual(drain.errors, [])
    await watch.ready(1, 1)
    await clientOf(t, server, 1)
    slow.resume()
    await slow.readToClose()
  })

  test('terminated past the deadline of one, it is replaced for the other', async (t) => {
    const { server: draining, watch: drain } = await watched(t, { shards: 2 })
    const { server, watch } = await watched(t, { shards: 2 })
    const stuck = await clientOf(t, draining, 0)
    await stuck.write('spin\n')
    assert.equal(await stuck.readLine(), 'spinning')
    await draining.drain({ deadlineMs: 50 })
    assert.deepEqual(
      draining.shards.map(({ state }) => state),
      ['stopped', 'stopped'],
    )
    assert.match((await drain.death(0)).reason ?? '', /did not answer an abort within 1000 ms/)
    const death = await watch.death(0)
    assert.equal(death.state, 'starting')
    assertCode(death.error, 'ERR_SHARDLOOP_SHARD_DIED')
    await watch.ready(0, 1)
    await clientOf(t, server, 0)
    await stuck.readToClose()
  })

  test('while it drains alone there is no replacement, and the last death is its error', async (t) => {
    const { server, watch } = await watched(t, { shards: 1, drainTimeoutMs: 600_000 })
    const client = await clientOf(t, server, 0)
    await client.write('throw later\n')
    assert.equal(await client.readLine(), 'throwing')
    await flood(await clientOf(t, server, 0))
    await server.drain()
    assert.deepEqual(
      server.shards.map(({ state, restarts }) => ({ state, restarts })),
      [{ state: 'failed', restarts: 0 }],
    )
    assert.equal(
      assertCode(watch.errors[0], 'ERR_SHARDLOOP_SHARD_DIED').message,
      'shard 0 died: thrown while the server drains',
    )
  })

  test('during the start of one: that start rejects with the cause, the others get their shards back', async (t) => {
    const { server, watch } = await watched(t, { shards: 2 })
    const options = { shards: 2, signals: false, host: '127.0.0.1' }
    const exits = new URL('data:text/javascript,process.exit(13)')
    const error = await createServer(exits, options).catch((reason: unknown) => reason)
    assert.match(
      assertCode(error, 'ERR_SHARDLOOP_START').message,
      /^shard [01] ended with exit code 13 before/,
    )
    await Promise.all([watch.ready(0, 1), watch.ready(1, 1)])
    await Promise.all([clientOf(t, server, 0), clientOf(t, server, 1)])
    const next = await t.serve(MODULE, { shards: 2 })
    await Promise.all([clientOf(t, next, 0), clientOf(t, next, 1)])
  })

  test('a server that starts while a shard is down waits for the replacement', async (t) => {
    const { watch } = await halfDown(t, 2)
    const next = await t.serve(MODULE, { shards: 2 })
    assert.deepEqual(
      next.shards.map(({ state }) => state),
      ['ready', 'ready'],
    )
    await clientOf(t, next, 0)
    await watch.ready(0, 2)
  })

  test('every server gets its replacement, with its own settings', async (t) => {
    const { server, watch } = await watched(t, { shards: 2 })
    const { server: idle, watch: other } = await watched(t, { shards: 2, idleTimeoutMs: 50 })
    await kill(t, server, 1)
    await Promise.all([watch.ready(1, 1), other.ready(1, 1)])
    const client = await clientOf(t, server, 1)
    await (await clientOf(t, idle, 1)).untilReset()
    await client.write('who\n')
    assert.equal(await client.readLine(), '1')
  })

  for (const how of ['close', 'abort'] as const) {
    test(`${how}() while a shard waits for its replacement ends at once and leaves no timer`, async (t) => {
      const { server, watch } = await watched(t, { shards: 1 })
      await kill(t, server, 0)
      await watch.ready(0, 1)
      await kill(t, server, 0)
      const death = await watch.death(0, 1)
      assert.ok((death.restartInMs ?? 0) > 0)
      await server[how]()
      assert.deepEqual(
        server.shards.map(({ state, restarts }) => ({ state, restarts })),
        [{ state: 'stopped', restarts: 1 }],
      )
      assert.deepEqual(watch.errors, [])
      assert.ok(!process.getActiveResourcesInfo().includes('MessagePort'))
    })
  }

  test('close() in the listener that is told of the death ends the server', async (t) => {
    const { server, watch } = await watched(t, { shards: 2 })
    let ended: Promise<void> | undefined
    server.events.on('shard', ({ reason }) => {
      if (reason !== undefined) ended ??= server.close()
    })
    await kill(t, server, 0)
    await watch.end()
    await ended
    assert.deepEqual(
      server.shards.map(({ state }) => state),
      ['stopped', 'stopped'],
    )
    assert.deepEqual(watch.errors, [])
  })

  test('a later server takes the settings that run, and is refused others by name', async (t) => {
    const settings = { shards: 1, maxRestarts: 3, restartWindowMs: 500, resourceLimits: { stackSizeMb: 2 } }
    await t.serve(MODULE, settings)
    await t.serve(MODULE, settings)
    await t.serve(MODULE, { shards: 1 })
    const others: [name: string, value: unknown, expected: RegExp][] = [
      ['maxRestarts', 4, /expected 3, as all servers of a process share its shards, given 4$/],
      ['restartWindowMs', 60_000, /expected 500, .* given 60000$/],
      ['resourceLimits', { stackSizeMb: 3 }, /expected \{ stackSizeMb: 2 \}, .* given \{ stackSizeMb: 3 \}$/],
      ['resourceLimits', {}, /given \{\}$/],
    ]
    for (const [name, value, expected] of others) {
      const error = await t.serve(MODULE, { shards: 1, [name]: value }).catch((reason: unknown) => reason)
      const { message } = assertCode(error, 'ERR_SHARDLOOP_OPTION')
      assert.match(message, new RegExp(`^option ${name}: `))
      assert.match(message, expected)
    }
  })
})
