'use strict'
// Prints how much memory a weight-only model takes: 4-bit codes, of a matrix of 2048 x 8192.
const crypto = require('node:crypto')
const { Graph, Initializer, Model, Node, Session, ValueInfo, attribute } = require('../../dist')

const [k, n, block] = [2048, 8192, 32]
const graph = new Graph('g')
graph.inputs = [new ValueInfo('x', 'float32', [2, k])]
graph.outputs = [new ValueInfo('y', 'float32', null)]
const codes = crypto.randomFillSync(new Uint8Array((k * n) / 2))
const scales = new Float32Array((k / block) * n).fill(0.01)
graph.addInitializer(Initializer.from('q', { type: 'int4', dims: [k, n], data: codes }))
graph.addInitializer(Initializer.from('s', { type: 'float32', dims: [k / block, n], data: scales }))
graph.addNode(new Node({ opType: 'DequantizeLinear', inputs: ['q', 's'], outputs: ['w'], attributes: { axis: attribute.int(0), block_size: attribute.int(block) } }))
graph.addNode(new Node({ opType: 'MatMul', inputs: ['x', 'w'], outputs: ['y'] }))
const model = new Model({ graph, opsets: [['', 21]], irVersion: 10 })

async function main() {
  globalThis.gc()
  const peak = () => process.resourceUsage().maxRSS * 1024
  const before = peak()
  const session = await Session.create(model)
  const created = peak() - before
  await session.run({ x: { type: 'float32', dims: [2, k], data: new Float32Array(2 * k).fill(0.5) } })
  const ran = peak() - before
  const { weightBytes } = session.plan({ x: [2, k] })
  console.log(JSON.stringify({ codeBytes: codes.byteLength + scales.byteLength, floatBytes: 4 * k * n, weightBytes, created, ran }))
}
main()
