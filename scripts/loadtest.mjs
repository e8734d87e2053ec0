// @ts-check
// npm run loadtest -- ARGS: builds the load generator when it changed and runs it with the arguments. What it finds over HTTP is
// drawn too, by dist/bench/loadtest/run.js.
import { runProgram } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { LOADGEN, path } from './lib/project.mjs'

const args = process.argv.slice(2)
const isDrawn = args[0] === 'http'
await prepare({ native: false, typescript: isDrawn, loadgen: true })
if (isDrawn) await runProgram(process.execPath, [path('dist', 'bench', 'loadtest', 'run.js'), ...args])
else await runProgram(LOADGEN, args)
