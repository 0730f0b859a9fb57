'use strict'
// Child of the memory test: loads argv[2], changes it, saves it to argv[3], and prints what it took.
require('./register.cjs')
const { Model } = require('../../lib/model')

const [, , source, target, mode] = process.argv
const run = async () => {
  const started = performance.now()
  const probe = await Model.load(source)
  probe.summary()
  const inspectMs = performance.now() - started
  global.gc?.()
  const start = process.memoryUsage.rss()
  let peak = start
  const look = () => (peak = Math.max(peak, process.memoryUsage.rss()))
  const model = await Model.load(source)
  model.graph.name = 'changed'
  if (mode === 'read')
    for (const t of model.initializers.values()) {
      await t.read()
      look()
    }
  const { bytes, files } = await model.save(target, { onProgress: look })
  look()
  console.log(JSON.stringify({ start, peak, bytes, files: files.length, inspectMs }))
}
void run()
