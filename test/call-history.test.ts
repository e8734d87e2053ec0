import assert from 'node:assert/strict'
import { inspect } from 'node:util'
import { suite } from 'uvu'
import type { EngineName } from '../src/index.js'
import { CALL_FAILURES_MAX, ENDED_CALLS_MAX } from '../src/limits.js'
import type { EndedCall, ListenerDescription } from '../src/server/messages.js'
import { CallCounter, type CallPlace } from '../src/workers/call-counter.js'
import { CallHistory } from '../src/workers/call-history.js'
import { packError, unpackError } from '../src/workers/error-transfer.js'

const history = suite('calls that are over')

function listener(port: number): ListenerDescription {
  return { address: { family: 'IPv4', address: '127.0.0.1', port }, fd: port, options: {} }
}

function ran(place: CallPlace): EndedCall {
  const engine = engineOf(place)
  return { place, name: `server ${place.nth}`, sockets: [listener(place.nth)], engine, error: null }
}

/** Servers that follow each other may run on different engines. */
function engineOf({ nth }: CallPlace): EngineName {
  return nth % 3 === 0 ? 'tokio' : 'mio'
}

function failed(place: CallPlace, error: Error): EndedCall {
  return { place, name: `server ${place.nth}`, sockets: [], engine: null, error: packError(error) }
}

function takenPort(port: number): Error {
  return Object.assign(new Error(`port ${port} is taken`), { code: 'EADDRINUSE', port })
}

/** What a shard knows that starts now. */
function inShard(past: CallHistory): CallHistory {
  const its = new CallHistory()
  its.unpack(structuredClone(past.pack()))
  return its
}

/** What a call that is over rejected with. */
function thrown(of: CallHistory, place: CallPlace): unknown {
  const error = of.find(place)?.error
  assert.ok(error)
  return unpackError(error)
}

/** How a call went: its first port, 'no sockets', the code that it failed with, or undefined while it is not over. */
function outcome(of: CallHistory, place: CallPlace): unknown {
  const call = of.find(place)
  if (call === undefined) return undefined
  assert.equal(call.place.key, place.key)
  assert.equal(call.engine, call.error === null ? engineOf(place) : null)
  if (call.error !== null) return (unpackError(call.error) as NodeJS.ErrnoException).code
  return call.sockets[0]?.fd ?? 'no sockets'
}

history('are known by name and place, in whatever order they ended', () => {
  const past = new CallHistory()
  const counter = new CallCounter()
  const names = [undefined, undefined, 'a', undefined, 'b', 'a', 'a']
  const places = names.map((name) => counter.next(name))
  const order = [6, 1, 4, 3]
  for (const at of order) past.add(ran(places[at] as CallPlace))
  for (const each of [past, inShard(past)]) {
    assert.deepEqual(
      places.map((place) => outcome(each, place)),
      names.map((_, at) => (order.includes(at) ? places[at]?.nth : undefined)),
    )
  }
})

history(
  `of servers, the latest ${ENDED_CALLS_MAX} keep their addresses; of the others it is known that they ran, and on which engine`,
  () => {
    const past = new CallHistory()
    const counter = new CallCounter()
    const places = Array.from({ length: ENDED_CALLS_MAX + 10 }, () => counter.next(undefined))
    const [first, ...others] = places as [CallPlace, ...CallPlace[]]
    for (const place of others) past.add(ran(place))
    past.add(ran(first)) // the last to end
    for (const each of [past, inShard(past)]) {
      assert.deepEqual(
        places.map((place) => outcome(each, place)),
        places.map(({ nth }) => (nth >= 2 && nth <= 11 ? 'no sockets' : nth)),
      )
    }
  },
)

history('told twice, a server is as young as the second time', () => {
  const past = new CallHistory()
  const counter = new CallCounter()
  const places = Array.from({ length: ENDED_CALLS_MAX + 1 }, () => counter.next(undefined))
  const [first, second] = places as [CallPlace, CallPlace]
  for (const place of places.slice(0, -1)) past.add(ran(place))
  past.add(ran(first))
  past.add(ran(places.at(-1) as CallPlace))
  assert.equal(outcome(past, first), 1)
  assert.equal(outcome(past, second), 'no sockets')
})

history('that failed keep why, once for all that failed alike', () => {
  const past = new CallHistory()
  const counter = new CallCounter()
  const places = Array.from({ length: 5_000 }, () => counter.next('again'))
  for (const place of places) past.add(failed(place, takenPort(80 + (place.nth % 2))))
  assert.equal(past.pack().failures.length, 2)
  for (const each of [past, inShard(past)]) {
    for (const place of places) {
      const error = thrown(each, place)
      assert.deepEqual(error, takenPort(80 + (place.nth % 2)))
    }
  }
})

history('that failed differently are told apart, however alike they look', () => {
  const deep = (at: string): object => ({ one: { two: { three: { four: at } } } })
  const withDetails = (details: object): Error => Object.assign(new Error('bad'), { code: 'EBAD', details })
  const failures = [
    withDetails(deep('here')),
    withDetails(deep('there')),
    new AggregateError([takenPort(1)], 'all'),
    new AggregateError([takenPort(2)], 'all'),
    new Error('outer', { cause: takenPort(1) }),
    new Error('outer', { cause: takenPort(2) }),
    takenPort(1),
  ]
  const past = new CallHistory()
  const counter = new CallCounter()
  const places = failures.map(() => counter.next(undefined))
  for (const [at, place] of places.entries()) past.add(failed(place, failures[at] as Error))
  // A program may change how values are shown, on its thread.
  const { depth } = inspect.defaultOptions
  inspect.defaultOptions.depth = 0
  const its = inShard(past)
  inspect.defaultOptions.depth = depth as number
  for (const each of [past, its]) {
    assert.deepEqual(
      places.map((place) => thrown(each, place)),
      failures,
    )
  }
})

history(`past ${CALL_FAILURES_MAX} different failures, a call fails like an earlier one of its kind`, () => {
  const past = new CallHistory()
  const counter = new CallCounter()
  const fail = (code: string, nth: number): CallPlace => {
    const place = counter.next(undefined)
    past.add(failed(place, Object.assign(new Error(`${code} ${nth}`), { code })))
    return place
  }
  const many = Array.from({ length: 2 * CALL_FAILURES_MAX }, (_, nth) => fail('EMANY', nth))
  const kinds = Array.from({ length: CALL_FAILURES_MAX }, (_, nth) => fail(`E${nth}`, 0))
  const half = CALL_FAILURES_MAX / 2
  assert.equal(past.pack().failures.length, CALL_FAILURES_MAX)
  for (const each of [past, inShard(past)]) {
    assert.deepEqual([...new Set(many.map((place) => outcome(each, place)))], ['EMANY'])
    const messages = many.map((place) => (thrown(each, place) as Error).message)
    assert.equal(new Set(messages).size, half)
    assert.deepEqual(
      kinds.map((place) => outcome(each, place)),
      kinds.map((_, nth) => (nth < half ? `E${nth}` : 'ERR_SHARDLOOP_START')),
    )
  }
})

history.run()
