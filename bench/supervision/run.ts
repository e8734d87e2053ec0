/** `npm run bench -- supervision`: breaks servers, prints tables, and leaves JSON and an HTML report in bench/results/. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { list } from '../flags.js'
import { RESULTS, ROOT } from '../load.js'
import { describeMachine, resultName } from '../machine.js'
import { ProgressLine } from '../terminal.js'
import {
  type Figure,
  measureDeath,
  measureQueue,
  measureReplacement,
  measureShare,
  measureStall,
  PARTS,
  type Part,
  type SupervisionPlan,
  type Timeline,
} from './parts.js'
import { reaches, type SupervisionResults, shown, supervisionReport } from './report.js'

const FULL: SupervisionPlan = {
  stallMs: 5000,
  stallConnections: 500,
  stallRounds: 3,
  shareRounds: 5,
  replacementRounds: 21,
  deathRounds: 5,
  deathSecs: 15,
  crashes: 5,
}
const QUICK: SupervisionPlan = {
  stallMs: 1000,
  stallConnections: 100,
  stallRounds: 1,
  shareRounds: 1,
  replacementRounds: 5,
  deathRounds: 1,
  deathSecs: 8,
  crashes: 1,
}

const HELP = `npm run bench -- supervision [OPTIONS]

  --quick        about two minutes: fewer and shorter rounds, good to see whether something broke
  --parts LIST   ${PARTS.join(',')}
`

/** Runs with these arguments. Exit code: 1 when a bar is missed, 2 when something could not be measured. */
export async function runSupervision(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: 'boolean', default: false },
      parts: { type: 'string', default: PARTS.join(',') },
      help: { type: 'boolean', default: false },
    },
  })
  if (values.help) {
    process.stdout.write(HELP)
    return 0
  }
  const names = list('--parts', values.parts, PARTS)
  const plan = values.quick ? QUICK : FULL
  const environment = describeMachine(ROOT)
  const line = new ProgressLine()
  const progress = (text: string): void => line.show(text)
  const figures: Figure[] = []
  const timelines: Timeline[] = []
  const measure: Readonly<Record<Part, () => Promise<Figure[]>>> = {
    stall: () => measureStall(plan, progress),
    share: () => measureShare(plan, progress),
    replacement: () => measureReplacement(plan, progress),
    death: async () => {
      const found = await measureDeath(plan, progress)
      timelines.push(...found.timelines)
      return found.figures
    },
    queue: () => measureQueue(plan, progress),
  }
  let broken = false
  for (const part of names) {
    try {
      figures.push(...(await measure[part]()))
    } catch (error) {
      broken = true
      line.clear()
      process.stderr.write(`bench: ${part}: ${(error as Error).message}\n`)
    }
  }
  line.clear()
  print(figures)
  for (const file of save({ environment, quick: values.quick, figures, timelines })) console.log(file)
  if (broken) return 2
  return figures.some((figure) => reaches(figure) === false) ? 1 : 0
}

function print(figures: readonly Figure[]): void {
  const width = (read: (figure: Figure) => string): number =>
    Math.max(...figures.map((one) => read(one).length))
  const [server, what] = [width((one) => one.server), width((one) => one.what)]
  for (const figure of figures) {
    const reached = reaches(figure)
    const bar = figure.bar === null ? '' : `  ≤ ${figure.bar}  ${reached ? 'pass' : 'FAIL'}`
    const cells = [figure.part.padEnd(11), figure.server.padEnd(server), figure.what.padEnd(what)]
    console.log(`${cells.join('  ')}  ${shown(figure).padStart(9)}${bar}`)
  }
}

function save(results: SupervisionResults): string[] {
  mkdirSync(RESULTS, { recursive: true })
  const { environment, quick } = results
  const name = `${resultName(environment)}-supervision${quick ? '-quick' : ''}`
  for (const base of [name, 'latest-supervision']) {
    writeFileSync(join(RESULTS, `${base}.json`), `${JSON.stringify(results, null, 1)}\n`)
    writeFileSync(join(RESULTS, `${base}.html`), supervisionReport(results))
  }
  return [join(RESULTS, `${name}.json`), join(RESULTS, `${name}.html`)]
}
