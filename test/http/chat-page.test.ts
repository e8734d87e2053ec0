import assert from 'node:assert/strict'
import { endsBySigterm } from '../harness/answers.js'
import { findBrowser, openBrowser, type Page } from '../harness/browser.js'
import { example } from '../harness/examples.js'
import { forEachEngine } from '../harness/suite.js'

const program = await findBrowser()
/** Connections until both shards have been chosen: that one is not, in so many, happens once in a million times. */
const PAGES_MAX = 20

forEachEngine('http-ws-chat in Chromium', (test) => {
  const name = 'what is typed in one page appears in another, whose connection is on another shard'
  if (typeof program === 'string') return test.skip(name, program)
  test(name, async (t) => {
    const { child, port } = await example(t, 'http-ws-chat', ['--shards', '2'])
    const browser = await openBrowser(t, program)
    const errors: string[] = []
    const pages = new Map<string, Page>()
    for (let opened = 0; pages.size < 2; opened++) {
      assert.ok(opened < PAGES_MAX, 'both shards get connections')
      const page = await browser.newPage()
      page.on('pageerror', (error) => errors.push(error.message))
      await page.goto(`http://127.0.0.1:${port}/`)
      await page.waitForFunction('document.getElementById("where").textContent.startsWith("connected")')
      const where = String(await page.evaluate('document.getElementById("where").textContent'))
      if (pages.has(where)) await page.close()
      else pages.set(where, page)
    }
    assert.deepEqual([...pages.keys()].sort(), ['connected to shard 0', 'connected to shard 1'])
    const [one, other] = [...pages.values()] as [Page, Page]
    await one.type('#text', 'hello <b>there</b>')
    await one.click('button')
    await other.waitForFunction('document.querySelectorAll("li").length === 1')
    await other.type('#text', 'and back')
    await other.click('button')
    for (const page of [one, other]) {
      await page.waitForFunction('document.querySelectorAll("li").length === 2')
      const said = await page.evaluate(
        '[...document.querySelectorAll("li")].map((line) => line.textContent).join()',
      )
      assert.equal(said, 'hello <b>there</b>,and back')
    }
    assert.deepEqual(errors, [])
    await browser.close()
    await endsBySigterm(child)
  })
})
