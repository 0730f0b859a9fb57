// Factorizations against the same algorithm in numpy on its BLAS (scikit-learn and tensorly run these lines): equal starts,
// sweeps counted, errors compared before anything is timed. numpy works in float32 where we do, else in double.
import { cp, nmf, tucker, type Tensor } from '../lib/index'
import { close, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const tensor = (dims: readonly number[], data: Float32Array): Tensor<Float32Array> => ({ type: 'float32', dims, data })

// A unit of the timed code a sweep; `rel` is the relative error at the end.
const kHals = (sweeps: number): string => `
w, h = w0.copy(), h0.copy()
for _ in range(${sweeps}):
    g, b = h @ h.T, a @ h.T
    for r in range(w.shape[1]):
        w[:, r] = np.maximum(w[:, r] + (b[:, r] - w @ g[:, r]) / g[r, r], 1e-12)
    g, b = w.T @ w, w.T @ a
    for r in range(w.shape[1]):
        h[r] = np.maximum(h[r] + (b[r] - g[r] @ h) / g[r, r], 1e-12)
rel = np.linalg.norm(a - w @ h) / np.linalg.norm(a)`.trim()

const kMultiplicative = (sweeps: number): string => `
w, h = w0.copy(), h0.copy()
for _ in range(${sweeps}):
    w *= (a @ h.T) / np.maximum(w @ (h @ h.T), 1e-12)
    h *= (w.T @ a) / np.maximum((w.T @ w) @ h, 1e-12)
rel = np.linalg.norm(a - w @ h) / np.linalg.norm(a)`.trim()

function nonNegative(m: number, n: number, rank: number, method: 'hals' | 'multiplicative', sweeps: number): Case {
  return {
    case: `f32nmf${method}${rank}_${m}x${n}`,
    prepare: (bench: Bench): Prepared => {
      const x = bench.uniform(m * n)
      const w = bench.uniform(m * rank, 0.1, 1)
      const h = bench.uniform(rank * n, 0.1, 1)
      const a = tensor([m, n], x)
      const init = { w: tensor([m, rank], w), h: tensor([rank, n], h) }
      let error = NaN
      return {
        ours: () => (error = nmf(a, { rank, method, init, iterations: sweeps, tolerance: 0 }).relativeError),
        result: () => Float64Array.of(error),
        check: close({ rtol: 2e-3 }),
        rivals: [
          bench.rival('numpy', {
            inputs: { a: { data: x, dims: [m, n] }, w0: { data: w, dims: [m, rank] }, h0: { data: h, dims: [rank, n] } },
            op: method === 'hals' ? kHals(sweeps) : kMultiplicative(sweeps),
            result: 'np.float64([rel])',
          }),
        ],
      }
    },
  }
}

function canonical(dims: readonly [number, number, number], rank: number, sweeps: number): Case {
  return {
    case: `f32cp${rank}_${dims.join('x')}`,
    prepare: (bench: Bench): Prepared => {
      const x = bench.normal(dims.reduce((p, q) => p * q))
      const start = dims.map((d) => bench.normal(d * rank))
      const init = start.map((data, i) => tensor([dims[i] as number, rank], data))
      let error = NaN
      return {
        ours: () =>
          (error = cp(tensor(dims, x), { rank, init, iterations: sweeps, tolerance: 0, regularization: 0 }).relativeError),
        result: () => Float64Array.of(error),
        check: close({ rtol: 2e-3 }),
        rivals: [
          bench.rival('numpy', {
            inputs: {
              x: { data: x, dims },
              ...Object.fromEntries(start.map((data, i) => [`s${i}`, { data, dims: [dims[i] as number, rank] }])),
            },
            setup: 'x = x.astype(np.float64)\nxs = [np.moveaxis(x, m, 0).reshape(x.shape[m], -1) for m in range(3)]',
            op: `
f = [s0.astype(np.float64), s1.astype(np.float64), s2.astype(np.float64)]
for _ in range(${sweeps}):
    for m in range(3):
        p, q = [f[i] for i in range(3) if i != m]
        kr = (p[:, None, :] * q[None, :, :]).reshape(-1, p.shape[1])
        f[m] = np.linalg.solve((p.T @ p) * (q.T @ q), (xs[m] @ kr).T).T
rel = np.linalg.norm(xs[2] - f[2] @ kr.T) / np.linalg.norm(x)`.trim(),
            result: 'np.float64([rel])',
          }),
        ],
      }
    },
  }
}

function tuckerTwo(dims: readonly [number, number, number, number], ranks: readonly [number, number], sweeps: number): Case {
  return {
    case: `f32tucker${ranks.join('_')}_${dims.join('x')}`,
    prepare: (bench: Bench): Prepared => {
      const x = bench.normal(dims.reduce((p, q) => p * q))
      let error = NaN
      return {
        ours: () => (error = tucker(tensor(dims, x), { modes: [0, 1], ranks, iterations: sweeps, tolerance: 0 }).relativeError),
        result: () => Float64Array.of(error),
        check: close({ rtol: 2e-3 }),
        rivals: [
          bench.rival('numpy', {
            inputs: { x: { data: x, dims } },
            setup: 'x = x.astype(np.float64)',
            op: `
unfold = lambda t, m: np.moveaxis(t, m, 0).reshape(t.shape[m], -1)
left = lambda t, m, r: np.linalg.eigh((lambda u: u @ u.T)(unfold(t, m)))[1][:, ::-1][:, :r]
u, v = left(x, 0, ${ranks[0]}), left(x, 1, ${ranks[1]})
for _ in range(${sweeps}):
    u = left(np.tensordot(v, x, (0, 1)), 1, ${ranks[0]})
    half = np.tensordot(u, x, (0, 0))
    v = left(half, 1, ${ranks[1]})
core = np.tensordot(v, half, (0, 1))
rel = np.sqrt(max(0, np.linalg.norm(x) ** 2 - np.linalg.norm(core) ** 2)) / np.linalg.norm(x)`.trim(),
            result: 'np.float64([rel])',
          }),
        ],
      }
    },
  }
}

export const cases: readonly Case[] = [
  nonNegative(512, 256, 16, 'hals', 50),
  nonNegative(512, 256, 16, 'multiplicative', 50),
  nonNegative(1024, 1024, 32, 'hals', 50),
  canonical([64, 64, 9], 16, 20),
  canonical([128, 128, 9], 32, 20),
  tuckerTwo([64, 64, 3, 3], [16, 16], 10),
  tuckerTwo([256, 256, 3, 3], [64, 64], 5),
]
