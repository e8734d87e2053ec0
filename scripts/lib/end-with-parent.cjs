// @ts-check
// Preloaded into a server that a script runs. Descriptor 3 is a pipe to the script and ends when the script does, even
// by SIGKILL; the server then stops as if asked to.
'use strict'
const { isMainThread } = require('node:worker_threads')

// Workers inherit preloaded modules; one watcher per process is enough.
if (isMainThread) {
  const { Socket } = require('node:net')
  const parent = new Socket({ fd: 3, readable: true, writable: false })
  const stop = () => process.kill(process.pid, 'SIGTERM')
  parent.on('end', stop)
  parent.on('error', stop)
  parent.resume()
  parent.unref()
}
