/** Whether our engines run, asked before anything is measured: an hour of figures must not end in a column that is missing. */
import type { Engine } from './peers.js'
import { serverCommand } from './programs.js'
import { startServer } from './servers.js'

/**
 * Starts the server on each engine and ends it. Rejects by name when one is refused, so that the run fails at once
 * and its figures are never taken for complete. `command` is how an engine's server is started.
 */
export async function checkEngines(
  engines: readonly Engine[],
  progress: (text: string) => void,
  command: (engine: Engine) => readonly string[] | null = (engine) => serverCommand(`${engine}-chunk`),
): Promise<void> {
  for (const engine of engines) {
    progress(`engine ${engine}: starting and ending a server on it`)
    try {
      const server = await startServer(null, command(engine) ?? [])
      await server.stop()
    } catch (error) {
      const others = engines.filter((other) => other !== engine)
      const without = others.length === 0 ? '' : `\n--engines ${others.join(',')} measures without it`
      throw new Error(
        `the server does not run on engine ${engine}: ${(error as Error).message.trim()}${without}`,
        {
          cause: error,
        },
      )
    }
  }
}
