/**
 * The server of a soak, a process of its own. Argument: its plan as JSON. It prints its ports, then every second what it
 * holds. Lines that it takes: `look`: tell it now; `quiet N`: tell it once only N connections are open and nothing
 * changes; `end`: close and end.
 */
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { BroadcastChannel } from 'node:worker_threads'
import { createServer, type Server } from 'shardloop'
import { openDescriptors, threadCount } from '../harness/leaks.js'
import { collectGarbage } from '../harness/memory.js'
import {
  CHANNEL,
  type Holding,
  type Question,
  type ShardSays,
  type ThreadMemory,
  threadMemory,
} from './holding.js'
import { type Ready, SERVICES, type ServerPlan, type Service } from './plan.js'

const HOLDING_EVERY_MS = 1000
/** Longest until nothing changes any more; what is told then is what there is. */
const QUIET_WITHIN_MS = 10_000
/** Counts that are the same for so long have settled. */
const SETTLED_MS = 40
/** A shard that does not answer for so long is gone; what it told last stands. */
const ANSWER_WITHIN_MS = 5_000

const plan = JSON.parse(process.argv[2] as string) as ServerPlan
const servers = {} as Record<Service, Server>
for (const service of SERVICES) {
  const { engine, shards, seed, fault } = plan
  const query = new URLSearchParams({ service, seed: String(seed), ...(fault !== null && { fault }) })
  const module = new URL(`./services.js?${query}`, import.meta.url)
  servers[service] = await createServer(module, { host: '127.0.0.1', engine, shards, signals: false })
}
// All of them run on the same shards: their events and counters are those of each.
const { events } = servers.chunk
const started = performance.now()
let [deaths, exceptions, asked] = [0, 0, 0]
const causes: string[] = []
/** Some shard's figures are old. */
let isUntold = false
const told: ThreadMemory[] = Array(plan.shards).fill({ heapBytes: 0, externalBytes: 0, bufferBytes: 0 })
const answers = new Map<number, Set<number>>()
const channel = new BroadcastChannel(CHANNEL)
channel.onmessage = (event) => heard((event as { data: ShardSays }).data)
events.on('shard', ({ exitCode, reason = '' }) => {
  if (exitCode === undefined) return
  if (deaths++ === 0) causes.push(`a shard died: ${reason}`)
})

const ready: Ready = {
  engine: servers.chunk.engine,
  ports: Object.fromEntries(
    SERVICES.map((service) => [service, servers[service].addresses[0]?.port]),
  ) as unknown as Ready['ports'],
}
await ask(false)
print(ready)
const telling = setInterval(() => void ask(false).then(() => print(holding(false))), HOLDING_EVERY_MS)
for await (const line of createInterface({ input: process.stdin })) {
  const [command, count] = line.split(' ')
  if (command === 'end') break
  if (command === 'quiet') print(await quiet(Number(count)))
  else print(holding(false))
}
clearInterval(telling)
channel.close()
await Promise.all(SERVICES.map((service) => servers[service].close()))

async function quiet(connections: number): Promise<Holding> {
  const deadline = performance.now() + QUIET_WITHIN_MS
  while (openConnections() !== connections && performance.now() < deadline) await sleep(5)
  await Promise.all([collectGarbage(), ask(true)])
  for (let before = holding(true); ; ) {
    await sleep(SETTLED_MS)
    const now = holding(true)
    const isSettled = now.descriptors === before.descriptors && now.threads === before.threads
    if (isSettled || performance.now() > deadline) return now
    before = now
  }
}

/** Has the shards tell what they hold; resolves when all have. */
async function ask(collect: boolean): Promise<void> {
  const question: Question = { ask: asked++, collect }
  const answered = new Set<number>()
  answers.set(question.ask, answered)
  channel.postMessage(question)
  const deadline = performance.now() + ANSWER_WITHIN_MS
  while (answered.size < plan.shards && performance.now() < deadline)
    await sleep(2, undefined, { ref: false }) // one that never answers must not keep the process
  answers.delete(question.ask)
  if (answered.size < plan.shards && deaths === 0 && !isUntold) {
    isUntold = true
    causes.push(`shards did not say within ${ANSWER_WITHIN_MS} ms what they hold`)
  }
}

function heard(said: ShardSays): void {
  if ('exception' in said) {
    if (exceptions++ === 0) causes.push(`a callback threw: ${said.exception}`)
    return
  }
  told[said.shard] = said.memory
  answers.get(said.answer)?.add(said.shard)
}

function openConnections(): number {
  return servers.chunk.metrics().total.connectionsOpen
}

function holding(isQuiet: boolean): Holding {
  return {
    atSecs: (performance.now() - started) / 1000,
    isQuiet,
    residentBytes: process.memoryUsage.rss(),
    descriptors: openDescriptors().size,
    threads: threadCount(),
    connections: openConnections(),
    supervisor: threadMemory(),
    shards: [...told],
    deaths,
    exceptions,
    causes,
  }
}

function print(line: Ready | Holding): void {
  console.log(JSON.stringify(line))
}
