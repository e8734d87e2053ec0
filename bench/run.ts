/** `npm run bench`: measures, prints tables, and leaves JSON and an HTML report in bench/results/. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { takesPart } from './comparisons.js'
import { DATAGRAMS } from './datagrams/benchmark.js'
import { checkEngines } from './engines.js'
import { handlesArePresent, measureHandles } from './handles-part.js'
import { HTTP } from './http/benchmark.js'
import { insideCommand } from './inside.js'
import { type LatencySample, measureInsideLatency } from './inside-latency.js'
import { loadgenProgram, RESULTS, ROOT } from './load.js'
import { checkMachine, describeMachine, resultName } from './machine.js'
import { measureMemory } from './memory.js'
import { type BenchOptions, readOptions } from './options.js'
import { runPaired } from './paired/command.js'
import { isPython, PEERS, type PeerId } from './peers.js'
import { BUN_ABSENT, bunProgram, pythonProgram, rowCommand, serverCommand } from './programs.js'
import { htmlReport } from './report.js'
import { RESP } from './resp/benchmark.js'
import { evaluate, figuresOf, type Results } from './results.js'
import { measureRow, type RowResult } from './rounds.js'
import { type Part, ROWS } from './rows.js'
import { SEED, seededRandom } from './statistics.js'
import { STREAMS } from './streams/benchmark.js'
import { runSupervision } from './supervision/run.js'
import { countSyscalls, type SyscallResult, straceIsPresent } from './syscalls.js'
import { ProgressLine, tables } from './terminal.js'
import { THREADS } from './threads/benchmark.js'
import { TLS } from './tls/benchmark.js'

const PYTHON_ABSENT =
  'RLoop, uvloop: the peers are not installed; "npm run --prefix bench/peers python" installs them where there are wheels of them for the machine\'s Python'

// Through exit(), so that the servers end too.
process.once('SIGINT', () => process.exit(130))
process.once('SIGTERM', () => process.exit(143))

try {
  const args = process.argv.slice(2)
  const [command, ...rest] = args
  if (command === 'supervision') process.exitCode = await runSupervision(rest)
  else if (command === 'threads') process.exitCode = await runPaired(THREADS, rest)
  else if (command === 'datagrams') process.exitCode = await runPaired(DATAGRAMS, rest)
  else if (command === 'http') process.exitCode = await runPaired(HTTP, rest)
  else if (command === 'streams') process.exitCode = await runPaired(STREAMS, rest)
  else if (command === 'resp') process.exitCode = await runPaired(RESP, rest)
  else if (command === 'tls') process.exitCode = await runPaired(TLS, rest)
  else {
    const options = readOptions(args)
    if (options !== null) process.exitCode = await run(options)
  }
} catch (error) {
  process.stderr.write(`\nbench: ${(error as Error).message}\n`)
  process.exitCode = 2
}

/** Exit code: 1 when a bar that must be reached fails, 2 when something could not be measured. */
async function run(options: BenchOptions): Promise<number> {
  checkMachine()
  const started = performance.now()
  const absent: string[] = []
  const peers = options.peers.filter((peer) => peerIsPresent(peer, absent))
  for (const text of absent) process.stderr.write(`bench: ${text}\n`)
  const line = new ProgressLine()
  const progress = (text: string): void => line.show(text)
  await checkEngines(options.engines, progress)
  const random = seededRandom(SEED)
  const environment = describeMachine(
    ROOT,
    peers.includes('bun') ? bunProgram() : null,
    peers.some(isPython) ? pythonProgram() : null,
  )

  let broken = false
  /** One part that breaks (a server that dies, say) must not take an hour of other figures with it. */
  const attempt = async <Found>(
    name: string,
    fallback: Found,
    measure: () => Promise<Found>,
  ): Promise<Found> => {
    try {
      return await measure()
    } catch (error) {
      broken = true
      line.clear()
      absent.push(`${name}: ${(error as Error).message.trim()}`)
      process.stderr.write(`bench: ${absent.at(-1)}\n`)
      return fallback
    }
  }

  const timeIsUp = (): boolean => performance.now() - started > options.timeLimitSecs * 1000
  const rows: RowResult[] = []
  let memory: Results['memory'] = []
  const syscalls: SyscallResult[] = []
  const latency: LatencySample[] = []
  let handles: string | null = null
  const { quick, plan } = options
  const soFar = (): Results => ({
    environment,
    quick,
    plan,
    engines: options.engines,
    peers,
    rows,
    memory,
    syscalls,
    latency,
    handles,
    absent,
    durationSecs: (performance.now() - started) / 1000,
  })
  for (const row of options.rows) {
    const present = peers.filter((peer) => rowCommand(row, peer) !== null)
    if (present.length === 0) {
      absent.push(`${row.id}: none of the servers that were chosen takes part`)
      continue
    }
    if (timeIsUp()) {
      absent.push(`${row.id}: the quick run's time was up`)
      continue
    }
    const result = await attempt(row.id, null, () =>
      measureRow(row, present, options.plan, random, progress, timeIsUp),
    )
    if (result === null) continue
    rows.push(result)
    // An interrupted run keeps what it has.
    await attempt('saving what was measured so far', [], async () => save(soFar(), false))
  }
  const wants = (part: Part): boolean => {
    const skipped = options.parts.includes(part) && timeIsUp()
    if (skipped) absent.push(`${part}: the quick run's time was up`)
    return options.parts.includes(part) && !skipped
  }
  const measureSyscalls = async (): Promise<void> => {
    if (!straceIsPresent()) {
      absent.push('system calls per request: strace is not installed')
      return
    }
    for (const row of ROWS.filter((one) => options.syscallRows.includes(one.id))) {
      for (const peer of peers.filter((one) => takesPart(row, one))) {
        progress(`syscalls: ${row.id}, ${peer}`)
        const count = (): Promise<SyscallResult> => countSyscalls(row, peer, options.syscallSecs)
        const found = await attempt(`syscalls: ${row.id}, ${peer}`, null, count)
        if (found !== null) syscalls.push(found)
      }
    }
  }
  // The peers that no bar is about take too long for a quick run.
  const memoryPeers = peers.filter(
    (peer) => !isPython(peer) && (!options.quick || insideCommand(peer) !== null),
  )
  memory = await attempt('memory', [], async () =>
    wants('memory') ? await measureMemory(memoryPeers, options.memoryRepetitions, progress) : [],
  )
  if (wants('syscalls')) await measureSyscalls()
  await attempt('latency', undefined, async () => {
    if (wants('latency')) await measureInsideLatency(peers, options, random, progress, latency)
  })
  if (wants('handles')) {
    if (handlesArePresent()) {
      progress('handles: callbacks and timers')
      handles = await attempt('handles', null, () => measureHandles(quick))
    } else absent.push('handles: this build has no bench/handles.ts')
  }
  line.clear()

  const results = soFar()
  process.stdout.write(`${tables(results)}\n\n`)
  for (const file of save(results, true)) process.stdout.write(`${file}\n`)
  if (broken) return 2
  return evaluate(results).some(({ bar, verdict }) => bar.kind === 'must' && verdict === 'fail') ? 1 : 0
}

function peerIsPresent(peer: PeerId, absent: string[]): boolean {
  const command = serverCommand(peer)
  if (command === null) {
    const text = isPython(peer) ? PYTHON_ABSENT : BUN_ABSENT
    if (!absent.includes(text)) absent.push(text)
    return false
  }
  const missing = [...command, loadgenProgram('loadgen')].find(
    (word) => word.startsWith(ROOT) && !existsSync(word),
  )
  if (missing !== undefined) throw new Error(`${missing} is not built; npm run bench builds it`)
  return true
}

/** Writes both files, under the date and, once complete, as `latest`, and tells the paths. */
function save(results: Results, complete: boolean): string[] {
  mkdirSync(RESULTS, { recursive: true })
  const { environment, quick } = results
  const name = `${resultName(environment)}${quick ? '-quick' : ''}`
  const summary = {
    servers: results.peers.map((id) => ({ id, ...PEERS[id] })),
    figures: results.rows.map((result) => ({
      row: result.row.id,
      servers: results.peers.flatMap((peer) => figuresOf(result, peer) ?? []),
    })),
    bars: evaluate(results),
  }
  const json = `${JSON.stringify({ complete, ...results, ...summary }, null, 1)}\n`
  const html = htmlReport(results)
  for (const base of complete ? [name, 'latest'] : [name]) {
    writeFileSync(join(RESULTS, `${base}.json`), json)
    writeFileSync(join(RESULTS, `${base}.html`), html)
  }
  return [join(RESULTS, `${name}.json`), join(RESULTS, `${name}.html`)]
}
