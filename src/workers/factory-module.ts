import { ShardloopError } from '../errors.js'
import { expectedLogger, type Logger } from './logger.js'
import type { ProtocolFactory } from './protocol.js'
import type { ExceptionContext } from './shard-loop.js'

/** What a shard needs from the program to serve: functions, which cannot be sent between threads. */
export interface Registration {
  readonly factory: ProtocolFactory
  /** undefined: {@link printException} */
  readonly exceptionHandler: ((context: ExceptionContext) => void) | undefined
  /** undefined: the thread's */
  readonly logger: Logger | undefined
}

/** What a module named by URL may export. */
interface FactoryModule {
  readonly default?: unknown
  readonly exceptionHandler?: unknown
  readonly logger?: unknown
}

/** Imports a module named to `createServer` by URL. Rejects with what the import threw, or with ERR_SHARDLOOP_START. */
export async function importFactory(href: string): Promise<Registration> {
  const module = (await import(href)) as FactoryModule
  const factory = callable(module.default)
  if (factory === undefined) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_START',
      `${href} ${'default' in module ? 'does not export a function by default' : 'has no default export'}; ` +
        'createServer needs the protocol factory there: export default () => new MyProtocol()',
    )
  }
  const { exceptionHandler, logger } = module
  if (exceptionHandler !== undefined && typeof exceptionHandler !== 'function') {
    throw new ShardloopError(
      'ERR_SHARDLOOP_OPTION',
      `${href} exports exceptionHandler, which is not a function`,
    )
  }
  const expected = logger === undefined ? null : expectedLogger(logger)
  if (expected !== null) {
    throw new ShardloopError('ERR_SHARDLOOP_OPTION', `${href} exports logger; expected ${expected}`)
  }
  return {
    factory: factory as ProtocolFactory,
    exceptionHandler: exceptionHandler as Registration['exceptionHandler'],
    logger: logger as Registration['logger'],
  }
}

/** CommonJS made from an ES module keeps its default export one level down. */
function callable(exported: unknown): unknown {
  if (typeof exported === 'function') return exported
  const inner = (exported as FactoryModule | null | undefined)?.default
  return typeof inner === 'function' ? inner : undefined
}
