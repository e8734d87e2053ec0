// What a thread of the executor runs for each task; piscina calls the default export.
import { type MessagePort, receiveMessageOnPort } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { monotonicTime } from './clock.js'
import { packError } from './error-transfer.js'
import { packResult } from './executor-memory.js'
import {
  TASK_CANCELLED,
  TASK_IMPORTING,
  TASK_RUNNING,
  type TaskOrder,
  type TaskReply,
  type TaskReport,
} from './executor-messages.js'
import { registerTsx } from './program.js'

type TaskFunction = (...args: unknown[]) => unknown

let tsx: Promise<void> | undefined

/** Runs one task and replies to its caller. Never rejects. */
export default async function runTask(order: TaskOrder): Promise<TaskReport> {
  const { port, module, exported, state, tsxApi } = order
  const startedMs = monotonicTime() * 1000
  let hasFailed = false
  try {
    if (Atomics.load(state, 0) !== TASK_CANCELLED) {
      const args = receiveMessageOnPort(port)?.message as unknown[]
      tsx ??= registerTsx(tsxApi)
      await tsx
      const task = await importTask(module, exported)
      // From here on a cancel ends this thread. An import is not broken off: Node would leave its files open.
      const before = Atomics.compareExchange(state, 0, TASK_IMPORTING, TASK_RUNNING)
      if (before === TASK_IMPORTING) replyWith(port, module, await task(...args))
    }
  } catch (error) {
    hasFailed = true
    port.postMessage({ isResult: false, error: packError(error) } satisfies TaskReply)
  }
  port.close()
  return { startedMs, endedMs: monotonicTime() * 1000, hasFailed }
}

async function importTask(href: string, exported: string | null): Promise<TaskFunction> {
  const module = (await import(href)) as Record<string, unknown>
  const name = exported ?? 'default'
  // CommonJS made from an ES module keeps its exports one level down.
  const inner = module['default'] as Record<string, unknown> | null | undefined
  for (const found of [module[name], inner?.[name]])
    if (typeof found === 'function') return found as TaskFunction
  const functions = Object.keys(module).filter((key) => typeof module[key] === 'function')
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `${href} has no ${exported === null ? 'default export' : `export ${exported}`} that is a function; ` +
      (functions.length === 0
        ? 'it exports no function'
        : `functions that it exports: ${functions.join(', ')}`),
  )
}

function replyWith(port: MessagePort, href: string, result: unknown): void {
  const { value, transferList } = packResult(result)
  const reply: TaskReply = { isResult: true, value }
  try {
    port.postMessage(reply, transferList)
  } catch (cause) {
    // Some memory cannot move: that of WebAssembly, or what was marked as untransferable. It is copied.
    if (transferList.length === 0 || !replies(port, reply))
      throw new ShardloopError(
        'ERR_SHARDLOOP_ARGUMENT',
        `the result of ${href} cannot be sent to another thread: ${(cause as Error).message}`,
        { cause },
      )
  }
}

function replies(port: MessagePort, reply: TaskReply): boolean {
  try {
    port.postMessage(reply)
    return true
  } catch {
    return false
  }
}
