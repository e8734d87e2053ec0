import { type ChildProcessByStdio, spawn } from 'node:child_process'
import type { Readable, Writable } from 'node:stream'
import { fileURLToPath } from 'node:url'
import { Observable } from './deferred.js'

export interface ChildExit {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
}

export interface ChildOptions {
  /** The program; this Node by default. */
  readonly command?: string
  readonly env?: Readonly<Record<string, string>>
  readonly cwd?: string
}

const living = new Set<Child>()
process.on('exit', () => {
  for (const child of living) child.kill('SIGKILL')
})

/** A process that a test started, with its lines. Ends with the test's process at the latest. */
export class Child extends Observable {
  readonly process: ChildProcessByStdio<Writable, Readable, Readable>
  /** Complete lines of standard output. */
  readonly lines: string[] = []
  stdout = ''
  stderr = ''
  exit: ChildExit | undefined
  #failure: Error | undefined

  constructor(args: readonly string[], options: ChildOptions = {}) {
    super()
    const child = spawn(options.command ?? process.execPath, args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
    })
    this.process = child
    living.add(this)
    child.stdin.on('error', () => {})
    let rest = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      this.stdout += text
      const lines = (rest + text).split('\n')
      rest = lines.pop() ?? ''
      this.lines.push(...lines)
      this.changed()
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      this.stderr += text
      this.changed()
    })
    child.once('error', (error) => {
      this.#failure = error
      living.delete(this)
      this.changed()
    })
    // 'close' comes after the last output, 'exit' may come before it.
    child.once('close', (code, signal) => {
      living.delete(this)
      this.exit = { code, signal }
      this.changed()
    })
  }

  get pid(): number {
    if (this.process.pid === undefined) throw this.#failure ?? new Error('the process did not start')
    return this.process.pid
  }

  /** The first line from the `from`th on that matches. Rejects, with all its output, when the process ends before. */
  async line(pattern: RegExp, from = 0): Promise<RegExpExecArray> {
    const find = (): RegExpExecArray | undefined => {
      for (const line of this.lines.slice(from)) {
        const match = pattern.exec(line)
        if (match !== null) return match
      }
      return undefined
    }
    await this.until(() => find() !== undefined || this.exit !== undefined || this.#failure !== undefined)
    const match = find()
    if (match !== undefined) return match
    throw this.#failure ?? new Error(`no line ${pattern} before the end:\n${this.describe()}`)
  }

  /** Sends a line and returns the first answer that matches, of those printed from now on. */
  async ask(line: string, pattern: RegExp): Promise<RegExpExecArray> {
    const from = this.lines.length
    this.send(line)
    return await this.line(pattern, from)
  }

  send(line: string): void {
    this.process.stdin.write(`${line}\n`)
  }

  async untilExit(): Promise<ChildExit> {
    await this.until(() => this.exit !== undefined || this.#failure !== undefined)
    if (this.exit === undefined) throw this.#failure
    return this.exit
  }

  /** By its pid, and only while it is ours. */
  kill(signal: NodeJS.Signals): void {
    if (this.process.exitCode === null && this.process.signalCode === null) this.process.kill(signal)
  }

  /** What it printed and how it ended; for messages. */
  describe(): string {
    const end = this.exit === undefined ? 'running' : `code ${this.exit.code}, signal ${this.exit.signal}`
    return `${this.process.spawnargs.join(' ')} (${end})\n${this.stdout}${this.stderr}`
  }
}

/** The compiled file of a fixture. */
export function fixtureUrl(name: string): URL {
  return new URL(`../fixtures/${name}.js`, import.meta.url)
}

/** Starts a fixture as a process of its own. */
export function startFixture(name: string, args: readonly string[] = [], options: ChildOptions = {}): Child {
  return new Child([fileURLToPath(fixtureUrl(name)), ...args], options)
}
