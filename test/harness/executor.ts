import assert from 'node:assert/strict'
import type { Server, ServerOptions } from '../../src/index.js'
import type { ExecutorMetrics } from '../../src/server/metrics.js'
import type { Answer, Command } from '../fixtures/servers/executor-module.js'
import type { Client } from './client.js'
import { eventually } from './deferred.js'
import type { TestContext } from './suite.js'

/** Functions for the executor; see there. */
export const TASKS: URL = new URL('../fixtures/tasks.js', import.meta.url)

const MODULE = new URL('../fixtures/servers/executor-module.js', import.meta.url)

/** A server whose connections run tasks. */
export function serveTasks(t: TestContext, options: ServerOptions): Promise<Server> {
  return t.serve(MODULE, options)
}

/** A client that tells one shard which tasks to run. */
export class TaskClient {
  readonly client: Client
  readonly #answers = new Map<number, Answer>()
  #lastId = 0

  constructor(client: Client) {
    this.client = client
  }

  /** Sends a command; its answer is to be asked for. */
  async send(command: Command): Promise<number> {
    this.#lastId += 1
    const id = command.id ?? this.#lastId
    await this.client.write(`${JSON.stringify({ ...command, id })}\n`)
    return id
  }

  /** The answer to a command; those to others that come before it are kept. */
  async answer(id: number): Promise<Answer> {
    for (;;) {
      const known = this.#answers.get(id)
      if (known !== undefined) return known
      const answer = JSON.parse(await this.client.readLine()) as Answer
      this.#answers.set(answer.id as number, answer)
    }
  }

  /** Answers in the order in which they come. */
  async next(): Promise<Answer> {
    return JSON.parse(await this.client.readLine()) as Answer
  }

  async ask(command: Command): Promise<Answer> {
    return this.answer(await this.send(command))
  }

  run(name: string, args: readonly unknown[] = []): Promise<number> {
    return this.send({ do: 'run', name, args })
  }
}

/** Clients of as many different shards, in the order of their ids; null: of a server in this very thread. */
export async function taskClients(t: TestContext, server: Server, shards: number): Promise<TaskClient[]> {
  const clients: TaskClient[] = []
  while (clients.filter((client) => client !== undefined).length < Math.max(1, shards)) {
    const client = new TaskClient(await t.connect(server, { mayBreak: true }))
    const { result } = await client.ask({ do: 'who' })
    const shard = Number(result ?? 0)
    if (clients[shard] === undefined) clients[shard] = client
    else await client.client.destroy()
  }
  return clients
}

/** Waits until the executor's figures are so. */
export async function until(server: Server, wanted: Partial<ExecutorMetrics>): Promise<void> {
  const are = (): Partial<ExecutorMetrics> => {
    const now = server.metrics().executor
    return Object.fromEntries(Object.keys(wanted).map((key) => [key, now[key as keyof ExecutorMetrics]]))
  }
  await eventually(() => JSON.stringify(are()) === JSON.stringify(wanted))
  assert.deepEqual(are(), wanted)
}

/** Waits until `count` tasks that were given this memory have begun. */
export async function untilBegun(shared: Int32Array, count: number): Promise<void> {
  await eventually(() => Atomics.load(shared, 0) >= count)
}

/** Memory for tasks that announce themselves; setting the second word lets them go. */
export function gate(): Int32Array {
  return new Int32Array(new SharedArrayBuffer(8))
}

export function open(shared: Int32Array): void {
  Atomics.store(shared, 1, 1)
  Atomics.notify(shared, 1)
}
