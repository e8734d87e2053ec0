/** What the ends of a test's TLS connections are told: one authority, one certificate, and the version. */
import type { ConnectionOptions as NodeConnectionOptions } from 'node:tls'
import {
  createTlsClientContext,
  type TlsClientContext,
  type TlsClientOptions,
  type TlsServerOptions,
} from '../../src/index.js'
import { authority, identityOf } from './certificates.js'

/** Connections over TLS: of the version that both ends choose, or of one only. */
export type TlsVariant = 'tls' | 'tls1.2' | 'tls1.3'

type Version = 'TLSv1.2' | 'TLSv1.3'

const ONLY: Record<TlsVariant, { readonly minVersion?: Version; readonly maxVersion?: Version }> = {
  tls: {},
  'tls1.2': { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.2' },
  'tls1.3': { minVersion: 'TLSv1.3', maxVersion: 'TLSv1.3' },
}

export function serverOptions(variant: TlsVariant = 'tls'): TlsServerOptions {
  const { cert, key } = identityOf('server')
  return { cert, key, ...ONLY[variant] }
}

export function clientOptions(variant: TlsVariant = 'tls'): TlsClientOptions {
  return { ca: authority().root, servername: 'localhost', ...ONLY[variant] }
}

/** For a client on node:tls. */
export function nodeOptions(variant: TlsVariant = 'tls'): NodeConnectionOptions {
  return { ca: authority().root, servername: 'localhost', ...ONLY[variant] }
}

const contexts = new Map<TlsVariant, TlsClientContext>()

/** One for all connections of ours in this process. */
export function clientContext(variant: TlsVariant = 'tls'): TlsClientContext {
  let context = contexts.get(variant)
  if (context === undefined) {
    context = createTlsClientContext(clientOptions(variant))
    contexts.set(variant, context)
  }
  return context
}
