import { readdirSync, readFileSync } from 'node:fs'
import type { SubprocessProtocol, SubprocessTransport } from '../../src/index.js'
import { Observable } from './deferred.js'

/** A protocol that writes down what happens to a child process. */
export class ProcessRecorder extends Observable implements SubprocessProtocol {
  /** The callbacks in order, without pipeDataReceived; `pipe 1` for pipeConnectionLost. */
  readonly events: string[] = []
  /** What came from descriptor 1 and 2. */
  readonly output: Record<number, Buffer> = { 1: Buffer.alloc(0), 2: Buffer.alloc(0) }
  /** What pipeConnectionLost got. */
  readonly pipeErrors: Record<number, Error | null> = {}
  transport!: SubprocessTransport
  lostWith: Error | null | undefined

  connectionMade(transport: SubprocessTransport): void {
    this.transport = transport
    this.note('made')
  }

  pipeDataReceived(fd: number, data: Buffer): void {
    this.output[fd] = Buffer.concat([this.output[fd] as Buffer, data])
    this.changed()
  }

  pipeConnectionLost(fd: number, error: Error | null): void {
    this.pipeErrors[fd] = error
    this.note(`pipe ${fd}`)
  }

  processExited(): void {
    this.note('exited')
  }

  connectionLost(error: Error | null): void {
    this.lostWith = error
    this.note('lost')
  }

  pauseWriting(): void {
    this.note('pause')
  }

  resumeWriting(): void {
    this.note('resume')
  }

  protected note(event: string): void {
    this.events.push(event)
    this.changed()
  }

  text(fd: 1 | 2): string {
    return String(this.output[fd])
  }

  async noted(event: string): Promise<void> {
    await this.until(() => this.events.includes(event))
  }

  /** Resolves with the return code once all of it is over. */
  async over(): Promise<number> {
    await this.until(() => this.lostWith !== undefined)
    return this.transport.returnCode as number
  }
}

/** Whether a process is there, or is a zombie: its number answers until it is reaped. */
export function isThere(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

/** Whether a process runs: a zombie does not. Where the system does not tell, as `isThere`. */
export function runs(pid: number): boolean {
  if (!isThere(pid)) return false
  try {
    return stateOf(pid) !== 'Z'
  } catch {
    return process.platform !== 'linux'
  }
}

/** The children of this process that have ended and were not reaped. Linux only; empty elsewhere. */
export function zombies(): number[] {
  if (process.platform !== 'linux') return []
  return childrenOf(process.pid).filter((pid) => {
    try {
      return stateOf(pid) === 'Z'
    } catch {
      return false // gone meanwhile
    }
  })
}

/** The children of a process, zombies included. Linux only. */
export function childrenOf(parent: number): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)
    .filter((pid) => {
      try {
        return Number(statOf(pid)[1]) === parent
      } catch {
        return false // gone meanwhile
      }
    })
}

function stateOf(pid: number): string | undefined {
  return statOf(pid)[0]
}

/** What stands behind the name, which may have spaces and parentheses of its own: state, parent … (proc(5)). */
function statOf(pid: number): string[] {
  const text = readFileSync(`/proc/${pid}/stat`, 'utf8')
  return text.slice(text.lastIndexOf(')') + 2).split(' ')
}
