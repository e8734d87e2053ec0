// @ts-check
// Whether a build step's inputs changed since it last succeeded, by content: `build/.stamp-NAME.json` keeps the hash.
import { createHash } from 'node:crypto'
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { path, ROOT } from './project.mjs'

/**
 * Files below a directory, as sorted absolute paths; none when it does not exist.
 * @param {string} directory
 * @param {(name: string) => boolean} [skipDirectory]
 * @returns {string[]}
 */
export function filesBelow(directory, skipDirectory = () => false) {
  /** @type {string[]} */
  const found = []
  /** @param {string} current */
  const visit = (current) => {
    for (const entry of readdirSync(current, { withFileTypes: true })) {
      const full = join(current, entry.name)
      if (!entry.isDirectory()) found.push(full)
      else if (!skipDirectory(entry.name)) visit(full)
    }
  }
  try {
    visit(directory)
  } catch (error) {
    if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ENOENT') throw error
  }
  return found.sort()
}

/**
 * Hash over names and contents; a file that is missing counts as such.
 * @param {readonly string[]} files absolute paths
 * @param {...string} extra whatever else the result depends on
 */
export function hashInputs(files, ...extra) {
  const hash = createHash('sha256')
  for (const text of extra) hash.update(`${text}\0`)
  for (const file of files) {
    hash.update(`${relative(ROOT, file)}\0`)
    try {
      hash.update(readFileSync(file))
    } catch (error) {
      if (/** @type {NodeJS.ErrnoException} */ (error).code !== 'ENOENT') throw error
      hash.update('missing')
    }
    hash.update('\0')
  }
  return hash.digest('hex')
}

/** @param {string} name */
function stampFile(name) {
  return path('build', `.stamp-${name}.json`)
}

/**
 * @param {string} name
 * @returns {{ hash?: string, outputs?: string[] }} what was written last, empty when there is nothing usable
 */
export function readStamp(name) {
  try {
    const stamp = JSON.parse(readFileSync(stampFile(name), 'utf8'))
    return typeof stamp === 'object' && stamp !== null ? stamp : {}
  } catch {
    // Missing or cut short: the step runs again, which is always right.
    return {}
  }
}

/**
 * @param {string} name
 * @param {{ hash: string, outputs?: readonly string[] }} stamp
 */
export function writeStamp(name, stamp) {
  mkdirSync(path('build'), { recursive: true })
  writeFileSync(stampFile(name), `${JSON.stringify(stamp)}\n`)
}
