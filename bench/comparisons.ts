/** Who takes part in a row, and who is compared with whom there. */
import { isOurs, isPython, MODES, PEERS, type PeerId, PYTHON_PEERS } from './peers.js'
import type { Row, Work } from './rows.js'

/** A comparison that rounds are made for. */
export interface Pair {
  readonly peer: PeerId
  readonly against: PeerId
}

/** A column of ratios; `against` tells what a peer is divided by, null for nothing. */
export interface Comparison {
  readonly title: string
  readonly against: (peer: PeerId) => PeerId | null
}

/** What ours are compared with, and what everybody else is. Where ours burn, only tokio is, with mio. */
const BASELINES: {
  readonly [Kind in Exclude<Work, 'burn'>]: {
    readonly ours: readonly PeerId[]
    readonly others: readonly PeerId[]
  }
} = {
  echo: { ours: ['node-net', 'raw-mio', 'raw-tokio', 'bun'], others: ['node-net', 'raw-mio'] },
  unix: { ours: ['node-net', 'raw-mio', 'raw-tokio', 'bun'], others: ['node-net', 'raw-mio'] },
  raw: { ours: ['node-net', ...PYTHON_PEERS], others: ['node-net'] },
  connect: { ours: ['node-net'], others: [] },
}

/** The columns of the tables, in their order. */
const COLUMNS: { readonly [Kind in Exclude<Work, 'burn'>]: readonly (readonly [PeerId, string])[] } = {
  echo: [
    ['node-net', 'node:net'],
    ['raw-mio', 'raw mio'],
    ['raw-tokio', 'raw tokio'],
  ],
  unix: [
    ['node-net', 'node:net'],
    ['raw-mio', 'raw mio'],
    ['raw-tokio', 'raw tokio'],
  ],
  raw: [
    ['node-net', 'node:net'],
    ['rloop', 'RLoop'],
    ['uvloop', 'uvloop'],
  ],
  connect: [['node-net', 'node:net']],
}

/** Whether `peer` is measured in such a row, if it is installed. */
export function takesPart({ work }: Pick<Row, 'work'>, peer: PeerId): boolean {
  if (work === 'burn') return isOurs(peer)
  // Nothing is received, so how is no difference.
  if (work === 'connect') return PEERS[peer].ours?.mode === 'chunk' || peer === 'node-net'
  return work === 'raw' || !isPython(peer)
}

/** Every comparison of a row, as far as both are among `peers`. */
export function pairsOf({ work }: Pick<Row, 'work'>, peers: readonly PeerId[]): Pair[] {
  if (work === 'burn') {
    return MODES.map((mode): Pair => ({ peer: `tokio-${mode}`, against: `mio-${mode}` })).filter(
      ({ peer, against }) => peers.includes(peer) && peers.includes(against),
    )
  }
  const { ours, others } = BASELINES[work]
  const all = ours.flatMap((against) => peers.map((peer): Pair => ({ peer, against })))
  return all.filter(
    ({ peer, against }) =>
      peer !== against &&
      peers.includes(against) &&
      takesPart({ work }, peer) &&
      (isOurs(peer) || others.includes(against)),
  )
}

/** What the tables of a row divide by, in the order of the columns. */
export function comparisonsOf({ work }: Pick<Row, 'work'>): readonly Comparison[] {
  if (work === 'burn') {
    const sameMode = (peer: PeerId): PeerId | null => (isOurs(peer) ? `mio-${PEERS[peer].ours.mode}` : null)
    return [{ title: 'mio', against: sameMode }]
  }
  return COLUMNS[work].map(([peer, title]) => ({ title, against: () => peer }))
}
