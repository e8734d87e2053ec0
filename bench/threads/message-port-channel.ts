/** The peer: MessagePorts between the main thread and a worker, with requests and answers as one writes them by hand. */
import { once } from 'node:events'
import { MessageChannel, type MessagePort, Worker } from 'node:worker_threads'
import type { Channel } from './channel.js'

/** What the worker is given: a port for messages, and one for requests. */
export interface WorkerPorts {
  readonly messages: MessagePort
  readonly requests: MessagePort
}

/** A request, and its answer. */
export interface Request {
  readonly id: number
  readonly payload: unknown
}

/** Starts the worker. */
export async function messagePortChannel(): Promise<Channel> {
  const messages = new MessageChannel()
  const requests = new MessageChannel()
  const worker = new Worker(new URL('./message-port-worker.js', import.meta.url), {
    workerData: { messages: messages.port2, requests: requests.port2 } satisfies WorkerPorts,
    transferList: [messages.port2, requests.port2],
  })
  const [thread] = (await once(worker, 'message')) as [string]
  const pending = new Map<number, (payload: unknown) => void>()
  let lastId = 0
  requests.port1.on('message', ({ id, payload }: Request) => {
    const resolve = pending.get(id)
    pending.delete(id)
    resolve?.(payload)
  })
  return {
    thread,
    engine: 'MessagePort',
    send: (payload) => messages.port1.postMessage(payload),
    call(payload) {
      lastId += 1
      const id = lastId
      requests.port1.postMessage({ id, payload } satisfies Request)
      return new Promise((resolve) => pending.set(id, resolve))
    },
    onAcknowledged(told) {
      messages.port1.on('message', told)
    },
  }
}
