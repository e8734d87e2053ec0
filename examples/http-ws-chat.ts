// A chat in the browser, by ws: one room for all, on whatever shard they are.
// Run: npm run -s example -- http-ws-chat --port 8080, and open http://127.0.0.1:8080/ in two windows
// What somebody says goes to every shard by one call, and each shard sends it to the WebSockets that it has.
import { createServer as createHttpServer } from 'node:http'
import { createServer, getLoop, isSupervisor, nodeHttp, shardId } from 'shardloop'
import { WebSocket, WebSocketServer } from 'ws'
import { failure, listening, serverFlags } from './lib/program.js'

/** Longest message, in bytes; ws closes the connection of whoever sends a longer one. */
const MESSAGE_MAX_BYTES = 1024
/** Bytes that may wait for somebody who reads too slowly. Whoever has more waiting is dropped. */
const UNREAD_MAX_BYTES = 64 * 1024

const PAGE = `<!doctype html>
<meta charset="utf-8">
<title>shardloop chat</title>
<p id="where">connecting …</p>
<form id="form"><input id="text" maxlength="300" autofocus autocomplete="off"> <button>say</button></form>
<ul id="said"></ul>
<script>
  const [where, form, text, said] = ['where', 'form', 'text', 'said'].map((id) => document.getElementById(id))
  const socket = new WebSocket(location.origin.replace('http', 'ws') + '/chat')
  socket.onclose = () => { where.textContent = 'disconnected' }
  socket.onmessage = ({ data }) => {
    const { shard, line } = JSON.parse(data)
    if (shard !== undefined) where.textContent = 'connected to shard ' + shard
    else said.append(Object.assign(document.createElement('li'), { textContent: line }))
  }
  form.onsubmit = (event) => {
    event.preventDefault()
    socket.send(text.value)
    text.value = ''
  }
</script>
`

const loop = getLoop()
const http = createHttpServer((_request, response) => {
  response.setHeader('Content-Type', 'text/html')
  response.end(PAGE)
})
const room = new WebSocketServer({ server: http, path: '/chat', maxPayload: MESSAGE_MAX_BYTES })

room.on('connection', (socket) => {
  socket.send(JSON.stringify({ shard: shardId }))
  socket.on('message', (data) => loop.callSoonThreadsafe('all', 'say', data.toString()))
  socket.on('error', () => {}) // 'close' follows
})

/** In each shard: to all who are connected to it. */
loop.expose('say', (line: string) => {
  const message = JSON.stringify({ line })
  for (const socket of room.clients) {
    if (socket.bufferedAmount > UNREAD_MAX_BYTES) socket.terminate()
    else if (socket.readyState === WebSocket.OPEN) socket.send(message)
  }
})

const options = serverFlags(8080)

async function main(): Promise<void> {
  const server = await createServer(nodeHttp(http), options)
  if (isSupervisor) console.log(`chat on ${listening(server, options)}`)
}

main().catch(failure('http-ws-chat'))
