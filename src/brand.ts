/**
 * Makes the instances of a class be instances of it in every copy of this package in the thread, by `instanceof`: tsx, for one, loads the
 * package twice for CommonJS. Subclasses of programs go by their prototypes as ever.
 * @param name of the brand that the instances bear, the same in all copies
 */
export function brand(Class: { readonly prototype: object }, name: string): void {
  const mark = Symbol.for(`shardloop.${name}`)
  Object.defineProperty(Class.prototype, mark, { value: true })
  Object.defineProperty(Class, Symbol.hasInstance, {
    value(this: unknown, value: unknown): boolean {
      if (this !== Class) return Function.prototype[Symbol.hasInstance].call(this, value) // a subclass
      return typeof value === 'object' && value !== null && mark in value
    },
  })
}
