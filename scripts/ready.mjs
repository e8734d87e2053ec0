// @ts-check
// npm run ready: all that CI runs, which is lint, the tests and the long tests. Each stage is bounded in time. The last
// line is `N passed, N failed` over both kinds of tests; a stage that fails without counting a test counts as one.
import { signalGroup, startGroup } from './lib/child-process-groups.mjs'
import { prepare } from './lib/prepare.mjs'
import { path, ROOT } from './lib/project.mjs'

/**
 * Minutes until a stage is ended: well above what a slow machine takes. Lint compiles the workspace for clippy, and the release build
 * where it is missing.
 */
const STAGES = [
  { name: 'lint', minutes: 20, args: ['lint.mjs'] },
  { name: 'test', minutes: 25, args: ['test.mjs'] },
  { name: 'test on tokio', minutes: 25, args: ['test.mjs', '--engine', 'tokio', '--by-engine'] },
  { name: 'test:long', minutes: 40, args: ['test.mjs', '--long'] },
  {
    name: 'test:long on tokio',
    minutes: 40,
    args: ['test.mjs', '--long', '--engine', 'tokio', '--by-engine'],
  },
]
/** Of what a stage prints: its summary is in it. */
const TAIL_CHARACTERS = 64 * 1024
/** What is repeated of a stage that printed none. */
const TAIL_LINES = 60
/** How long a stage that was asked to end has to print its summary. */
const END_GRACE_MS = 10_000

// What a stage needs may be missing: prepare says so and ends the process.
process.once('exit', () => {
  if (results.length < STAGES.length) console.log('0 passed, 1 failed')
})
const total = { passed: 0, failed: 0 }
/** @type {string[]} */
const results = []
/** @type {string[]} What failed, stage by stage. */
const failed = []
await prepare({ native: false, typescript: false, loadgen: true, runtimes: true, cargo: true })
for (const stage of STAGES) {
  console.log(`\n==== ${stage.name} ====`)
  const { passed, failed: failedTests, how, failures } = await runStage(stage)
  total.passed += passed
  total.failed += failedTests
  results.push(`${stage.name}: ${how}`)
  if (failures !== '') failed.push(`\n==== ${stage.name}, what failed ====\n${failures}`)
}
console.log(failed.join('\n'))
console.log(`\n${results.join('\n')}`)
console.log(`${total.passed} passed, ${total.failed} failed`)
process.exit(total.failed === 0 ? 0 : 1)

/**
 * @param {typeof STAGES[number]} stage
 * @returns {Promise<{ passed: number, failed: number, how: string, failures: string }>} failures: as its summary has them
 */
async function runStage({ name, minutes, args: [script = '', ...args] }) {
  const child = startGroup(process.execPath, [path('scripts', script), ...args], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let tail = ''
  child.stdout?.setEncoding('utf8').on('data', (/** @type {string} */ text) => {
    process.stdout.write(text)
    tail = (tail + text).slice(-TAIL_CHARACTERS)
  })
  let timedOut = false
  const timer = setTimeout(() => {
    timedOut = true
    // Only the script: it ends its own children and prints what it has counted.
    child.kill('SIGTERM')
    setTimeout(() => signalGroup(child, 'SIGKILL'), END_GRACE_MS).unref()
  }, minutes * 60_000)
  /** @type {number | null} */
  const code = await new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', resolve)
  })
  clearTimeout(timer)
  const counted = /(\d+) passed, (\d+) failed\n$/.exec(tail)
  const passed = Number(counted?.[1] ?? 0)
  let failed = Number(counted?.[2] ?? 0)
  if (failed === 0 && (code !== 0 || (!counted && name !== 'lint'))) failed = 1
  const how = `${timedOut ? `ended after ${minutes} minutes` : failed > 0 ? 'failed' : 'ok'}`
  // Again at the end of all, since a log may be kept by its end only.
  const summary = /\nfailed:\n([\s\S]+)\n\n\d+ passed, \d+ failed\n$/.exec(tail)?.[1]
  const failures = failed > 0 ? (summary ?? tail.trimEnd().split('\n').slice(-TAIL_LINES).join('\n')) : ''
  return { passed, failed, how: counted ? `${how}, ${passed} passed, ${failed} failed` : how, failures }
}
