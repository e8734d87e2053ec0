// @ts-check
// What must be installed before anything can be built: each thing that is missing or too old, in one line.
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'
import { minimumRust, ROOT } from './project.mjs'

/**
 * What `command` prints, or null when it is missing or fails.
 * @param {string} command
 * @param {readonly string[]} args
 */
export function outputOf(command, args) {
  const result = spawnSync(command, args, {
    cwd: ROOT,
    encoding: 'utf8',
    stdio: ['ignore', 'pipe', 'ignore'],
  })
  return result.status === 0 ? result.stdout : null
}

/**
 * @param {string} found
 * @param {string} wanted
 */
function isOlder(found, wanted) {
  const [a, b] = [found, wanted].map((version) => version.split('.').map(Number))
  for (let i = 0; i < 3; i++) {
    const difference = (a?.[i] ?? 0) - (b?.[i] ?? 0)
    if (difference !== 0) return difference < 0
  }
  return false
}

function rustProblem() {
  const wanted = minimumRust()
  const install = 'install it from https://rustup.rs'
  for (const command of ['cargo', 'rustc']) {
    const found = /(\d+\.\d+\.\d+)/.exec(outputOf(command, ['--version']) ?? '')?.[1]
    if (!found) {
      const unused = join(homedir(), '.cargo', 'bin', command)
      const remedy = existsSync(unused)
        ? `${unused} exists: put its directory on PATH, or run: rustup default stable`
        : install
      return `shardloop needs Rust ${wanted} or newer (${command} not found): ${remedy}`
    }
    if (isOlder(found, wanted)) {
      return `shardloop needs Rust ${wanted} or newer (found ${found}): ${outputOf('rustup', ['--version']) ? 'run: rustup update stable' : install}`
    }
  }
  return null
}

function compilerProblem() {
  if (process.platform === 'darwin') {
    return outputOf('xcode-select', ['-p'])
      ? null
      : 'shardloop needs a C compiler and linker (cc not found): run: xcode-select --install'
  }
  // Rust links by `cc` unless it was told to use another linker.
  if (
    Object.keys(process.env).some((name) => /^CARGO_TARGET_.*_LINKER$/.test(name)) ||
    outputOf('cc', ['--version'])
  )
    return null
  return 'shardloop needs a C compiler and linker (cc not found): install gcc or clang, for example: apt-get install build-essential'
}

/** The npm that runs this script, else the one on PATH. @returns {[command: string, ...args: string[]]} */
export function npmCommand() {
  const running = process.env['npm_execpath']
  return running && /npm-cli\.c?js$/.test(running) ? [process.execPath, running] : ['npm']
}

function npmProblem() {
  const [command, ...args] = npmCommand()
  return outputOf(command, [...args, '--version'])
    ? null
    : 'shardloop needs npm (not found): it comes with Node.js, https://nodejs.org'
}

/**
 * One line for each thing that is missing or too old; empty when all is well.
 * @param {{ npm: boolean, rust: boolean }} needed
 */
export function toolchainProblems({ npm, rust }) {
  const problems = []
  if (npm) problems.push(npmProblem())
  if (rust) problems.push(rustProblem(), compilerProblem())
  return problems.filter((problem) => problem !== null)
}
