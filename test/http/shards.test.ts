import assert from 'node:assert/strict'
import type { Client } from '../harness/client.js'
import { eventually } from '../harness/deferred.js'
import { get, readAnswer } from '../harness/http-answers.js'
import { forEachEngine } from '../harness/suite.js'

const MODULE = new URL('../fixtures/servers/http-module.js', import.meta.url)

/** Sends requests, one behind the other, until it is told that one was the last. */
class Load {
  answered = 0
  readonly done: Promise<void>

  constructor(client: Client) {
    this.done = this.#run(client)
  }

  async #run(client: Client): Promise<void> {
    for (let number = 0; ; number++) {
      await client.write(get(`/${number}`))
      const { body, headers } = await readAnswer(client)
      assert.match(body, new RegExp(`^\\d /${number}$`))
      this.answered++
      if (headers['connection'] === 'close') break
    }
    assert.equal((await client.readToEnd()).length, 0)
    client.end()
  }
}

forEachEngine('nodeHttp in shards', (test) => {
  test('every shard answers', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const answered = new Set<string>()
    while (answered.size < 2) {
      const client = await t.connect(server)
      await client.write(get('/1'))
      answered.add((await readAnswer(client)).body)
      client.end()
    }
    assert.deepEqual([...answered].sort(), ['0 /1', '1 /1'])
  })

  test('by SIGTERM under load every request is answered, and the last one told so', async (t) => {
    const child = t.start('servers/http-program')
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    const loads = await Promise.all(Array.from({ length: 32 }, async () => new Load(await t.connect(port))))
    await eventually(() => loads.every(({ answered }) => answered > 20))
    child.kill('SIGTERM')
    await Promise.all(loads.map(({ done }) => done))
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('a shard that dies is replaced, and the other one answers on', async (t) => {
    const server = await t.serve(MODULE, { shards: 2 })
    const connections = await Promise.all(Array.from({ length: 16 }, () => t.connect(server)))
    const shards = await Promise.all(
      connections.map(async (client) => {
        await client.write(get('/1'))
        return (await readAnswer(client)).body[0]
      }),
    )
    const dying = shards[0]
    await connections[0]?.write(get('/stop'))
    await connections[0]?.untilReset()
    const others = connections.filter((_client, index) => shards[index] !== dying)
    for (const client of others) {
      await client.write(get('/2'))
      assert.match((await readAnswer(client)).body, / \/2$/)
    }
    const client = await t.connect(server)
    await client.write(get('/4'))
    assert.match((await readAnswer(client)).body, / \/4$/)
  })
})
