import assert from 'node:assert/strict'
import { suite } from 'uvu'
import { createServer, type ServerOptions } from '../src/index.js'
import { cgroupCpuQuota, parseCfsQuota, parseCpuMax, shardsFor } from '../src/server/cpu-quota.js'
import { parseDeadline, parseOptions } from '../src/server/options.js'
import { startFixture } from './harness/child.js'
import { assertCode, assertRejects, assertThrows } from './harness/suite.js'

const factory = (): object => ({})
const parse = (options: unknown, balances = true): ReturnType<typeof parseOptions> =>
  parseOptions(factory, options, balances)

const options = suite('options')

options('have the documented defaults', () => {
  assert.deepEqual(parse({}), {
    hosts: null,
    port: 0,
    backlog: 4096,
    ipv6Only: false,
    shards: null,
    maxRestarts: null,
    stallAfterMs: 1000,
    killAfterMs: 0,
    restartWindowMs: null,
    resourceLimits: null,
    executor: null,
    engine: null,
    balance: 'reuseport',
    name: undefined,
    noDelay: true,
    moderation: true,
    path: null,
    socketMode: null,
    startTimeoutMs: 10_000,
    drainTimeoutMs: 10_000,
    signals: true,
    writeHighBytes: 65_536,
    writeLowBytes: 16_384,
    writeMaxBytes: 67_108_864,
    idleTimeoutMs: 0,
    tls: null,
    logger: undefined,
    logLevel: null,
    exceptionHandler: undefined,
    signal: undefined,
  })
})

options('are frozen, and are what was given', () => {
  const handler = (): void => {}
  const log = (): void => {}
  const logger = { trace: log, debug: log, info: log, warn: log, error: log, fatal: log }
  const given = {
    host: ['127.0.0.1', '::1'],
    port: 8000,
    backlog: 1,
    ipv6Only: true,
    shards: 256,
    maxRestarts: 0,
    stallAfterMs: 50,
    killAfterMs: 2_147_483_647,
    restartWindowMs: 1,
    resourceLimits: {
      maxOldGenerationSizeMb: 64,
      maxYoungGenerationSizeMb: 0.5,
      codeRangeSizeMb: 8,
      stackSizeMb: 2,
    },
    engine: 'mio',
    balance: 'shared',
    name: 'chat',
    noDelay: false,
    moderation: false,
    startTimeoutMs: 1,
    drainTimeoutMs: 0,
    signals: false,
    writeHighBytes: 100,
    writeLowBytes: 0,
    writeMaxBytes: 100,
    idleTimeoutMs: 5,
    logger,
    logLevel: 'silent',
    exceptionHandler: handler,
  } as const
  const { host, ...rest } = given
  const settings = parse(given)
  assert.deepEqual(settings, {
    ...rest,
    hosts: host,
    path: null,
    signal: undefined,
    socketMode: null,
    executor: null,
    tls: null,
  })
  assert.ok(Object.isFrozen(settings))
  assert.ok(Object.isFrozen(settings.hosts))
  assert.ok(Object.isFrozen(settings.resourceLimits))
})

options('of undefined are as good as none', () => {
  assert.deepEqual(parse({ host: undefined, port: undefined, shards: undefined, name: undefined }), parse({}))
})

options('follow each other where one is left out', () => {
  assert.equal(parse({ writeHighBytes: 1000 }).writeLowBytes, 250)
  assert.equal(
    parse({ writeHighBytes: 2 ** 30 }).writeMaxBytes,
    2 ** 30,
    'the bound rises with the watermark',
  )
  assert.equal(parse({}, false).balance, 'shared', 'where the kernel does not balance')
  assert.ok((parse({ shards: 'auto' }).shards ?? 0) >= 1)
  assert.equal(parse({ engine: 'auto' }).engine, null, 'as if it were not given')
  assert.equal(parse({ engine: 'tokio' }).engine, 'tokio')
  assert.deepEqual(parse({ host: 'localhost' }).hosts, ['localhost'])
})

options('of the executor are refused by names of their own', () => {
  const cases: [executor: unknown, message: RegExp][] = [
    [1, /: option executor: expected an object with some of maxThreads, .*, given 1$/],
    [{ threads: 1 }, /none but maxThreads, .* \(there is 'threads'\)/],
    [{ maxThreads: 0 }, /: option executor.maxThreads: expected an integer from 1 to 256, given 0$/],
    [{ maxThreads: 257 }, /given 257$/],
    [{ maxQueue: -1 }, /: option executor.maxQueue: expected an integer from 0 to 65536, given -1$/],
    [{ maxQueue: 65_537 }, /given 65537$/],
    [{ idleTimeoutMs: '1' }, /: option executor.idleTimeoutMs: .*given '1'$/],
    [{ resourceLimits: { stackSizeMb: 0 } }, /: option executor.resourceLimits.stackSizeMb: /],
    [{ tasks: [] }, /: option executor.tasks: expected an object with URLs/],
    [{ tasks: { 'a/b': 'file:///a.js' } }, /: option executor.tasks: expected names .*given 'a\/b'$/],
    [{ tasks: { ['x'.repeat(129)]: 'file:///a.js' } }, /: option executor.tasks: expected names of 1 to 128/],
    [
      { tasks: { a: './a.js' } },
      /: option executor.tasks.a: expected a file: or data: URL, given '.\/a.js'$/,
    ],
  ]
  for (const [executor, message] of cases) {
    assertThrows(() => parse({ executor }), 'ERR_SHARDLOOP_OPTION')
    assert.throws(() => parse({ executor }), message)
  }
  const tasks = { hash: new URL('file:///hash.js'), __proto__: null }
  const settings = parse({ executor: { maxThreads: 2, maxQueue: 0, idleTimeoutMs: undefined, tasks } })
  const { executor } = settings
  assert.ok(Object.isFrozen(executor) && Object.isFrozen(executor?.tasks))
  assert.deepEqual(
    { ...executor, tasks: { ...executor?.tasks } },
    {
      maxThreads: 2,
      maxQueue: 0,
      idleTimeoutMs: null,
      resourceLimits: null,
      tasks: { hash: 'file:///hash.js' },
    },
  )
})

/** Each is refused by its name, with what was given and what was expected. */
const WRONG: readonly [name: string, value: unknown, message: RegExp][] = [
  ['host', '', /an address or a host name.*given ''$/],
  ['host', [], /1 to 64 of them, given \[\]$/],
  ['host', ['127.0.0.1', 7], /given \[ '127.0.0.1', 7 \]$/],
  ['host', Array(65).fill('a'), /given \[/],
  ['host', 'a\0b', /a host name/],
  ['host', 'fe80::1%eth0', /a host name/],
  ['port', -1, /an integer from 0 to 65535, given -1$/],
  ['port', 65536, /given 65536$/],
  ['port', '8000', /given '8000'$/],
  ['port', 1.5, /given 1.5$/],
  ['port', Number.NaN, /given NaN$/],
  ['port', null, /given null$/],
  ['backlog', 0, /from 1 to 2147483647, given 0$/],
  ['ipv6Only', 'yes', /true or false, given 'yes'$/],
  ['shards', -1, /'auto' or an integer from 0 to 256, given -1$/],
  ['shards', 257, /given 257$/],
  ['shards', 'many', /given 'many'$/],
  ['shards', 1.5, /given 1.5$/],
  ['maxRestarts', -1, /an integer from 0 to 10000, given -1$/],
  ['maxRestarts', Number.POSITIVE_INFINITY, /given Infinity$/],
  ['restartWindowMs', 0, /an integer from 1 to 2147483647, given 0$/],
  ['resourceLimits', 64, /an object with some of maxOldGenerationSizeMb, .*, given 64$/],
  ['resourceLimits', null, /given null$/],
  ['resourceLimits', [64], /given \[ 64 \]$/],
  ['resourceLimits', { maxHeapMb: 64 }, /none but maxOldGenerationSizeMb, .*, given { maxHeapMb: 64 }$/],
  ['engine', 'epoll', /'auto' or 'mio' or 'tokio', given 'epoll'$/],
  ['engine', null, /given null$/],
  ['balance', 'round-robin', /'reuseport' or 'shared', given 'round-robin'$/],
  ['name', '', /1 to 128 characters, given ''$/],
  ['name', 'x'.repeat(129), /given 'x{79}…$/],
  ['noDelay', 1, /true or false, given 1$/],
  ['moderation', 'off', /true or false, given 'off'$/],
  ['startTimeoutMs', 0, /from 1 to/],
  ['startTimeoutMs', Number.POSITIVE_INFINITY, /given Infinity$/],
  ['drainTimeoutMs', -1, /from 0 to 2147483647, given -1$/],
  ['signals', 'SIGTERM', /true or false/],
  ['writeHighBytes', 0, /from 1 to/],
  ['writeLowBytes', 65_537, /no more than writeHighBytes \(65536\), given 65537$/],
  ['writeMaxBytes', 1000, /no less than writeHighBytes \(65536\), given 1000$/],
  ['idleTimeoutMs', 2 ** 31, /given 2147483648$/],
  ['exceptionHandler', 'print', /a function, given 'print'$/],
  [
    'logger',
    null,
    /a logger: an object with the methods trace, debug, info, warn, error, fatal, given null$/,
  ],
  ['logger', { info: () => {} }, /\(it lacks trace, debug, warn, error, fatal\), given \{ info: .*$/],
  ['logLevel', 'verbose', /one of 'trace', 'debug', .*'silent', given 'verbose'$/],
  ['logLevel', 30, /given 30$/],
]

for (const [name, value, message] of WRONG) {
  const shown = JSON.stringify(value)?.slice(0, 40) ?? String(value)
  options(`${name}: ${shown} is refused by name`, async () => {
    const error = await createServer(factory, { [name]: value } as ServerOptions).catch(
      (reason: unknown) => reason,
    )
    const { message: text } = assertCode(error, 'ERR_SHARDLOOP_OPTION')
    assert.match(text, new RegExp(`^option ${name}: expected `))
    assert.match(text, message)
  })
}

options('of resourceLimits are refused by their own names', () => {
  for (const wrong of [0, -1, '64', null, Number.NaN, 2 ** 20 + 1]) {
    assert.throws(() => parse({ resourceLimits: { maxOldGenerationSizeMb: wrong } }), {
      code: 'ERR_SHARDLOOP_OPTION',
      message:
        /^option resourceLimits\.maxOldGenerationSizeMb: expected MiB, above 0 and at most 1048576, given /,
    })
  }
  assert.deepEqual(parse({ resourceLimits: { stackSizeMb: undefined } }).resourceLimits, {})
})

options('that do not exist are refused by name, with those that do', async () => {
  const error = await createServer(factory, { hots: '::' } as ServerOptions).catch(
    (reason: unknown) => reason,
  )
  const { message } = assertCode(error, 'ERR_SHARDLOOP_OPTION')
  assert.match(message, /^unknown option 'hots'; known are .*\bhost, port, .*exceptionHandler$/)
})

options('that are no object are refused', async () => {
  for (const wrong of [null, 8000, '::', [], factory]) {
    await assertRejects(() => createServer(factory, wrong as ServerOptions), 'ERR_SHARDLOOP_OPTION')
  }
})

options('that contradict each other are refused', () => {
  const module = new URL('file:///module.js')
  assertThrows(() => parse({ host: '127.0.0.1', ipv6Only: true }), 'ERR_SHARDLOOP_OPTION')
  assert.ok(parse({ host: ['127.0.0.1', '::1'], ipv6Only: true }).ipv6Only, 'as one of them is IPv6')
  assertThrows(() => parse({ balance: 'reuseport' }, false), 'ERR_SHARDLOOP_OPTION')
  assertThrows(() => parseOptions(module, { exceptionHandler: () => {} }, true), 'ERR_SHARDLOOP_OPTION')
  const log = (): void => {}
  const logger = { trace: log, debug: log, info: log, warn: log, error: log, fatal: log }
  assertThrows(() => parseOptions(module, { logger }, true), 'ERR_SHARDLOOP_OPTION')
  assert.equal(parseOptions(module, { logLevel: 'info' }, true).logLevel, 'info')
})

options('are checked like the source, before anything starts', async () => {
  for (const wrong of [
    undefined,
    null,
    {},
    'file:///module.js',
    new URL('https://example.invalid/module.js'),
  ]) {
    await assertRejects(() => createServer(wrong as URL), 'ERR_SHARDLOOP_ARGUMENT')
  }
  assert.deepEqual(
    process.getActiveResourcesInfo().filter((name) => /worker|poll/i.test(name)),
    [],
  )
})

options('of drain are checked alike', () => {
  assert.equal(parseDeadline(undefined), null)
  assert.equal(parseDeadline({}), null)
  assert.equal(parseDeadline({ deadlineMs: 0 }), 0)
  for (const wrong of [{ deadlineMs: -1 }, { deadlineMs: '5' }, { deadline: 5 }, 5, null]) {
    assertThrows(() => parseDeadline(wrong), 'ERR_SHARDLOOP_OPTION')
  }
})

options('as flags of the echo example: one line and exit code 2', async () => {
  const cases: [string[], RegExp][] = [
    [['--port', 'x'], /^echo: option port: .*\n$/],
    [['--port', ''], /^echo: option port: .*\n$/],
    [['--shards', '-1'], /^echo: .*--shards.*\n$/],
    [['--shards', '1000'], /^echo: option shards: .*\n$/],
    [['--engine', 'epoll'], /^echo: option engine: .*\n$/],
    [['--mode', 'fast'], /^echo: --mode: expected chunk, borrowed or stream, given fast\n$/],
    [['--bogus'], /^echo: .*'--bogus'.*\n$/],
    [['stray'], /^echo: .*'stray'.*\n$/],
  ]
  for (const [flags, message] of cases) {
    const child = startFixture('../../examples/echo', flags)
    assert.deepEqual(await child.untilExit(), { code: 2, signal: null }, child.describe())
    assert.match(child.stderr, message)
    assert.equal(child.stdout, '')
  }
})

options.run()

const quota = suite("shards: 'auto'")

quota('is the parallelism, the quota rounded up, or 1, whichever is least', () => {
  assert.equal(shardsFor(8, Number.POSITIVE_INFINITY), 8)
  assert.equal(shardsFor(8, 1.5), 2)
  assert.equal(shardsFor(8, 2), 2)
  assert.equal(shardsFor(8, 0.1), 1)
  assert.equal(shardsFor(2, 64), 2)
  assert.equal(shardsFor(1024, Number.POSITIVE_INFINITY), 256)
})

quota('reads cpu.max of cgroup v2', () => {
  assert.equal(parseCpuMax('150000 100000\n'), 1.5)
  assert.equal(parseCpuMax('50000 100000'), 0.5)
  for (const none of ['max 100000\n', '', 'x y', '100000', '-1 100000', '0 100000', '1 0', null]) {
    assert.equal(parseCpuMax(none), Number.POSITIVE_INFINITY, String(none))
  }
})

quota('reads cpu.cfs_quota_us of cgroup v1', () => {
  assert.equal(parseCfsQuota('250000\n', '100000\n'), 2.5)
  for (const none of [
    ['-1', '100000'],
    [null, '100000'],
    ['100000', null],
    ['', ''],
    ['1', '0'],
  ] as const) {
    assert.equal(parseCfsQuota(none[0], none[1]), Number.POSITIVE_INFINITY, String(none))
  }
})

const cgroup = (files: Record<string, string>): number => cgroupCpuQuota((path) => files[path] ?? null)

quota('takes the tightest of the groups above, v2', () => {
  const files = {
    '/proc/self/cgroup': '0::/system.slice/app:1.service\n',
    '/sys/fs/cgroup/system.slice/app:1.service/cpu.max': 'max 100000',
    '/sys/fs/cgroup/system.slice/cpu.max': '300000 100000',
  }
  assert.equal(cgroup(files), 3)
  assert.equal(cgroup({ ...files, '/sys/fs/cgroup/system.slice/app:1.service/cpu.max': '50000 100000' }), 0.5)
})

quota('reads the root of a container, v2', () => {
  assert.equal(cgroup({ '/proc/self/cgroup': '0::/\n', '/sys/fs/cgroup/cpu.max': '200000 100000' }), 2)
  assert.equal(cgroup({ '/proc/self/cgroup': '0::/../../x\n', '/sys/fs/cgroup/cpu.max': '200000 100000' }), 2)
})

quota('reads the cpu controller wherever it is mounted, v1', () => {
  const membership = '5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/\n'
  const quotaOf = (directory: string, us: string): Record<string, string> => ({
    '/proc/self/cgroup': membership,
    [`${directory}/cpu.cfs_quota_us`]: us,
    [`${directory}/cpu.cfs_period_us`]: '100000',
  })
  assert.equal(cgroup(quotaOf('/sys/fs/cgroup/cpu,cpuacct/docker/abc', '400000')), 4)
  assert.equal(cgroup(quotaOf('/sys/fs/cgroup/cpu,cpuacct', '100000')), 1)
  assert.equal(cgroup(quotaOf('/sys/fs/cgroup/cpu/docker', '700000')), 7)
  assert.equal(cgroup(quotaOf('/sys/fs/cgroup/memory/docker/abc', '1')), Number.POSITIVE_INFINITY)
})

quota('knows no limit without cgroups', () => {
  assert.equal(cgroup({}), Number.POSITIVE_INFINITY)
  assert.equal(cgroup({ '/proc/self/cgroup': 'nonsense\n\n' }), Number.POSITIVE_INFINITY)
})

quota.run()
