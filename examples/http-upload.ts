// Takes files of any size to disk, at the disk's pace: a client that sends faster waits. Who goes away leaves nothing behind.
// Run: npm run -s example -- http-upload --port 8080 --directory /tmp/uploads
// then: curl --upload-file big.iso http://127.0.0.1:8080/big.iso and curl -O http://127.0.0.1:8080/big.iso
import { randomUUID } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { createServer, isSupervisor, nodeHttp } from 'shardloop'
import { failure, listening, serverFlags } from './lib/program.js'

/** Letters, digits, - and _, and dots within. So no name leaves the directory. */
const NAME = /^\/([\w-][\w.-]{0,99})$/
const MiB = 1024 * 1024
/** Bytes between two lines of progress. */
const PROGRESS_BYTES = 64 * MiB

const { directory, ...options } = serverFlags(8080, { directory: join(tmpdir(), 'uploads') })

async function serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const name = NAME.exec(request.url ?? '')?.[1]
  if (name === undefined) return answer(response, 404, 'a name of letters, digits, -, _ and dots, please')
  if (request.method === 'PUT') return receive(request, response, name)
  if (request.method === 'GET') return send(response, join(directory, name))
  answer(response, 405, 'PUT or GET, please')
}

async function receive(request: IncomingMessage, response: ServerResponse, name: string): Promise<void> {
  // Under a name of its own until it is whole.
  const partial = join(directory, `.${randomUUID()}.partial`)
  let bytes = 0
  async function* counted(): AsyncGenerator<Buffer> {
    for await (const chunk of request) {
      const before = bytes
      bytes += chunk.length
      if (Math.floor(bytes / PROGRESS_BYTES) > Math.floor(before / PROGRESS_BYTES)) progress()
      yield chunk
    }
  }
  const progress = (): void => console.log(`${name}: ${Math.floor(bytes / MiB)} MiB`)
  try {
    await mkdir(directory, { recursive: true })
    await pipeline(counted, createWriteStream(partial))
    await rename(partial, join(directory, name))
    console.log(`${name}: all ${bytes} bytes`)
    answer(response, 201, `${bytes} bytes`)
  } catch (error) {
    await rm(partial, { force: true })
    console.log(`${name}: given up after ${bytes} bytes (${(error as Error).message})`)
    if (!response.destroyed) answer(response, 500, 'it could not be stored')
  }
}

async function send(response: ServerResponse, file: string): Promise<void> {
  const found = await stat(file).catch(() => null)
  if (found === null) return answer(response, 404, 'there is no such file')
  response.writeHead(200, { 'Content-Type': 'application/octet-stream', 'Content-Length': found.size })
  await pipeline(createReadStream(file), response).catch(() => {}) // the client has gone
}

function answer(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'Content-Type': 'text/plain' }).end(`${text}\n`)
}

async function main(): Promise<void> {
  const server = await createServer(nodeHttp(serve), options)
  if (isSupervisor) console.log(`uploads to ${directory} on ${listening(server, options)}`)
}

main().catch(failure('http-upload'))
