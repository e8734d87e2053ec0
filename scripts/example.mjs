// @ts-check
// npm run -s example -- NAME [flags]: builds what changed and runs dist/examples/NAME.js with the flags.
import { runServer } from './lib/foreground.mjs'
import { prepare } from './lib/prepare.mjs'
import { path } from './lib/project.mjs'
import { filesBelow } from './lib/stamps.mjs'

const [name, ...args] = process.argv.slice(2)
const examples = filesBelow(path('examples'))
  .map((file) => /\/examples\/([^/]+)\.ts$/.exec(file)?.[1] ?? '')
  .filter((example) => example !== '' && !example.endsWith('.d'))

if (name === undefined || !examples.includes(name)) {
  const problem = name === undefined ? 'which example?' : `there is no example ${JSON.stringify(name)}.`
  console.error(`${problem} There is: ${examples.join(', ')}\nusage: npm run -s example -- NAME [flags]`)
  process.exit(1)
}
await prepare()
await runServer(path('dist', 'examples', `${name}.js`), args)
