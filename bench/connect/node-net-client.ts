import { connect } from 'node:net'
import type { Connector } from './connector.js'

/** node:net as one writes it by hand; with nothing to send, `destroy` is its cheapest way to close. */
export function nodeNetConnector(): Connector {
  return {
    engine: 'node:net',
    open(host, port, established, ended) {
      let failure: Error | null = null
      const socket = connect({ host, port }, () => {
        established()
        socket.destroy()
      })
      socket.on('error', (error) => {
        failure = error
      })
      socket.on('close', () => ended(failure))
    },
  }
}
