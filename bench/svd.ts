// Singular value decompositions against LAPACK in torch and numpy, and rank 64 against torch.svd_lowrank. Errors are compared
// before anything is timed: singular values to 2e-6 of the largest, rank 64 to 1.01 times the best error of that rank.
import { gemm, svd, type Tensor } from '../lib/index'
import type { Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const kShapes = [[256, 256], [768, 768], [3072, 768], [1024, 4096]] as const // prettier-ignore
const kRank = 64

const matrix = (dims: readonly number[], data: Float32Array): Tensor<Float32Array> => ({ type: 'float32', dims, data })

function full(m: number, n: number): Case {
  return {
    case: `f32full_${m}x${n}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const a = matrix([m, n], bench.normal(m * n))
      const inputs = { a: { data: a.data, dims: [m, n] } }
      let values: ArrayLike<number> = []
      return {
        ours: () => (values = svd(a).s.data),
        result: () => Float64Array.from(values),
        check: (ours, theirs) => {
          for (let i = 0; i < ours.length; i++)
            if (!(Math.abs(Number(ours[i]) - Number(theirs[i])) <= 2e-6 * Number(theirs[0])))
              return `singular value ${i}: ${ours[i]}, rival has ${theirs[i]}`
          return null
        },
        rivals: [
          bench.rival('torch', {
            inputs,
            setup: 'a = torch.from_numpy(a)',
            op: 'u, s, v = torch.linalg.svd(a, full_matrices=False)',
            result: 's.double()',
          }),
          bench.rival('numpy', { inputs, setup: '', op: 'u, s, v = np.linalg.svd(a, full_matrices=False)', result: 's.astype(np.float64)' }),
        ],
      }
    },
  }
}

function lowRank(m: number, n: number, name: string, power: number): Case {
  return {
    case: `f32rank${kRank}${name}_${m}x${n}`,
    async prepare(bench: Bench): Promise<Prepared> {
      // Random vectors, given values.
      const k = Math.min(m, n)
      const random = svd(matrix([m, n], bench.normal(m * n)))
      const u = random.u.data as Float32Array
      for (let i = 0; i < u.length; i++) u[i] = (u[i] as number) * ((i % k) + 1) ** -power
      const a = gemm(matrix([m, k], u), random.v, { transposeB: true })
      const exact = svd(a, { vectors: false }).s.data
      const best = Math.hypot(...Array.from(exact).slice(kRank))
      let error = 0
      return {
        ours: () => (error = svd(a, { rank: kRank, method: 'randomized' }).error),
        result: () => Float64Array.of(error),
        check: (ours) => (Number(ours[0]) <= 1.01 * best ? null : `error ${ours[0]}, the best is ${best}`),
        rivals: [
          bench.rival('torch', {
            inputs: { a: { data: a.data, dims: [m, n] } },
            setup: 'a = torch.from_numpy(a)',
            op: `u, s, v = torch.svd_lowrank(a, q=${kRank}, niter=2)`,
            result: '(a.double() - (u.double() * s.double()) @ v.double().T).norm().reshape(1)',
          }),
        ],
      }
    },
  }
}

export const cases: readonly Case[] = [
  ...kShapes.map(([m, n]) => full(m, n)),
  ...kShapes.flatMap(([m, n]) => [lowRank(m, n, 'half', 0.5), lowRank(m, n, 'one', 1)]),
]
