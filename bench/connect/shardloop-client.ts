import type { Protocol, ServerOptions, Transport } from '../../src/index.js'
import * as shardloop from '../../src/index.js'
import { endUnavailable } from '../unavailable-exit.js'
import type { Connector } from './connector.js'

/** As much of a loop as a client needs. */
interface ClientLoop {
  createConnection(
    factory: () => Protocol,
    options: { readonly host: string; readonly port: number },
  ): Promise<readonly [Transport, Protocol]>
}

/** Ours on this thread's loop. Ends the process with `UNAVAILABLE_EXIT_CODE` when this build has no clients. */
export async function shardloopConnector(engine: string): Promise<Connector> {
  const { getLoop } = shardloop as unknown as { readonly getLoop?: () => ClientLoop }
  if (typeof getLoop?.().createConnection !== 'function')
    endUnavailable('this build has no clients: there is no getLoop().createConnection')
  // A server of this thread decides which engine its loop runs on, for as long as it listens; nobody connects to it.
  const options = { host: '127.0.0.1', shards: 0, signals: false, engine } as ServerOptions
  const server = await shardloop.createServer(() => ({}), options)
  const loop = getLoop()
  return {
    engine: server.engine,
    open(host, port, established, ended) {
      loop
        .createConnection(() => new Client(ended), { host, port })
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
