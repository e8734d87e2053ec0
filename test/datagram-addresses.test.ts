/** Addresses of datagrams on their way between the words of native code and objects. */
import assert from 'node:assert/strict'
import { SocketAddress } from 'node:net'
import { test } from 'uvu'
import { DATAGRAM_ADDRESSES_KEPT } from '../src/limits.js'
import { type AddressForm, DatagramAddresses, wordsOf } from '../src/workers/datagram-addresses.js'

/** As it lies in a slab, behind something else. */
function inSlab(form: AddressForm): { words: Int32Array; bytes: Buffer } {
  const words = new Int32Array(64)
  words.set(form.words ?? [form.first, form.second], 3)
  return { words, bytes: Buffer.from(words.buffer) }
}

/** Numbers that look drawn, and are the same in each run. */
function* drawn(): Generator<number, never> {
  for (let state = 1; ; ) {
    state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0
    yield state >>> 16
  }
}

const numbers = drawn()
const next = (below: number): number => numbers.next().value % below

function ipv6(): string {
  // Many zeros, for what is left out.
  return Array.from({ length: 8 }, () => (next(2) === 0 ? 0 : next(65_536)).toString(16)).join(':')
}

test('addresses come back as Node spells them', () => {
  const addresses = new DatagramAddresses()
  const texts: string[] = [
    '::',
    '::1',
    '1::',
    '::ffff:1.2.3.4',
    '1:0:0:2:0:0:0:3',
    '0:0:1:2:0:0:3:4',
    'fe80::1',
  ]
  for (let count = 0; count < 3000; count++) texts.push(ipv6())
  for (let count = 0; count < 3000; count++)
    texts.push([next(256), next(256), next(256), next(256)].join('.'))
  for (const text of texts) {
    const [family, name] = text.includes(':') ? (['ipv6', 'IPv6'] as const) : (['ipv4', 'IPv4'] as const)
    const port = 1 + next(65_535)
    const { words, bytes } = inSlab(addresses.form({ address: text, port }))
    const expected = new SocketAddress({ address: text, family }).address
    assert.deepEqual(addresses.read(words, 3, bytes), { address: expected, family: name, port })
  }
})

test('an address that is known is the same object, and its form is not made again', () => {
  const addresses = new DatagramAddresses()
  for (const address of ['127.0.0.1', '2001:db8::1']) {
    const form = addresses.form({ address, port: 53 })
    const { words, bytes } = inSlab(form)
    const first = addresses.read(words, 3, bytes)
    addresses.read(inSlab(addresses.form({ address, port: 54 })).words, 3, bytes)
    assert.equal(addresses.read(words, 3, bytes), first)
    const known = addresses.form(first)
    assert.equal(addresses.form(first), known)
    assert.deepEqual([known.first, known.second, known.words], [form.first, form.second, form.words])
  }
})

test('no more are kept than the limit says, and those beyond it are right all the same', () => {
  const addresses = new DatagramAddresses()
  const seen = new Set<unknown>()
  const all = DATAGRAM_ADDRESSES_KEPT * 4
  for (let round = 0; round < 2; round++) {
    for (let count = 0; count < all; count++) {
      const address = `10.0.${count >> 8}.${count & 255}`
      const { words, bytes } = inSlab(addresses.form({ address, port: 7 }))
      const found = addresses.read(words, 3, bytes)
      assert.equal(found.address, address)
      seen.add(found)
    }
  }
  // In the second round none of those is there that others have taken the places of.
  assert.ok(seen.size >= all * 2 - DATAGRAM_ADDRESSES_KEPT, `${seen.size} objects for ${all} addresses`)
})

test('names of Unix sockets of every length', () => {
  const addresses = new DatagramAddresses()
  for (let length = 1; length <= 103; length++) {
    const path = `/${'n'.repeat(length - 1)}`
    const form = addresses.form(path)
    assert.equal(wordsOf(form.first), 1 + Math.ceil(length / 4))
    const { words, bytes } = inSlab(form)
    assert.equal(addresses.read(words, 3, bytes), path)
  }
})

test('memory that the program changes is read anew', () => {
  const addresses = new DatagramAddresses()
  const given = { address: '127.0.0.1', port: 1 }
  const first = addresses.form(given)
  assert.equal(addresses.form(given), first)
  given.port = 2
  assert.notEqual(addresses.form(given).first, first.first)
})

test.run()
