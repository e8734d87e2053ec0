import { assertBytes, type Client } from './client.js'
import type { Random } from './random.js'

/**
 * Sends `data` through an echo in pieces of 1 to `pieceMax` bytes, and compares what comes back while it
 * comes, so that any amount passes with the memory of one piece.
 */
export async function echoThrough(
  client: Client,
  data: Buffer,
  random: Random,
  pieceMax: number,
): Promise<void> {
  await Promise.all([send(client, data, random, pieceMax), receive(client, data)])
}

/** Reads `data` and compares it while it comes. */
async function receive(client: Client, data: Buffer): Promise<void> {
  for (let offset = 0; offset < data.length; ) {
    const length = Math.min(data.length - offset, 256 * 1024)
    assertBytes(
      await client.readExactly(length),
      data.subarray(offset, offset + length),
      `echo from byte ${offset} on`,
    )
    offset += length
  }
}

/** Sends `data` in pieces of 1 to `pieceMax` bytes, waiting whenever the kernel takes no more. */
export async function send(client: Client, data: Buffer, random: Random, pieceMax: number): Promise<void> {
  for (const piece of random.pieces(data, Math.max(1, pieceMax >> 10), pieceMax)) {
    if (!client.socket.write(piece)) await drained(client)
  }
}

function drained(client: Client): Promise<void> {
  return new Promise((resolve, reject) => {
    const settle = (): void => {
      client.socket.off('drain', settle)
      client.socket.off('close', settle)
      if (client.closed || client.socket.destroyed) reject(client.error ?? new Error('closed while sending'))
      else resolve()
    }
    client.socket.once('drain', settle)
    client.socket.once('close', settle)
  })
}
