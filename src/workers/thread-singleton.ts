/**
 * One object per thread, even when the package is loaded twice in it: tsx gives a CommonJS entry its own copy
 * of every ES module that it requires, beside the copy that the shard's bootstrap imported. Both must see the same
 * shard. The number changes when the shape of one of these objects does.
 */
const LAYOUT = 1

/** The thread's object of that name, made at first use. */
export function threadSingleton<T extends object>(name: string, make: () => T): T {
  const holder = globalThis as { [key: symbol]: unknown }
  const key = Symbol.for(`shardloop.${name}@${LAYOUT}`)
  holder[key] ??= make()
  return holder[key] as T
}

/** As {@link threadSingleton}, looked up once: for what is asked for with every connection or callback. */
export function threadSingletonGetter<T extends object>(name: string, make: () => T): () => T {
  let known: T | undefined
  return () => {
    known ??= threadSingleton(name, make)
    return known
  }
}
