import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import express from 'express'
import { Pool, Client as UndiciClient } from 'undici'
import { assertBytes } from '../harness/client.js'
import { normalise, onBoth, type Side } from '../harness/http-apps.js'
import { KiB, MiB } from '../harness/memory.js'
import { bodyOf, pattern, plainApp } from '../harness/plain-app.js'
import { forEachEngine, type SuiteTests, type TestContext } from '../harness/suite.js'

const HAS_CURL = (process.env['PATH'] ?? '')
  .split(delimiter)
  .some((directory) => existsSync(join(directory, 'curl')))

/** What curl prints: the answer with its heads, and how it ended. */
async function curl(
  t: TestContext,
  args: readonly string[],
): Promise<{ answer: string; code: number | null }> {
  const child = t.spawn(['--silent', '--include', '--max-time', '10', ...args], { command: 'curl' })
  const { code } = await child.untilExit()
  return { answer: normalise(child.stdout), code }
}

forEachEngine('curl as the client', (test) => {
  const defined = curlTests()
  for (const [name, body] of Object.entries(defined)) {
    if (HAS_CURL) test(`${name}: as on node:http`, body)
    else test.skip(name, 'there is no curl')
  }
})

function curlTests(): Record<string, Parameters<SuiteTests>[1]> {
  const same =
    (args: (side: Side) => string[], expected: RegExp, exitCode = 0) =>
    async (t: TestContext): Promise<void> => {
      const both = await onBoth(t, plainApp)
      const { answer, code } = await both.same((side) => curl(t, args(side)))
      assert.match(answer, expected)
      assert.equal(code, exitCode)
    }
  return {
    'a request': same(({ url }) => [url], /hello$/),
    HEAD: same(({ url }) => ['--head', url], /200 OK/),
    'HTTP/1.0': same(({ url }) => ['--http1.0', `${url}/chunked`], /part 0;.*last$/),
    'several over one connection': same(
      ({ url }) => [
        ...['/', '/chunked', '/late', '/no-content', '/request'].flatMap((path) => [`${url}${path}`]),
        ...['--write-out', '%{num_connects} connections, status %{http_code}\n', '-H', 'Host: test'],
      ],
      /1 connections, status 200\n[\s\S]*0 connections, status 200\n[\s\S]*0 connections, status 204\n/,
    ),
    'a form': same(
      ({ url }) => ['--data', 'a=1&b=2', '-H', 'Host: test', `${url}/request`],
      /"body":"a=1&b=2"/,
    ),
    'a body that waits for 100 Continue': same(
      ({ url }) => ['--data', 'x'.repeat(1000), '-H', 'Expect: 100-continue', `${url}/echo`],
      /^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 OK\r\n[\s\S]*x{1000}$/,
    ),
    'compressed, if the app could': same(({ url }) => ['--compressed', `${url}/`], /hello$/),
    'it goes away when the time is up': async (t) => {
      const both = await onBoth(t, plainApp)
      const { answer, code } = await both.same(async (side) => {
        const got = await curl(t, [
          ...['--max-time', '0.2', '--data', 'x', '-H', 'X-Answer: some'],
          `${side.url}/events`,
        ])
        await side.until(() => side.notes.some((note) => note.startsWith('socket close')))
        return got
      })
      assert.match(answer, /some of it$/)
      assert.equal(code, 28)
    },
    'parts of a file': async (t) => {
      const file = t.path('file')
      writeFileSync(file, pattern(100_000))
      const both = await onBoth(t, () => express().get('/', (_req, res) => void res.sendFile(file)))
      for (const range of ['0-9', '99990-', '-10', '500-999,2000-2999']) {
        const { answer } = await both.same(({ url }) => curl(t, ['--range', range, url]))
        assert.match(answer, /^HTTP\/1\.1 20[06] /)
      }
    },
    'a large body from a file': async (t) => {
      const file = t.path('body')
      writeFileSync(file, t.random.bytes(20 * MiB))
      const both = await onBoth(t, plainApp)
      const { answer } = await both.same(({ url }) => curl(t, ['--data-binary', `@${file}`, `${url}/digest`]))
      assert.match(answer, new RegExp(`"length":${20 * MiB}`))
    },
    'a large body in chunks': async (t) => {
      const file = t.path('body')
      writeFileSync(file, t.random.bytes(20 * MiB))
      const both = await onBoth(t, plainApp)
      const { answer } = await both.same(({ url }) =>
        curl(t, ['--upload-file', file, '-H', 'Transfer-Encoding: chunked', `${url}/digest`]),
      )
      assert.match(answer, new RegExp(`"length":${20 * MiB}`))
    },
    'a large answer, at a limited rate': async (t) => {
      const file = t.path('body')
      const both = await onBoth(t, plainApp)
      const { code } = await both.same((side) =>
        curl(t, ['--no-include', '--limit-rate', '20M', '--output', file, `${side.url}/large`]),
      )
      assert.equal(code, 0)
      assertBytes(readFileSync(file), pattern(4 * MiB))
    },
  }
}

forEachEngine('undici as the client', (test) => {
  test('answers, heads and trailers are as on node:http', async (t) => {
    const both = await onBoth(t, plainApp)
    for (const path of ['/', '/chunked', '/trailers', '/headers', '/write-head', '/no-content', '/late']) {
      await both.same(async ({ url }) => {
        const client = new UndiciClient(url)
        t.defer(() => client.close())
        const { statusCode, headers, body, trailers } = await client.request({ path, method: 'GET' })
        const text = await body.text()
        return { statusCode, headers: { ...headers, date: 'then' }, text, trailers }
      })
    }
  })

  test('a hundred pipelined requests, with bodies, over one connection', async (t) => {
    const both = await onBoth(t, plainApp)
    const [first] = await both.same(async ({ url }) => {
      const client = new UndiciClient(url, { pipelining: 20 })
      t.defer(() => client.close())
      return Promise.all(
        Array.from({ length: 100 }, async (_, at) => {
          const method = at % 3 === 0 ? 'PUT' : 'GET'
          const body = method === 'PUT' ? `body ${at}` : null
          const answer = await client.request({
            path: method === 'PUT' ? '/echo' : at % 3 === 1 ? '/' : '/chunked',
            method,
            body,
            headers: { 'x-number': `${at}` },
          })
          return answer.body.text()
        }),
      )
    })
    assert.equal(first, 'body 0')
  })

  test('many requests over a pool, each with its own answer', async (t) => {
    const both = await onBoth(t, () => (req, res) => void req.pipe(res))
    await both.same(async ({ url }) => {
      const pool = new Pool(url, { connections: 16 })
      t.defer(() => pool.close())
      return Promise.all(
        Array.from({ length: 200 }, async (_, at) => {
          const sent = pattern(1 + ((at * 997) % (64 * KiB)), at)
          const { body } = await pool.request({ path: '/', method: 'POST', body: sent })
          assertBytes(await bodyOf(body), sent)
        }),
      )
    })
  })

  test('a request that is aborted before its answer ends its response; the next one is answered', async (t) => {
    const both = await onBoth(t, plainApp)
    await both.same(async (side) => {
      const client = new UndiciClient(side.url)
      t.defer(() => client.close())
      const abort = new AbortController()
      const aborted = client.request({
        path: '/events',
        method: 'POST',
        body: 'a',
        headers: { 'x-answer': 'none' },
        signal: abort.signal,
      })
      await side.noted('request end')
      abort.abort()
      await assert.rejects(aborted, { name: 'AbortError' })
      await side.noted('response close, not finished')
      const { body } = await client.request({ path: '/', method: 'GET' })
      return body.text()
    })
  })

  test('an answer that is aborted within ends its response', async (t) => {
    const both = await onBoth(t, plainApp)
    await both.same(async (side) => {
      const client = new UndiciClient(side.url)
      t.defer(() => client.close())
      const { body } = await client.request({
        path: '/events',
        method: 'POST',
        body: 'a',
        headers: { 'x-answer': 'some' },
      })
      body.on('error', () => {})
      body.destroy()
      await side.noted('response close, not finished')
      await side.until(() => side.notes.some((note) => note.startsWith('socket close')))
    })
  })

  test('fetch: a body that is streamed both ways', async (t) => {
    const both = await onBoth(t, () => (req, res) => void req.pipe(res))
    const sent = pattern(3 * MiB)
    await both.same(async ({ url }) => {
      const body = new Blob([sent]).stream()
      const options = { method: 'POST', body, duplex: 'half', headers: { connection: 'close' } }
      const answer = await fetch(url, options as RequestInit)
      assertBytes(new Uint8Array(await answer.arrayBuffer()), sent)
      return [answer.status, answer.headers.get('transfer-encoding')]
    })
  })
})
