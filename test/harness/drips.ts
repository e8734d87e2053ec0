import assert from 'node:assert/strict'
import type { Protocol, Server } from '../../src/index.js'
import { CHUNK_SLAB_BYTES } from '../../src/native/abi.js'
import { Observable } from './deferred.js'
import { arrayBufferBytes, MiB } from './memory.js'
import { portOf, type TestContext } from './suite.js'

/** The default bound on slabs that only kept chunks hold, per shard. */
const RETAINED_SLAB_BYTES = 64 * MiB
/** For the slabs in use, and the limit being looked at in whole slabs. */
const SLACK_BYTES = 24 * MiB
/** Between two drips so much other traffic passes that each drip lies in another slab, or nearly. */
const BULK_BYTES = CHUNK_SLAB_BYTES

class Keeping extends Observable {
  readonly kept: Buffer[] = []
  connections = 0
  bulkReceived = 0

  keep(chunk: Buffer): void {
    this.kept.push(chunk)
    this.changed()
  }

  bulk(length: number): void {
    this.bulkReceived += length
    this.changed()
  }

  connected(): void {
    this.connections++
    this.changed()
  }
}

/**
 * `count` connections send one byte each, which the server keeps as it was given, while bulk traffic pushes
 * every byte into a slab of its own: without a limit they would hold `count` slabs.
 */
export async function holdDrips(t: TestContext, count: number): Promise<void> {
  const keeping = new Keeping()
  const factory = (): Protocol => ({
    connectionMade: () => keeping.connected(),
    dataReceived: (chunk) => {
      if (chunk.length === 1) keeping.keep(chunk)
      else keeping.bulk(chunk.length)
    },
  })
  const server: Server = await t.serve(factory)
  // The dripping ends live in another process: both ends of 10,000 connections are more than one may have open.
  const dripping = t.start('drip-clients', [String(portOf(server)), String(count)])
  await dripping.line(/^ready$/)
  await keeping.until(() => keeping.connections === count)
  const bulk = await t.connect(server)
  const filler = Buffer.alloc(BULK_BYTES, 1)
  const before = await arrayBufferBytes()
  let sent = 0
  for (let drip = 0; drip < count; drip += 1) {
    dripping.send('drip')
    sent += filler.length
    const target = sent
    await bulk.write(filler)
    await keeping.until(() => keeping.kept.length > drip && keeping.bulkReceived >= target)
  }
  const held = (await arrayBufferBytes()) - before
  assert.equal(keeping.kept.length, count)
  keeping.kept.forEach((chunk, index) => {
    assert.equal(chunk[0], index & 0xff, `drip ${index}`)
  })
  assert.ok(held <= RETAINED_SLAB_BYTES + SLACK_BYTES, `${count} kept bytes hold ${held} bytes`)
  // Dropped chunks give their slabs back.
  keeping.kept.length = 0
  const left = (await arrayBufferBytes()) - before
  assert.ok(left <= SLACK_BYTES, `${left} bytes are held after the chunks are gone`)
  dripping.send('end')
  assert.deepEqual(await dripping.untilExit(), { code: 0, signal: null }, dripping.describe())
}
