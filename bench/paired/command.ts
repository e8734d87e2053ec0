/** Runs a paired benchmark: measures, prints tables, and leaves JSON and an HTML report in bench/results/. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadgenProgram, RESULTS, ROOT } from '../load.js'
import { checkMachine, describeMachine, type Environment, resultName } from '../machine.js'
import { bunProgram } from '../programs.js'
import { SEED, seededRandom } from '../statistics.js'
import { straceIsPresent } from '../syscalls.js'
import { ProgressLine } from '../terminal.js'
import { type PairedBenchmark, type PairedRow, planOf } from './benchmark.js'
import { type PairedOptions, readPairedOptions } from './options.js'
import { pairedReport } from './report.js'
import { evaluatePaired, type PairedCalls, type PairedResults, pairedFiguresOf } from './results.js'
import { measurePairedRow, type PairedRowResult } from './rounds.js'
import { pairedTables } from './tables.js'

/** Runs with these arguments. Exit code: 1 when a bar that must be reached fails, 2 when something could not be measured. */
export async function runPaired<Peer extends string>(
  benchmark: PairedBenchmark<Peer>,
  args: readonly string[],
): Promise<number> {
  const options = readPairedOptions(benchmark, args)
  if (options === null) return 0
  checkMachine()
  if (!existsSync(loadgenProgram('loadgen')))
    throw new Error('the load generator is not built; npm run bench builds it')
  benchmark.check(options.rows)
  return await new Run(benchmark, options).run()
}

class Run<Peer extends string> {
  readonly #benchmark: PairedBenchmark<Peer>
  readonly #options: PairedOptions<Peer>
  readonly #line = new ProgressLine()
  readonly #started = performance.now()
  readonly #environment: Environment
  readonly #absent: string[] = []
  readonly #rows: PairedRowResult[] = []
  readonly #syscalls: PairedCalls[] = []
  #peers: readonly Peer[] = []
  #broken = false

  constructor(benchmark: PairedBenchmark<Peer>, options: PairedOptions<Peer>) {
    this.#benchmark = benchmark
    this.#options = options
    const usesBun = options.peers.some((peer) => peer === 'bun')
    this.#environment = describeMachine(ROOT, usesBun ? bunProgram() : null)
  }

  async run(): Promise<number> {
    this.#peers = this.#options.peers.filter((peer) => this.#isPresent(peer))
    const random = seededRandom(SEED)
    for (const row of this.#options.rows) {
      const taking = this.#peers.filter((peer) => row.peers.includes(peer))
      if (taking.length === 0) this.#absent.push(`${row.id}: none of the peers that were chosen takes part`)
      else if (this.#timeIsUp()) this.#absent.push(`${row.id}: the quick run's time was up`)
      else await this.#measure(row, taking, random)
    }
    if (this.#options.countsCalls) await this.#countCalls()
    this.#line.clear()
    const results = this.#results()
    // The tables and the page do not care whose names the peers are.
    const benchmark = this.#benchmark as unknown as PairedBenchmark
    process.stdout.write(`${pairedTables(benchmark, results)}\n\n`)
    for (const file of this.#save(true)) process.stdout.write(`${file}\n`)
    if (this.#broken) return 2
    const bars = evaluatePaired(benchmark.bars, results)
    return bars.some(({ bar, verdict }) => bar.kind === 'must' && verdict === 'fail') ? 1 : 0
  }

  #isPresent(peer: Peer): boolean {
    const reason = this.#benchmark.absent(peer)
    if (reason === null) return true
    this.#absent.push(`${this.#benchmark.peers[peer].title}: ${reason}`)
    process.stderr.write(`bench: ${this.#absent.at(-1)}\n`)
    return false
  }

  async #measure(row: PairedRow<Peer>, peers: readonly Peer[], random: () => number): Promise<void> {
    await this.#attempt(row.id, async () => {
      const result = await measurePairedRow(
        row,
        peers,
        (peer) => this.#benchmark.start(row, peer as Peer),
        planOf(row, this.#options.plan),
        random,
        (text) => this.#line.show(text),
        () => this.#timeIsUp(),
      )
      this.#rows.push(result)
      // An interrupted run keeps what it has.
      this.#save(false)
    })
  }

  async #countCalls(): Promise<void> {
    const { countCalls, rows } = this.#benchmark
    if (countCalls === null) return
    if (!straceIsPresent()) {
      this.#absent.push('system calls per request: strace is not installed')
      return
    }
    // With --rows syscalls alone, of all.
    const counted = this.#options.rows.length > 0 ? this.#options.rows : rows
    for (const row of counted) {
      for (const peer of this.#peers.filter((one) => row.peers.includes(one))) {
        if (this.#timeIsUp()) {
          this.#absent.push(`syscalls: ${row.id}, ${peer}: the quick run's time was up`)
          continue
        }
        this.#line.show(`syscalls: ${row.id}, ${peer}`)
        await this.#attempt(`syscalls: ${row.id}, ${peer}`, async () => {
          const calls = await countCalls(row, peer, this.#options.syscallSecs)
          this.#syscalls.push({ row: row.id, peer, ...calls })
        })
      }
    }
  }

  /** One part that breaks (a server that dies, say) must not take the other figures with it. */
  async #attempt(name: string, measure: () => Promise<void>): Promise<void> {
    try {
      await measure()
    } catch (error) {
      this.#broken = true
      this.#line.clear()
      this.#absent.push(`${name}: ${(error as Error).message.trim()}`)
      process.stderr.write(`bench: ${this.#absent.at(-1)}\n`)
    }
  }

  #timeIsUp(): boolean {
    return performance.now() - this.#started > this.#options.timeLimitSecs * 1000
  }

  #results(): PairedResults {
    return {
      environment: this.#environment,
      quick: this.#options.quick,
      plan: this.#options.plan,
      peers: this.#peers,
      rows: this.#rows,
      syscalls: this.#syscalls,
      absent: this.#absent,
      durationSecs: (performance.now() - this.#started) / 1000,
    }
  }

  /** Writes both files, under the date and, once complete, as `latest`, and tells the paths. */
  #save(complete: boolean): string[] {
    mkdirSync(RESULTS, { recursive: true })
    const results = this.#results()
    const benchmark = this.#benchmark as unknown as PairedBenchmark
    const { name } = benchmark
    const base = `${resultName(results.environment)}-${name}${results.quick ? '-quick' : ''}`
    const summary = {
      titles: benchmark.peers,
      figures: results.rows.map((result) => ({
        row: result.row.id,
        peers: results.peers.flatMap((peer) => pairedFiguresOf(result, peer) ?? []),
      })),
      bars: evaluatePaired(benchmark.bars, results),
    }
    for (const file of complete ? [base, `latest-${name}`] : [base]) {
      writeFileSync(
        join(RESULTS, `${file}.json`),
        `${JSON.stringify({ complete, ...results, ...summary }, null, 1)}\n`,
      )
      writeFileSync(join(RESULTS, `${file}.html`), pairedReport(benchmark, results))
    }
    return [join(RESULTS, `${base}.json`), join(RESULTS, `${base}.html`)]
  }
}
