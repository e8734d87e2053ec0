import { native } from '../native/index.js'

/** What TLS has here: of the names that options take, those that are known. */
export interface TlsSupport {
  /** Cipher suites, those that are preferred first. */
  readonly ciphers: readonly string[]
  /** Groups, likewise. */
  readonly groups: readonly string[]
  /**
   * Why the kernel could not encrypt what is sent (kTLS); null when it could. It is asked by a connection over loopback that is made for
   * that. It is not used either way: to be looked at before anybody hopes for it.
   */
  readonly kernelOffload: string | null
}

/** Looks at what TLS has here: this build's ciphers and groups, and the kernel's part in it. */
export function tlsSupport(): TlsSupport {
  return Object.freeze({
    ciphers: Object.freeze(native.tlsCipherNames()),
    groups: Object.freeze(native.tlsGroupNames()),
    kernelOffload: native.ktlsProbe(),
  })
}
