#!/usr/bin/env node
'use strict'
// Makes a large model for measurements: a chain of MatMul over equally large random weights, in external data.
//   node scripts/make-large-model.cjs out.onnx [tensors = 48] [size = 3952]
// 48 square matrices of 3952 make 3 GB; the same arguments make the same bytes. Writes out.onnx and out.onnx.data.
const fs = require('node:fs')
const path = require('node:path')

const [target, tensors = '48', size = '3952'] = process.argv.slice(2)
const count = Number(tensors)
const n = Number(size)
if (!target || !Number.isInteger(count) || count < 1 || !Number.isInteger(n) || n < 1) {
  console.error('usage: make-large-model.cjs out.onnx [tensors = 48] [size = 3952]')
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
for (let i = 0; i < count; i++) {
  graph.push(bytes(1, bytes(1, `x${i}`), bytes(1, `w${i}`), bytes(2, `x${i + 1}`), bytes(3, `matmul${i}`), bytes(4, 'MatMul')))
}
graph.push(bytes(2, 'large'))
for (let i = 0; i < count; i++) {
  const where = [entry('location', data), entry('offset', i * stride), entry('length', n * n * 4), int(14, 1)]
  graph.push(bytes(5, int(1, n), int(1, n), int(2, 1), bytes(8, `w${i}`), ...where))
}
graph.push(bytes(11, ...value('x0')), bytes(12, ...value(`x${count}`)))
fs.writeFileSync(target, Buffer.concat([int(1, 8), bytes(7, ...graph), bytes(8, bytes(1, ''), int(2, 13))]))

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
