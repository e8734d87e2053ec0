/** A promise that is settled from outside; settling it again does nothing. */
export class Deferred<Value> {
  readonly promise: Promise<Value>
  resolve!: (value: Value | PromiseLike<Value>) => void
  reject!: (reason: unknown) => void

  constructor() {
    this.promise = new Promise<Value>((resolve, reject) => {
      this.resolve = resolve
      this.reject = reject
    })
    // Whoever awaits it still gets the rejection; one that nobody awaits must not end the process.
    this.promise.catch(() => {})
  }
}
