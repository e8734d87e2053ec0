/** Says that a test cannot run here, by the line that the summary of all tests repeats. */
export function tellSkipped(suite: string, name: string, reason: string): void {
  console.log(`skipped: ${suite}: ${name}: ${reason}`)
}

/** What skips a test that cannot run here; its name and the reason are printed. */
export function skipIn(
  suite: string,
  tests: { skip(name: string): void },
): (name: string, reason: string) => void {
  return (name, reason) => {
    tellSkipped(suite, name, reason)
    tests.skip(name)
  }
}
