// @ts-check
// npm start: builds what changed and runs examples/start.ts, which serves echo on port 7000 and HTTP on port 8080 with a shard for
// each core. Flags after `--` go to it: --port, --http-port, --host, --shards, --engine.
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { runServer } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { path } from './lib/project.mjs'

await prepare()
await runServer(path('dist', 'examples', 'start.js'), process.argv.slice(2), { onFirstLine: explain })

/** @param {string} ready what the servers print when they are there: `echo on tcp://HOST:PORT, hello on http://HOST:PORT (…)` */
function explain(ready) {
  const [echo, http] = [...ready.matchAll(/\w+:\/\/(\[[^\]]*\]|[^:]*):(\d+)/g)].map(
    ([, host = '', port = '']) => {
      const bare = host.replace(/^\[|\]$/g, '')
      const reachable = bare === '' || bare === '::' || bare === '0.0.0.0' ? '127.0.0.1' : bare
      return {
        host: reachable,
        port,
        address: `${reachable.includes(':') ? `[${reachable}]` : reachable}:${port}`,
      }
    },
  )
  if (!echo || !http) return
  const client = isInstalled('nc')
    ? `nc ${echo.host} ${echo.port}`
    : `node -e "process.stdin.pipe(net.connect(${echo.port}, '${echo.host}')).pipe(process.stdout)"`
  console.log(`
try it:   ${client}     (then type a line: it comes back)
          curl http://${http.address}/
load it:  npm run loadtest -- echo --addr ${echo.address} --conns 64 --size 64 --pipeline 1 --secs 10
          npm run loadtest -- http --url http://${http.address}/ --conns 64 --secs 10
stop it:  Ctrl-C
`)
}

/** @param {string} command */
function isInstalled(command) {
  return (process.env['PATH'] ?? '')
    .split(delimiter)
    .some((directory) => existsSync(join(directory, command)))
}
