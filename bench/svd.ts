// Singular value decompositions against LAPACK in torch and numpy, and rank 64 against torch.svd_lowrank. Errors are compared
// before anything is timed: singular values to 2e-6 of the largest (float64: 1e-12), rank 64 to 1.01 times the best error of
// that rank, 1.02 for Gaussian matrices.
import { gemm, svd, type Tensor } from '../lib/index'
import type { Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const kShapes = [[256, 256], [768, 768], [3072, 768], [1024, 4096]] as const // prettier-ignore
const kRank = 64

type Data = Float32Array | Float64Array

const matrix = (dims: readonly number[], data: Float32Array): Tensor<Float32Array> => ({ type: 'float32', dims, data })

function full(dims: readonly number[], wide: boolean, vectors = true): Case {
  const name = `${vectors ? 'full' : 'values'}_${dims.join('x')}`
  return {
    case: `${wide ? 'f64' : 'f32'}${name}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const floats = bench.normal(dims.reduce((x, y) => x * y))
      const data: Data = wide ? Float64Array.from(floats) : floats
      const a = { type: wide ? 'float64' : 'float32', dims, data } as Tensor<Float32Array> | Tensor<Float64Array>
      const inputs = { a: { data, dims } }
      const k = Math.min(dims[dims.length - 2] as number, dims[dims.length - 1] as number)
      let values: ArrayLike<number> = []
      return {
        ours: vectors ? () => (values = svd(a).s.data) : () => (values = svd(a, { vectors: false }).s.data),
        result: () => Float64Array.from(values),
        check: (ours, theirs) => {
          for (let i = 0; i < ours.length; i++)
            if (!(Math.abs(Number(ours[i]) - Number(theirs[i])) <= (wide ? 1e-12 : 2e-6) * Number(theirs[i - (i % k)])))
              return `singular value ${i}: ${ours[i]}, rival has ${theirs[i]}`
          return null
        },
        rivals: [
          bench.rival('torch', {
            inputs,
            setup: 'a = torch.from_numpy(a)',
            op: vectors ? 'u, s, v = torch.linalg.svd(a, full_matrices=False)' : 's = torch.linalg.svdvals(a)',
            result: 's.double()',
          }),
          bench.rival('numpy', {
            inputs,
            setup: '',
            op: vectors ? 'u, s, v = np.linalg.svd(a, full_matrices=False)' : 's = np.linalg.svd(a, compute_uv=False)',
            result: 's.astype(np.float64)',
          }),
        ],
      }
    },
  }
}

/** Values i^-power with random vectors, or a Gaussian matrix where that is 0. */
function lowRank(m: number, n: number, name: string, power: number): Case {
  return {
    case: `f32rank${kRank}${name}_${m}x${n}`,
    async prepare(bench: Bench): Promise<Prepared> {
      const k = Math.min(m, n)
      let a = matrix([m, n], bench.normal(m * n))
      if (power > 0) {
        const random = svd(a)
        const u = random.u.data as Float32Array
        for (let i = 0; i < u.length; i++) u[i] = (u[i] as number) * ((i % k) + 1) ** -power
        a = gemm(matrix([m, k], u), random.v, { transposeB: true })
      }
      const exact = svd(a, { vectors: false }).s.data
      const best = Math.hypot(...Array.from(exact).slice(kRank))
      const bound = power > 0 ? 1.01 : 1.02
      let error = 0
      return {
        ours: () => (error = svd(a, { rank: kRank, method: 'randomized' }).error),
        result: () => Float64Array.of(error),
        check: (ours) => (Number(ours[0]) <= bound * best ? null : `error ${ours[0]}, the best is ${best}`),
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
  ...kShapes.flatMap(([m, n]) => [lowRank(m, n, 'half', 0.5), lowRank(m, n, 'one', 1), lowRank(m, n, 'gauss', 0)]),
  ...kShapes.map((dims) => full(dims, false)),
  ...kShapes.slice(0, 3).map((dims) => full(dims, true)),
  full([768, 768], false, false),
  full([64, 64, 64], false),
  full([256, 16, 16], false),
]
