/** The words of a line that a person has typed, as Redis takes it apart: quotes, and escapes within double ones. */

const ESCAPES: Readonly<Record<string, string>> = { n: '\n', r: '\r', t: '\t', b: '\b', a: '\x07' }
/** A quoted word, or one (or the beginning of one) without quotes. A no-break space is a byte as any other. */
const WORD = /[ \t\n\v\f\r]*(?:"((?:\\[\s\S]|[^"\\])*)"|'((?:\\'|(?!\\')[^'])*)'|([^ \t\n\v\f\r"']+))/y
const SPACES_TO_END = /[ \t\n\v\f\r]*$/y
const SPACE_OR_END = /$|(?=[ \t\n\v\f\r])/y

/**
 * Null when quotes are not balanced, or something stands right behind the closing one.
 * @param line bytes, each as a character
 */
export function wordsOf(line: string): string[] | null {
  const words: string[] = []
  let word = ''
  let at = 0
  for (;;) {
    WORD.lastIndex = at
    const match = WORD.exec(line)
    if (match === null) return isAt(SPACES_TO_END, line, at) ? words : null
    const [, double, single, plain] = match
    at = WORD.lastIndex
    if (double !== undefined) word += unescaped(double)
    else if (single !== undefined) word += single.replaceAll("\\'", "'")
    else word += plain
    // A quote may begin within a word, and ends it.
    if (plain !== undefined && (line[at] === '"' || line[at] === "'")) continue
    if (!isAt(SPACE_OR_END, line, at)) return null
    words.push(word)
    word = ''
  }
}

function isAt(pattern: RegExp, line: string, at: number): boolean {
  pattern.lastIndex = at
  return pattern.test(line)
}

function unescaped(text: string): string {
  return text.replace(/\\(?:x([0-9a-fA-F]{2})|([\s\S]))/g, (_, hex: string | undefined, character: string) =>
    hex === undefined ? (ESCAPES[character] ?? character) : String.fromCharCode(Number.parseInt(hex, 16)),
  )
}
