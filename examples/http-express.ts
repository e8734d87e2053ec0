// An Express application as it is, on all cores. Run: npm run -s example -- http-express --port 8080
// then: curl http://127.0.0.1:8080/hello/ada
//       curl http://127.0.0.1:8080/sum -H 'Content-Type: application/json' -d '[1, 2, 3]'
import express from 'express'
import { createServer, isSupervisor, nodeHttp, shardId } from 'shardloop'
import { failure, listening, serverFlags } from './lib/program.js'

const app = express()
app.use(express.json())
app.get('/hello/:name', (request, response) => {
  response.json({ hello: request.params.name, shard: shardId })
})
app.post('/sum', (request, response) => {
  const numbers: unknown = request.body
  if (!Array.isArray(numbers)) return void response.status(400).json({ error: 'an array of numbers, please' })
  response.json({ sum: numbers.reduce((sum, number) => sum + Number(number), 0) })
})

const options = serverFlags(8080)

async function main(): Promise<void> {
  const server = await createServer(nodeHttp(app), options)
  if (isSupervisor) console.log(`Express on ${listening(server, options)}`)
}

main().catch(failure('http-express'))
