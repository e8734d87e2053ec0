import { createRequire } from 'node:module'
import { getEnvironmentData, setEnvironmentData } from 'node:worker_threads'
import { ShardloopError } from '../errors.js'
import { ABI_VERSION } from './abi.js'
import type * as Binding from './binding.js'

const require = createRequire(import.meta.url)

const ADDON_FILE_KEY = 'shardloop:addon'

/**
 * The addon's name for this platform, as napi-rs names it. The first thread finds it and tells the threads that it starts:
 * a report costs milliseconds, in which a shard that is replaced does not serve.
 */
function addonFile(): string {
  const told = getEnvironmentData(ADDON_FILE_KEY)
  if (typeof told === 'string') return told
  const file = platformFile()
  setEnvironmentData(ADDON_FILE_KEY, file)
  return file
}

function platformFile(): string {
  const { platform, arch } = process
  if (platform === 'darwin') return `shardloop.darwin-${arch}.node`
  if (platform === 'linux') {
    const report = process.report.getReport() as { header?: { glibcVersionRuntime?: string } }
    return `shardloop.linux-${arch}-${report.header?.glibcVersionRuntime === undefined ? 'musl' : 'gnu'}.node`
  }
  throw new ShardloopError('ERR_SHARDLOOP_NATIVE', `shardloop runs on Linux and macOS, not on ${platform}`)
}

function load(): typeof Binding {
  const file = addonFile()
  let binding: typeof Binding
  try {
    // dist/src/native/ and build/ stand side by side in the package.
    binding = require(`../../../build/${file}`)
  } catch (cause) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_NATIVE',
      `cannot load the native addon build/${file}: run \`npm run build\``,
      {
        cause,
      },
    )
  }
  const version = binding.abiVersion()
  if (version !== ABI_VERSION) {
    throw new ShardloopError(
      'ERR_SHARDLOOP_NATIVE',
      `the native addon build/${file} has layout version ${version}, not ${ABI_VERSION}: run \`npm run build\``,
    )
  }
  return binding
}

export type { Listener, NativeShard, StartLock, SystemFailure } from './binding.js'

/** The native addon. Each thread that imports this module loads it; they share one copy. */
export const native: typeof Binding = load()
