// Sparse weights [n, k] times activations [k, N], over sparsity: against our dense product, torch's CSR, MKL's as torch links it but
// called directly on a handle made once, SciPy, Eigen and libxsmm; int8 blocks and 2:4 against our own dense products.
// After the run: where sparse overtakes dense, and a chart of each shape in the report of --html.
import { devices, gemm, gemmInt8, packInt8, sparsify, spmm, type SparsifyOptions, type TypedArray } from '../lib/index'
import type { Bench } from './harness/bench'
import { close, root } from './harness/bench'
import { lines, table, type Line } from './harness/html'
import type { Case, FamilyReport, Prepared, Rival, Row } from './harness/types'
import { program } from './rivals/sparse'

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

/** Weights of which each four neighbours keep two. */
function halved(bench: Bench, count: number): Float32Array {
  const w = bench.normal(count, 0.05)
  const place = bench.uniform(count, 0, 4)
  for (let i = 0; i < count; i += 4) {
    const first = Math.floor(place[i] as number)
    const second = (first + 1 + Math.floor(((place[i + 1] as number) * 3) / 4)) % 4
    w[i + first] = w[i + second] = 0
  }
  return w
}

/** Normal weights, a share `sparsity` of the r x c blocks zero. */
function pruned(bench: Bench, s: Shape, sparsity: number, r: number, c: number): Float32Array {
  const w = bench.normal(s.n * s.k, 1 / Math.sqrt(s.k))
  const across = Math.ceil(s.k / c)
  const keep = bench.uniform(Math.ceil(s.n / r) * across)
  for (let i = 0; i < s.n; i++)
    for (let j = 0; j < s.k; j++) if ((keep[Math.floor(i / r) * across + Math.floor(j / c)] as number) < sparsity) w[i * s.k + j] = 0
  return w
}

// sparse_matrix_type_general, row-major where there is more than one column.
const kMklSetup = `
import ctypes
mkl = ctypes.CDLL(torch.__path__[0] + '/lib/libtorch_cpu.so')
class Kind(ctypes.Structure):
    _fields_ = [('type', ctypes.c_int), ('mode', ctypes.c_int), ('diag', ctypes.c_int)]
mw = torch.from_numpy(w).to_sparse_csr()
rows, at, values = mw.crow_indices().to(torch.int32).numpy(), mw.col_indices().to(torch.int32).numpy(), mw.values().numpy()
place = lambda a, skip=0: ctypes.c_void_p(a.ctypes.data + skip)
mh, kind, my = ctypes.c_void_p(), Kind(20, 0, 0), np.zeros((w.shape[0], x.shape[1]), np.float32)
assert mkl.mkl_sparse_s_create_csr(ctypes.byref(mh), 0, *w.shape, place(rows), place(rows, 4), place(at), place(values)) == 0
one, zero, wide, xs, ys = ctypes.c_float(1), ctypes.c_float(0), x.shape[1], place(x), place(my)
product = mkl.mkl_sparse_s_mv if wide == 1 else mkl.mkl_sparse_s_mm`.trim()
const kMklOp = `
if wide == 1: product(10, one, mh, kind, xs, zero, ys)
else: product(10, one, mh, kind, 101, xs, wide, wide, zero, ys, wide)`.trim()

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
    bench.rival('torch', { inputs, setup: kMklSetup, op: kMklOp, result: 'my' }).then((r) => ({ ...r, name: 'mkl' as const })),
    program(root, 'eigen', bench.threads, { ...s, w, x }),
    program(root, 'libxsmm', bench.threads, { ...s, w, x }),
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

/** float32 or bfloat16 in 2:4 against {@link gemm} on the same matrix in float32. */
function pairs(dtype: 'float32' | 'bfloat16', s: Shape): Case {
  return {
    case: `${dtype === 'bfloat16' ? 'bf16' : 'f32'}pairs_${s.n}x${s.k}x${s.columns}`,
    prepare: (bench): Prepared => {
      const w = { type: 'float32', dims: [s.n, s.k], data: halved(bench, s.n * s.k) }
      const x = { type: 'float32', dims: [s.k, s.columns], data: bench.normal(s.k * s.columns) }
      const sparse = sparsify(w, { format: '2:4', dtype, columns: s.columns })
      const [out, other] = [new Float32Array(s.n * s.columns), new Float32Array(s.n * s.columns)]
      return {
        ours: () => spmm(sparse, x, { out: out as TypedArray }),
        result: () => out,
        rivals: [{ name: 'ours-dense', run: () => gemm(w, x, { out: other }), result: () => other }],
        check: close(dtype === 'bfloat16' ? { atol: 0.05, rtol: 0.05 } : kNoise),
        bound: bench.dram({ read: sparse.byteLength }),
        dispose: () => sparse.dispose(),
      }
    },
  }
}

/** int8 weights, activations by rows, against {@link gemmInt8} with packed weights. */
function int8(job: string, s: Shape, format: SparsifyOptions['format'], r: number, c: number): Case {
  return {
    case: `s8${job}_${s.n}x${s.k}x${s.columns}`,
    prepare: (bench): Prepared => {
      const floats = job === 'pairs' ? halved(bench, s.n * s.k) : pruned(bench, s, 0.8, r, c)
      const codes = Int8Array.from(floats, (v) => (v === 0 ? 0 : Math.max(-127, Math.min(127, Math.round(v * 500) || 1))))
      const w = { type: 'int8', dims: [s.n, s.k], data: codes }
      const x = { type: 'uint8', dims: [s.columns, s.k], data: bench.uint8(s.columns * s.k) }
      const sparse = sparsify(w, { ...(format ? { format } : {}), columns: s.columns })
      const packed = packInt8(w, { transpose: true })
      const [out, other] = [new Int32Array(s.n * s.columns), new Int32Array(s.n * s.columns)]
      return {
        ours: () => spmm(sparse, x, { layout: 'rows', out }),
        result: () => out,
        rivals: [{ name: 'ours-dense', run: () => gemmInt8(x, packed, { out: other }), result: () => other }],
        dispose: () => {
          sparse.dispose()
          packed.dispose()
        },
      }
    },
  }
}

const kInt8Shapes: readonly Shape[] = [
  { n: 4096, k: 4096, columns: 1 },
  { n: 3072, k: 768, columns: 1 },
  { n: 4096, k: 4096, columns: 16 },
  { n: 768, k: 768, columns: 128 },
]

export const cases: readonly Case[] = [
  ...kShapes.flatMap((s) => kPercent.map((p) => f32('csr', s, p, { format: 'csr' }))),
  ...([[4, 1], [1, 4], [8, 1], [1, 16], [16, 1], [32, 32]] as const).map(([r, c]) =>
    f32(`b${r}x${c}z`, kShapes[0] as Shape, 80, { format: { block: [r, c] } }, r, c, false),
  ),
  f32('csr', kShapes[0] as Shape, 90, { format: 'csr', dtype: 'bfloat16' }, 1, 1, false),
  ...kInt8Shapes.flatMap((s) =>
    ([[4, 1], [1, 4], [8, 1], [16, 1], [32, 32]] as const).map(([r, c]) => int8(`b${r}x${c}z80`, s, { block: [r, c] }, r, c)),
  ),
  ...kInt8Shapes.slice(0, 2).flatMap((s) => [int8('pairs', s, '2:4', 1, 1), pairs('float32', s), pairs('bfloat16', s)]),
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
    const said = dense.length < 2 ? 'not measured' : cross === null ? 'never' : cross <= (dense[0] as [number, number])[0] ? `at ${cross} % or before` : `at ${cross.toFixed(0)} %`
    text.push(`${key}: sparse overtakes dense ${said}`)
    const curves: Line[] = [
      { label: 'sparse', points: ours, kind: 'ours' },
      { label: 'our dense', points: dense, kind: 'dense' },
      { label: 'torch CSR', points: at('torch', (r) => r.rival_ms), kind: 'rival' },
      { label: 'MKL CSR, called directly', points: at('mkl', (r) => r.rival_ms), kind: 'other' },
    ]
    found.push([key, said, ...percents.map((p) => {
      const r = group.find((x) => Number(keyOf(x)?.[2]) === p && x.rival === 'torch')
      return r?.ratio ? `${r.ratio.toFixed(2)} ×` : '–'
    })]) // prettier-ignore
    html.push(`<h3>${key}</h3>`, lines(curves, { x: '% zeros', y: 'ms', mark: cross }))
  }
  if (found.length)
    html.unshift(table(['shape n × k × N', 'overtakes our dense', ...kPercent.map((p, i) => (i === 0 ? `torch / ours: ${p} %` : `${p} %`))], found))
  return { text, html: html.join('') }
}
