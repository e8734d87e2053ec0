import assert from 'node:assert/strict'
import type { Child } from './harness/child.js'
import { clientOf, flood, kill } from './harness/obedient.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

forEachEngine('the replacement of a program', (test) => {
  const relapsing = async (t: TestContext, ...args: string[]): Promise<{ child: Child; port: number }> => {
    const child = t.start('servers/relapsing-entry', args)
    return { child, port: Number((await child.line(/"ready":(\d+)/))[1]) }
  }
  const inSupervisor = (id: number, rest: string): RegExp =>
    new RegExp(`^\\{"shard":\\{"id":${id},${rest}.*"in":null`)

  const relapses: [way: string, reason: string][] = [
    ['throws', 'thrown by a replacement'],
    ['exits', 'its thread ended with exit code 11'],
    [
      'spins',
      'shard 1 did not listen within startTimeoutMs \\(3000\\): the program .*relapsing-entry\\.js has not come to this call of createServer \\(unnamed call 1\\) there',
    ],
    [
      'never calls',
      'shard 1 did not listen within startTimeoutMs \\(3000\\): the program .*relapsing-entry\\.js ran there without making this call of createServer \\(unnamed call 1\\)\\. .*the URL of a module',
    ],
  ]
  for (const [way, reason] of relapses) {
    test(`that ${way} counts as one more death, by name, and is replaced in turn`, async (t) => {
      const { child, port } = await relapsing(t, way)
      await kill(t, port, 1)
      await child.line(inSupervisor(1, '"state":"starting","restarts":0,.*"restartInMs":0'))
      await child.line(inSupervisor(1, `"state":"starting","restarts":1,"reason":"${reason}`))
      await child.line(inSupervisor(1, '"state":"ready","restarts":2'))
      await clientOf(t, port, 1)
      child.send('close')
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      assert.equal(child.stderr, '')
    })
  }

  test('that cannot start is failed in the end, and the other shard serves on', async (t) => {
    const { child, port } = await relapsing(t, 'throws', '9')
    const client = await clientOf(t, port, 0)
    await kill(t, port, 1)
    await child.line(inSupervisor(1, '"state":"failed","restarts":3,"reason":"thrown by a replacement"'))
    await client.write('who\n')
    assert.equal(await client.readLine(), '0')
    // Handles in shards are told all but the error.
    await child.line(/^\{"shard":\{"id":1,"state":"failed","restarts":3,"reason":"thrown by .*"in":0\}/)
    assert.doesNotMatch(child.stdout, /"error":.*"in":0/)
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    await client.readToClose()
  })

  test('can control its server', async (t) => {
    const { child, port } = await relapsing(t, 'close')
    await kill(t, port, 1)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    for (const who of [null, 0, 1]) await child.line(new RegExp(`^\\{"closed":${who}\\}$`))
  })

  test('comes by the call of a server that drains, and goes on to the next', async (t) => {
    const child = t.start('servers/side-by-side')
    const [, first, second] = (await child.line(/^ready (\d+) (\d+)$/)).map(Number)
    const slow = await clientOf(t, first as number, 1)
    await flood(slow)
    // The other shard holds the drain open, whatever becomes of this one.
    const holds = await clientOf(t, first as number, 0)
    await flood(holds)
    child.send('drain first')
    await child.line(/^first: 1 draining 0/)
    await kill(t, second as number, 1, 'throw')
    await child.line(/^first: 1 failed 0 thrown outside of any callback$/)
    await child.line(/^second: 1 ready 1 $/)
    await clientOf(t, second as number, 1)
    assert.ok(!child.lines.includes('first: closed'), 'it still drains')
    child.send('abort first')
    await child.line(/^first: closed$/)
    await clientOf(t, second as number, 1)
    child.send('abort second')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    assert.doesNotMatch(child.stdout, /error/)
    for (const client of [slow, holds]) client.resume()
    await Promise.all([slow.readToClose(), holds.readToClose()])
  })

  test('comes by calls that are over, however many, and each ends as it did on the main thread', async (t) => {
    const count = 250
    const child = t.start('servers/many-calls', [String(count)])
    const [, before, after] = (await child.line(/"ready":\[(\d+),(\d+)\]/)).map(Number)
    const outcomes = async (from = 0): Promise<unknown> =>
      JSON.parse((await child.line(/^\{"in":0,"outcomes":(\[.*\])\}/, from))[1] as string)
    const expected = Array.from({ length: count }, (_, nth) => (nth % 2 === 0 ? 1 : 'EADDRINUSE'))
    assert.deepEqual(await outcomes(), expected)
    const printed = child.lines.length
    await kill(t, after as number, 0)
    assert.deepEqual(await outcomes(printed), expected)
    for (const port of [before, after]) await clientOf(t, port as number, 0)
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('comes by a call that failed because its predecessor was stuck, and that fails there too', async (t) => {
    const child = t.start('servers/failed-start')
    const failure =
      /"outcome":"(ERR_SHARDLOOP_START: shard 0 did not listen within startTimeoutMs \(300\).*)"\}$/
    const [, onMain] = await child.line(new RegExp(`^{"in":null,${failure.source}`))
    const [, inShard] = await child.line(new RegExp(`^{"in":0,${failure.source}`))
    assert.equal(inShard, onMain)
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('when nobody listens, what died and why is logged, by default to stderr', async (t) => {
    const child = t.start('servers/obedient', [
      JSON.stringify({ shards: 1, maxRestarts: 2, unwatched: true }),
    ])
    const port = Number((await child.line(/"ready":(\d+)/))[1])
    await kill(t, port, 0, 'throw')
    await kill(t, port, 0, 'exit 3')
    await clientOf(t, port, 0)
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    const lines = child.stderr.split('\n').filter((line) => / ERROR shardloop: /.test(line))
    assert.match(
      lines[0] ?? '',
      /shard 0 died and is replaced: thrown outside of any callback aboutShard=0 exitCode=1 /,
    )
    // Node shows an error of another thread by both its names.
    assert.match(child.stderr, /^TypeError( \[Error\])?: thrown outside of any callback$/m)
    assert.match(child.stderr, /obedient-protocol\.js:\d+/)
    assert.match(
      lines[1] ?? '',
      /shard 0 died and is replaced in \d+ ms: its thread ended with exit code 3 aboutShard=0 exitCode=3 /,
    )
    assert.equal(lines.length, 2)
  })
})
