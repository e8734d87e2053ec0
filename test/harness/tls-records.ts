/** TLS as bytes: records that no library would send. */
import { randomBytes } from 'node:crypto'

export const CONTENT = { alert: 21, handshake: 22, data: 23, heartbeat: 24 } as const

/** A record that says whatever it is given to say. */
export function record(type: number, content: Uint8Array, length: number = content.length): Buffer {
  const header = Buffer.of(type, 3, 3, 0, 0)
  header.writeUInt16BE(length & 0xffff, 3)
  return Buffer.concat([header, content])
}

/** @param length what it claims to be long, if not the truth */
export function handshake(type: number, body: Uint8Array, length: number = body.length): Buffer {
  const header = Buffer.alloc(4)
  header.writeUInt32BE(length)
  header[0] = type
  return Buffer.concat([header, body])
}

function extension(type: number, content: Uint8Array): Buffer {
  const header = Buffer.alloc(4)
  header.writeUInt16BE(type)
  header.writeUInt16BE(content.length, 2)
  return Buffer.concat([header, content])
}

/** The first flight of a client of TLS 1.3 that would do P-256 and AES-128-GCM, whose key share is nonsense. */
export function clientHello(extensions: readonly Buffer[] = helloExtensions()): Buffer {
  const all = Buffer.concat(extensions)
  const length = Buffer.alloc(2)
  length.writeUInt16BE(all.length)
  const body = Buffer.concat([
    Buffer.of(3, 3),
    randomBytes(32),
    Buffer.of(32),
    randomBytes(32),
    Buffer.of(0, 2, 0x13, 0x01),
    Buffer.of(1, 0),
    length,
    all,
  ])
  return record(CONTENT.handshake, handshake(1, body))
}

export function helloExtensions(): Buffer[] {
  return [
    extension(43, Buffer.of(2, 3, 4)),
    extension(10, Buffer.of(0, 2, 0, 0x1d)),
    extension(13, Buffer.of(0, 2, 4, 3)),
    extension(51, Buffer.concat([Buffer.of(0, 36, 0, 0x1d, 0, 32), randomBytes(32)])),
  ]
}

/** A fatal alert, not encrypted. */
export function alert(description: number): Buffer {
  return record(CONTENT.alert, Buffer.of(2, description))
}
