// @ts-check
// The newest Node.js, which test/runtimes pins as an npm package with its binary, for the tests that run on it too.
import { existsSync } from 'node:fs'
import { path } from './project.mjs'

/**
 * Path of the newest Node.js; null when no package has one for this platform, or it was not installed.
 * @returns {string | null}
 */
export function newestNode() {
  const binary = path(
    'test',
    'runtimes',
    'node_modules',
    `node-${process.platform}-${process.arch}`,
    'bin',
    'node',
  )
  return existsSync(binary) ? binary : null
}
