import assert from 'node:assert/strict'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Child } from './harness/child.js'
import { forEachEngine, type SuiteTests, type TestContext } from './harness/suite.js'
import { FAULTS, type Fault } from './soak/faults.js'
import type { SoakRecord } from './soak/soak.js'

const COMMAND = fileURLToPath(new URL('./soak/run.js', import.meta.url))
const TIMEOUT_MS = 90_000
const DRIFTS: readonly Fault[] = [
  'leak-descriptor',
  'leak-thread',
  'leak-heap',
  'leak-buffer',
  'leak-resident',
]
const SUDDEN: readonly Fault[] = ['corrupt', 'cut', 'throw', 'die', 'hang']

/** A soak whose files go with the test. */
function soak(t: TestContext, args: readonly string[]): { child: Child; output: string } {
  const output = mkdtempSync(join(tmpdir(), 'shardloop-soak-'))
  t.defer(() => rmSync(output, { recursive: true }))
  return { child: t.spawn([COMMAND, '--engine', t.engine, '--output', output, ...args]), output }
}

/** With few visitors, so that many soaks share the machine. */
async function failsBy(t: TestContext, fault: Fault, visitors: number): Promise<void> {
  const args = ['--minutes', '0.1', '--visitors', String(visitors), '--fault', fault]
  const { child, output } = soak(t, args)
  const { code } = await child.untilExit()
  assert.equal(code, 1, child.describe())
  const last = new RegExp(`^soak: failed on ${t.engine}: (.*)$`)
  const failed = child.lines.map((line) => last.exec(line)?.[1]).find((checks) => checks !== undefined)
  assert.ok(failed?.split(', ').includes(FAULTS[fault]), `${fault}: ${child.describe()}`)
  assert.match(child.stdout, new RegExp(`^FAILED {2}${FAULTS[fault]} `, 'm'), child.describe())
  assert.equal(readdirSync(output).length, 2, 'the plot and the samples are there all the same')
}

forEachEngine('npm run soak', (test, engine) => {
  onLinux(test, 'passes, and leaves a plot and the samples', async (t) => {
    const { child, output } = soak(t, ['--minutes', '0.2', '--seed', '20260101'])
    const { code } = await child.untilExit()
    assert.equal(code, 0, child.describe())
    assert.ok(child.lines.includes(`soak: passed on ${engine}`), child.describe())
    const files = readdirSync(output).sort()
    assert.deepEqual(
      files.map((name) => name.replace(/^[\dT-]+-[0-9a-f]{7}/, '')),
      [`-soak-${engine}.json`, `-soak-${engine}.svg`],
    )
    for (const name of files) assert.ok(child.lines.includes(join(output, name)), child.describe())
    const [samples, plot] = files.map((name) => readFileSync(join(output, name), 'utf8')) as [string, string]
    const record = JSON.parse(samples) as SoakRecord
    assert.equal(record.engine, engine)
    assert.ok(record.samples.some(({ isQuiet }) => !isQuiet) && record.samples.at(-1)?.shards.length === 2)
    for (const title of ['resident memory', 'open descriptors', 'threads', 'echoed a second'])
      assert.ok(plot.includes(title))
  })

  onLinux(test, 'fails by its own checks when the server leaks', async (t) => {
    await Promise.all(DRIFTS.map((fault) => failsBy(t, fault, 1)))
  })

  onLinux(
    test,
    'fails by its own checks when bytes, connections, callbacks or shards go wrong',
    async (t) => {
      await Promise.all(SUDDEN.map((fault) => failsBy(t, fault, 4)))
    },
  )

  onLinux(test, 'ends when it is interrupted, tells what it has, and does not pass', async (t) => {
    const { child, output } = soak(t, ['--minutes', '2'])
    await child.until(() => /1 quiet moments/.test(child.stderr))
    child.kill('SIGINT')
    assert.equal((await child.untilExit()).code, 1, child.describe())
    assert.match(child.stdout, /^FAILED {2}duration +interrupted after \d+ s of 120 s$/m)
    assert.equal(readdirSync(output).length, 2)
  })

  onLinux(test, 'refuses wrong arguments by name', async (t) => {
    const { child } = soak(t, ['--minutes', '0'])
    assert.equal((await child.untilExit()).code, 2, child.describe())
    assert.equal(child.stderr, 'soak: --minutes: 0 is not a number from 0.1 to 10080\n')
    assert.equal(child.stdout, '')
  })
})

function onLinux(test: SuiteTests, name: string, body: (t: TestContext) => Promise<void>): void {
  if (process.platform === 'linux') test(name, body, { timeoutMs: TIMEOUT_MS })
  else test.skip(name, 'needs /proc')
}
