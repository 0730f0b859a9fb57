#!/usr/bin/env node
'use strict'
// Makes a large model for measurements: equally large random square matrices in external data.
//   node scripts/make-large-model.cjs out.onnx [tensors = 48] [size = 3952] [kind = chain]
// chain: one MatMul after the other. blocks: the same with residual blocks of two between the first and the last, each
// LayerNormalization, MatMul, Add, Mul, Relu, MatMul, Add.
// 48 matrices of 3952 make 3 GB; the same arguments make the same bytes. Writes out.onnx and out.onnx.data.
const fs = require('node:fs')
const path = require('node:path')

const [target, tensors = '48', size = '3952', kind = 'chain'] = process.argv.slice(2)
const count = Number(tensors)
const n = Number(size)
const blocks = kind === 'blocks'
if (!target || !Number.isInteger(count) || count < 1 || !Number.isInteger(n) || n < 1 || (kind !== 'chain' && !(blocks && count % 2 === 0))) {
  console.error('usage: make-large-model.cjs out.onnx [tensors = 48] [size = 3952] [chain|blocks]')
  process.exit(2)
}

const varint = (value) => {
  const out = []
  for (; value >= 128; value = Math.floor(value / 128)) out.push((value % 128) | 128)
  return Buffer.from([...out, value])
}
const int = (no, value) => Buffer.concat([varint(no * 8), varint(value)])
const bytes = (no, ...parts) => {
  const body = Buffer.concat(parts.map((p) => Buffer.from(p)))
  return Buffer.concat([varint(no * 8 + 2), varint(body.length), body])
}
const value = (name) => [bytes(1, name), bytes(2, bytes(1, int(1, 1), bytes(2, bytes(1, bytes(2, 'batch')), bytes(1, int(1, n)))))]
const entry = (key, text) => bytes(13, bytes(1, key), bytes(2, String(text)))

const stride = Math.ceil((n * n * 4) / 4096) * 4096
const data = path.basename(target) + '.data'
const graph = []
const node = (op, inputs, output) => graph.push(bytes(1, ...inputs.map((i) => bytes(1, i)), bytes(2, output), bytes(3, `${op.toLowerCase()}_${output}`), bytes(4, op)))
let last = 'x0'
for (let i = 0; i < count; i++) {
  const to = `x${i + 1}`
  const outer = !blocks || i === 0 || i === count - 1
  if (outer && blocks && i > 0) node('LayerNormalization', [last, `scale${i}`, `shift${i}`], (last = `n${i}`))
  if (outer) node('MatMul', [last, `w${i}`], (last = to))
  else if (i % 2 === 1) {
    node('LayerNormalization', [last, `scale${i}`, `shift${i}`], `n${i}`)
    node('MatMul', [`n${i}`, `w${i}`], `m${i}`)
    node('Add', [`m${i}`, `bias${i}`], `a${i}`)
    node('Mul', [`a${i}`, `gain${i}`], `s${i}`)
    node('Relu', [`s${i}`], to)
  } else {
    node('MatMul', [`x${i}`, `w${i}`], `m${i}`)
    node('Add', [last, `m${i}`], (last = to))
  }
}
graph.push(bytes(2, 'large'))
for (let i = 0; i < count; i++) {
  const where = [entry('location', data), entry('offset', i * stride), entry('length', n * n * 4), int(14, 1)]
  graph.push(bytes(5, int(1, n), int(1, n), int(2, 1), bytes(8, `w${i}`), ...where))
}
const vector = (name, from) =>
  graph.push(bytes(5, int(1, n), int(2, 1), bytes(8, name), bytes(9, new Uint8Array(Float32Array.from({ length: n }, (_, i) => from + (i % 7) / 50).buffer))))
for (let i = 1; blocks && i < count; i += 2) {
  vector(`scale${i}`, 1)
  vector(`shift${i}`, -0.1)
  if (i === count - 1) break
  vector(`bias${i}`, -0.1)
  vector(`gain${i}`, 1)
}
graph.push(bytes(11, ...value('x0')), bytes(12, ...value(`x${count}`)))
fs.writeFileSync(target, Buffer.concat([int(1, 8), bytes(7, ...graph), bytes(8, bytes(1, ''), int(2, blocks ? 17 : 13))]))

// Uniform in +-sqrt(3/n), so that the chain neither grows nor fades.
const block = new Float32Array(1 << 20)
const scale = Math.sqrt(3 / n) / 2 ** 31
let state = 1
const fd = fs.openSync(path.join(path.dirname(target), data), 'w')
for (let i = 0; i < count; i++)
  for (let done = 0; done < n * n; done += block.length) {
    const part = Math.min(block.length, n * n - done)
    for (let j = 0; j < part; j++) {
      state ^= state << 13
      state ^= state >>> 17
      state ^= state << 5
      block[j] = state * scale
    }
    fs.writeSync(fd, new Uint8Array(block.buffer, 0, part * 4), 0, part * 4, i * stride + done * 4)
  }
fs.closeSync(fd)
