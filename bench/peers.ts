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

/** A server that is measured. */
export type PeerId = OurPeerId | 'node-net' | 'raw-mio' | 'raw-tokio' | 'bun'

/** A server as tables and plots show it; `ours` is null for what is not ours. */
export interface Peer<Id extends PeerId = PeerId> {
  readonly title: string
  readonly ours: Id extends OurPeerId ? { readonly engine: Engine; readonly mode: Mode } : null
}

/** All of them, in the order of the tables. */
export const PEERS: { readonly [Id in PeerId]: Peer<Id> } = {
  'mio-chunk': { title: 'shardloop mio, Buffer chunks', ours: { engine: 'mio', mode: 'chunk' } },
  'mio-borrowed': { title: 'shardloop mio, borrowed bytes', ours: { engine: 'mio', mode: 'borrowed' } },
  'tokio-chunk': { title: 'shardloop tokio, Buffer chunks', ours: { engine: 'tokio', mode: 'chunk' } },
  'tokio-borrowed': { title: 'shardloop tokio, borrowed bytes', ours: { engine: 'tokio', mode: 'borrowed' } },
  'node-net': { title: 'node:net', ours: null },
  'raw-mio': { title: 'raw mio (Rust)', ours: null },
  'raw-tokio': { title: 'raw tokio (Rust)', ours: null },
  bun: { title: 'Bun.listen', ours: null },
}

/** The keys of {@link PEERS}. */
export const PEER_IDS: readonly PeerId[] = Object.keys(PEERS) as PeerId[]

/** What ours are compared with. */
export const BASELINES: readonly PeerId[] = ['node-net', 'raw-mio', 'raw-tokio', 'bun']

/** Ours on one engine. */
export function oursOn(engine: Engine): readonly OurPeerId[] {
  return MODES.map((mode): OurPeerId => `${engine}-${mode}`)
}

/** Whether `peer` is one of ours. */
export function isOurs(peer: PeerId): peer is OurPeerId {
  return PEERS[peer].ours !== null
}

/** The engines that `peers` run on, those of ours among them. */
export function enginesOf(peers: readonly PeerId[]): readonly Engine[] {
  return ENGINES.filter((engine) => oursOn(engine).some((peer) => peers.includes(peer)))
}
