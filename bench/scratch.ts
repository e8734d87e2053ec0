/** A directory for what a benchmark needs while it runs, made when it is asked for and removed when this process ends. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

let directory: string | null = null

/** Its path, the same each time. */
export function scratchDirectory(): string {
  if (directory === null) {
    const made = mkdtempSync(join(tmpdir(), 'shardloop-bench-'))
    process.once('exit', () => rmSync(made, { recursive: true, force: true }))
    directory = made
  }
  return directory
}
