// An MQTT broker, aedes, on all cores. Run: npm run -s example -- mqtt-broker --port 1883
// then: npx mqtt sub -h 127.0.0.1 -t 'room/#' and, in another terminal: npx mqtt pub -h 127.0.0.1 -t room/1 -m hello
// Each shard has a broker of its own, and what a client publishes goes to all of them, so subscribers and retained messages are
// the same everywhere. Sessions are not: a client that comes back to another shard (or to one that was replaced) finds neither
// its subscriptions nor what waited for it, and two clients of one id on two shards do not know of each other. With --shards 1,
// or with a persistence of aedes that is shared (Redis, MongoDB), they do.
import { Aedes } from 'aedes'
import { createServer, getLoop, isSupervisor, type Transport } from 'shardloop'
import { failure, listening, serverFlags } from './lib/program.js'

interface Published {
  readonly from: string
  readonly topic: string
  readonly payload: string | Buffer
  readonly qos: 0 | 1 | 2
  readonly retain: boolean
}

const loop = getLoop()
const broker = new Aedes()

broker.on('publish', ({ topic, payload, qos, retain }, client) => {
  // What comes from no client is the broker's own ($SYS), or came from another shard: it goes no further.
  if (client === null) return
  const published: Published = { from: broker.id, topic, payload, qos, retain }
  loop.callSoonThreadsafe('all', 'published', published)
})

loop.expose('published', ({ from, ...message }: Published) => {
  if (from !== broker.id) broker.publish({ cmd: 'publish', dup: false, ...message }, () => {})
})

const options = serverFlags(1883)

async function main(): Promise<void> {
  if (!isSupervisor) await broker.listen()
  const server = await createServer(
    () => ({ connectionMade: (transport: Transport) => void broker.handle(transport.duplex()) }),
    options,
  )
  if (isSupervisor) console.log(`MQTT on ${listening(server, options, 'mqtt')}`)
}

main().catch(failure('mqtt-broker'))
