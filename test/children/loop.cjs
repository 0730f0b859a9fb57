'use strict'
// UV_THREADPOOL_SIZE=1 node loop.cjs DIST: 32 asynchronous products at once, while the file system, the resolver, a timer
// and a hash on libuv's threads are asked for an answer. On libuv's one thread the products would all come first.
const fs = require('node:fs/promises')
const dns = require('node:dns/promises')
const crypto = require('node:crypto')
const { promisify } = require('node:util')
const w = require(process.argv[2])

const n = 1024
const a = new Float32Array(n * n).map((_, i) => Math.sin(i))
const tensor = { type: 'float32', dims: [n, n], data: a }

async function main() {
  const jobs = 32
  const want = w.gemm(tensor, tensor).data
  let done = 0
  let right = 0
  let turns = 0
  let running = true
  const spin = () => {
    turns++
    if (running) setImmediate(spin)
  }
  setImmediate(spin)
  const work = Array.from({ length: jobs }, async () => {
    const { data } = await w.gemmAsync(tensor, tensor)
    done++
    let equal = data.length === want.length
    for (let i = 0; i < n * n; i += 997) equal &&= data[i] === want[i] // a whole look would hold the event loop itself
    if (equal) right++
  })
  await Promise.all([
    fs.readFile(__filename),
    dns.lookup('localhost'),
    new Promise((resolve) => setTimeout(resolve, 1)),
    promisify(crypto.pbkdf2)('a', 'b', 100, 32, 'sha256'),
  ])
  const doneBefore = done
  await Promise.all(work)
  running = false
  console.log(JSON.stringify({ turns, doneBefore, jobs, right }))
}

main()
