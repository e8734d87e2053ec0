/** Compiles the peers in C, bench/peers/NAME.c, when they are first needed or have changed. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from './load.js'

/** The peers in C. */
export type CProgram = 'udp-echo' | 'broadcast'

/** The path of the program, or why there is none. `compiler` is what compiles it. */
export function cProgram(
  name: CProgram,
  compiler: string = process.env['CC'] ?? 'cc',
  program: string = join(ROOT, 'target', 'bench-peers', name),
): { readonly path: string } | { readonly absent: string } {
  if (process.platform !== 'linux') return { absent: 'it is written for Linux' }
  const source = join(ROOT, 'bench', 'peers', `${name}.c`)
  if (existsSync(program) && statSync(program).mtimeMs >= statSync(source).mtimeMs) return { path: program }
  mkdirSync(dirname(program), { recursive: true })
  const { error, status, stderr } = spawnSync(compiler, ['-O2', '-Wall', '-o', program, source], {
    encoding: 'utf8',
  })
  if (error !== undefined)
    return { absent: `there is no C compiler ${compiler} (${error.message}); install one, or name it by CC` }
  if (status !== 0) return { absent: `${compiler} does not compile ${source}:\n${stderr.trim()}` }
  return { path: program }
}

/** The command of a program that is there. */
export function cCommand(name: CProgram): string[] {
  const found = cProgram(name)
  if ('absent' in found) throw new Error(found.absent)
  return [found.path]
}

/** Why there is none, or null. */
export function cAbsent(name: CProgram): string | null {
  const found = cProgram(name)
  return 'absent' in found ? found.absent : null
}
