/** How a program of ours says that this build has not what it needs; see `unavailable.ts`. */

/** Its exit code, EX_UNAVAILABLE of sysexits.h. */
export const UNAVAILABLE_EXIT_CODE = 69

/** Ends this process: says what is not there, in one line. */
export function endUnavailable(reason: string): never {
  process.stderr.write(`${reason}\n`)
  process.exit(UNAVAILABLE_EXIT_CODE)
}
