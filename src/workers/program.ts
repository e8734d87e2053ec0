import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

/** tsx's own interface for `node:module`'s hooks. */
interface TsxApi {
  register(): unknown
}

/** Imports what the program runs in a shard: its entry, for servers made of a factory. */
export class Program {
  readonly #entry: string | null
  readonly #tsxApi: string | null
  #evaluation: Promise<void> | null = null
  #tsx: Promise<void> | null = null

  constructor(entry: string | null, tsxApi: string | null) {
    this.#entry = entry
    this.#tsxApi = tsxApi
    // So that a module's `import.meta.url === argv[1]` guard answers as it does on the main thread.
    process.argv[1] = entry ?? ''
    if (entry === null) process.argv.splice(1, 1)
  }

  /**
   * Lets this thread import TypeScript. `--import tsx` is inherited by workers, but tsx registers its hooks on the
   * main thread only (always on Node 20), and those do not reach workers.
   */
  registerTsx(): Promise<void> {
    this.#tsx ??= registerTsx(this.#tsxApi)
    return this.#tsx
  }

  /** Evaluates the entry once; rejects with what it threw. */
  evaluateEntry(): Promise<void> {
    this.#evaluation ??= this.#evaluate()
    return this.#evaluation
  }

  async #evaluate(): Promise<void> {
    const entry = this.#entry
    if (entry === null) throw new Error('invariant: the supervisor refuses a factory without an entry')
    await this.registerTsx()
    // As Node does for its main module: `node server` may mean server.js or server/index.js.
    const file = createRequire(entry).resolve(entry)
    await import(pathToFileURL(file).href)
  }
}

/** Lets the calling thread import TypeScript; null: the program does not run under tsx. To be called once in a thread. */
export async function registerTsx(tsxApi: string | null): Promise<void> {
  if (tsxApi === null) return
  const api = (await import(tsxApi)) as TsxApi
  api.register()
}
