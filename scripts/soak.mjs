// @ts-check
// npm run soak -- ARGS: builds what changed and runs the soak, dist/test/soak/run.js, with the arguments.
import { runProgram } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { path } from './lib/project.mjs'

await prepare()
await runProgram(process.execPath, [
  '--enable-source-maps',
  path('dist', 'test', 'soak', 'run.js'),
  ...process.argv.slice(2),
])
