// @ts-check
// npm test [-- [PATTERN ...] [--engine E [--by-engine]] [--timeout SECONDS]]: cargo's tests and every dist/test/**/*.test.js,
// one file after the other, each in a process of its own (those that only wait two at a time). `--by-engine` leaves out what
// knows no engine. `--long` (npm run test:long) takes the *.long.js files instead.
// PATTERN is part of a file's path; `cargo` stands for cargo's tests. The last line is `N passed, N failed`.
import { readFileSync } from 'node:fs'
import { relative } from 'node:path'
import { parseArgs, stripVTControlCharacters } from 'node:util'
import { ENDING_SIGNALS, signalExitCode, signalGroup, startGroup } from './lib/child-process-groups.mjs'
import { cargoLocked, prepare } from './lib/prepare.mjs'
import { path, ROOT } from './lib/project.mjs'
import { newestNode } from './lib/runtimes.mjs'
import { filesBelow } from './lib/stamps.mjs'

/** What one run may take before its process group is killed and it counts as failed. */
const FILE_TIMEOUT_S = 120
const LONG_FILE_TIMEOUT_S = 900
const CARGO_TIMEOUT_S = 900
/** After a process has ended and its group was killed: how long its pipes may stay open. */
const PIPE_CLOSE_TIMEOUT_MS = 2_000
/** What waits for what it tests and measures nothing that others change may run beside others: files below test/, without endings. */
const SIDE_BY_SIDE =
  /^(?:(?:conformance|http|interop)\/.+|tls\/(?!(?:handshake-limits|watermarks)$).+|bench-\w+|call-history|crashes|create-server|datagram-addresses|datagram-server|draining|echo|errors|examples|executor|executor-shards|lifecycle|logging|message-bounds|message-payloads|messages|options|program-entry|program-replacement|raw-socket|reading|replacement|resp-example|restart-policy|signals|stalled|teardown|test-runners|timer-heap|topics|value-codec)$/
/** The same of long tests. What they say of memory is of processes of their own. */
const SIDE_BY_SIDE_LONG = /^(?:crashes|cycles)$/
/** What runs once for each engine is made of these. */
const BY_ENGINE = /\bfor(?:Each(?:Engine|Transport)|EveryTransport)\(|harness\/engines\.js/
const LANES = 2
/** Files whose times the summary tells. */
const SLOWEST = 12
/** A test that cannot run here says so by a line `skipped: SUITE: NAME: REASON`, which the summary repeats. */
const SKIPPED_LINE = /\bskipped: (.+)$/gm

/** How uvu tells of a test that failed, up to the next one, the next suite's line or the counts. */
const FAILED_TEST =
  /^ {3}FAIL {2}\S[\s\S]*?(?=^ {3}FAIL {2}\S|^ \S.* \(\d+ \/ \d+\)$|^ {2}Total: |(?![\s\S]))/gm
/** And cargo, up to the next one or the list of names. */
const FAILED_CARGO_TEST = /^---- .+ ----\n[\s\S]*?(?=^---- .+ ----$|^failures:$|(?![\s\S]))/gm
/** The lines of one failure that the summary repeats, and of the last ones of a run that did not come to its end. */
const FAILURE_LINES = 40
/** The fuzz target of TLS's input: of what it draws, as much as takes a minute or two. */
const FUZZ = ['-p', 'shardloop-native', '--test', 'tls', 'no_change_of_what_is_said']
const FUZZ_ENVIRONMENT = { SHARDLOOP_TLS_FUZZ_ROUNDS: '60000' }
/** Of what a run prints on both streams: those lines are in it. */
const TAIL_CHARACTERS = 16 * 1024

/** @typedef {{ passed: number, failed: number, skipped: number, problem?: string, skips: string[], failures: string[] }} Outcome */

const { options, patterns } = readArguments()
const began = performance.now()
await prepare({ loadgen: true, runtimes: true, cargo: true })

/**
 * @typedef {(text: string, stream: NodeJS.WriteStream) => void} Write
 * @typedef {{ name: string, run: (write: Write) => Promise<Outcome>, sideBySide: boolean }} Run
 */

/** @type {Run[]} */
const runs = []
const suffix = options.long ? '.long.js' : '.test.js'
for (const file of filesBelow(path('dist', 'test'))) {
  if (!file.endsWith(suffix)) continue
  if (options['by-engine'] && !BY_ENGINE.test(readFileSync(file, 'utf8'))) continue
  const name = relative(path('dist'), file).replace(/js$/, 'ts')
  const stem = relative(path('dist', 'test'), file).slice(0, -suffix.length)
  const sideBySide = (options.long ? SIDE_BY_SIDE_LONG : SIDE_BY_SIDE).test(stem)
  runs.push({ name, run: (write) => runFile(file, write), sideBySide })
}
if (!options['by-engine']) {
  // The workspace's tests take all cores, and go first; the fuzz takes one, and goes last, beside what takes longer.
  if (options.long) {
    const run = (/** @type {Write} */ write) => runCargo(write, FUZZ, FUZZ_ENVIRONMENT)
    runs.push({ name: 'cargo test, fuzz of TLS', run, sideBySide: true })
  } else {
    const run = (/** @type {Write} */ write) => runCargo(write, ['--workspace', '--no-fail-fast'])
    runs.unshift({ name: 'cargo test', run, sideBySide: false })
  }
}
const selected =
  patterns.length === 0 ? runs : runs.filter(({ name }) => patterns.some((pattern) => name.includes(pattern)))
const newest = newestNode()
/** @type {{ name: string, outcome: Outcome, seconds: number }[]} */
const finished = []

for (const signal of ENDING_SIGNALS) {
  // startGroup's handler, which is registered later, passes the signal on to the test and ends this process.
  process.on(signal, () => {
    finished.push({
      name: selected[finished.length]?.name ?? '',
      outcome: failure(`interrupted by ${signal}`),
      seconds: 0,
    })
    summarise()
    setImmediate(() => process.exit(signalExitCode(signal)))
  })
}
if (newest === null)
  console.log(
    `the newest Node.js is not available for ${process.platform}-${process.arch}: its tests are skipped`,
  )
/** @type {Write} */
const atOnce = (text, stream) => void stream.write(text)
for (const run of selected.filter(({ sideBySide }) => !sideBySide)) {
  console.log(`\n${heading(run)}`)
  console.log(await perform(run, atOnce))
}
const waiting = selected.filter(({ sideBySide }) => sideBySide)
await Promise.all(Array.from({ length: LANES }, lane))
summarise()
process.exit(finished.length > 0 && finished.every(({ outcome }) => outcome.failed === 0) ? 0 : 1)

/** Runs what waits, one after the other; what each prints stays together. */
async function lane() {
  for (let run = waiting.shift(); run !== undefined; run = waiting.shift()) {
    let printed = ''
    const result = await perform(run, (text) => {
      printed += text
    })
    console.log(`\n${heading(run)}\n${printed}${result}`)
  }
}

/** @param {Run} run */
function heading(run) {
  return `[${selected.indexOf(run) + 1}/${selected.length}] ${run.name}`
}

/**
 * @param {Run} run
 * @param {Write} write takes what it prints
 * @returns {Promise<string>} the outcome in a line
 */
async function perform({ name, run }, write) {
  const started = performance.now()
  const outcome = await run(write)
  const seconds = (performance.now() - started) / 1000
  finished.push({ name, outcome, seconds })
  const { passed, failed, skipped, problem } = outcome
  const counts = `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`
  return `${failed > 0 ? 'FAILED' : 'ok'}  ${name}: ${counts}${problem ? ` (${problem})` : ''}, ${seconds.toFixed(1)} s`
}

function readArguments() {
  try {
    const { values, positionals } = parseArgs({
      allowPositionals: true,
      options: {
        long: { type: 'boolean', default: false },
        engine: { type: 'string' },
        'by-engine': { type: 'boolean', default: false },
        timeout: { type: 'string' },
      },
    })
    const timeout = values.timeout === undefined ? undefined : Number(values.timeout)
    if (timeout !== undefined && !(timeout > 0))
      throw new Error(`--timeout takes seconds, not ${values.timeout}`)
    return { options: { ...values, timeout }, patterns: positionals }
  } catch (error) {
    console.error(/** @type {Error} */ (error).message)
    console.error('usage: npm test -- [PATTERN ...] [--engine E [--by-engine]] [--timeout SECONDS]')
    process.exit(1)
  }
}

/**
 * A run that could not be counted.
 * @param {string} problem
 * @returns {Outcome}
 */
function failure(problem) {
  return { passed: 0, failed: 1, skipped: 0, problem, skips: [], failures: [] }
}

function summarise() {
  const total = { passed: 0, failed: 0, skipped: 0 }
  for (const { outcome } of finished) {
    total.passed += outcome.passed
    total.failed += outcome.failed
    total.skipped += outcome.skipped
  }
  if (selected.length === 0) {
    console.log(`no test file matches ${patterns.join(' ') || suffix}`)
    if (patterns.length > 0) total.failed = 1
  }
  if (finished.length > SLOWEST) {
    const slowest = finished.toSorted((one, other) => other.seconds - one.seconds).slice(0, SLOWEST)
    const times = slowest.map(({ name, seconds }) => `${name} ${Math.round(seconds)} s`)
    console.log(`\n${Math.round((performance.now() - began) / 1000)} s; the slowest: ${times.join(', ')}`)
  }
  const problems = finished.filter(({ outcome }) => outcome.failed > 0)
  const skips = finished.flatMap(({ name, outcome }) => outcome.skips.map((skip) => `  ${name}: ${skip}`))
  if (skips.length > 0) console.log(`\nskipped:\n${skips.join('\n')}`)
  if (total.skipped > 0) console.log(`\n${total.skipped} tests skipped`)
  if (problems.length > 0) console.log('\nfailed:')
  for (const { name, outcome } of problems) {
    console.log(`  ${name}: ${outcome.failed} failed${outcome.problem ? ` (${outcome.problem})` : ''}`)
    // Again, since a log of thousands of tests may be kept by its end only.
    for (const text of outcome.failures) console.log(text.replace(/^(?=.)/gm, '    '))
  }
  console.log(`\n${total.passed} passed, ${total.failed} failed`)
}

/**
 * What the summary repeats of a run that failed.
 * @param {{ output: string, tail: string, problem: string | undefined }} run
 * @param {RegExp} pattern what one failure looks like
 * @param {RegExp} counts what a run that came to its end prints
 */
function failuresIn({ output, tail, problem }, pattern, counts) {
  const lines = (/** @type {string} */ text) => text.trim().split('\n')
  const failures = [...output.matchAll(pattern)].map(([text]) =>
    lines(text).slice(0, FAILURE_LINES).join('\n'),
  )
  if (problem && (failures.length === 0 || !counts.test(output)))
    failures.push(`the last lines:\n${lines(tail).slice(-FAILURE_LINES).join('\n')}`)
  return failures
}

/**
 * Runs a process to its end and hands on what it prints; its group is killed when the time is up, and whatever it leaves
 * behind is killed when it has ended.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {number} timeoutS
 * @param {NodeJS.ProcessEnv} env
 * @param {Write} write
 * @returns {Promise<{ output: string, tail: string, problem: string | undefined }>} output (of stdout) and tail (of both
 * streams) without colours
 */
async function runToEnd(command, args, timeoutS, env, write) {
  const child = startGroup(command, args, { cwd: ROOT, env, stdio: ['ignore', 'pipe', 'pipe'] })
  let [output, tail] = ['', '']
  for (const [from, to] of /** @type {const} */ ([
    [child.stdout, process.stdout],
    [child.stderr, process.stderr],
  ])) {
    from?.setEncoding('utf8').on('data', (/** @type {string} */ text) => {
      write(text, to)
      tail = (tail + text).slice(-TAIL_CHARACTERS)
      if (from === child.stdout) output += text
    })
  }
  const problem = await new Promise((/** @type {(problem: string | undefined) => void} */ resolve) => {
    /** @type {string | undefined} */
    let found
    const timer = setTimeout(() => {
      found = `killed after ${timeoutS} s`
      signalGroup(child, 'SIGKILL')
    }, timeoutS * 1000)
    child.once('error', (error) => {
      clearTimeout(timer)
      resolve(error.message)
    })
    child.once('exit', (code, signal) => {
      clearTimeout(timer)
      if (signal) found ??= `ended by ${signal}`
      else if (code !== 0) found ??= `exit code ${code}`
      signalGroup(child, 'SIGKILL')
      // A descendant in another group may hold the pipes open for ever.
      const cut = setTimeout(() => {
        child.stdout?.destroy()
        child.stderr?.destroy()
      }, PIPE_CLOSE_TIMEOUT_MS)
      child.once('close', () => {
        clearTimeout(cut)
        resolve(found)
      })
    })
  })
  return { output: stripVTControlCharacters(output), tail: stripVTControlCharacters(tail), problem }
}

/**
 * @param {Write} write
 * @param {readonly string[]} what which tests, in cargo's words
 * @param {NodeJS.ProcessEnv} [environment] beside the process's own
 * @returns {Promise<Outcome>}
 */
async function runCargo(write, what, environment = {}) {
  const args = ['test', ...what, '--target-dir', path('target'), ...cargoLocked()]
  const ended = await runToEnd('cargo', args, CARGO_TIMEOUT_S, { ...process.env, ...environment }, write)
  const { output, problem } = ended
  let [passed, failed, skipped] = [0, 0, 0]
  for (const match of output.matchAll(/^test result: .*? (\d+) passed; (\d+) failed; (\d+) ignored;/gm)) {
    passed += Number(match[1])
    failed += Number(match[2])
    skipped += Number(match[3])
  }
  const skips = [...output.matchAll(/^test (.+) \.\.\. ignored(?:, (.+))?$/gm)].map(([, name, why]) =>
    why ? `${name} (${why})` : `${name}`,
  )
  if (problem && failed === 0) failed = 1
  if (!problem && passed + failed === 0) return failure('cargo ran no test')
  const failures = failuresIn(ended, FAILED_CARGO_TEST, /^test result: /m)
  return { passed, failed, skipped, skips, failures, ...(problem ? { problem } : {}) }
}

/**
 * @param {string} file
 * @param {Write} write
 * @returns {Promise<Outcome>}
 */
async function runFile(file, write) {
  const env = { ...process.env }
  if (options.engine !== undefined) env['SHARDLOOP_TEST_ENGINES'] = options.engine
  if (newest !== null) env['SHARDLOOP_NEWEST_NODE'] = newest
  else delete env['SHARDLOOP_NEWEST_NODE']
  if (process.stdout.isTTY && env['NO_COLOR'] === undefined) env['FORCE_COLOR'] ??= '1'
  const timeoutS = options.timeout ?? (options.long ? LONG_FILE_TIMEOUT_S : FILE_TIMEOUT_S)
  const ended = await runToEnd(process.execPath, ['--enable-source-maps', file], timeoutS, env, write)
  const { output, problem } = ended
  let [total, passed, skipped, summaries] = [0, 0, 0, 0]
  for (const match of output.matchAll(/^ {2}Total: +(\d+)\n {2}Passed: +(\d+)\n {2}Skipped: +(\d+)$/gm)) {
    total += Number(match[1])
    passed += Number(match[2])
    skipped += Number(match[3])
    summaries++
  }
  const skips = [...output.matchAll(SKIPPED_LINE)].map((match) => String(match[1]))
  const failed = total - passed
  const failures = failuresIn(ended, FAILED_TEST, /^ {2}Total: /m)
  if (problem) return { passed, failed: Math.max(failed, 1), skipped, skips, failures, problem }
  if (summaries === 0 || total + skipped === 0)
    return { passed, failed: 1, skipped, skips, failures, problem: 'ran no test' }
  return { passed, failed, skipped, skips, failures }
}
