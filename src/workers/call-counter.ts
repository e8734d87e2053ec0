/** Which call of `createServer` one is, alike in the supervisor and in its shards. */
export interface CallPlace {
  /** Its `options.name`. */
  readonly name: string | undefined
  /** 1 for the first of that name, or of those without one. */
  readonly nth: number
  /** Both in one, as it may be shown to people too. */
  readonly key: string
}

/**
 * Numbers the calls of `createServer` alike in the supervisor and in its shards: by `options.name`, else by their place
 * among the unnamed calls. Counted over the life of the thread, since a shard that starts late runs the program
 * from its beginning. Calls with `shards: 0` and calls whose options are refused are not counted on either side.
 */
export class CallCounter {
  readonly #calls = new Map<string | undefined, number>()

  /** The place of the next call with that `options.name`. */
  next(name: string | undefined): CallPlace {
    const nth = (this.#calls.get(name) ?? 0) + 1
    this.#calls.set(name, nth)
    return {
      name,
      nth,
      key: name === undefined ? `unnamed call ${nth}` : `call ${nth} named ${JSON.stringify(name)}`,
    }
  }
}
