import assert from 'node:assert/strict'
import { utimesSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { answersOf, endsBySigterm } from './harness/answers.js'
import { fixtureUrl } from './harness/child.js'
import { Project } from './harness/project.js'
import { newestNode, runtimes } from './harness/runtimes.js'
import { forEachEngine, type TestContext } from './harness/suite.js'

const TSX = fileURLToPath(new URL('../../node_modules/tsx/dist/cli.mjs', import.meta.url))
const ATTEMPTS = JSON.stringify(fixtureUrl('servers/attempts').href)

/** Says its port and process, and which shard serves; ends with its standard input, or by a signal. Its first argument is the engine. */
function program(parameter = 'transport'): string {
  return `
async function main({ createServer, isSupervisor, shardId }) {
  const factory = () => ({ connectionMade(${parameter}) {
    transport.write('hello from shard ' + shardId)
    transport.close()
  } })
  const server = await createServer(factory, { host: '127.0.0.1', shards: 2, engine: process.argv[2] })
  if (!isSupervisor) return
  console.log('ready ' + server.addresses[0].port + ' ' + process.pid + ' ' + process.argv.slice(3))
  process.stdin.on('end', () => server.close()).resume().unref()
}`
}

const MODULE = `import * as shardloop from 'shardloop'\n${program()}\nmain(shardloop)`
const COMMONJS = `${program()}\nmain(require('shardloop'))`
const LAZY_COMMONJS = `${program()}\nimport('shardloop').then(main)`
/** Nothing that would need more than its types taken away. */
const TYPED = `import * as shardloop from 'shardloop'
${program('transport: shardloop.Transport').replace('main({ createServer, isSupervisor, shardId })', 'main({ createServer, isSupervisor, shardId }: typeof shardloop): Promise<void>').replace('addresses[0]', 'addresses[0]!')}
main(shardloop)`

function makeProject(t: TestContext): Project {
  const project = new Project(t)
  project.write('server.js', MODULE)
  project.write('commonjs.cjs', COMMONJS)
  project.write('directory/index.js', MODULE)
  project.write('bin/without-extension', MODULE)
  project.write('old/package.json', '{ "type": "commonjs" }')
  project.write('old/server.js', COMMONJS)
  project.write('old/without-extension', COMMONJS)
  project.write('typed.ts', TYPED)
  project.write('typed.mts', TYPED)
  project.write('lazy.cts', LAZY_COMMONJS)
  project.write('typed.cts', COMMONJS)
  project.link('link.js', project.path('server.js'))
  project.link('bin/link', '../server.js')
  return project
}

forEachEngine('an entry that runs again in the shards', (test) => {
  const works = (name: string, args: readonly string[], command: string): void =>
    test(name, async (t) => {
      const child = t.spawn([...args, t.engine, 'one', 'two'], { command, cwd: makeProject(t).directory })
      const [, port, pid] = await child.line(/^ready (\d+) (\d+) one,two$/)
      assert.deepEqual(await answersOf(t, Number(port), 2), ['hello from shard 0', 'hello from shard 1'])
      await endsBySigterm(child, Number(pid))
    })
  for (const [suffix, command] of runtimes) {
    const entries: [what: string, args: string[]][] = [
      ['relative to the working directory', ['server.js']],
      ['without its extension', ['./server']],
      ['a directory', ['directory']],
      ['a symbolic link', ['link.js']],
      ['a symbolic link elsewhere, without an extension', ['bin/link']],
      ['a symbolic link, kept as it is', ['--preserve-symlinks-main', 'link.js']],
      ['a module in a file that has no extension', ['bin/without-extension']],
      ['CommonJS', ['commonjs.cjs']],
      ['CommonJS without its extension', ['old/server']],
      ['CommonJS in a file that has no extension', ['old/without-extension']],
      ['.mts under tsx', [TSX, 'typed.mts']],
      ['.cts under tsx', [TSX, 'lazy.cts']],
      ['.ts without its extension under tsx', ['--import', 'tsx', './typed']],
    ]
    for (const [what, args] of entries) works(`${what}${suffix}`, args, command)
  }
  const onNewest: [what: string, args: string[]][] = [
    ['.ts whose types Node strips', ['typed.ts']],
    ['.mts whose types Node strips', ['typed.mts']],
    ['.cts whose types Node strips', ['typed.cts']],
    ['.ts with --experimental-strip-types', ['--experimental-strip-types', 'typed.ts']],
    // Node 20 cannot link what a .cts requires as an ES module under tsx, before any of our code runs.
    ['.cts that requires the package under tsx', [TSX, 'typed.cts']],
  ]
  for (const [what, args] of onNewest) {
    const name = `${what} on the newest Node`
    if (newestNode === undefined) test.skip(name, 'the newest Node is not installed')
    else works(name, args, newestNode)
  }

  for (const [suffix, command] of runtimes) {
    test(`node --watch starts it again when it changed${suffix}`, async (t) => {
      const project = makeProject(t)
      const child = t.spawn(['--watch', 'server.js', t.engine], { command, cwd: project.directory })
      const [, first] = await child.line(/^ready (\d+) /)
      assert.equal((await answersOf(t, Number(first), 2)).length, 2)
      const from = child.lines.length
      const now = new Date()
      utimesSync(project.path('server.js'), now, now)
      const [, second] = await child.line(/^ready (\d+) /, from)
      assert.equal((await answersOf(t, Number(second), 2)).length, 2)
      child.process.stdin.end()
      await child.line(/^Completed running/, from)
    })
  }
})

forEachEngine('a program without a file', (test, engine) => {
  const attempts = `import(${ATTEMPTS}).then(({ attempt }) => attempt(console.log, '${engine}'))\n`
  const starts: [what: string, args: string[]][] = [
    ['standard input', []],
    ['standard input as -, with arguments', ['-', 'one', 'two']],
    ['a module on standard input', ['--input-type=module']],
    ['the REPL', ['-i']],
    ['node -p', ['-p', attempts]],
  ]
  for (const [suffix, command] of runtimes) {
    for (const [what, args] of starts) {
      test(`${what}: a factory is refused with advice that works${suffix}`, async (t) => {
        const child = t.spawn(args, { command })
        child.process.stdin.write(attempts)
        // The REPL would take its end as a wish to leave.
        if (what !== 'the REPL') child.process.stdin.end()
        const [line] = await child.line(/factory fails: ERR_SHARDLOOP_START .*/)
        assert.match(line, /node -e, standard input or the REPL/)
        assert.match(line, /URL of a module whose default export is the factory, or use shards: 0/)
        await child.line(/url says hello\./)
        await child.line(/local says hello\./)
        child.process.stdin.end()
        assert.equal((await child.untilExit()).code, 0, child.describe())
      })
    }
  }
})
