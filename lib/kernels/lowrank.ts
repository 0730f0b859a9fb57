import { pin } from '../async'
import { WhittleError } from '../errors'
import { check, native } from '../native'
import { allocate, type Tensor, type TensorLike } from '../tensor'
import { fail, finite, integer, oneOf, options, tensor } from '../validate'
import { matrixOf, svd, svdAsync, type Floats, type Svd, type SvdMethod, type SvdOptions } from './svd'

type WhitenCall = [params: Float64Array, a: Floats, moments: Float64Array, l: Float64Array, out: Floats, used: Float64Array]
type UnwhitenCall = [rank: number, n: number, l: Float64Array, b: Float64Array]

declare module '../native' {
  interface NativeBinding {
    svdWhitenFloat32(...args: WhitenCall): number
    svdWhitenFloat32Async(...args: WhitenCall): Promise<number>
    svdWhitenFloat64(...args: WhitenCall): number
    svdWhitenFloat64Async(...args: WhitenCall): Promise<number>
    svdUnwhiten(...args: UnwhitenCall): number
    svdUnwhitenAsync(...args: UnwhitenCall): Promise<number>
  }
}

export interface LowRankOptions {
  /** Most columns of A, 1 … min(M, N). Default, where no condition is given either: the most that saves parameters. */
  readonly rank?: number
  /** Share of the squared norm to keep, in (0, 1]; see {@link SvdOptions}. */
  readonly energy?: number
  /** Relative error allowed, in [0, 1]: ‖W − A·B‖ ≤ maxError·‖W‖; with `secondMoments` in their norm. */
  readonly maxError?: number
  /**
   * Σ x·xᵀ over calibration inputs x of the layer (any scale, also the mean), [inputs, inputs], symmetric. The factors are
   * then the best for W·x over such inputs instead of the best for W.
   */
  readonly secondMoments?: TensorLike | Floats
  /** Which dimension of `w` meets the inputs: `'columns'` for [out, in] (linear layers; default), `'rows'` for [in, out]. */
  readonly inputs?: 'columns' | 'rows'
  /** Added to the diagonal of `secondMoments`, in units of its mean, 0 … 1. Default 1e-6; grows where that is too little. */
  readonly damping?: number
  readonly method?: SvdOptions['method']
  readonly seed?: number
  /** Dims of `w` where it is given as a bare typed array. */
  readonly dims?: readonly number[]
}

/** W ≈ A·B. */
export interface LowRank<T extends Floats = Floats> {
  /** U·Σ^½: [M, rank]. */
  readonly a: Tensor<T>
  /** Σ^½·Vᵀ, times L⁻¹ where whitened: [rank, N]. (With `inputs: 'rows'` A carries L⁻ᵀ instead.) */
  readonly b: Tensor<T>
  readonly rank: number
  /** ‖W − A·B‖, Frobenius. */
  readonly error: number
  /** `error` over ‖W‖; 0 for a zero matrix. */
  readonly relativeError: number
  /**
   * Error in the norm that was minimized, relative: ‖(W − A·B)·L‖ / ‖W·L‖ with L·Lᵀ the damped second moments, which is the
   * relative error of the layer's outputs over the calibration inputs. Without these, `relativeError`.
   */
  readonly outputError: number
  /** rank·(M + N) < M·N: the factors hold fewer numbers than the matrix. */
  readonly saves: boolean
  /** Numbers in A and B together. */
  readonly parameters: number
  /** The damping used; 0 without `secondMoments`. */
  readonly damping: number
  readonly method: SvdMethod
  readonly iterations: number
  readonly converged: boolean
}

const kOptions = ['rank', 'energy', 'maxError', 'secondMoments', 'inputs', 'damping', 'method', 'seed', 'dims'] as const

interface Prepared {
  readonly w: Tensor<Floats>
  readonly m: number
  readonly n: number
  readonly rows: boolean
  readonly svd: SvdOptions
  readonly whiten: WhitenCall | undefined
}

/** @internal Where the largest of a call's memory lies, and what is called when none of it is needed for a while. */
export interface LowRankRoom {
  readonly allocate: typeof allocate
  readonly ease: () => void
}

const kPlain: LowRankRoom = { allocate, ease: () => undefined }

/** The moments as float64, checked: finite, symmetric, no negative on the diagonal, not all zero. A copy where `copy` is set. */
function momentsOf(value: unknown, inputs: number, copy: boolean): Float64Array {
  const t = tensor(value, 'secondMoments', ['float32', 'float64'], ArrayBuffer.isView(value) ? [inputs, inputs] : undefined)
  if (t.dims.length !== 2 || t.dims[0] !== inputs || t.dims[1] !== inputs)
    throw new WhittleError('ERR_SHAPE', 'secondMoments', `secondMoments: expected dims [${inputs}, ${inputs}], one for each input, got [${t.dims.join(', ')}]`)
  const c = t.type === 'float64' && !copy ? (t.data as Float64Array) : Float64Array.from(t.data as Floats)
  const bad = c.findIndex((x) => !Number.isFinite(x))
  if (bad >= 0) fail('ERR_RANGE', `secondMoments[${bad}]`, 'a finite number', c[bad])
  let trace = 0
  for (let i = 0; i < inputs; i++) {
    const d = c[i * inputs + i] as number
    if (d < 0) fail('ERR_RANGE', `secondMoments[${i * inputs + i}]`, 'a sum of squares, >= 0', d)
    trace += d
  }
  if (trace === 0) throw new WhittleError('ERR_RANGE', 'secondMoments', 'secondMoments: expected moments of inputs that are not all zero')
  for (let i = 0; i < inputs; i++)
    for (let j = 0; j < i; j++) {
      const [x, y] = [c[i * inputs + j] as number, c[j * inputs + i] as number]
      const scale = Math.sqrt((c[i * inputs + i] as number) * (c[j * inputs + j] as number))
      if (Math.abs(x - y) > 1e-3 * scale + 1e-6 * (trace / inputs))
        fail('ERR_RANGE', `secondMoments[${i * inputs + j}]`, `the number at [${j * inputs + i}], ${y}: a symmetric matrix`, x)
    }
  return c
}

type Given = Partial<Record<(typeof kOptions)[number], unknown>>

/** @internal */
export const lowRankOptions = (value: unknown): Given => options(value, 'options', kOptions)

/** @internal What options ask of the decomposition of a matrix of these dims, and of whitening. */
export function lowRankTerms(dims: readonly number[], o: Given): { rows: boolean; damping: number; svd: SvdOptions } {
  if (dims.length !== 2) throw new WhittleError('ERR_SHAPE', 'w', `w: expected 2 dimensions, got [${dims.join(', ')}]`)
  const [m, n] = dims as [number, number]
  const thin = Math.min(m, n)
  const energy = o.energy === undefined ? undefined : finite(o.energy, 'energy', 0, 1)
  if (energy === 0) fail('ERR_RANGE', 'energy', 'a number above 0, at most 1', 0)
  const tolerance = o.maxError === undefined ? undefined : finite(o.maxError, 'maxError', 0, 1)
  const saving = Math.max(1, Math.ceil((m * n) / (m + n)) - 1)
  const rank =
    o.rank === undefined
      ? energy === undefined && tolerance === undefined ? Math.min(saving, thin) : thin
      : integer(o.rank, 'rank', 1, thin) // prettier-ignore
  const rows = o.inputs === undefined ? false : oneOf(o.inputs, 'inputs', ['columns', 'rows'] as const) === 'rows'
  const damping = o.damping === undefined ? 1e-6 : finite(o.damping, 'damping', 0, 1)
  const method = o.method === undefined ? 'auto' : oneOf(o.method, 'method', ['full', 'randomized', 'auto'] as const)
  const seed = o.seed === undefined ? 0 : integer(o.seed, 'seed', 0, 2 ** 32 - 1)
  const svd: SvdOptions = {
    rank,
    method,
    seed,
    ...(energy === undefined ? {} : { energy }),
    ...(tolerance === undefined ? {} : { tolerance }),
  }
  return { rows, damping, svd }
}

function prepare(value: unknown, optionsValue: unknown, room: LowRankRoom, copy: boolean): Prepared {
  const o = lowRankOptions(optionsValue)
  const w = matrixOf(value, 'w', o.dims)
  const { rows, damping, svd } = lowRankTerms(w.dims, o)
  const [m, n] = w.dims as [number, number]
  let whiten: WhitenCall | undefined
  if (o.secondMoments !== undefined) {
    const inputs = rows ? m : n
    const outputs = rows ? n : m
    const moments = momentsOf(o.secondMoments, inputs, copy)
    room.ease()
    const params = Float64Array.of(outputs, inputs, rows ? 1 : 0, damping)
    const l = room.allocate('float64', inputs * inputs, 'secondMoments') as Float64Array
    whiten = [params, w.data, moments, l, room.allocate(w.type, m * n, 'w') as Floats, new Float64Array(1)]
  }
  return { w, m, n, rows, svd, whiten }
}

/** What is decomposed: `w`, or with moments W·L with the inputs last. */
function target({ w, m, n, rows, whiten }: Prepared): Tensor<Floats> {
  return whiten ? { type: w.type, dims: rows ? [n, m] : [m, n], data: whiten[4] } : w
}

function whitened(status: number, { w }: Prepared): void {
  const kRange = 3
  const kNonFinite = 8
  if (status === kRange)
    throw new WhittleError('ERR_RANGE', 'secondMoments', 'secondMoments: expected a positive semidefinite matrix, as sums of x·xᵀ are')
  if (status === kNonFinite) {
    const at = w.data.findIndex((x) => !Number.isFinite(x))
    if (at >= 0) fail('ERR_RANGE', `w[${at}]`, 'a finite number', w.data[at])
    throw new WhittleError('ERR_RANGE', 'secondMoments', `secondMoments: w times their root is beyond the range of ${w.type}; scale them down`)
  }
  check(status, 'w')
}

/** Σ^½ times the transposed vectors: [rank, side]. */
function scaledRows(vectors: Floats, s: Floats, side: number): Float64Array {
  const rank = s.length
  const out = new Float64Array(rank * side)
  for (let k = 0; k < rank; k++) {
    const root = Math.sqrt(s[k] as number)
    for (let i = 0; i < side; i++) out[k * side + i] = (vectors[i * rank + k] as number) * root
  }
  return out
}

function scaledColumns(vectors: Floats, s: Floats, side: number): Float64Array {
  const rank = s.length
  const roots = Array.from(s, Math.sqrt)
  const out = new Float64Array(side * rank)
  for (let i = 0; i < side; i++) for (let k = 0; k < rank; k++) out[i * rank + k] = (vectors[i * rank + k] as number) * (roots[k] as number)
  return out
}

function transposed(x: Float64Array, rows: number, cols: number): Float64Array {
  const out = new Float64Array(x.length)
  for (let i = 0; i < rows; i++) for (let j = 0; j < cols; j++) out[j * rows + i] = x[i * cols + j] as number
  return out
}

/** The side of the inputs as [rank, inputs], which whitening is still to be taken from. */
function inputSide(p: Prepared, d: Svd): Float64Array {
  return scaledRows(d.v.data, d.s.data, p.whiten && p.rows ? p.m : p.n)
}

function finish(p: Prepared, d: Svd, right: Float64Array): LowRank {
  const { w, m, n, rows, whiten } = p
  const { rank } = d
  const swapped = whiten !== undefined && rows
  // Decomposed was [out, in] where whitened, so that with inputs in rows the factors change sides.
  const left = scaledColumns(d.u.data, d.s.data, swapped ? n : m)
  const [a, b] = swapped ? [transposed(right, rank, m), transposed(left, n, rank)] : [left, right]
  const typed = (data: Float64Array, dims: number[]): Tensor<Floats> => {
    const out = allocate(w.type, data.length, 'w') as Floats
    out.set(data)
    return { type: w.type, dims, data: out }
  }
  let { error, relativeError } = d
  if (whiten) {
    let [sum, norm] = [0, 0]
    const row = new Float64Array(n)
    for (let i = 0; i < m; i++) {
      row.set(w.data.subarray(i * n, (i + 1) * n))
      for (let j = 0; j < n; j++) norm += (row[j] as number) ** 2
      for (let k = 0; k < rank; k++) {
        const f = a[i * rank + k] as number
        for (let j = 0; j < n; j++) (row[j] as number) -= f * (b[k * n + j] as number)
      }
      for (let j = 0; j < n; j++) sum += (row[j] as number) ** 2
    }
    error = Math.sqrt(sum)
    relativeError = norm > 0 ? Math.sqrt(sum / norm) : 0
  }
  return {
    a: typed(a, [m, rank]),
    b: typed(b, [rank, n]),
    rank,
    error,
    relativeError,
    outputError: d.relativeError,
    saves: rank * (m + n) < m * n,
    parameters: rank * (m + n),
    damping: whiten ? (whiten[5][0] as number) : 0,
    method: d.method,
    iterations: d.iterations,
    converged: d.converged,
  }
}

/** An error of the decomposition names `a`, which the caller knows as `w`. */
function renamed(e: unknown): never {
  if (e instanceof WhittleError && e.parameter.startsWith('a'))
    throw new WhittleError(e.code, `w${e.parameter.slice(1)}`, `w${e.message.slice(1)}`, { cause: e })
  throw e
}

/**
 * Two factors for a weight matrix, W ≈ A·B, balanced: A = U·Σ^½ and B = Σ^½·Vᵀ of its singular value decomposition. They hold
 * fewer numbers than W where rank < M·N/(M + N), which `saves` says.
 *
 * With `secondMoments` C = Σ x·xᵀ of the layer's inputs the factors minimize the error of the outputs, ‖(W − A·B)·L‖ with
 * L·Lᵀ = C + damping: W·L is decomposed and L⁻¹ folded into the factor that meets the inputs (SVD-LLM, Wang et al. 2024).
 *
 * @param w float32 or float64 matrix [M, N], or a typed array with `dims`
 * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE`, `ERR_RANGE` (options; a NaN or infinity; moments that are not symmetric,
 * not positive semidefinite or all zero), `ERR_HANDLE`, `ERR_OUT_OF_MEMORY`
 * @example
 * const w = { type: 'float32', dims: [768, 3072], data: weights }
 * const { a, b, rank, saves } = lowRank(w, { maxError: 0.1 }) // w·x ≈ a·(b·x)
 */
export function lowRank(w: TensorLike | Floats, options?: LowRankOptions): LowRank {
  return lowRankIn(kPlain, w, options)
}

/** @internal {@link lowRank} with its largest memory in `room`. */
export function lowRankIn(room: LowRankRoom, w: TensorLike | Floats, options?: LowRankOptions): LowRank {
  const p = prepare(w, options, room, false)
  if (p.whiten) whitened(native()[p.w.type === 'float64' ? 'svdWhitenFloat64' : 'svdWhitenFloat32'](...p.whiten), p)
  room.ease()
  let d: Svd
  try {
    d = svd(target(p), { ...p.svd, vectors: true })
  } catch (e) {
    renamed(e)
  }
  room.ease()
  const right = inputSide(p, d)
  if (p.whiten) check(native().svdUnwhiten(d.rank, p.rows ? p.m : p.n, p.whiten[3], right), 'w')
  return finish(p, d, right)
}

/** {@link lowRank} off the JavaScript thread; `w` must not be written until the promise settles. */
export async function lowRankAsync(w: TensorLike | Floats, options?: LowRankOptions): Promise<LowRank> {
  const checked = prepare(w, options, kPlain, true)
  const data = pin(checked.w.data)
  const p: Prepared = { ...checked, w: { ...checked.w, data } }
  if (p.whiten) {
    const [params, , moments, l, out, used] = p.whiten
    const run = native()[p.w.type === 'float64' ? 'svdWhitenFloat64Async' : 'svdWhitenFloat32Async']
    whitened(await run(params, data, moments, l, out, used), p)
  }
  const d = await svdAsync(target(p), { ...p.svd, vectors: true }).catch(renamed)
  const right = inputSide(p, d)
  if (p.whiten) check(await native().svdUnwhitenAsync(d.rank, p.rows ? p.m : p.n, p.whiten[3], right), 'w')
  return finish(p, d, right)
}
