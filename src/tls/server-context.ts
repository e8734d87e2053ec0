import { brand } from '../brand.js'
import type { NativeTlsServer, TlsServer } from '../native/binding.js'
import { native } from '../native/index.js'
import { refusedByNative } from './common-options.js'
import type { FileStamps } from './material.js'
import {
  parseTlsServerOptions,
  readTlsServer,
  type TlsServerOptions,
  type TlsServerSettings,
} from './server-options.js'

/**
 * A server's side of TLS for `transport.startTls({ server: context })`, where a server has none of its own, or another one is
 * wanted. It belongs to its thread; connections of it go on when it is closed or collected.
 */
export class TlsServerContext {
  readonly #server: TlsServer

  /** Reads the files. @throws ShardloopError ERR_SHARDLOOP_OPTION */
  constructor(options: Omit<TlsServerOptions, 'reload' | 'upgrade'>) {
    const settings = parseTlsServerOptions(options, '')
    this.#server = makeTlsServer(readTlsServer(settings, new Map()), 'tls')
  }

  /** Reads the files again, or takes other options, for new handshakes. @throws ShardloopError ERR_SHARDLOOP_OPTION; the old ones go on */
  reload(options: Omit<TlsServerOptions, 'reload' | 'upgrade'>): void {
    const read = readTlsServer(parseTlsServerOptions(options, ''), new Map())
    refusing('tls', () => this.#server.reload(read))
  }

  /** @internal By which native code knows it. */
  get token(): number {
    return this.#server.token()
  }

  /** It is for no new handshakes any more. */
  close(): void {
    this.#server.close()
  }
}

brand(TlsServerContext, 'tls-server-context')

/** See {@link TlsServerContext}. */
export function createTlsServerContext(
  options: Omit<TlsServerOptions, 'reload' | 'upgrade'>,
): TlsServerContext {
  return new TlsServerContext(options)
}

/** What all shards of a server share of TLS, as the supervisor owns it. */
export class SharedTls {
  readonly #server: TlsServer
  #settings: TlsServerSettings
  #files: FileStamps = new Map()

  /** Reads the files. @throws ShardloopError ERR_SHARDLOOP_OPTION */
  constructor(settings: TlsServerSettings) {
    this.#settings = settings
    this.#server = makeTlsServer(readTlsServer(settings, this.#files), 'tls')
  }

  get token(): number {
    return this.#server.token()
  }

  get settings(): TlsServerSettings {
    return this.#settings
  }

  /** The files of the last attempt, whether or not it failed. */
  get files(): ReadonlyMap<string, string> {
    return this.#files
  }

  /**
   * Reads the files again.
   * @param settings those to take from now on
   * @param seen what the files are, as far as that is known
   * @throws ShardloopError ERR_SHARDLOOP_OPTION, and then all stays as it was
   */
  reload(settings: TlsServerSettings = this.#settings, seen: ReadonlyMap<string, string> = new Map()): void {
    const files: FileStamps = new Map()
    try {
      const read = readTlsServer(settings, files)
      refusing('tls', () => this.#server.reload(read))
    } catch (error) {
      // What was seen now is not tried again; of those that it did not come to, what was seen before.
      if (settings === this.#settings) this.#files = new Map([...this.#files, ...seen, ...files])
      throw error
    }
    this.#settings = settings
    this.#files = files
  }

  close(): void {
    this.#server.close()
  }
}

function makeTlsServer(options: NativeTlsServer, name: string): TlsServer {
  return refusing(name, () => new native.TlsServer(options))
}

function refusing<Value>(name: string, call: () => Value): Value {
  try {
    return call()
  } catch (error) {
    throw refusedByNative(name, error)
  }
}
