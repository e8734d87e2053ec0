// @ts-check
// npm run build: the addon and the compiled TypeScript; with `--native` only the addon.
import { prepare } from './lib/prepare.mjs'

const onlyNative = process.argv.includes('--native')
await prepare({ typescript: !onlyNative, generate: !onlyNative })
