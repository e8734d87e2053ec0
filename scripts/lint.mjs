// @ts-check
// npm run lint: formatting and lint rules of both languages, types, and that the generated files in src/native are
// what the Rust sources generate. Everything is checked, then what failed is named.
import { existsSync, readFileSync } from 'node:fs'
import { ended, startGroup } from './lib/child-process-groups.mjs'
import { cargoLocked, prepare } from './lib/prepare.mjs'
import { path, ROOT, readText } from './lib/project.mjs'
import { outputOf } from './lib/toolchain.mjs'

/** @type {string[]} */
const failed = []
/** @type {string[]} */
const skipped = []
/** Stands for the system that this is not. */
const OTHER_TARGET = process.platform === 'darwin' ? 'x86_64-unknown-linux-gnu' : 'aarch64-apple-darwin'

await prepare({ native: false, typescript: false, cargo: true })
const biome = path('node_modules', '@biomejs', 'biome', 'bin', 'biome')
// Biome colours its output in CI even when it is not a terminal.
const colours = process.stdout.isTTY ? [] : ['--colors=off']
const tsc = path('node_modules', 'typescript', 'bin', 'tsc')
await check('biome', process.execPath, [biome, 'ci', '--error-on-warnings', ...colours, '.'])
await check('types', process.execPath, [tsc, '--noEmit', '-p', path('tsconfig.json')])
await check('types of scripts', process.execPath, [tsc, '-p', path('scripts', 'tsconfig.json')])
if (hasComponent('rustfmt', ['fmt', '--version'])) {
  await check('rustfmt', 'cargo', ['fmt', '--all', '--check'])
}
if (hasComponent('clippy', ['clippy', '--version'])) {
  const args = ['clippy', '--workspace', '--all-targets', '--target-dir', path('target'), ...cargoLocked()]
  await check('clippy', 'cargo', [...args, '--', '-D', 'warnings'])
  const ring = ['-p', 'shardloop-native', '--lib', '--tests', '--no-default-features', '--features', 'ring']
  const ringArgs = [
    'clippy',
    ...ring,
    '--target-dir',
    path('target'),
    ...cargoLocked(),
    '--',
    '-D',
    'warnings',
  ]
  await check('clippy with ring', 'cargo', ringArgs)
  // Nothing is linked, so the code of the other system is checked without its tools.
  if (hasTarget(OTHER_TARGET)) {
    const other = [...args, ...withoutCryptography(), '--target', OTHER_TARGET, '--', '-D', 'warnings']
    await check(`clippy for ${OTHER_TARGET}`, 'cargo', other)
  }
}
await checkBinding()
// The constants' drift test lies beside the layout that generates them.
const abiTests = [
  '-p',
  'shardloop-native',
  '--lib',
  '--target-dir',
  path('target'),
  ...cargoLocked(),
  '--',
  'abi',
]
await check('src/native/abi.ts is what native/src/abi.rs generates', 'cargo', ['test', ...abiTests])

for (const text of skipped) console.log(`lint: NOT CHECKED: ${text}`)
for (const name of failed) console.log(`lint: FAILED: ${name}`)
if (failed.length === 0) console.log('lint: ok')
process.exit(failed.length === 0 ? 0 : 1)

/**
 * @param {string} name
 * @param {string} command
 * @param {readonly string[]} args
 */
async function check(name, command, args) {
  console.log(`lint: ${name} …`)
  const { code } = await ended(
    startGroup(command, args, { cwd: ROOT, stdio: ['ignore', 'inherit', 'inherit'] }),
  )
  if (code !== 0) failed.push(name)
}

/**
 * What stands for the build of aws-lc-sys, which would need the other system's C compiler: of its bindings the ones in Rust that are
 * for all systems, and no library. (Cargo's manual, "Overriding build scripts".)
 * @returns {string[]}
 */
function withoutCryptography() {
  const version = /name = "aws-lc-sys"\nversion = "([^"]+)"/.exec(readText('Cargo.lock'))?.[1]
  if (version === undefined) return []
  const links = `target.${OTHER_TARGET}.aws_lc_${version.replaceAll('.', '_')}`
  return ['rustc-cfg=["universal"]', 'include=""', 'libcrypto="crypto"', 'conf=""'].flatMap((setting) => [
    '--config',
    `${links}.${setting}`,
  ])
}

/**
 * Whether cargo has the component; rustup's minimal profile has neither rustfmt nor clippy.
 * @param {string} name
 * @param {readonly string[]} args
 */
function hasComponent(name, args) {
  const found = outputOf('cargo', args) !== null
  if (!found) skipped.push(`${name} is not installed (rustup component add ${name})`)
  return found
}

/**
 * Whether the compiler has a standard library for the target, which is not the one that it runs on.
 * @param {string} target
 */
function hasTarget(target) {
  const directory = outputOf('rustc', ['--print', 'target-libdir', '--target', target])?.trim()
  const found = directory !== undefined && directory !== '' && existsSync(directory)
  if (!found)
    skipped.push(`code for ${target}: it has no standard library here (rustup target add ${target})`)
  return found
}

/** The build overwrites a stale binding.d.ts, so what was there before the build is what counts. */
async function checkBinding() {
  const name = 'src/native/binding.d.ts is what the addon generates'
  console.log(`lint: ${name} …`)
  const before = readOrNull(path('src', 'native', 'binding.d.ts'))
  const { code } = await ended(
    startGroup(process.execPath, [path('scripts', 'build.mjs'), '--native'], {
      cwd: ROOT,
      stdio: ['ignore', 'inherit', 'inherit'],
    }),
  )
  if (code !== 0) failed.push('native build')
  else if (before === null || before !== readOrNull(path('build', 'binding.d.ts'))) {
    console.log('lint: src/native/binding.d.ts was stale and has been written anew')
    failed.push(name)
  }
}

/** @param {string} file */
function readOrNull(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return null
  }
}
