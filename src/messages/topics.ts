import { ShardloopError, systemError } from '../errors.js'
import {
  AUDIENCE_MAX_BYTES,
  BROADCAST_COST_BYTES,
  TOPIC_MAX_BYTES,
  TOPICS_PER_CONNECTION_MAX,
} from '../native/abi.js'
import { native } from '../native/index.js'
import { GivenOptions } from '../server/given-options.js'
import { invalid } from '../workers/invalid.js'
import { ReadPipe } from '../workers/pipe-transport.js'
import type { Transport, WriteData } from '../workers/protocol.js'
import { flushCommands } from '../workers/shard-loops.js'
import { threadSingletonGetter } from '../workers/thread-singleton.js'
import { TcpTransport } from '../workers/transport.js'

/** Options of `broadcast`. */
export interface BroadcastOptions {
  /** A connection of this thread that does not get it, though it may have subscribed: usually the one that it came from. */
  readonly except?: Transport
}

/** Of each transport that has subscribed. */
const topicsOf: () => WeakMap<TcpTransport, Set<string>> = threadSingletonGetter(
  'topics',
  () => new WeakMap(),
)

/** A connection of this thread gets what is broadcast to a topic from now on. */
export function subscribe(transport: Transport, topic: string): void {
  const connection = checkedTransport(transport)
  checkTopic(topic)
  if (connection instanceof ReadPipe)
    throw new ShardloopError(
      'ERR_SHARDLOOP_STATE',
      `pipe ${connection.id} is only read: it cannot be sent broadcasts`,
    )
  if (connection.closing) return
  const topics = topicsOf().get(connection) ?? new Set()
  if (topics.has(topic)) return
  if (topics.size >= TOPICS_PER_CONNECTION_MAX)
    throw new ShardloopError(
      'ERR_SHARDLOOP_STATE',
      `connection ${connection.id} has subscribed to ${TOPICS_PER_CONNECTION_MAX} topics: unsubscribe from one first`,
    )
  const failure = connection.loop.native.subscribe(connection.handle, topic)
  if (failure !== null) throw systemError(failure.errno, failure.syscall)
  topics.add(topic)
  topicsOf().set(connection, topics)
}

/** It does not any more. Whether it had subscribed. */
export function unsubscribe(transport: Transport, topic: string): boolean {
  const connection = checkedTransport(transport)
  checkTopic(topic)
  const topics = topicsOf().get(connection)
  if (topics === undefined || !topics.delete(topic)) return false
  connection.loop.native.unsubscribe(connection.handle, topic)
  return true
}

/** Sends bytes to all connections of all threads that have subscribed to a topic. */
export function broadcast(topic: string, data: WriteData, options: BroadcastOptions = {}): void {
  checkTopic(topic)
  const bytes = typeof data === 'string' ? Buffer.from(data) : data
  if (!(bytes instanceof Uint8Array)) throw invalid('data', data, 'a string or a Uint8Array')
  const except = exceptOf(options)
  if (bytes.length === 0) return
  if (bytes.length > BROADCAST_MAX_BYTES)
    throw new ShardloopError(
      'ERR_SHARDLOOP_MAILBOX_FULL',
      `a broadcast of ${bytes.length} bytes is larger than what may wait in a thread (${BROADCAST_MAX_BYTES}): send it in pieces`,
    )
  // What this callback has written to its connections comes before it.
  flushCommands()
  const { shards, refused } = native.broadcast(
    topic,
    bytes,
    except?.loop.native.seat() ?? -1,
    except?.handle ?? 0,
  )
  if (refused > 0)
    throw new ShardloopError(
      'ERR_SHARDLOOP_MAILBOX_FULL',
      `${refused} of ${shards} threads with subscribers did not take a broadcast to ${topic}: each may have ${AUDIENCE_MAX_BYTES} bytes ` +
        'of them that it has not sent yet. Broadcast less often; the other threads have taken it',
    )
}

/** What a shard takes at most with nothing else. */
const BROADCAST_MAX_BYTES = AUDIENCE_MAX_BYTES - BROADCAST_COST_BYTES

function exceptOf(options: unknown): TcpTransport | undefined {
  if (typeof options !== 'object' || options === null) throw invalid('options', options, 'an object')
  const given = new GivenOptions(options as Record<string, unknown>)
  const except = given.parsed('except', (value) =>
    value === undefined ? undefined : checkedTransport(value),
  )
  given.refuseUnknown()
  return except
}

function checkedTransport(transport: unknown): TcpTransport {
  if (!(transport instanceof TcpTransport))
    throw invalid('transport', transport, 'a transport of this thread')
  return transport
}

function checkTopic(topic: unknown): void {
  // In UTF-8 all halves of surrogate pairs are the same.
  const isText = typeof topic === 'string' && topic !== '' && !/\p{Surrogate}/u.test(topic)
  if (!isText || Buffer.byteLength(topic) > TOPIC_MAX_BYTES)
    throw invalid('topic', topic, `a well-formed text of 1 to ${TOPIC_MAX_BYTES} bytes in UTF-8`)
}
