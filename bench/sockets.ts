/** Paths of Unix sockets. */
import { join } from 'node:path'
import { scratchDirectory } from './scratch.js'

let given = 0

/** A path where there is no socket yet; no two are alike. */
export function socketPath(name: string): string {
  given += 1
  return join(scratchDirectory(), `${given}-${name}.sock`)
}
