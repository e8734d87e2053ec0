import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import type { Child } from './child.js'
import type { TestContext } from './suite.js'

const ROOT = new URL('../../../', import.meta.url)

/** The compiled file of an example. */
export function exampleFile(name: string): string {
  return fileURLToPath(new URL(`dist/examples/${name}.js`, ROOT))
}

/** An example, compiled or as it stands under tsx, on a port of its own and the test's engine. */
export async function example(
  t: TestContext,
  name: string,
  args: readonly string[] = [],
  runner: 'compiled' | 'tsx' = 'compiled',
): Promise<{ child: Child; port: number }> {
  const file = runner === 'tsx' ? fileURLToPath(new URL(`examples/${name}.ts`, ROOT)) : exampleFile(name)
  const flags = runner === 'tsx' ? ['--import', 'tsx'] : []
  const child = t.spawn([...flags, file, '--port', '0', '--engine', t.engine, ...args])
  const [, port, engine] = await child.line(/(?: port |127\.0\.0\.1[ :])(\d+) \(shards \d, engine (\w+)\)$/)
  assert.equal(engine, t.engine)
  return { child, port: Number(port) }
}

/** In one line, with the exit code of wrong flags. */
export async function assertRefused(
  t: TestContext,
  name: string,
  flags: string[],
  message: string,
): Promise<void> {
  const child = t.spawn([exampleFile(name), ...flags])
  assert.deepEqual(await child.untilExit(), { code: 2, signal: null }, child.describe())
  assert.equal(child.stderr, `${name}: ${message}\n`)
}
