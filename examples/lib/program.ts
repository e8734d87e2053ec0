import type { EngineName } from 'shardloop'

/** A flag's number. What is none stays as it is, for createServer to refuse by name. */
export function number(text: string): number {
  return /^\d+$/.test(text) ? Number(text) : (text as unknown as number)
}

/** A flag's engine; the same. */
export function engine(text: string): EngineName | 'auto' {
  return text as EngineName
}

/** Ends a program that could not start: one line, and 2 for wrong flags, as shells do, else 1. */
export function failure(program: string): (error: Error & { code?: string }) => void {
  return ({ code = '', message }) => {
    console.error(`${program}: ${message.split('\n', 1)[0]}`)
    process.exitCode = /^ERR_(PARSE_ARGS|SHARDLOOP_OPTION)/.test(code) ? 2 : 1
  }
}
