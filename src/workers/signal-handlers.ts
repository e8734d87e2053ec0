import { constants } from 'node:os'
import { ShardloopError } from '../errors.js'
import { callExceptionHandler, exceptionContext } from './exception-handler.js'
import { onSignal } from './on-signal.js'
import { checkSignal, type HandledSignal } from './signal-listeners.js'

/** A signal by its name, or by its number on this system. */
export type SignalName = HandledSignal | number

/** A loop's handlers for signals, one for each as in asyncio: another one takes the place of that before. */
export class SignalHandlers {
  readonly #removers = new Map<HandledSignal, () => void>()

  /**
   * @throws ShardloopError ERR_SHARDLOOP_ARGUMENT for a signal that cannot be handled, ERR_SHARDLOOP_STATE in a worker thread
   * of the program's own
   */
  add<Args extends unknown[]>(signal: SignalName, callback: (...args: Args) => unknown, args: Args): void {
    const name = nameOf(signal, 'addSignalHandler')
    if (typeof callback !== 'function') {
      throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `addSignalHandler: expected a function for ${name}`)
    }
    const failed = (exception: unknown): void =>
      callExceptionHandler(exceptionContext(`the handler of ${name} threw`, exception))
    // The new one is there before the old one goes, so that the signal's default action is taken at no moment.
    const remove = onSignal(name, async () => {
      try {
        await callback(...args)
      } catch (error) {
        failed(error)
      }
    })
    this.#removers.get(name)?.()
    this.#removers.set(name, remove)
  }

  /** Whether there was one. The last of all listeners takes the signal's default action back with it. */
  remove(signal: SignalName): boolean {
    const name = nameOf(signal, 'removeSignalHandler')
    const remove = this.#removers.get(name)
    remove?.()
    return this.#removers.delete(name)
  }

  clear(): void {
    for (const remove of this.#removers.values()) remove()
    this.#removers.clear()
  }
}

function nameOf(signal: SignalName, method: string): HandledSignal {
  if (typeof signal !== 'number') {
    checkSignal(signal, method)
    return signal
  }
  const found = Object.entries(constants.signals).find(([, number]) => number === signal)
  if (found === undefined) {
    throw new ShardloopError('ERR_SHARDLOOP_ARGUMENT', `${method}: no signal has the number ${signal} here`)
  }
  const [name] = found
  checkSignal(name, method)
  return name
}
