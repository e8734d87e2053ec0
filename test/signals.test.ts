import assert from 'node:assert/strict'
import { constants } from 'node:os'
import { type HandledSignal, onSignal } from '../src/index.js'
import { endsBySigterm } from './harness/answers.js'
import type { Child } from './harness/child.js'
import type { Client } from './harness/client.js'
import { assertCode, forEachEngine, type TestContext } from './harness/suite.js'

/** More than the kernel's buffers on both sides take. */
const FLOOD_BYTES = 40_000_000

async function obedient(t: TestContext, options: object): Promise<{ child: Child; port: number }> {
  const child = t.start('servers/obedient', [JSON.stringify(options)])
  return { child, port: Number((await child.line(/"ready":(\d+)/))[1]) }
}

/** A client that has asked for more than the kernel's buffers take, and does not read it. */
async function floodedClient(t: TestContext, port: number): Promise<Client> {
  const client = await t.connect(port)
  await client.write(`send ${FLOOD_BYTES}\n`)
  await client.readExactly(1)
  client.pause()
  return client
}

forEachEngine('signals', (test) => {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    for (const shards of [0, 2]) {
      test(`${signal} drains: no more connections, what is queued is sent, then the process ends (shards ${shards})`, async (t) => {
        const { child, port } = await obedient(t, { shards })
        const client = await floodedClient(t, port)
        child.kill(signal)
        await child.line(/"state":"draining"/)
        client.resume()
        assert.equal((await client.readToEnd()).length, FLOOD_BYTES - 1)
        client.end()
        assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
        assert.ok(
          child.lines.some((line) => line.startsWith('{"over"')),
          'the program went on behind the server',
        )
      })

      test(`a second ${signal} ends the process at once (shards ${shards})`, async (t) => {
        const { child, port } = await obedient(t, { shards, drainTimeoutMs: 600_000 })
        await floodedClient(t, port)
        child.kill(signal === 'SIGINT' ? 'SIGTERM' : 'SIGINT')
        await child.line(/"state":"draining"/)
        child.kill(signal)
        assert.deepEqual(
          await child.untilExit(),
          { code: 128 + constants.signals[signal], signal: null },
          child.describe(),
        )
      })
    }
  }

  test('past drainTimeoutMs a drain by signal aborts', async (t) => {
    const { child, port } = await obedient(t, { shards: 2, drainTimeoutMs: 50 })
    const client = await floodedClient(t, port)
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    client.resume()
    await client.readToClose()
    assert.ok(client.received < FLOOD_BYTES, 'the rest was dropped')
  })

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    test(`while every shard spins ${signal} drains, and the deadline ends the process`, async (t) => {
      const { child, port } = await obedient(t, { shards: 2, drainTimeoutMs: 100 })
      await spinAll(t, port)
      child.kill(signal)
      await child.line(/"state":"draining"/)
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      assert.match(child.stdout, /did not answer an abort/)
    })
  }

  test('a supervisor that is busy for a second drains after it', async (t) => {
    const { child } = await signalled(t, [{ shards: 2 }])
    await child.ask('busy 1000', /^busy$/)
    child.kill('SIGINT')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    const [over, closed] = ['not busy any more', 'server 0 closed'].map((line) => child.lines.indexOf(line))
    assert.ok(over !== undefined && closed !== undefined && over >= 0 && over < closed, child.describe())
  })

  test('while every shard spins a second signal ends the process at once', async (t) => {
    const { child, port } = await obedient(t, { shards: 2, drainTimeoutMs: 600_000 })
    await spinAll(t, port)
    child.kill('SIGINT')
    await child.line(/"state":"draining"/)
    child.kill('SIGINT')
    assert.deepEqual(await child.untilExit(), { code: 130, signal: null }, child.describe())
  })

  test("the program's own listeners run too", async (t) => {
    const { child } = await obedient(t, { shards: 1, ownListener: true })
    child.kill('SIGTERM')
    await child.line(/"own":"SIGTERM"/)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('signals: false leaves them to the program', async (t) => {
    const { child } = await obedient(t, { shards: 1, signals: false })
    await child.ask('handlers', /^\{"handlers":0\}$/)
    child.kill('SIGTERM')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGTERM' })
  })

  test('handlers come once, and go with the last server', async (t) => {
    const count = (): number => process.listenerCount('SIGTERM') + process.listenerCount('SIGINT')
    const before = count()
    const first = await t.serve(() => ({}), { signals: true })
    const second = await t.serve(() => ({}), { signals: true })
    const silent = await t.serve(() => ({}), { signals: false })
    assert.equal(count(), before + 2)
    await first.close()
    assert.equal(count(), before + 2)
    await second.close()
    assert.equal(count(), before)
    await silent.close()
  })
})

forEachEngine('SIGHUP and SIGUSR2', (test) => {
  for (const shards of [0, 2]) {
    for (const signal of ['SIGHUP', 'SIGUSR2'] as const) {
      test(`${signal} is an event while a server has a listener for it; else it ends the process (shards ${shards})`, async (t) => {
        const { child } = await signalled(t, [{ shards }])
        await child.ask('listen 0', new RegExp(`^handler for ${signal}$`))
        child.kill(signal)
        await child.line(new RegExp(`^server 0 has the event ${signal}$`))
        await child.ask('unlisten 0', new RegExp(`^no handler for ${signal}$`))
        child.kill(signal)
        assert.deepEqual(await child.untilExit(), { code: null, signal }, child.describe())
      })
    }

    test(`onSignal listens on the main thread too (shards ${shards})`, async (t) => {
      const { child } = await signalled(t, [{ shards, signals: false }])
      await child.ask('on SIGHUP', /^on SIGHUP$/)
      await child.ask('on SIGHUP', /^on SIGHUP$/)
      assert.equal(handlersOf(child, 'SIGHUP'), 1)
      child.kill('SIGHUP')
      await linesOf(child, 'supervisor got SIGHUP', 2)
      await child.ask('off SIGHUP', /^off SIGHUP$/)
      assert.equal(handlersOf(child, 'SIGHUP'), 1, 'the other still listens')
      await child.ask('off SIGHUP', /^no handler for SIGHUP$/)
      child.kill('SIGHUP')
      assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
    })
  }

  test('a listener that listens once, or is removed with all others, leaves the default action behind', async (t) => {
    const { child } = await signalled(t, [{ shards: 0 }])
    await child.ask('listen-once 0', /^handler for SIGUSR2$/)
    child.kill('SIGUSR2')
    await child.line(/^no handler for SIGUSR2$/)
    await child.ask('listen 0', /^handler for SIGUSR2$/)
    await child.ask('unlisten-all 0', /^no handler for SIGUSR2$/)
    await child.ask('listen 0', /^handler for SIGUSR2$/)
    child.kill('SIGUSR2')
    await child.line(/^server 0 has the event SIGUSR2$/)
    await child.ask('unlisten 0', /^no handler for SIGUSR2$/)
    child.kill('SIGUSR2')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGUSR2' }, child.describe())
  })

  test('every server with a listener has the event, one with signals: false has not, and handlers go with the last', async (t) => {
    const { child } = await signalled(t, [{ shards: 1 }, { shards: 1 }, { shards: 1, signals: false }])
    child.send('listen 2')
    await child.ask('count SIGHUP', /^SIGHUP has 0$/)
    await child.ask('listen 0', /^handler for SIGUSR2$/)
    child.send('listen 1')
    child.kill('SIGHUP')
    await child.line(/^server 0 has the event SIGHUP$/)
    await child.line(/^server 1 has the event SIGHUP$/)
    await child.ask('close 0', /^server 0 closed$/)
    await child.ask('count SIGHUP', /^SIGHUP has 1$/)
    child.kill('SIGHUP')
    await linesOf(child, 'server 1 has the event SIGHUP', 2)
    await child.ask('close 1', /^no handler for SIGHUP$/)
    assert.equal(linesNow(child, 'server 0 has the event SIGHUP'), 1)
    assert.equal(linesNow(child, 'server 2 has the event SIGHUP'), 0)
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
  })

  test("the program's own listeners run too, and stay", async (t) => {
    const { child } = await signalled(t, [{ shards: 1 }])
    await child.ask('own SIGHUP', /^handler for SIGHUP$/)
    await child.ask('listen 0', /^handler for SIGUSR2$/)
    child.kill('SIGHUP')
    await child.line(/^the program's own listener got SIGHUP$/)
    await child.line(/^server 0 has the event SIGHUP$/)
    await child.ask('unlisten 0', /^no handler for SIGUSR2$/)
    child.kill('SIGHUP')
    await linesOf(child, "the program's own listener got SIGHUP", 2)
    await endsBySigterm(child)
  })

  test('are events while every shard spins, and after the supervisor was busy for a second', async (t) => {
    const { child, port } = await signalled(t, [{ shards: 2, drainTimeoutMs: 100 }])
    await child.ask('listen 0', /^handler for SIGUSR2$/)
    await child.ask('busy 1000', /^busy$/)
    child.kill('SIGUSR2')
    await child.line(/^server 0 has the event SIGUSR2$/)
    assert.ok(child.lines.includes('not busy any more'), child.describe())
    await spinAll(t, port)
    child.kill('SIGHUP')
    await child.line(/^server 0 has the event SIGHUP$/)
    await endsBySigterm(child)
  })
})

forEachEngine('signals in shards', (test) => {
  test('every shard that listens gets the signal, no other does, and removal restores the default action', async (t) => {
    const { child, port } = await signalled(t, [{ shards: 2 }])
    const [first, second] = [await clientOf(t, port, 0), await clientOf(t, port, 1)]
    await ask(first, 'on SIGHUP')
    await child.line(/^handler for SIGHUP$/)
    child.kill('SIGHUP')
    await child.line(/^shard 0 got SIGHUP$/)
    await ask(second, 'on SIGUSR2')
    await child.line(/^handler for SIGUSR2$/)
    await ask(second, 'on SIGHUP')
    await ask(second, 'on SIGWINCH')
    await child.line(/^handler for SIGWINCH$/)
    child.kill('SIGHUP')
    await child.line(/^shard 1 got SIGHUP$/)
    await linesOf(child, 'shard 0 got SIGHUP', 2)
    child.kill('SIGWINCH')
    await child.line(/^shard 1 got SIGWINCH$/)
    await ask(first, 'off SIGHUP')
    assert.equal(handlersOf(child, 'SIGHUP'), 1, 'shard 1 still listens')
    await ask(second, 'off SIGHUP')
    await child.line(/^no handler for SIGHUP$/)
    assert.deepEqual(
      child.lines.filter((line) => / got /.test(line)).sort(),
      ['shard 0 got SIGHUP', 'shard 0 got SIGHUP', 'shard 1 got SIGHUP', 'shard 1 got SIGWINCH'],
      child.describe(),
    )
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
  })

  test('several listeners are called in order, each until it is removed; the supervisor learns of the first and the last', async (t) => {
    const { child, port } = await signalled(t, [{ shards: 1 }])
    const client = await clientOf(t, port, 0)
    for (let round = 0; round < 2; round++) await ask(client, 'on SIGUSR2')
    await child.line(/^handler for SIGUSR2$/)
    child.kill('SIGUSR2')
    await linesOf(child, 'shard 0 got SIGUSR2', 2)
    await ask(client, 'off SIGUSR2')
    child.kill('SIGUSR2')
    await linesOf(child, 'shard 0 got SIGUSR2', 3)
    await ask(client, 'off SIGUSR2')
    await child.line(/^no handler for SIGUSR2$/)
    assert.equal(handlersOf(child, 'SIGUSR2'), 1, 'it was there once')
    await endsBySigterm(child)
  })

  test('what a listener throws or rejects with is printed, the others are called, and the shard goes on', async (t) => {
    const { child, port } = await signalled(t, [{ shards: 1 }])
    const client = await clientOf(t, port, 0)
    for (const command of ['throwing', 'rejecting', 'on']) await ask(client, `${command} SIGHUP`)
    await child.line(/^handler for SIGHUP$/)
    child.kill('SIGHUP')
    await child.line(/^shard 0 got SIGHUP$/)
    await child.until(() => /shard 0 throws/.test(child.stderr) && /shard 0 rejects/.test(child.stderr))
    assert.match(child.stderr, / ERROR shardloop shard 0: a listener of onSignal\('SIGHUP'\) threw$/m)
    assert.equal(await ask(client, 'who'), '0')
    await endsBySigterm(child)
  })

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    test(`a shard that listens to ${signal} gets it, and the server drains`, async (t) => {
      const { child, port } = await signalled(t, [{ shards: 2 }])
      await ask(await clientOf(t, port, 1), `on ${signal}`)
      // What the shard said is heard in order: this came behind it.
      await ask(await clientOf(t, port, 1), 'on SIGHUP')
      await child.line(/^handler for SIGHUP$/)
      child.kill(signal)
      await child.line(new RegExp(`^shard 1 got ${signal}$`))
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      assert.ok(!child.lines.includes(`shard 0 got ${signal}`))
    })
  }

  test('with signals: false on every server nothing is installed or handed on', async (t) => {
    const { child, port } = await signalled(t, [{ shards: 1, signals: false }])
    const client = await clientOf(t, port, 0)
    await ask(client, 'on SIGHUP')
    child.send('listen 0')
    assert.equal(await ask(client, 'who'), '0')
    await child.ask('count SIGHUP', /^SIGHUP has 0$/)
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
    assert.equal(linesNow(child, 'handler for SIGHUP'), 0)
  })

  test('the replacement of a shard that died listens as its program does', async (t) => {
    const child = t.start('servers/signalled', [JSON.stringify([{ shards: 1 }]), 'SIGHUP'])
    const [, port] = await child.line(/^ready (\d+)/)
    await child.ask('count SIGHUP', /^SIGHUP has 1$/)
    const client = await clientOf(t, Number(port), 0)
    await client.write('exit 3\n')
    await client.readToClose()
    // It was the only one that listened. Until its replacement does, the system's default action would end the process.
    child.kill('SIGHUP')
    await clientOf(t, Number(port), 0)
    child.kill('SIGHUP')
    await child.line(/^shard 0 got SIGHUP$/)
    await child.ask('count SIGHUP', /^SIGHUP has 1$/)
    await endsBySigterm(child)
  })

  test('a subscription ends with its shard, and handlers with the last server', async (t) => {
    const { child, port } = await signalled(t, [{ shards: 1 }, { shards: 0, signals: false }])
    await ask(await clientOf(t, port, 0), 'on SIGHUP')
    await child.line(/^handler for SIGHUP$/)
    await child.ask('close 0', /^no handler for SIGHUP$/)
    child.kill('SIGHUP')
    assert.deepEqual(await child.untilExit(), { code: null, signal: 'SIGHUP' }, child.describe())
  })
})

forEachEngine('onSignal', (test) => {
  const refusals: [unknown, RegExp][] = [
    ['SIGKILL', /no process can catch it/],
    ['SIGSTOP', /no process can catch it/],
    ['SIGUSR1', /debugger/],
    ['SIGCHLD', /child processes/],
    ['SIGPIPE', /EPIPE/],
    ['SIGSEGV', /runs no JavaScript/],
    ['SIGHUB', /given 'SIGHUB'$/],
    ['sighup', /given 'sighup'$/],
    [1, /given 1$/],
    [undefined, /given undefined$/],
  ]
  for (const [signal, reason] of refusals) {
    test(`refuses ${String(signal)} by name`, () => {
      const before = process.eventNames().length
      const error = thrownBy(() => onSignal(signal as HandledSignal, () => {}))
      assertCode(error, 'ERR_SHARDLOOP_ARGUMENT')
      assert.match((error as Error).message, /expected SIGHUP, SIGINT, /)
      assert.match((error as Error).message, reason)
      assert.equal(process.eventNames().length, before)
    })
  }

  test('refuses a listener that is no function', () => {
    const before = process.listenerCount('SIGHUP')
    for (const listener of [undefined, null, 'SIGHUP', {}])
      assertCode(
        thrownBy(() => onSignal('SIGHUP', listener as unknown as () => void)),
        'ERR_SHARDLOOP_ARGUMENT',
      )
    assert.equal(process.listenerCount('SIGHUP'), before)
  })

  test('is refused in a worker thread of the program, where Node delivers no signals', async (t) => {
    const child = t.start('servers/signal-in-worker')
    await child.line(/^ERR_SHARDLOOP_STATE /)
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})

function thrownBy(call: () => unknown): unknown {
  try {
    call()
  } catch (error) {
    return error
  }
  return undefined
}

/** Servers in a process of their own that listen as they are told; the port of the first. */
async function signalled(t: TestContext, each: object[]): Promise<{ child: Child; port: number }> {
  const child = t.start('servers/signalled', [JSON.stringify(each)])
  return { child, port: Number((await child.line(/^ready (\d+)/))[1]) }
}

/** How often a handler for `signal` was installed. */
function handlersOf(child: Child, signal: string): number {
  return linesNow(child, `handler for ${signal}`)
}

function linesNow(child: Child, line: string): number {
  return child.lines.filter((printed) => printed === line).length
}

async function linesOf(child: Child, line: string, count: number): Promise<void> {
  await child.until(() => linesNow(child, line) >= count || child.exit !== undefined)
  assert.equal(linesNow(child, line), count, child.describe())
}

async function ask(client: Client, line: string): Promise<string> {
  await client.write(`${line}\n`)
  return await client.readLine()
}

/** A connection to one of the shards; connects until the kernel chooses that. */
async function clientOf(t: TestContext, port: number, shard: number): Promise<Client> {
  for (;;) {
    const client = await t.connect(port)
    if ((await ask(client, 'who')) === String(shard)) return client
    await client.destroy()
  }
}

/** Has both shards spin, by as many connections as that takes. */
async function spinAll(t: TestContext, port: number): Promise<void> {
  const shards = new Set<string>()
  while (shards.size < 2) {
    const client = await t.connect(port)
    await client.write('who\n')
    // The connection may have come to a shard that spins already; then it gets no answer.
    const shard = await Promise.race([
      client.readLine(),
      new Promise<null>((resolve) => setTimeout(resolve, 100, null)),
    ])
    if (shard === null) continue
    await client.write('spin\n')
    await client.readLine()
    shards.add(shard)
  }
}
