import type { EventEmitter } from 'node:events'
import { refused } from '../tls/material.js'
import { SharedTls } from '../tls/server-context.js'
import {
  parseTlsServerOptions,
  type TlsServerOptions,
  type TlsServerSettings,
} from '../tls/server-options.js'
import { threadLog } from '../workers/thread-log.js'
import type { ServerEvents } from './server.js'
import { TlsReload } from './tls-reload.js'

/** A server's TLS, from its start to its end: one configuration for all its shards, which is read again when its files change. */
export class ServerTls {
  readonly #shared: SharedTls
  readonly #reload: TlsReload
  #events: EventEmitter<ServerEvents> | null = null
  #name = ''

  /** Reads the files. @throws ShardloopError ERR_SHARDLOOP_OPTION */
  constructor(settings: TlsServerSettings) {
    this.#shared = new SharedTls(settings)
    this.#reload = new TlsReload(this.#shared, {
      reloaded: () => this.#reloaded(),
      failed: (error) => this.#failed(error),
    })
  }

  /** Names it in every thread. */
  get token(): number {
    return this.#shared.token
  }

  /** The server listens: from now on changes of the files are looked for. @param name the server's */
  watch(events: EventEmitter<ServerEvents>, name: string): void {
    this.#events = events
    this.#name = name
    this.#reload.start()
  }

  /** @throws ShardloopError ERR_SHARDLOOP_OPTION, and then all stays as it was */
  reload(options: TlsServerOptions | undefined): void {
    const settings = options === undefined ? undefined : parseTlsServerOptions(options, 'tls.')
    const { upgrade } = this.#shared.settings
    if (settings !== undefined && settings.upgrade !== upgrade)
      throw refused('tls.upgrade', `expected ${upgrade}, as the server has begun with it`)
    this.#shared.reload(settings)
    if (this.#events !== null) this.#reload.start() // it may look at other files, or at other times
    this.#reloaded()
  }

  end(): void {
    this.#reload.stop()
    this.#shared.close()
  }

  #reloaded(): void {
    threadLog().write('info', 'the certificates were read again', { server: this.#name })
    this.#emit('tlsReloaded')
  }

  #failed(error: Error): void {
    threadLog().write('error', `the certificates of before stay: ${error.message}`, {
      server: this.#name,
      err: error,
    })
    this.#emit('tlsReloadFailed', { error })
  }

  /** What a listener throws ends the process as it does anywhere else, and not our own work half-way. */
  #emit<Name extends 'tlsReloaded' | 'tlsReloadFailed'>(name: Name, ...args: ServerEvents[Name]): void {
    try {
      ;(this.#events as EventEmitter | null)?.emit(name, ...args)
    } catch (error) {
      process.nextTick(() => {
        throw error
      })
    }
  }
}
