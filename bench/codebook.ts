// Codebooks of 16.8 million weights. Lloyd runs a fixed number of iterations from the same evenly spaced centroids on both
// sides, and both find the indices of the last centroids. scipy and numpy run one thread whatever they are given.
import { codebookDecode, codebookEncode, codebookGradient, kmeans } from '../lib/index'
import { close, type Bench } from './harness/bench'
import type { Case, Prepared } from './harness/types'

const kCount = 4096 * 4096
const kIterations = 20

function evenly(x: Float32Array, clusters: number): Float32Array {
  let low = Infinity
  let high = -Infinity
  for (const v of x) {
    low = Math.min(low, v)
    high = Math.max(high, v)
  }
  return Float32Array.from({ length: clusters }, (_, j) => low + ((high - low) * j) / (clusters - 1))
}

function lloyd(count: number, clusters: number): Case {
  return {
    case: `f32kmeans${clusters}_${count}`,
    prepare: (bench: Bench): Prepared => {
      const x = bench.normal(count, 0.02)
      const start = evenly(x, clusters)
      const out = clusters > 256 ? new Uint16Array(count) : new Uint8Array(count)
      let centroids: Float32Array | undefined
      const inputs = { x: { data: x, dims: [count] }, start: { data: start, dims: [clusters] } }
      return {
        ours: () => {
          centroids = kmeans(x, { clusters, init: start, iterations: kIterations, tolerance: 0, out }).centroids.data
        },
        result: () => centroids as Float32Array,
        check: close({ atol: 2e-5 }),
        bound: bench.dram({ read: 4 * count, write: count }),
        rivals: [
          bench.rival('scipy', {
            inputs,
            setup: 'import scipy.cluster.vq',
            op: `c, label = scipy.cluster.vq.kmeans2(x, start, iter=${kIterations}, minit='matrix')`,
            result: 'c.astype(np.float32)',
          }),
          bench.rival('numpy', {
            inputs,
            op:
              `c = start\nfor _ in range(${kIterations}):\n    at = np.searchsorted((c[1:] + c[:-1]) / 2, x)\n` +
              `    n = np.bincount(at, minlength=${clusters})\n    s = np.bincount(at, weights=x, minlength=${clusters})\n` +
              '    c = np.where(n > 0, s / np.maximum(n, 1), c).astype(np.float32)\nat = np.searchsorted((c[1:] + c[:-1]) / 2, x)',
            result: 'c',
          }),
        ],
      }
    },
  }
}

function encode(clusters: number): Case {
  return {
    case: `f32encode${clusters}_${kCount}`,
    prepare: (bench: Bench): Prepared => {
      const x = bench.normal(kCount, 0.02)
      const centroids = evenly(x, clusters)
      const out = new Uint8Array(kCount)
      const inputs = { x: { data: x, dims: [kCount] }, c: { data: centroids, dims: [clusters] } }
      return {
        ours: () => codebookEncode(x, centroids, { out }),
        result: () => out,
        // Rivals compare in float32, so values beside a middle may fall to the other side.
        check: close({ share: 1e-4, step: 1 }),
        bound: bench.dram({ read: 4 * kCount, write: kCount }),
        rivals: [
          bench.rival('numpy', { inputs, setup: 't = (c[1:] + c[:-1]) / 2', op: 'at = np.searchsorted(t, x)', result: 'at.astype(np.uint8)' }),
          bench.rival('torch', {
            inputs,
            setup: 'tx = torch.from_numpy(x)\nt = torch.from_numpy((c[1:] + c[:-1]) / 2)',
            op: 'at = torch.bucketize(tx, t)',
            result: 'at.to(torch.uint8)',
          }),
        ],
      }
    },
  }
}

const decode: Case = {
  case: `f32decode16_${kCount}`,
  prepare: (bench: Bench): Prepared => {
    const index = bench.uint8(kCount).map((v) => v & 15)
    const values = bench.normal(16)
    const out = new Float32Array(kCount)
    const inputs = { at: { data: index, dims: [kCount] }, c: { data: values, dims: [16] } }
    return {
      ours: () => codebookDecode(index, values, { out }),
      result: () => out,
      bound: bench.dram({ read: kCount, write: 4 * kCount }),
      rivals: [
        bench.rival('numpy', { inputs, setup: 'y = np.empty(len(at), np.float32)', op: 'np.take(c, at, out=y, mode="clip")', result: 'y' }),
        bench.rival('torch', {
          inputs,
          setup: 'i = torch.from_numpy(at.astype(np.int32))\nt = torch.from_numpy(c)\ny = torch.empty(len(at))',
          op: 'torch.index_select(t, 0, i, out=y)',
          result: 'y',
        }),
      ],
    }
  },
}

const gradient: Case = {
  case: `f32gradient16_${kCount}`,
  prepare: (bench: Bench): Prepared => {
    const index = bench.uint8(kCount).map((v) => v & 15)
    const g = bench.uniform(kCount, 0.5, 1.5)
    let sums: Float32Array | undefined
    const inputs = { at: { data: index, dims: [kCount] }, g: { data: g, dims: [kCount] } }
    return {
      ours: () => {
        sums = codebookGradient(g, index, 16).data
      },
      result: () => sums as Float32Array,
      check: close({ rtol: 1e-3 }),
      bound: bench.dram({ read: 5 * kCount }),
      rivals: [
        bench.rival('numpy', { inputs, op: 's = np.bincount(at, weights=g, minlength=16)', result: 's.astype(np.float32)' }),
        bench.rival('torch', {
          inputs,
          setup: 'i = torch.from_numpy(at.astype(np.int64))\nt = torch.from_numpy(g)',
          op: 's = torch.zeros(16).scatter_add_(0, i, t)',
          result: 's',
        }),
      ],
    }
  },
}

export const cases: readonly Case[] = [lloyd(1 << 20, 16), lloyd(kCount, 16), encode(16), encode(256), decode, gradient]
