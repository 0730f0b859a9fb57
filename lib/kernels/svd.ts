import { pin } from '../async'
import { WhittleError } from '../errors'
import { check, native } from '../native'
import { allocate, sizeOf, type Tensor, type TensorLike } from '../tensor'
import { boolean, fail, finite, integer, oneOf, options, tensor } from '../validate'

type SvdCall = [params: Float64Array, a: Floats, u: Floats | null, s: Floats, v: Floats | null, result: Float64Array]

declare module '../native' {
  interface NativeBinding {
    svdFloat32(...args: SvdCall): number
    svdFloat32Async(...args: SvdCall): Promise<number>
    svdFloat64(...args: SvdCall): number
    svdFloat64Async(...args: SvdCall): Promise<number>
  }
}

/** Data of float32 and float64 tensors. */
export type Floats = Float32Array | Float64Array

/** How {@link svd} computes: `'full'` is exact, `'randomized'` finds leading triplets only. */
export type SvdMethod = 'full' | 'randomized'

export interface SvdOptions {
  /** Most triplets to answer, 1 … min(M, N). Default min(M, N). */
  readonly rank?: number
  /** Share of Σσ² to keep, in (0, 1]: the smallest rank with Σ_{i≤r}σ² ≥ energy·Σσ², at most `rank`. */
  readonly energy?: number
  /** Relative error allowed, in [0, 1]: the smallest rank with ‖A − A_r‖ ≤ tolerance·‖A‖ (Frobenius), at most `rank`. */
  readonly tolerance?: number
  /** False: singular values only. Default true. */
  readonly vectors?: boolean
  /** Default `'auto'`: randomized where `rank` alone is given and small against M and N, else full. */
  readonly method?: SvdMethod | 'auto'
  /** Start of the randomized method, an integer from 0 to 2³² − 1. Default 0; the full method has no chance in it. */
  readonly seed?: number
  /** Steps of the randomized method, 1 … 50. Default: as many as its search space takes, and up to 14 until it has converged. */
  readonly iterations?: number
  /** Dimensions that the randomized method adds to `rank` for its search space. Default 0.75·rank, at least 32. */
  readonly oversampling?: number
  /** Dims of `a` where it is given as a bare typed array. */
  readonly dims?: readonly number[]
}

/** What {@link svd} answers with `vectors: false`. */
export interface SingularValues<T extends Floats = Floats> {
  /** Singular values, descending: […, rank]. */
  readonly s: Tensor<T>
  /** Triplets kept. In a stack the largest that any matrix asks for; those that asked for less have zeros there. */
  readonly rank: number
  /** ‖A − U·diag(s)·Vᵀ‖, the Frobenius norm over the whole stack, of the triplets before they are rounded to the type. */
  readonly error: number
  /** `error` over the Frobenius norm of `a`; 0 for a zero matrix. */
  readonly relativeError: number
  /** The one used: `'full'` also where the randomized search space would have been the whole. */
  readonly method: SvdMethod
  /** Steps taken: by the slowest eigenvalue or, randomized, to build the search space. */
  readonly iterations: number
  /**
   * Full: every eigenvalue was found. Randomized: going by its last two steps, more would lower the error by less than 3 %
   * (errors under 1e-6 of the norm of `a` count as 0), and where many values are equal a fresh start found no more of them;
   * false with equal values and `iterations` given, as there is no such start then.
   */
  readonly converged: boolean
  /** Randomized: a bound on the share by which the last step lowered the error. Full: 0. */
  readonly improvement: number
}

/** A ≈ U·diag(s)·Vᵀ. */
export interface Svd<T extends Floats = Floats> extends SingularValues<T> {
  /** Left singular vectors, one a column: […, M, rank]. */
  readonly u: Tensor<T>
  /** Right singular vectors, one a column: […, N, rank]. */
  readonly v: Tensor<T>
}

const kOptions = ['rank', 'energy', 'tolerance', 'vectors', 'method', 'seed', 'iterations', 'oversampling', 'dims'] as const
const kNonFinite = 8

/** @internal A float32 or float64 matrix or stack of them, no dimension 0. */
export function matrixOf(value: unknown, parameter: string, shape?: unknown): Tensor<Floats> {
  const t = tensor(value, parameter, ['float32', 'float64'], shape) as Tensor<Floats>
  const shown = `[${t.dims.join(', ')}]`
  if (t.dims.length < 2) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected at least 2 dimensions, got ${shown}`)
  if (t.data.length === 0) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected no dimension of 0, got ${shown}`)
  return t
}

type Seven = [number, number, number, number, number, number, number]

/** @internal What options ask for of matrices of these dims; `numbers` in the order of the native call. */
export interface SvdPlan {
  readonly batch: number
  readonly m: number
  readonly n: number
  readonly maxRank: number
  readonly vectors: boolean
  readonly adaptive: boolean
  readonly numbers: readonly number[]
}

/** @internal */
export const svdOptions = (value: unknown): Partial<Record<(typeof kOptions)[number], unknown>> => options(value, 'options', kOptions)

/** @internal */
export function svdPlan(dims: readonly number[], o: ReturnType<typeof svdOptions>): SvdPlan {
  const m = dims[dims.length - 2] as number
  const n = dims[dims.length - 1] as number
  const thin = Math.min(m, n)
  const batch = sizeOf(dims.slice(0, -2))
  const maxRank = o.rank === undefined ? thin : integer(o.rank, 'rank', 1, thin)
  const energy = o.energy === undefined ? -1 : finite(o.energy, 'energy', 0, 1)
  if (energy === 0) fail('ERR_RANGE', 'energy', 'a number above 0, at most 1', 0)
  const tolerance = o.tolerance === undefined ? -1 : finite(o.tolerance, 'tolerance', 0, 1)
  const vectors = o.vectors === undefined ? true : boolean(o.vectors, 'vectors')
  const wanted = o.method === undefined ? 'auto' : oneOf(o.method, 'method', ['full', 'randomized', 'auto'] as const)
  const seed = o.seed === undefined ? 0 : integer(o.seed, 'seed', 0, 2 ** 32 - 1)
  const iterations = o.iterations === undefined ? 0 : integer(o.iterations, 'iterations', 1, 50)
  const oversampling = o.oversampling === undefined ? -1 : integer(o.oversampling, 'oversampling', 0, thin)
  const adaptive = energy >= 0 || tolerance >= 0
  const method = wanted === 'auto' ? (!adaptive && maxRank <= thin / 8 ? 'randomized' : 'full') : wanted
  const size = (side: number) => batch * side * maxRank
  if (size(Math.max(m, n)) > 2 ** 31 - 1) fail('ERR_SHAPE', 'a', 'vectors of at most 2147483647 elements', `[${dims.join(', ')}]`)
  const numbers = [batch, m, n, vectors ? 1 : 0, method === 'full' ? 0 : 1, maxRank, energy, tolerance, iterations, oversampling, seed]
  return { batch, m, n, maxRank, vectors, adaptive, numbers }
}

interface Prepared {
  readonly call: SvdCall
  readonly a: Tensor<Floats>
  readonly maxRank: number
}

function prepare(value: unknown, optionsValue: unknown): Prepared {
  const o = svdOptions(optionsValue)
  const a = matrixOf(value, 'a', o.dims)
  const { batch, m, n, maxRank, vectors, numbers } = svdPlan(a.dims, o)
  const size = (side: number) => batch * side * maxRank
  const floats = (count: number, parameter: string) => allocate(a.type, count, parameter) as Floats
  const call: SvdCall = [
    Float64Array.from(numbers),
    a.data,
    vectors ? floats(size(m), 'u') : null,
    floats(batch * maxRank, 's'),
    vectors ? floats(size(n), 'v') : null,
    new Float64Array(7),
  ]
  return { call, a, maxRank }
}

/** The first `rank` of every `from` columns, in memory of their own where that is fewer. */
function columns(data: Floats, rows: number, from: number, rank: number, packed: boolean): Floats {
  if (rank === from) return data
  if (packed) return data.slice(0, rows * rank)
  const out = data.slice(0, rows * rank)
  for (let i = 0; i < rows; i++) out.set(data.subarray(i * from, i * from + rank), i * rank)
  return out
}

type Scalars = Omit<SingularValues, 's'>

/** @internal What the native call answers beside tensors. */
export function svdScalars(result: Float64Array): Scalars {
  const [rank, error, norm, improvement, iterations, converged, full] = Array.from(result) as Seven
  return {
    rank,
    error,
    relativeError: norm > 0 ? error / norm : 0,
    method: full === 1 ? 'full' : 'randomized',
    iterations,
    converged: converged === 1,
    improvement,
  }
}

function finish(status: number, { call, a, maxRank }: Prepared): SingularValues & Partial<Svd> {
  if (status === kNonFinite) {
    const at = a.data.findIndex((x) => !Number.isFinite(x))
    fail('ERR_RANGE', `a[${at}]`, 'a finite number', a.data[at])
  }
  check(status, 'a')
  const [, , u, s, v, result] = call
  const scalars = svdScalars(result)
  const { rank } = scalars
  if (s.some((x) => !Number.isFinite(x)))
    throw new WhittleError('ERR_RANGE', 'a', `a: a singular value is beyond the range of ${a.type}; scale the matrix down`)
  const lead = a.dims.slice(0, -2)
  const batch = sizeOf(lead)
  const m = a.dims[a.dims.length - 2] as number
  const n = a.dims[a.dims.length - 1] as number
  const made = (side: number | undefined, data: Floats): Tensor<Floats> => ({
    type: a.type,
    dims: side === undefined ? [...lead, rank] : [...lead, side, rank],
    data: columns(data, batch * (side ?? 1), maxRank, rank, batch === 1),
  })
  return {
    ...(u && v ? { u: made(m, u), v: made(n, v) } : {}),
    s: made(undefined, s),
    ...scalars,
  }
}

/**
 * Singular value decomposition A ≈ U·diag(s)·Vᵀ of a matrix or of each in a stack.
 *
 * `a` is […, M, N], float32 or float64; results have its type. Everything is thin: U is […, M, rank], V […, N, rank]
 * (not transposed), both orthonormal also where `a` has not that rank. Signs are chosen so that of each column of U the
 * element of largest magnitude is positive.
 *
 * `'full'` computes in float64: singular values of float32 input are right to about 1e-7·σ₁ (values only: 1e-7·σ₁ too,
 * though exact zeros come out as up to that), of float64 input to about 1e-15·N·σ₁. `'randomized'` searches a block Krylov
 * space (Musco & Musco, 2015) with the given seed: its error is at most about 1.01 times the best of that rank for
 * decaying spectra, 1.02 for matrices without any structure. With `energy` or `tolerance` it doubles its search
 * until they are met.
 *
 * Convergence is reported, not assumed: see `converged`. Results depend on the CPU variant and the seed, not on the number
 * of threads.
 *
 * @param a float32 or float64 tensor of rank ≥ 2, no dimension 0; or a typed array with `dims`
 * @throws {WhittleError} `ERR_SHAPE`; `ERR_DTYPE`; `ERR_RANGE` for a NaN or infinity in `a` (`a[i]`), a `rank` beyond
 * min(M, N) and other options out of range; `ERR_HANDLE` for a detached buffer; `ERR_OUT_OF_MEMORY`
 * @example
 * const a = { type: 'float32', dims: [2, 2], data: new Float32Array([3, 0, 0, 4]) }
 * svd(a).s.data // Float32Array(2) [ 4, 3 ]
 * svd(a, { energy: 0.6 }).rank // 1: 16 of 25
 */
export function svd(a: TensorLike | Floats, options: SvdOptions & { readonly vectors: false }): SingularValues
export function svd(a: TensorLike | Floats, options?: SvdOptions & { readonly vectors?: true }): Svd
export function svd(a: TensorLike | Floats, options?: SvdOptions): SingularValues & Partial<Svd>
export function svd(a: TensorLike | Floats, options?: SvdOptions): SingularValues & Partial<Svd> {
  const p = prepare(a, options)
  return finish(native()[p.a.type === 'float64' ? 'svdFloat64' : 'svdFloat32'](...p.call), p)
}

/** {@link svd} off the JavaScript thread; `a` must not be written until the promise settles. */
export function svdAsync(a: TensorLike | Floats, options: SvdOptions & { readonly vectors: false }): Promise<SingularValues>
export function svdAsync(a: TensorLike | Floats, options?: SvdOptions & { readonly vectors?: true }): Promise<Svd>
export function svdAsync(a: TensorLike | Floats, options?: SvdOptions): Promise<SingularValues & Partial<Svd>>
export async function svdAsync(a: TensorLike | Floats, options?: SvdOptions): Promise<SingularValues & Partial<Svd>> {
  const p = prepare(a, options)
  const [params, data, u, s, v, result] = p.call
  const run = native()[p.a.type === 'float64' ? 'svdFloat64Async' : 'svdFloat32Async']
  const pinned = pin(data)
  return finish(await run(params, pinned, u, s, v, result), { ...p, a: { ...p.a, data: pinned } })
}
