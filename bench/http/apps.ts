/** Applications that are measured: the same on node:http and on shardloop. */
import { createServer, type RequestListener, type Server } from 'node:http'

/** What a server runs. */
export const APPS = ['hello', 'large', 'upload', 'express', 'fastify'] as const
/** See {@link APPS}. */
export type App = (typeof APPS)[number]

const HELLO = 'Hello, World!'
/** Bytes of a large response, and of an upload. */
export const LARGE_BYTES = 65_536

/** What `http.createServer` takes, or the server that a framework has made. */
export async function sourceOf(app: App): Promise<RequestListener | Server> {
  switch (app) {
    case 'hello':
      return (_request, response) => {
        response.setHeader('Content-Type', 'text/plain')
        response.end(HELLO)
      }
    case 'large': {
      const body = Buffer.alloc(LARGE_BYTES, 'x')
      return (_request, response) => {
        response.setHeader('Content-Type', 'application/octet-stream')
        response.setHeader('Content-Length', LARGE_BYTES)
        response.end(body)
      }
    }
    case 'upload':
      return (request, response) => {
        let bytes = 0
        request.on('data', (chunk: Buffer) => {
          bytes += chunk.length
        })
        request.on('end', () => response.end(String(bytes)))
      }
    case 'express': {
      const { default: express } = await import('express')
      const application = express()
      application.get('/', (_request, response) => {
        response.send(HELLO)
      })
      return application
    }
    case 'fastify':
      return await fastifyServer()
  }
}

async function fastifyServer(): Promise<Server> {
  const { default: fastify } = await import('fastify')
  let server: Server | undefined
  const application = fastify({
    serverFactory: (handler) => {
      server = createServer(handler)
      return server
    },
  })
  application.get('/', async () => ({ hello: 'world' }))
  await application.ready()
  if (server === undefined) throw new Error('Fastify has asked for no server')
  return server
}
