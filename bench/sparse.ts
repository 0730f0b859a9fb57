// Sparse weights [n, k] times activations [k, N], over sparsity: against our dense product, torch (MKL's CSR on x86) and SciPy.
// After the run: where sparse overtakes dense, and a chart of each shape in the report of --html.
import { devices, gemm, sparsify, spmm, type SparsifyOptions, type TypedArray } from '../lib/index'
import type { Bench } from './harness/bench'
import { close } from './harness/bench'
import { lines, table, type Line } from './harness/html'
import type { Case, FamilyReport, Prepared, Rival, Row } from './harness/types'

interface Shape {
  readonly n: number
  readonly k: number
  readonly columns: number
}

const kShapes: readonly Shape[] = [
  { n: 768, k: 768, columns: 128 },
  { n: 3072, k: 768, columns: 128 },
  { n: 4096, k: 4096, columns: 16 },
  { n: 4096, k: 4096, columns: 1 },
  { n: 512, k: 4608, columns: 196 },
]
const kPercent = [50, 80, 90, 95, 99] as const
const kNoise = { atol: 1e-3, rtol: 1e-3 }

/** Normal weights, a share `sparsity` of the r x c blocks zero. */
function pruned(bench: Bench, s: Shape, sparsity: number, r: number, c: number): Float32Array {
  const w = bench.normal(s.n * s.k, 1 / Math.sqrt(s.k))
  const across = Math.ceil(s.k / c)
  const keep = bench.uniform(Math.ceil(s.n / r) * across)
  for (let i = 0; i < s.n; i++)
    for (let j = 0; j < s.k; j++) if ((keep[Math.floor(i / r) * across + Math.floor(j / c)] as number) < sparsity) w[i * s.k + j] = 0
  return w
}

async function rivals(bench: Bench, s: Shape, w: Float32Array, x: Float32Array, dense: Rival): Promise<Rival[]> {
  const inputs = { w: { data: w, dims: [s.n, s.k] }, x: { data: x, dims: [s.k, s.columns] } }
  return Promise.all([
    dense,
    bench.rival('torch', {
      inputs,
      setup: 'import warnings\nwarnings.filterwarnings("ignore")\ntw = torch.from_numpy(w).to_sparse_csr()\ntx = torch.from_numpy(x)',
      op: 'ty = tw @ tx',
      result: 'ty.numpy()',
    }),
    bench.rival('scipy', { inputs, setup: 'sw = scipy.sparse.csr_matrix(w)', op: 'sy = sw @ x', result: 'sy' }),
  ])
}

/** `job` is csr, or b<rows>x<columns>z; the rival ours-dense is {@link gemm} on the same matrix. */
function f32(job: string, s: Shape, percent: number, options: SparsifyOptions, r = 1, c = 1, all = true): Case {
  return {
    case: `${options.dtype === 'bfloat16' ? 'bf16' : 'f32'}${job}${percent}_${s.n}x${s.k}x${s.columns}`,
    prepare: async (bench): Promise<Prepared> => {
      const w = pruned(bench, s, percent / 100, r, c)
      const x = bench.normal(s.k * s.columns)
      const left = { type: 'float32', dims: [s.n, s.k], data: w }
      const right = { type: 'float32', dims: [s.k, s.columns], data: x }
      const sparse = sparsify(left, { ...options, columns: s.columns })
      const out = new Float32Array(s.n * s.columns)
      const other = new Float32Array(s.n * s.columns)
      const dense: Rival = { name: 'ours-dense', run: () => gemm(left, right, { out: other }), result: () => other }
      const peak = `f32_${devices().cpu.kernels.sparse ?? 'scalar'}`
      return {
        ours: () => spmm(sparse, right, { out: out as TypedArray }),
        result: () => out,
        rivals: all ? await rivals(bench, s, w, x, dense) : [dense],
        check: close(options.dtype === 'bfloat16' ? { atol: 0.05, rtol: 0.05 } : kNoise),
        bound: bench.latest(
          bench.arithmetic(bench.peaks[peak] ? peak : 'f32_avx2', 2 * sparse.nnz * s.columns),
          bench.dram(sparse.byteLength > 24e6 ? { read: sparse.byteLength } : {}),
        ),
        dispose: () => sparse.dispose(),
      }
    },
  }
}

export const cases: readonly Case[] = [
  ...kShapes.flatMap((s) => kPercent.map((p) => f32('csr', s, p, { format: 'csr' }))),
  ...([[4, 1], [1, 4], [8, 1], [1, 16], [16, 1], [32, 32]] as const).map(([r, c]) =>
    f32(`b${r}x${c}z`, kShapes[0] as Shape, 80, { format: { block: [r, c] } }, r, c, false),
  ),
  f32('csr', kShapes[0] as Shape, 90, { format: 'csr', dtype: 'bfloat16' }, 1, 1, false),
] // prettier-ignore

/** Where two curves of milliseconds over per cent of zeros cross, along straight lines of their logarithm. */
export function crossover(sparse: readonly (readonly [number, number])[], dense: ReadonlyMap<number, number>): number | null {
  const points = sparse.filter(([p]) => dense.has(p)).map(([p, ms]) => [p, Math.log(ms / (dense.get(p) as number))] as const)
  for (let i = 0; i < points.length; i++) {
    const [p, d] = points[i] as readonly [number, number]
    if (d > 0) continue
    if (i === 0) return p
    const [q, e] = points[i - 1] as readonly [number, number]
    return q + ((p - q) * e) / (e - d)
  }
  return null
}

/** Per shape and thread count: the crossover with our dense product, and time over sparsity. */
export function report(rows: readonly Row[]): FamilyReport {
  const text: string[] = []
  const html: string[] = []
  const found: string[][] = []
  const keyOf = (r: Row) => /^([a-z]+\d*[a-z]+)(\d\d)_(\d+x\d+x\d+)$/.exec(r.case)
  const groups = new Map<string, Row[]>()
  for (const r of rows) {
    const m = keyOf(r)
    if (!m) continue
    const key = `${m[1] as string} ${m[3] as string}, ${r.variant}, ${r.threads} thread${r.threads > 1 ? 's' : ''}`
    groups.set(key, [...(groups.get(key) ?? []), r])
  }
  for (const [key, group] of groups) {
    const percents = [...new Set(group.map((r) => Number(keyOf(r)?.[2])))].sort((a, b) => a - b)
    if (percents.length < 3) continue
    const at = (name: string | null, pick: (r: Row) => number | null): [number, number][] =>
      percents.flatMap((p) => {
        const r = group.find((x) => Number(keyOf(x)?.[2]) === p && (name === null || x.rival === name))
        const ms = r ? pick(r) : null
        return ms === null ? [] : [[p, ms] as [number, number]]
      })
    const ours = at(null, (r) => r.ours_ms)
    const dense = at('ours-dense', (r) => r.rival_ms)
    const cross = crossover(ours, new Map(dense))
    const said = dense.length < 2 ? 'not measured' : cross === null ? 'never' : cross <= (percents[0] as number) ? `at ${percents[0]} % or before` : `at ${cross.toFixed(0)} %`
    text.push(`${key}: sparse overtakes dense ${said}`)
    const curves: Line[] = [
      { label: 'sparse', points: ours, kind: 'ours' },
      { label: 'our dense', points: dense, kind: 'dense' },
      { label: 'torch CSR', points: at('torch', (r) => r.rival_ms), kind: 'rival' },
      { label: 'SciPy CSR', points: at('scipy', (r) => r.rival_ms), kind: 'other' },
    ]
    found.push([key, said, ...percents.map((p) => {
      const r = group.find((x) => Number(keyOf(x)?.[2]) === p && x.rival === 'torch')
      return r?.ratio ? `${r.ratio.toFixed(2)} ×` : '–'
    })]) // prettier-ignore
    html.push(`<h3>${key}</h3>`, lines(curves, { x: '% zeros', y: 'ms', mark: cross }))
  }
  if (found.length)
    html.unshift(table(['shape n × k × N', 'overtakes our dense', ...kPercent.map((p) => `torch / ours at ${p} %`)], found))
  return { text, html: html.join('') }
}
