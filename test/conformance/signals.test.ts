/**
 * asyncio's add_signal_handler and remove_signal_handler. TokioLoop: tests/test_signals.py, which is uvloop's list
 * (tests/test_signals.py); CPython: Lib/test/test_asyncio/test_unix_events.py, SelectorEventLoopSignalTests.
 */
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { constants } from 'node:os'
import { Worker } from 'node:worker_threads'
import { type Child, fixtureUrl } from '../harness/child.js'
import type { Client } from '../harness/client.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

/** Generous: a machine that tests in parallel is slow. What is asserted is that nobody waits for a timer or for I/O. */
const SOON_MS = 1_000

forEachEngine('signal handlers of a loop', (test) => {
  // TokioLoop: test_ctrl_c_responsiveness
  test('five SIGINT one after the other are each heard, and soon', async (t) => {
    const child = await started(t, 'timers')
    await child.ask('add SIGINT', /^added SIGINT$/)
    for (let count = 1; count <= 5; count += 1) {
      const sentAt = performance.now()
      child.kill('SIGINT')
      await child.line(new RegExp(`^main heard SIGINT ${count}$`))
      const tookMs = performance.now() - sentAt
      assert.ok(tookMs < SOON_MS, `SIGINT ${count} was heard after ${tookMs} ms`)
    }
    child.send('end')
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGTERM' }, child.describe())
  })

  // TokioLoop: test_signals_sigint_pycode_stop
  test('SIGINT without a handler ends a process whose loop has timers only', async (t) => {
    const child = await started(t, 'timers')
    child.kill('SIGINT')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGINT' }, child.describe())
  })

  // TokioLoop: test_signals_sigint_uvcode; ours drains, and the program ends when it has nothing left to do
  test('SIGINT without a handler drains a server, and then the process ends', async (t) => {
    const child = await started(t, 'server')
    const client = await t.connect(portOf(child))
    await client.write('later 50\n')
    // Answered in the server's turn: it has the request.
    await ask(await t.connect(portOf(child)), 'count SIGHUP')
    child.kill('SIGINT')
    assert.equal(String(await client.readToEnd()), 'done\n')
    client.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    assert.ok(child.lines.includes('the server is over'))
  })

  test('a handler for SIGINT is heard beside the server, which drains', async (t) => {
    const child = await started(t, 'server')
    await child.ask('add SIGINT', /^added SIGINT$/)
    child.kill('SIGINT')
    await child.line(/^main heard SIGINT 1$/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  // TokioLoop: test_signals_sigint_and_custom_handler
  test('several signals have a handler each, with its arguments', async (t) => {
    const child = await started(t)
    const signals = ['SIGINT', 'SIGHUP', 'SIGUSR2', 'SIGTERM', 'SIGQUIT', 'SIGWINCH', 'SIGCONT'] as const
    for (const signal of signals) await child.ask(`add ${signal} says ${signal.toLowerCase()} !`, /^added/)
    for (const signal of signals) {
      child.kill(signal)
      await child.line(new RegExp(`^main heard ${signal} 1 says ${signal.toLowerCase()} !$`))
    }
    await endsByItself(child)
  })

  // asyncio: "only one signal handler"; CPython: test_add_signal_handler... the later one takes its place
  test('another handler takes the place of that before, and the signal never has its default action', async (t) => {
    const child = await started(t)
    await child.ask('add SIGHUP first', /^added SIGHUP$/)
    await child.ask('add SIGHUP second', /^added SIGHUP$/)
    assert.deepEqual((await child.ask('count SIGHUP', /^SIGHUP has (\d)$/))[1], '1')
    assert.ok(!child.lines.includes('no handler for SIGHUP'), 'there was one at each moment')
    child.kill('SIGHUP')
    await child.line(/^main heard SIGHUP 1 second$/)
    child.kill('SIGHUP')
    await child.line(/^main heard SIGHUP 2 second$/)
    assert.ok(!child.lines.some((line) => line.endsWith('first')))
    await child.ask('remove SIGHUP', /^removed SIGHUP: true$/)
    await child.ask('remove SIGHUP', /^removed SIGHUP: false$/)
    await endsByItself(child)
  })

  // CPython: test_remove_signal_handler
  test('removal tells whether there was one, and gives the default action back', async (t) => {
    const child = await started(t)
    await child.ask('remove SIGHUP', /^removed SIGHUP: false$/)
    await child.ask('add SIGHUP', /^added SIGHUP$/)
    child.kill('SIGHUP')
    await child.line(/^main heard SIGHUP 1$/)
    await child.ask('remove SIGHUP', /^removed SIGHUP: true$/)
    await child.ask('count SIGHUP', /^SIGHUP has 0$/)
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
  })

  // TokioLoop: test_signals_and_custom_handler_1
  test('a handler removes that of another signal, and its own', async (t) => {
    const child = await started(t)
    await child.ask('add SIGWINCH', /^added SIGWINCH$/)
    await child.ask('add-removing SIGUSR2 SIGWINCH', /^added SIGUSR2$/)
    await child.ask('add-removing SIGHUP SIGHUP', /^added SIGHUP$/)
    for (const count of [1, 2]) {
      child.kill('SIGWINCH')
      await child.line(new RegExp(`^main heard SIGWINCH ${count}$`))
    }
    child.kill('SIGUSR2')
    await child.line(/^main removed SIGWINCH: true$/)
    await child.ask('count SIGWINCH', /^SIGWINCH has 0$/)
    child.kill('SIGWINCH') // ignored by default
    child.kill('SIGUSR2')
    await child.line(/^main removed SIGWINCH: false$/)
    child.kill('SIGHUP')
    await child.line(/^main removed SIGHUP: true$/)
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
    assert.ok(!child.lines.includes('main heard SIGWINCH 3'))
  })

  // TokioLoop: test_signals_invalid_signal, test_signals_no_SIGCHLD; CPython: test_check_signal, test_add_signal_handler_...
  test('signals that cannot be handled are refused by name, with the reason', async (t) => {
    const child = await started(t)
    const expected: [signal: string | number, message: RegExp][] = [
      ['SIGKILL', /given 'SIGKILL': no process can catch it/],
      ['SIGSTOP', /given 'SIGSTOP': no process can catch it/],
      ['SIGCHLD', /given 'SIGCHLD': it is libuv's own, for child processes/],
      ['SIGPIPE', /given 'SIGPIPE': Node ignores it/],
      ['SIGUSR1', /given 'SIGUSR1': it is Node's own/],
      ['SIGSEGV', /given 'SIGSEGV': a process that it is sent to is broken/],
      ['SIGNOSUCH', /given 'SIGNOSUCH'/],
      ['sighup', /given 'sighup'/],
      [constants.signals.SIGKILL, /given 'SIGKILL'/],
      [constants.signals.SIGCHLD, /given 'SIGCHLD'/],
      [0, /no signal has the number 0 here/],
      [-1, /no signal has the number -1 here/],
      [1.5, /no signal has the number 1.5 here/],
      [1000, /no signal has the number 1000 here/],
    ]
    for (const [signal, message] of expected) {
      const [answer] = await child.ask(`add ${signal}`, /^(added|refused) .*$/)
      assert.match(answer, /^refused ERR_SHARDLOOP_ARGUMENT /)
      assert.match(answer, message)
    }
    for (const signal of ['SIGNOSUCH', constants.signals.SIGKILL, 1000]) {
      assert.throws(() => t.loop.removeSignalHandler(signal as never), {
        code: 'ERR_SHARDLOOP_ARGUMENT',
        message: /^removeSignalHandler: /,
      })
    }
    const [answer] = await child.ask('add-nothing SIGHUP', /^(added|refused) .*$/)
    assert.match(answer, /^refused ERR_SHARDLOOP_ARGUMENT .*SIGHUP/)
    assert.ok(!child.lines.some((line) => line.startsWith('handler for SIG')), 'nothing was installed')
    await endsByItself(child)
  })

  test('a signal is known by its number as well as by its name', async (t) => {
    const child = await started(t)
    const { SIGHUP } = constants.signals
    await child.ask(`add ${SIGHUP} by number`, /^added/)
    child.kill('SIGHUP')
    await child.line(new RegExp(`^main heard ${SIGHUP} 1 by number$`))
    await child.ask('add SIGHUP by name', /^added/)
    child.kill('SIGHUP')
    await child.line(/^main heard SIGHUP 1 by name$/)
    await child.ask(`remove ${SIGHUP}`, /: true$/)
    await endsByItself(child)
  })

  // uvloop: child watchers have SIGCHLD
  test("handlers leave child processes' exit alone", async (t) => {
    const child = await started(t)
    for (const signal of ['SIGHUP', 'SIGINT', 'SIGTERM', 'SIGCONT'])
      await child.ask(`add ${signal}`, /^added/)
    const [answer] = await child.ask('add SIGCHLD', /^(added|refused)/)
    assert.equal(answer, 'refused')
    child.send('spawn')
    await child.line(/^child ended 3$/)
    child.kill('SIGHUP')
    await child.line(/^main heard SIGHUP 1$/)
    await endsByItself(child)
  })

  // asyncio: a handler is a callback of the loop, and what it throws goes to the exception handler
  test('what a handler throws or rejects with reaches the exception handler, and it is called again', async (t) => {
    const child = await started(t)
    await child.ask('handle', /^handles$/)
    await child.ask('add-throwing SIGHUP', /^added/)
    await child.ask('add-rejecting SIGUSR2', /^added/)
    for (const round of [1, 2]) {
      child.kill('SIGHUP')
      await told(child, 'main is told: the handler of SIGHUP threw: main throws', round)
      child.kill('SIGUSR2')
      await told(child, 'main is told: the handler of SIGUSR2 threw: main rejects', round)
    }
    assert.equal(child.stderr, '')
    await endsByItself(child)
  })

  test('without an exception handler it is logged', async (t) => {
    const child = await started(t)
    await child.ask('add-throwing SIGHUP', /^added/)
    child.kill('SIGHUP')
    await child.until(() => /the handler of SIGHUP threw[\s\S]*main throws/.test(child.stderr))
    await endsByItself(child)
  })

  test('a closed loop has no handlers, and the next one may have', async (t) => {
    const child = await started(t)
    await child.ask('add SIGHUP', /^added/)
    await child.ask('add SIGUSR2', /^added/)
    await child.ask('close', /^main closed its loop$/)
    await child.ask('count SIGHUP', /^SIGHUP has 0$/)
    await child.ask('add SIGHUP again', /^added/)
    child.kill('SIGHUP')
    await child.line(/^main heard SIGHUP 1 again$/)
    child.kill('SIGUSR2')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGUSR2' }, child.describe())
  })

  test('listeners of onSignal are called beside it, in their order, and stay', async (t) => {
    const child = await started(t)
    for (const line of ['on SIGHUP', 'add SIGHUP', 'on SIGHUP']) await child.ask(line, /SIGHUP/)
    child.kill('SIGHUP')
    await told(child, 'main hears SIGHUP by onSignal', 2)
    const heard = child.lines.filter((line) => line.startsWith('main hear'))
    assert.deepEqual(heard, [
      'main hears SIGHUP by onSignal',
      'main heard SIGHUP 1',
      'main hears SIGHUP by onSignal',
    ])
    await child.ask('remove SIGHUP', /: true$/)
    child.kill('SIGHUP')
    await told(child, 'main hears SIGHUP by onSignal', 4)
    assert.ok(!child.lines.includes('main heard SIGHUP 2'))
    await endsByItself(child)
  })

  test('a handler does not keep a process alive', async (t) => {
    const child = await started(t)
    await child.ask('add SIGHUP', /^added/)
    await endsByItself(child)
  })

  test("in a worker thread of the program's own there are none, by name", async (t) => {
    const worker = new Worker(fixtureUrl('loop-in-worker'), { argv: ['signals', '--engine', t.engine] })
    t.defer(() => worker.terminate())
    const exited = once(worker, 'exit') // it may be over by the time its message was looked at
    const [answer] = (await once(worker, 'message')) as [string]
    assert.match(answer, /^ERR_SHARDLOOP_STATE .*worker thread of your own/)
    await exited
  })
})

forEachEngine("signal handlers of a shard's loop", (test) => {
  test('each shard with a handler hears the signal by its supervisor, until it is removed', async (t) => {
    const child = await started(t, 'shards')
    const clients = [await clientOf(t, child, 0), await clientOf(t, child, 1)] as const
    for (const [index, client] of clients.entries())
      assert.equal(await ask(client, `add SIGHUP of ${index}`), 'added SIGHUP')
    await ask(clients[1], 'add SIGUSR2')
    // What a shard says is heard in order: both have subscribed when the second one's last word is heard, and the first's.
    await ask(clients[0], 'add SIGWINCH')
    await child.line(/^handler for SIGUSR2$/)
    await child.line(/^handler for SIGWINCH$/)
    child.kill('SIGHUP')
    await child.line(/^shard 0 heard SIGHUP 1 of 0$/)
    await child.line(/^shard 1 heard SIGHUP 1 of 1$/)
    child.kill('SIGUSR2')
    await child.line(/^shard 1 heard SIGUSR2 1$/)
    assert.equal(await ask(clients[0], 'remove SIGHUP'), 'removed SIGHUP: true')
    assert.equal(await ask(clients[0], 'remove SIGHUP'), 'removed SIGHUP: false')
    assert.equal(await ask(clients[0], 'remove SIGWINCH'), 'removed SIGWINCH: true')
    await child.line(/^no handler for SIGWINCH$/)
    child.kill('SIGHUP')
    await child.line(/^shard 1 heard SIGHUP 2 of 1$/)
    await ask(clients[1], 'remove SIGHUP')
    await child.line(/^no handler for SIGHUP$/)
    assert.ok(!child.lines.includes('shard 0 heard SIGHUP 2 of 0'))
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
  })

  test('another handler takes the place of that before, which the supervisor does not notice', async (t) => {
    const child = await started(t, 'shards')
    const client = await clientOf(t, child, 0)
    await ask(client, 'add SIGHUP first')
    await child.line(/^handler for SIGHUP$/)
    await ask(client, 'add SIGHUP second')
    await ask(client, 'add SIGWINCH')
    await child.line(/^handler for SIGWINCH$/)
    child.kill('SIGHUP')
    await child.line(/^shard 0 heard SIGHUP 1 second$/)
    assert.ok(!child.lines.some((line) => line.startsWith('no handler') || line.endsWith('first')))
    await endsBySigint(child)
  })

  test('what a handler throws reaches the exception handler of its shard, and the shard goes on', async (t) => {
    const child = await started(t, 'shards')
    const client = await clientOf(t, child, 1)
    await ask(client, 'handle')
    await ask(client, 'add-throwing SIGHUP')
    await child.line(/^handler for SIGHUP$/)
    for (const round of [1, 2]) {
      child.kill('SIGHUP')
      await told(child, 'shard 1 is told: the handler of SIGHUP threw: shard 1 throws', round)
    }
    assert.equal(await ask(client, 'who'), '1')
    await endsBySigint(child)
  })

  test('a closed loop of a shard has no handlers, and the shard serves on', async (t) => {
    const child = await started(t, 'shards')
    const client = await clientOf(t, child, 0)
    await ask(client, 'add SIGHUP')
    await child.line(/^handler for SIGHUP$/)
    await ask(client, 'close')
    await child.line(/^shard 0 closed its loop$/)
    await child.line(/^no handler for SIGHUP$/)
    assert.equal(await ask(client, 'who'), '0')
    await ask(client, 'add SIGHUP again')
    await told(child, 'handler for SIGHUP', 2)
    child.kill('SIGHUP')
    await child.line(/^shard 0 heard SIGHUP 1 again$/)
    await endsBySigint(child)
  })

  test('a handler for SIGTERM is heard before the server drains', async (t) => {
    const child = await started(t, 'shards')
    const client = await clientOf(t, child, 0)
    await ask(client, 'add SIGTERM')
    await ask(client, 'add SIGHUP') // behind it
    await child.line(/^handler for SIGHUP$/)
    child.kill('SIGTERM')
    await child.line(/^shard 0 heard SIGTERM 1$/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})

async function started(t: TestContext, what = ''): Promise<Child> {
  const child = t.start('servers/loop-signals', [what])
  await child.line(/^ready/)
  return child
}

function portOf(child: Child): number {
  return Number(/^ready (\d+)$/m.exec(child.stdout)?.[1])
}

/** A connection to that shard. */
async function clientOf(t: TestContext, child: Child, shard: number): Promise<Client> {
  for (;;) {
    const client = await t.connect(portOf(child))
    if ((await ask(client, 'who')) === String(shard)) return client
  }
}

async function ask(client: Client, line: string): Promise<string> {
  await client.write(`${line}\n`)
  return await client.readLine()
}

/** Resolves when the child has printed that line so many times. */
async function told(child: Child, line: string, times: number): Promise<void> {
  await child.until(
    () => child.lines.filter((printed) => printed === line).length >= times || child.exit !== undefined,
  )
  assert.equal(child.exit, undefined, child.describe())
}

async function endsByItself(child: Child): Promise<void> {
  child.send('end')
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
}

async function endsBySigint(child: Child): Promise<void> {
  child.kill('SIGINT')
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
}
