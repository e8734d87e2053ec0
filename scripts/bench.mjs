// @ts-check
// npm run bench -- ARGS: builds everything and runs the benchmark, dist/bench/run.js, with the arguments.
import { runProgram } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { path } from './lib/project.mjs'

await prepare({ loadgen: true })
await runProgram(process.execPath, [path('dist', 'bench', 'run.js'), ...process.argv.slice(2)])
