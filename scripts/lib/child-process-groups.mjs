// @ts-check
// Child processes of the scripts. Each one leads its own process group, so that a terminal's Ctrl-C (which reaches a
// whole group, and which npm then forwards once more) comes to the script alone, and so that a child can be ended
// together with everything it started.
import { spawn } from 'node:child_process'
import { constants } from 'node:os'

/** @typedef {import('node:child_process').ChildProcess} ChildProcess */

/** @type {Set<ChildProcess>} */
const running = new Set()

/** Signals that end a script; its children get them too. */
export const ENDING_SIGNALS = /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])

/**
 * Sends `signal` to every process in the group that `child` leads; a group that is gone is no error.
 * @param {ChildProcess} child
 * @param {NodeJS.Signals} signal
 */
export function signalGroup(child, signal) {
  if (child.pid === undefined) return
  try {
    process.kill(-child.pid, signal)
  } catch (error) {
    // EPERM is what macOS answers for a group of which only zombies are left.
    const { code } = /** @type {NodeJS.ErrnoException} */ (error)
    if (code !== 'ESRCH' && code !== 'EPERM') throw error
  }
}

/**
 * The exit code a shell reports for a process that `signal` ended.
 * @param {NodeJS.Signals} signal
 */
export function signalExitCode(signal) {
  return 128 + constants.signals[signal]
}

/** @param {NodeJS.Signals} signal */
function endWithChildren(signal) {
  for (const child of running) signalGroup(child, signal)
  process.exit(signalExitCode(signal))
}

/**
 * Starts a child as the leader of a process group. While it runs, a signal that ends this script is passed on to the
 * group and ends the script, unless `forwardSignals` is false because the caller does that itself.
 * @param {string} command
 * @param {readonly string[]} args
 * @param {import('node:child_process').SpawnOptions & { forwardSignals?: boolean }} [options]
 * @returns {ChildProcess}
 */
export function startGroup(command, args, { forwardSignals = true, ...options } = {}) {
  const child = spawn(command, args, { ...options, detached: true })
  if (forwardSignals) {
    if (running.size === 0) for (const signal of ENDING_SIGNALS) process.on(signal, endWithChildren)
    running.add(child)
    const ended = () => {
      if (!running.delete(child) || running.size > 0) return
      for (const signal of ENDING_SIGNALS) process.off(signal, endWithChildren)
    }
    child.once('exit', ended)
    child.once('error', ended)
  }
  return child
}

/**
 * Resolves when the child has ended; rejects when it could not be started.
 * @param {ChildProcess} child
 * @returns {Promise<{ code: number | null, signal: NodeJS.Signals | null }>}
 */
export function ended(child) {
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('exit', (code, signal) => resolve({ code, signal }))
  })
}
