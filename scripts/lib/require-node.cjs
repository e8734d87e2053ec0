// Preloaded (`node -r`) by every npm script, before any module with modern syntax is parsed: a Node.js that is too
// old then says so in one line instead of failing with a SyntaxError. Keep this file readable for Node.js 4.
'use strict'

var wanted = /(\d+)\.(\d+)/.exec(require('../../package.json').engines.node)
var found = process.versions.node.split('.')
var major = Number(found[0]) - Number(wanted[1])
if (major < 0 || (major === 0 && Number(found[1]) < Number(wanted[2]))) {
  console.error(
    'shardloop needs Node.js ' +
      wanted[0] +
      ' or newer (found ' +
      process.versions.node +
      '): install it from https://nodejs.org'
  )
  process.exit(1)
}
