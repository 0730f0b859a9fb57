import { importance, mask } from '../lib/index'
import { close, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const kSide = 4096
const kCount = kSide * kSide
const kSparsity = 0.8
const kCut = kCount - Math.round((1 - kSparsity) * kCount)

/** All different, since rivals break ties in their own ways: the float32 bit patterns from 0.5 up, shuffled. */
function scores(bench: Bench): Float32Array {
  const order = new Uint32Array(bench.normal(kCount).buffer)
  const bits = Uint32Array.from({ length: kCount }, (_, i) => 0x3f000000 + i)
  for (let i = kCount - 1; i > 0; i--) {
    const j = Math.imul(order[i]!, 0x9e3779b1) >>> 0
    const k = j % (i + 1)
    const t = bits[i]!
    bits[i] = bits[k]!
    bits[k] = t
  }
  return new Float32Array(bits.buffer)
}

function threshold(bench: Bench): Prepared {
  const x = scores(bench)
  const out = new Uint8Array(kCount)
  const mine = new Uint8Array(kCount)
  const inputs = { x: { data: x, dims: [kCount] } }
  return {
    ours: () => mask(x, { sparsity: kSparsity, out }),
    result: () => out,
    bound: bench.dram({ read: 4 * kCount, write: kCount }),
    rivals: [
      // Rivals are timed for the threshold alone; ours writes the mask as well.
      bench.rival('numpy', { inputs, setup: `cut = ${kCut}`, op: 'p = np.partition(x, cut)', result: '(x >= p[cut]).astype(np.uint8)' }),
      bench.rival('torch', {
        inputs,
        setup: `cut = ${kCut}\nt = torch.from_numpy(x)`,
        op: 'v = torch.kthvalue(t, cut + 1).values',
        result: '(t >= v).to(torch.uint8)',
      }),
      bench.js(
        () => {
          const sorted = Float32Array.from(x).sort()
          const t = sorted[kCut] as number
          for (let i = 0; i < kCount; i++) mine[i] = (x[i] as number) >= t ? 1 : 0
        },
        () => mine,
      ),
    ],
  }
}

function runs(n: number, m: number) {
  return (bench: Bench): Prepared => {
    const x = scores(bench)
    const out = new Uint8Array(kCount)
    const mine = new Uint8Array(kCount)
    const tensor = { type: 'float32', dims: [kSide, kSide], data: x }
    return {
      ours: () => mask(tensor, { pattern: `${n}:${m}`, out }),
      result: () => out,
      bound: bench.dram({ read: 4 * kCount, write: kCount }),
      rivals: [
        // Indices alone are timed; ours writes the mask.
        bench.rival('torch', {
          inputs: { x: { data: x, dims: [kCount / m, m] } },
          setup: 't = torch.from_numpy(x)',
          op: `i = torch.topk(t, ${n}).indices`,
          result: 'torch.zeros(t.shape, dtype=torch.uint8).scatter_(1, i, 1).reshape(-1)',
        }),
        bench.js(
          () => {
            for (let run = 0; run < kCount; run += m)
              for (let i = run; i < run + m; i++) {
                let before = 0
                for (let j = run; j < run + m; j++) {
                  const a = x[j] as number
                  const b = x[i] as number
                  if (a > b || (a === b && j < i)) before++
                }
                mine[i] = before < n ? 1 : 0
              }
          },
          () => mine,
        ),
      ],
    }
  }
}

function norms(axis: 0 | 1) {
  return (bench: Bench): Prepared => {
    const x = bench.normal(kCount)
    const out = new Float32Array(kSide)
    const mine = new Float32Array(kSide)
    const inputs = { x: { data: x, dims: [kSide, kSide] } }
    return {
      ours: () => importance({ type: 'float32', dims: [kSide, kSide], data: x }, { criterion: 'l2', axis, out }),
      result: () => out,
      check: close({ rtol: 1e-5 }),
      bound: bench.dram({ read: 4 * kCount }),
      rivals: [
        bench.rival('numpy', { inputs, op: `r = np.linalg.norm(x, axis=${1 - axis})`, result: 'r' }),
        bench.rival('torch', {
          inputs,
          setup: 't = torch.from_numpy(x)',
          op: `r = torch.linalg.vector_norm(t, dim=${1 - axis})`,
          result: 'r',
        }),
        bench.js(
          () => {
            const sums = new Float64Array(kSide)
            for (let i = 0; i < kCount; i++) {
              const at = axis === 0 ? i >>> 12 : i & 4095
              sums[at] = (sums[at] as number) + (x[i] as number) ** 2
            }
            mine.set(sums.map(Math.sqrt))
          },
          () => mine,
        ),
      ],
    }
  }
}

export const cases: readonly Case[] = [
  { case: `f32threshold_${kCount}`, prepare: threshold },
  { case: `f32nm24_${kSide}x${kSide}`, prepare: runs(2, 4) },
  { case: `f32nm48_${kSide}x${kSide}`, prepare: runs(4, 8) },
  { case: `f32rows_${kSide}x${kSide}`, prepare: norms(0) },
  { case: `f32columns_${kSide}x${kSide}`, prepare: norms(1) },
]
