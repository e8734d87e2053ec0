/** Arguments of `npm run loadtest -- http`: those of the load generator, and `--plot FILE`. */

/** What is to be done. */
export interface LoadtestArguments {
  /** For the load generator. */
  readonly rest: readonly string[]
  /** Where the plot goes; null without one. */
  readonly plot: string | null
  /** Where the load generator was told to write what is drawn; null where it was not. */
  readonly out: string | null
  /** Standard output is the load generator's alone. */
  readonly isQuiet: boolean
}

/** Reads them; `usual` is where the plot goes unless told. Throws by name when `--plot` is wrong. */
export function readLoadtestArguments(args: readonly string[], usual: string): LoadtestArguments {
  const plots = optionsNamed('--plot', args)
  const rest = args.filter((_, index) => !plots.some(({ from, to }) => index >= from && index < to))
  const given = plots.at(-1)?.value
  if (given !== undefined && !/\.(html|svg)$/.test(given))
    throw new Error(`--plot: ${given} ends with neither .html nor .svg`)
  const isQuiet = rest.includes('--json')
  const asksForHelp = rest.some((word) => ['--help', '-h', '--version', '-V'].includes(word))
  const plot = asksForHelp ? null : (given ?? (isQuiet ? null : usual))
  return { rest, plot, out: optionsNamed('--out', rest).at(-1)?.value ?? null, isQuiet }
}

/** Each `name VALUE` and `name=VALUE`, with the words that it takes. */
function optionsNamed(
  name: string,
  args: readonly string[],
): { readonly from: number; readonly to: number; readonly value: string }[] {
  return args.flatMap((word, from) => {
    if (word.startsWith(`${name}=`)) return [{ from, to: from + 1, value: word.slice(name.length + 1) }]
    if (word !== name) return []
    const value = args[from + 1]
    if (value === undefined) throw new Error(`${name}: no file is named`)
    return [{ from, to: from + 2, value }]
  })
}
