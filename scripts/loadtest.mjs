// @ts-check
// npm run loadtest -- ARGS: builds the load generator when it changed and runs it with the arguments.
import { runProgram } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { LOADGEN } from './lib/project.mjs'

await prepare({ native: false, typescript: false, loadgen: true })
await runProgram(LOADGEN, process.argv.slice(2))
