// A chat in few lines, by streams: what somebody says, all others are told, on whatever shard. Run:
// npm run -s example -- line-chat --port 7000, then in two more terminals: nc 127.0.0.1 7000
import { parseArgs } from 'node:util'
import { getLoop, isSupervisor, LimitOverrunError, LineFramer, type Stream, startServer } from 'shardloop'
import { engine, failure, number } from './lib/program.js'

const ROOM = 'room'
/** Longest line, without its end. */
const LINE_MAX_BYTES = 1024
/** Bytes that may wait for somebody who does not read; then the connection is aborted. */
const UNREAD_MAX_BYTES = 1024 * 1024

const loop = getLoop()

async function chat(stream: Stream): Promise<void> {
  const { transport } = stream
  const lines = new LineFramer({ maxFrameBytes: LINE_MAX_BYTES })
  loop.subscribe(transport, ROOM)
  await stream.write(`* you are ${transport.id}\n`)
  try {
    for await (const chunk of stream) {
      for (const line of lines.push(chunk)) {
        const text = line.toString().replace(/\p{Cc}/gu, '') // control characters are for terminals
        loop.broadcast(ROOM, `${transport.id}: ${text}\n`, { except: transport })
      }
    }
    // The peer has ended, or the server drains.
    await stream.write('* bye\n')
  } catch (error) {
    if (!(error instanceof LimitOverrunError)) throw error
    await stream.write(`* a line has at most ${lines.maxFrameBytes} bytes\n`)
  }
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      host: { type: 'string', default: '127.0.0.1' },
      port: { type: 'string', default: '7000' },
      shards: { type: 'string', default: 'auto' },
      engine: { type: 'string', default: 'auto' },
    },
  })
  const server = await startServer(chat, {
    host: values.host,
    port: number(values.port),
    shards: number(values.shards),
    engine: engine(values.engine),
    writeMaxBytes: UNREAD_MAX_BYTES,
  })
  if (!isSupervisor) return
  const [address] = server.addresses
  const where = `${address?.address} port ${address?.port}`
  console.log(`chatting on ${where} (shards ${server.shards.length}, engine ${server.engine})`)
}

main().catch(failure('line-chat'))
