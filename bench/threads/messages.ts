/**
 * Two threads of which the main one sends or calls. Arguments: --peer shardloop|message-port [--engine mio|tokio] [--way
 * send|call|call-paused] [--payload NAME]. It prints a ready line with the other thread's number, and then answers each line
 * `WARMUP-SECS SECS` on stdin by a line of JSON, as the load generator's. SIGTERM ends it by the signal's default action.
 */
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { oneOf } from '../flags.js'
import { threadLoad, type Way } from './load.js'
import { messagePortChannel } from './message-port-channel.js'
import { PAYLOADS, type PayloadName } from './payloads.js'
import { shardloopChannel } from './shardloop-channel.js'

const { values } = parseArgs({
  options: {
    peer: { type: 'string', default: 'shardloop' },
    engine: { type: 'string', default: 'mio' },
    way: { type: 'string', default: 'send' },
    payload: { type: 'string', default: 'bytes' },
  },
})
const peer = oneOf('--peer', values.peer, ['shardloop', 'message-port'])
const way = oneOf<Way>('--way', values.way, ['send', 'call', 'call-paused'])
const name = oneOf('--payload', values.payload, Object.keys(PAYLOADS) as PayloadName[])

const channel = await (peer === 'shardloop' ? shardloopChannel(values.engine) : messagePortChannel())
const load = threadLoad(channel, way, PAYLOADS[name]())
console.log(`connecting to thread:${channel.thread} (shards 1, engine ${channel.engine})`)
for await (const line of createInterface({ input: process.stdin })) {
  const [warmupSecs = 0, secs = 0] = line.split(' ').map(Number)
  console.log(JSON.stringify(await load.measure(warmupSecs, secs)))
}
