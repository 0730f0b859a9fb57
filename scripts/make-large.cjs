'use strict'
// node scripts/make-large.cjs <folder> [--tensors 48] [--side 4096]: writes large.onnx with external
// data, so many MatMul weights of side × side random values (48 of 4096² are 3.2 GB), one after another. For measuring
// memory and time of inspect and compress on a model that does not fit in memory comfortably.
const fs = require('node:fs')
const path = require('node:path')
const { parseArgs } = require('node:util')

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { tensors: { type: 'string', default: '48' }, side: { type: 'string', default: '4096' } },
})
const folder = positionals[0]
if (!folder) {
  console.error('usage: node scripts/make-large.cjs <folder> [--tensors n] [--side n]')
  process.exit(2)
}
const tensors = Number(values.tensors)
const side = Number(values.side)

// The few protobuf records that a model needs, by hand: the script must not lean on the code that it measures.
function varint(n) {
  const out = []
  for (; n >= 128; n = Math.floor(n / 128)) out.push((n % 128) | 128)
  return Buffer.from([...out, n])
}
const bytes = (field, data) => {
  const body = Buffer.isBuffer(data) ? data : Buffer.from(data)
  return Buffer.concat([varint(field * 8 + 2), varint(body.length), body])
}
const int = (field, n) => Buffer.concat([varint(field * 8), varint(n)])
const entry = (key, value) => bytes(13, Buffer.concat([bytes(1, key), bytes(2, String(value))]))

const size = side * side * 4
const graph = []
for (let i = 0; i < tensors; i++)
  graph.push(
    bytes(
      1,
      Buffer.concat([
        bytes(1, `h${i}`),
        bytes(1, `w${i}`),
        bytes(2, `h${i + 1}`),
        bytes(3, `matmul${i}`),
        bytes(4, 'MatMul'),
      ]),
    ),
  )
graph.push(bytes(2, 'large'))
for (let i = 0; i < tensors; i++)
  graph.push(
    bytes(
      5,
      Buffer.concat([
        int(1, side),
        int(1, side),
        int(2, 1),
        bytes(8, `w${i}`),
        entry('location', 'large.onnx.data'),
        entry('offset', i * size),
        entry('length', size),
        int(14, 1),
      ]),
    ),
  )
const info = (field, name) => {
  const dims = Buffer.concat([1, side].map((d) => bytes(1, int(1, d))))
  const type = bytes(1, Buffer.concat([int(1, 1), bytes(2, dims)]))
  return bytes(field, Buffer.concat([bytes(1, name), bytes(2, type)]))
}
graph.push(info(11, 'h0'), info(12, `h${tensors}`))
fs.mkdirSync(folder, { recursive: true })
fs.writeFileSync(
  path.join(folder, 'large.onnx'),
  Buffer.concat([int(1, 8), bytes(7, Buffer.concat(graph)), bytes(8, Buffer.concat([bytes(1, ''), int(2, 13)]))]),
)

const fd = fs.openSync(path.join(folder, 'large.onnx.data'), 'w')
const piece = new Float32Array(1 << 20)
let state = 1
for (let left = tensors * size; left > 0; left -= piece.byteLength) {
  for (let i = 0; i < piece.length; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    piece[i] = (state / 2 ** 31 - 1) * 0.05
  }
  fs.writeSync(fd, new Uint8Array(piece.buffer, 0, Math.min(left, piece.byteLength)))
}
fs.closeSync(fd)
