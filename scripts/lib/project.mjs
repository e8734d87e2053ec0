// @ts-check
// Where things are, and what package.json and Cargo.toml say about the project.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'

/** The repository's root directory. */
export const ROOT = fileURLToPath(new URL('../../', import.meta.url))

/** @param {...string} parts path below the root */
export function path(...parts) {
  return join(ROOT, ...parts)
}

/** @param {...string} parts path of a text file below the root */
export function readText(...parts) {
  return readFileSync(path(...parts), 'utf8')
}

/** The oldest Rust the workspace compiles with, from Cargo.toml's `rust-version`. */
export function minimumRust() {
  const found = /^rust-version\s*=\s*"([\d.]+)"/m.exec(readText('Cargo.toml'))
  if (!found?.[1]) throw new Error('Cargo.toml states no rust-version')
  return found[1]
}

/** Directories of the workspace's crates other than the native addon: the benchmark and load test programs. */
export function benchCrates() {
  const found = /^members\s*=\s*\[([^\]]*)\]/m.exec(readText('Cargo.toml'))
  return [...(found?.[1] ?? '').matchAll(/"([^"]+)"/g)]
    .map((match) => String(match[1]))
    .filter((name) => name !== 'native')
}

/** Path of the load generator, there after `prepare({ loadgen: true })`. */
export const LOADGEN = path('target', 'release', 'loadgen')
