/** The Node.js that runs the tests, and the newest where it is installed, with what a test's name says of each. */
export const runtimes: readonly (readonly [suffix: string, command: string])[] = [
  ['', process.execPath],
  ...(process.env['SHARDLOOP_NEWEST_NODE'] === undefined
    ? []
    : [[' on the newest Node', process.env['SHARDLOOP_NEWEST_NODE']] as const]),
]

/** Path of the newest Node.js, or undefined. */
export const newestNode: string | undefined = process.env['SHARDLOOP_NEWEST_NODE']
