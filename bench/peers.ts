/** The servers that are measured: ours, on each engine in each mode, and those that they are compared with. */

/** Our engines. */
export const ENGINES = ['mio', 'tokio'] as const
/** See {@link ENGINES}. */
export type Engine = (typeof ENGINES)[number]

/** How a protocol of ours receives: Buffers that it may keep, or bytes borrowed until it returns. */
export const MODES = ['chunk', 'borrowed'] as const
/** See {@link MODES}. */
export type Mode = (typeof MODES)[number]

/** One of ours. */
export type OurPeerId = `${Engine}-${Mode}`

/** Event loops of Python. */
export const PYTHON_LOOPS = ['rloop', 'uvloop'] as const
/** See {@link PYTHON_LOOPS}. */
export type PythonLoop = (typeof PYTHON_LOOPS)[number]

/** A server on one of them: by the loop's socket calls, `sock_recv` and `sock_sendall`, or by a Protocol. */
export type PythonPeerId = PythonLoop | `${PythonLoop}-proto`

/** A server that is measured. */
export type PeerId = OurPeerId | 'node-net' | 'raw-mio' | 'raw-tokio' | 'bun' | PythonPeerId

/** A server as tables and plots show it; `ours` is null for what is not ours, `python` for what is not Python. */
export interface Peer<Id extends PeerId = PeerId> {
  readonly title: string
  readonly ours: Id extends OurPeerId ? { readonly engine: Engine; readonly mode: Mode } : null
  readonly python: Id extends PythonPeerId ? { readonly loop: PythonLoop; readonly proto: boolean } : null
}

/** All of them, in the order of the tables. */
export const PEERS: { readonly [Id in PeerId]: Peer<Id> } = {
  'mio-chunk': {
    title: 'shardloop mio, Buffer chunks',
    ours: { engine: 'mio', mode: 'chunk' },
    python: null,
  },
  'mio-borrowed': {
    title: 'shardloop mio, borrowed bytes',
    ours: { engine: 'mio', mode: 'borrowed' },
    python: null,
  },
  'tokio-chunk': {
    title: 'shardloop tokio, Buffer chunks',
    ours: { engine: 'tokio', mode: 'chunk' },
    python: null,
  },
  'tokio-borrowed': {
    title: 'shardloop tokio, borrowed bytes',
    ours: { engine: 'tokio', mode: 'borrowed' },
    python: null,
  },
  'node-net': { title: 'node:net', ours: null, python: null },
  'raw-mio': { title: 'raw mio (Rust)', ours: null, python: null },
  'raw-tokio': { title: 'raw tokio (Rust)', ours: null, python: null },
  bun: { title: 'Bun.listen', ours: null, python: null },
  rloop: { title: 'RLoop, sock_recv', ours: null, python: { loop: 'rloop', proto: false } },
  'rloop-proto': { title: 'RLoop, Protocol', ours: null, python: { loop: 'rloop', proto: true } },
  uvloop: { title: 'uvloop, sock_recv', ours: null, python: { loop: 'uvloop', proto: false } },
  'uvloop-proto': { title: 'uvloop, Protocol', ours: null, python: { loop: 'uvloop', proto: true } },
}

/** The keys of {@link PEERS}. */
export const PEER_IDS: readonly PeerId[] = Object.keys(PEERS) as PeerId[]

/** Those on Python. */
export const PYTHON_PEERS: readonly PythonPeerId[] = PEER_IDS.filter(isPython)

/** Ours on one engine. */
export function oursOn(engine: Engine): readonly OurPeerId[] {
  return MODES.map((mode): OurPeerId => `${engine}-${mode}`)
}

/** Whether `peer` is one of ours. */
export function isOurs(peer: PeerId): peer is OurPeerId {
  return PEERS[peer].ours !== null
}

/** Whether `peer` is one of Python's. */
export function isPython(peer: PeerId): peer is PythonPeerId {
  return PEERS[peer].python !== null
}

/** The engines that `peers` run on, those of ours among them. */
export function enginesOf(peers: readonly PeerId[]): readonly Engine[] {
  return ENGINES.filter((engine) => oursOn(engine).some((peer) => peers.includes(peer)))
}
