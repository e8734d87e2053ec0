/** The tables of README.md name files and tests that exist. */
import assert from 'node:assert/strict'
import { existsSync, readFileSync } from 'node:fs'
import { test } from 'uvu'

const NAME_MIN_LENGTH = 8
/** Here the sources are, not what is compiled of them. */
const DIRECTORY = new URL('../../../test/conformance/', import.meta.url)

const readme = readFileSync(new URL('README.md', DIRECTORY), 'utf8')
const rows = readme
  .split('\n')
  .filter((line) => line.startsWith('|') && !/^[|-]+$/.test(line))
  .map((line) => line.slice(1, -1).split('|'))

test('every row has three cells, and none is empty', () => {
  assert.ok(rows.length > 80, `${rows.length} rows`)
  for (const cells of rows) {
    assert.equal(cells.length, 3, cells.join('|'))
    for (const cell of cells) assert.notEqual(cell.trim(), '', cells.join('|'))
  }
})

test('every file that is named exists, but for those that are on their way', () => {
  const files = new Set(
    [...readme.matchAll(/`((?:\.\.\/)?[\w-]+\.test\.ts)`/g)].map(([, file]) => file as string),
  )
  assert.ok(files.size > 10, [...files].join(', '))
  for (const file of files) assert.ok(existsSync(new URL(file, DIRECTORY)), `no such file: ${file}`)
})

test('every test that is quoted exists in the file before it', () => {
  let quoted = 0
  for (const cells of rows) {
    let file: string | undefined
    for (const [, named, name] of cells.join('|').matchAll(/`((?:\.\.\/)?[\w-]+\.test\.ts)`|"([^"]+)"/g)) {
      if (named !== undefined) file = named
      else {
        assert.ok(file !== undefined, `no file before "${name}"`)
        assert.ok(
          namesIn(file).some((pattern) => pattern.test(name as string)),
          `no such test in ${file}: ${name}`,
        )
        quoted += 1
      }
    }
  }
  assert.ok(quoted > 50, `${quoted} names`)
})

test.run()

/** What strings of a file can be: those that are put together match with whatever is put in. */
function namesIn(file: string): RegExp[] {
  const source = readFileSync(new URL(file, DIRECTORY), 'utf8')
  const literals = source.matchAll(/'((?:[^'\\\n]|\\.)+)'|"((?:[^"\\\n]|\\.)+)"|`([^`]+)`/g)
  return [...literals].flatMap(([, single, double, template]) => {
    const parts = template === undefined ? [single ?? double ?? ''] : template.split(/\$\{[^}]*\}/)
    // What is nothing but put in would be any name.
    if (parts.join('').length < NAME_MIN_LENGTH) return []
    return new RegExp(`^${parts.map((part) => part.replace(/[\\^$.*+?()[\]{}|]/g, '\\$&')).join('.+')}$`)
  })
}
