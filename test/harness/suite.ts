import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { suite } from 'uvu'
import {
  type ConnectionOptions,
  createServer,
  type EngineName,
  getLoop,
  type Loop,
  type Protocol,
  type ProtocolFactory,
  type Server,
  type ServerOptions,
  type Transport,
} from '../../src/index.js'
import { Child, type ChildOptions, startFixture } from './child.js'
import { Client, type ClientOptions } from './client.js'
import { Observable } from './deferred.js'
import { engines } from './engines.js'
import { expectEnd, takeStock } from './leaks.js'
import { Random } from './random.js'
import type { Recorder } from './recorder.js'
import { skipIn } from './skip.js'
import { clientContext, nodeOptions, serverOptions, type TlsVariant } from './tls.js'
import { armWatchdog } from './watchdog.js'

/** What the exception handler is given. */
export type ExceptionContext = Parameters<NonNullable<ServerOptions['exceptionHandler']>>[0]

const TEST_TIMEOUT_MS = 20_000
/** The thread itself gets this much longer to report a timeout before the watchdog kills the process. */
const WATCHDOG_GRACE_MS = 10_000

export interface TestOptions {
  /** 20 s by default. */
  readonly timeoutMs?: number
  /** Why it makes no sense over TLS. */
  readonly notOverTls?: string
}

export interface SuiteTests {
  /** Defines a test. */
  (name: string, body: (t: TestContext) => Promise<void> | void, options?: TestOptions): void
  /** Defines a test of what only TCP has, with or without TLS over it: resets, ports. */
  overTcp(name: string, body: (t: TestContext) => Promise<void> | void, options?: TestOptions): void
  /** A test that cannot run here; its name and the reason are printed. */
  skip(name: string, reason: string): void
}

let suitesToRun = 0

/** What connections go over; those of TLS go over TCP. */
export type TransportName = 'tcp' | 'unix' | TlsVariant

/** Without TLS. */
export const PLAIN_TRANSPORTS: readonly TransportName[] = ['tcp', 'unix']
/** And with TLS as it is without options about it. */
const TRANSPORTS: readonly TransportName[] = [...PLAIN_TRANSPORTS, 'tls']
/** And each version of it alone. */
const EVERY_TRANSPORT: readonly TransportName[] = [...TRANSPORTS, 'tls1.2', 'tls1.3']

/** Runs the same tests once for each engine, over TCP. */
export function forEachEngine(name: string, define: (test: SuiteTests, engine: EngineName) => void): void {
  for (const engine of engines) defineSuite(`${name} (${engine})`, engine, 'tcp', define)
}

/** Runs the same tests once for each engine and for each transport: what {@link TestContext.serve} listens on. */
export function forEachTransport(
  name: string,
  define: (test: SuiteTests, engine: EngineName, transport: TransportName) => void,
  transports: readonly TransportName[] = TRANSPORTS,
): void {
  for (const engine of engines) {
    for (const transport of transports) {
      defineSuite(`${name} (${engine}, ${transport})`, engine, transport, (test) =>
        define(test, engine, transport),
      )
    }
  }
}

/** The same with each version of TLS alone, too. */
export function forEveryTransport(
  name: string,
  define: (test: SuiteTests, engine: EngineName, transport: TransportName) => void,
): void {
  forEachTransport(name, define, EVERY_TRANSPORT)
}

function defineSuite(
  title: string,
  engine: EngineName,
  transport: TransportName,
  define: (test: SuiteTests, engine: EngineName) => void,
): void {
  const tests = suite(title)
  suitesToRun++
  tests.before(takeStock)
  const skip = skipIn(title, tests)
  const test = (
    testName: string,
    body: (t: TestContext) => Promise<void> | void,
    options: TestOptions = {},
  ): void => {
    if (isTls(transport) && options.notOverTls !== undefined) return skip(testName, options.notOverTls)
    tests(testName, () =>
      runTest(`${title}: ${testName}`, { engine, transport }, body, options.timeoutMs ?? TEST_TIMEOUT_MS),
    )
  }
  const overTcp: SuiteTests['overTcp'] = (...given) => {
    if (transport !== 'unix') test(...given)
  }
  define(Object.assign(test, { overTcp, skip }), engine)
  tests.after(() => {
    if (--suitesToRun === 0) expectEnd()
  })
  tests.run()
}

function isTls(transport: TransportName): transport is TlsVariant {
  return transport !== 'tcp' && transport !== 'unix'
}

async function runTest(
  label: string,
  on: { readonly engine: EngineName; readonly transport: TransportName },
  body: (t: TestContext) => Promise<void> | void,
  timeoutMs: number,
): Promise<void> {
  const t = new TestContext(on.engine, Random.fromEnvironment(), on.transport)
  armWatchdog(timeoutMs + WATCHDOG_GRACE_MS, label)
  try {
    await within(timeoutMs, Promise.resolve(body(t)))
    await within(timeoutMs, t.finish())
  } catch (error) {
    await within(timeoutMs, t.cleanUp()).catch((failure) => console.error(`\nclean-up of ${label}:`, failure))
    // Never a new error: uvu shows the stack and the difference of the one that was thrown.
    if (error instanceof Error) error.message += `\n    (${t.random.advice})`
    throw error
  } finally {
    armWatchdog(0)
  }
}

async function within<Value>(timeoutMs: number, promise: Promise<Value>): Promise<Value> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished after ${timeoutMs} ms`)), timeoutMs)
  })
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** What one test uses; everything that it opened is closed after it. */
export class TestContext {
  readonly engine: EngineName
  /** What the sockets are. */
  readonly transport: 'tcp' | 'unix'
  /** What is over them, if anything. */
  readonly tls: TlsVariant | null
  readonly random: Random
  #directory: string | undefined
  #loop: Loop | undefined
  readonly #cleanups: (() => Promise<unknown> | unknown)[] = []
  readonly #unexpected: ExceptionContext[] = []
  #paths = 0

  constructor(engine: EngineName, random: Random, transport: TransportName = 'tcp') {
    this.engine = engine
    this.transport = transport === 'unix' ? 'unix' : 'tcp'
    this.tls = isTls(transport) ? transport : null
    this.random = random
  }

  /** This thread's loop, closed after the test. */
  get loop(): Loop {
    if (this.#loop === undefined) {
      this.#loop = getLoop()
      this.defer(() => this.#loop?.close())
    }
    return this.#loop
  }

  /** A connection of ours to a server of ours, and the protocol that it was made with. */
  async dial<Made extends Protocol>(
    server: Server,
    factory: () => Made,
    options: Partial<ConnectionOptions> = {},
  ): Promise<[Transport, Made]> {
    const { engine, loop } = this
    const where = whereIs(server)
    if (typeof where === 'string')
      return loop.createUnixConnection(factory, { engine, path: where, ...options })
    return loop.createConnection(factory, {
      engine,
      host: '127.0.0.1',
      port: where,
      ...this.clientTls(),
      ...options,
    })
  }

  /** What makes a server of ours one of this test's transport; nothing without TLS. */
  serverTls(): Pick<ServerOptions, 'tls'> {
    return this.tls === null ? {} : { tls: serverOptions(this.tls) }
  }

  /** The same for a client of ours. */
  clientTls(): Pick<ConnectionOptions, 'tls'> {
    return this.tls === null ? {} : { tls: clientContext(this.tls) }
  }

  /** The same for one of Node's. */
  nodeTls(): Pick<ClientOptions, 'tls'> {
    return this.tls === null ? {} : { tls: nodeOptions(this.tls) }
  }

  /** A path for a file or a Unix socket, in a directory that is removed after the test. */
  path(name = 'socket'): string {
    if (this.#directory === undefined) {
      const directory = mkdtempSync(join(tmpdir(), 'shardloop-'))
      this.#directory = directory
      // First of all clean-ups, so last: servers remove their files before.
      this.#cleanups.unshift(() => rmSync(directory, { recursive: true, force: true }))
    }
    this.#paths += 1
    return join(this.#directory, `${name}-${this.#paths}`)
  }

  /** Runs after the test, last registered first. */
  defer(cleanup: () => Promise<unknown> | unknown): void {
    this.#cleanups.push(cleanup)
  }

  /**
   * A server on 127.0.0.1, or on a Unix socket, in this very thread unless `shards` says otherwise. Without an `exceptionHandler` of
   * its own, any report fails the test.
   */
  async serve(factory: ProtocolFactory | URL, options: ServerOptions = {}): Promise<Server> {
    const exceptionHandler = (context: ExceptionContext): void => void this.#unexpected.push(context)
    const server = await createServer(factory, {
      ...(this.transport === 'tcp' ? { host: '127.0.0.1' } : { path: this.path() }),
      shards: 0,
      signals: false,
      engine: this.engine,
      ...this.serverTls(),
      // A module that is named by URL brings its own.
      ...(typeof factory === 'function' && { exceptionHandler }),
      ...options,
    })
    this.defer(() => server.abort())
    return server
  }

  /** A server whose protocols can be waited for, in the order in which they were made. */
  async serveEach<Made extends Recorder>(
    make: () => Made,
    options: ServerOptions = {},
  ): Promise<Accepting<Made>> {
    const accepting = new Accepting<Made>()
    accepting.server = await this.serve(() => accepting.add(make()), options)
    return accepting
  }

  /** Opens a connection to `server`, to a port or to a Unix socket. */
  async connect(server: Server | number | string, options: ClientOptions = {}): Promise<Client> {
    const where = typeof server === 'object' ? whereIs(server) : server
    const client = await Client.open(where, { ...this.nodeTls(), ...options })
    this.defer(() => client.destroy())
    return client
  }

  /** A server with one connection to it, and the protocol of that connection. */
  async pair<Made extends Recorder>(
    make: () => Made,
    options: ServerOptions & { client?: ClientOptions } = {},
  ): Promise<Pair<Made>> {
    const { client: clientOptions, ...serverOptions } = options
    const accepting = await this.serveEach(make, serverOptions)
    return { accepting, ...(await this.join(accepting, clientOptions)) }
  }

  /** One more connection to a server of {@link serveEach}, with its protocol. */
  async join<Made extends Recorder>(
    accepting: Accepting<Made>,
    options: ClientOptions = {},
  ): Promise<{ server: Server; client: Client; protocol: Made }> {
    const [client, protocol] = await accepting.joined(() => this.connect(accepting.server, options))
    return { server: accepting.server, client, protocol }
  }

  /** A process of the test, which is told by `--engine` what to run on; killed after it if it still lives. */
  start(fixture: string, args: readonly string[] = [], options: ChildOptions = {}): Child {
    return this.#track(startFixture(fixture, [...args, '--engine', this.engine], options))
  }

  /** The same for any program; its servers' engine is for the caller to give. */
  spawn(args: readonly string[], options: ChildOptions = {}): Child {
    return this.#track(new Child(args, options))
  }

  #track(child: Child): Child {
    this.defer(async () => {
      child.kill('SIGKILL')
      await child.untilExit()
    })
    return child
  }

  /** Closes what is open, and fails when a callback threw that should not have. */
  async finish(): Promise<void> {
    await this.cleanUp()
    const [first] = this.#unexpected
    if (first !== undefined) {
      throw new Error(`${this.#unexpected.length} exceptions in callbacks; the first: ${first.message}`, {
        cause: first.error,
      })
    }
  }

  async cleanUp(): Promise<void> {
    for (let cleanup = this.#cleanups.pop(); cleanup !== undefined; cleanup = this.#cleanups.pop())
      await cleanup()
  }
}

export interface Pair<Made extends Recorder> {
  readonly accepting: Accepting<Made>
  readonly server: Server
  readonly client: Client
  readonly protocol: Made
}

/** The connections of a server whose protocols record. */
export class Accepting<Made extends Recorder> extends Observable {
  /** What the factory made so far, in order. */
  readonly protocols: Made[] = []
  /** The peers that {@link TestContext.join} opened, in the order in which they were connected. */
  readonly clients: Client[] = []
  server!: Server
  readonly #byPeerPort = new Map<number, Made>()
  #last: Promise<unknown> = Promise.resolve()

  add(protocol: Made): Made {
    this.protocols.push(protocol)
    this.changed()
    protocol.noted('made').then(() => {
      const peer = protocol.transport.getExtraInfo('peername')
      assert.ok(peer !== undefined, 'the peer of a new connection is known')
      if (peer.port !== undefined) this.#byPeerPort.set(peer.port, protocol)
      this.changed()
    })
    return protocol
  }

  /** The protocol made as number `index`, counted from 0. */
  async protocol(index: number): Promise<Made> {
    await this.until(() => this.protocols.length > index)
    return this.protocols[index] as Made
  }

  /** A new connection and the protocol at its other end. Peers on Unix sockets have no names, so these come one by one. */
  joined(connect: () => Promise<Client>): Promise<[Client, Made]> {
    if (typeof whereIs(this.server) === 'number') {
      return connect().then(async (client) => [client, await this.ofClient(client)])
    }
    const next = this.#last.then(async (): Promise<[Client, Made]> => {
      const index = this.protocols.length
      const client = await connect()
      const protocol = await this.protocol(index)
      await protocol.noted('made')
      this.clients.push(client)
      return [client, protocol]
    })
    this.#last = next.catch(() => {})
    return next
  }

  /** The protocol at the other end of `client`'s connection, after its connectionMade. */
  async ofClient(client: Client): Promise<Made> {
    this.clients.push(client)
    const port = client.socket.localPort as number
    await this.until(() => this.#byPeerPort.has(port))
    const protocol = this.#byPeerPort.get(port) as Made
    this.#byPeerPort.delete(port)
    return protocol
  }
}

/** The port or the path that a server listens on. */
export function whereIs(server: Server): number | string {
  const [address] = server.addresses
  return typeof address === 'string' ? address : portOf(server)
}

/** The port that a server listens on. */
export function portOf(server: Server): number {
  const port = server.addresses[0]?.port
  assert.ok(port !== undefined && port > 0, `no port in ${JSON.stringify(server.addresses)}`)
  return port
}

/**
 * Resolves when the server has surely seen all that the kernel had for it before this call: two bytes went
 * through another of its connections, one after the other. In place of a sleep, to show that something does *not* arrive.
 */
export async function settle(probe: { client: Client; protocol: Recorder }): Promise<void> {
  for (let round = 0; round < 2; round++) {
    const before = probe.protocol.received
    await probe.client.write('.')
    await probe.protocol.receivedAtLeast(before + 1)
  }
}

/** Asserts that `error` is an error with this code, and returns it. */
export function assertCode(error: unknown, code: string): Error & { code: string } {
  assert.ok(error instanceof Error, `expected an error with code ${code}, got ${String(error)}`)
  assert.equal((error as { code?: unknown }).code, code, String(error.stack))
  return error as Error & { code: string }
}

/** Asserts that a client saw its connection broken off: over TCP by a reset; Unix sockets know none, and it just ends. */
export function assertReset(client: Client, error: Error | null): void {
  if (!client.isUnix || error !== null) assertCode(error, 'ECONNRESET')
  else assert.ok(client.ended, 'the connection ended')
}

/** Asserts that `call` throws an error with this code. */
export function assertThrows(call: () => unknown, code: string): void {
  let thrown: unknown
  try {
    call()
  } catch (error) {
    thrown = error
  }
  assertCode(thrown, code)
}

/** Asserts that a promise, or the call that makes it, fails with an error of this code. */
export async function assertRejects(make: () => Promise<unknown>, code: string): Promise<void> {
  let thrown: unknown
  try {
    await make()
  } catch (error) {
    thrown = error
  }
  assertCode(thrown, code)
}
