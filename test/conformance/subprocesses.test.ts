/** asyncio's subprocess_exec and subprocess_shell: CPython test_events.py, test_subprocess.py; uvloop tests/test_process.py. */
import assert from 'node:assert/strict'
import { AsyncLocalStorage } from 'node:async_hooks'
import { closeSync, openSync, readFileSync, realpathSync, writeFileSync } from 'node:fs'
import { constants } from 'node:os'
import { pathToFileURL } from 'node:url'
import type { ExceptionContext, SubprocessOptions, SubprocessTransport } from '../../src/index.js'
import { native } from '../../src/native/index.js'
import { assertBytes } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { openDescriptors } from '../harness/leaks.js'
import { KiB, MiB } from '../harness/memory.js'
import { isThere, ProcessRecorder, zombies } from '../harness/processes.js'
import { assertCode, assertRejects, assertThrows, forEachEngine, type TestContext } from '../harness/suite.js'

const { SIGHUP, SIGKILL, SIGTERM, SIGUSR1 } = constants.signals

forEachEngine('subprocesses', (test) => {
  // CPython: test_events.SubprocessTestsMixin.test_subprocess_exec
  test('a program answers through its pipes, and ends in the order of asyncio', async (t) => {
    const [transport, protocol] = await exec(t, ['cat'])
    assert.equal(protocol.transport, transport)
    assert.equal(transport.protocol, protocol)
    assert.ok(transport.pid > 0 && isThere(transport.pid))
    assert.equal(transport.returnCode, null)
    const stdin = transport.getPipeTransport(0)
    stdin?.write('Python The Winner')
    await protocol.until(() => protocol.output[1]?.length === 17)
    stdin?.close()
    assert.equal(await protocol.over(), 0)
    assert.equal(protocol.text(1), 'Python The Winner')
    assert.equal(protocol.events[0], 'made')
    assert.equal(protocol.events.at(-1), 'lost')
    assert.deepEqual([...protocol.events].sort(), ['exited', 'lost', 'made', 'pipe 0', 'pipe 1', 'pipe 2'])
    assert.deepEqual(protocol.pipeErrors, { 0: null, 1: null, 2: null })
    assert.ok(!isThere(transport.pid), 'it was reaped')
  })

  // CPython: test_subprocess_interactive
  test('question and answer, again and again', async (t) => {
    const [transport, protocol] = await shell(t, 'while read line; do echo "<$line>"; done')
    for (const [question, answers] of [
      ['a', '<a>\n'],
      ['b', '<a>\n<b>\n'],
    ] as const) {
      transport.getPipeTransport(0)?.write(`${question}\n`)
      await protocol.until(() => protocol.text(1) === answers)
    }
    transport.getPipeTransport(0)?.writeEof()
    assert.equal(await protocol.over(), 0)
  })

  // CPython: test_subprocess_shell, test_subprocess_exitcode, test_subprocess_stderr
  test('a shell command: what it says, and how it ends', async (t) => {
    const [transport, protocol] = await shell(t, 'echo out; echo err >&2; exit 7')
    assert.equal(await transport.wait(), 7)
    assert.equal(await protocol.over(), 7)
    assert.deepEqual([protocol.text(1), protocol.text(2)], ['out\n', 'err\n'])
    assert.equal(await transport.wait(), 7)
  })

  // CPython: test_subprocess_stderr_redirect_to_stdout; uvloop: test_process_streams_stderr_to_stdout
  test("stderr: 'stdout' goes where stdout goes, in order", async (t) => {
    const [transport, protocol] = await shell(t, 'echo one; echo two >&2; echo three', { stderr: 'stdout' })
    assert.equal(await protocol.over(), 0)
    assert.equal(protocol.text(1), 'one\ntwo\nthree\n')
    assert.equal(transport.getPipeTransport(2), null)
  })

  // CPython: test_subprocess.test_devnull_*; uvloop: test_process_streams_devnull
  test("'ignore' is /dev/null, and makes no pipe", async (t) => {
    const options = { stdin: 'ignore', stdout: 'ignore', stderr: 'ignore' } as const
    const [transport, protocol] = await shell(t, 'cat; echo nobody hears', options)
    assert.equal(await protocol.over(), 0)
    for (const fd of [0, 1, 2, 3]) assert.equal(transport.getPipeTransport(fd), null)
    assert.deepEqual(protocol.events, ['made', 'exited', 'lost'])
  })

  // uvloop: test_process_streams_redirect, test_stdin_stdout_file
  test("descriptors of the caller's are used, and stay the caller's", async (t) => {
    const [input, output] = [t.path('input'), t.path('output')]
    writeFileSync(input, 'from a file')
    const [stdin, stdout] = [openSync(input, 'r'), openSync(output, 'w')]
    const [, protocol] = await shell(t, 'cat; echo err >&2', { stdin, stdout, stderr: 'stdout' })
    assert.equal(await protocol.over(), 0)
    closeSync(stdin)
    closeSync(stdout)
    assert.equal(readFileSync(output, 'utf8'), 'from a fileerr\n')
  })

  test("'inherit' is the stream of this process", async (t) => {
    const child = t.start('subprocess-ends', ['inherit'])
    await child.line(/^from the grandchild$/)
    await child.until(() => child.stderr.includes('its errors'))
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  // uvloop: test_process_cwd_1, test_process_env_1
  test('cwd, as a path or a URL, and env', async (t) => {
    const directory = realpathSync(t.path('x').replace(/\/[^/]*$/, ''))
    for (const cwd of [directory, pathToFileURL(directory)]) {
      const env = { NAMED: 'a value', ABSENT: undefined }
      const [, protocol] = await shell(t, 'pwd; echo "$NAMED"; env | grep -c "ABSENT\\|HOME"', { cwd, env })
      await protocol.over()
      assert.equal(protocol.text(1), `${directory}\na value\n0\n`)
    }
  })

  // CPython: test_subprocess_wait_no_same_group; uvloop: test_start_new_session
  test('detached: it leads a process group of its own', async (t) => {
    for (const detached of [false, true]) {
      const [transport, protocol] = await shell(t, 'ps -o pgid= -p $$', { detached })
      await protocol.over()
      assert.equal(Number(protocol.text(1)) === transport.pid, detached)
    }
  })

  // CPython: test_subprocess.test_popen_error
  test("what cannot be started rejects with the system's error in Node's shape, and nothing is left", async (t) => {
    const before = openDescriptors().size
    const path = t.path('no program')
    writeFileSync(path, '')
    for (const [command, options, code, file] of [
      [['/nonexistent/program'], {}, 'ENOENT', '/nonexistent/program'],
      [[path], {}, 'EACCES', path],
      [['cat'], { cwd: '/nonexistent' }, 'ENOENT', 'cat'],
    ] as const) {
      const error = (await exec(t, [...command], options).then(
        () => undefined,
        (failure) => failure,
      )) as NodeJS.ErrnoException
      assertCode(error, code)
      assert.deepEqual([error.syscall, error.path], [`spawn ${file}`, file])
      assert.equal(error.errno, -constants.errno[code])
    }
    assert.equal(openDescriptors().size, before)
  })

  // CPython: test_subprocess_exec_invalid_args, test_subprocess_shell_invalid_args; uvloop: test_subprocess_invalid_stdin
  test('wrong arguments and options are refused by name', async (t) => {
    const make = (): ProcessRecorder => new ProcessRecorder()
    for (const command of ['cat', [], [''], [1], ['cat', 1], ['cat\0'], null, undefined] as never[])
      await assertRejects(() => t.loop.subprocessExec(make, command), 'ERR_SHARDLOOP_ARGUMENT')
    for (const command of [['cat'], '', 'a\0b', 1, null] as never[])
      await assertRejects(() => t.loop.subprocessShell(make, command), 'ERR_SHARDLOOP_ARGUMENT')
    for (const method of ['subprocessExec', 'subprocessShell'] as const)
      await assert.rejects(
        () => t.loop[method](1 as never, (method === 'subprocessExec' ? ['cat'] : 'cat') as never),
        {
          code: 'ERR_SHARDLOOP_ARGUMENT',
          message: new RegExp(`^${method}: expected a function`),
        },
      )
    for (const options of [
      { stdin: 'stdout' },
      { stdout: -1 },
      { stderr: {} },
      { cwd: '' },
      { cwd: new URL('http://host/') },
      { env: [] },
      { env: { 'A=B': 'c' } },
      { env: { A: 1 } },
      { uid: -1 },
      { gid: 1.5 },
      { detached: 1 },
      { signal: {} },
      { shell: true },
      7,
    ] as never[])
      await assertRejects(() => t.loop.subprocessExec(make, ['cat'], options), 'ERR_SHARDLOOP_OPTION')
  })

  // CPython: test_subprocess_kill, test_subprocess_terminate, test_subprocess_send_signal; uvloop: test_process_send_signal_1
  test('signals end it, and returnCode is their negative number', async (t) => {
    for (const [send, signal] of [
      [(transport: SubprocessTransport) => transport.kill(), SIGKILL],
      [(transport: SubprocessTransport) => transport.terminate(), SIGTERM],
      [(transport: SubprocessTransport) => transport.sendSignal('SIGHUP'), SIGHUP],
      [(transport: SubprocessTransport) => transport.sendSignal(SIGUSR1), SIGUSR1],
    ] as const) {
      const [transport, protocol] = await exec(t, ['sleep', '100'])
      assert.equal(send(transport), true)
      assert.equal(await protocol.over(), -signal)
      assert.equal(send(transport), false, 'it has ended: nobody is signalled')
    }
  })

  test('a signal that there is not is refused by name', async (t) => {
    const [transport] = await exec(t, ['cat'])
    for (const signal of ['SIGNONE', 'toString', -1, 65, 1.5, null] as never[])
      assertThrows(() => transport.sendSignal(signal), 'ERR_SHARDLOOP_ARGUMENT')
    assert.equal(transport.sendSignal(0), true)
  })

  // CPython: test_subprocess_close_client_stream
  test('a child that loses its reader gets EPIPE', async (t) => {
    const [transport, protocol] = await shell(
      t,
      'trap \'\' PIPE; while read line; do echo "$line" || exit 9; done 2>&-',
    )
    transport.getPipeTransport(0)?.write('test\n')
    await protocol.until(() => protocol.text(1) === 'test\n')
    transport.getPipeTransport(1)?.close()
    await protocol.noted('pipe 1')
    transport.getPipeTransport(0)?.write('xxx\n')
    assert.equal(await protocol.over(), 9)
  })

  // CPython: test_subprocess.test_stdin_broken_pipe
  test('a child that takes no more input: EPIPE for what waits, while it runs on', async (t) => {
    const [transport, protocol] = await shell(t, 'read line; exec <&-; exec sleep 100')
    // In one piece: whatever is written behind the line could come behind the end, too.
    transport.getPipeTransport(0)?.write(Buffer.alloc(512 * KiB, '\n'))
    await protocol.noted('pipe 0')
    assertCode(protocol.pipeErrors[0], 'EPIPE')
    assert.equal(transport.returnCode, null)
    transport.kill()
    await protocol.over()
  })

  // CPython: test_subprocess.test_communicate_large; uvloop: test_communicate_large_stdout_1000000, test_write_huge_stdin_219264
  for (const length of [65_536, 65_537, 219_264, 1_000_000]) {
    test(`${length} bytes go in and come out, with pauses of writing on the way`, async (t) => {
      const [transport, protocol] = await exec(t, ['cat'])
      const content = t.random.bytes(length)
      transport.getPipeTransport(0)?.write(content)
      if (length === 1_000_000) await protocol.noted('resume')
      transport.getPipeTransport(0)?.close()
      assert.equal(await protocol.over(), 0)
      assertBytes(protocol.output[1] as Buffer, content)
      if (length === 1_000_000) assert.deepEqual(protocol.events.slice(0, 3), ['made', 'pause', 'resume'])
    })
  }

  // CPython: test_subprocess.test_pause_reading
  test('while its output is paused an endless child waits, and nothing piles up', async (t) => {
    const [transport, protocol] = await exec(t, ['yes'])
    const stdout = transport.getPipeTransport(1)
    await protocol.until(() => (protocol.output[1]?.length ?? 0) > 0)
    stdout?.pauseReading()
    const paused = protocol.output[1]?.length ?? 0
    // Another child comes and goes meanwhile.
    assert.equal(await (await exec(t, ['true']))[1].over(), 0)
    assert.equal(protocol.output[1]?.length, paused)
    stdout?.resumeReading()
    await protocol.until(() => (protocol.output[1]?.length ?? 0) > paused)
    transport.close()
    assert.equal(await protocol.over(), -SIGKILL)
  })

  test('connectionMade may pause its output: nothing comes until it is resumed', async (t) => {
    class Pausing extends ProcessRecorder {
      override connectionMade(transport: SubprocessTransport): void {
        super.connectionMade(transport)
        transport.getPipeTransport(1)?.pauseReading()
      }
    }
    const [transport, protocol] = await t.loop.subprocessShell(() => new Pausing(), 'echo out', on(t))
    assert.equal(await transport.wait(), 0)
    await protocol.noted('pipe 2')
    assert.deepEqual([protocol.text(1), protocol.lostWith], ['', undefined])
    transport.getPipeTransport(1)?.resumeReading()
    await protocol.over()
    assert.equal(protocol.text(1), 'out\n')
  })

  // CPython: test_subprocess.test_stdin_not_inheritable; uvloop: test_stdin_not_inheritable, test_subprocess_fd_leak_1
  test('no child has the pipes of another', async (t) => {
    const children = await Promise.all([1, 2, 3, 4].map(() => exec(t, ['cat'])))
    const [transport, protocol] = children[0] as (typeof children)[number]
    transport.getPipeTransport(0)?.close()
    assert.equal(await protocol.over(), 0)
    for (const [other] of children.slice(1)) assert.equal(other.returnCode, null)
  })

  test('uid and gid, where this process may choose them', async (t) => {
    const start = (): ReturnType<typeof shell> => shell(t, 'id -u; id -g', { uid: 65_534, gid: 65_534 })
    if (process.getuid?.() === 0) {
      const [, protocol] = await start()
      assert.equal(await protocol.over(), 0)
      assert.equal(protocol.text(1), '65534\n65534\n')
    } else await assertRejects(start, 'EPERM')
  })

  // CPython: test_subprocess.test_read_stdout_after_process_exit
  test('what a child has left in its pipes comes, also when it has ended before', async (t) => {
    const [transport, protocol] = await shell(t, '(sleep 0.05; echo late) & echo early')
    assert.equal(await transport.wait(), 0)
    assert.ok(!protocol.events.includes('lost'), 'a grandchild has the pipe')
    assert.equal(await protocol.over(), 0)
    assert.equal(protocol.text(1), 'early\nlate\n')
    assert.deepEqual(protocol.events.slice(-1), ['lost'])
  })

  // CPython: test_subprocess_close_after_finish, test_close_kill_running, test_close_dont_kill_finished; uvloop: test_process_double_close
  test('close kills what runs, again it does nothing, and nothing of what has ended', async (t) => {
    const [transport, protocol] = await exec(t, ['cat'])
    transport.getPipeTransport(0)?.write(Buffer.alloc(4 * MiB))
    transport.close()
    transport.close()
    assert.ok(transport.isClosing())
    assert.equal(await protocol.over(), -SIGKILL)
    assert.equal(protocol.lostWith, null)
    const [finished, itsProtocol] = await exec(t, ['true'])
    await itsProtocol.over()
    finished.close()
    assert.equal(finished.returnCode, 0)
  })

  test('await using: gone when the scope is left', async (t) => {
    const [transport, protocol] = await exec(t, ['cat'])
    await transport[Symbol.asyncDispose]()
    assert.equal(protocol.events.at(-1), 'lost')
    assert.ok(!isThere(transport.pid))
  })

  test('a signal calls it off before it runs, and kills it later', async (t) => {
    const reason = new Error('not wanted any more')
    let made = 0
    const starting = t.loop.subprocessExec(
      () => {
        made += 1
        return new ProcessRecorder()
      },
      ['cat'],
      { engine: t.engine, signal: AbortSignal.abort(reason) },
    )
    await assert.rejects(starting, reason)
    assert.equal(made, 0)
    // Before its turn, and once it runs and its pipes are being connected.
    for (const turns of [0, 1, 2, 3]) {
      const inTheMiddle = new AbortController()
      const started = exec(t, ['cat'], { signal: inTheMiddle.signal })
      for (let turn = 0; turn < turns; turn++) await Promise.resolve()
      inTheMiddle.abort(reason)
      await assert.rejects(started, reason)
    }
    const later = new AbortController()
    const [, protocol] = await exec(t, ['cat'], { signal: later.signal })
    later.abort(reason)
    assert.equal(await protocol.over(), -SIGKILL)
    assert.equal(protocol.lostWith, reason)
    assert.deepEqual(zombies(), [])
  })

  test('what the factory throws, or returns, comes before anything is started', async (t) => {
    const broken = new Error('no protocol today')
    const throwing = (): never => {
      throw broken
    }
    await assert.rejects(t.loop.subprocessExec(throwing, ['cat'], { engine: t.engine }), broken)
    for (const wrong of [null, 7, Promise.resolve(new ProcessRecorder())] as never[])
      await assertRejects(
        () => t.loop.subprocessExec(() => wrong, ['cat'], { engine: t.engine }),
        'ERR_SHARDLOOP_ARGUMENT',
      )
  })

  test('what callbacks throw is reported; of pipeDataReceived it ends that pipe alone', async (t) => {
    const told: ExceptionContext[] = []
    t.loop.setExceptionHandler((context) => void told.push(context))
    class Throwing extends ProcessRecorder {
      override connectionMade(transport: SubprocessTransport): never {
        super.connectionMade(transport)
        throw new Error('of connectionMade')
      }
      override pipeDataReceived(fd: number, data: Buffer): void {
        super.pipeDataReceived(fd, data)
        if (fd === 1) throw new Error('of pipeDataReceived')
      }
      override async processExited(): Promise<void> {
        super.processExited()
        throw new Error('of processExited')
      }
    }
    const command = 'echo out; read line; echo err >&2' as const
    const [transport, protocol] = await t.loop.subprocessShell(() => new Throwing(), command, on(t))
    await protocol.noted('pipe 1')
    assert.equal(protocol.pipeErrors[1]?.message, 'of pipeDataReceived')
    transport.getPipeTransport(0)?.write('\n')
    assert.equal(await protocol.over(), 0)
    assert.equal(protocol.text(2), 'err\n')
    await eventually(() => told.length === 3)
    assert.deepEqual(told.map(({ error }) => (error as Error).message).sort(), [
      'of connectionMade',
      'of pipeDataReceived',
      'of processExited',
    ])
  })

  test('every callback may be missing, and all run in the async context of the call', async (t) => {
    const [transport] = await t.loop.subprocessShell(() => ({}), 'echo out', on(t))
    await transport[Symbol.asyncDispose]()
    const storage = new AsyncLocalStorage<string>()
    const seen: (string | undefined)[] = []
    class Asking extends ProcessRecorder {
      protected override note(event: string): void {
        seen.push(storage.getStore())
        super.note(event)
      }
      override pipeDataReceived(fd: number, data: Buffer): void {
        seen.push(storage.getStore())
        super.pipeDataReceived(fd, data)
      }
    }
    const [, protocol] = await storage.run('mine', () =>
      t.loop.subprocessShell(() => new Asking(), 'echo out', on(t)),
    )
    await protocol.over()
    assert.deepEqual(new Set(seen), new Set(['mine']))
    assert.ok(seen.length >= 7)
  })

  test('past their limit no process is started, and one that ends makes room', async (t) => {
    const before = native.limitChildren(3)
    t.defer(() => native.limitChildren(before))
    const running = await Promise.all([1, 2, 3].map(() => exec(t, ['cat'])))
    const descriptors = openDescriptors().size
    await assertRejects(() => exec(t, ['cat']), 'ERR_SHARDLOOP_LIMIT')
    await assertRejects(() => exec(t, ['/nonexistent']), 'ERR_SHARDLOOP_LIMIT')
    assert.equal(openDescriptors().size, descriptors)
    await running[0]?.[0][Symbol.asyncDispose]()
    await assertRejects(() => exec(t, ['/nonexistent']), 'ENOENT')
    const [, protocol] = await exec(t, ['true'])
    assert.equal(await protocol.over(), 0)
  })

  test('more than 64 MiB that a child does not read ends its input by name', async (t) => {
    const [transport, protocol] = await exec(t, ['sleep', '100'])
    const piece = Buffer.alloc(16 * MiB)
    for (let pieces = 0; pieces < 5; pieces++) transport.getPipeTransport(0)?.write(piece)
    await protocol.noted('pipe 0')
    assertCode(protocol.pipeErrors[0], 'ERR_SHARDLOOP_WRITE_OVERFLOW')
    transport.close()
    await protocol.over()
  })

  test('closing the loop kills its children and waits for them; a closed loop starts none', async (t) => {
    const { loop } = t
    const children = await Promise.all([...Array(10)].map(() => exec(t, ['cat'])))
    await loop.close()
    for (const [transport, protocol] of children) {
      assert.equal(transport.returnCode, -SIGKILL)
      assert.equal(protocol.events.at(-1), 'lost')
      assert.ok(!isThere(transport.pid))
    }
    await assertRejects(
      () => loop.subprocessExec(() => new ProcessRecorder(), ['cat']),
      'ERR_SHARDLOOP_STATE',
    )
    await assertRejects(() => loop.subprocessShell(() => new ProcessRecorder(), 'cat'), 'ERR_SHARDLOOP_STATE')
  })

  test('closing the loop calls off those that wait for their turn to start', async (t) => {
    const { loop } = t
    const starting = [...Array(10)].map(() => exec(t, ['cat']))
    const closed = loop.close()
    for (const start of starting) await assertRejects(() => start, 'ERR_SHARDLOOP_CLOSED')
    await closed
    assert.deepEqual(zombies(), [])
  })

  test("a pipe's watermarks are its own", async (t) => {
    const [transport, protocol] = await exec(t, ['sleep', '100'])
    const stdin = transport.getPipeTransport(0)
    stdin?.setWriteBufferLimits({ high: 512 * KiB })
    stdin?.write(Buffer.alloc(256 * KiB))
    assert.ok((stdin?.getWriteBufferSize() ?? 0) > 0)
    stdin?.write(Buffer.alloc(512 * KiB))
    await protocol.noted('pause')
    transport.kill()
    await protocol.over()
    assertCode(protocol.pipeErrors[0], 'EPIPE')
  })
})

function on(t: TestContext): { engine: TestContext['engine'] } {
  return { engine: t.engine }
}

async function exec(
  t: TestContext,
  command: readonly string[],
  options: SubprocessOptions = {},
): Promise<[SubprocessTransport, ProcessRecorder]> {
  const given = command as [string, ...string[]]
  return await t.loop.subprocessExec(() => new ProcessRecorder(), given, { engine: t.engine, ...options })
}

async function shell(
  t: TestContext,
  command: string,
  options: SubprocessOptions = {},
): Promise<[SubprocessTransport, ProcessRecorder]> {
  return await t.loop.subprocessShell(() => new ProcessRecorder(), command, { engine: t.engine, ...options })
}
