import { native } from '../../src/native/index.js'

/** Has native code of this thread write records at debug level, two for each of `count` listeners. */
export function writeNativeRecords(count: number): void {
  for (let number = 0; number < count; number++) {
    const listener = native.bindTcp({
      host: '127.0.0.1',
      port: 0,
      backlog: 1,
      reusePort: false,
      ipv6Only: false,
      noDelay: true,
      exclusive: false,
    })
    if (!('close' in listener)) throw new Error(`cannot bind: errno ${listener.errno}`)
    listener.close()
  }
}
