import { createHash } from 'node:crypto'
import { finished, pipeline } from 'node:stream'
import type { Scene, SceneOptions } from './stream-scenes.js'

/** Something done with a stream, of which net.Socket and what stands for it have to tell the same. All end with 'close'. */
export interface Play extends SceneOptions {
  readonly name: string
  /** Only where there are resets. */
  readonly overTcp?: boolean
  /** Why a TLSSocket tells something else. */
  readonly notOverTls?: string
  play(scene: Scene): Promise<void> | void
}

const MiB = 1024 * 1024
/** More than a connection's buffers hold. */
const MUCH = 16 * MiB

export const PLAYS: readonly Play[] = [
  {
    name: 'the peer sends and ends: the stream ends, too',
    play(scene) {
      scene.flow()
      scene.peer.end('hello')
    },
  },
  {
    name: 'the peer ends without a byte, and nobody reads',
    play({ peer }) {
      peer.end()
    },
  },
  {
    name: 'the peer sends and ends while nobody reads; then somebody does',
    async play(scene) {
      const { peer, socket } = scene
      peer.end('hello')
      await new Promise((resolve) => socket.once('readable', resolve))
      scene.log(`readable ${socket.readableLength}`)
      scene.flow()
    },
  },
  {
    name: 'half open: our half stays until end',
    allowHalfOpen: true,
    async play(scene) {
      const { peer, socket } = scene
      scene.flow()
      peer.end('question')
      await scene.logged('end')
      socket.write('answer', scene.noting('write'))
      socket.end(scene.noting('end called back'))
      const answer = await peer.readToEnd()
      await scene.closed()
      scene.log(answer.toString())
    },
  },
  {
    name: 'our end comes first, the peer answers and ends',
    async play(scene) {
      const { peer, socket } = scene
      scene.flow()
      socket.end('question', scene.noting('end called back'))
      const question = await peer.readToEnd()
      await scene.logged('finish')
      scene.log(question.toString())
      peer.end('answer')
    },
  },
  {
    name: 'both have ended before anybody reads: then it is all there',
    async play(scene) {
      const { peer, socket } = scene
      socket.end('question')
      await peer.readToEnd()
      peer.end('answer')
      await new Promise((resolve) => socket.once('readable', resolve))
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
      scene.log('somebody reads')
      scene.flow()
    },
  },
  {
    name: 'the peer is gone while what it has sent is not read yet',
    notOverTls: 'a TLSSocket takes an end without close_notify for one',
    async play(scene) {
      const { peer, socket } = scene
      peer.end('answer')
      await new Promise((resolve) => socket.once('readable', resolve))
      await peer.destroy()
      for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
      scene.log('somebody reads')
      scene.flow()
    },
  },
  {
    name: 'end waits for the peer to read',
    peerPaused: true,
    async play(scene) {
      const { peer, socket } = scene
      scene.flow()
      socket.write(Buffer.alloc(MUCH), scene.noting('write'))
      socket.end('last', scene.noting('end called back'))
      await new Promise((resolve) => setImmediate(resolve))
      scene.log('the peer reads')
      peer.resume()
      const bytes = await peer.readToEnd()
      await scene.logged('finish')
      scene.log(`peer read ${bytes.length}`)
      peer.end()
    },
  },
  {
    name: 'destroy',
    notOverTls: 'a TLSSocket drops what it has not encrypted yet',
    async play(scene) {
      scene.flow()
      scene.socket.write('x', scene.noting('write'))
      scene.socket.destroy()
      scene.socket.destroy()
      scene.log('called')
      const read = await scene.peer.readToEnd()
      await scene.closed()
      scene.log(read.toString())
    },
  },
  {
    name: 'destroy with an error',
    play(scene) {
      scene.socket.destroy(new Error('own'))
      scene.socket.destroy(new Error('another'))
      scene.log('called')
    },
  },
  {
    name: 'destroy within data',
    play(scene) {
      scene.socket.once('data', () => scene.socket.destroy(new Error('own')))
      scene.peer.socket.write('x')
    },
  },
  ...(['end', 'finish'] as const).map(
    (event): Play => ({
      name: `destroy within ${event}`,
      play(scene) {
        scene.flow()
        scene.socket.once(event, () => scene.socket.destroy(new Error('own')))
        scene.peer.end('x')
      },
    }),
  ),
  {
    name: 'destroy within close and error does nothing',
    play(scene) {
      scene.socket.once('error', () => scene.socket.destroy(new Error('second')))
      scene.socket.once('close', () => scene.socket.destroy(new Error('third')))
      scene.socket.destroy(new Error('first'))
    },
  },
  {
    name: 'destroy within drain',
    peerPaused: true,
    async play(scene) {
      const { socket, peer } = scene
      socket.write(Buffer.alloc(MUCH), scene.noting('write'))
      socket.once('drain', () => socket.destroy())
      peer.resume()
    },
  },
  {
    name: 'destroy with bytes that wait: every write is called back',
    peerPaused: true,
    async play(scene) {
      const { socket } = scene
      for (let number = 0; number < 3; number++)
        socket.write(Buffer.alloc(MUCH), scene.noting(`write ${number}`))
      socket.end(scene.noting('end called back'))
      await new Promise((resolve) => setImmediate(resolve))
      socket.destroy()
      scene.log('called')
      await scene.closed()
      // How, the versions of Node differ: the newest says that they were cancelled.
      scene.replace(/(called back|write \d): .*/, '$1')
      scene.replace(/ errored$/, '')
    },
  },
  {
    name: 'destroySoon sends what was written',
    async play(scene) {
      scene.socket.write(Buffer.alloc(MUCH), scene.noting('write'))
      scene.socket.destroySoon()
      const bytes = await scene.peer.readToEnd()
      await scene.closed()
      scene.log(`peer read ${bytes.length}`)
    },
  },
  {
    name: 'destroySoon after end, and again',
    async play(scene) {
      scene.socket.end('last')
      scene.socket.destroySoon()
      scene.socket.destroySoon()
      const bytes = await scene.peer.readToEnd()
      await scene.closed()
      scene.log(`peer read ${bytes.length}`)
    },
  },
  {
    name: 'resetAndDestroy',
    notOverTls: 'a TLSSocket refuses it',
    overTcp: true,
    async play(scene) {
      scene.log(`returns itself: ${scene.socket.resetAndDestroy() === scene.socket}`)
      await scene.peer.untilReset()
      await scene.closed()
      scene.log('the peer was reset')
    },
  },
  {
    name: 'the peer resets',
    notOverTls: 'a TLSSocket is told a mere end by libuv when a reset comes right behind tickets',
    overTcp: true,
    play(scene) {
      scene.flow()
      scene.peer.reset()
    },
  },
  {
    name: 'the peer resets after it has sent',
    overTcp: true,
    async play(scene) {
      scene.flow()
      scene.peer.socket.write('hello')
      await scene.read(5)
      scene.log('read')
      scene.peer.reset()
      await scene.closed()
      scene.log(`returns ${scene.socket.write('x', scene.noting('write'))}`)
      await scene.logged('write')
    },
  },
  {
    name: 'the peer resets while much waits to be sent',
    overTcp: true,
    peerPaused: true,
    async play(scene) {
      const { socket, peer } = scene
      scene.flow()
      socket.write(Buffer.alloc(MUCH), scene.noting('write'))
      await new Promise((resolve) => setImmediate(resolve))
      peer.reset()
      await scene.closed()
      await scene.logged('write')
      // Whether the failed write or the reset is told first is chance with net.Socket.
      scene.replace(/^write: .*/, 'write')
      scene.replace(/^error (EPIPE|ECONNRESET)/, 'error')
      scene.lines.sort()
    },
  },
  {
    name: 'write after end',
    async play(scene) {
      scene.socket.end('last')
      scene.log(`returns ${scene.socket.write('x', scene.noting('write'))}`)
    },
  },
  {
    name: 'write after destroy',
    async play(scene) {
      scene.socket.destroy()
      scene.log(`returns ${scene.socket.write('x', scene.noting('write'))}`)
      scene.socket.end('x', scene.noting('end called back'))
      await scene.closed()
      await scene.logged('write')
      await scene.logged('end called back')
    },
  },
  {
    name: 'write after the end of the peer',
    async play(scene) {
      scene.flow()
      scene.socket.once('finish', () => {
        scene.log(`returns ${scene.socket.write('x', scene.noting('write'))}`)
      })
      scene.peer.end()
      await scene.closed()
      await scene.logged('write')
    },
  },
  {
    name: 'end twice',
    async play(scene) {
      scene.flow()
      scene.socket.end('last', scene.noting('first end'))
      scene.socket.end(scene.noting('second end'))
      await scene.logged('finish')
      scene.socket.end(scene.noting('third end'))
      await scene.logged('third end')
      scene.peer.end()
    },
  },
  {
    name: 'callbacks and drain come in order, corked or not',
    notOverTls: 'a TLSSocket calls back before it says that it is drained',
    async play(scene) {
      const { socket, peer } = scene
      socket.cork()
      for (const text of ['a', '', 'b']) socket.write(text, scene.noting(`corked ${text}`))
      socket.cork()
      socket.write(Buffer.alloc(200_000, 'c'), scene.noting('corked c'))
      socket.uncork()
      scene.log(`corked ${socket.writableCorked}`)
      socket.uncork()
      socket.write('d', scene.noting('d'))
      socket.write(Buffer.alloc(0), scene.noting('nothing'))
      await scene.logged('nothing')
      socket.cork()
      socket.write('e', scene.noting('e'))
      socket.end('f', scene.noting('end called back'))
      const arrived = await peer.readToEnd()
      await scene.logged('finish')
      scene.log(`peer read ${arrived.length}`)
      peer.end()
      scene.flow()
    },
  },
  {
    name: 'every encoding arrives as it should',
    async play(scene) {
      const { socket, peer } = scene
      const text = 'grün €𝄞'
      socket.write(text)
      socket.write(text, 'utf-8')
      socket.write('grün', 'latin1')
      socket.write('grün', 'binary')
      socket.write('ascii', 'ascii')
      socket.write(text, 'ucs2')
      socket.write(text, 'utf16le')
      socket.write('00ff80', 'hex')
      socket.write('AP+A', 'base64')
      socket.write('AP-A', 'base64url')
      socket.setDefaultEncoding('hex')
      socket.write('cafe')
      scene.log(`written ${socket.bytesWritten}`)
      socket.end('€'.repeat(30_000), 'utf8')
      const arrived = await peer.readToEnd()
      await scene.logged('finish')
      peer.end()
      scene.flow()
      await scene.closed()
      scene.log(createHash('sha256').update(arrived).digest('hex'))
      scene.log(`written ${socket.bytesWritten}`)
    },
  },
  {
    name: 'what cannot be written throws or is told',
    async play(scene) {
      for (const wrong of [null, undefined, 5, {}, ['x']]) {
        try {
          scene.socket.write(wrong as unknown as string)
        } catch (error) {
          scene.log((error as { code: string }).code)
        }
      }
      scene.socket.write(new Uint8Array([1, 2, 3]))
      try {
        scene.socket.write('x', 'no encoding' as 'utf8')
      } catch (error) {
        scene.log((error as { code: string }).code)
      }
      scene.socket.destroy()
    },
  },
  {
    name: 'setEncoding joins characters that were cut',
    async play(scene) {
      const { socket, peer } = scene
      socket.setEncoding('utf8')
      let text = ''
      socket.on('data', (piece: string) => {
        text += piece
      })
      const bytes = Buffer.from('€𝄞ü')
      for (const byte of bytes) await peer.write(Buffer.from([byte]))
      peer.end()
      await scene.logged('end')
      scene.log(text)
    },
  },
  {
    name: 'read(n), readable and unshift',
    async play(scene) {
      const { socket, peer } = scene
      await peer.write('0123456789')
      await new Promise((resolve) => socket.once('readable', resolve))
      scene.log(`${socket.read(3)} ${socket.read(100)} ${socket.readableLength}`)
      socket.unshift('ab')
      scene.log(`${socket.read()} ${socket.read()}`)
      peer.end('rest')
      socket.on('readable', () => scene.log(`${socket.read()}`))
    },
  },
  {
    name: 'pause and resume',
    async play(scene) {
      const { socket, peer } = scene
      scene.flow()
      await peer.write('one')
      await scene.read(3)
      socket.pause()
      scene.log(`paused ${socket.isPaused()} ${socket.readableFlowing}`)
      peer.end('two')
      await new Promise((resolve) => setImmediate(resolve))
      scene.log('resumed')
      socket.resume()
    },
  },
  {
    name: 'an async iterator reads to the end',
    async play(scene) {
      scene.peer.end(Buffer.alloc(MiB))
      let bytes = 0
      for await (const chunk of scene.socket) bytes += (chunk as Buffer).length
      scene.log(`read ${bytes}`)
    },
  },
  {
    name: 'an async iterator that is left destroys',
    async play(scene) {
      scene.peer.socket.write(Buffer.alloc(MiB))
      for await (const _ of scene.socket) break
      scene.log('left')
    },
  },
  {
    name: 'an async iterator throws what breaks the connection',
    overTcp: true,
    async play(scene) {
      await scene.peer.socket.write('x')
      try {
        for await (const _ of scene.socket) scene.peer.reset()
      } catch (error) {
        scene.log(`thrown ${(error as { code: string }).code}`)
      }
    },
  },
  {
    name: 'a pipeline from a stream to itself is an echo',
    async play(scene) {
      const { socket, peer } = scene
      pipeline(socket, socket, scene.noting('pipeline'))
      peer.end(Buffer.alloc(5 * MiB, 7))
      const echo = await peer.readToEnd()
      await scene.closed()
      scene.log(`echoed ${echo.length}`)
      scene.forget('drain')
    },
  },
  {
    name: 'finished tells a premature end',
    async play(scene) {
      finished(scene.socket, scene.noting('finished'))
      scene.peer.socket.write('x')
      scene.socket.once('data', () => scene.socket.destroy())
      await scene.logged('finished')
    },
  },
  {
    name: 'finished tells an orderly end',
    async play(scene) {
      finished(scene.socket, scene.noting('finished'))
      scene.flow()
      scene.peer.end()
      await scene.logged('finished')
    },
  },
  {
    name: 'timeout comes once in a silence, again after the next byte, and not after 0',
    notOverTls: 'a TLSSocket has a timeout of 0 at first',
    async play(scene) {
      const { socket, peer } = scene
      scene.log(`timeout is ${socket.timeout}`)
      scene.flow()
      socket.setTimeout(100, () => scene.log('told'))
      scene.log(`timeout is ${socket.timeout}`)
      await scene.logged('told')
      peer.socket.write('x')
      await scene.read(1)
      scene.log('read')
      await new Promise((resolve) => socket.once('timeout', resolve))
      socket.write('y')
      await new Promise((resolve) => socket.once('timeout', resolve))
      socket.setTimeout(0)
      scene.log(`timeout is ${socket.timeout}`)
      peer.end()
    },
  },
  {
    name: 'a destroyed stream has no timeout and its counts',
    async play(scene) {
      scene.flow()
      scene.peer.socket.write('12345')
      await scene.read(5)
      scene.socket.write('123')
      scene.socket.destroy()
      scene.log(`returns itself: ${scene.socket.setTimeout(1) === scene.socket}`)
      await scene.closed()
      scene.log(`${scene.socket.bytesRead} ${scene.socket.bytesWritten} ${scene.socket.pending}`)
    },
  },
]
