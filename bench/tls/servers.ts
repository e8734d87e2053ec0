/** The servers of the benchmark of TLS, as command lines; all have the same certificate. */
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { loadgenProgram, ROOT } from '../load.js'
import { bunProgram } from '../programs.js'
import { scratchDirectory } from '../scratch.js'

/** Who echoes. */
export type TlsPeer = 'mio' | 'mio-borrowed' | 'tokio' | 'tokio-borrowed' | 'node-tls' | 'bun' | 'raw-tokio'

/** How to start a peer. With `inMainThread` ours has its only shard there, where node:tls is anyway. */
export function tlsServerCommand(peer: TlsPeer, inMainThread = false): string[] {
  const files = certificateFlags()
  const listen = ['--host', '127.0.0.1', '--port', '0']
  switch (peer) {
    case 'node-tls':
      return [process.execPath, join(ROOT, 'bench', 'peers', 'node-tls.mjs'), ...listen, ...files]
    case 'bun': {
      const bun = bunProgram()
      if (bun === null) throw new Error('Bun is not installed')
      return [bun, join(ROOT, 'bench', 'peers', 'bun-listen.js'), ...listen, ...files]
    }
    case 'raw-tokio':
      return [loadgenProgram('raw-tokio-rustls-echo'), ...files]
    default: {
      const [engine = '', mode = 'chunk'] = peer.split('-')
      const program = [process.execPath, join(ROOT, 'dist', 'examples', 'echo.js'), ...listen, ...files]
      return [...program, '--shards', inMainThread ? '0' : '1', '--engine', engine, '--mode', mode]
    }
  }
}

/** The same with {@link file://./lag.ts} in it, for programs that Node runs. */
export function laggingServerCommand(peer: TlsPeer): string[] {
  const [node = '', ...program] = tlsServerCommand(peer, true)
  return [node, '--import', join(ROOT, 'dist', 'bench', 'tls', 'lag.js'), ...program]
}

/** Flags with a certificate on P-256 that is made when it is asked for the first time. */
function certificateFlags(): string[] {
  const directory = scratchDirectory()
  const [cert, key] = [join(directory, 'cert.pem'), join(directory, 'key.pem')]
  if (!existsSync(cert)) execFileSync(loadgenProgram('loadgen'), ['certificate', directory])
  return ['--tls-cert', cert, '--tls-key', key]
}
