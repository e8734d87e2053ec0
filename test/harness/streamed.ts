import type { Server, ServerOptions, Transport, TransportDuplex } from '../../src/index.js'
import type { Client } from './client.js'
import { Deferred } from './deferred.js'
import { Recorder } from './recorder.js'
import { type TestContext, whereIs } from './suite.js'

/** A protocol that turns into a stream later. */
export interface Sniffing {
  transport: Transport
}

export interface Streamed {
  readonly server: Server
  readonly client: Client
  readonly duplex: TransportDuplex
}

/** A connection whose accepted end is a stream; later ones are echoes. @param other makes another protocol of the first one */
export async function streamed(
  t: TestContext,
  options: ServerOptions & { readonly client?: { readonly paused: boolean } } = {},
  other?: () => object,
): Promise<Streamed> {
  const { client: clientOptions, ...serverOptions } = options
  const made = new Deferred<TransportDuplex>()
  let count = 0
  const server = await t.serve(
    () =>
      count++ > 0
        ? new Echoing()
        : Object.assign(
            {
              connectionMade(this: Sniffing, transport: Transport) {
                this.transport = transport
                made.resolve(other === undefined ? transport.duplex() : (undefined as never))
              },
            },
            other?.(),
          ),
    serverOptions,
  )
  const client = await t.connect(whereIs(server), clientOptions)
  return { server, client, duplex: await made.promise }
}

class Echoing extends Recorder {
  override dataReceived(chunk: Buffer): void {
    this.transport.write(chunk)
  }
}
