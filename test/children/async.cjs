'use strict'
// node --expose-gc async.cjs DIST: transfers, resizes and collects every input and `out` of every asynchronous call while
// it is in flight, and prints one line a case: its name and what came of it. Runs alone, since a mistake here crashes.
const w = require(process.argv[2])

const kSmall = 5_000 // floats: copied
const kLarge = 200_000 // floats: read in place
const sleep = (ms) => new Promise((done) => setTimeout(done, ms))

function floats(buffer, n, salt) {
  const x = new Float32Array(buffer, 0, n)
  for (let i = 0; i < n; i++) x[i] = Math.sin(i * 12.9898 + salt) * 3 + 0.01
  return x
}

const memory = {
  plain: (bytes) => new ArrayBuffer(bytes),
  resizable: (bytes) => new ArrayBuffer(bytes, { maxByteLength: bytes + 64 }),
  shared: (bytes) => new SharedArrayBuffer(bytes),
}

const side = (n) => Math.floor(Math.sqrt(n))
const square = (x) => ({
  type: 'float32',
  dims: [side(x.length), side(x.length)],
  data: x.subarray(0, side(x.length) ** 2),
})

// call(x, out): the asynchronous call over `x`; sync: the same without the twist; out: bytes of `out`, its class.
const calls = {
  gemm: {
    async: (x, out) => w.gemmAsync(square(x), square(x), { out }),
    sync: (x) => w.gemm(square(x), square(x)),
    out: (n) => [Float32Array, side(n) ** 2],
    size: (n) => Math.min(n, 90_000),
  },
  quantize: {
    async: (x, out) => w.quantizeAsync(x, { out }),
    sync: (x) => w.quantize(x),
    out: (n) => [Int8Array, n],
    size: (n) => n * 4,
  },
  dequantize: {
    async: (x, out) =>
      w.dequantizeAsync({ type: 'int8', dims: [x.length], data: bytesOf(x), scale: 0.5, zeroPoint: 0 }, { out }),
    sync: (x) => w.dequantize({ type: 'int8', dims: [x.length], data: bytesOf(x), scale: 0.5, zeroPoint: 0 }),
    out: (n) => [Float32Array, n],
    size: (n) => n * 2,
  },
  importance: {
    async: (x, out) => w.importanceAsync(x, { out }),
    sync: (x) => w.importance(x),
    out: (n) => [Float32Array, n],
  },
  mask: {
    async: (x, out) => w.maskAsync(x, { sparsity: 0.5, out }),
    sync: (x) => w.mask(x, { sparsity: 0.5 }),
    out: (n) => [Uint8Array, n],
    size: (n) => n * 2,
  },
  applyMask: {
    async: (x, out) => w.applyMaskAsync(x, maskOf(x.length), { out }),
    sync: (x) => w.applyMask(x, maskOf(x.length)),
    out: (n) => [Float32Array, n],
  },
  kthLargest: { async: (x) => w.kthLargestAsync(x, 100), sync: (x) => w.kthLargest(x, 100) },
}

// Small enough to be quick, and twice: copied inputs and inputs read in place.
const thin = (x) => ({ type: 'float32', dims: [x.length / 20, 20], data: x })
calls.svd = { async: (x) => w.svdAsync(thin(x)), sync: (x) => w.svd(thin(x)) }
calls.lowRank = { async: (x) => w.lowRankAsync(thin(x), { rank: 3 }), sync: (x) => w.lowRank(thin(x), { rank: 3 }) }

// Calls of two matrices that share one native path for the memory of their inputs; none has an `out`.
for (const name of ['kl', 'js', 'feature'])
  if (w.distill?.[`${name}Async`])
    calls[`distill.${name}`] = {
      async: (x) => w.distill[`${name}Async`](rows(x), teacher(x.length)),
      sync: (x) => w.distill[name](rows(x), teacher(x.length)),
    }
if (w.distill?.linearKlAsync)
  calls['distill.linearKl'] = {
    async: (x) => w.distill.linearKlAsync({ hidden: rows(x), weight: head() }, { logits: logits(x) }),
    sync: (x) => w.distill.linearKl({ hidden: rows(x), weight: head() }, { logits: logits(x) }),
  }
if (w.crossEntropyAsync)
  calls.crossEntropy = {
    async: (x) => w.crossEntropyAsync(rows(x), new Int32Array(x.length / 50)),
    sync: (x) => w.crossEntropy(rows(x), new Int32Array(x.length / 50)),
  }
if (w.fakeQuantizeAsync)
  calls.fakeQuantize = { async: (x) => w.fakeQuantizeAsync(x), sync: (x) => w.fakeQuantize(x) }
const int8 = (x) => ({ type: 'int8', dims: [side(x.length), side(x.length)], data: bytesOf(x).subarray(0, side(x.length) ** 2) })
if (w.gemmInt8Async)
  calls.gemmInt8 = {
    async: (x, out) => w.gemmInt8Async(int8(x), int8(x), { out }),
    sync: (x) => w.gemmInt8(int8(x), int8(x)),
    out: (n) => [Int32Array, side(n) ** 2],
    size: (n) => n * 2,
  }
if (w.packInt8Async) {
  const product = (x, packed) => w.gemmInt8(int8(x.slice().fill(3)), packed)
  calls.packInt8 = {
    async: async (x) => product(floats(new ArrayBuffer(x.byteLength), x.length, 1), await w.packInt8Async(int8(x))),
    sync: (x) => product(floats(new ArrayBuffer(x.byteLength), x.length, 1), w.packInt8(int8(x))),
    size: (n) => n * 2,
  }
}
if (w.spmmAsync) {
  const product = (x, sparse) => w.spmm(sparse, square(x))
  calls.sparsify = {
    async: async (x) => product(floats(new ArrayBuffer(x.byteLength), x.length, 1), await w.sparsifyAsync(square(x))),
    sync: (x) => product(floats(new ArrayBuffer(x.byteLength), x.length, 1), w.sparsify(square(x))),
    size: (n) => Math.min(n, 90_000),
  }
  const weights = (n) => w.sparsify(square(floats(new ArrayBuffer(n * 4), n, 2)), { format: 'csr' })
  calls.spmm = {
    async: (x, out) => w.spmmAsync(weights(x.length), square(x), { out }),
    sync: (x) => w.spmm(weights(x.length), square(x)),
    out: (n) => [Float32Array, side(n) ** 2],
    size: (n) => Math.min(n, 90_000),
  }
}

const bytes = (x) => new Uint8Array(x.buffer, x.byteOffset, x.length)
const levels = Float32Array.from({ length: 256 }, (_, i) => i / 40 - 3.2)
if (w.kmeansAsync) {
  const o = { clusters: 16, iterations: 5 }
  calls.kmeans = {
    async: (x, out) => w.kmeansAsync(x, { ...o, out }),
    sync: (x) => w.kmeans(x, o),
    out: (n) => [Uint8Array, n],
    size: (n) => n * 2,
  }
  calls.codebookEncode = {
    async: (x, out) => w.codebookEncodeAsync(x, levels, { out }),
    sync: (x) => w.codebookEncode(x, levels),
    out: (n) => [Uint8Array, n],
    size: (n) => n * 2,
  }
  calls.codebookDecode = {
    async: (x, out) => w.codebookDecodeAsync(bytes(x), levels, { out }),
    sync: (x) => w.codebookDecode(bytes(x), levels),
    out: (n) => [Float32Array, n],
    size: (n) => n * 2,
  }
  calls.codebookGradient = {
    async: (x) => w.codebookGradientAsync(x, new Uint8Array(x.length).fill(3), 5),
    sync: (x) => w.codebookGradient(x, new Uint8Array(x.length).fill(3), 5),
  }
}

function row(x) {
  return floats(new ArrayBuffer(side(x.length) * 4), side(x.length), 3)
}
if (w.gemmInt4Async) {
  calls.gemmInt4 = {
    async: (x, out) => w.gemmInt4Async(square(x), w.packInt4(square(x)), { out }),
    sync: (x) => w.gemmInt4(square(x), w.packInt4(square(x))),
    out: (n) => [Float32Array, side(n) ** 2],
    size: (n) => Math.min(n, 90_000),
  }
  calls.packInt4 = {
    async: async (x) => w.gemmInt4(row(x), await w.packInt4Async(square(x))),
    sync: (x) => w.gemmInt4(row(x), w.packInt4(square(x))),
  }
  calls.packFloat32 = {
    async: async (x) => w.gemm(row(x), await w.packFloat32Async(square(x))),
    sync: (x) => w.gemm(row(x), w.packFloat32(square(x))),
  }
  calls.gemmBinary = {
    async: (x, out) => w.gemmBinaryAsync(square(x), w.packBinary(square(x)), { inputScale: 'mean', out }),
    sync: (x) => w.gemmBinary(square(x), w.packBinary(square(x)), { inputScale: 'mean' }),
    out: (n) => [Float32Array, side(n) ** 2],
    size: (n) => Math.min(n, 90_000),
  }
  calls.packBinary = {
    async: async (x) => w.gemmBinary(row(x), await w.packBinaryAsync(square(x))),
    sync: (x) => w.gemmBinary(row(x), w.packBinary(square(x))),
  }
  calls.packBfloat16 = {
    async: async (x) => w.gemm(row(x), await w.packBfloat16Async(square(x))),
    sync: (x) => w.gemm(row(x), w.packBfloat16(square(x))),
  }
}

// Factorizations write memory of their own; matrices of the same few rows keep them short.
const matrix = (x) => ({ type: 'float32', dims: [50, x.length / 50], data: x })
const kernel = (x) => ({ type: 'float32', dims: [5, 2, 5, x.length / 50], data: x })
const factorizations = {
  nmf: [matrix, { rank: 2, iterations: 3 }, (r) => r.h.data],
  cp: [kernel, { rank: 2, iterations: 2 }, (r) => r.factors[3].data],
  tucker: [kernel, { ranks: [2, 2], modes: [0, 1], iterations: 2 }, (r) => r.core.data],
  separable: [kernel, { rank: 2 }, (r) => r.horizontal.data],
}
for (const [name, [shape, o, pick]] of Object.entries(factorizations))
  if (w[`${name}Async`])
    calls[name] = {
      async: async (x) => ({ data: pick(await w[`${name}Async`](shape(positive(name, x)), o)) }),
      sync: (x) => ({ data: pick(w[name](shape(positive(name, x)), o)) }),
    }

function positive(name, x) {
  if (name === 'nmf') for (let i = 0; i < x.length; i++) x[i] = Math.abs(x[i])
  return x
}

function rows(x) {
  return { type: 'float32', dims: [x.length / 50, 50], data: x }
}

function head() {
  return { type: 'float32', dims: [20, 50], data: floats(new ArrayBuffer(4000), 1000, 7) }
}

function logits(x) {
  return { type: 'float32', dims: [x.length / 50, 20], data: floats(new ArrayBuffer((x.length / 50) * 80), (x.length / 50) * 20, 3) }
}

function teacher(n) {
  return rows(floats(new ArrayBuffer(n * 4), n, 5))
}

function missing(keys) {
  throw new Error(`nothing to compare in { ${keys.join(', ')} }`)
}

function bytesOf(x) {
  return new Int8Array(x.buffer, x.byteOffset, x.length)
}

function maskOf(n) {
  return new Uint8Array(n).map((_, i) => i & 1)
}

const data = (r) =>
  typeof r === 'number' ? [r] : (r.data ?? r.indices?.data ?? r.grad?.data ?? r.grads?.[0]?.data ?? r.y?.data ?? r.u?.data ?? r.a?.data ?? missing(Object.keys(r)))
const same = (a, b) => data(a).length === data(b).length && data(a).every((v, i) => Object.is(v, data(b)[i]))

// What JavaScript does to a buffer while the call is in flight; answers what it achieved.
const twists = {
  transfer(buffer) {
    try {
      structuredClone(buffer, { transfer: [buffer] })
    } catch {
      // Node 21 and newer refuse what is marked untransferable; Node 20 copies it.
    }
    return buffer.byteLength === 0 ? 'gone' : 'kept'
  },
  // Node 22 has a second way, which knows no mark.
  transferMethod(buffer) {
    try {
      buffer.transfer(0)
    } catch {
      // refused
    }
    return buffer.byteLength === 0 ? 'gone' : 'kept'
  },
  shrink(buffer) {
    buffer.resize(0)
    return 'gone'
  },
}

async function one(name, call, kind, size, target, twist) {
  const n = call.size ? call.size(size) : size
  const what = `${name} ${target} ${kind} ${size === kSmall ? 'small' : 'large'} ${twist}`
  let x = floats(memory[target === 'in' ? kind : 'plain'](n * 4), n, n)
  const want = call.sync(x.slice())
  let out
  if (target === 'out') {
    const [type, length] = call.out(n)
    out = new type(memory[kind](length * type.BYTES_PER_ELEMENT), 0, length)
  }
  const pending = call.async(x, out)
  const buffer = target === 'in' ? x.buffer : out.buffer
  let state
  if (twist === 'collect') {
    x = out = undefined
    global.gc()
    // Memory that was freed is handed out again and overwritten.
    for (let i = 0; i < 8; i++) new Float32Array(n).fill(7)
    global.gc()
    state = 'kept'
  } else state = twists[twist](buffer)
  let result
  try {
    result = same(await pending, want) ? 'right' : 'WRONG'
  } catch (e) {
    result = e.code ?? String(e)
  }
  console.log(`${what}: ${state} ${result}`)
}

function twistsOf(kind) {
  if (kind === 'shared') return ['collect']
  const ways = ArrayBuffer.prototype.transfer ? ['transfer', 'transferMethod', 'collect'] : ['transfer', 'collect']
  return kind === 'resizable' ? ['shrink', ...ways] : ways
}

async function main() {
  for (const [name, call] of Object.entries(calls)) {
    for (const target of call.out ? ['in', 'out'] : ['in'])
      for (const kind of ['plain', 'resizable', 'shared'])
        for (const size of [kSmall, kLarge])
          for (const twist of twistsOf(kind)) await one(name, call, kind, size, target, twist)
  }
  await sleep(20)
  console.log(
    `calls: ${Object.keys(w)
      .filter((k) => k.endsWith('Async'))
      .map((k) => k.slice(0, -5))
      .sort()
      .join(' ')}`,
  )
  console.log('alive')
}

main().catch((e) => {
  console.log(`failed: ${e.stack}`)
  process.exitCode = 1
})
