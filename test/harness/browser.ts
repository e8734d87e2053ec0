import { spawn } from 'node:child_process'
import { once } from 'node:events'
import {
  createReadStream,
  createWriteStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  renameSync,
  rmSync,
} from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { delimiter, join } from 'node:path'
import type { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { createBrotliDecompress } from 'node:zlib'
import type { TestContext } from './suite.js'

/** Of puppeteer's pages what tests use. What runs in the page is given as text: it is typed by another library. */
export interface Page {
  goto(url: string): Promise<unknown>
  evaluate(code: string): Promise<unknown>
  /** Resolves when the code is true. */
  waitForFunction(code: string): Promise<unknown>
  type(selector: string, text: string): Promise<void>
  click(selector: string): Promise<void>
  on(event: 'pageerror', listener: (error: Error) => void): void
  close(): Promise<void>
}

export interface Browser {
  newPage(): Promise<Page>
  close(): Promise<void>
}

interface Puppeteer {
  launch(options: Record<string, unknown>): Promise<Browser>
}

/** How a Chromium is started that does start here. */
export interface BrowserProgram {
  readonly path: string
  readonly env: NodeJS.ProcessEnv
}

const RUNTIMES = fileURLToPath(new URL('../../../test/runtimes/', import.meta.url))
/** Tests may run as root, for whom Chromium has no sandbox. */
const FLAGS = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-zygote']
const ON_PATH = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable']
const START_TIMEOUT_MS = 15_000

/** A Chromium that starts here: that of test/runtimes, else one on the PATH; or why there is none, for `test.skip`. */
export async function findBrowser(): Promise<BrowserProgram | string> {
  if (!existsSync(join(RUNTIMES, 'node_modules', 'puppeteer-core')))
    return 'test/runtimes is not installed: npm ci --ignore-scripts --prefix test/runtimes'
  const problems: string[] = []
  for await (const program of candidates()) {
    const problem = await problemOf(program)
    if (problem === null) return program
    problems.push(`${program.path}: ${problem}`)
  }
  return problems.length === 0 ? 'there is no Chromium' : problems.join('; ')
}

/** A browser of the test's own, closed after it. */
export async function openBrowser(t: TestContext, program: BrowserProgram): Promise<Browser> {
  const browser = await launch(program)
  t.defer(() => browser.close())
  return browser
}

async function* candidates(): AsyncGenerator<BrowserProgram> {
  const { env } = process
  const packed = join(RUNTIMES, 'node_modules', '@sparticuz', 'chromium', 'bin')
  if (process.platform === 'linux' && process.arch === 'x64' && existsSync(packed)) {
    const directory = join(packed, 'unpacked')
    if (!existsSync(directory)) await unpack(packed, directory)
    const path = join(directory, 'chromium')
    yield { path, env }
    // Where the system lacks a library that it wants: the package brings those, too.
    yield { path, env: { ...env, LD_LIBRARY_PATH: join(directory, 'lib') } }
  }
  for (const directory of (env['PATH'] ?? '').split(delimiter)) {
    for (const name of ON_PATH) {
      if (existsSync(join(directory, name))) yield { path: join(directory, name), env }
    }
  }
}

/** Under another name until it is whole. */
async function unpack(packed: string, directory: string): Promise<void> {
  const made = `${directory}.${process.pid}`
  mkdirSync(made, { recursive: true })
  const from = (name: string): Readable => createReadStream(join(packed, name)).pipe(createBrotliDecompress())
  await pipeline(from('chromium.br'), createWriteStream(join(made, 'chromium'), { mode: 0o755 }))
  // What it draws with, beside it, and libraries.
  for (const archive of ['swiftshader.tar.br', 'al2023.tar.br']) {
    const tar = spawn('tar', ['-xf', '-', '-C', made], { stdio: ['pipe', 'inherit', 'inherit'] })
    const ended = once(tar, 'close')
    // tar may end without the padding behind the archive's end: whether all is there is what it says itself.
    const unread: unknown = await pipeline(from(archive), tar.stdin).catch((error: unknown) => error)
    const [code] = (await ended) as [number | null]
    if (code !== 0) throw new Error(`tar ended with ${code} on ${archive}`, { cause: unread })
  }
  renameSync(made, directory)
}

/** `null` when it shows a page. */
async function problemOf(program: BrowserProgram): Promise<string | null> {
  try {
    const browser = await launch(program)
    try {
      await (await browser.newPage()).goto('data:text/html,here')
      return null
    } finally {
      await browser.close()
    }
  } catch (error) {
    return (error as Error).message.trim().split('\n', 1)[0] as string
  }
}

async function launch(program: BrowserProgram): Promise<Browser> {
  const entry = createRequire(join(RUNTIMES, 'package.json')).resolve('puppeteer-core')
  const { default: puppeteer } = (await import(pathToFileURL(entry).href)) as { default: Puppeteer }
  const profile = mkdtempSync(join(tmpdir(), 'shardloop-chromium-'))
  const forget = (): void => rmSync(profile, { recursive: true, force: true, maxRetries: 5 })
  const launched = puppeteer.launch({
    userDataDir: profile,
    executablePath: program.path,
    env: program.env,
    args: FLAGS,
    headless: 'shell',
    pipe: true,
    timeout: START_TIMEOUT_MS,
    handleSIGINT: false,
    handleSIGTERM: false,
    handleSIGHUP: false,
  })
  launched.catch(forget)
  const browser = await launched
  return {
    newPage: () => browser.newPage(),
    close: async () => {
      await browser.close()
      forget()
    },
  }
}
