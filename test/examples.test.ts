import assert from 'node:assert/strict'
import slowHash from '../examples/lib/slow-hash.js'
import { endsBySigterm } from './harness/answers.js'
import { assertBytes, type Client } from './harness/client.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { assertRefused, example, exampleFile } from './harness/examples.js'
import { MiB } from './harness/memory.js'
import { forEachEngine, portOf, type TestContext } from './harness/suite.js'

const EXAMPLES = [
  'echo',
  'chat',
  'line-chat',
  'crash-test',
  'hash',
  'resp',
  'http-hello',
  'http-express',
  'http-fastify',
  'http-ws-chat',
  'http-upload',
  'mqtt-broker',
  'start',
]

async function ask(client: Client, line: string): Promise<string> {
  await client.write(`${line}\n`)
  return await client.readLine()
}

/** Somebody who chats, by that nick. */
async function chatter(t: TestContext, port: number, nick: string): Promise<Client> {
  const client = await t.connect(port)
  await client.readLine()
  assert.equal(await ask(client, `/nick ${nick}`), `* you are ${nick}`)
  return client
}

forEachEngine('chat', (test) => {
  for (const runner of ['compiled', 'tsx'] as const) {
    test(`who comes, is renamed, talks and leaves is told to everybody else (${runner})`, async (t) => {
      const { child, port } = await example(t, 'chat', ['--shards', '1'], runner)
      const ada = await chatter(t, port, 'ada')
      const bob = await t.connect(port)
      assert.match(await bob.readLine(), /^\* you are guest-0-2, one of 2; your shard is 0$/)
      assert.equal(await ada.readLine(), '* guest-0-2 is here')
      assert.equal(await ask(bob, '/nick bob'), '* you are bob')
      assert.equal(await ada.readLine(), '* guest-0-2 is now bob')
      assert.equal(await ask(bob, '/who'), '* ada, bob')
      await bob.write('hello\nagain\n')
      assert.equal(await ada.readLine(), 'bob: hello')
      assert.equal(await ada.readLine(), 'bob: again')
      assert.equal(await ask(bob, '/quit'), '* bye')
      assert.equal((await bob.readToEnd()).length, 0, 'nothing of what bob said came back')
      assert.equal(await ada.readLine(), '* bob has left')
      await ada.destroy()
      await endsBySigterm(child)
    })
  }

  test('all shards are one room, and a nick is taken on all of them', async (t) => {
    const { child, port } = await example(t, 'chat', ['--shards', '2'])
    // The kernel chooses the shard: until there is somebody on each.
    const people: Client[] = []
    const shards: number[] = []
    while (new Set(shards).size < 2) {
      const client = await t.connect(port)
      shards.push(Number(/your shard is (\d)$/.exec(await client.readLine())?.[1]))
      for (const other of people) assert.match(await other.readLine(), /^\* guest-\d-\d+ is here$/)
      people.push(client)
    }
    const [first, last] = [people[0] as Client, people.at(-1) as Client]
    // Who came before it may have been told to its shard only behind that.
    let answer = await ask(last, '/nick ada')
    while (/^\* guest-\d-\d+ is here$/.test(answer)) answer = await last.readLine()
    assert.equal(answer, '* you are ada')
    assert.match(await first.readLine(), /is now ada$/)
    assert.equal(await ask(first, '/nick ada'), '* ada is taken')
    await last.write('hello over there\n')
    assert.equal(await first.readLine(), 'ada: hello over there')
    assert.equal((await ask(first, '/who')).split(', ').length, people.length)
    await endsBySigterm(child)
  })

  test('a line may come in pieces, also within a character; control characters do not reach others', async (t) => {
    const { child, port } = await example(t, 'chat', ['--shards', '1'])
    const ada = await chatter(t, port, 'ada')
    const bob = await chatter(t, port, 'bob')
    for (let joins = 0; joins < 2; joins++) await ada.readLine()
    const line = Buffer.from('caf\u00e9 \u001b[31mred\r\n')
    // An answer to what came behind shows that the first piece was received by itself.
    await bob.write(Buffer.concat([Buffer.from('/who\n'), line.subarray(0, 4)]))
    assert.equal(await bob.readLine(), '* ada, bob')
    await bob.write(line.subarray(4))
    assert.equal(await ada.readLine(), 'bob: caf\u00e9 [31mred')
    await endsBySigterm(child)
  })

  test('a nick that is taken or no name is refused, and what is no command explained', async (t) => {
    const { child, port } = await example(t, 'chat', ['--shards', '1'])
    await chatter(t, port, 'ada')
    const bob = await chatter(t, port, 'bob')
    assert.equal(await ask(bob, '/nick ada'), '* ada is taken')
    for (const name of ['', 'a:b', 'x'.repeat(21)])
      assert.match(await ask(bob, `/nick ${name}`), /^\* a nick has 1 to 20/)
    assert.match(await ask(bob, '/help'), /^\* there is \/nick NAME/)
    await endsBySigterm(child)
  })

  test('a line of the greatest length passes, a longer one ends its connection, with or without an end', async (t) => {
    const { child, port } = await example(t, 'chat', ['--shards', '1'])
    const ada = await chatter(t, port, 'ada')
    for (const tail of ['', '\nhello\n']) {
      const bob = await t.connect(port)
      await bob.readLine()
      assert.match(await ada.readLine(), /is here$/)
      const longest = 'x'.repeat(1024)
      await bob.write(`${longest}\n`)
      assert.match(await ada.readLine(), new RegExp(`^guest-0-\\d: ${longest}$`))
      await bob.write(`${longest}x${tail}`)
      assert.equal((await bob.readToEnd()).toString(), '* a line has at most 1024 bytes\n')
      assert.match(await ada.readLine(), /has left$/)
      bob.end()
    }
    await endsBySigterm(child)
  })

  test('who does not read is dropped, and the others are told', async (t) => {
    const { child, port } = await example(t, 'chat', ['--shards', '1'])
    const slow = await chatter(t, port, 'slow')
    slow.pause()
    const ada = await chatter(t, port, 'ada')
    const witness = await chatter(t, port, 'witness')
    const lines = 64
    const flood = Buffer.from(`${'x'.repeat(1023)}\n`.repeat(lines))
    // Both sides' kernel buffers take some megabytes first. A flood waits until the witness has the one before, who
    // would be dropped as well if this process were too busy to read.
    for (let told = false; !told; ) {
      await ada.write(flood)
      for (let line = 0; line < lines; line++)
        if ((await witness.readLine()) === '* slow has left (reads too slowly)') told = true
    }
    await slow.untilReset()
    await endsBySigterm(child)
  })

  test('a server that drains says goodbye', async (t) => {
    const { child, port } = await example(t, 'chat', ['--shards', '1'])
    const ada = await chatter(t, port, 'ada')
    child.kill('SIGTERM')
    assert.equal(await ada.readLine(), '* the server is shutting down')
    await ada.readToEnd()
    ada.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })
})

forEachEngine('line-chat', (test) => {
  for (const runner of ['compiled', 'tsx'] as const) {
    test(`what somebody says, in whatever pieces, all others are told; who ends is said goodbye to (${runner})`, async (t) => {
      const { child, port } = await example(t, 'line-chat', ['--shards', '1'], runner)
      const [ada, bob] = [await t.connect(port), await t.connect(port)]
      assert.equal(await ada.readLine(), '* you are 0-1')
      assert.equal(await bob.readLine(), '* you are 0-2')
      await ada.write('hello\r\nin two ')
      assert.equal(await bob.readLine(), '0-1: hello')
      await ada.write('pieces \u001b[31mred\n')
      assert.equal(await bob.readLine(), '0-1: in two pieces [31mred')
      await bob.write('back\n')
      assert.equal(await ada.readLine(), '0-2: back')
      ada.end()
      assert.equal((await ada.readToEnd()).toString(), '* bye\n', 'and nothing of what ada said')
      child.kill('SIGTERM')
      assert.equal((await bob.readToEnd()).toString(), '* bye\n')
      bob.end()
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    })
  }

  test('all shards are one room, and a line that is too long ends its connection alone', async (t) => {
    const { child, port } = await example(t, 'line-chat', ['--shards', '2'])
    // The kernel chooses the shard: until there is somebody on each.
    const people: Client[] = []
    const names: string[] = []
    while (new Set(names.map((name) => name[0])).size < 2) {
      const client = await t.connect(port)
      names.push(/^\* you are (\d-\d+)$/.exec(await client.readLine())?.[1] as string)
      people.push(client)
    }
    const [first, last] = [people[0] as Client, people.at(-1) as Client]
    await last.write('hello over there\n')
    assert.equal(await first.readLine(), `${names.at(-1)}: hello over there`)
    const longest = 'x'.repeat(1024)
    await first.write(`${longest}\n`)
    assert.equal(await last.readLine(), `${names[0]}: ${longest}`)
    await first.write(`${longest}x`)
    assert.equal((await first.readToEnd()).toString(), '* a line has at most 1024 bytes\n')
    first.end()
    await endsBySigterm(child)
  })
})

forEachEngine('crash-test', (test) => {
  const deaths: [command: string, event: RegExp][] = [
    ['throw', /^shard 0: .*thrown by crash-test/],
    ['reject', /^shard 0: .*rejected by crash-test/],
    ['exit 3', /^shard 0: .*exit code 3/],
    ['heap', /^shard 0: .*memory limit/],
  ]
  for (const [command, event] of deaths) {
    test(`${command}: kills the shard, which is told in one line and replaced`, async (t) => {
      const { child, port } = await example(t, 'crash-test', ['--shards', '1'])
      const victim = await t.connect(port, { mayBreak: true })
      const [, thread] = /^shard 0, thread (\d+)$/.exec(await ask(victim, 'who')) ?? []
      assert.equal(await ask(victim, command), `shard 0: ${command}`)
      await victim.untilReset()
      await child.line(event)
      await child.line(/^shard 0: .*state ready/)
      const next = await t.connect(port)
      const [, replacement] = /^shard 0, thread (\d+)$/.exec(await ask(next, 'who')) ?? []
      assert.ok(Number(replacement) > Number(thread), `${replacement} after ${thread}`)
      assert.match(await ask(next, 'status'), /^shard 0: state ready, restarts 1, /)
      await endsBySigterm(child)
    })
  }

  test('spin: while a shard is stuck another answers, and shows for how long; then it is back', async (t) => {
    const { child, port } = await example(t, 'crash-test')
    const [first, second] = [await clientOf(t, port, 0), await clientOf(t, port, 1)]
    assert.equal(await ask(first, 'spin 1500'), 'shard 0: spin 1500')
    let stalledMs = 0
    while (stalledMs < 100) {
      stalledMs = Number(/^shard 0: .*stalledMs (\d+)/.exec(await ask(second, 'status'))?.[1])
      assert.match(await second.readLine(), /^shard 1: state ready/)
    }
    assert.equal(await first.readLine(), 'shard 0 is back')
    assert.match(await ask(first, 'help'), /^there is who, status, throw/)
    await endsBySigterm(child)
  })
})

/** A connection to one of the shards; connects until the kernel chooses that. */
async function clientOf(t: TestContext, port: number, shard: number): Promise<Client> {
  for (;;) {
    const client = await t.connect(port)
    if ((await ask(client, 'who')).startsWith(`shard ${shard},`)) return client
    await client.destroy()
  }
}

forEachEngine('every example', (test) => {
  for (const name of EXAMPLES) {
    test(`${name}: refuses a flag that is no number, by name and as it was given`, async (t) => {
      const expected = "'auto' or an integer from 0 to 256"
      await assertRefused(
        t,
        name,
        ['--shards', 'minus'],
        `option shards: expected ${expected}, given 'minus'`,
      )
    })

    test(`${name}: refuses an engine that there is not, and says which there are`, async (t) => {
      const expected = "'auto' or 'mio' or 'tokio'"
      await assertRefused(
        t,
        name,
        ['--engine', 'steam'],
        `option engine: expected ${expected}, given 'steam'`,
      )
    })
  }
})

forEachEngine('hash', (test) => {
  for (const runner of ['compiled', 'tsx'] as const) {
    test(`a hash is computed while lines of others, and of the same client, are echoed at once (${runner})`, async (t) => {
      const { child, port } = await example(t, 'hash', [], runner)
      const [ada, bob] = [await t.connect(port), await t.connect(port)]
      await ada.write('hash secret\n')
      // The hash takes longer than all of these together, and does not keep them waiting.
      for (let round = 0; round < 20; round++) assert.equal(await ask(bob, `line ${round}`), `line ${round}`)
      assert.equal(await ask(ada, 'echo'), 'echo')
      const hash = await ada.readLine()
      assert.equal(hash, `${slowHash('secret')} secret`)
      await endsBySigterm(child)
    })
  }

  test('a server that drains answers with the hashes that it owes, and drops those of who has gone', async (t) => {
    const { child, port } = await example(t, 'hash', ['--threads', '1'])
    const [gone, ada] = [await t.connect(port), await t.connect(port)]
    // Answers behind them show that they were received.
    await gone.write(`${'hash never\n'.repeat(65)}`)
    assert.equal(await ask(gone, 'here'), 'at most 64 hashes at once')
    await gone.destroy()
    await ada.write('hash last\n')
    assert.equal(await ask(ada, 'here'), 'here')
    child.kill('SIGTERM')
    assert.equal((await ada.readToEnd()).toString(), `${slowHash('last')} last\n`)
    ada.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
  })

  test('a threads flag that cannot be is refused by name', async (t) => {
    const expected = 'expected an integer from 1 to 256, given 0'
    await assertRefused(t, 'hash', ['--threads', '0'], `option executor.maxThreads: ${expected}`)
  })
})

forEachEngine('echo', (test) => {
  test('listens on a Unix socket, too', async (t) => {
    const path = t.path()
    const child = t.spawn([exampleFile('echo'), '--path', path, '--shards', '2', '--engine', t.engine])
    await child.line(/^listening on unix:.* \(shards 2, engine \w+\)$/)
    const client = await t.connect(path)
    await client.write('over a file')
    assert.equal((await client.readExactly(11)).toString(), 'over a file')
    client.end()
    await endsBySigterm(child)
    await assert.rejects(() => t.connect(path), { code: 'ENOENT' })
  })
})

forEachEngine('proxy', (test) => {
  test('passes everything on, both ways and to both ends, and keeps no more than it may', async (t) => {
    const behind = await t.serve(() => new ChunkEcho())
    const { child, port } = await example(t, 'proxy', [
      '--to',
      `127.0.0.1:${portOf(behind)}`,
      '--shards',
      '2',
    ])
    const client = await t.connect(port)
    const data = t.random.bytes(8 * MiB)
    client.end(data)
    assertBytes(await client.readToEnd(), data)
    await endsBySigterm(child)
  })

  test('a client whose server is not there is broken off, and the next one is served', async (t) => {
    const { child, port } = await example(t, 'proxy', ['--to', '127.0.0.1:1', '--shards', '1'])
    for (let round = 0; round < 2; round++) {
      const client = await t.connect(port, { mayBreak: true })
      await client.untilReset()
    }
    await child.until(() => child.stderr.includes('ECONNREFUSED'))
    await endsBySigterm(child)
  })
})
