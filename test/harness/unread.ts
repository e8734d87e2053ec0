import type { Protocol, Transport } from '../../src/index.js'

/** Does not read, and closes when it is told: its last bytes may be on their way, so the close takes its time. */
export class Unread implements Protocol {
  #transport!: Transport

  connectionMade(transport: Transport): void {
    this.#transport = transport
    transport.pauseReading()
  }

  draining(): void {
    this.#transport.close()
  }
}
