// @ts-check
// One build at a time per checkout. The lock is a listening Unix socket: the kernel takes it away with the process
// that holds it, however that one ends, and whoever waits for it is woken by the end of its connection.
import { createHash } from 'node:crypto'
import { unlinkSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ROOT } from './project.mjs'

const name = `shardloop-build-${createHash('sha256').update(ROOT).digest('hex').slice(0, 16)}`
const abstract = process.platform === 'linux'
const address = abstract ? `\0${name}` : join(tmpdir(), name)

/** @returns {Promise<(() => Promise<void>) | null>} releases the lock; null when somebody else holds it */
function tryLock() {
  return new Promise((resolve, reject) => {
    /** @type {Set<import('node:net').Socket>} */
    const waiting = new Set()
    const server = createServer((socket) => {
      waiting.add(socket)
      socket.on('error', () => socket.destroy())
      socket.on('close', () => waiting.delete(socket))
      socket.unref()
    })
    server.once('error', (/** @type {NodeJS.ErrnoException} */ error) => {
      if (error.code === 'EADDRINUSE') resolve(null)
      else reject(error)
    })
    server.listen(address, () => {
      server.unref()
      resolve(
        () =>
          new Promise((released) => {
            server.close(() => released())
            for (const socket of waiting) socket.destroy()
          }),
      )
    })
  })
}

/** Resolves when the holder has let go; false when there is nobody behind the address. */
function holderGone() {
  return new Promise((/** @type {(wasHeld: boolean) => void} */ resolve) => {
    let wasHeld = false
    const socket = connect(address, () => {
      wasHeld = true
    })
    socket.on('error', () => socket.destroy())
    socket.on('close', () => resolve(wasHeld))
    socket.resume()
  })
}

/**
 * Waits until no other script builds in this checkout, and takes the lock.
 * @param {() => void} [onWait] called once when there is something to wait for
 * @returns {Promise<() => Promise<void>>} releases it
 */
export async function lockBuild(onWait) {
  let told = false
  for (;;) {
    const release = await tryLock()
    if (release) return release
    if (!told) onWait?.()
    told = true
    // A socket file (not on Linux) outlives a holder that crashed.
    if (!(await holderGone()) && !abstract) unlinkSync(address)
  }
}
