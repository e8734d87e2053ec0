import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadgenProgram } from '../bench/load.js'
import type { Child } from './harness/child.js'
import { forEachEngine, type SuiteTests, type TestContext } from './harness/suite.js'

const CONNECTIONS = 64
const SIZE_BYTES = 64
const SECONDS = 2
/** Ours may make a tenth more than the raw loop: its one poll a batch is nested in libuv's. */
const RATIO_MAX = 1.1
/** Node's own threads, and the guardian, look around for a second or two once they were disturbed. */
const SETTLE_MS = 3_000
/** Then an idle server is left alone for this long, and must not do anything. */
const QUIET_MS = 4_000
/** On connections. (To accept is the guardian's, too: strace makes a shard look stuck.) */
const SOCKET_CALLS: readonly string[] = ['recvfrom', 'recvmsg', 'sendto', 'sendmsg', 'writev', 'shutdown']
const EXAMPLE = fileURLToPath(new URL('../examples/echo.js', import.meta.url))

forEachEngine('system calls', (test, engine) => {
  for (const mode of ['chunk', 'borrowed']) {
    const name = `${mode}: no more than 10 % above a raw mio echo, per request`
    traced(test, name, async (t) => {
      const raw = await perRequest(t, t.spawn(['--port', '0'], { command: loadgenProgram('raw-mio-echo') }))
      const args = ['--host', '127.0.0.1', '--port', '0', '--shards', '1', '--engine', engine, '--mode', mode]
      const ours = await perRequest(t, t.spawn([EXAMPLE, ...args]))
      assert.ok(
        ours.calls <= raw.calls * RATIO_MAX,
        `${ours.calls} per request, raw mio ${raw.calls}\n${ours.summary}\n${raw.summary}`,
      )
    })
  }
})

forEachEngine('the threads of a shard', (test, engine) => {
  const name = 'one of them makes all calls on connections; the other is woken once for all that it finds'
  traced(test, name, async (t) => {
    const args = ['--host', '127.0.0.1', '--port', '0', '--shards', '1', '--engine', engine]
    const server = t.spawn([EXAMPLE, ...args])
    const port = (await server.line(/^listening on tcp:\/\/127\.0\.0\.1:(\d+)/))[1]
    const trace = await Strace.attach(t, server, ['-e', `trace=${SOCKET_CALLS.join()},read,write`])
    const load = ['--addr', `127.0.0.1:${port}`, '--conns', `${CONNECTIONS}`, '--size', `${SIZE_BYTES}`]
    const { requestsTotal } = await runLoad(t, [...load, '--secs', '1'])
    const serving = readdirSync(`/proc/${server.pid}/task`).filter((thread) => {
      return readFileSync(`/proc/${server.pid}/task/${thread}/comm`, 'utf8') === 'shard-io\n'
    })
    const calls = [...(await trace.end()).matchAll(/^(\d+) +(\w+)\((\d+)/gm)].map((call) => {
      const [, thread = '', name = '', descriptor = ''] = call
      return { thread, name, descriptor }
    })
    const onSockets = calls.filter(({ name }) => SOCKET_CALLS.includes(name))
    assert.ok(onSockets.length >= 2 * requestsTotal, `${onSockets.length} calls, ${requestsTotal} requests`)
    const threads = new Set(onSockets.map(({ thread }) => thread))
    assert.equal(threads.size, 1)
    assert.deepEqual(serving, engine === 'tokio' ? [...threads] : [])
    if (engine === 'mio') return
    // What the I/O thread rings, JavaScript's reads when it wakes up. (It writes to others now and then: to the guardian.)
    const written = calls.filter(({ thread, name }) => name === 'write' && threads.has(thread))
    const ringsOf = (bell: string): number => written.filter(({ descriptor }) => descriptor === bell).length
    const bells = [...new Set(written.map(({ descriptor }) => descriptor))]
    const [bell = ''] = bells.sort((one, other) => ringsOf(other) - ringsOf(one))
    const rings = ringsOf(bell)
    const silenced = calls.filter(({ name, descriptor }) => name === 'read' && descriptor === bell).length
    // One that falls asleep and finds something at once listens for nothing.
    const [most, least] = [rings * 1.05 + 2, rings - 2]
    assert.ok(silenced <= most && silenced >= least, `${rings} rings, ${silenced} heard`)
    assert.ok(rings > 0 && rings < requestsTotal / 2, `${rings} rings for ${requestsTotal} requests`)
  })
})

forEachEngine('an idle server', (test, engine) => {
  const name = 'makes no system call at all, with open connections and two shards'
  traced(test, name, async (t) => {
    const args = ['--host', '127.0.0.1', '--port', '0', '--shards', '2', '--engine', engine]
    // Without V8's own timer, which looks at the heap 8 s after a collection.
    const server = t.spawn(['--no-memory-reducer', EXAMPLE, ...args])
    const port = Number((await server.line(/^listening on tcp:\/\/127\.0\.0\.1:(\d+)/))[1])
    for (let connections = 0; connections < 20; connections++) {
      const client = await t.connect(port)
      await client.write('hello')
      await client.readExactly(5)
    }
    const trace = await Strace.attach(t, server, ['-ttt'])
    const attachedAt = Date.now()
    await new Promise((resolve) => setTimeout(resolve, SETTLE_MS + QUIET_MS))
    const endedAt = Date.now()
    const calls = (await trace.end()).split('\n')
    assert.ok(calls.length > 5, 'strace saw the process')
    const late = calls.filter((line) => {
      const at = Number(line.split(/\s+/)[1]) * 1000
      return at > attachedAt + SETTLE_MS && at < endedAt
    })
    assert.deepEqual(late, [])
  })
})

/** A test that needs strace. */
function traced(test: SuiteTests, name: string, body: (t: TestContext) => Promise<void>): void {
  const isThere = process.platform === 'linux' && spawnSync('strace', ['-V']).status === 0
  if (isThere) test(name, body, { timeoutMs: 60_000 })
  else test.skip(name, 'strace is not installed')
}

/** strace on all threads of a process. */
class Strace {
  readonly #strace: Child
  readonly #file: string

  private constructor(strace: Child, file: string) {
    this.#strace = strace
    this.#file = file
  }

  /** Resolves when it sees every call. */
  static async attach(t: TestContext, server: Child, flags: readonly string[]): Promise<Strace> {
    const file = join(tmpdir(), `shardloop-strace-${process.pid}-${server.pid}`)
    t.defer(() => rmSync(file, { force: true }))
    const strace = t.spawn(['-f', ...flags, '-o', file, '-p', String(server.pid)], { command: 'strace' })
    await strace.until(() => strace.stderr.includes('attached') || strace.exit !== undefined)
    assert.equal(strace.exit, undefined, strace.describe())
    return new Strace(strace, file)
  }

  /** Lets go of the process, and returns what was seen. */
  async end(): Promise<string> {
    this.#strace.kill('SIGINT')
    await this.#strace.untilExit()
    return readFileSync(this.#file, 'utf8')
  }
}

/** System calls of a server's process, all threads, per request of a fixed load. */
async function perRequest(t: TestContext, server: Child): Promise<{ calls: number; summary: string }> {
  const port = (await server.line(/^listening on tcp:\/\/127\.0\.0\.1:(\d+)/))[1]
  const address = [
    '--addr',
    `127.0.0.1:${port}`,
    '--conns',
    String(CONNECTIONS),
    '--size',
    String(SIZE_BYTES),
  ]
  // Compiles what the load runs, so that the compiler's own calls are not counted.
  await runLoad(t, [...address, '--secs', '1'])
  const trace = await Strace.attach(t, server, ['-c'])
  const { requestsTotal } = await runLoad(t, [...address, '--secs', String(SECONDS)])
  const summary = await trace.end()
  server.kill('SIGTERM')
  await server.untilExit()
  const total = /^\s*100\.00\s+\S+\s+(?:\S+\s+)?(\d+)\s+(?:\d+\s+)?total$/m.exec(summary)?.[1]
  assert.ok(total !== undefined, summary)
  return { calls: Number(total) / requestsTotal, summary }
}

async function runLoad(t: TestContext, args: readonly string[]): Promise<{ requestsTotal: number }> {
  const load = t.spawn(['echo', '--pipeline', '1', '--json', ...args], { command: loadgenProgram('loadgen') })
  assert.deepEqual(await load.untilExit(), { code: 0, signal: null }, load.describe())
  return JSON.parse(load.lines.at(-1) as string)
}
