import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { newestNode } from '../harness/runtimes.js'
import { forEachEngine } from '../harness/suite.js'

/** What relies on how node:http is made inside. */
const FILES = ['listener', 'listener-errors', 'draining', 'server-settings', 'ws']

forEachEngine('nodeHttp on the newest Node', (test) => {
  for (const file of FILES) {
    const name = `the tests of ${file} pass`
    if (newestNode === undefined) {
      test.skip(name, 'SHARDLOOP_NEWEST_NODE names no binary')
      continue
    }
    const command = newestNode
    test(
      name,
      async (t) => {
        const path = fileURLToPath(new URL(`./${file}.test.js`, import.meta.url))
        const child = t.spawn([path], { command, env: { SHARDLOOP_TEST_ENGINES: t.engine } })
        const { code } = await child.untilExit()
        assert.equal(code, 0, child.describe())
        assert.match(child.stdout, /Passed: +[1-9]/)
      },
      { timeoutMs: 60_000 },
    )
  }
})
