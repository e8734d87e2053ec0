import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { TestContext } from './suite.js'

const ROOT = fileURLToPath(new URL('../../../', import.meta.url))

/** A project of somebody who uses the package, in a directory of its own that goes with the test. */
export class Project {
  readonly directory: string

  constructor(t: TestContext, type: 'module' | 'commonjs' = 'module') {
    this.directory = mkdtempSync(join(tmpdir(), 'shardloop-'))
    t.defer(() => rmSync(this.directory, { recursive: true }))
    this.write('package.json', JSON.stringify({ type }))
    mkdirSync(this.path('node_modules'))
    symlinkSync(ROOT, this.path('node_modules/shardloop'), 'dir')
    symlinkSync(join(ROOT, 'node_modules/tsx'), this.path('node_modules/tsx'), 'dir')
  }

  path(name: string): string {
    return join(this.directory, name)
  }

  write(name: string, text: string): void {
    mkdirSync(dirname(this.path(name)), { recursive: true })
    writeFileSync(this.path(name), text)
  }

  /** @param target as symlink(2) takes it: relative to the link */
  link(name: string, target: string): void {
    mkdirSync(dirname(this.path(name)), { recursive: true })
    symlinkSync(target, this.path(name))
  }
}
