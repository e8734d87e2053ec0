import assert from 'node:assert/strict'
import { suite } from 'uvu'
import type { Measurable, PairedRow } from '../bench/paired/benchmark.js'
import { startServer } from '../bench/servers.js'
import {
  broadcastCommand,
  LISTENERS,
  messagesCommand,
  THREADS,
  type ThreadPeer,
} from '../bench/threads/benchmark.js'
import { BroadcastRequests, broadcastMessage } from '../bench/threads/broadcast-requests.js'
import { ACKNOWLEDGED_EVERY, type Channel, Receiver } from '../bench/threads/channel.js'
import { checkDescriptors, measureListeners, startListening } from '../bench/threads/listeners.js'
import { BATCH, threadLoad, WINDOW } from '../bench/threads/load.js'
import { isSame, PAYLOADS } from '../bench/threads/payloads.js'

const CONNECTIONS = 40
const test = suite('bench threads')

const rowOf = (id: string): PairedRow<ThreadPeer> =>
  THREADS.rows.find((row) => row.id === id) as PairedRow<ThreadPeer>

/** Messages that the channel below delivers in a turn of the loop: fewer than are sent in one. */
const DELIVERED = 64

/** A channel within this thread that is slow, and tells the most that was under way in it. */
function imagined(): Channel & { most: number } {
  let listener: (count: number) => void = () => {}
  let [sent, came, delivers] = [0, 0, false]
  const receiver = new Receiver((count) => listener(count))
  const deliver = (): void => {
    for (let message = 0; message < DELIVERED && came < sent; message++) {
      came++
      receiver.received()
    }
    delivers = came < sent
    if (delivers) setImmediate(deliver)
  }
  const channel = {
    thread: '0',
    engine: 'none',
    most: 0,
    send() {
      sent++
      channel.most = Math.max(channel.most, sent - came)
      if (!delivers) setImmediate(deliver)
      delivers = true
    },
    call: async (payload: unknown) => payload,
    onAcknowledged(told: (count: number) => void) {
      listener = told
    },
  }
  return channel
}

test('a receiver acknowledges every so many messages', () => {
  const told: number[] = []
  const receiver = new Receiver((count) => told.push(count))
  for (let message = 0; message < 3 * ACKNOWLEDGED_EVERY - 1; message++) receiver.received()
  assert.deepEqual(told, [ACKNOWLEDGED_EVERY, 2 * ACKNOWLEDGED_EVERY])
})

test('what comes back is compared by value, bytes also as another view', () => {
  for (const make of Object.values(PAYLOADS)) assert.ok(isSame(make(), make()))
  assert.ok(isSame(Buffer.from([1, 2]), new Uint8Array([1, 2])))
  assert.ok(!isSame(Buffer.from([1, 3]), new Uint8Array([1, 2])))
  assert.ok(!isSame({ ...(PAYLOADS.nested() as object), total: 1 }, PAYLOADS.nested()))
})

if (process.platform === 'linux') {
  test('so many messages are under way at most, and all are acknowledged, time after time', async () => {
    const channel = imagined()
    const load = threadLoad(channel, 'send', 1)
    for (let time = 0; time < 2; time++) {
      const { requests, requestsTotal, secs } = await load.measure(0.01, 0.05)
      assert.ok(requests > 0 && requests <= requestsTotal && requestsTotal % BATCH === 0)
      assert.ok(secs > 0.04)
    }
    assert.equal(channel.most, WINDOW)
  })

  test('a channel that changes what it carries is not measured', async () => {
    const channel: Channel = { ...imagined(), call: async () => 2 }
    for (const way of ['send', 'call'] as const)
      await assert.rejects(threadLoad(channel, way, 1).measure(0, 0.01), /is not what was sent/)
  })
}

test('requests come in any pieces, and anything else ends the connection', () => {
  const seen: unknown[] = []
  const requests = new BroadcastRequests(
    (...request) => seen.push(request),
    () => seen.push('count'),
  )
  for (const piece of ['cou', 'nt\nbroadcast 16 64', ' 32\nbroadcast 1 4 0\n', 'count\n'])
    requests.received(Buffer.from(piece))
  assert.deepEqual(seen, ['count', [16, 64, 32], [1, 4, 0], 'count'])
  assert.throws(() => requests.received(Buffer.from('GET / HTTP/1.1\n')), /is neither count nor broadcast/)
})

test('each message has memory of its own, its number, and bytes that tell their places', () => {
  const [one, other] = [broadcastMessage(1, 300), broadcastMessage(0x01020304, 300)]
  assert.deepEqual([...one.subarray(0, 6)], [1, 0, 0, 0, 4, 5])
  assert.deepEqual([...other.subarray(0, 6)], [4, 3, 2, 1, 4, 5])
  assert.deepEqual([one[250], one[251], one.length], [250, 0, 300])
  assert.equal(broadcastMessage(7, 4).length, 4)
})

test('too few descriptors are an error that says what to do, before anything starts', () => {
  const limits = (hard: string): string =>
    `Limit  Soft  Hard  Units\nMax open files            1024                 ${hard}              files\n`
  checkDescriptors(LISTENERS, limits('1048576'))
  checkDescriptors(LISTENERS, limits('unlimited'))
  assert.throws(
    () => checkDescriptors(LISTENERS, limits('4096')),
    /10000 connections need 10200 descriptors.*hard limit is 4096.*ulimit -Hn.*--rows messages,calls/,
  )
})

if (process.platform === 'linux') {
  for (const peer of ['shardloop', 'message-port'] as const) {
    for (const id of ['messages-mapdate', 'calls-bytes']) {
      test(`${id}: ${peer} tells its other thread, and is measured again and again`, async () => {
        const program = await startServer(null, messagesCommand(rowOf(id), peer))
        try {
          const thread = program.addr.replace('thread:', '')
          assert.ok(Number(thread) > 0 && Number(thread) !== program.pid, program.addr)
          for (let time = 0; time < 2; time++) {
            let result = await measureListeners(program, 0.02, 0.05)
            // Its threads may have had no CPU in so short a time.
            for (let secs = 0.2; result.requests === 0 && secs < 2; secs *= 2)
              result = await measureListeners(program, 0.02, secs)
            assert.ok(result.requests > 0 && result.requestsTotal >= result.requests)
            assert.equal(result.latencyUs.p50 > 0, id.startsWith('calls'))
          }
        } finally {
          await program.stop()
        }
      })
    }
  }

  for (const peer of ['mio', 'tokio', 'mio-shard', 'node-net', 'c'] as const) {
    if (THREADS.absent(peer) !== null) continue
    test(`${peer} broadcasts to every listener, again and again`, async () => {
      const listening = { connections: CONNECTIONS, size: 64, atOnce: 4 }
      const both: Measurable = await startListening(broadcastCommand(peer), listening, [null, null])
      try {
        for (let time = 0; time < 2; time++) {
          const { requests, latencyUs, cpu } = await both.measure(0.02, 0.05)
          assert.ok(requests > 0 && requests % (4 * CONNECTIONS) === 0, `${requests}`)
          assert.equal(requests, (latencyUs.count ?? 0) * 4 * CONNECTIONS)
          assert.notEqual(cpu?.serverSecs, null)
        }
        await both.stop()
      } catch (error) {
        both.kill()
        throw error
      }
    })
  }
}

test.run()
