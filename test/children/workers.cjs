'use strict'
// node workers.cjs DIST COUNT: starts COUNT workers, each with asynchronous calls in flight that start new ones when they
// end, and terminates each in mid-call; then computes in the main thread.
const { Worker, isMainThread, parentPort, workerData } = require('node:worker_threads')

const dist = isMainThread ? process.argv[2] : workerData.dist
const w = require(dist)
const n = 256
const x = { type: 'float32', dims: [n, n], data: new Float32Array(n * n).map((_, i) => Math.cos(i)) }

if (!isMainThread) {
  const again = () => w.gemmAsync(x, x).then(again)
  for (let i = 0; i < 3; i++) again()
  const codes = () => w.quantizeAsync(x, { axis: 0 }).then(codes)
  codes()
  parentPort.postMessage('in flight')
  // Half of the workers die inside a synchronous call.
  if (workerData.index % 2)
    setImmediate(() => {
      for (;;) w.gemm(x, x)
    })
} else {
  main()
}

async function life(index) {
  const worker = new Worker(__filename, { workerData: { dist, index } })
  await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
  await new Promise((resolve) => setTimeout(resolve, index % 7))
  await worker.terminate()
}

async function main() {
  const count = Number(process.argv[3])
  const want = w.gemm(x, x).data
  let next = 0
  let ended = 0
  let early = 0
  const lane = async () => {
    while (next < count) {
      await life(next++)
      if (++ended === Math.floor(count / 4)) early = process.memoryUsage().rss
    }
  }
  await Promise.all(Array.from({ length: 4 }, lane))
  const { data } = await w.gemmAsync(x, x)
  const right = data.every((v, i) => v === want[i])
  console.log(JSON.stringify({ ended, right, growth: process.memoryUsage().rss - early }))
}
