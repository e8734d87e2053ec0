/** A GiB up, down and through: every byte is checked, and the server's memory stays where it was. */
import assert from 'node:assert/strict'
import { request as httpRequest, type IncomingMessage } from 'node:http'
import { connect } from 'node:net'
import { pipeline } from 'node:stream/promises'
import { LongStreamCheck, longStream } from '../harness/long-stream.js'
import { MiB } from '../harness/memory.js'
import { bodyOf } from '../harness/plain-app.js'
import { forEachEngine, type TestContext } from '../harness/suite.js'

const ALL = 1024 * MiB
/** Goes before, so that heaps, slabs and the kernel's buffers are what they will be. */
const WARM_UP = 64 * MiB
/** Over what the server has after that. V8 collects freed Buffers when there are some 32 MiB of them, and a collection takes time. */
const GROWTH_MAX = 48 * MiB
const TIMEOUT_MS = 240_000

interface Ports {
  readonly http: number
  readonly echo: number
}
type Transfer = (ports: Ports, bytes: number) => Promise<void>

const TRANSFERS: Readonly<Record<string, Transfer>> = {
  'an upload of known length': ({ http }, bytes) => upload(http, bytes, { 'Content-Length': bytes }),
  'an upload in chunks': ({ http }, bytes) => upload(http, bytes, {}),
  'a download of known length': ({ http }, bytes) => download(http, `/download/${bytes}`, bytes),
  'a download in chunks': ({ http }, bytes) => download(http, `/chunked/${bytes}`, bytes),
  'a body that is sent back': ({ http }, bytes) => throughHttp(http, bytes),
  'an echo by a pipeline of the duplex': ({ echo }, bytes) => throughDuplex(echo, bytes),
}

forEachEngine('a GiB', (test) => {
  for (const [name, transfer] of Object.entries(TRANSFERS)) {
    test(
      `${name}: is whole, and the server's memory is flat`,
      async (t) => {
        const child = t.start('transfers')
        const [, http, echo] = await child.line(/^http (\d+) echo (\d+)$/)
        const ports = { http: Number(http), echo: Number(echo) }
        await transfer(ports, WARM_UP)
        const before = await memory(ports)
        const [most] = await Promise.all([watch(t, ports, transfer(ports, ALL))])
        console.log(`${name}: ${mebibytes(before)} MiB before, at most ${mebibytes(most)} MiB`)
        assert.ok(most - before < GROWTH_MAX, `${mebibytes(most - before)} MiB more than before`)
      },
      { timeoutMs: TIMEOUT_MS },
    )
  }
})

/** The most that the server's process had while that lasted. */
async function watch(t: TestContext, ports: Ports, transfer: Promise<void>): Promise<number> {
  let most = 0
  let isOver = false
  const over = transfer.finally(() => {
    isOver = true
  })
  t.defer(() => over.catch(() => {}))
  const look = async (): Promise<void> => {
    while (!isOver) {
      most = Math.max(most, await memory(ports))
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
  }
  await Promise.all([over, look()])
  return Math.max(most, await memory(ports))
}

async function memory({ http }: Ports): Promise<number> {
  const answer = await answerOf(httpRequest({ port: http, host: '127.0.0.1', path: '/memory', agent: false }))
  return Number((await bodyOf(answer)).toString())
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / MiB)
}

async function upload(port: number, bytes: number, headers: Record<string, number>): Promise<void> {
  const request = httpRequest({
    port,
    host: '127.0.0.1',
    method: 'PUT',
    path: '/upload',
    headers,
    agent: false,
  })
  const answer = answerOf(request, false)
  await pipeline(longStream(bytes), request)
  assert.equal((await bodyOf(await answer)).toString(), `${bytes}`)
}

async function download(port: number, path: string, bytes: number): Promise<void> {
  const answer = await answerOf(httpRequest({ port, host: '127.0.0.1', path, agent: false }))
  const check = new LongStreamCheck()
  await pipeline(answer, check)
  assert.equal(check.bytes, bytes)
}

async function throughHttp(port: number, bytes: number): Promise<void> {
  const request = httpRequest({ port, host: '127.0.0.1', method: 'PUT', path: '/', agent: false })
  const check = new LongStreamCheck()
  const answered = answerOf(request, false).then((answer) => pipeline(answer, check))
  await Promise.all([pipeline(longStream(bytes), request), answered])
  assert.equal(check.bytes, bytes)
}

async function throughDuplex(port: number, bytes: number): Promise<void> {
  const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true })
  const check = new LongStreamCheck()
  await Promise.all([pipeline(longStream(bytes), socket), pipeline(socket, check)])
  assert.equal(check.bytes, bytes)
}

function answerOf(request: ReturnType<typeof httpRequest>, ends = true): Promise<IncomingMessage> {
  const answer = new Promise<IncomingMessage>((resolve, reject) => {
    request.once('response', resolve)
    request.once('error', reject)
  })
  if (ends) request.end()
  return answer
}
