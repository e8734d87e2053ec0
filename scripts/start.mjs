// @ts-check
// npm start: builds what changed and runs the echo example on port 7000 with a shard for each core. Flags after `--` go
// to the example; the last of two equal flags counts.
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { runServer } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { path } from './lib/project.mjs'

const PORT = '7000'

await prepare()
const flags = process.argv.slice(2)
const args = flags.some((flag) => flag === '--port' || flag.startsWith('--port='))
  ? flags
  : ['--port', PORT, ...flags]
await runServer(path('dist', 'examples', 'echo.js'), args, { onFirstLine: explain })

/** @param {string} ready the example's first line */
function explain(ready) {
  const [, host = '', port = PORT] = /tcp:\/\/(\[[^\]]*\]|[^:]*):(\d+)/.exec(ready) ?? []
  const bare = host.replace(/^\[|\]$/g, '')
  const reachable = bare === '' || bare === '::' || bare === '0.0.0.0' ? '127.0.0.1' : bare
  const address = reachable.includes(':') ? `[${reachable}]:${port}` : `${reachable}:${port}`
  const client = isInstalled('nc')
    ? `nc ${reachable} ${port}`
    : `node -e "process.stdin.pipe(net.connect(${port}, '${reachable}')).pipe(process.stdout)"`
  console.log(`
try it:   ${client}     (then type a line: it comes back)
load it:  npm run loadtest -- echo --addr ${address} --conns 64 --size 64 --pipeline 1 --secs 10
stop it:  Ctrl-C
`)
}

/** @param {string} command */
function isInstalled(command) {
  return (process.env['PATH'] ?? '')
    .split(delimiter)
    .some((directory) => existsSync(join(directory, command)))
}
