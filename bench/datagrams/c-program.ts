/** Compiles the peer in C, bench/peers/udp-echo.c, when it is first needed or has changed. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from '../load.js'

const SOURCE = join(ROOT, 'bench', 'peers', 'udp-echo.c')
const PROGRAM = join(ROOT, 'target', 'bench-peers', 'udp-echo')

/** The path of the program, or why there is none. `compiler` is what compiles it. */
export function cProgram(
  compiler: string = process.env['CC'] ?? 'cc',
  program: string = PROGRAM,
): { readonly path: string } | { readonly absent: string } {
  if (process.platform !== 'linux') return { absent: 'recvmmsg and sendmmsg are calls of Linux' }
  if (existsSync(program) && statSync(program).mtimeMs >= statSync(SOURCE).mtimeMs) return { path: program }
  mkdirSync(dirname(program), { recursive: true })
  const { error, status, stderr } = spawnSync(compiler, ['-O2', '-Wall', '-o', program, SOURCE], {
    encoding: 'utf8',
  })
  if (error !== undefined)
    return { absent: `there is no C compiler ${compiler} (${error.message}); install one, or name it by CC` }
  if (status !== 0) return { absent: `${compiler} does not compile ${SOURCE}:\n${stderr.trim()}` }
  return { path: program }
}
