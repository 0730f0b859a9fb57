// Peak resident kilobytes of a session over six runs: node peak.cjs ours|theirs MODEL DIMS. Ours: also minor faults a run, and bytes it answers.
const fs = require('node:fs')
const [side, file, shape] = process.argv.slice(2)
const dims = shape.split('x').map(Number)
const size = dims.reduce((a, b) => a * b, 1)
const data = Float32Array.from({ length: size }, (_, i) => Math.sin(i))
const peak = () => Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1])
const faults = () => Number(fs.readFileSync('/proc/self/stat', 'utf8').split(') ')[1].split(' ')[7])

async function ours() {
  const { Session } = require('../../dist')
  const session = await Session.create(file, { threads: 1 })
  const x = { type: 'float32', dims, data }
  const feeds = { [session.inputs[0].name]: x }
  let bytes = 0
  for (let i = 0; i < 3; i++)
    for (const t of Object.values(await session.run(feeds))) bytes = i === 0 ? bytes + t.data.byteLength : bytes
  const before = faults()
  for (let i = 0; i < 3; i++) session.runSync(feeds)
  return { faults: (faults() - before) / 3, outputs: bytes }
}

async function theirs() {
  const ort = require('onnxruntime-node')
  const session = await ort.InferenceSession.create(file, { intraOpNumThreads: 1, logSeverityLevel: 3 })
  const feeds = { [session.inputNames[0]]: new ort.Tensor('float32', data, dims) }
  for (let i = 0; i < 6; i++) await session.run(feeds)
}

void (side === 'ours' ? ours() : theirs()).then((more) => {
  fs.writeSync(1, JSON.stringify({ peak: peak(), ...more }))
  process.exit(0)
})
