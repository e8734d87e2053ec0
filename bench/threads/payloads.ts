/** What threads send each other in the benchmark. */
import { isDeepStrictEqual } from 'node:util'

/** Payloads by name, the same for every peer. */
export const PAYLOADS = {
  // Memory of its own: of a view of a pool, structured clone would take the whole pool along.
  bytes: (): unknown => Uint8Array.from({ length: 64 }, (_, index) => index),
  object: (): unknown => ({ id: 4711, name: 'ada', isOnline: true }),
  nested: (): unknown => ({
    id: 4711,
    kind: 'order',
    isPaid: false,
    total: 129.95,
    currency: 'EUR',
    customer: {
      id: 17,
      name: 'Ada Lovelace',
      email: 'ada@example.com',
      address: { street: 'St James Square 12', city: 'London', zip: 'SW1Y 4LB', country: 'GB' },
    },
    items: [
      { sku: 'A-1', count: 2, price: 49.95 },
      { sku: 'B-7', count: 1, price: 30.05 },
    ],
  }),
  mapDate: (): unknown => ({
    seenAt: new Date(1_767_225_600_000),
    tags: new Map([
      ['colour', 'blue'],
      ['size', 'large'],
      ['weight', 'light'],
    ]),
  }),
  string: (): unknown => 'a short string of thirty bytes',
  number: (): unknown => 4711,
} as const

/** See {@link PAYLOADS}. */
export type PayloadName = keyof typeof PAYLOADS

/** Whether what came is what was sent; bytes may come as another kind of view. */
export function isSame(came: unknown, sent: unknown): boolean {
  if (came instanceof Uint8Array && sent instanceof Uint8Array) return Buffer.compare(came, sent) === 0
  return isDeepStrictEqual(came, sent)
}
