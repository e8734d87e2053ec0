/** SET with its options. */
import type { Run } from './commands.js'
import { EXPIRE_MAX_MS, INVALID_EXPIRE, NOT_AN_INTEGER, OUT_OF_MEMORY, SYNTAX_ERROR } from './texts.js'

/** Options with a time: its unit, and whether it counts from 1970. */
const TIMES = [
  { word: 'ex', unitMs: 1_000, isAbsolute: false },
  { word: 'px', unitMs: 1, isAbsolute: false },
  { word: 'exat', unitMs: 1_000, isAbsolute: true },
  { word: 'pxat', unitMs: 1, isAbsolute: true },
] as const

export const setCommand: Run = (request, keyspace, replies) => {
  if (request.count === 3) {
    if (keyspace.set(request.text(1), request.value(2))) replies.ok()
    else replies.error(OUT_OF_MEMORY, 'OOM')
    return
  }
  let condition: 'nx' | 'xx' | null = null
  let returnsOld = false
  let keepsTime = false
  let expiresAt = 0
  for (let index = 3; index < request.count; index++) {
    const time = TIMES.find(({ word }) => request.is(index, word))
    if (time !== undefined) {
      if (expiresAt !== 0 || keepsTime || index + 1 === request.count) return replies.error(SYNTAX_ERROR)
      const given = request.integer(++index)
      if (given === null) return replies.error(NOT_AN_INTEGER)
      expiresAt = given * time.unitMs + (time.isAbsolute ? 0 : keyspace.now())
      if (given <= 0 || expiresAt > EXPIRE_MAX_MS) return replies.error(INVALID_EXPIRE('set'))
    } else if (request.is(index, 'nx') && condition !== 'xx') condition = 'nx'
    else if (request.is(index, 'xx') && condition !== 'nx') condition = 'xx'
    else if (request.is(index, 'get')) returnsOld = true
    else if (request.is(index, 'keepttl') && expiresAt === 0) keepsTime = true
    else return replies.error(SYNTAX_ERROR)
  }
  const key = request.text(1)
  const old = keyspace.get(key)
  const isRefused = condition !== null && (old === undefined) !== (condition === 'nx')
  if (keepsTime) expiresAt = keyspace.expiresAt(key) ?? 0
  if (!isRefused && !keyspace.set(key, request.value(2), expiresAt))
    return replies.error(OUT_OF_MEMORY, 'OOM')
  if (returnsOld && old !== undefined) replies.bulk(old)
  else if (returnsOld || isRefused) replies.nil()
  else replies.ok()
}
