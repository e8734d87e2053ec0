import type { Logger, LogMethod } from '../../src/index.js'
import { Observable } from './deferred.js'

/** A record as a logger got it. */
export interface Logged {
  readonly level: string
  readonly fields: Readonly<Record<string, unknown>>
  readonly message: string
}

/** A logger with nothing but the methods, that keeps what it gets. */
export class RecordingLogger extends Observable implements Logger {
  readonly records: Logged[] = []

  trace: LogMethod = this.#method('trace')
  debug: LogMethod = this.#method('debug')
  info: LogMethod = this.#method('info')
  warn: LogMethod = this.#method('warn')
  error: LogMethod = this.#method('error')
  fatal: LogMethod = this.#method('fatal')

  /** The first record whose message matches, once it is there. */
  async record(message: RegExp): Promise<Logged> {
    const find = (): Logged | undefined => this.records.find((record) => message.test(record.message))
    await this.until(() => find() !== undefined)
    return find() as Logged
  }

  count(message: RegExp): number {
    return this.records.filter((record) => message.test(record.message)).length
  }

  #method(level: string): LogMethod {
    return (fields: object | string, message: string = ''): void => {
      this.records.push(
        typeof fields === 'string'
          ? { level, fields: {}, message: fields }
          : { level, fields: fields as Logged['fields'], message },
      )
      this.changed()
    }
  }
}
