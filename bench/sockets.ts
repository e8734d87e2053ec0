/** Paths of Unix sockets, in a directory that is made when the first one is asked for and removed when this process ends. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

let directory: string | null = null
let given = 0

/** A path where there is no socket yet; no two are alike. */
export function socketPath(name: string): string {
  if (directory === null) {
    const made = mkdtempSync(join(tmpdir(), 'shardloop-bench-'))
    process.once('exit', () => rmSync(made, { recursive: true, force: true }))
    directory = made
  }
  given += 1
  return join(directory, `${given}-${name}.sock`)
}
