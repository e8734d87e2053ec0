/**
 * A client that opens connections as fast as it can, N at once: each is connected, closed and gone before the next one takes
 * its place.
 *
 * Arguments: --client shardloop|node-net [--addr HOST:PORT] [--engine mio|tokio] [--at-once N] [--addresses N] [--target-pid
 * PID]. HOST is the first of N addresses 127.0.0.1, 127.0.0.2 and on, which are connected to in turn: each has only so many
 * ports that a connection may come from, and a closed one keeps its port in TIME_WAIT.
 *
 * It prints a ready line as servers do, with the address that it connects to, and then answers each line `WARMUP-SECS SECS` on
 * stdin by a line of JSON, `ConnectReport` in load.ts. SIGTERM ends it by the signal's default action.
 */
import { createInterface } from 'node:readline'
import { parseArgs } from 'node:util'
import { connectAsFastAsPossible } from './load.js'
import { nodeNetConnector } from './node-net-client.js'
import { shardloopConnector } from './shardloop-client.js'

const { values } = parseArgs({
  options: {
    client: { type: 'string', default: 'node-net' },
    engine: { type: 'string', default: 'auto' },
    addr: { type: 'string', default: '127.0.0.1:0' },
    'at-once': { type: 'string', default: '16' },
    addresses: { type: 'string', default: '1' },
    'target-pid': { type: 'string', default: 'self' },
  },
})
const [host, port] = values.addr.split(':')
const hosts = Array.from({ length: Number(values.addresses) }, (_, index) => `127.0.0.${index + 1}`)

if (host !== hosts[0]) throw new Error(`--addr: ${values.addr} is not HOST:PORT with the host ${hosts[0]}`)
const connector = values.client === 'shardloop' ? shardloopConnector(values.engine) : nodeNetConnector()
console.log(`connecting to tcp://${values.addr} (shards 0, engine ${connector.engine})`)
for await (const line of createInterface({ input: process.stdin })) {
  const [warmupSecs = 0, secs = 0] = line.split(' ').map(Number)
  const target = { hosts, port: Number(port), pid: values['target-pid'] }
  const report = await connectAsFastAsPossible(connector, target, Number(values['at-once']), warmupSecs, secs)
  console.log(JSON.stringify(report))
}
