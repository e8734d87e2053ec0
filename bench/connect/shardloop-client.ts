import { type EngineName, getLoop, type Protocol } from '../../src/index.js'
import type { Connector } from './connector.js'

/** Ours, on this thread's loop. An engine that there is not is refused by name with the first connection. */
export function shardloopConnector(engine: string): Connector {
  const loop = getLoop()
  const chosen = engine as EngineName
  return {
    engine,
    open(host, port, established, ended) {
      loop
        .createConnection(() => new Client(ended), { host, port, engine: chosen })
        .then(([transport]) => {
          established()
          transport.close()
        }, ended)
    },
  }
}

class Client implements Protocol {
  readonly #ended: (error: Error | null) => void

  constructor(ended: (error: Error | null) => void) {
    this.#ended = ended
  }

  connectionLost(error: Error | null): void {
    this.#ended(error)
  }
}
