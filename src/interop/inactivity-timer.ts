import { performance } from 'node:perf_hooks'
import type { TcpTransport } from '../workers/transport.js'

/**
 * `net.Socket`'s timeout by the connection's idle timeout. An HTTP server sets it with each response and ends it with each
 * request, so a shorter one that native code has is left as it is until it passes; only then is looked what is wanted.
 */
export class InactivityTimer {
  private readonly transport: TcpTransport
  /** 0: none. */
  private wantedMs = 0
  private wantedAt = 0
  /** What native code has. */
  private armedMs = 0
  /** It is over, and was told: not again before something moves. */
  private told = false

  constructor(transport: TcpTransport) {
    this.transport = transport
  }

  /** Whether native code's idle timeout is this one's. */
  get isArmed(): boolean {
    return this.armedMs > 0
  }

  set(milliseconds: number): void {
    this.wantedMs = milliseconds
    this.told = false
    if (milliseconds === 0) return
    this.wantedAt = performance.now()
    if (this.armedMs === 0 || milliseconds < this.armedMs) this.arm(milliseconds)
  }

  stop(): void {
    this.wantedMs = 0
  }

  /** A byte moves. */
  active(): void {
    if (!this.told) return
    this.told = false
    if (this.wantedMs > 0) this.arm(this.wantedMs)
  }

  /** No byte moved for as long as was armed. @returns whether that is as long as is wanted */
  isOver(): boolean {
    if (this.wantedMs === 0) {
      this.disarm()
      return false
    }
    const now = performance.now()
    const since = Math.max(this.wantedAt, now - this.armedMs)
    const leftMs = Math.ceil(since + this.wantedMs - now)
    if (leftMs > 0) {
      this.arm(leftMs)
      return false
    }
    this.told = true
    this.disarm()
    return true
  }

  /** The server's own is in force again. */
  private disarm(): void {
    this.armedMs = 0
    this.transport.setIdleTimeout(this.transport.server.idleTimeoutMs)
  }

  private arm(milliseconds: number): void {
    this.armedMs = milliseconds
    this.transport.setIdleTimeout(milliseconds)
  }
}
