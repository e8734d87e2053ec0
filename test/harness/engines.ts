import type { EngineName } from '../../src/index.js'

/** The engines that the native addon has. */
export const AVAILABLE: readonly EngineName[] = ['mio', 'tokio']

/** Names the engines to test, separated by commas. */
const ENGINES_VARIABLE = 'SHARDLOOP_TEST_ENGINES'

/** `npm test` stays short: CI runs it once more, `npm test -- --engine tokio`. */
const BY_DEFAULT: readonly EngineName[] = ['mio']

/** The engines that every suite of `forEachEngine` runs on. */
export const engines: readonly EngineName[] = chosenEngines()

function chosenEngines(): readonly EngineName[] {
  const given = process.env[ENGINES_VARIABLE]
  if (given === undefined || given === '') return BY_DEFAULT
  return given.split(',').map((name) => {
    const engine = AVAILABLE.find((available) => available === name.trim())
    if (engine === undefined)
      throw new Error(`${ENGINES_VARIABLE}: no engine '${name}'; there are ${AVAILABLE.join(', ')}`)
    return engine
  })
}
