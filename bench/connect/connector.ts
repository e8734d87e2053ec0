/** A client API that is measured by how fast it connects. */

/** Opens connections one by one, each of which it closes as soon as it is established. */
export interface Connector {
  /** What does the I/O, as ready lines name it. */
  readonly engine: string
  /**
   * Opens a connection. Calls `established` once if it is, and `ended` exactly once, after the connection is gone, with the
   * error when it was not established or broke.
   */
  open(host: string, port: number, established: () => void, ended: (error: Error | null) => void): void
}
