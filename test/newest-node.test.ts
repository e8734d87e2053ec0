import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { RECEIVE_MODES } from './harness/echo-protocols.js'
import { KiB, MiB } from './harness/memory.js'
import { forEachEngine, type TestContext } from './harness/suite.js'
import { echoThrough } from './harness/traffic.js'

/** Path of the newest Node's binary. */
const NEWEST_VARIABLE = 'SHARDLOOP_NEWEST_NODE'
const EXAMPLE = fileURLToPath(new URL('../examples/echo.js', import.meta.url))

forEachEngine('the echo example', (test, engine) => {
  const newest = process.env[NEWEST_VARIABLE]
  for (const mode of RECEIVE_MODES) {
    if (mode === 'buffered') continue
    test(`${mode}: on this Node, byte for byte`, (t) => echoExample(t, process.execPath, mode, engine))
    const name = `${mode}: on the newest Node, byte for byte`
    if (newest === undefined) test.skip(name, `${NEWEST_VARIABLE} names no binary`)
    else test(name, (t) => echoExample(t, newest, mode, engine))
  }
})

async function echoExample(t: TestContext, command: string, mode: string, engine: string): Promise<void> {
  const args = ['--host', '127.0.0.1', '--port', '0', '--shards', '2', '--engine', engine, '--mode', mode]
  const child = t.spawn([EXAMPLE, ...args], { command })
  const ready = await child.line(/^listening on tcp:\/\/127\.0\.0\.1:(\d+) \(shards 2, engine (\w+)\)$/)
  assert.equal(child.lines[0], ready[0], 'the first line')
  assert.equal(ready[2], engine)
  const clients = await Promise.all(Array.from({ length: 8 }, () => t.connect(Number(ready[1]))))
  await Promise.all(
    clients.map((client) => echoThrough(client, t.random.bytes(2 * MiB), t.random, 100 * KiB)),
  )
  for (const client of clients) client.end()
  for (const client of clients) assert.equal((await client.readToEnd()).length, 0)
  child.kill('SIGTERM')
  assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
}
