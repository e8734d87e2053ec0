/** Compiles what is written in C, the peers (bench/peers/NAME.c) and a test's addon, when it is first needed or has changed. */
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from './load.js'

/** The peers in C. */
export type CProgram = 'udp-echo' | 'broadcast'

/** The path of what was compiled, or why there is none. */
export type Compiled = { readonly path: string } | { readonly absent: string }

/** The path of the program, or why there is none. `compiler` is what compiles it. */
export function cProgram(
  name: CProgram,
  compiler?: string,
  program: string = join(ROOT, 'target', 'bench-peers', name),
): Compiled {
  if (process.platform !== 'linux') return { absent: 'it is written for Linux' }
  return compileC(join(ROOT, 'bench', 'peers', `${name}.c`), program, { compiler })
}

/** Compiles one source to one output, unless that is newer. */
export function compileC(
  source: string,
  output: string,
  {
    compiler = process.env['CC'] ?? 'cc',
    flags = [],
  }: { readonly compiler?: string | undefined; readonly flags?: readonly string[] } = {},
): Compiled {
  if (existsSync(output) && statSync(output).mtimeMs >= statSync(source).mtimeMs) return { path: output }
  mkdirSync(dirname(output), { recursive: true })
  const { error, status, stderr } = spawnSync(compiler, ['-O2', '-Wall', ...flags, '-o', output, source], {
    encoding: 'utf8',
  })
  if (error !== undefined)
    return { absent: `there is no C compiler ${compiler} (${error.message}); install one, or name it by CC` }
  if (status !== 0) return { absent: `${compiler} does not compile ${source}:\n${stderr.trim()}` }
  return { path: output }
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
