/** Our shards' side of the benchmark. */
import { type Protocol, shardId, type Transport } from 'shardloop'
import { obey } from './commands.js'

class Obeying implements Protocol {
  #transport!: Transport

  connectionMade(transport: Transport): void {
    this.#transport = transport
  }

  dataReceived(chunk: Buffer): void {
    obey(chunk, shardId ?? 0, (bytes) => this.#transport.write(bytes))
  }
}

export default (): Protocol => new Obeying()
