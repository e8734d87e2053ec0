import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import { ROOT } from '../bench/load.js'
import { readLoadtestArguments } from '../bench/loadtest/arguments.js'
import { percentileCurve, percentileTitle } from '../bench/loadtest/percentile-curve.js'
import { factsOf, type HttpRun, runImage, runPage } from '../bench/loadtest/plot.js'

const test = suite('loadtest http')

const RUN: HttpRun = {
  addr: '127.0.0.1:80',
  request: 'GET /<x>',
  connections: 64,
  pipeline: 2,
  newConnection: false,
  ratePerSec: 1000,
  secs: 2,
  requests: 1990,
  requestsPerSec: 995,
  bytesPerSec: 2_000_000,
  statuses: { '2xx': 2000, '5xx': 1 },
  unsent: 10,
  lostRequests: 0,
  failures: { first: 'GET /<x> was answered with status 503' },
  errors: { status: 1, closed: 0 },
  curve: [
    [0, 50],
    [0.5, 100],
    [0.9, 1000],
    [1, 20_000],
  ],
  uncorrectedCurve: [
    [0, 50],
    [1, 400],
  ],
  seconds: [
    { secs: 1, requests: 1000, p50: 100, p99: 900, errors: 0 },
    { secs: 1, requests: 990, p50: 110, p99: 20_000, errors: 1 },
  ],
}
const DATE = new Date(0)

test('the plot has a line corrected and one uncorrected, and what happened each second', () => {
  for (const drawn of [runPage(RUN, DATE), runImage(RUN, DATE)]) {
    assert.equal(drawn.match(/class="curve/g)?.length, 2)
    for (const text of [
      'from when a request was due',
      'not corrected',
      'requests/s',
      'errors/s',
      'p99 of each',
    ])
      assert.ok(drawn.includes(text), text)
    assert.ok(drawn.includes('GET /&lt;x&gt;') && !drawn.includes('<x>'))
    assert.ok(!/NaN|undefined|Infinity/.test(drawn))
  }
})

test('without a rate there is one line, without errors no plot of them', () => {
  const run = { ...RUN, ratePerSec: null, uncorrectedCurve: null, errors: {}, failures: { first: null } }
  const page = runPage({ ...run, seconds: RUN.seconds.map((second) => ({ ...second, errors: 0 })) }, DATE)
  assert.equal(page.match(/class="curve/g)?.length, 1)
  assert.ok(!page.includes('errors/s') && page.includes('no errors'))
})

test('a run in which nothing was answered is drawn, too', () => {
  const drawn = runImage({ ...RUN, curve: [], uncorrectedCurve: [], seconds: [], statuses: {} }, DATE)
  assert.ok(!/NaN|undefined|Infinity/.test(drawn))
  assert.ok(drawn.includes('no responses'))
})

test('the facts say how much there was, and the first error', () => {
  const [how, what] = factsOf(RUN, DATE)
  assert.match(
    how ?? '',
    /^1970-01-01 00:00 UTC, 2\.0 s\. 64 connections, kept alive, 2 in flight.* 10 found no room/,
  )
  assert.match(what ?? '', /^1,990 requests, 995\/s, 2\.0 MB\/s; 2xx 2,000, 5xx 1; 1 errors, the first: GET/)
})

test('percentiles are called by their nines, and each nine is as wide as the last', () => {
  assert.deepEqual([0, 0.5, 0.99, 0.999, 1 - 1e-5].map(percentileTitle), [
    'min',
    'p50',
    'p99',
    'p99.9',
    'p99.999',
  ])
  const points = [0, 0.9, 0.99, 0.999].map((share) => [share, 100] as const)
  const drawn = /points="([^"]+)"/.exec(percentileCurve([{ title: '', points }]))?.[1] ?? ''
  const [min, one, two, three] = drawn.split(' ').map((point) => Number(point.split(',')[0])) as number[]
  for (const width of [Number(two) - Number(one), Number(three) - Number(two)])
    assert.ok(Math.abs(width - (Number(one) - Number(min))) < 0.3, drawn)
})

test('--plot is taken out of the arguments, and --json alone draws nothing', () => {
  const read = (...args: string[]): unknown => readLoadtestArguments(['http', ...args], 'usual.html')
  const rest = ['http', '--url', 'u']
  const base = { rest, out: null, isQuiet: false }
  assert.deepEqual(read('--url', 'u'), { ...base, plot: 'usual.html' })
  assert.deepEqual(read('--plot', 'a.svg', '--url', 'u'), { ...base, plot: 'a.svg' })
  assert.deepEqual(read('--url', 'u', '--plot=b.html'), { ...base, plot: 'b.html' })
  assert.deepEqual(read('--json'), { rest: ['http', '--json'], out: null, isQuiet: true, plot: null })
  assert.deepEqual(read('--out=c.json'), {
    ...base,
    rest: ['http', '--out=c.json'],
    out: 'c.json',
    plot: 'usual.html',
  })
  assert.deepEqual(read('--help'), { ...base, rest: ['http', '--help'], plot: null })
  assert.throws(() => read('--plot', 'a.png'), /--plot: a\.png ends with neither/)
  assert.throws(() => read('--plot'), /--plot: no file is named/)
})

interface Ended {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** Runs the command in a directory of its own against a server that answers with `status`. */
async function loadtest(
  status: number,
  args: readonly string[],
): Promise<Ended & { read(name: string): string | null }> {
  const directory = mkdtempSync(join(tmpdir(), 'shardloop-loadtest-'))
  const server = createServer((_request, response) => response.writeHead(status).end('hello'))
  try {
    const url = `http://127.0.0.1:${await listen(server)}/`
    const all = ['http', '--url', url, '--secs', '0.4', '--warmup', '0', '--conns', '2', ...args]
    const program = [join(ROOT, 'dist', 'bench', 'loadtest', 'run.js'), ...all]
    const ended = await output(spawn(process.execPath, program, { cwd: directory, stdio: 'pipe' }))
    const files = new Map(
      ['plot.svg', 'plot.html', 'run.json'].map((name): [string, string | null] => {
        const file = join(directory, name)
        return [name, existsSync(file) ? readFileSync(file, 'utf8') : null]
      }),
    )
    return { ...ended, read: (name) => files.get(name) ?? null }
  } finally {
    server.closeAllConnections()
    server.close()
    rmSync(directory, { recursive: true })
  }
}

async function listen(server: Server): Promise<number> {
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return (server.address() as AddressInfo).port
}

async function output(child: ChildProcess): Promise<Ended> {
  let [stdout, stderr] = ['', '']
  child.stdout?.setEncoding('utf8').on('data', (text: string) => {
    stdout += text
  })
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  const [code] = (await once(child, 'close')) as [number | null]
  return { code, stdout, stderr }
}

test('the command loads, tells, and draws where it is told', async () => {
  const { code, stdout, read } = await loadtest(200, [
    '--plot',
    'plot.svg',
    '--rate',
    '500',
    '--out',
    'run.json',
  ])
  assert.equal(code, 0, stdout)
  assert.match(stdout, /^requests +\d+ .*\n(.*\n)*corrected +p50.*\nuncorrected +p50/m)
  assert.match(stdout, /^plot +plot\.svg$/m)
  assert.ok(read('plot.svg')?.startsWith('<svg xmlns'))
  assert.ok((JSON.parse(read('run.json') ?? '') as HttpRun).requests > 100)
})

test('with --json its output is the one line, with a plot too', async () => {
  const { code, stdout, stderr, read } = await loadtest(200, ['--plot', 'plot.html', '--json'])
  assert.equal(code, 0, stderr)
  assert.ok((JSON.parse(stdout) as HttpRun).requests > 10)
  assert.match(stderr, /^plot +plot\.html$/m)
  assert.ok(read('plot.html')?.startsWith('<!doctype html>'))
})

test('errors of the server end it with 1 and are drawn; wrong options with 2, and nothing is', async () => {
  const failed = await loadtest(503, ['--plot', 'plot.html'])
  assert.equal(failed.code, 1)
  assert.match(failed.stdout, /^failures +\d+ by status; first: GET \/ was answered with status 503$/m)
  assert.ok(failed.read('plot.html')?.includes('status 503'))
  const wrong = await loadtest(200, ['--plot', 'plot.html', '--rate', '0'])
  assert.equal(wrong.code, 2)
  assert.match(wrong.stderr, /--rate/)
  assert.equal(wrong.read('plot.html'), null)
})

test.run()
