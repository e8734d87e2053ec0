import { Deferred } from '../deferred.js'
import type { PastCalls } from '../workers/call-history.js'
import { lateStart } from './late-start.js'
import type { ShardRequest, SupervisorMessage } from './messages.js'
import { type RestartLimits, RestartPolicy } from './restart-policy.js'
import type { AfterDeath, DrainSteps, ShardControl, ShardDeath, ShardUser } from './shard-control.js'
import { processSignals } from './signals.js'
import { type ShardProgram, type ShardResourceLimits, startFailure, WorkerShard } from './worker-shard.js'

/** Who a shard belongs to. */
export interface ShardSupervisor {
  /** Calls of `createServer` that are over for a shard which starts now. */
  pastCalls(): PastCalls
  controlled(shard: SupervisedShard, message: ShardRequest): void
  /** A thread has ended, though the shards were not to end. */
  died(death: ShardDeath, after: AfterDeath): void
}

/** How a shard's threads are made. */
export interface ShardPlan {
  readonly identity: ShardProgram
  readonly resourceLimits: ShardResourceLimits
  readonly restarts: RestartLimits
}

/** A server that the shard serves, and every replacement after it. */
interface Service {
  readonly user: ShardUser
  /** Settles when it listens for the first time, or does not. */
  readonly started: Deferred<void>
  hasStarted: boolean
  /** The thread that has the order. */
  life: WorkerShard | null
  /** Runs until a replacement listens. */
  timer: NodeJS.Timeout | undefined
}

const NOTHING_TO_DRAIN: DrainSteps = { unlistened: Promise.resolve(), drained: Promise.resolve() }

/** One shard through all its lives: it has a thread while a server wants one, and a thread that dies is replaced. */
export class SupervisedShard implements ShardControl {
  readonly id: number
  restarts = 0
  failure: ShardDeath | null = null
  readonly #plan: ShardPlan
  readonly #supervisor: ShardSupervisor
  readonly #policy: RestartPolicy<ShardDeath>
  readonly #services = new Map<number, Service>()
  #life: WorkerShard | null = null
  #hasLived = false
  /** When the next thread may start, on performance.now()'s clock. */
  #restartAt = 0
  #restartTimer: NodeJS.Timeout | undefined
  #isEnding = false

  constructor(plan: ShardPlan, supervisor: ShardSupervisor) {
    this.id = plan.identity.shardId
    this.#plan = plan
    this.#supervisor = supervisor
    this.#policy = new RestartPolicy(plan.restarts)
  }

  get hasRunEntry(): boolean {
    return this.#life?.hasRunEntry ?? false
  }

  get isDown(): boolean {
    return this.#life === null
  }

  /** To the thread, if there is one. */
  send(message: SupervisorMessage): void {
    this.#life?.send(message)
  }

  serve(user: ShardUser): Promise<void> {
    const service: Service = {
      user,
      started: new Deferred(),
      hasStarted: false,
      life: null,
      timer: undefined,
    }
    this.#services.set(user.server, service)
    if (this.#life === null) this.#replace()
    else this.#order(service, this.#life)
    return service.started.promise
  }

  drain(server: number): DrainSteps {
    clearTimeout(this.#services.get(server)?.timer)
    this.#services.delete(server)
    if (this.#services.size === 0) this.#cancelRestart()
    return this.#life?.knows(server) ? this.#life.drain(server) : NOTHING_TO_DRAIN
  }

  abort(server: number): void {
    if (this.#life?.knows(server)) this.#life.abort(server)
  }

  terminate(why: Error): void {
    this.#life?.terminate(why)
  }

  /** Ends the thread for good, after its servers ('stop') or before it has any ('cancel'). Resolves when it is gone. */
  async end(how: 'stop' | 'cancel'): Promise<ShardDeath | null> {
    this.#isEnding = true
    processSignals()?.forget(this)
    this.#cancelRestart()
    for (const { timer } of this.#services.values()) clearTimeout(timer)
    const life = this.#life
    if (life === null) return null
    const isHealthy = !life.isGivenUp
    const death = await (how === 'stop' && isHealthy ? life.stop() : life.cancel())
    processSignals()?.forget(this) // it may have subscribed until its end
    return isHealthy ? death : null
  }

  /** Starts a thread as soon as it may, if a server wants one. */
  #replace(): void {
    const isWanted = this.#services.size > 0 && this.failure === null && !this.#isEnding
    if (!isWanted || this.#life !== null || this.#restartTimer !== undefined) return
    const waitMs = this.#restartAt - performance.now()
    if (waitMs <= 0) this.#begin()
    else {
      this.#restartTimer = setTimeout(() => {
        this.#restartTimer = undefined
        this.#begin()
      }, waitMs)
    }
  }

  #cancelRestart(): void {
    clearTimeout(this.#restartTimer)
    this.#restartTimer = undefined
  }

  #begin(): void {
    try {
      this.#life = new WorkerShard(this.#plan.identity, this.#plan.resourceLimits, {
        controlled: (message) => this.#supervisor.controlled(this, message),
        ended: (death) => this.#died(death),
      })
    } catch (error) {
      // The system has no thread to give: as if one had died at once.
      for (const service of this.#services.values()) this.#refused(service, null, error)
      this.#died({ shard: this.id, error, exitCode: 1, connectionsLost: 0 })
      return
    }
    if (this.#hasLived) this.restarts += 1
    this.#hasLived = true
    this.#life.send({ type: 'past', calls: this.#supervisor.pastCalls() })
    for (const service of this.#services.values()) this.#order(service, this.#life)
  }

  #order(service: Service, life: WorkerShard): void {
    // On its way out; its replacement will get the order.
    if (life.isGivenUp) return
    const { user, hasStarted } = service
    const order = user.orderFor(this.id)
    service.life = life
    // A server that starts watches its own time, over all shards.
    if (hasStarted) {
      const late = { key: user.key, module: order.module, startTimeoutMs: user.startTimeoutMs }
      service.timer = setTimeout(() => life.giveUp(lateStart(late, [this])), user.startTimeoutMs)
    }
    life.serve(order).then(
      () => this.#listens(service, life),
      (error: unknown) => this.#refused(service, life, error),
    )
  }

  #listens(service: Service, life: WorkerShard): void {
    if (!this.#waits(service, life)) return
    clearTimeout(service.timer)
    const isReplacement = service.hasStarted
    service.hasStarted = true
    service.started.resolve()
    if (isReplacement) service.user.shardListens(this.id)
  }

  #refused(service: Service, life: WorkerShard | null, error: unknown): void {
    if (!this.#waits(service, life)) return
    if (service.hasStarted) {
      life?.giveUp(error)
      return
    }
    this.#services.delete(service.user.server)
    service.started.reject(error)
  }

  /** Whether an answer is still of interest: the thread may have died, the server may be draining. */
  #waits(service: Service, life: WorkerShard | null): boolean {
    return life === this.#life && this.#services.get(service.user.server) === service
  }

  #died(death: ShardDeath): void {
    const life = this.#life
    this.#life = null
    if (this.#isEnding) return
    const now = performance.now()
    const after = this.#policy.died(death, now)
    // What it subscribed to is subscribed to until its replacement does so itself: a SIGHUP in between must not take the
    // system's default action.
    if ('firstDeath' in after) {
      this.failure = after.firstDeath
      processSignals()?.forget(this)
    }
    if ('restartInMs' in after) this.#restartAt = now + after.restartInMs
    for (const service of this.#services.values()) {
      clearTimeout(service.timer)
      const isLost = this.failure !== null || (!service.hasStarted && service.life === life)
      if (!isLost) continue
      this.#services.delete(service.user.server)
      service.started.reject(startFailure(death))
    }
    this.#supervisor.died(death, after)
    this.#replace()
  }
}
