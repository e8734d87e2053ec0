// @ts-check
// npm run fmt: formats both languages and applies the linter's safe fixes.
import { ended, startGroup } from './lib/child-process-groups.mjs'
import { prepare } from './lib/prepare.mjs'
import { path, ROOT } from './lib/project.mjs'
import { outputOf } from './lib/toolchain.mjs'

await prepare({ native: false, typescript: false, cargo: true })
let failed = false
await run(process.execPath, [
  path('node_modules', '@biomejs', 'biome', 'bin', 'biome'),
  'check',
  '--write',
  '.',
])
if (outputOf('cargo', ['fmt', '--version']) === null) {
  console.error('fmt: rustfmt is not installed: run: rustup component add rustfmt')
  failed = true
} else {
  await run('cargo', ['fmt', '--all'])
}
process.exit(failed ? 1 : 0)

/**
 * @param {string} command
 * @param {readonly string[]} args
 */
async function run(command, args) {
  const { code } = await ended(
    startGroup(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] }),
  )
  if (code !== 0) failed = true
}
