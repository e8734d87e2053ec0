/** Values of the commands' flags. What is wrong throws by the flag's name. */

/** Names separated by commas, in the order of `known`; all of them when nothing is given. */
export function list<Name extends string>(
  option: string,
  given: string | undefined,
  known: readonly Name[],
): readonly Name[] {
  if (given === undefined) return known
  const names = given.split(',').map((name) => oneOf(option, name.trim(), known))
  return known.filter((name) => names.includes(name))
}

/** One name. */
export function oneOf<Name extends string>(option: string, given: string, known: readonly Name[]): Name {
  const name = known.find((one) => one === given)
  if (name === undefined) throw new Error(`${option}: ${given} is not one of ${known.join(', ')}`)
  return name
}

/** A number above 0. */
export function positive(option: string, given: string | undefined, fallback: number): number {
  const value = given === undefined ? fallback : Number(given)
  if (!(value > 0) || value === Number.POSITIVE_INFINITY)
    throw new Error(`${option}: ${given} is not a number above 0`)
  return value
}

/** A number from `least` to `most`. */
export function between(option: string, given: string, least: number, most: number): number {
  const value = given.trim() === '' ? Number.NaN : Number(given)
  if (!(value >= least && value <= most))
    throw new Error(`${option}: ${given} is not a number from ${least} to ${most}`)
  return value
}

/** A whole number from `least` to `most`. */
export function whole(option: string, given: string, least: number, most: number): number {
  if (!/^\d+$/.test(given) || Number(given) < least || Number(given) > most)
    throw new Error(`${option}: ${given} is not a whole number from ${least} to ${most}`)
  return Number(given)
}
