import { Buffer } from 'node:buffer'
import { ShardloopError } from '../errors.js'
import { DuplexProtocol } from '../interop/duplex.js'
import { closedError } from '../workers/close-reasons.js'
import { invalid } from '../workers/invalid.js'
import type { Protocol } from '../workers/protocol.js'
import type { TcpTransport } from '../workers/transport.js'
import type { TlsClientContext } from './client-context.js'
import { termsOfOptions } from './client-context.js'
import type { TlsClientOptions } from './client-options.js'
import { refused } from './material.js'
import { TlsServerContext } from './server-context.js'

/** As it was before the program may have replaced it (a test runner's timers). */
const nextTurn = setImmediate

/** What both sides may say. */
export interface StartTlsCommon {
  /** Bytes that were received already and belong to TLS: what came behind the line by which both sides agreed. */
  readonly received?: Uint8Array
  /** Gets the connection when the handshake is done, before anything that TLS brings. Default: the protocol that there is. */
  readonly protocol?: Protocol
}

/**
 * How a connection becomes TLS. As the server: `server: true` for the `tls` of the connection's own server (with `upgrade: true`), or
 * a context. As the client: options, or a context and the name to ask for.
 */
export type StartTlsOptions = StartTlsCommon &
  (
    | { readonly server: true | TlsServerContext }
    | (TlsClientOptions & { readonly server?: undefined })
    | { readonly context: TlsClientContext; readonly servername?: string; readonly server?: undefined }
  )

/** What who calls for somebody else knows better. */
export interface StartTlsFor {
  readonly protocol?: Protocol
  /** Asked when it begins, in place of the option. */
  readonly received?: () => Uint8Array
}

/** A connection that becomes TLS: until then what it receives is held. */
export interface TlsUpgrade {
  readonly protocol: Protocol | undefined
  readonly received: Uint8Array
  /** Whether the peer's certificate is verified. */
  readonly verifies: boolean
  readonly resolve: () => void
  readonly reject: (error: Error) => void
  /** It counts as a promise that a drain waits for. */
  readonly ended: () => void
}

/** What an upgrade is made of, as it was checked. */
interface Terms {
  readonly token: number
  readonly isServer: boolean
  /** Of a client. */
  readonly servername: string | null
  readonly verifies: boolean
}

/** See `Transport.startTls`. What is wrong rejects. */
export function startTls(
  transport: TcpTransport,
  options: StartTlsOptions,
  by: StartTlsFor = NOTHING_KNOWN,
): Promise<void> {
  return new Promise((resolve, reject) => {
    const { protocol, received } = checkedCommon(options, by)
    const terms = termsOf(transport, options)
    refuse(transport)
    begin(transport, terms)
    const rare = transport.rarely()
    rare.upgrade = {
      protocol,
      received: by.received === undefined ? received : by.received(),
      verifies: terms.verifies,
      resolve,
      reject,
      ended: transport.promised(),
    }
    rare.held ??= []
  })
}

/** Native code receives no more plain text: it gets back what was received since, and what the program had. */
export function feedTls(transport: TcpTransport): void {
  const rare = transport.rarely()
  const { upgrade, held = [] } = rare
  if (upgrade === undefined) return
  rare.held = []
  // The peer's end, should it have come, native code knows.
  const raw = [upgrade.received, ...held.filter((event) => event !== null)]
  transport.loop.native.feedTls(transport.handle, raw.length === 1 ? upgrade.received : Buffer.concat(raw))
}

/** The handshake is done. What comes now waits until who waits for that has gone on. */
export function secured(transport: TcpTransport): void {
  const rare = transport.rarely()
  const { upgrade } = rare
  if (upgrade === undefined) return
  delete rare.upgrade
  delete rare.tls
  transport.noteTls(upgrade.verifies)
  if (upgrade.protocol !== undefined) transport.setProtocol(upgrade.protocol)
  upgrade.resolve()
  upgrade.ended()
  nextTurn(() => {
    if (transport.holds) transport.releaseLater()
  })
}

/** From here on native code receives for TLS, behind what is received now. @throws ShardloopError ERR_SHARDLOOP_OPTION */
function begin(transport: TcpTransport, { token, isServer, servername }: Terms): void {
  const why = transport.loop.native.startTls(transport.handle, token, isServer, servername)
  if (why !== null) throw refused('startTls', why)
}

function checkedCommon(
  options: StartTlsOptions,
  by: StartTlsFor,
): { protocol: Protocol | undefined; received: Uint8Array } {
  if (typeof options !== 'object' || options === null || Array.isArray(options))
    throw invalid('options', options, 'an object: { server } or options of a TLS client')
  const { received = NO_BYTES } = options
  const protocol = by.protocol ?? options.protocol
  if (!(received instanceof Uint8Array)) throw invalid('received', received, 'a Uint8Array or a Buffer')
  if (by.received !== undefined && received.length > 0)
    throw invalid('received', received, 'nothing: a stream knows what it has received')
  if (protocol !== undefined && (protocol === null || typeof protocol !== 'object'))
    throw invalid('protocol', protocol, 'an object')
  return { protocol, received }
}

function termsOf(transport: TcpTransport, options: StartTlsOptions): Terms {
  const { server } = options
  if (server === undefined) {
    const { context, servername } = termsOfOptions(options, null, '', COMMON)
    return { token: context.token, isServer: false, servername, verifies: context.verifies }
  }
  for (const [name, value] of Object.entries(options)) {
    if (name === 'server' || COMMON.includes(name) || value === undefined) continue
    throw refused(name, 'expected nothing beside server')
  }
  return { token: serverToken(transport, server), isServer: true, servername: null, verifies: true }
}

function serverToken(transport: TcpTransport, server: unknown): number {
  if (server instanceof TlsServerContext) return server.token
  if (server !== true) throw invalid('server', server, 'true, or a context of createTlsServerContext')
  if (transport.server.tls !== 0) return transport.server.tls
  throw refused(
    'server',
    "the connection's server has no option tls (with upgrade: true): give a context of createTlsServerContext",
  )
}

/** What keeps a connection from becoming TLS. @throws ShardloopError ERR_SHARDLOOP_STATE, or what ends the connection */
function refuse(transport: TcpTransport): void {
  if (transport.closing) throw transport.error ?? closedError(transport.id)
  const why = whyNot(transport)
  if (why !== null)
    throw new ShardloopError('ERR_SHARDLOOP_STATE', `connection ${transport.id} cannot become TLS: ${why}`)
}

function whyNot(transport: TcpTransport): string | null {
  if (transport.isUpgrading) return 'it is about to already'
  if (transport.tls !== null) return 'it is TLS already; run TLS in TLS by node:tls, through duplex()'
  if (transport.getExtraInfo('pipe') !== undefined) return 'it is a pipe'
  if (!transport.isWritable) return transport.refusal().message
  if (transport.protocol instanceof DuplexProtocol) return 'it is a stream (duplex): node:tls secures that'
  return null
}

const COMMON: readonly string[] = ['received', 'protocol', 'server']
const NO_BYTES: Uint8Array = Buffer.alloc(0)
const NOTHING_KNOWN: StartTlsFor = {}
