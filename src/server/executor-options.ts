import { isDeepStrictEqual } from 'node:util'
import { ShardloopError } from '../errors.js'
import {
  EXECUTOR_IDLE_DEFAULT_MS,
  EXECUTOR_NAMES_MAX,
  EXECUTOR_QUEUE_DEFAULT,
  EXECUTOR_QUEUE_MAX,
  EXECUTOR_THREADS_DEFAULT_MAX,
  EXECUTOR_THREADS_MAX,
  NAME_MAX_LENGTH,
  TIME_MAX_MS,
} from '../limits.js'
import { automaticShards } from './cpu-quota.js'
import { parseResourceLimits, show, wrong } from './given-options.js'
import type { ShardResourceLimits } from './worker-shard.js'

/**
 * Options of the executor, which runs the tasks of `runInExecutor` for all threads of the process. As for `shards`, a later
 * server that leaves one out takes what runs, and one that wants something else is refused.
 */
export interface ExecutorOptions {
  /**
   * Threads, 1 to 256, started when tasks come. Default: the CPUs that the process may use, no more than its cgroup's quota
   * pays for, at most 64.
   */
  readonly maxThreads?: number
  /**
   * Tasks that may wait while all threads are busy, 0 to 65,536, those of all shards together; past it `runInExecutor` rejects
   * with ERR_SHARDLOOP_EXECUTOR_FULL. One shard may take all places, but shards take turns. Default 1,024.
   */
  readonly maxQueue?: number
  /** Milliseconds for which a thread waits for its next task until it ends. Default 10,000. */
  readonly idleTimeoutMs?: number
  /** Bounds of each thread's JavaScript memory. A task that needs more rejects with ERR_SHARDLOOP_EXECUTOR_DIED. Default: Node's own. */
  readonly resourceLimits?: ShardResourceLimits
  /**
   * Modules by name, so that `runInExecutor` may be given the name: 1 to 128 characters without `:` and `/`. The names of all
   * servers count; one name for two modules is refused. At most 1,024 in all.
   */
  readonly tasks?: Readonly<Record<string, URL | string>>
}

/** As they were checked; null: not given. */
export interface ExecutorSettings {
  readonly maxThreads: number | null
  readonly maxQueue: number | null
  readonly idleTimeoutMs: number | null
  readonly resourceLimits: ShardResourceLimits | null
  /** URLs by name. */
  readonly tasks: Readonly<Record<string, string>>
}

/** What the process's executor is. */
export interface ExecutorPlan {
  readonly maxThreads: number
  readonly maxQueue: number
  readonly idleTimeoutMs: number
  readonly resourceLimits: ShardResourceLimits
}

const KNOWN: readonly (keyof ExecutorOptions)[] = [
  'maxThreads',
  'maxQueue',
  'idleTimeoutMs',
  'resourceLimits',
  'tasks',
]

/** @throws ShardloopError ERR_SHARDLOOP_OPTION */
export function parseExecutor(value: unknown): ExecutorSettings | null {
  if (value === undefined) return null
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong('executor', value, `an object with some of ${KNOWN.join(', ')}`)
  const given = value as Record<string, unknown>
  for (const key of Object.keys(given)) {
    if (!KNOWN.some((known) => known === key))
      throw wrong('executor', value, `none but ${KNOWN.join(', ')} (there is ${show(key)})`)
  }
  const { resourceLimits } = given
  return Object.freeze({
    maxThreads: integer(given, 'maxThreads', 1, EXECUTOR_THREADS_MAX),
    maxQueue: integer(given, 'maxQueue', 0, EXECUTOR_QUEUE_MAX),
    idleTimeoutMs: integer(given, 'idleTimeoutMs', 0, TIME_MAX_MS),
    resourceLimits:
      resourceLimits === undefined ? null : parseResourceLimits('executor.resourceLimits', resourceLimits),
    tasks: parseTasks(given['tasks']),
  })
}

function integer(given: Record<string, unknown>, name: string, min: number, max: number): number | null {
  const value = given[name]
  if (value === undefined) return null
  if (typeof value === 'number' && Number.isInteger(value) && value >= min && value <= max) return value
  throw wrong(`executor.${name}`, value, `an integer from ${min} to ${max}`)
}

function parseTasks(value: unknown): Readonly<Record<string, string>> {
  if (value === undefined) return {}
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw wrong('executor.tasks', value, 'an object with URLs of modules by name')
  const tasks: Record<string, string> = Object.create(null)
  for (const [name, module] of Object.entries(value)) {
    if (!isTaskName(name))
      throw wrong(
        'executor.tasks',
        name,
        `names of 1 to ${NAME_MAX_LENGTH} characters without ':', '/' and '\\'`,
      )
    const href = moduleHref(module)
    if (href === null) throw wrong(`executor.tasks.${name}`, module, 'a file: or data: URL')
    tasks[name] = href
  }
  return Object.freeze(tasks)
}

/** What `runInExecutor` takes, for messages. */
export const TASK_EXPECTED =
  "the file: URL of a module that exports the function, as new URL('./task.js', import.meta.url), or a name of executor.tasks"

/** The URL or the name that a call has given; null when it is neither. */
export function taskOf(task: unknown): string | null {
  const href = moduleHref(task)
  if (href !== null) return href
  return typeof task === 'string' && isTaskName(task) ? task : null
}

function moduleHref(module: unknown): string | null {
  if (typeof module !== 'string' && !(module instanceof URL)) return null
  const href = String(module)
  if (!/^(file|data):/i.test(href) || !URL.canParse(href)) return null
  return new URL(href).href
}

/** Whether it is the name of a task rather than a URL. */
export function isTaskName(name: string): boolean {
  return name.length >= 1 && name.length <= NAME_MAX_LENGTH && !/[:/\\]/.test(name)
}

/** What was given, completed by the defaults. */
export function planFor(wanted: ExecutorSettings | null): ExecutorPlan {
  return {
    maxThreads: wanted?.maxThreads ?? Math.min(automaticShards(), EXECUTOR_THREADS_DEFAULT_MAX),
    maxQueue: wanted?.maxQueue ?? EXECUTOR_QUEUE_DEFAULT,
    idleTimeoutMs: wanted?.idleTimeoutMs ?? EXECUTOR_IDLE_DEFAULT_MS,
    resourceLimits: wanted?.resourceLimits ?? {},
  }
}

/** @throws ShardloopError ERR_SHARDLOOP_OPTION when what is wanted is not what runs */
export function refuseOtherPlan(plan: ExecutorPlan, wanted: ExecutorSettings | null): void {
  if (wanted === null) return
  for (const [name, value] of Object.entries(plan)) {
    const given = wanted[name as keyof ExecutorPlan]
    if (given === null || isDeepStrictEqual(given, value)) continue
    throw wrong(`executor.${name}`, given, `${show(value)}, as the whole process shares one executor`)
  }
}

/** Adds the names of one more server. @throws ShardloopError ERR_SHARDLOOP_OPTION, and then adds none */
export function addTaskNames(names: Map<string, string>, wanted: ExecutorSettings | null): void {
  const tasks = Object.entries(wanted?.tasks ?? {})
  for (const [name, href] of tasks) {
    const known = names.get(name)
    if (known === undefined || known === href) continue
    throw wrong(`executor.tasks.${name}`, href, `${known}, which another server has given that name`)
  }
  const added = tasks.filter(([name]) => !names.has(name))
  if (names.size + added.length > EXECUTOR_NAMES_MAX)
    throw wrong(
      'executor.tasks',
      names.size + added.length,
      `at most ${EXECUTOR_NAMES_MAX} names, those of all servers together`,
    )
  for (const [name, href] of added) names.set(name, href)
}

/** The URL behind what a call gave. @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for a name that there is not */
export function resolveTask(names: ReadonlyMap<string, string>, task: string): string {
  if (!isTaskName(task)) return task
  const href = names.get(task)
  if (href !== undefined) return href
  const known = names.size === 0 ? 'there are none' : `there are ${show([...names.keys()])}`
  throw new ShardloopError(
    'ERR_SHARDLOOP_ARGUMENT',
    `no task is named ${show(task)} in executor.tasks, ${known}; a module is named by its URL: new URL('./task.js', import.meta.url)`,
  )
}
