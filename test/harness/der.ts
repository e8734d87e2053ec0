/** DER, as much of it as certificates are made of. */

/** A value with its tag and length in front of it. */
export function tagged(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts)
  const { length } = content
  if (length < 0x80) return Buffer.concat([Uint8Array.of(tag, length), content])
  const digits = Buffer.from(
    length.toString(16).padStart(length > 0xffff ? 6 : length > 0xff ? 4 : 2, '0'),
    'hex',
  )
  return Buffer.concat([Uint8Array.of(tag, 0x80 | digits.length), digits, content])
}

export function sequence(...parts: readonly Uint8Array[]): Buffer {
  return tagged(0x30, ...parts)
}

export function set(...parts: readonly Uint8Array[]): Buffer {
  return tagged(0x31, ...parts)
}

/** A number that is not negative, by its bytes. */
export function integer(bytes: Uint8Array): Buffer {
  return tagged(0x02, (bytes[0] ?? 0) >= 0x80 ? Uint8Array.of(0) : Buffer.alloc(0), bytes)
}

export function boolean(value: boolean): Buffer {
  return tagged(0x01, Uint8Array.of(value ? 0xff : 0))
}

export function enumerated(value: number): Buffer {
  return tagged(0x0a, Uint8Array.of(value))
}

/** @param unused bits at the end that do not count */
export function bitString(bytes: Uint8Array, unused = 0): Buffer {
  return tagged(0x03, Uint8Array.of(unused), bytes)
}

export function octetString(...parts: readonly Uint8Array[]): Buffer {
  return tagged(0x04, ...parts)
}

export function utf8String(text: string): Buffer {
  return tagged(0x0c, Buffer.from(text))
}

/** To the second, as UTCTime: until 2049. */
export function time(date: Date): Buffer {
  const digits = date.toISOString().replace(/\.\d+/, '').replace(/[-:T]/g, '').slice(2)
  return tagged(0x17, Buffer.from(digits))
}

/** @param dotted such as `2.5.29.19` */
export function objectId(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number)
  const bytes = [first * 40 + second]
  for (const arc of rest) {
    const sevens = [arc & 0x7f]
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128))
      sevens.unshift((left & 0x7f) | 0x80)
    bytes.push(...sevens)
  }
  return tagged(0x06, Uint8Array.from(bytes))
}

/** A field that is tagged by its context. */
export function context(number: number, ...parts: readonly Uint8Array[]): Buffer {
  return tagged(0xa0 | number, ...parts)
}

/** The same of a value that is no structure. */
export function contextValue(number: number, value: Uint8Array): Buffer {
  return tagged(0x80 | number, value)
}

export function pem(label: string, der: Uint8Array): string {
  const lines = Buffer.from(der)
    .toString('base64')
    .replace(/.{1,64}/g, '$&\n')
  return `-----BEGIN ${label}-----\n${lines}-----END ${label}-----\n`
}
