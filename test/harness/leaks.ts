import { once } from 'node:events'
import { existsSync, readdirSync, readlinkSync } from 'node:fs'
import { createServer } from 'node:net'
import { startWatchdog } from './watchdog.js'

const DESCRIPTORS = '/proc/self/fd'
/** How long a process may live on after its last test; it has nothing left to do. */
const END_TIMEOUT_MS = 10_000

let before: { descriptors: Map<string, string>; resources: string[] } | undefined

/** Takes stock before the first test of this process; later calls do nothing. */
export async function takeStock(): Promise<void> {
  if (before !== undefined) return
  // What Node itself opens once and keeps: its streams, the pipe that signals travel through, and the descriptor
  // that libuv reserves with its first socket.
  process.stdout.write('')
  process.stderr.write('')
  const ignore = (): void => {}
  process.on('SIGUSR2', ignore)
  process.off('SIGUSR2', ignore)
  const warmUp = createServer().listen(0, '127.0.0.1')
  await once(warmUp, 'listening')
  warmUp.close()
  await once(warmUp, 'close')
  await startWatchdog()
  // The watchdog's thread opens its last descriptors some turns after it came online.
  await new Promise((resolve) => setTimeout(resolve, 20))
  before = { descriptors: openDescriptors(), resources: process.getActiveResourcesInfo() }
  process.once('beforeExit', () => reportLeaks())
}

/** To be called after the last test of this process: from now on it has to end by itself, leaving nothing. */
export function expectEnd(): void {
  setTimeout(() => {
    console.error(
      `\nThe process does not end by itself; it still has ${process.getActiveResourcesInfo().join(', ')}`,
    )
    reportLeaks()
    process.exit(1)
  }, END_TIMEOUT_MS).unref()
}

/** How many descriptors this process may have open; Node raises its limit as far as the system lets it. */
export function descriptorLimit(): number {
  const report = process.report.getReport() as unknown as {
    userLimits?: { open_files?: { soft?: number | string } }
  }
  const limit = report.userLimits?.open_files?.soft
  return typeof limit === 'number' ? limit : Number.POSITIVE_INFINITY
}

/** The descriptors that this process has open, with what they refer to; empty where the system does not tell (macOS). */
export function openDescriptors(): Map<string, string> {
  const open = new Map<string, string>()
  if (!existsSync(DESCRIPTORS)) return open
  for (const descriptor of readdirSync(DESCRIPTORS)) {
    try {
      open.set(descriptor, readlinkSync(`${DESCRIPTORS}/${descriptor}`))
    } catch {
      // The descriptor of this very directory listing is closed by now.
    }
  }
  return open
}

/** How many threads this process has. Linux only. */
export function threadCount(): number {
  return readdirSync('/proc/self/task').length
}

function reportLeaks(): void {
  if (before === undefined) return
  const left = [...openDescriptors()].filter(
    ([descriptor, target]) => before?.descriptors.get(descriptor) !== target,
  )
  if (left.length > 0) {
    console.error(
      `\nLeft open: ${left.map(([descriptor, target]) => `${descriptor} → ${target}`).join(', ')}`,
    )
    process.exitCode = 1
  }
  // An immediate is no leak: the loop runs it and ends. One that some library set last is there at times.
  const resources = process.getActiveResourcesInfo().filter((name) => name !== 'Immediate')
  for (const known of before.resources) {
    const at = resources.indexOf(known)
    if (at >= 0) resources.splice(at, 1)
  }
  if (resources.length > 0) {
    console.error(`\nLeft active: ${resources.join(', ')}`)
    process.exitCode = 1
  }
}
