/** Clients of servers whose shards do as they are told; see fixtures/servers/obedient-protocol. */
import type { Server, ShardInfo } from '../../src/index.js'
import type { Client } from './client.js'
import type { TestContext } from './suite.js'

/** More than the kernel's buffers on both sides take. */
const FLOOD_BYTES = 40_000_000

/** How the shards are, but for how long each has just been busy, which depends on the machine. */
export function statesOf(server: Server): Omit<ShardInfo, 'stalledMs'>[] {
  return server.shards.map(({ stalledMs: _, ...status }) => status)
}

/** A client of this very shard. */
export async function clientOf(t: TestContext, server: Server | number, shard: number): Promise<Client> {
  for (;;) {
    const client = await t.connect(server)
    await client.write('who\n')
    if ((await client.readLine()) === String(shard)) return client
    await client.destroy()
  }
}

/** Has a shard end its thread, and waits until its connection is gone. */
export async function kill(
  t: TestContext,
  server: Server | number,
  shard: number,
  command = 'exit 1',
): Promise<void> {
  const client = await clientOf(t, server, shard)
  await client.write(`${command}\n`)
  await client.readToClose()
  await client.destroy()
}

/** A client that has asked for more than the kernel's buffers take, and does not read it. */
export async function flood(client: Client): Promise<void> {
  await client.write(`send ${FLOOD_BYTES}\n`)
  await client.readExactly(1)
  client.pause()
}
