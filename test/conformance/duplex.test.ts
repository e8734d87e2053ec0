import assert from 'node:assert/strict'
import { PLAYS } from '../harness/stream-plays.js'
import { duplexScene, netScene, type Scene } from '../harness/stream-scenes.js'
import { forEveryTransport } from '../harness/suite.js'

forEveryTransport('a connection as a stream tells what net.Socket does', (test) => {
  for (const play of PLAYS) {
    const define = play.overTcp === true ? test.overTcp : test
    define(
      play.name,
      async (t) => {
        const told: string[][] = []
        for (const open of [netScene, duplexScene]) {
          const scene: Scene = await open(t, play)
          await play.play(scene)
          await scene.closed()
          told.push(scene.lines)
        }
        assert.deepEqual(told[1], told[0])
      },
      play.notOverTls === undefined ? {} : { notOverTls: play.notOverTls },
    )
  }
})
