import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { forEachEngine } from './harness/suite.js'

const MESSAGES = 100

forEachEngine('a mailbox', (test) => {
  for (const how of ['idle', 'aborted', 'unread', 'waiting']) {
    test(`keeps its thread alive for as long as it waits for an answer (${how})`, async (t) => {
      const child = t.start('waiting-calls', [how])
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      if (how === 'waiting') assert.ok(child.lines.includes('answered'))
      if (how === 'aborted') assert.deepEqual(child.lines, ['aborted'])
    })
  }

  const name = `is rung once for ${MESSAGES} messages of a turn`
  const isThere = process.platform === 'linux' && spawnSync('strace', ['-V']).status === 0
  if (!isThere) {
    test.skip(name, 'strace is not installed')
    return
  }
  test(
    name,
    async (t) => {
      const child = t.start('sending-turns', [String(MESSAGES)])
      await child.line(/^ready$/)
      const file = t.path('strace')
      const strace = t.spawn(['-f', '-e', 'trace=write', '-o', file, '-p', String(child.pid)], {
        command: 'strace',
      })
      await strace.until(() => strace.stderr.includes('attached') || strace.exit !== undefined)
      assert.equal((await child.ask('send', /^received (\d+)$/))[1], String(MESSAGES))
      await strace.untilExit()
      // Of the main thread: an eventfd is rung by eight bytes.
      const trace = readFileSync(file, 'utf8').split('"received ')[0] as string
      const writes = [...trace.matchAll(/^(\d+) +write\(\d+, "\\1\\0.*, 8\)/gm)]
      const rings = writes.filter(([, thread]) => thread === String(child.pid))
      assert.equal(rings.length, 1, trace)
    },
    { timeoutMs: 60_000 },
  )
})
