import assert from 'node:assert/strict'
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { createServer as createNodeServer, type Server as NodeServer } from 'node:net'
import { networkInterfaces, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { createServer, isSupervisor, type Server, shardId } from '../src/index.js'
import { answersOf, endsBySigterm } from './harness/answers.js'
import { ChunkEcho } from './harness/echo-protocols.js'
import { assertCode, assertRejects, forEachEngine, portOf, type TestContext } from './harness/suite.js'

const ROOT = new URL('../../', import.meta.url)
const HAS_IPV6 = Object.values(networkInterfaces()).some((addresses) =>
  addresses?.some(({ family }) => family === 'IPv6'),
)

function source(name: string): string {
  return fileURLToPath(new URL(`test/fixtures/servers/${name}`, ROOT))
}

forEachEngine('how a shard starts', (test) => {
  test('the entry runs again in each shard, with the same arguments and its guard; its identity is not in the environment', async (t) => {
    const child = t.start('servers/entry-guard', ['one', 'two'])
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    for (const who of ['supervisor', 'shard 0', 'shard 1']) {
      const given = `one,two,--engine,${t.engine}`
      assert.ok(child.lines.includes(`${who} args ${given} env `), child.describe())
      const listens = child.lines.filter((line) => line.startsWith(`${who} listens on`))
      assert.equal(listens.length, 1, child.describe())
      assert.match(listens[0] ?? '', /listens on \d+ as server 1 with 1$/)
    }
    assert.ok(child.lines.includes('closed'))
  })

  test('both shards serve', async (t) => {
    const child = t.start('servers/obedient', [JSON.stringify({ shards: 2 })])
    const port = Number((await child.line(/"ready":(\d+)/))[1])
    const shards = new Set<string>()
    for (let tries = 0; shards.size < 2 && tries < 200; tries++) {
      const client = await t.connect(port)
      await client.write('who\n')
      shards.add(await client.readLine())
      await client.destroy()
    }
    assert.deepEqual([...shards].sort(), ['0', '1'])
    await endsBySigterm(child)
  })

  const entries: [string, string[]][] = [
    [
      'a TypeScript entry under tsx',
      [fileURLToPath(new URL('node_modules/tsx/dist/cli.mjs', ROOT)), source('typescript-entry.ts')],
    ],
    ['a TypeScript entry under node --import tsx', ['--import', 'tsx', source('typescript-entry.ts')]],
    ['a CommonJS entry by require()', [source('commonjs-entry.cjs')]],
  ]
  for (const [name, args] of entries) {
    test(`${name} runs in the shards`, async (t) => {
      const child = t.spawn([...args, '--engine', t.engine])
      const [, port, pid] = await child.line(/^ready (\d+) (\d+)$/)
      assert.deepEqual(await answersOf(t, Number(port), 2), ['hello from shard 0', 'hello from shard 1'])
      await endsBySigterm(child, Number(pid))
    })
  }

  test('an entry of a CommonJS project runs in the shards under tsx, which loads the package twice there', async (t) => {
    const project = mkdtempSync(join(tmpdir(), 'shardloop-'))
    t.defer(() => rmSync(project, { recursive: true }))
    const entry = join(project, 'server.ts')
    copyFileSync(source('commonjs-entry.cjs'), entry)
    writeFileSync(join(project, 'package.json'), '{ "type": "commonjs" }')
    mkdirSync(join(project, 'node_modules'))
    symlinkSync(fileURLToPath(ROOT), join(project, 'node_modules', 'shardloop'), 'dir')
    const child = t.spawn(['--import', 'tsx', entry, '--engine', t.engine])
    await child.line(/^ERR_SHARDLOOP_\w+, a ShardloopError: true$/)
    const port = Number((await child.line(/^ready (\d+) /))[1])
    assert.deepEqual(await answersOf(t, port, 2), ['hello from shard 0', 'hello from shard 1'])
    await endsBySigterm(child)
  })

  test('with a URL nothing else of the program runs in the shards', async (t) => {
    const child = t.start('servers/url-form', ['./obedient-module.js'])
    const port = Number((await child.line(/^ready (\d+)$/))[1])
    const client = await t.connect(port)
    await client.write('who\n')
    assert.match(await client.readLine(), /^[01]$/)
    await client.destroy()
    await endsBySigterm(child)
    assert.equal(child.lines.filter((line) => line === 'the program runs').length, 1)
  })

  test('a module named by URL exports its own exception handler', async (t) => {
    const child = t.start('servers/url-form', ['./module-with-handler.js'])
    const client = await t.connect(Number((await child.line(/^ready (\d+)$/))[1]))
    await client.write('anything')
    await child.line(/^handled: in dataReceived$/)
    await client.destroy()
    await endsBySigterm(child)
  })

  const program = (call: string): string =>
    `import('shardloop').then(({ createServer }) => ${call}).then((server) => {
       console.log('ready ' + server.addresses[0].port)
       return server.close()
     }, (error) => console.log(error.code + ' ' + error.message))`

  test('node -e with a factory is refused with the advice to use a URL', async (t) => {
    const child = t.spawn([
      '-e',
      program(`createServer(() => ({}), { shards: 1, engine: '${t.engine}' })`),
      'argument',
    ])
    const [line] = await child.line(/^ERR_SHARDLOOP_START .*/)
    assert.match(line, /node -e/)
    assert.match(line, /URL of a module/)
    assert.equal((await child.untilExit()).code, 0)
  })

  const module = JSON.stringify(new URL('dist/test/fixtures/servers/obedient-module.js', ROOT).href)
  for (const flags of [
    ['-e'],
    ['--input-type=module', '-e'],
    ['--input-type', 'module', '--import', 'tsx', '-e'],
  ]) {
    test(`node ${flags.join(' ')} with a URL serves`, async (t) => {
      const child = t.spawn([
        ...flags,
        program(`createServer(new URL(${module}), { shards: 2, host: '127.0.0.1', engine: '${t.engine}' })`),
      ])
      await child.line(/^ready \d+$/)
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    })
  }
})

forEachEngine('in this very thread', (test) => {
  test('shards: 0 serves in the main thread', async (t) => {
    assert.equal(isSupervisor, true)
    assert.equal(shardId, null)
    const server = await t.serve(() => new ChunkEcho())
    const client = await t.connect(server)
    await client.write('hello')
    assert.equal((await client.readExactly(5)).toString(), 'hello')
    assert.deepEqual(server.shards, [{ id: 0, state: 'ready', restarts: 0, stalledMs: 0 }])
    await client.destroy()
    await server.close()
    assert.deepEqual(server.shards, [{ id: 0, state: 'stopped', restarts: 0, stalledMs: 0 }])
  })

  test('shards: 0 takes a module by URL too', async (t) => {
    const server = await t.serve(new URL('./fixtures/echo-factory.js', import.meta.url))
    const client = await t.connect(server)
    await client.write('hello')
    assert.equal((await client.readExactly(5)).toString(), 'hello')
  })

  test('shards: 0 serves in a worker thread of the program, which cannot start shards', async (t) => {
    const child = t.start('servers/in-worker')
    const [, port] = await child.line(/^ready (\d+) true null ERR_SHARDLOOP_STATE$/)
    const client = await t.connect(Number(port))
    await client.write('who\n')
    assert.equal(await client.readLine(), 'null')
    child.send('close')
    await child.line(/^worker exit 0$/)
    child.process.stdin.end()
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    await client.readToEnd()
  })

  test('two servers in one thread, each with its own factory and end', async (t) => {
    const [first, second] = await Promise.all([t.serve(() => new ChunkEcho()), t.serve(() => ({}))])
    assert.notEqual(portOf(first), portOf(second))
    await second.close()
    const client = await t.connect(first)
    await client.write('still here')
    assert.equal((await client.readExactly(10)).toString(), 'still here')
  })
})

forEachEngine('listeners', (test) => {
  test('sockets and addresses are those of the listener, and are closed with it', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { noDelay: true, balance: 'shared' })
    const [socket] = server.sockets
    assert.ok(socket !== undefined)
    assert.equal(server.sockets.length, 1)
    assert.deepEqual(socket.getsockname(), server.addresses[0])
    assert.deepEqual(server.addresses, [{ address: '127.0.0.1', family: 'IPv4', port: portOf(server) }])
    assert.ok(socket.fileno() > 2)
    assert.equal(socket.getOption('reusePort'), false)
    assert.equal(socket.getOption('reuseAddress'), true)
    assert.ok(socket.getOption('receiveBufferSize') > 0)
    await server.close()
    assert.equal(socket.fileno(), -1)
    let thrown: unknown
    try {
      socket.getsockname()
    } catch (error) {
      thrown = error
    }
    assertCode(thrown, 'EBADF')
    assert.equal(server.addresses.length, 1, 'where it listened is still known')
  })

  test('one entry per address, whatever the number of shards; port 0 is one port for all', async (t) => {
    const hosts = HAS_IPV6 ? ['127.0.0.1', '::1', '127.0.0.2'] : ['127.0.0.1', '127.0.0.2']
    const server = await t.serve(new URL('./fixtures/echo-factory.js', import.meta.url), {
      host: hosts,
      shards: 2,
    })
    assert.deepEqual(
      server.addresses.map(({ address }) => address),
      hosts,
    )
    assert.equal(new Set(server.addresses.map(({ port }) => port)).size, 1)
    assert.equal(server.sockets.length, hosts.length)
    assert.equal(server.sockets[0]?.getOption('reusePort'), process.platform === 'linux')
    for (const host of hosts) {
      const client = await t.connect(server, { host })
      await client.write('hello')
      assert.equal((await client.readExactly(5)).toString(), 'hello')
      await client.destroy()
    }
  })

  test('all shards share one listener with balance: shared', async (t) => {
    const server = await t.serve(new URL('./fixtures/echo-factory.js', import.meta.url), {
      shards: 2,
      balance: 'shared',
    })
    assert.equal(server.sockets[0]?.getOption('reusePort'), false)
    const clients = await Promise.all(Array.from({ length: 20 }, () => t.connect(server)))
    for (const client of clients) await client.write('hello')
    for (const client of clients) assert.equal((await client.readExactly(5)).toString(), 'hello')
  })

  test('the default host takes IPv4 and IPv6, as node:net does', async (t) => {
    const { engine } = t
    const server = await createServer(() => new ChunkEcho(), { shards: 0, signals: false, engine })
    t.defer(() => server.abort())
    assert.equal(server.addresses[0]?.address, HAS_IPV6 ? '::' : '0.0.0.0')
    for (const host of HAS_IPV6 ? ['127.0.0.1', '::1'] : ['127.0.0.1']) {
      const client = await t.connect(server, { host })
      await client.write('hello')
      assert.equal((await client.readExactly(5)).toString(), 'hello')
      await client.destroy()
    }
  })

  if (HAS_IPV6) {
    test('ipv6Only refuses IPv4 and leaves its port to another listener', async (t) => {
      const server = await t.serve(() => new ChunkEcho(), { host: '::', ipv6Only: true })
      assert.equal(server.sockets[0]?.getOption('ipv6Only'), true)
      await assertRejects(() => t.connect(server, { host: '127.0.0.1' }), 'ECONNREFUSED')
      const other = await t.serve(() => new ChunkEcho(), { host: '0.0.0.0', port: portOf(server) })
      assert.equal(portOf(other), portOf(server))
    })
  } else test.skip('ipv6Only refuses IPv4 and leaves its port to another listener', 'no IPv6 here')

  test('a host name is looked up; two names of one address are bound once', async (t) => {
    const server = await t.serve(() => new ChunkEcho(), { host: ['localhost', 'localhost', '127.0.0.3'] })
    assert.equal(server.addresses.length, 2)
    assert.match(server.addresses[0]?.address ?? '', /^(127\.0\.0\.1|::1)$/)
    const error = await t
      .serve(() => ({}), { host: 'no-such-host.invalid' })
      .catch((reason: unknown) => reason)
    // The second where no name server answers.
    assert.match(String((error as { code?: unknown }).code), /^(ENOTFOUND|EAI_AGAIN)$/)
  })

  for (const shards of [0, 2]) {
    test(`a port in use is EADDRINUSE as from node:net, and leaves nothing (shards ${shards})`, async (t) => {
      const taken = await nodeServer(t)
      const { port } = taken.address() as { port: number }
      const start = (): Promise<Server> =>
        t.serve(new URL('./fixtures/echo-factory.js', import.meta.url), { port, shards })
      const error = await start().then(
        () => assert.fail('the port was in use'),
        (reason: unknown) => assertCode(reason, 'EADDRINUSE'),
      )
      assert.equal(error.message, `listen EADDRINUSE: address already in use 127.0.0.1:${port}`)
      const { errno, syscall, address, port: failed } = error as unknown as Record<string, unknown>
      assert.deepEqual(
        { syscall, address, failed },
        { syscall: 'listen', address: '127.0.0.1', failed: port },
      )
      assert.ok(Number(errno) < 0)
      await new Promise((resolve) => taken.close(resolve))
      assert.equal(portOf(await start()), port, 'free again')
    })
  }

  test('a second server on the port of a first is EADDRINUSE, though SO_REUSEPORT would share it', async (t) => {
    const module = new URL('./fixtures/echo-factory.js', import.meta.url)
    const server = await t.serve(module, { shards: 2 })
    await assertRejects(() => t.serve(module, { port: portOf(server), shards: 2 }), 'EADDRINUSE')
    const child = t.start('servers/binder', [String(portOf(server)), '2'])
    await child.ask('go', /^lost .*EADDRINUSE/)
    assert.equal((await child.untilExit()).code, 0)
  })

  test('when one of several hosts cannot be had, none is kept', async (t) => {
    const taken = await nodeServer(t)
    const { port } = taken.address() as { port: number }
    await assertRejects(() => t.serve(() => ({}), { host: ['127.0.0.2', '127.0.0.1'], port }), 'EADDRINUSE')
    const server = await t.serve(() => ({}), { host: '127.0.0.2', port })
    assert.equal(portOf(server), port)
  })

  test('of two processes that start at once on one port exactly one wins, every time', async (t) => {
    for (let round = 0; round < 8; round++) {
      const free = await nodeServer(t)
      const { port } = free.address() as { port: number }
      await new Promise((resolve) => free.close(resolve))
      const both = [0, 1].map(() => t.start('servers/binder', [String(port), '1']))
      await Promise.all(both.map((child) => child.line(/^loaded$/)))
      for (const child of both) child.send('go')
      const results = await Promise.all(both.map((child) => child.line(/^(won|lost) (.*)$/)))
      assert.deepEqual(
        results.map(([, result]) => result).sort(),
        ['lost', 'won'],
        both.map((child) => child.describe()).join('\n'),
      )
      assert.match(results.find(([, result]) => result === 'lost')?.[2] ?? '', /"code":"EADDRINUSE"/)
      // Whoever lost ends by itself; a signal could find it without our handlers.
      both[results.findIndex(([, result]) => result === 'won')]?.kill('SIGTERM')
      for (const child of both) assert.equal((await child.untilExit()).code, 0, child.describe())
    }
  })
})

forEachEngine('several servers in one process', (test) => {
  test('share the shards, are matched by name or place, replay calls that are over, and end one by one', async (t) => {
    const child = t.start('servers/several-servers')
    const [, text] = await child.line(/^(\{"ready".*)$/)
    const ready = JSON.parse(text ?? '') as {
      ready: number[]
      taken: string
      other: string
      twin: string
      names: string[]
    }
    assert.deepEqual(
      { taken: ready.taken, other: ready.other, twin: ready.twin },
      { taken: 'EADDRNOTAVAIL', other: 'ERR_SHARDLOOP_OPTION', twin: 'ERR_SHARDLOOP_OPTION' },
    )
    assert.deepEqual(ready.names.slice(1), ['third', 'fourth'])
    const [second = 0, third = 0, fourth = 0] = ready.ready
    assert.deepEqual(await answersOf(t, second, 2), ['second from shard 0', 'second from shard 1'])
    assert.deepEqual(await answersOf(t, third, 2), ['third from shard 0', 'third from shard 1'])
    const client = await t.connect(fourth)
    await client.write('who\n')
    assert.match(await client.readLine(), /^[01]$/)
    const [, inShard] = await child.line(/^(\{"inShard":"all".*)$/)
    assert.deepEqual(JSON.parse(inShard ?? ''), {
      inShard: 'all',
      ports: ready.ready,
      taken: 'EADDRNOTAVAIL',
      names: ready.names,
    })
    const replayed = child.lines.filter(
      (line) => line.includes('"inShard":"first"') && line.includes('"files":[-1]'),
    )
    assert.deepEqual(replayed, Array(2).fill('{"inShard":"first","states":[],"files":[-1]}'))
    child.send('close')
    assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    assert.equal(child.lines.filter((line) => line.startsWith('{"closed"')).length, 3)
    await client.readToEnd()
  })

  for (const how of ['close', 'abort', 'drain'] as const) {
    test(`${how}() of a shard's handle is carried out by the supervisor`, async (t) => {
      const child = t.start('servers/controlled-by-shard', [how])
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
      assert.ok(
        child.lines.includes(`shard 1: ${how} of 2 shards and 2 counters, 2 rendered, fileno true then -1`),
        child.describe(),
      )
      for (const who of ['supervisor', 'shard 0', 'shard 1'])
        assert.ok(child.lines.includes(`${who} saw the end`), child.describe())
    })
  }

  for (const side of ['supervisor', 'shard']) {
    test(`a call that only the ${side} makes fails by name with advice`, async (t) => {
      const child = t.start('servers/conditional-call', [side])
      const [line] = await child.line(/^\{.*ERR_SHARDLOOP_START.*/)
      assert.match(line, /call 1 named \\"conditional\\"/)
      assert.match(line, /startTimeoutMs \(500\)/)
      assert.match(line, /the URL of a module whose default export is the factory/)
      await child.line(/^closed$/)
      assert.deepEqual(await child.untilExit(), { code: 0, signal: null }, child.describe())
    })
  }
})

async function nodeServer(t: TestContext): Promise<NodeServer> {
  const server = createNodeServer()
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  t.defer(() => new Promise((resolve) => server.close(resolve)))
  return server
}
