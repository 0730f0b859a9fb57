// Products of signs against what else multiplies them: torch on float32 signs, numpy by xor and bitwise_count on packed bytes.
// Both sides start from float32 rows and weights prepared outside of what is timed.
import { gemmBinary, packBinary } from '../lib/index'
import { close, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

function product(m: number, n: number, k: number): Case {
  return {
    case: `f32signs_${m}x${n}x${k}`,
    prepare: (bench: Bench): Prepared => {
      const a = bench.normal(m * k)
      const w = bench.normal(k * n)
      const packed = packBinary({ type: 'float32', dims: [k, n], data: w }, { scale: 'none' })
      const x = { type: 'float32', dims: [m, k], data: a } as const
      const out = new Float32Array(m * n)
      const inputs = { a: { data: a, dims: [m, k] }, w: { data: w, dims: [k, n] } }
      return {
        ours: () => gemmBinary(x, packed, { out, threads: bench.threads }),
        result: () => out,
        check: close({ atol: 0 }),
        bound: bench.dram({ read: 4 * m * k, write: 4 * m * n }),
        rivals: [
          bench.rival('torch', {
            inputs,
            setup: 'ta = torch.from_numpy(a)\ntw = torch.from_numpy(np.where(w < 0, np.float32(-1), np.float32(1)))',
            op: 'y = torch.where(ta < 0, -1.0, 1.0) @ tw',
            result: 'y.numpy()',
          }),
          bench.rival('numpy', {
            inputs,
            setup:
              'wb = np.packbits(np.ascontiguousarray(w.T) < 0, axis=1).view(np.uint64)\ny = np.empty((a.shape[0], wb.shape[0]), np.float32)',
            op:
              'ab = np.packbits(a < 0, axis=1).view(np.uint64)\n' +
              `for i in range(len(ab)):\n    y[i] = ${k} - 2.0 * np.bitwise_count(wb ^ ab[i]).sum(axis=1, dtype=np.int32)`,
            result: 'y',
          }),
        ],
      }
    },
  }
}

export const cases: readonly Case[] = [
  product(1, 4096, 4096),
  product(16, 4096, 4096),
  product(128, 3072, 768),
  product(512, 512, 512),
]
