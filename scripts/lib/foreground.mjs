// @ts-check
// Runs the program that a script stands for, in the foreground: it gets each signal once, its exit code is the script's,
// and nothing of it outlives the script.
import { fileURLToPath } from 'node:url'
import { ENDING_SIGNALS, ended, signalExitCode, signalGroup, startGroup } from './child-process-groups.mjs'
import { ROOT } from './project.mjs'

/** The same signal again within this time is the same key press: a terminal sends it, and npm repeats it. */
const REPEATED_SIGNAL_MS = 200

/**
 * Runs a compiled module that is a server.
 * @param {string} entry
 * @param {readonly string[]} args
 * @param {object} [options]
 * @param {(line: string) => void} [options.onFirstLine] gets the first line of standard output after it was printed
 * @returns {Promise<never>} ends the process as the server ended
 */
export async function runServer(entry, args, { onFirstLine } = {}) {
  // Descriptor 3 is a pipe that closes with this process: end-with-parent.cjs watches it in the server.
  const watcher = fileURLToPath(new URL('./end-with-parent.cjs', import.meta.url))
  return run(process.execPath, ['--require', watcher, entry, ...args], ['pipe'], onFirstLine)
}

/**
 * Runs any other program.
 * @param {string} command
 * @param {readonly string[]} args
 * @returns {Promise<never>} ends the process as the program ended
 */
export async function runProgram(command, args) {
  return run(command, args, [], undefined)
}

/**
 * @param {string} command
 * @param {readonly string[]} args
 * @param {readonly 'pipe'[]} pipes descriptors beyond the standard ones
 * @param {((line: string) => void) | undefined} onFirstLine
 * @returns {Promise<never>}
 */
async function run(command, args, pipes, onFirstLine) {
  const child = startGroup(command, args, {
    cwd: ROOT,
    stdio: ['inherit', onFirstLine ? 'pipe' : 'inherit', 'inherit', ...pipes],
    forwardSignals: false,
  })
  /** @type {Map<NodeJS.Signals, number>} */
  const lastSent = new Map()
  for (const signal of ENDING_SIGNALS) {
    process.on(signal, () => {
      const now = performance.now()
      if (now - (lastSent.get(signal) ?? Number.NEGATIVE_INFINITY) < REPEATED_SIGNAL_MS) return
      lastSent.set(signal, now)
      child.kill(signal)
    })
  }
  const printed = onFirstLine && child.stdout ? passOutput(child.stdout, onFirstLine) : undefined
  const { code, signal } = await ended(child)
  signalGroup(child, 'SIGKILL')
  await printed
  process.exit(signal ? signalExitCode(signal) : (code ?? 1))
}

/**
 * @param {import('node:stream').Readable} output
 * @param {(line: string) => void} onFirstLine
 * @returns {Promise<void>} resolves when all has been passed on
 */
function passOutput(output, onFirstLine) {
  /** @type {Buffer[]} */
  let head = []
  output.on('data', (/** @type {Buffer} */ chunk) => {
    process.stdout.write(chunk)
    if (head.push(chunk) && chunk.includes(10)) {
      output.removeAllListeners('data')
      output.on('data', (/** @type {Buffer} */ rest) => process.stdout.write(rest))
      onFirstLine(Buffer.concat(head).toString('utf8').split('\n', 1)[0] ?? '')
      head = []
    }
  })
  return new Promise((resolve) => output.once('close', resolve))
}
