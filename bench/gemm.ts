// Products: float32 here. Shapes are M x N x K, B row-major [K, N] or, after nt, [N, K]. torch is MKL, numpy OpenBLAS; both
// write into a given result as we do, onnxruntime makes a new one (it has no other way) and lays constant weights out beforehand: the
// rows marked packed do so too.
import { devices, gemm, gemmAsync, packFloat32, type Activation } from '../lib/index'
import type { Bench } from './harness/bench'
import { close } from './harness/bench'
import type { Case, Prepared, Rival } from './harness/types'

interface Shape {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly transposeB?: boolean
  readonly activation?: Activation
  /** Independent products, as attention heads are. Default 1. */
  readonly batch?: number
  /** B laid out once by packFloat32. */
  readonly packed?: boolean
  /** Through gemmAsync: a promise, off the JavaScript thread. */
  readonly async?: boolean
}

function torchOp(s: Shape): string {
  if (!s.activation) return s.batch ? 'torch.bmm(ta, tb, out=ty)' : 'torch.mm(ta, tb, out=ty)'
  return 'ty = torch.nn.functional.gelu(torch.addmm(tbias, ta, tb))'
}

async function rivals(bench: Bench, s: Shape, a: Float32Array, b: Float32Array, bias: Float32Array): Promise<Rival[]> {
  const { m, n, k } = s
  const lead = s.batch ? [s.batch] : []
  const aDims = [...lead, m, k]
  const yDims = [...lead, m, n]
  const bDims = [...lead, ...(s.transposeB ? [n, k] : [k, n])]
  const inputs = { a: { data: a, dims: aDims }, b: { data: b, dims: bDims }, bias: { data: bias, dims: [n] } }
  const torch = bench.rival('torch', {
    inputs,
    setup: `ta = torch.from_numpy(a)\ntb = torch.from_numpy(b)${s.transposeB ? '.mT' : ''}\ntbias = torch.from_numpy(bias)\nty = torch.empty(${yDims.join(', ')})`,
    op: torchOp(s),
    result: 'ty.numpy()',
  })
  const list = [torch]
  if (!s.activation)
    list.push(bench.rival('numpy', { inputs, setup: `w = b${s.transposeB ? '.swapaxes(-1, -2)' : ''}\ny = np.empty((${yDims.join(', ')}), np.float32)`, op: 'np.matmul(a, w, out=y)', result: 'y' }))
  const value = (dims: number[]) => ({ type: 'float32', dims }) as const
  const gemmNode = { op: 'Gemm', inputs: ['a', 'b', 'bias'], outputs: [s.activation ? 'z' : 'y'], attributes: { transB: s.transposeB ? 1 : 0 } }
  const nodes = s.activation
    ? [gemmNode, { op: 'Gelu', inputs: ['z'], outputs: ['y'] }]
    : s.batch && s.transposeB
      ? [
          { op: 'Transpose', inputs: ['b'], outputs: ['t'], attributes: { perm: [0, 2, 1] } },
          { op: 'MatMul', inputs: ['a', 't'], outputs: ['y'] },
        ]
      : s.transposeB
        ? [gemmNode]
        : [{ op: 'MatMul', inputs: ['a', 'b'], outputs: ['y'] }]
  const model = {
    opset: 20,
    nodes,
    inputs: { a: value(aDims) },
    outputs: { y: value(yDims) },
    initializers: {
      b: { ...value(bDims), data: b },
      ...(s.activation || (s.transposeB && !s.batch) ? { bias: { ...value([n]), data: s.activation ? bias : new Float32Array(n) } } : {}),
    },
  }
  list.push(bench.onnx({ model, feeds: { a: { type: 'float32', dims: aDims, data: a } } }))
  list.push(bench.rival('onnxruntime', { inputs, model, op: "y = session.run(None, {'a': a})[0]", result: 'y' }))
  return Promise.all(list)
}

function peakOf(bench: Bench): string {
  const variant = devices().cpu.kernels.gemm ?? 'scalar'
  return bench.peaks[`f32_${variant}`] ? `f32_${variant}` : 'f32_avx2'
}

function f32(s: Shape): Case {
  const job = `${s.transposeB ? 'nt' : ''}${s.activation ?? ''}${s.async ? 'async' : ''}${s.packed ? 'packed' : ''}`
  const lead = s.batch ? [s.batch] : []
  const count = s.batch ?? 1
  return {
    case: `f32${job}_${[...lead, s.m, s.n, s.k].join('x')}`,
    prepare: async (bench): Promise<Prepared> => {
      const a = bench.normal(count * s.m * s.k)
      const b = bench.normal(count * s.k * s.n, 1 / Math.sqrt(s.k))
      const bias = bench.normal(s.n)
      const out = new Float32Array(count * s.m * s.n)
      const left = { type: 'float32', dims: [...lead, s.m, s.k], data: a }
      const right = { type: 'float32', dims: [...lead, ...(s.transposeB ? [s.n, s.k] : [s.k, s.n])], data: b }
      const fused = { out, ...(s.activation ? { activation: s.activation, bias } : {}) }
      const options = { ...fused, transposeB: s.transposeB ?? false }
      const packed = s.packed ? packFloat32(right, { transpose: s.transposeB ?? false }) : null
      return {
        ours: packed
          ? () => gemm(left, packed, fused)
          : s.async ? () => gemmAsync(left, right, options) : () => gemm(left, right, options), // prettier-ignore
        dispose: () => packed?.dispose(),
        result: () => out,
        rivals: await rivals(bench, s, a, b, bias),
        check: close({ atol: 1e-4, rtol: 1e-4 }),
        bound: bench.latest(
          bench.arithmetic(peakOf(bench), 2 * count * s.m * s.n * s.k),
          bench.dram(s.n * s.k * 4 > 24e6 ? { read: s.n * s.k * 4 } : {}),
        ),
      }
    },
  }
}

// What --quick keeps: a shape of each kind.
const kQuick = new Set(['1x4096x4096', '16x4096x4096', '1024x8x1024', '128x768x768', '512x512x512', '1024x1024x1024', '4x4x4'])

const all: readonly Case[] = [
  f32({ m: 1, n: 4096, k: 4096 }),
  f32({ m: 1, n: 4096, k: 4096, transposeB: true }),
  f32({ m: 8, n: 1024, k: 1024 }),
  f32({ m: 16, n: 4096, k: 4096 }),
  f32({ m: 1024, n: 8, k: 1024 }),
  f32({ m: 128, n: 768, k: 768 }),
  f32({ m: 128, n: 768, k: 768, transposeB: true }),
  f32({ m: 128, n: 768, k: 768, activation: 'gelu' }),
  f32({ m: 128, n: 3072, k: 768 }),
  f32({ m: 16, n: 4096, k: 4096, packed: true }),
  f32({ m: 128, n: 768, k: 768, packed: true }),
  f32({ m: 128, n: 3072, k: 768, packed: true }),
  f32({ m: 512, n: 512, k: 512 }),
  f32({ m: 512, n: 512, k: 512, activation: 'gelu' }),
  f32({ m: 512, n: 512, k: 512, async: true }),
  f32({ m: 1024, n: 1024, k: 1024 }),
  f32({ m: 2048, n: 2048, k: 2048 }),
  f32({ m: 3136, n: 64, k: 576 }),
  f32({ m: 128, n: 128, k: 64, batch: 12, transposeB: true }),
  f32({ m: 128, n: 64, k: 128, batch: 12 }),
  f32({ m: 4, n: 4, k: 4 }),
]

export const cases: readonly Case[] = all.map((c) => ({ ...c, full: !kQuick.has(c.case.replace(/^f32(gelu|packed)?_/, '')) }))
