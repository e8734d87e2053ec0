import type { MessagePort } from 'node:worker_threads'
import type { TransferredError } from './error-transfer.js'

/**
 * From a thread that wants something computed to the executor on the main thread. Arguments and result do not come by
 * here: they go through a channel of the task's own, whose other end the caller holds, so that the main thread neither
 * reads nor copies them.
 */
export type ExecutorRequest =
  | {
      readonly type: 'run'
      /** The caller's number for it, unique in its thread. */
      readonly id: number
      /** URL of a module, or a name of `executor.tasks`. */
      readonly task: string
      /** Which export is the function; null: the default one. */
      readonly exported: string | null
      /** When it was called, in milliseconds of the clock that all threads share. */
      readonly calledMs: number
      /** Arguments wait in it, and the reply goes through it. */
      readonly port: MessagePort
    }
  /** Nobody waits for it any more. */
  | { readonly type: 'cancel'; readonly id: number }
  /** It has replied, which its caller may know before the executor; the main thread's tasks only. */
  | { readonly type: 'replied'; readonly id: number }

/** From the executor to a caller: the task will not reply. */
export interface ExecutorRefusal {
  readonly id: number
  readonly error: TransferredError
}

/** From the executor's thread, through the task's channel. */
export type TaskReply =
  | { readonly isResult: true; readonly value: unknown }
  | { readonly isResult: false; readonly error: TransferredError }

/** No function of the program runs yet: what it is in is being imported. */
export const TASK_IMPORTING = 0
/** Only the end of the thread stops it now. */
export const TASK_RUNNING = 1
/** It was cancelled before it ran, and shall not. */
export const TASK_CANCELLED = 2

/** What the executor hands to one of its threads. */
export interface TaskOrder {
  readonly module: string
  readonly exported: string | null
  readonly port: MessagePort
  /** One word: TASK_IMPORTING, then whatever its thread or the executor makes it first. */
  readonly state: Int32Array
  /** As in a shard's identity. */
  readonly tsxApi: string | null
}

/** What the thread tells the executor when it has replied; times are milliseconds of the clock that all threads share. */
export interface TaskReport {
  readonly startedMs: number
  readonly endedMs: number
  readonly hasFailed: boolean
}
