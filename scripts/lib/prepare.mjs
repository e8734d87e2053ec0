// @ts-check
// Brings everything that a command needs up to date: packages, the native addon, the compiled TypeScript, the load
// generator. Only what changed is done, each step says what it does and how long it took, and all of it goes to
// stderr, so that standard output belongs to the command.
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { lockBuild } from './build-lock.mjs'
import { ended, startGroup } from './child-process-groups.mjs'
import { benchCrates, LOADGEN, path, ROOT, readText } from './project.mjs'
import { newestNode } from './runtimes.mjs'
import { filesBelow, hashInputs, readStamp, writeStamp } from './stamps.mjs'
import { npmCommand, outputOf, toolchainProblems } from './toolchain.mjs'

/**
 * @typedef {object} Step
 * @property {string} name of its stamp
 * @property {string} doing what it prints while it runs
 * @property {'npm' | 'rust' | 'none'} needs
 * @property {() => string} inputs hash of everything the result depends on
 * @property {() => boolean} hasOutputs whether what it made is still there
 * @property {() => boolean} [isDoneAlready] whether somebody did it by other means, which then gets a stamp without `run`
 * @property {() => Promise<string[] | void>} run the outputs, when `hasOutputs` needs their names
 */

/** Thrown by a step that failed after its tool said why. */
class StepFailure extends Error {}

/**
 * Runs a tool; what it prints goes to stderr.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {string} [cwd]
 * @param {Record<string, string>} [env] added to the environment
 */
async function runTool(command, args, cwd = ROOT, env = {}) {
  const child = startGroup(command, args, { cwd, env: { ...process.env, ...env }, stdio: ['ignore', 2, 2] })
  const { code, signal } = await ended(child).catch((error) => {
    throw new StepFailure(`${command} could not be started: ${error.message}`)
  })
  if (code !== 0) {
    const how = signal ? `was ended by ${signal}` : `failed with exit code ${code}`
    throw new StepFailure(
      `${[command, ...args].map((word) => relative(ROOT, word) && word.replace(ROOT, '')).join(' ')} ${how}`,
    )
  }
}

/** `--locked`, so that a build never changes Cargo.lock behind one's back. */
export function cargoLocked() {
  return existsSync(path('Cargo.lock')) ? ['--locked'] : []
}

/**
 * Whether node_modules holds what package-lock.json says, by npm's own record of the last installation. So a manual
 * `npm ci` or `npm install` counts as well.
 * @param {string} directory below the root, '' for the root itself
 */
function isInstalled(directory) {
  try {
    const wanted = JSON.parse(readText(directory, 'package-lock.json')).packages
    const installed = JSON.parse(readText(directory, 'node_modules', '.package-lock.json')).packages
    return Object.keys(wanted).every((name) => {
      if (name === '') return true
      const entry = installed[name]
      // Optional packages for other platforms are left out.
      return entry ? entry.integrity === wanted[name].integrity : wanted[name].optional === true
    })
  } catch {
    return false
  }
}

/** @param {string} cwd */
async function installPackages(cwd) {
  const [command, ...args] = npmCommand()
  const flags = [
    '--ignore-scripts',
    '--no-audit',
    '--no-fund',
    '--loglevel=error',
    '--include=dev',
    '--include=optional',
  ]
  await runTool(command, [...args, 'ci', ...flags], cwd)
}

/** @type {Step} */
const packagesStep = {
  name: 'packages',
  doing: 'installing npm packages',
  needs: 'npm',
  inputs: () => hashInputs([path('package-lock.json')], process.platform, process.arch),
  hasOutputs: () => existsSync(path('node_modules', '.package-lock.json')),
  isDoneAlready: () => isInstalled(''),
  run: () => installPackages(ROOT),
}

/** @type {Step} */
const runtimesStep = {
  name: 'runtimes',
  doing: 'installing the newest Node.js and a Chromium for tests',
  needs: 'npm',
  inputs: () => hashInputs([path('test', 'runtimes', 'package-lock.json')], process.platform, process.arch),
  hasOutputs: () => existsSync(path('test', 'runtimes', 'node_modules')),
  isDoneAlready: () => isInstalled('test/runtimes'),
  run: async () => {
    await installPackages(path('test', 'runtimes'))
    mkdirSync(path('test', 'runtimes', 'node_modules'), { recursive: true })
    const node = newestNode()
    if (node && !outputOf(node, ['--version'])) {
      process.stderr.write('prepare: the newest Node.js does not run on this system\n')
      rmSync(node)
    }
  },
}

const NATIVE_OUTPUT = /^shardloop\..+\.node$/

/** @type {Step} */
const nativeStep = {
  name: 'native',
  doing: 'building the native addon (Rust, release)',
  needs: 'rust',
  inputs: () => {
    const files = ['Cargo.toml', 'Cargo.lock', 'rust-toolchain.toml', '.cargo/config.toml'].map((name) =>
      path(name),
    )
    files.push(...filesBelow(path('native'), (name) => name === 'target'))
    const cli = JSON.parse(readText('package-lock.json')).packages['node_modules/@napi-rs/cli'].version
    return hashInputs(
      files,
      process.platform,
      process.arch,
      cli,
      JSON.stringify(JSON.parse(readText('package.json')).napi),
    )
  },
  hasOutputs: () => {
    const outputs = readStamp('native').outputs ?? []
    return outputs.length > 0 && outputs.every((name) => existsSync(path('build', name)))
  },
  run: async () => {
    // Built aside and renamed: to overwrite a library that a running server has mapped would crash that server.
    const staging = path('build', '.native')
    rmSync(staging, { recursive: true, force: true })
    const cli = path('node_modules', '@napi-rs', 'cli', 'dist', 'cli.js')
    const args = ['--platform', '--release', '--no-js', '--dts', 'binding.d.ts', '--output-dir', staging]
    args.push('--manifest-path', path('native', 'Cargo.toml'), '--package-json-path', path('package.json'))
    await runTool(process.execPath, [
      cli,
      'build',
      ...args,
      '--target-dir',
      path('target'),
      '--',
      ...cargoLocked(),
    ])
    const outputs = readdirSync(staging).filter((name) => NATIVE_OUTPUT.test(name))
    if (outputs.length === 0) throw new StepFailure('napi build left no addon')
    for (const name of [...outputs, 'binding.d.ts']) renameSync(join(staging, name), path('build', name))
    rmSync(staging, { recursive: true })
    copyIfChanged(path('build', 'binding.d.ts'), path('src', 'native', 'binding.d.ts'))
    return outputs
  },
}

/** Set for the drift test of native/src/abi.rs, it makes the test write the file that it compares with. */
const WRITE_ABI = 'SHARDLOOP_WRITE_ABI'
const ABI_CONSTANTS = path('src', 'native', 'abi.ts')

/**
 * The constants are committed, and to generate them takes a debug build of the crate. So on a fresh clone they count as
 * what they should be (lint and the tests check that), and are generated when their source changes, or when asked for.
 * @param {boolean} generate
 * @returns {Step}
 */
function abiStep(generate) {
  return {
    name: 'abi',
    doing: 'generating src/native/abi.ts from native/src/abi.rs',
    needs: 'rust',
    inputs: () => hashInputs([path('native', 'src', 'abi.rs'), path('native', 'src', 'limits.rs')]),
    hasOutputs: () => existsSync(ABI_CONSTANTS) && (!generate || readStamp('abi').outputs !== undefined),
    isDoneAlready: () => !generate && readStamp('abi').hash === undefined && existsSync(ABI_CONSTANTS),
    run: async () => {
      const args = [
        'test',
        '-p',
        'shardloop-native',
        '--lib',
        '--target-dir',
        path('target'),
        ...cargoLocked(),
      ]
      await runTool('cargo', [...args, '--', 'abi'], ROOT, { [WRITE_ABI]: '1' })
      return [ABI_CONSTANTS]
    },
  }
}

/**
 * Leaves the time of an unchanged file alone.
 * @param {string} from
 * @param {string} to
 */
function copyIfChanged(from, to) {
  const content = readFileSync(from)
  if (existsSync(to) && readFileSync(to).equals(content)) return
  mkdirSync(dirname(to), { recursive: true })
  writeFileSync(to, content)
}

const TYPESCRIPT_ROOTS = ['src', 'examples', 'test', 'bench']

/** TypeScript sources, absolute. */
function typescriptSources() {
  const skip = (/** @type {string} */ name) =>
    name === 'node_modules' ||
    name === 'venv' ||
    name === 'runtimes' ||
    name === 'results' ||
    name === 'target'
  return TYPESCRIPT_ROOTS.flatMap((root) => filesBelow(path(root), skip)).filter((file) =>
    file.endsWith('.ts'),
  )
}

/**
 * Where a source's compiled form is; a declaration file has only itself.
 * @param {string} source
 */
function compiledFile(source) {
  const target = path('dist', relative(ROOT, source))
  return source.endsWith('.d.ts') ? target : `${target.slice(0, -'.ts'.length)}.js`
}

/** Removes what is left in dist/ of sources that are gone, so that neither a test nor an import finds it. */
function removeStaleOutputs() {
  for (const file of filesBelow(path('dist'))) {
    const source = path(relative(path('dist'), file))
    const stem = source.replace(/(\.d\.ts|\.js)(\.map)?$/, '')
    if (existsSync(source) || (stem !== source && existsSync(`${stem}.ts`))) continue
    rmSync(file)
    for (let directory = dirname(file); readdirSync(directory).length === 0; directory = dirname(directory)) {
      rmdirSync(directory)
    }
  }
}

/** @type {Step} */
const typescriptStep = {
  name: 'typescript',
  doing: 'compiling TypeScript',
  needs: 'none',
  inputs: () => hashInputs([path('tsconfig.json'), path('package-lock.json'), ...typescriptSources()]),
  hasOutputs: () => typescriptSources().every((source) => existsSync(compiledFile(source))),
  run: async () => {
    const buildInfo = path('build', 'tsconfig.tsbuildinfo')
    removeStaleOutputs()
    // An incremental compilation does not notice that an output was deleted.
    const { outputs = [] } = readStamp('typescript')
    if (
      !outputs.every(
        (name) =>
          existsSync(path(name)) || !existsSync(path(name.replace(/^dist\//, '').replace(/js$/, 'ts'))),
      )
    ) {
      rmSync(buildInfo, { force: true })
    }
    const compiler = path('node_modules', 'typescript', 'bin', 'tsc')
    const sources = typescriptSources()
    const outputsNow = sources.map((source) => relative(ROOT, compiledFile(source)))
    await runTool(process.execPath, [
      compiler,
      '-p',
      path('tsconfig.json'),
      '--incremental',
      '--tsBuildInfoFile',
      buildInfo,
    ])
    for (const source of sources) if (source.endsWith('.d.ts')) copyIfChanged(source, compiledFile(source))
    return outputsNow
  },
}

/** @type {Step} */
const loadgenStep = {
  name: 'loadgen',
  doing: 'building the load generator (Rust, release)',
  needs: 'rust',
  inputs: () => {
    const files = ['Cargo.toml', 'Cargo.lock', 'rust-toolchain.toml', '.cargo/config.toml'].map((name) =>
      path(name),
    )
    for (const crate of benchCrates()) files.push(...filesBelow(path(crate), (name) => name === 'target'))
    return hashInputs(files, process.platform, process.arch)
  },
  hasOutputs: () => existsSync(LOADGEN),
  run: () =>
    runTool('cargo', [
      ...['build', '--release', '--workspace', '--exclude', 'shardloop-native'],
      ...['--target-dir', path('target'), ...cargoLocked()],
    ]),
}

/**
 * @param {Step} step
 * @param {string} [hash] of its inputs
 */
function isUpToDate(step, hash = step.inputs()) {
  if (readStamp(step.name).hash === hash && step.hasOutputs()) return true
  if (!step.isDoneAlready?.()) return false
  writeStamp(step.name, { hash })
  return true
}

/**
 * @param {Step} step
 * @param {(line: string) => void} say
 */
async function bringUpToDate(step, say) {
  // Taken before the step runs: what is edited meanwhile counts as a change.
  const hash = step.inputs()
  if (isUpToDate(step, hash)) return
  say(`${step.doing} …`)
  const started = performance.now()
  const outputs = await step.run()
  writeStamp(step.name, outputs ? { hash, outputs } : { hash })
  say(`${step.doing}: done in ${((performance.now() - started) / 1000).toFixed(1)} s`)
}

/**
 * Brings what the caller needs up to date. When something is missing or fails, it says so in a line on stderr and ends
 * the process with exit code 1. When everything is up to date it prints nothing.
 * @param {object} [options]
 * @param {boolean} [options.native] build the addon (true)
 * @param {boolean} [options.typescript] compile to dist/ (true)
 * @param {boolean} [options.loadgen] build the load generator and the other benchmark programs (false)
 * @param {boolean} [options.runtimes] install the newest Node.js and a Chromium for tests (false)
 * @param {boolean} [options.cargo] the caller runs cargo itself afterwards, so it must be there (false)
 * @param {boolean} [options.generate] generate src/native/abi.ts anew unless that was done here before (false)
 * @param {boolean} [options.quiet] do not say which steps run; their tools still print (false)
 */
export async function prepare(options = {}) {
  const {
    native = true,
    typescript = true,
    loadgen = false,
    runtimes = false,
    cargo = false,
    generate = false,
    quiet = false,
  } = options
  const steps = [packagesStep]
  if (runtimes) steps.push(runtimesStep)
  if (native) steps.push(nativeStep, abiStep(generate))
  if (typescript) steps.push(typescriptStep)
  if (loadgen) steps.push(loadgenStep)

  const stale = steps.filter((step) => !isUpToDate(step))
  if (stale.length === 0 && !cargo) return
  const needs = (/** @type {string} */ what) => stale.some((step) => step.needs === what)
  const problems = toolchainProblems({ npm: needs('npm'), rust: cargo || needs('rust') })
  for (const problem of problems) process.stderr.write(`${problem}\n`)
  if (problems.length > 0) process.exit(1)
  if (stale.length === 0) return

  const say = (/** @type {string} */ line) => {
    if (!quiet) process.stderr.write(`prepare: ${line}\n`)
  }
  const release = await lockBuild(() => say('another command is building here, waiting for it …'))
  try {
    // Asked again for each step: the command that had the lock may have done it, or an earlier step changed its inputs.
    for (const step of steps) await bringUpToDate(step, say)
  } catch (error) {
    if (!(error instanceof StepFailure)) throw error
    process.stderr.write(`prepare: ${error.message}\n`)
    process.exit(1)
  } finally {
    await release()
  }
}
