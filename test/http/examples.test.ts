import assert from 'node:assert/strict'
import { type EventEmitter, once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { WebSocket } from 'ws'
import { endsBySigterm } from '../harness/answers.js'
import { assertBytes } from '../harness/client.js'
import { Deferred } from '../harness/deferred.js'
import { example, exampleFile } from '../harness/examples.js'
import { post, request } from '../harness/http-apps.js'
import { MiB } from '../harness/memory.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

/** What the test uses: the declarations of mqtt want a browser's. */
interface MqttClient extends EventEmitter {
  subscribeAsync(topic: string, options?: { qos: 0 | 1 | 2 }): Promise<unknown>
  publishAsync(
    topic: string,
    payload: string,
    options: { qos: 0 | 1 | 2; retain?: boolean },
  ): Promise<unknown>
  endAsync(force?: boolean): Promise<void>
}
const { connectAsync } = createRequire(import.meta.url)('mqtt') as {
  connectAsync(url: string, options: Record<string, unknown>): Promise<MqttClient>
}

const RUNNERS = ['compiled', 'tsx'] as const

forEachEngine('http-hello', (test) => {
  for (const runner of RUNNERS) {
    test(`says hello by every shard (${runner})`, async (t) => {
      const { child, port } = await example(t, 'http-hello', ['--shards', '2'], runner)
      const shards = new Set<string>()
      while (shards.size < 2) {
        const client = await t.connect(port)
        await client.write(request('GET', '/path'))
        const answer = (await client.readToEnd()).toString()
        await client.destroy()
        shards.add(/hello from shard (\d) to GET \/path\n$/.exec(answer)?.[1] as string)
      }
      assert.deepEqual([...shards].sort(), ['0', '1'])
      await endsBySigterm(child)
    })
  }
})

forEachEngine('start', (test) => {
  test('serves echo and HTTP in one process', async (t) => {
    const { child, port } = await example(t, 'start', ['--http-port', '0', '--shards', '2'])
    const [, echoPort] = await child.line(/^echo on tcp:\/\/127\.0\.0\.1:(\d+), hello on http:/)
    assert.match(await text(port, '/'), /^hello from shard \d to GET \/\n$/)
    const client = await t.connect(Number(echoPort))
    await client.write('a line\n')
    assert.equal(await client.readLine(), 'a line')
    await client.destroy()
    await endsBySigterm(child)
  })

  test('ends when one of its ports is taken', async (t) => {
    const { port } = await example(t, 'http-hello')
    const child = t.spawn([
      exampleFile('start'),
      ...['--port', '0', '--http-port', `${port}`, '--engine', t.engine],
    ])
    assert.deepEqual(await child.untilExit(), { code: 1, signal: null }, child.describe())
    assert.match(child.stderr, /^start: .*EADDRINUSE/)
  })
})

forEachEngine('http-express', (test) => {
  test('answers by its routes', async (t) => {
    const { child, port } = await example(t, 'http-express', ['--shards', '1'])
    assert.equal(await text(port, '/hello/ada'), '{"hello":"ada","shard":0}')
    const sum = (body: string): Promise<string> =>
      text(port, '/sum', { method: 'POST', body, headers: { 'Content-Type': 'application/json' } })
    assert.equal(await sum('[1, 2, 3]'), '{"sum":6}')
    assert.equal(await sum('{}'), '{"error":"an array of numbers, please"}')
    await endsBySigterm(child)
  })
})

forEachEngine('http-fastify', (test) => {
  test('answers by its schema', async (t) => {
    const { child, port } = await example(t, 'http-fastify', ['--shards', '1'])
    assert.equal(await text(port, '/hello/ada?times=2'), '{"hello":["ada","ada"],"shard":0}')
    assert.match(await text(port, '/hello/ada?times=11'), /"querystring\/times must be <= 10"/)
    await endsBySigterm(child)
  })
})

forEachEngine('http-ws-chat', (test) => {
  for (const runner of RUNNERS) {
    test(`what somebody says reaches all, on every shard (${runner})`, async (t) => {
      const { child, port } = await example(t, 'http-ws-chat', ['--shards', '2'], runner)
      assert.match(await text(port, '/'), /^<!doctype html>/)
      const people: Person[] = []
      while (new Set(people.map(({ shard }) => shard)).size < 2) people.push(await join(t, port))
      people[0]?.socket.send('hello <all>')
      for (const { next } of people) assert.deepEqual(await next(), { line: 'hello <all>' })
      for (const { socket } of people) socket.close()
      await endsBySigterm(child)
    })
  }

  test('who sends too much at once is disconnected; the others stay', async (t) => {
    const { child, port } = await example(t, 'http-ws-chat', ['--shards', '1'])
    const [ada, bob] = [await join(t, port), await join(t, port)]
    const closed = once(ada.socket, 'close')
    ada.socket.send('x'.repeat(2000))
    assert.equal((await closed)[0], 1009)
    bob.socket.send('still here')
    assert.deepEqual(await bob.next(), { line: 'still here' })
    bob.socket.close()
    await endsBySigterm(child)
  })
})

interface Person {
  readonly socket: WebSocket
  readonly shard: number
  next(): Promise<unknown>
}

async function join(t: TestContext, port: number): Promise<Person> {
  const socket = new WebSocket(`ws://127.0.0.1:${port}/chat`)
  t.defer(() => socket.terminate())
  const came: unknown[] = []
  const waiting: ((message: unknown) => void)[] = []
  socket.on('message', (data) => {
    const message: unknown = JSON.parse(data.toString())
    const take = waiting.shift()
    if (take === undefined) came.push(message)
    else take(message)
  })
  const next = (): Promise<unknown> =>
    came.length > 0 ? Promise.resolve(came.shift()) : new Promise((resolve) => waiting.push(resolve))
  await once(socket, 'open')
  const { shard } = (await next()) as { shard: number }
  return { socket, shard, next }
}

forEachEngine('http-upload', (test) => {
  test('stores a body, tells how far it is, and sends it back', async (t) => {
    const directory = t.path('uploads')
    const { child, port } = await example(t, 'http-upload', ['--directory', directory])
    const body = t.random.bytes(130 * MiB)
    assert.equal(await text(port, '/large.bin', { method: 'PUT', body }), `${body.length} bytes\n`)
    await child.line(/^large\.bin: all/)
    assert.deepEqual(
      child.lines.filter((line) => line.startsWith('large.bin')),
      ['large.bin: 64 MiB', 'large.bin: 128 MiB', `large.bin: all ${body.length} bytes`],
    )
    assertBytes(readFileSync(`${directory}/large.bin`), body)
    const got = await (await fetch(`http://127.0.0.1:${port}/large.bin`)).arrayBuffer()
    assertBytes(new Uint8Array(got), body)
    assert.match(await text(port, '/nothing'), /^there is no such file/)
    await endsBySigterm(child)
  })

  test('whoever goes away within the body leaves nothing behind', async (t) => {
    const directory = t.path('uploads')
    const { child, port } = await example(t, 'http-upload', ['--directory', directory])
    const client = await t.connect(port)
    await client.write(
      post('/broken.bin', 'x'.repeat(100_000), { 'Content-Length': 200_000 }).replace('POST', 'PUT'),
    )
    client.reset()
    await child.line(/^broken\.bin: given up after \d+ bytes/)
    assert.deepEqual(readdirSync(directory), [])
    await endsBySigterm(child)
  })

  test('no name leaves the directory', async (t) => {
    const directory = t.path('uploads')
    const { child, port } = await example(t, 'http-upload', ['--directory', directory])
    for (const name of ['/../escaped', '/a/b', '/%2e%2e%2fescaped', '/.hidden', '/']) {
      const client = await t.connect(port)
      await client.write(post(name, 'x').replace('POST', 'PUT'))
      assert.match((await client.readToEnd()).toString(), /^HTTP\/1\.1 404 /)
      await client.destroy()
    }
    assert.ok(!existsSync(directory))
    await endsBySigterm(child)
  })
})

forEachEngine('mqtt-broker', (test) => {
  test('what is published reaches subscribers on all shards once, and who comes later by what is retained', async (t) => {
    const { child, port } = await example(t, 'mqtt-broker', ['--shards', '2'])
    const got: string[] = []
    const complete = new Deferred()
    const subscribers: MqttClient[] = []
    // The kernel chooses the shard: of so many on both, but for one in a thousand times.
    for (let index = 0; index < 11; index++) {
      const client = await dial(t, port)
      client.on('message', (topic: string, payload: Buffer) => {
        got.push(`${index} ${topic} ${payload.toString()}`)
        if (got.length === 44) complete.resolve()
      })
      await client.subscribeAsync('room/#', { qos: 1 })
      subscribers.push(client)
    }
    const [first] = subscribers as [MqttClient]
    for (const qos of [0, 1, 2] as const) await first.publishAsync(`room/${qos}`, `of ${qos}`, { qos })
    await first.publishAsync('room/last', 'kept', { qos: 1, retain: true })
    const all = subscribers.flatMap((_, index) =>
      ['room/0 of 0', 'room/1 of 1', 'room/2 of 2', 'room/last kept'].map((what) => `${index} ${what}`),
    )
    await complete.promise
    assert.deepEqual(got.sort(), all.sort())
    const late = await dial(t, port)
    const retained = once(late, 'message')
    await late.subscribeAsync('room/#')
    const [topic, payload] = (await retained) as [string, Buffer]
    assert.deepEqual([topic, payload.toString()], ['room/last', 'kept'])
    for (const client of [...subscribers, late]) await client.endAsync()
    await endsBySigterm(child)
  })
})

async function dial(t: TestContext, port: number): Promise<MqttClient> {
  const client = await connectAsync(`mqtt://127.0.0.1:${port}`, { reconnectPeriod: 0 })
  t.defer(() => client.endAsync(true))
  return client
}

/** The body of an answer. Its connection is not kept. */
async function text(port: number, path: string, options: RequestInit = {}): Promise<string> {
  const headers = { Connection: 'close', ...(options.headers as Record<string, string>) }
  return (await fetch(`http://127.0.0.1:${port}${path}`, { ...options, headers })).text()
}
