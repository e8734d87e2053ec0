import assert from 'node:assert/strict'
import type { RequestListener } from 'node:http'
import { assertBytes } from '../harness/client.js'
import { onBoth, post, request, type Side } from '../harness/http-apps.js'
import { KiB, MiB } from '../harness/memory.js'
import { pattern, plainApp } from '../harness/plain-app.js'
import { forEachEngine, forEachTransport } from '../harness/suite.js'

/** What the app has noted, once it is through with the connection. */
async function notes(side: Side): Promise<readonly string[]> {
  await side.until(() => side.notes.some((note) => note.startsWith('socket close')))
  return side.notes
}

const ENDS_IN_ORDER = {
  notOverTls: 'a TLSSocket is told a mere end by libuv when a reset comes right behind tickets',
}

forEachTransport('a client of node:http listeners that goes away', (test) => {
  for (const how of ['ends in order', 'breaks off'] as const) {
    test(`within the head of a request, ${how}: the app hears nothing`, async (t) => {
      const both = await onBoth(t, plainApp)
      await both.same(async (side) => {
        const client = await t.connect(side.at)
        await client.write('GET /events HTTP/1.1\r\nHost:')
        how === 'breaks off' ? client.reset() : await client.destroy()
        await client.until(() => client.closed)
        // Another connection is served.
        const next = await t.connect(side.at)
        await next.write(request('GET', '/'))
        await next.readToEnd()
        await next.destroy()
      })
      assert.deepEqual(both.ours.notes, [])
    })

    test(`within the body of a request, ${how}: it is aborted, and its response closed`, async (t) => {
      const both = await onBoth(t, plainApp)
      await both.same(async (side) => {
        const client = await t.connect(side.at)
        await client.write(post('/events', 'the whole body').slice(0, -5))
        await side.noted('data 9')
        how === 'breaks off' ? client.reset() : await client.destroy()
        return notes(side)
      })
      assert.ok(both.ours.notes.includes('request error ECONNRESET'))
    })

    test(
      `before the answer comes, ${how}: the response is closed unfinished`,
      async (t) => {
        const both = await onBoth(t, plainApp)
        await both.same(async (side) => {
          const client = await t.connect(side.at)
          await client.write(post('/events', 'a', { 'X-Answer': 'none', Connection: 'keep-alive' }))
          await side.noted('request end')
          how === 'breaks off' ? client.reset() : await client.destroy()
          return notes(side)
        })
        assert.ok(both.ours.notes.includes('response close, not finished'))
      },
      how === 'breaks off' ? ENDS_IN_ORDER : {},
    )

    test(`within the answer, ${how}: the response is closed unfinished`, async (t) => {
      const both = await onBoth(t, plainApp)
      await both.same(async (side) => {
        const client = await t.connect(side.at)
        await client.write(post('/events', 'a', { 'X-Answer': 'some', Connection: 'keep-alive' }))
        await client.until(() => client.received > 0)
        await side.noted('request end')
        how === 'breaks off' ? client.reset() : await client.destroy()
        return notes(side)
      })
      assert.ok(both.ours.notes.includes('response close, not finished'))
    })

    test(`while it does not read an endless answer, ${how}: the app's stream is ended`, async (t) => {
      const both = await onBoth(t, (side) => endless(side))
      await both.same(async (side) => {
        const client = await t.connect(side.at, { paused: true })
        await client.write(request('GET', '/'))
        await side.noted('full')
        how === 'breaks off' ? client.reset() : await client.destroy()
        await side.until(() => side.notes.includes('response closed'))
      })
    })
  }
})

/** Writes for as long as the client reads. */
function endless(side: Side): RequestListener {
  return (_req, res) => {
    const piece = pattern(64 * KiB)
    let isFull = false
    const write = (): void => {
      while (!res.destroyed && res.write(piece));
      if (!isFull && res.writableLength > MiB) side.note('never more than a MiB waits')
      isFull = true
    }
    res.on('drain', write)
    res.on('close', () => side.note('response closed'))
    res.on('error', () => {})
    write()
    // The kernel's buffers are full when nothing was taken for a while.
    let taken = -1
    const look = setInterval(() => {
      const now = res.socket?.bytesWritten ?? 0
      if (now === taken) {
        clearInterval(look)
        side.note('full')
      }
      taken = now
    }, 20)
    res.on('close', () => clearInterval(look))
  }
}

forEachEngine('slow clients of node:http listeners', (test) => {
  test('a slow reader makes a streamed answer wait, and gets all of it', async (t) => {
    const size = 16 * MiB
    let most = 0
    const both = await onBoth(t, () => async (_req, res) => {
      res.writeHead(200, { 'Content-Length': size })
      for (let at = 0; at < size; at += 64 * KiB) {
        const isTaken = res.write(pattern(64 * KiB, at))
        most = Math.max(most, res.writableLength)
        if (!isTaken) await new Promise((resolve) => res.once('drain', resolve))
      }
      res.end()
    })
    const body = pattern(size)
    await both.same(async (side) => {
      const client = await t.connect(side.at, { paused: true })
      await client.write(request('GET', '/'))
      // A MiB at a time.
      for (let read = 0; read < size; read += MiB) {
        client.resume()
        await client.until(() => client.received >= read || client.ended)
        client.pause()
        await new Promise((resolve) => setImmediate(resolve))
      }
      client.resume()
      const answer = await client.readToEnd()
      assertBytes(answer.subarray(answer.indexOf('\r\n\r\n') + 4), body)
      await client.destroy()
    })
    assert.ok(most < MiB, `${most} bytes waited in the response`)
  })

  test('a slow app makes an upload wait, and gets all of it', async (t) => {
    const size = 16 * MiB
    const sent = pattern(size)
    const both = await onBoth(t, () => async (req, res) => {
      let at = 0
      let most = 0
      for await (const chunk of req) {
        assertBytes(chunk, sent.subarray(at, at + chunk.length))
        at += chunk.length
        most = Math.max(most, req.readableLength, req.socket.readableLength)
        if (at % 7 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
      res.end(`${at} bytes, ${most <= MiB ? 'bounded' : most}`)
    })
    const answer = await both.same(async (side) => {
      const client = await t.connect(side.at)
      const head = request('POST', '/', { 'Content-Length': size })
      await client.write(Buffer.concat([Buffer.from(head), sent]))
      const all = (await client.readToEnd()).toString()
      await client.destroy()
      return all.slice(all.indexOf('\r\n\r\n') + 4)
    })
    assert.equal(answer, `${size} bytes, bounded`)
  })

  test('an app that does not read holds an upload up, and answers it all the same', async (t) => {
    const both = await onBoth(t, () => (req, res) => {
      setTimeout(() => {
        req.resume()
        req.on('end', () => res.end('all read'))
      }, 50)
    })
    await both.same(async (side) => {
      const client = await t.connect(side.at)
      await client.write(request('POST', '/', { 'Content-Length': 8 * MiB }))
      await client.write(Buffer.alloc(8 * MiB))
      const answer = (await client.readToEnd()).toString()
      await client.destroy()
      return answer.slice(-8)
    })
  })

  test('an upload that the app has answered early is read to its end, and the connection kept', async (t) => {
    const both = await onBoth(t, () => (_req, res) => void res.end('early'))
    await both.same(async (side) => {
      const client = await t.connect(side.at)
      await client.write(request('POST', '/', { 'Content-Length': MiB, Connection: 'keep-alive' }))
      await client.until(() => client.received > 0)
      await client.write(Buffer.alloc(MiB))
      await client.write(request('GET', '/'))
      const answer = (await client.readToEnd()).toString()
      await client.destroy()
      return answer.match(/early/g)?.length
    })
  })
})
