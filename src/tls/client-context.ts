import { brand } from '../brand.js'
import type { TlsClient } from '../native/binding.js'
import { native } from '../native/index.js'
import { wrong } from '../server/given-options.js'
import { threadSingletonGetter } from '../workers/thread-singleton.js'
import {
  parseTlsClientOptions,
  readTlsClient,
  serverNameOf,
  type TlsClientOptions,
} from './client-options.js'
import { refusedByNative, SERVER_NAME_EXPECTED } from './common-options.js'
import { refused } from './material.js'

/**
 * A client's side of TLS, to be used for many connections of its thread, which resume each other's sessions. Its files are read
 * once. Connections of it go on when it is closed or collected.
 */
export class TlsClientContext {
  /** @internal The name to ask for where a connection has none. */ readonly servername: string | null
  /** @internal Whether a name is looked at. */ readonly needsName: boolean
  /** @internal Whether certificates are verified. */ readonly verifies: boolean
  readonly #client: TlsClient

  /**
   * Reads the files.
   * @param prefix of the options' names in messages
   * @throws ShardloopError ERR_SHARDLOOP_OPTION
   */
  constructor(options: TlsClientOptions = {}, prefix = '') {
    const settings = parseTlsClientOptions(options, prefix)
    const read = readTlsClient(settings)
    this.servername = settings.servername
    this.needsName = !settings.acceptAnyName && !settings.acceptAnyCertificate
    this.verifies = !settings.acceptAnyCertificate
    try {
      this.#client = new native.TlsClient(read)
    } catch (error) {
      throw refusedByNative('tls', error)
    }
  }

  /** @internal By which native code knows it. */
  get token(): number {
    return this.#client.token()
  }

  /** It is for no new connections any more. */
  close(): void {
    this.#client.close()
  }
}

brand(TlsClientContext, 'tls-client-context')

/** See {@link TlsClientContext}. */
export function createTlsClientContext(options: TlsClientOptions = {}): TlsClientContext {
  return new TlsClientContext(options)
}

/**
 * How a connection does TLS: true for the defaults; options (one object that is used again, unchanged, is one context); a context, which
 * may be given with the name to ask for.
 */
export type TlsClientUse =
  | boolean
  | TlsClientOptions
  | TlsClientContext
  | { readonly context: TlsClientContext; readonly servername?: string }

/** What a connection needs of it. */
export interface TlsClientTerms {
  readonly context: TlsClientContext
  readonly servername: string
}

/** Contexts of this thread: the one with the defaults, and those of options. */
interface Contexts {
  standard: TlsClientContext | null
  readonly byOptions: WeakMap<object, TlsClientContext>
}

const contexts: () => Contexts = threadSingletonGetter('tls-contexts', () => ({
  standard: null,
  byOptions: new WeakMap<object, TlsClientContext>(),
}))

/**
 * Reads the option `tls` of a connection.
 * @param host where it goes, which is the name to ask for unless another one was given; null where it has no name
 * @returns null when there is to be no TLS
 * @throws ShardloopError ERR_SHARDLOOP_OPTION
 */
export function tlsTermsOf(use: unknown, host: string | null): TlsClientTerms | null {
  if (use === undefined || use === false) return null
  if (use === true) {
    const known = contexts()
    known.standard ??= new TlsClientContext()
    return termsOf(known.standard, null, host, 'tls.')
  }
  if (typeof use !== 'object' || use === null || Array.isArray(use))
    throw wrong('tls', use, 'true, false, options of TLS, a TlsClientContext or { context, servername }')
  if (use instanceof TlsClientContext) return termsOf(use, null, host, 'tls.')
  return termsOfOptions(use, host, 'tls.')
}

/**
 * The same of options that stand alone, which may have a context among them.
 * @param own those that are no options of TLS
 */
export function termsOfOptions(
  options: object,
  host: string | null,
  prefix: string,
  own: readonly string[] = [],
): TlsClientTerms {
  const { context } = options as { readonly context?: unknown }
  if (context === undefined) return termsOf(contextOf(options, prefix, own), null, host, prefix)
  if (!(context instanceof TlsClientContext))
    throw wrong(`${prefix}context`, context, 'a TlsClientContext, of createTlsClientContext')
  const known = ['context', 'servername', ...own]
  for (const [name, value] of Object.entries(options)) {
    if (known.includes(name) || value === undefined) continue
    throw refused(`${prefix}${name}`, 'expected nothing beside context, which has it')
  }
  const { servername } = options as { readonly servername?: unknown }
  return termsOf(context, serverNameOf(`${prefix}servername`, servername), host, prefix)
}

/** Where no name is looked at, and none was given: it is no host's, and as an address it is not sent. */
const NO_NAME = '0.0.0.0'

/** One object of options is one context, so that its connections resume each other's sessions. */
function contextOf(options: object, prefix: string, own: readonly string[]): TlsClientContext {
  const { byOptions } = contexts()
  const known = byOptions.get(options)
  if (known !== undefined) return known
  const of = Object.fromEntries(Object.entries(options).filter(([name]) => !own.includes(name)))
  const context = new TlsClientContext(of, prefix)
  byOptions.set(options, context)
  return context
}

function termsOf(
  context: TlsClientContext,
  given: string | null,
  host: string | null,
  prefix: string,
): TlsClientTerms {
  const servername = given ?? context.servername ?? host
  if (servername === null && context.needsName)
    throw refused(`${prefix}servername`, `expected ${SERVER_NAME_EXPECTED}, given none`)
  return { context, servername: servername ?? NO_NAME }
}
