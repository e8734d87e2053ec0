import { Worker } from 'node:worker_threads'

/**
 * Ends the process when its main thread is stuck: a timer of the thread itself would never fire then.
 * Runs on a thread of its own that sleeps in Atomics.wait.
 */
const SOURCE = `
const { workerData } = require('node:worker_threads')
const { writeSync } = require('node:fs')
const control = new Int32Array(workerData.memory, 0, 3)
for (;;) {
  const armed = Atomics.load(control, 0)
  const timeoutMs = Atomics.load(control, 1)
  if (Atomics.wait(control, 0, armed, timeoutMs === 0 ? Infinity : timeoutMs) !== 'timed-out') continue
  const label = Buffer.from(new Uint8Array(workerData.memory, 12, Atomics.load(control, 2))).toString()
  writeSync(2, '\\nwatchdog: the thread of the tests is stuck after ' + timeoutMs + ' ms in "' + label + '"\\n')
  process.kill(process.pid, 'SIGKILL')
}
`
const LABEL_BYTES_MAX = 500
const memory = new SharedArrayBuffer(12 + LABEL_BYTES_MAX)
const control = new Int32Array(memory, 0, 3)
let started: Promise<void> | undefined

/** Starts the thread; resolves when its descriptors are open, so that they count as there from the start. */
export function startWatchdog(): Promise<void> {
  started ??= new Promise((resolve, reject) => {
    const worker = new Worker(SOURCE, { eval: true, workerData: { memory } })
    worker.once('online', () => {
      worker.unref()
      resolve()
    })
    worker.once('error', reject)
  })
  return started
}

/** The process is killed with a message that holds `label`, unless armed again or disarmed (0) within `timeoutMs`. */
export function armWatchdog(timeoutMs: number, label = ''): void {
  const { written } = new TextEncoder().encodeInto(label, new Uint8Array(memory, 12))
  Atomics.store(control, 1, timeoutMs)
  Atomics.store(control, 2, written)
  Atomics.add(control, 0, 1)
  Atomics.notify(control, 0)
}
