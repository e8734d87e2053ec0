/**
 * Names the calls of `createServer` alike in the supervisor and in its shards: by `options.name`, else by their place
 * among the unnamed calls. Counted over the life of the thread, since a shard that starts late runs the program
 * from its beginning. Calls with `shards: 0` and calls whose options are refused are not counted on either side.
 */
export class CallCounter {
  readonly #calls = new Map<string | undefined, number>()

  /** The key of the next call of that name, as it may be shown to people too. */
  next(name: string | undefined): string {
    const nth = (this.#calls.get(name) ?? 0) + 1
    this.#calls.set(name, nth)
    return name === undefined ? `unnamed call ${nth}` : `call ${nth} named ${JSON.stringify(name)}`
  }
}
