import { ShardloopError, systemError } from '../errors.js'
import { RETAINED_SLAB_BYTES } from '../limits.js'
import {
  CLOSE_DETACHED,
  CLOSE_IDLE,
  COMMAND_START,
  CONTROL_COPY_CHUNKS,
  CONTROL_CURSOR,
  CONTROL_EVENTS,
  CONTROL_RETIRED,
  CONTROL_WORDS,
  EVENT_ACCEPT_ERROR,
  EVENT_ANSWERED,
  EVENT_CLOSED,
  EVENT_CONNECT_FAILED,
  EVENT_CONNECTED,
  EVENT_DATA,
  EVENT_DATAGRAM,
  EVENT_DATAGRAM_CLOSED,
  EVENT_EOF,
  EVENT_FILE_SENT,
  EVENT_HANDSHAKE_FAILED,
  EVENT_IDLE,
  EVENT_OPEN,
  EVENT_OWNED_FLUSHED,
  EVENT_PAUSE_WRITING,
  EVENT_RESUME_WRITING,
  EVENT_RING_RECORDS,
  EVENT_TLS_ESTABLISHED,
  EVENT_TLS_READY,
  HANDLE_SLOT_MASK,
  KIND_MASK,
  RECORD_WORDS,
  SLAB_SHIFT,
} from '../native/abi.js'
import type { NativeShard } from '../native/binding.js'
import { native as binding } from '../native/index.js'
import { cannotSecure } from '../tls/failures.js'
import { feedTls, secured } from '../tls/start-tls.js'
import { checkedProtocol, isThenable, thrownError } from './callback-results.js'
import type { Clients } from './clients.js'
import { closeError, detachedError, idleError } from './close-reasons.js'
import { CommandRing } from './command-ring.js'
import type { ConnectionOwner, ServedServer, ServeOptions } from './connection-server.js'
import { DatagramServer } from './datagram-server.js'
import { Datagrams } from './datagrams.js'
import { debugMode, watchDuration } from './debug-mode.js'
import { connectionBroke, connectionEnded, connectionOpened } from './diagnostics.js'
import type { EngineName } from './engine.js'
import { exceptionContext } from './exception-handler.js'
import { LocalServer } from './local-server.js'
import { Outgoing } from './outgoing.js'
import type { Protocol, ProtocolFactory } from './protocol.js'
import { exactCopy, ReadSlabs } from './read-slabs.js'
import { SlabRetention } from './retention.js'
import { addShardLoop, removeShardLoop } from './shard-loops.js'
import { threadLog } from './thread-log.js'
import { RECEIVE_BORROWED, RECEIVE_BUFFERED, RECEIVE_CHUNKS, receivingOf, TcpTransport } from './transport.js'

export type { ExceptionContext, ExceptionHandler, ServedServer, ServeOptions } from './connection-server.js'

/** What a shard's loop is made with. */
export interface ShardLoopOptions {
  readonly shardId: number
  readonly engine: EngineName
  /** Names the shard's counters, see the binding's `allocateMetrics`. */
  readonly metricsToken: number
  /** Whether a supervisor has this thread: then other shards may hand it connections, and it leaves its own to them. */
  readonly supervised: boolean
  /** Called for each connection that it made to others and that is over, and for each that came to nothing. */
  readonly clientGone: () => void
}

/** The range that `bytesReceived` is lending; `end` is -1 outside. `slab` is -1 when `memory` is not a native slab. */
interface Borrow {
  slab: number
  start: number
  end: number
  memory: Buffer | null
}

/** The numbers of batches start over behind this one: they stay small integers, as V8 has them. */
const BATCH_MAX = 0x3fff_ffff

/** As they were before the program may have replaced them (timers of a test runner). */
const [later, exit] = [setImmediate, process.exit.bind(process)]

type HotCalls = ReturnType<NativeShard['hotCalls']>

/** A callback's name in messages. */
type CallbackName = keyof Protocol | 'factory'

/**
 * The JavaScript half of a shard: takes batches of events from native code and hands them to protocols. One per
 * thread. Native code calls {@link ShardLoop.drain} once per batch, inside Node's callback scope, so next ticks and
 * microtasks run when the batch is done; then it takes the commands.
 */
export class ShardLoop {
  readonly shardId: number
  /** @internal */ readonly native: NativeShard
  /** @internal The native calls on the path of bytes. */ readonly calls: HotCalls
  /** @internal */ readonly commands: CommandRing
  /** @internal */ readonly borrow: Borrow = { slab: 0, start: 0, end: -1, memory: null }
  private readonly control: Int32Array = new Int32Array(CONTROL_WORDS)
  private readonly events: Int32Array = new Int32Array(EVENT_RING_RECORDS * RECORD_WORDS)
  /** @internal */ readonly slabs: ReadSlabs = new ReadSlabs()
  private readonly retention: SlabRetention
  /** By slot. */
  private readonly transports: (TcpTransport | undefined)[] = []
  /** By number; numbers of servers that are over are used again. */
  private readonly servers: (LocalServer | Clients | undefined)[] = []
  private readonly freeServers: number[] = []
  private readonly supervised: boolean
  /** @internal Connections to others. */ readonly outgoing: Outgoing
  /** @internal Endpoints of datagrams. */ readonly datagrams: Datagrams = new Datagrams(this)
  private readonly log = threadLog()
  private readonly debug = debugMode()
  private sequence = 0
  /** @internal The number of the batch that is handled, or was last: above 0. */ batch = 1
  /** Which received something behind a write of the same batch. */
  private readonly owing: TcpTransport[] = []
  /** Whose callback runs, and which: for the case that it throws. */
  private current: TcpTransport | undefined = undefined
  private currentName: CallbackName = 'factory'
  private readonly whenClosed: Promise<void>

  constructor(options: ShardLoopOptions) {
    this.shardId = options.shardId
    this.supervised = options.supervised
    this.outgoing = new Outgoing(this, options.clientGone)
    this.commands = new CommandRing(this.control, () => this.calls.flush())
    let closed!: () => void
    this.whenClosed = new Promise((resolve) => {
      closed = resolve
    })
    this.native = new binding.NativeShard({
      engine: options.engine,
      metrics: options.metricsToken,
      supervised: options.supervised,
      control: this.control,
      events: this.events,
      commands: this.commands.commands,
      writeSlab: this.commands.writeSlab,
      slabs: this.slabs.buffers,
      drain: this.drain.bind(this),
      closed,
    })
    this.calls = this.native.hotCalls()
    this.retention = new SlabRetention(this.native, RETAINED_SLAB_BYTES)
    addShardLoop(this)
  }

  /**
   * Serves a server from its native listeners. Throws the system's error when one cannot be watched, or ERR_SHARDLOOP_OPTION when its
   * TLS is closed.
   */
  serve(options: ServeOptions): ServedServer {
    const server = this.own((id) => new LocalServer(this, id, options))
    const { id } = server
    const { writeHighBytes, writeLowBytes, writeMaxBytes, idleTimeoutMs, moderation, tls, tlsUpgrade } =
      options
    const limits = {
      writeHighBytes,
      writeLowBytes,
      writeMaxBytes,
      idleTimeoutMs,
      moderation,
      tls,
      tlsUpgrade,
    }
    try {
      this.native.addServer(id, options.number, limits)
    } catch (error) {
      server.stopListening()
      throw tls === 0 ? error : cannotSecure(`server ${options.name}`, (error as Error).message)
    }
    for (const listener of options.listeners) {
      const failure = this.native.listen(id, listener)
      if (failure !== null) {
        server.stopListening()
        throw systemError(failure.errno, failure.syscall)
      }
    }
    this.native.serves(options.number, [...options.listeners])
    return server
  }

  /** Serves a datagram server from its native sockets. Throws what the factory throws, or the system's error. */
  serveDatagrams(options: ServeOptions): ServedServer {
    return new DatagramServer(this, options)
  }

  /**
   * Frees the native half. Connections that are left are aborted; those that are closed already get the time that
   * their last bytes need (2 seconds at most). Resolves when all of it is gone.
   */
  close(): Promise<void> {
    for (const server of this.servers) server?.abort()
    for (const endpoint of this.datagrams) endpoint.abort()
    this.native.close(true)
    return this.whenClosed.then(() => removeShardLoop(this))
  }

  /** @internal JavaScript ends, in the middle of a batch perhaps. */
  retire(): void {
    this.native.retire()
    if (!this.supervised) return
    // A later listener of 'exit' may throw, and that be caught (by us, when a callback called `process.exit`). Then the
    // thread would go on with nothing to do: it ends all the same, and until then nothing new is announced.
    later(exit)
    const { control, events } = this
    const end = control[CONTROL_EVENTS] as number
    for (let at = control[CONTROL_CURSOR] as number; at < end; at += RECORD_WORDS) {
      // The end of a connection that nobody here has heard of is nothing.
      if (((events[at] as number) & KIND_MASK) === EVENT_OPEN) events[at] = EVENT_CLOSED
    }
  }

  /** @internal In debug mode: warns of connections that are still open though nobody will use them any more. */
  warnOfUnclosed(of?: ConnectionOwner): void {
    if (!this.debug.enabled) return
    for (const transport of this.transports) {
      if (transport === undefined || transport.closing || (of !== undefined && transport.server !== of))
        continue
      this.log.write('warn', `connection ${transport.id} was not closed`, transport.describe())
    }
    if (of === undefined)
      this.datagrams.warnOfUnclosed((message, fields) => this.log.write('warn', message, fields))
  }

  /** @internal Makes an owner of connections with a number of its own, by which native code knows it; see `forget`. */
  own<Owner extends LocalServer | Clients>(make: (id: number) => Owner): Owner {
    const id = this.freeServers.pop() ?? this.servers.length
    const owner = make(id)
    this.servers[id] = owner
    return owner
  }

  /** @internal The server has neither listeners nor connections any more. */
  forget(id: number): void {
    this.servers[id] = undefined
    this.freeServers.push(id)
    this.native.removeServer(id)
  }

  /** @internal The public id of a connection; undefined once it is lost. */
  idOf(handle: number): string | undefined {
    const transport = this.transports[handle & HANDLE_SLOT_MASK]
    return transport?.handle === handle ? transport.id : undefined
  }

  /** @internal */
  *transportsOf(server: ConnectionOwner): Generator<TcpTransport> {
    for (const transport of this.transports) if (transport?.server === server) yield transport
  }

  /** @internal */
  writeFromSlab(handle: number, slab: number, offset: number, length: number): void {
    this.slabs.refer(slab)
    this.commands.writeFromSlab(handle, slab, offset, length)
  }

  /** @internal The transport's server drains: tells the protocol, or sees to an end in good order itself. */
  beginDraining(transport: TcpTransport): void {
    if (transport.closing) return
    if (transport.protocol.draining === undefined) {
      transport.finish()
      return
    }
    if (!transport.tellDraining()) return
    // A server may be drained from within a callback, which goes on afterwards.
    const { current, currentName } = this
    try {
      this.notify(transport, 'draining')
    } catch (error) {
      this.report(error, transport, 'draining')
    } finally {
      this.current = current
      this.currentName = currentName
    }
  }

  /** @internal An event that was held back while reading was paused; null is the peer's end. */
  deliverHeld(transport: TcpTransport, event: Buffer | null): void {
    try {
      if (event === null) this.deliverEof(transport)
      else this.receive(transport, event, -1, 0, event.length)
    } catch (error) {
      this.callbackFailed(error)
    }
    this.sayWhatIsOwed()
  }

  /** Called by native code with a batch in the events ring. Never throws. */
  private drain(): void {
    const control = this.control
    const end = control[CONTROL_EVENTS] as number
    // Not when the rest of a batch follows, of which a call threw.
    if (control[CONTROL_CURSOR] === 0) this.batch = this.batch === BATCH_MAX ? 1 : this.batch + 1
    // The loop that is hot has no handler inside: what a callback throws is caught here, and the batch goes on behind
    // its record, for the cursor is stored before each callback.
    while ((control[CONTROL_CURSOR] as number) < end) {
      try {
        if (this.debug.enabled) this.deliverWatched()
        else this.deliver(end)
      } catch (error) {
        this.callbackFailed(error)
      }
    }
    if (this.owing.length > 0) this.sayWhatIsOwed()
    if (control[CONTROL_RETIRED] !== 0) this.replaceSlabs()
    else if (control[CONTROL_COPY_CHUNKS] !== 0 && this.retention.hasFallen())
      control[CONTROL_COPY_CHUNKS] = 0
  }

  /** It was written to, and receives now: that was no answer to this. */
  private owesAgain(transport: TcpTransport): void {
    transport.wroteIn = 0
    this.owing.push(transport)
  }

  /**
   * Native code has noted what was received before JavaScript hears of any of it, so it takes a write for the answer to
   * all. Once per batch, not once per chunk: a command between two writes would keep them apart.
   */
  private sayWhatIsOwed(): void {
    for (const transport of this.owing) if (transport.wroteIn !== this.batch) transport.unanswered()
    this.owing.length = 0
  }

  /** In debug mode: one event, with an eye on the time that its callbacks take. */
  private deliverWatched(): void {
    this.current = undefined
    const end = (this.control[CONTROL_CURSOR] as number) + RECORD_WORDS
    watchDuration(
      () => this.deliver(end),
      () => {
        const transport = this.current
        if (transport === undefined) return { what: 'the delivery of an event', fields: {} }
        return { what: `${this.currentName} of connection ${transport.id}`, fields: transport.describe() }
      },
    )
  }

  private deliver(end: number): void {
    const { control, events, transports } = this
    for (let at = control[CONTROL_CURSOR] as number; at < end; at += RECORD_WORDS) {
      control[CONTROL_CURSOR] = at + RECORD_WORDS
      const word = events[at] as number
      const kind = word & KIND_MASK
      const handle = events[at + 1] as number
      if (kind !== EVENT_DATA && this.deliverWithoutTransport(kind, at)) continue
      const transport = transports[handle & HANDLE_SLOT_MASK]
      if (transport === undefined || transport.handle !== handle) continue
      this.current = transport
      if (kind === EVENT_DATA) {
        if (transport.closing) continue
        const slabIndex = word >> SLAB_SHIFT
        const start = events[at + 2] as number
        const length = events[at + 3] as number
        const slab = this.slabs.buffers[slabIndex] as Buffer
        if (slab.length === 0) transport.abortFor(CLOSE_DETACHED, detachedError(transport))
        else if (transport.paused || transport.holds) transport.hold(exactCopy(slab, start, start + length))
        else this.receive(transport, slab, slabIndex, start, length)
      } else if (kind === EVENT_CLOSED) {
        if (this.log.isVerbose) this.log.deliver() // what native code says of it, while its id is known
        transports[handle & HANDLE_SLOT_MASK] = undefined
        this.end(transport, events[at + 2] as number)
      } else {
        this.signal(transport, kind, events[at + 2] as number, events[at + 3] as number)
      }
    }
  }

  /** What is of no connection that is known here: false when it is none of that. @param at where its record begins */
  private deliverWithoutTransport(kind: number, at: number): boolean {
    const { events } = this
    const handle = events[at + 1] as number
    const a = events[at + 2] as number
    const b = events[at + 3] as number
    if (kind >= EVENT_DATAGRAM && kind <= EVENT_DATAGRAM_CLOSED) {
      this.datagrams.event(events[at] as number, handle, a, b)
      return true
    }
    switch (kind) {
      case EVENT_OPEN:
        this.open(handle, this.servers[a] as LocalServer, b !== 0)
        return true
      case EVENT_CONNECTED:
        this.established(handle, a, b !== 0)
        return true
      case EVENT_CONNECT_FAILED:
        this.outgoing.failed(handle, a, b)
        return true
      case EVENT_ACCEPT_ERROR:
        ;(this.servers[handle] as LocalServer | undefined)?.acceptFailed(a, b !== 0)
        return true
      case EVENT_HANDSHAKE_FAILED:
        ;(this.servers[b] as LocalServer).handshakeFailed(handle, a)
        return true
      default:
        return false
    }
  }

  private signal(transport: TcpTransport, kind: number, a: number, b: number): void {
    if (kind === EVENT_OWNED_FLUSHED) {
      transport.ownedFlushed(a)
      return
    }
    if (kind === EVENT_FILE_SENT) {
      transport.fileSent(a, b)
      return
    }
    if (kind === EVENT_PAUSE_WRITING || kind === EVENT_RESUME_WRITING) {
      // Also while the connection closes after flushing: whoever waits for room learns of it.
      this.notify(transport, kind === EVENT_PAUSE_WRITING ? 'pauseWriting' : 'resumeWriting')
      return
    }
    if (transport.closing && kind !== EVENT_IDLE) return
    if (kind === EVENT_EOF) {
      if (transport.paused || transport.holds) transport.hold(null)
      else this.deliverEof(transport)
    } else if (kind === EVENT_IDLE) {
      if (transport.protocol.idleTimedOut !== undefined && !transport.closing)
        this.notify(transport, 'idleTimedOut')
      else transport.abortFor(CLOSE_IDLE, idleError(transport))
    } else if (kind === EVENT_ANSWERED) {
      transport.answered()
    } else if (kind === EVENT_TLS_READY) {
      feedTls(transport)
    } else if (kind === EVENT_TLS_ESTABLISHED) {
      secured(transport)
    }
  }

  private open(handle: number, server: LocalServer, named: boolean): void {
    const transport = new TcpTransport(this, server, handle, ++this.sequence)
    this.transports[handle & HANDLE_SLOT_MASK] = transport
    server.opened()
    this.begin(transport, server.factory, named)
    this.notify(transport, 'connectionMade', transport)
    // Taken from the queue when listening stopped: now it is treated as all the others were.
    server.stopped?.(transport)
  }

  /** Makes the protocol of a connection, and lets its bytes come. @param named its peer is a Unix socket with a name */
  private begin(transport: TcpTransport, factory: ProtocolFactory, named: boolean): void {
    if (named) transport.learnPeername()
    this.current = transport
    this.currentName = 'factory'
    const protocol = checkedProtocol<Protocol>(transport.resource.runInAsyncScope(factory))
    transport.protocol = protocol
    transport.receiving = receivingOf(protocol)
    const mode = transport.receiving === RECEIVE_CHUNKS ? 0 : 1
    this.commands.push(COMMAND_START, transport.handle, mode, 0)
    connectionOpened(transport, transport.server.name)
  }

  /** A connection that this thread asked for stands. */
  private established(handle: number, request: number, named: boolean): void {
    const attempt = this.outgoing.take(request)
    const clients = attempt.clients as Clients
    const transport = new attempt.transportClass(this, clients, handle, ++this.sequence, attempt.resource)
    this.transports[handle & HANDLE_SLOT_MASK] = transport
    if (attempt.cancelled) {
      transport.abort()
      return
    }
    if (attempt.source !== undefined) transport.noteSource(attempt.source)
    if (attempt.peername !== undefined) transport.notePeername(attempt.peername)
    if (attempt.tls !== null) transport.noteTls(attempt.tls.context.verifies)
    try {
      this.begin(transport, attempt.factory, named)
    } catch (error) {
      // Whoever asked hears of it, and no handler.
      transport.abort(error instanceof Error ? error : undefined)
      attempt.refused(error)
      return
    }
    try {
      this.notify(transport, 'connectionMade', transport)
    } finally {
      attempt.connected(transport)
    }
  }

  /** Calls a callback that takes at most the transport. */
  private notify(
    transport: TcpTransport,
    name: 'connectionMade' | 'pauseWriting' | 'resumeWriting' | 'idleTimedOut' | 'draining',
    argument?: TcpTransport,
  ): void {
    const { protocol } = transport
    const callback = protocol[name] as ((argument?: TcpTransport) => void | PromiseLike<void>) | undefined
    if (callback === undefined) return
    this.current = transport
    this.currentName = name
    const result = transport.resource.runInAsyncScope(callback, protocol, argument)
    if (result !== undefined) this.watch(result, transport, name)
  }

  /** @param slabIndex -1 when `memory` is not a native slab; then all of it is meant */
  private receive(
    transport: TcpTransport,
    memory: Buffer,
    slabIndex: number,
    start: number,
    length: number,
  ): void {
    const { protocol } = transport
    this.current = transport
    if (transport.wroteIn === this.batch) this.owesAgain(transport)
    if (transport.receiving === RECEIVE_CHUNKS) {
      if (protocol.dataReceived === undefined) return
      const chunk = slabIndex >= 0 ? this.slabs.chunk(slabIndex, start, length) : memory
      this.currentName = 'dataReceived'
      const result = transport.resource.runInAsyncScope(protocol.dataReceived, protocol, chunk)
      if (result !== undefined) this.watch(result, transport, 'dataReceived')
    } else if (transport.receiving === RECEIVE_BORROWED) {
      const { borrow } = this
      borrow.slab = slabIndex
      borrow.memory = memory
      borrow.start = start
      borrow.end = start + length
      this.currentName = 'bytesReceived'
      const callback = protocol.bytesReceived as NonNullable<Protocol['bytesReceived']>
      const result = transport.resource.runInAsyncScope(callback, protocol, memory, start, start + length)
      borrow.end = -1
      if (result !== undefined) this.watch(result, transport, 'bytesReceived')
    } else {
      this.fill(transport, memory, start, start + length)
    }
  }

  /** asyncio's BufferedProtocol: into memory of the protocol's own, in as many rounds as it takes. */
  private fill(transport: TcpTransport, memory: Buffer, start: number, end: number): void {
    let from = start
    while (from < end && !transport.closing) {
      const { protocol } = transport
      if (transport.paused || transport.isUpgrading || transport.receiving !== RECEIVE_BUFFERED) {
        // Paused, to be TLS, or given to a protocol of another kind, in between: the rest follows as its own event.
        const rest = exactCopy(memory, from, end)
        if (transport.paused || transport.isUpgrading) transport.holdRest(rest)
        else this.receive(transport, rest, -1, 0, rest.length)
        return
      }
      if (transport.wroteIn === this.batch) this.owesAgain(transport) // it has answered a part of this
      this.currentName = 'getBuffer'
      const target = transport.resource.runInAsyncScope(
        protocol.getBuffer as NonNullable<Protocol['getBuffer']>,
        protocol,
        end - from,
      )
      if (!(target instanceof Uint8Array) || target.length === 0) {
        throw new ShardloopError(
          'ERR_SHARDLOOP_ARGUMENT',
          'getBuffer returned no memory; expected a Uint8Array of at least 1 byte',
        )
      }
      const bytes = Math.min(target.length, end - from)
      memory.copy(target, 0, from, from + bytes)
      from += bytes
      this.currentName = 'bufferUpdated'
      const callback = protocol.bufferUpdated
      if (callback === undefined) continue
      const result = transport.resource.runInAsyncScope(callback, protocol, bytes)
      if (result !== undefined) this.watch(result, transport, 'bufferUpdated')
    }
  }

  private deliverEof(transport: TcpTransport): void {
    const { protocol } = transport
    this.current = transport
    this.currentName = 'eofReceived'
    const keep =
      protocol.eofReceived === undefined
        ? undefined
        : transport.resource.runInAsyncScope(protocol.eofReceived, protocol)
    // A pipe has no other half to be kept.
    if (keep === true && transport.canWriteEof()) return
    if (typeof keep === 'object' && keep !== null) {
      // An async answer: half open until it is there.
      const fulfilled = transport.promised()
      Promise.resolve(keep as PromiseLike<unknown>).then(
        (kept) => {
          if (kept !== true || !transport.canWriteEof()) transport.close()
          fulfilled()
        },
        (error: unknown) => this.report(error, transport, 'eofReceived'),
      )
    } else {
      transport.close()
    }
  }

  private end(transport: TcpTransport, reason: number): void {
    const { server } = transport
    const error = transport.error === undefined ? closeError(transport, reason) : transport.error
    transport.ended(error)
    connectionEnded(transport, error)
    try {
      const { protocol } = transport
      if (protocol.connectionLost !== undefined) {
        this.current = transport
        this.currentName = 'connectionLost'
        const result = transport.resource.runInAsyncScope(protocol.connectionLost, protocol, error)
        if (result !== undefined) this.watch(result, transport, 'connectionLost')
      }
    } finally {
      transport.resource.emitDestroy()
      server.ended()
    }
  }

  private watch(result: unknown, transport: TcpTransport, name: CallbackName): void {
    if (!isThenable(result)) return
    const fulfilled = transport.promised()
    result.then(fulfilled, (error: unknown) => this.report(error, transport, name))
  }

  private callbackFailed(error: unknown): void {
    this.borrow.end = -1
    const transport = this.current
    this.current = undefined
    this.report(error, transport, this.currentName)
  }

  /** A callback failed: its connection ends, its server's handler is told, everything else goes on. */
  private report(error: unknown, transport: TcpTransport | undefined, name: CallbackName): void {
    if (transport === undefined) {
      process.nextTick(() => {
        throw error // not a callback's: a defect of ours, which must not pass in silence
      })
      return
    }
    this.failed(error, transport, name)
  }

  /** @internal What is called for a connection threw: it ends, its server's handler is told. @param name of what threw */
  failed(error: unknown, transport: TcpTransport, name: string): void {
    const context = exceptionContext(
      `${name} of connection ${transport.id} threw; the connection was aborted`,
      error,
      { transport, protocol: transport.protocol },
    )
    const reason = thrownError(name, error)
    transport.abort(reason)
    connectionBroke(transport, error, reason, context.message)
    transport.server.handleException(context)
  }

  private replaceSlabs(): void {
    const { control } = this
    const followed = this.slabs.replace(control[CONTROL_RETIRED] as number, this.calls)
    if (this.retention.isOver(followed)) control[CONTROL_COPY_CHUNKS] = 1
  }
}
