// float32 rows times compressed weights, M x N x K, weights packed once and in blocks of 32: against onnxruntime's
// MatMulNBits (int4 and int8: float32 activations; int4a8: its accuracy_level 4, which quantizes activations to 8 bits, ours
// does not), torch's bfloat16 product, and our own dense float32.
import { devices, gemm, gemmInt4, gemmInt8, packBfloat16, packInt4, packInt8 } from '../lib/index'
import type { Bench } from './harness/bench'
import { close } from './harness/bench'
import type { Bound, Case, Prepared, Rival } from './harness/types'

interface Shape {
  readonly m: number
  readonly n: number
  readonly k: number
}

const kBlock = 32

function boundOf(bench: Bench, s: Shape, bytes: number): Bound {
  const variant = devices().cpu.kernels.gemm ?? 'scalar'
  const arithmetic = bench.arithmetic(bench.peaks[`f32_${variant}`] ? `f32_${variant}` : 'f32_avx2', 2 * s.m * s.n * s.k)
  if (bytes > 24e6) return bench.latest(arithmetic, bench.dram({ read: bytes }))
  const rate = bench.peaks.l3_read
  if (!rate) return arithmetic
  return bench.latest(arithmetic, { name: `l3 ${(bytes / 1e6).toFixed(1)} MB at ${rate.toFixed(1)} GB/s`, ms: bytes / rate / 1e6 })
}

/** Our own dense float32 product of the same weights: what compression saves. */
function dense(s: Shape, a: Float32Array, w: Float32Array, y: Float32Array): Rival {
  const left = { type: 'float32', dims: [s.m, s.k], data: a }
  const right = { type: 'float32', dims: [s.k, s.n], data: w }
  return { name: 'ours-dense', run: () => gemm(left, right, { out: y }), result: () => y }
}

function nbits(s: Shape, bits: 4 | 8, level: 1 | 4): Case {
  const { m, n, k } = s
  return {
    case: `int${bits}${level === 4 ? 'a8' : ''}_${m}x${n}x${k}`,
    prepare: async (bench): Promise<Prepared> => {
      const blocks = k / kBlock
      const codes = bench.uint8(n * k * (bits / 8))
      const scale = bench.uniform(n * blocks, 0.001, 0.002)
      const a = bench.normal(m * k)
      const x = { type: 'float32', dims: [m, k], data: a } as const
      const blob = { type: 'uint8', dims: [n, blocks, (kBlock * bits) / 8], data: codes } as const
      const out = new Float32Array(m * n)
      const packed4 = bits === 4 ? packInt4(blob, { scale }) : null
      const packed8 = bits === 8 ? packInt8(blob, { scale }) : null
      const w = new Float32Array(k * n)
      for (let j = 0; j < n; j++)
        for (let p = 0; p < k; p++) {
          const i = j * k + p
          const q = bits === 8 ? (codes[i] as number) - 128 : (i % 2 ? (codes[i >> 1] as number) >> 4 : (codes[i >> 1] as number) & 15) - 8
          w[p * n + j] = (scale[j * blocks + Math.floor(p / kBlock)] as number) * q
        }
      const model = {
        opset: 20,
        nodes: [
          {
            op: 'MatMulNBits',
            domain: 'com.microsoft',
            inputs: ['a', 'b', 's'],
            outputs: ['y'],
            attributes: { K: k, N: n, bits, block_size: kBlock, accuracy_level: level },
          },
        ],
        inputs: { a: { type: 'float32', dims: [m, k] } as const },
        outputs: { y: { type: 'float32', dims: [m, n] } as const },
        initializers: { b: blob, s: { type: 'float32', dims: [n * blocks], data: scale } as const },
      }
      const magnitude = Math.sqrt(k) * 0.002 * 2 ** (bits - 1)
      return {
        ours: () => (packed4 ? gemmInt4(x, packed4, { out }) : packed8 && gemmInt8(x, packed8, { out })),
        result: () => out,
        rivals: [bench.onnx({ model, feeds: { a: x } }), ...(level === 1 ? [dense(s, a, w, new Float32Array(m * n))] : [])],
        check: close({ atol: (level === 4 ? 0.05 : 1e-4) * magnitude, rtol: 1e-4 }),
        bound: boundOf(bench, s, (packed4 ?? packed8)?.byteLength ?? 0),
        dispose: () => (packed4 ?? packed8)?.dispose(),
      }
    },
  }
}

function bf16(s: Shape): Case {
  const { m, n, k } = s
  return {
    case: `bf16_${m}x${n}x${k}`,
    prepare: (bench): Prepared => {
      const a = bench.normal(m * k)
      const w = bench.normal(n * k, 1 / Math.sqrt(k))
      // Representable weights, so that the dense product means the same.
      const bits = new Uint32Array(w.buffer)
      for (let i = 0; i < bits.length; i++) bits[i]! &= 0xffff0000
      const x = { type: 'float32', dims: [m, k], data: a } as const
      const packed = packBfloat16({ type: 'float32', dims: [k, n], data: w })
      const out = new Float32Array(m * n)
      return {
        ours: () => gemm(x, packed, { out }),
        result: () => out,
        rivals: [
          bench.rival('torch', {
            inputs: { a: { data: a, dims: [m, k] }, b: { data: w, dims: [k, n] } },
            setup: 'ta = torch.from_numpy(a).bfloat16()\ntb = torch.from_numpy(b).t().contiguous().bfloat16()',
            op: 'ty = torch.nn.functional.linear(ta, tb)',
            result: 'ty.float().numpy()',
          }),
          dense(s, a, w, new Float32Array(m * n)),
        ],
        // torch rounds activations and results to bfloat16.
        check: close({ atol: 0.05, rtol: 0.02 }),
        bound: boundOf(bench, s, packed.byteLength),
        dispose: () => packed.dispose(),
      }
    },
  }
}

const shapes: readonly Shape[] = [1, 4, 16, 128].flatMap((m) => [
  { m, n: 4096, k: 4096 },
  { m, n: 768, k: 3072 },
])

const all: readonly Case[] = [
  ...shapes.map((s) => nbits(s, 4, 1)),
  ...shapes.map((s) => nbits(s, 4, 4)),
  ...shapes.filter((s) => s.m < 128).map((s) => nbits(s, 8, 1)),
  ...shapes.filter((s) => s.m < 128).map(bf16),
]

// With --quick one product of each kind that reads memory, one of each that computes.
export const cases: readonly Case[] = all.map((c) => ({ ...c, full: !/_(1|16)x768x3072$|^int4_1x4096/.test(c.case) }))
