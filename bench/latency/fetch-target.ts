/** What the fetch probe asks: node:http in a process of its own, so that only the asking side is under load. */
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

const server = createServer((_request, response) => {
  response.setHeader('content-type', 'text/plain')
  response.end('ok\n')
})
server.listen(0, '127.0.0.1', () => {
  console.log(`listening on tcp://127.0.0.1:${(server.address() as AddressInfo).port} (fetch target)`)
})
