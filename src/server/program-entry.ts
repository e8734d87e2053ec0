import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { ShardloopError } from '../errors.js'
import { testRunner, underRunner } from './test-runner.js'

/** The file that the process runs, `process.argv[1]`; null for `node -e`, standard input and the REPL. */
export function programEntry(): string | null {
  const evaluated = (process as { _eval?: unknown })._eval !== undefined
  const entry = process.argv[1]
  return evaluated || entry === undefined || entry === '' || entry === '-' ? null : resolve(entry)
}

/**
 * Refuses a factory in a program that the shards cannot run again.
 * @throws ShardloopError ERR_SHARDLOOP_START
 */
export function assertEntryRunsAgain(): void {
  const runner = testRunner()
  if (runner !== null) throw underRunner(runner)
  if (programEntry() !== null) return
  throw new ShardloopError(
    'ERR_SHARDLOOP_START',
    'createServer with a factory runs the program again in every shard, and this program has no file to run ' +
      '(node -e, standard input or the REPL). Give createServer the URL of a module whose default export is the ' +
      'factory, or use shards: 0',
  )
}

/**
 * URL of the module with tsx's `register`, when this process runs under tsx (`tsx`, `node --import tsx`, also by NODE_OPTIONS);
 * else null.
 */
export function tsxApi(): string | null {
  for (const loader of preloadedModules()) {
    if (!/(^|[\\/])tsx([\\/]|$)/.test(loader)) continue
    // The loader's own package, wherever it is installed (npx has its own place); a bare name is found from the
    // working directory, as Node finds it.
    const from = loader.startsWith('file:')
      ? fileURLToPath(loader)
      : isPath(loader)
        ? resolve(loader)
        : resolve('entry.js')
    return esmApi(createRequire(from).resolve('tsx/package.json'))
  }
  return null
}

/** Its file for `import`: the one for `require` cannot register in a worker. */
function esmApi(packageFile: string): string {
  const { exports } = JSON.parse(readFileSync(packageFile, 'utf8')) as TsxPackage
  return pathToFileURL(join(dirname(packageFile), exports['./esm/api'].import.default)).href
}

interface TsxPackage {
  readonly exports: { readonly './esm/api': { readonly import: { readonly default: string } } }
}

/** Arguments of `--import`, `--require` and `--loader`. */
function preloadedModules(): string[] {
  const flags = [...process.execArgv, ...(process.env['NODE_OPTIONS'] ?? '').split(/\s+/)]
  const modules: string[] = []
  flags.forEach((flag, index) => {
    const [, module] = /^(?:--import|--require|-r|--loader|--experimental-loader)(?:=(.*))?$/.exec(flag) ?? []
    if (module !== undefined) modules.push(module)
    else if (/^(--import|--require|-r|--loader|--experimental-loader)$/.test(flag))
      modules.push(flags[index + 1] ?? '')
  })
  return modules
}

function isPath(specifier: string): boolean {
  return specifier.startsWith('.') || specifier.startsWith('/')
}

/**
 * Node's own arguments for shards; undefined lets them inherit. A worker cannot start with `--input-type`, which comes
 * with `node -e`; then only those that concern modules are handed on, as workers refuse the process-wide ones.
 */
export function shardExecArgv(): string[] | undefined {
  if (!process.execArgv.some((flag) => flag.startsWith('--input-type'))) return undefined
  const kept: string[] = []
  process.execArgv.forEach((flag, index) => {
    const [name, value] = flag.split('=', 2)
    if (!HANDED_ON.has(name ?? '')) return
    kept.push(flag)
    if (value === undefined) kept.push(process.execArgv[index + 1] ?? '')
  })
  return kept
}

const HANDED_ON: ReadonlySet<string> = new Set([
  '--import',
  '--require',
  '-r',
  '--conditions',
  '-C',
  '--loader',
  '--experimental-loader',
])
