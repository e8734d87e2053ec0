/** What a {@link TimerHeap} needs of an entry. It belongs to the heap while it is in there, but for its deadline. */
export interface TimerEntry<Entry> {
  /** When it is due, in seconds. It does not change. */
  readonly deadline: number
  /** Of two with the same deadline, the one with the lower number was added first. */
  order: number
  /** Where it stands in the heap; -1 when it does not, being behind another in a chain, or nowhere. */
  position: number
  /** Number of the chains to whose latest it was added. */
  lane: number
  /** The one in front of it in its chain. */
  previous: Entry | null
  /** The one behind it. */
  next: Entry | null
}

/** Latest ends of chains that are remembered: a power of two. More delays than that in use at a time share them. */
const LANES = 256
/** Delays within the same millisecond use one lane. */
const LANES_PER_SECOND = 1000

/**
 * Entries by deadline, those with the same one in the order in which they were added. Pure: time comes in, due entries
 * come out.
 *
 * A binary heap of chains. Programs use few delays, often one, and what is added with the same delay later is due later:
 * such an entry goes to the end of a chain, which costs nothing, and stands in for the chain's head when that is
 * taken out. What fits nowhere begins a chain of its own. So adding and removing take O(log chains) steps at most, and an
 * entry that is removed leaves nothing behind.
 */
export class TimerHeap<Entry extends TimerEntry<Entry>> {
  /** Heads of chains: a parent is never later than its children. */
  private readonly heads: Entry[] = []
  /** Ends of chains, by lane. */
  private readonly tails: (Entry | null)[] = new Array(LANES).fill(null)
  private added = 0
  private entries = 0
  /** Entries that moved up or down, over the heap's life: what its operations cost. For tests. */
  steps = 0

  /** How many entries there are. */
  get size(): number {
    return this.entries
  }

  /** The first entry; null when there is none. */
  get first(): Entry | null {
    const { heads } = this
    return heads.length === 0 ? null : (heads[0] as Entry)
  }

  /** The earliest deadline; Infinity when there is no entry. */
  get earliest(): number {
    return this.first?.deadline ?? Number.POSITIVE_INFINITY
  }

  /** All entries, in no order. */
  *all(): Generator<Entry> {
    for (const head of this.heads)
      for (let entry: Entry | null = head; entry !== null; entry = entry.next) yield entry
  }

  /**
   * Adds an entry that is in no heap.
   * @param delay about how far its deadline is from now, in seconds: like ones are put together
   */
  add(entry: Entry, delay: number): void {
    const lane = (delay * LANES_PER_SECOND) & (LANES - 1)
    const tail = this.tails[lane] as Entry | null
    entry.lane = lane
    entry.order = this.added++
    this.entries++
    this.tails[lane] = entry
    if (tail !== null && tail.deadline <= entry.deadline) {
      tail.next = entry
      entry.previous = tail
    } else {
      this.heads.push(entry)
      this.rise(entry, this.heads.length - 1)
    }
  }

  /** Whether an entry is in here, if it can be in no other heap. */
  has(entry: Entry): boolean {
    return entry.position >= 0 || entry.previous !== null
  }

  /** Removes an entry that is in here. */
  remove(entry: Entry): void {
    const { position, previous, next } = entry
    this.entries--
    if (next !== null) {
      next.previous = previous
      entry.next = null
    } else if (this.tails[entry.lane] === entry) {
      this.tails[entry.lane] = previous
    }
    if (previous !== null) {
      previous.next = next
      entry.previous = null
      return
    }
    entry.position = -1
    if (next !== null) {
      this.sink(next, position)
      return
    }
    const last = this.heads.pop() as Entry
    if (last === entry) return
    if (position > 0 && isBefore(last, this.heads[(position - 1) >> 1] as Entry)) this.rise(last, position)
    else this.sink(last, position)
  }

  /** Removes the first entry, if it is due at `now`; null when none is. */
  takeDue(now: number): Entry | null {
    const { first } = this
    if (first === null || first.deadline > now) return null
    const { next } = first
    if (next === null) {
      this.remove(first)
      return first
    }
    // As `remove` would do it, without what it has to find out: this is how most timers end that are not cancelled.
    this.entries--
    first.position = -1
    first.next = null
    next.previous = null
    this.sink(next, 0)
    return first
  }

  /** Puts a head at `position` or, when it comes before those above it, in their place. */
  private rise(entry: Entry, position: number): void {
    const { heads } = this
    let at = position
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = heads[above] as Entry
      if (!isBefore(entry, parent)) break
      heads[at] = parent
      parent.position = at
      at = above
      this.steps++
    }
    heads[at] = entry
    entry.position = at
  }

  /** Puts a head at `position` or, when it comes behind those below it, in their place. */
  private sink(entry: Entry, position: number): void {
    const { heads } = this
    const count = heads.length
    let at = position
    for (;;) {
      let below = 2 * at + 1
      if (below >= count) break
      if (below + 1 < count && isBefore(heads[below + 1] as Entry, heads[below] as Entry)) below++
      const child = heads[below] as Entry
      if (!isBefore(child, entry)) break
      heads[at] = child
      child.position = at
      at = below
      this.steps++
    }
    heads[at] = entry
    entry.position = at
  }
}

function isBefore<Entry extends TimerEntry<Entry>>(one: Entry, other: Entry): boolean {
  return one.deadline < other.deadline || (one.deadline === other.deadline && one.order < other.order)
}
