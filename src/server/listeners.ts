import { constants } from 'node:os'
import { setTimeout as delay } from 'node:timers/promises'
import { getSystemErrorMap } from 'node:util'
import { ShardloopError, systemError } from '../errors.js'
import { PORT_ZERO_ATTEMPTS_MAX, START_LOCK_RETRY_MS, START_LOCK_TIMEOUT_MS } from '../limits.js'
import type { StartLock, SystemFailure } from '../native/binding.js'
import { native } from '../native/index.js'
import { bindDatagrams } from './datagram-sockets.js'
import { type BindHost, lookupHosts } from './host-lookup.js'
import { type BoundSocket, describeListener, socketAddress } from './listener-socket.js'
import type { ListenerDescription } from './messages.js'
import type { ServerSettings } from './options.js'

/**
 * A server's listeners. With `'reuseport'` each address has one per shard, else one that all shards share. The main
 * thread owns them from bind to close; shards get tokens, so their accept queues outlive any shard.
 */
export class Listeners {
  readonly sockets: readonly ListenerDescription[]
  readonly #byAddress: readonly (readonly BoundSocket[])[]
  readonly #shared: boolean
  readonly #accepts: boolean

  /** @param accepts whether connections are accepted from them: false for those of datagrams */
  constructor(byAddress: readonly (readonly BoundSocket[])[], shared: boolean, accepts = true) {
    this.#byAddress = byAddress
    this.#shared = shared
    this.#accepts = accepts
    this.sockets = byAddress.map((listeners) => describeListener(first(listeners)))
  }

  /** Native tokens of those that a shard accepts from. */
  tokensFor(shard: number): number[] {
    return this.#byAddress.map((listeners) => first(listeners, this.#shared ? 0 : shard).token)
  }

  /** Native tokens of those that one shard at a time accepts from; none when all shards share theirs. */
  get ownTokens(): number[] {
    return this.#shared || !this.#accepts ? [] : this.#byAddress.flat().map(({ token }) => token)
  }

  /** Closes those that only this shard accepted from. */
  closeFor(shard: number): void {
    if (this.#shared) return
    for (const listeners of this.#byAddress) listeners[shard]?.close()
  }

  /** Closes all; again does nothing. */
  close(): void {
    closeAll(this.#byAddress)
  }
}

/**
 * Binds and listens. Rejects with the system's error in node:net's shape, or with ERR_SHARDLOOP_START when another
 * process keeps the port's start lock.
 * @param shards how many shards will accept; at least 1
 */
export async function openListeners(settings: ServerSettings, shards: number): Promise<Listeners> {
  if (settings.path !== null) return openUnixListener(settings, settings.path)
  const hosts = await lookupHosts(settings.hosts, settings.ipv6Only)
  const accepts = settings.datagrams === undefined
  const shared = accepts && settings.balance === 'shared'
  const binder = new Binder(settings, shared ? 1 : shards)
  const bound =
    settings.port === 0 ? bindChosenPort(binder, hosts) : await bindLocked(binder, hosts, settings.port)
  if (bound instanceof Error) throw bound
  return new Listeners(bound, shared, accepts)
}

/**
 * With SO_REUSEPORT a second process of the same user could share a port that is in use. So the first bind of each
 * address is exclusive; and since two processes that start at once could both pass that test before either listens,
 * the port's start lock is held meanwhile. All of it happens in one turn, so the lock is never held across one.
 */
async function bindLocked(
  binder: Binder,
  hosts: readonly BindHost[],
  port: number,
): Promise<BoundSocket[][] | Error> {
  return underLock(
    () => native.tryStartLock(port),
    `port ${port}`,
    () => binder.bindAll(hosts, port),
  )
}

/** All shards accept from one listener: the kernel does not spread connections over several on one path. */
async function openUnixListener(settings: ServerSettings, path: string): Promise<Listeners> {
  const { backlog, socketMode } = settings
  const bound = await underLock(
    () => native.tryUnixStartLock(path),
    path,
    () => native.bindUnix({ path, backlog, ...(socketMode !== null && { mode: socketMode }) }),
  )
  if ('errno' in bound) throw systemError(bound.errno, 'listen', path)
  return new Listeners([[bound]], true)
}

async function underLock<Bound>(
  take: () => ReturnType<typeof native.tryStartLock>,
  what: string,
  bind: () => Bound,
): Promise<Bound> {
  const deadline = performance.now() + START_LOCK_TIMEOUT_MS
  for (;;) {
    const lock = taken(take())
    if (lock !== null) {
      try {
        return bind()
      } finally {
        lock.release()
      }
    }
    if (performance.now() >= deadline) {
      throw new ShardloopError(
        'ERR_SHARDLOOP_START',
        `another process has been binding ${what} for ${START_LOCK_TIMEOUT_MS} ms`,
      )
    }
    await delay(START_LOCK_RETRY_MS)
  }
}

/** Port 0: the kernel chooses for the first host; the others must have the same port free. */
function bindChosenPort(binder: Binder, hosts: readonly BindHost[]): BoundSocket[][] | Error {
  const [head, ...others] = hosts
  if (head === undefined) throw new Error('invariant: there is a host')
  let failure: Error | null = null
  for (let attempt = 0; attempt < PORT_ZERO_ATTEMPTS_MAX; attempt += 1) {
    const bound = binder.bind(head, 0)
    if (bound instanceof Error) return bound
    if (others.length === 0) return [bound]
    const port = portOf(first(bound))
    const lock = taken(native.tryStartLock(port))
    const rest = lock === null ? inUse(others[0], port) : binder.bindAll(others, port)
    lock?.release()
    if (!(rest instanceof Error)) return [bound, ...rest]
    closeAll([bound])
    failure = rest
    if ((rest as NodeJS.ErrnoException).code !== 'EADDRINUSE') break
  }
  return failure ?? new Error('invariant: an attempt was made')
}

/** Opens listeners, or tells why not; what it opened before a failure is closed again. */
class Binder {
  readonly #settings: ServerSettings
  readonly #perAddress: number

  constructor(settings: ServerSettings, perAddress: number) {
    this.#settings = settings
    this.#perAddress = perAddress
  }

  /** @param port not 0 */
  bindAll(hosts: readonly BindHost[], port: number): BoundSocket[][] | Error {
    const opened: BoundSocket[][] = []
    for (const host of hosts) {
      const bound = this.bind(host, port)
      if (bound instanceof Error) {
        closeAll(opened)
        return bound
      }
      opened.push(bound)
    }
    return opened
  }

  /** All listeners of one address. */
  bind({ address, withoutIpv6 }: BindHost, port: number): BoundSocket[] | Error {
    const head = this.#bindOne(address, port, port !== 0)
    if ('errno' in head) {
      if (withoutIpv6 !== null && LACKS_IPV6.has(codeOf(head.errno))) {
        return this.bind({ address: withoutIpv6, withoutIpv6: null }, port)
      }
      return this.#error(head.errno, address, port)
    }
    const opened = [head]
    const chosen = portOf(head)
    while (opened.length < this.#perAddress) {
      const next = this.#bindOne(address, chosen, false)
      if ('errno' in next) {
        closeAll([opened])
        return this.#error(next.errno, address, chosen)
      }
      opened.push(next)
    }
    return opened
  }

  /** As node:net and node:dgram name the failures of theirs. */
  #error(errno: number, address: string, port: number): Error {
    return this.#settings.datagrams === undefined
      ? listenError(errno, address, port)
      : systemError(errno, 'bind', address, port)
  }

  #bindOne(host: string, port: number, exclusive: boolean): BoundSocket | SystemFailure {
    const { backlog, ipv6Only, noDelay, balance, datagrams } = this.#settings
    if (datagrams !== undefined) return bindDatagrams({ ...datagrams, ipv6Only }, host, port, exclusive)
    return native.bindTcp({
      host,
      port,
      backlog,
      ipv6Only,
      noDelay,
      reusePort: balance === 'reuseport',
      exclusive,
    })
  }
}

/** What a system without IPv6, or with it switched off, says to a bind of `::`. */
const LACKS_IPV6: ReadonlySet<string> = new Set(['EAFNOSUPPORT', 'EADDRNOTAVAIL', 'EPROTONOSUPPORT'])

function taken(lock: ReturnType<typeof native.tryStartLock>): StartLock | null {
  if (lock !== null && 'errno' in lock) throw systemError(lock.errno, lock.syscall)
  return lock
}

function portOf(listener: BoundSocket): number {
  const { port } = socketAddress(listener)
  if (port === undefined) throw new Error('invariant: the listener is on an IP address')
  return port
}

/** node:net names every failure on the way to a listener `listen`. */
function listenError(errno: number, address: string, port: number): Error {
  return systemError(errno, 'listen', address, port)
}

function inUse(host: BindHost | undefined, port: number): Error {
  return listenError(constants.errno.EADDRINUSE, host?.address ?? '', port)
}

function codeOf(errno: number): string {
  return getSystemErrorMap().get(-errno)?.[0] ?? ''
}

function closeAll(byAddress: readonly (readonly BoundSocket[])[]): void {
  for (const listeners of byAddress) for (const listener of listeners) listener.close()
}

function first(listeners: readonly BoundSocket[], index = 0): BoundSocket {
  const listener = listeners[index]
  if (listener === undefined) throw new Error(`invariant: an address has a listener for shard ${index}`)
  return listener
}
