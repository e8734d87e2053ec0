/**
 * `npm run soak`: loads a server for minutes, and fails when it is wrong or when it drifts. Exit code: 1 for that, 2 when it
 * cannot run as it was told.
 */
import { ROOT } from '../../bench/load.js'
import { machine } from '../../bench/machine.js'
import { ProgressLine } from '../../bench/terminal.js'
import type { Verdict } from './drift.js'
import { readOptions, type SoakOptions } from './options.js'
import { judge, save } from './report.js'
import { Soak } from './soak.js'

const options = readArguments()
if (options !== null) process.exitCode = await run(options).catch(failed)

function readArguments(): SoakOptions | null {
  try {
    return readOptions(process.argv.slice(2))
  } catch (error) {
    console.error(`soak: ${(error as Error).message.split('\n', 1)[0]}`)
    process.exit(2)
  }
}

/** The server did not start, or the soak itself is wrong. */
function failed(error: Error): number {
  console.error(`soak: ${error.message}`)
  return 1
}

/** Exit code of the soak. */
async function run(options: SoakOptions): Promise<number> {
  if (process.platform !== 'linux') {
    console.error('soak: what a server holds is read from /proc, which only Linux has')
    return 2
  }
  const line = new ProgressLine('soak')
  const interrupt = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => interrupt.abort())
  console.log(
    `soak: ${options.minutes} minutes, ${options.shards} shards, ${options.visitors} visitors, --seed ${options.seed}`,
  )
  const described = machine(ROOT) // before anybody commits something else
  const record = await new Soak(options, interrupt.signal, (text) => line.show(text)).run()
  line.clear()
  const verdicts = judge(record, options)
  print(verdicts)
  for (const file of save(described, options, record, verdicts)) console.log(file)
  const failed = verdicts.filter(({ passed }) => !passed).map(({ check }) => check)
  const end =
    failed.length === 0 ? `passed on ${record.engine}` : `failed on ${record.engine}: ${failed.join(', ')}`
  console.log(`soak: ${end}`)
  return failed.length === 0 ? 0 : 1
}

function print(verdicts: readonly Verdict[]): void {
  const width = Math.max(...verdicts.map(({ check }) => check.length))
  for (const { check, passed, text } of verdicts)
    console.log(`${passed ? 'ok    ' : 'FAILED'}  ${check.padEnd(width)}  ${text}`)
}
