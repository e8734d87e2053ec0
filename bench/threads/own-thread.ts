/** The calling thread as the system knows it. */
import { readlinkSync } from 'node:fs'

/** Its number. A link is read by the very thread that asks. Linux only. */
export function ownThread(): string {
  return readlinkSync('/proc/thread-self').split('/').at(-1) as string
}
