import { createHash } from 'node:crypto'

/** As many as make it slow on purpose: some tenths of a second. */
const ROUNDS = 200_000

/** SHA-256 again and again, as whoever stores passwords slows down who would guess them. In hexadecimal. */
export default function slowHash(text: string): string {
  let hash = Buffer.from(text)
  for (let round = 0; round < ROUNDS; round++) hash = createHash('sha256').update(hash).digest()
  return hash.toString('hex')
}
