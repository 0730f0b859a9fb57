// Products: float32 here, int8 in gemm_int8 files where present. Shapes are M x N x K, weights row-major [K, N].
import { devices, gemm, type Activation } from '../lib/index'
import type { Bench } from './harness/bench'
import { close } from './harness/bench'
import type { Case, Prepared, Rival } from './harness/types'

interface Shape {
  readonly m: number
  readonly n: number
  readonly k: number
  readonly transposeB?: boolean
  readonly activation?: Activation
}

function torchOp(s: Shape): string {
  if (!s.activation) return 'torch.mm(ta, tb, out=ty)'
  return 'ty = torch.nn.functional.gelu(torch.addmm(tbias, ta, tb))'
}

async function rivals(bench: Bench, s: Shape, a: Float32Array, b: Float32Array, bias: Float32Array): Promise<Rival[]> {
  const { m, n, k } = s
  const bDims = s.transposeB ? [n, k] : [k, n]
  const inputs = { a: { data: a, dims: [m, k] }, b: { data: b, dims: bDims }, bias: { data: bias, dims: [n] } }
  const torch = bench.rival('torch', {
    inputs,
    setup: `ta = torch.from_numpy(a)\ntb = torch.from_numpy(b)${s.transposeB ? '.t()' : ''}\ntbias = torch.from_numpy(bias)\nty = torch.empty(${m}, ${n})`,
    op: torchOp(s),
    result: 'ty.numpy()',
  })
  const list = [torch]
  if (!s.activation)
    list.push(bench.rival('numpy', { inputs, setup: `w = b${s.transposeB ? '.T' : ''}\ny = np.empty((${m}, ${n}), np.float32)`, op: 'np.matmul(a, w, out=y)', result: 'y' }))
  const value = (dims: number[]) => ({ type: 'float32', dims }) as const
  const gemmNode = { op: 'Gemm', inputs: ['a', 'b', 'bias'], outputs: [s.activation ? 'z' : 'y'], attributes: { transB: s.transposeB ? 1 : 0 } }
  const plainNode = { op: 'MatMul', inputs: ['a', 'b'], outputs: ['y'] }
  const model = {
    opset: 20,
    nodes: s.activation ? [gemmNode, { op: 'Gelu', inputs: ['z'], outputs: ['y'] }] : s.transposeB ? [gemmNode] : [plainNode],
    inputs: { a: value([m, k]) },
    outputs: { y: value([m, n]) },
    initializers: {
      b: { ...value(bDims), data: b },
      ...(s.activation || s.transposeB ? { bias: { ...value([n]), data: s.activation ? bias : new Float32Array(n) } } : {}),
    },
  }
  list.push(bench.onnx({ model, feeds: { a: { type: 'float32', dims: [m, k], data: a } } }))
  list.push(bench.rival('onnxruntime', { inputs, model, op: "y = session.run(None, {'a': a})[0]", result: 'y' }))
  return Promise.all(list)
}

function peakOf(bench: Bench): string {
  const variant = devices().cpu.kernels.gemm ?? 'scalar'
  return bench.peaks[`f32_${variant}`] ? `f32_${variant}` : 'f32_avx2'
}

function f32(s: Shape): Case {
  const job = `${s.transposeB ? 'nt' : ''}${s.activation ? 'gelu' : ''}`
  return {
    case: `f32${job}_${s.m}x${s.n}x${s.k}`,
    prepare: async (bench): Promise<Prepared> => {
      const a = bench.normal(s.m * s.k)
      const b = bench.normal(s.k * s.n, 1 / Math.sqrt(s.k))
      const bias = bench.normal(s.n)
      const out = new Float32Array(s.m * s.n)
      const left = { type: 'float32', dims: [s.m, s.k], data: a }
      const right = { type: 'float32', dims: s.transposeB ? [s.n, s.k] : [s.k, s.n], data: b }
      const options = { out, transposeB: s.transposeB ?? false, ...(s.activation ? { activation: s.activation, bias } : {}) }
      return {
        ours: () => gemm(left, right, options),
        result: () => out,
        rivals: await rivals(bench, s, a, b, bias),
        check: close({ atol: 1e-4, rtol: 1e-4 }),
        bound: bench.latest(
          bench.arithmetic(peakOf(bench), 2 * s.m * s.n * s.k),
          bench.dram(s.n * s.k * 4 > 24e6 ? { read: s.n * s.k * 4 } : {}),
        ),
      }
    },
  }
}

export const cases: readonly Case[] = [
  f32({ m: 1, n: 4096, k: 4096 }),
  f32({ m: 1, n: 4096, k: 4096, transposeB: true }),
  f32({ m: 16, n: 4096, k: 4096 }),
  f32({ m: 128, n: 768, k: 768 }),
  f32({ m: 128, n: 768, k: 768, activation: 'gelu' }),
  f32({ m: 128, n: 3072, k: 768 }),
  f32({ m: 512, n: 512, k: 512 }),
  f32({ m: 1024, n: 1024, k: 1024 }),
  f32({ m: 2048, n: 2048, k: 2048 }),
  f32({ m: 3136, n: 64, k: 576 }),
  f32({ m: 1024, n: 8, k: 1024 }),
  f32({ m: 8, n: 8, k: 8 }),
]
