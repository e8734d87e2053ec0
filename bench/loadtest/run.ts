/**
 * `npm run loadtest -- http`: runs the load generator with the arguments, and draws what it found. `--plot FILE` says where to;
 * bench/results/loadtest-http.html unless told, and nowhere with `--json` alone.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { constants, tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { loadgenProgram, RESULTS } from '../load.js'
import { readLoadtestArguments } from './arguments.js'
import { type HttpRun, runImage, runPage } from './plot.js'

const SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const

try {
  process.exitCode = await run(process.argv.slice(2))
} catch (error) {
  process.stderr.write(`loadtest: ${(error as Error).message}\n`)
  process.exitCode = 2
}

/** The load generator's exit code. */
async function run(args: readonly string[]): Promise<number> {
  const { rest, plot, out, isQuiet } = readLoadtestArguments(args, join(RESULTS, 'loadtest-http.html'))
  if (plot === null) return await load(rest)
  const directory = out === null ? mkdtempSync(join(tmpdir(), 'shardloop-loadtest-')) : null
  try {
    const written = out ?? join(directory as string, 'run.json')
    const code = await load(out === null ? [...rest, '--out', written] : rest)
    // A run that could not be made has left nothing.
    if (!existsSync(written) || code > 1) return code
    const found = JSON.parse(readFileSync(written, 'utf8')) as HttpRun
    const draw = plot.endsWith('.svg') ? runImage : runPage
    mkdirSync(dirname(plot), { recursive: true })
    writeFileSync(plot, draw(found, new Date()))
    const told = isQuiet ? process.stderr : process.stdout
    told.write(`plot         ${plot}\n`)
    return code
  } finally {
    if (directory !== null) rmSync(directory, { recursive: true })
  }
}

async function load(args: readonly string[]): Promise<number> {
  const child = spawn(loadgenProgram('loadgen'), args, { stdio: 'inherit' })
  for (const signal of SIGNALS) process.on(signal, () => child.kill(signal))
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (...ended) => resolve(ended))
  })
  return signal === null ? (code ?? 2) : 128 + constants.signals[signal]
}
