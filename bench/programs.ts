/** The programs that are measured, as command lines. */
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { takesPart } from './comparisons.js'
import { loadgenProgram, ROOT } from './load.js'
import { isOurs, isPython, type OurPeerId, PEERS, type PeerId } from './peers.js'
import type { Row } from './rows.js'
import { socketPath } from './sockets.js'

const OVER_TCP: readonly string[] = ['--host', '127.0.0.1', '--port', '0']

/** How to start `peer` for `row`; null when it is not installed or takes no part in it. What a client connects to is not in it. */
export function rowCommand(row: Row, peer: PeerId): string[] | null {
  if (!takesPart(row, peer)) return null
  if (row.work === 'burn' && isOurs(peer)) {
    const program = join(ROOT, 'dist', 'bench', 'burn', 'shardloop-server.js')
    return [process.execPath, program, '--size', String(row.size), ...ourFlags(peer)]
  }
  if (row.work === 'connect') {
    const program = [process.execPath, join(ROOT, 'dist', 'bench', 'connect', 'client.js')]
    const which = isOurs(peer)
      ? ['--client', 'shardloop', '--engine', PEERS[peer].ours.engine]
      : ['--client', 'node-net']
    return [...program, ...which, '--at-once', String(row.connections)]
  }
  if (row.work !== 'unix') return serverCommand(peer)
  return serverCommand(peer, ['--path', socketPath(peer)])
}

/** How to start `peer` as an echo server, as a rule over TCP; null when it is not installed. */
export function serverCommand(peer: PeerId, listen: readonly string[] = OVER_TCP): string[] | null {
  if (isOurs(peer)) {
    const program = [process.execPath, join(ROOT, 'dist', 'examples', 'echo.js')]
    return [...program, ...listen, '--shards', '1', ...ourFlags(peer)]
  }
  if (isPython(peer)) {
    const { loop, proto } = PEERS[peer].python
    const python = pythonProgram()
    if (python === null) return null
    const program = [python, join(ROOT, 'bench', 'peers', 'python-echo.py')]
    return [...program, ...listen, '--loop', loop, ...(proto ? ['--proto'] : [])]
  }
  switch (peer) {
    case 'node-net':
      return [process.execPath, join(ROOT, 'bench', 'peers', 'node-net.mjs'), ...listen]
    case 'raw-mio':
    case 'raw-tokio':
      return [loadgenProgram(`${peer}-echo`), ...listen]
    case 'bun': {
      const bun = bunProgram()
      return bun === null ? null : [bun, join(ROOT, 'bench', 'peers', 'bun-listen.js'), ...listen]
    }
  }
}

/** The flags that make a program of ours `peer`. */
export function ourFlags(peer: OurPeerId): string[] {
  const { engine, mode } = PEERS[peer].ours
  return ['--engine', engine, '--mode', mode]
}

/** Why it is not measured then. */
export const BUN_ABSENT =
  'Bun.listen: the peer is not installed; "npm ci --prefix bench/peers" installs it where there is a package of it'

/** The Bun program of the package in bench/peers, null when it is not installed. */
export function bunProgram(): string | null {
  const scope = join(ROOT, 'bench', 'peers', 'node_modules', '@oven')
  if (!existsSync(scope)) return null
  const programs = readdirSync(scope).map((name) => join(scope, name, 'bin', 'bun'))
  return programs.find((program) => existsSync(program)) ?? null
}

/** The Python with the event loops in bench/peers, null when it is not installed. */
export function pythonProgram(): string | null {
  const program = join(ROOT, 'bench', 'peers', 'venv', 'bin', 'python')
  return existsSync(program) ? program : null
}
