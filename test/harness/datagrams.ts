import { createSocket, type RemoteInfo, type Socket } from 'node:dgram'
import { once } from 'node:events'
import type {
  DatagramEndpointOptions,
  DatagramError,
  DatagramProtocol,
  DatagramTransport,
  SocketAddress,
} from '../../src/index.js'
import { Observable } from './deferred.js'
import type { TestContext } from './suite.js'

/** A datagram as it came. */
export interface Came {
  readonly data: Buffer
  readonly address: SocketAddress
}

/** An endpoint's protocol that writes down what happens to it. */
export class DatagramRecorder extends Observable implements DatagramProtocol {
  /** RLoop's states. */
  state: 'INITIAL' | 'INITIALIZED' | 'CLOSED' = 'INITIAL'
  transport!: DatagramTransport
  /** What came, as it was given: a view that may be kept. */
  readonly came: Came[] = []
  readonly errors: DatagramError[] = []
  /** The callbacks in order, without the receiving ones. */
  readonly events: string[] = []
  lostWith: Error | null | undefined

  connectionMade(transport: DatagramTransport): void {
    this.#expect('INITIAL')
    this.transport = transport
    this.state = 'INITIALIZED'
    this.#note('made')
  }

  datagramReceived(data: Buffer, address: SocketAddress): void | Promise<void> {
    this.#expect('INITIALIZED')
    this.came.push({ data, address })
    this.changed()
  }

  errorReceived(error: DatagramError): void {
    this.#expect('INITIALIZED')
    this.errors.push(error)
    this.#note('error')
  }

  connectionLost(error: Error | null): void {
    this.#expect('INITIALIZED')
    this.state = 'CLOSED'
    this.lostWith = error
    this.#note('lost')
  }

  pauseWriting(): void {
    this.#note('pause')
  }

  resumeWriting(): void {
    this.#note('resume')
  }

  /** Resolves when so many came. */
  async receivedAtLeast(count: number): Promise<readonly Came[]> {
    await this.until(() => this.came.length >= count)
    return this.came
  }

  async failed(): Promise<DatagramError> {
    await this.until(() => this.errors.length > 0)
    return this.errors[0] as DatagramError
  }

  async noted(event: string): Promise<void> {
    await this.until(() => this.events.includes(event))
  }

  async lost(): Promise<Error | null> {
    await this.until(() => this.lostWith !== undefined)
    return this.lostWith as Error | null
  }

  #note(event: string): void {
    this.events.push(event)
    this.changed()
  }

  #expect(state: string): void {
    if (this.state !== state) throw new Error(`state: ${this.state}, expected: ${state}`)
  }
}

/** Sends back what comes. */
export class DatagramEcho extends DatagramRecorder {
  override datagramReceived(data: Buffer, address: SocketAddress): void {
    void super.datagramReceived(data, address)
    this.transport.sendto(data, address)
  }
}

/** An endpoint of the test's loop and engine. */
export async function endpoint<Made extends DatagramRecorder = DatagramRecorder>(
  t: TestContext,
  options: DatagramEndpointOptions,
  make: () => Made = () => new DatagramRecorder() as Made,
): Promise<Made> {
  const [, protocol] = await t.loop.createDatagramEndpoint(make, { engine: t.engine, ...options })
  return protocol
}

/** The port of an endpoint. */
export function portOf({ transport }: DatagramRecorder): number {
  return (transport.getExtraInfo('sockname') as { port: number }).port
}

/** A socket of node:dgram: the peer that is not ours. */
export class PlainDatagrams extends Observable {
  readonly socket: Socket
  readonly came: { readonly data: Buffer; readonly from: RemoteInfo }[] = []

  #closed = false

  constructor(socket: Socket) {
    super()
    this.socket = socket
    socket.on('message', (data, from) => {
      this.came.push({ data, from })
      this.changed()
    })
    socket.on('error', () => {})
  }

  static async open(t: TestContext, address = '127.0.0.1'): Promise<PlainDatagrams> {
    const socket = createSocket({ type: address.includes(':') ? 'udp6' : 'udp4', recvBufferSize: 1 << 20 })
    socket.bind(0, address)
    await once(socket, 'listening')
    const plain = new PlainDatagrams(socket)
    t.defer(() => plain.close())
    return plain
  }

  /** Idempotent. */
  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await new Promise<void>((resolve) => this.socket.close(() => resolve()))
  }

  get port(): number {
    return this.socket.address().port
  }

  send(data: Uint8Array | string, port: number, address = '127.0.0.1'): Promise<void> {
    return new Promise((resolve, reject) => {
      this.socket.send(data, port, address, (error) => (error ? reject(error) : resolve()))
    })
  }

  async receivedAtLeast(count: number): Promise<void> {
    await this.until(() => this.came.length >= count)
  }
}
