// Installs the Python event loops that the benchmark compares with, rloop and uvloop, into venv/ beside this file:
// npm run --prefix bench/peers python. They come as wheels, by the hashes in requirements.txt; nothing is compiled.
import { spawnSync } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'

const directory = import.meta.dirname
const environment = join(directory, 'venv')
const python = join(environment, 'bin', 'python')

function run(command, args, remedy) {
  const { error, status } = spawnSync(command, args, { stdio: 'inherit' })
  if (status === 0) return
  console.error(`${error === undefined ? `${command} ${args.join(' ')} failed` : error.message}: ${remedy}`)
  // Half an installation would pass for one.
  rmSync(environment, { recursive: true, force: true })
  process.exit(1)
}

run(
  'python3',
  ['-m', 'venv', '--clear', environment],
  'these peers need Python 3 with venv (on Debian and Ubuntu: apt-get install python3-venv)',
)
run(
  python,
  [
    ...['-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', '--no-deps'],
    ...['--only-binary', ':all:', '--require-hashes', '-r', join(directory, 'requirements.txt')],
  ],
  'there must be wheels for this Python and machine: requirements.txt has those for Linux and Python 3.11 to 3.14',
)
run(python, ['-c', 'import rloop, uvloop'], 'what was installed does not run here')
