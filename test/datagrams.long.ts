/** A million datagrams: each is received, or counted by whoever lost it. */
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { createDatagramServer, type SocketAddress } from '../src/index.js'
import { DatagramRecorder, endpoint, portOf } from './harness/datagrams.js'
import { eventually } from './harness/deferred.js'
import { forEachEngine, portOf as portOfServer } from './harness/suite.js'

const ALL = 1_000_000
const BYTES = 64
const MODULE = new URL('./fixtures/servers/datagram-sink-module.js', import.meta.url)
const TIMEOUT_MS = 120_000

/** Receives datagrams with numbers, which must rise: none comes twice, or behind a later one. */
class Counting extends DatagramRecorder {
  received = 0
  misplaced = 0
  #last = -1

  override datagramReceived(data: Buffer, _address: SocketAddress): void {
    const number = data.readUInt32LE()
    if (number <= this.#last || data.length !== BYTES) this.misplaced++
    this.#last = number
    this.received++
  }
}

/** Sends numbers from `from` to `to`. */
function send({ transport }: DatagramRecorder, from: number, to: number): void {
  const data = Buffer.alloc(BYTES)
  for (let number = from; number < to; number++) {
    data.writeUInt32LE(number)
    transport.sendto(data)
  }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

/** What the kernel says of all sockets on a port (proc(5), /proc/net/udp): what it dropped, and bytes that wait. */
function kernelCounts(port: number): { drops: number; waiting: number } {
  const hex = port.toString(16).toUpperCase().padStart(4, '0')
  const rows = readFileSync('/proc/net/udp', 'utf8')
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local]) => local?.endsWith(`:${hex}`))
  const sum = (read: (row: string[]) => number): number => rows.reduce((total, row) => total + read(row), 0)
  return {
    drops: sum((row) => Number(row.at(-1))),
    waiting: sum((row) => Number.parseInt(row[4]?.split(':')[1] ?? '0', 16)),
  }
}

if (process.platform === 'linux') {
  forEachEngine('a million datagrams', (test, engine) => {
    for (const [name, burst, merges] of [
      ['as fast as they are taken, which loses some', 5_000, false],
      ['as fast as they are taken, several as one packet of the sender', 5_000, true],
      ['100 at a time, and the next when they have come', 100, false],
    ] as const) {
      test(
        `${name}: received and lost ones are all that were sent`,
        async (t) => {
          const receiver = await endpoint(
            t,
            { local: { host: '127.0.0.1' }, offload: false },
            () => new Counting(),
          )
          const remote = { host: '127.0.0.1', port: portOf(receiver) }
          const sender = await endpoint(t, { remote, offload: merges })
          const drops = (): number => receiver.transport.getExtraInfo('socket')?.getOption('drops') ?? 0
          const isPaced = burst === 100
          for (let number = 0; number < ALL; number += burst) {
            send(sender, number, number + burst)
            do await turn()
            while (
              isPaced &&
              receiver.received < number + burst &&
              receiver.received + drops() < number + burst
            )
          }
          sender.transport.close()
          await sender.lost()
          await eventually(() => receiver.received + drops() === ALL)
          console.log(`\n${engine}, ${name}: ${receiver.received} received, ${drops()} dropped by the kernel`)
          assert.equal(receiver.misplaced, 0)
          assert.deepEqual(sender.errors, [])
          assert.equal(kernelCounts(portOf(receiver)).drops, drops())
          if (!isPaced && !merges) assert.ok(drops() > 0, 'nothing was lost, so this has tested nothing')
        },
        { timeoutMs: TIMEOUT_MS },
      )
    }

    test(
      'from 16 endpoints to a server of 2 shards: its counters and the kernel’s are all that were sent',
      async (t) => {
        const server = await createDatagramServer(MODULE, {
          host: '127.0.0.1',
          shards: 2,
          signals: false,
          engine,
          offload: false,
        })
        t.defer(() => server.abort())
        const port = portOfServer(server)
        const senders: DatagramRecorder[] = []
        for (let index = 0; index < 16; index++)
          senders.push(await endpoint(t, { remote: { host: '127.0.0.1', port }, offload: false }))
        const each = ALL / senders.length
        for (let number = 0; number < each; number += 500) {
          for (const sender of senders) send(sender, number, number + 500)
          await turn()
        }
        for (const sender of senders) sender.transport.close()
        await Promise.all(senders.map((sender) => sender.lost()))
        await eventually(() => kernelCounts(port).waiting === 0)
        const received = (): number => server.metrics().total.datagrams.received
        await eventually(() => received() + kernelCounts(port).drops === ALL)
        const shares = server.metrics().shards.map(({ datagrams }) => datagrams.received)
        console.log(
          `\n${engine}: ${shares.join(' and ')} received, ${kernelCounts(port).drops} dropped by the kernel`,
        )
        assert.ok(
          shares.every((share) => share > 0),
          shares.join(', '),
        )
      },
      { timeoutMs: TIMEOUT_MS },
    )
  })
}
