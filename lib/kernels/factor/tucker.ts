import { WhittleError } from '../../errors'
import { allocate, sizeOf, type Tensor, type TensorLike } from '../../tensor'
import { fail, finite, integer, oneOf, options as checkOptions } from '../../validate'
import { f32, floats, kNonFinite, optional, refuseTooLarge, runAsync, runSync, threadsOf, type Memory, type Routine } from './routine'

declare module '../../native' {
  interface NativeBinding {
    factorTucker(...args: unknown[]): number
    factorVbmf(...args: unknown[]): number
  }
}

/** Options of {@link tucker}. Exactly one of `ranks` and `energy`. */
export interface TuckerOptions {
  /**
   * One rank for each of `modes`, 1 to its dimension; or `'vbmf'`: what empirical variational Bayes finds in each
   * unfolding, at least 1 (see {@link vbmfRank}).
   */
  readonly ranks?: readonly number[] | 'vbmf'
  /** For each of `modes` the smallest rank whose squared singular values (of the unfolding) are this share of all: (0, 1]. */
  readonly energy?: number
  /** Which dimensions to compress; default all. `[0, 1]` of a convolution kernel is Tucker-2. */
  readonly modes?: readonly number[]
  /** `'hooi'` (default): alternating improvement, which starts from `'hosvd'`. */
  readonly method?: 'hooi' | 'hosvd'
  /** Sweeps of HOOI, at most. Default 200. */
  readonly iterations?: number
  /** Converged when a sweep lowers the error by no more than this share of ‖X‖. Default 1e-7. */
  readonly tolerance?: number
  /** Default: all that the process may use. */
  readonly threads?: number
}

/** What {@link tucker} answers. */
export interface TuckerResult {
  /** The dims of the tensor with those of `modes` replaced by `ranks`. */
  readonly core: Tensor<Float32Array>
  /** One [dim, rank] matrix with orthonormal columns for each of `modes`. */
  readonly factors: readonly Tensor<Float32Array>[]
  readonly modes: readonly number[]
  readonly ranks: readonly number[]
  /** ‖X − core ×ₖ Uₖ‖ (Frobenius) of what is answered. */
  readonly error: number
  /** error / ‖X‖; 0 for X = 0. */
  readonly relativeError: number
  /** Sweeps of HOOI; 0 for HOSVD. */
  readonly iterations: number
  /** False where `iterations` ran out first. */
  readonly converged: boolean
}

/**
 * Tucker decomposition `X ≈ core ×₀ U₀ ×₁ U₁ …`, computed in double precision. Tucker-2 of a kernel [out, in, h, w]
 * (`modes: [0, 1]`) makes three convolutions: 1×1 by U₁ᵀ, h×w by the core, 1×1 by U₀.
 *
 * HOSVD truncates each unfolding's singular vectors; HOOI then improves one factor at a time until nothing is gained. Its
 * error is never above that of HOSVD and is a local minimum.
 *
 * @param tensor float32, at least 2 dimensions, none empty, all finite
 * @throws {WhittleError} `ERR_RANGE` (`ranks[i]`, `energy`, `tensor[i]` not finite, options), `ERR_SHAPE` (`tensor`, `ranks`,
 * `modes`), `ERR_DTYPE`, `ERR_HANDLE`
 * @see De Lathauwer et al. 2000; Kim et al. 2016
 * @example
 * const { core, factors, ranks } = tucker(kernel, { modes: [0, 1], ranks: 'vbmf' })
 */
export function tucker(tensor: TensorLike, options: TuckerOptions): TuckerResult {
  return runSync((memory) => decompose(memory, tensor, options))
}

/** {@link tucker} on another thread. Buffers over 256 KiB are read in place and become untransferable. */
export async function tuckerAsync(tensor: TensorLike, options: TuckerOptions): Promise<TuckerResult> {
  return runAsync((memory) => decompose(memory, tensor, options))
}

const kKeys = ['ranks', 'energy', 'modes', 'method', 'iterations', 'tolerance', 'threads'] as const

/** @internal `FactorRanks` of core/factor.h. */
export const kChoices = { given: 0, energy: 1, vbmf: 2 } as const

/** @internal A share of energy: (0, 1]. */
export function energyOf(value: unknown): number {
  const energy = finite(value, 'energy', 0, 1)
  if (energy === 0) fail('ERR_RANGE', 'energy', 'a number above 0', value)
  return energy
}

function* decompose(memory: Memory, given: unknown, optionsGiven: unknown): Routine<TuckerResult> {
  const o = checkOptions(optionsGiven, 'options', kKeys)
  const x = floats(given, 'tensor', 2)
  const dims = [...x.dims]
  const modes = o.modes === undefined ? dims.map((_, k) => k) : modesOf(o.modes, dims.length)
  if ((o.ranks === undefined) === (o.energy === undefined)) throw new WhittleError('ERR_RANGE', 'ranks', 'ranks: give ranks or energy, one of them')
  const choice = o.energy !== undefined ? 'energy' : o.ranks === 'vbmf' ? 'vbmf' : 'given'
  const ranks = Int32Array.from(choice === 'given' ? ranksOf(o.ranks, modes, dims) : modes.map(() => 0))
  const energy = optional(o.energy, 1, energyOf)
  const method = optional(o.method, 'hooi', (v) => oneOf(v, 'method', ['hooi', 'hosvd']))
  const iterations = optional(o.iterations, 200, (v) => integer(v, 'iterations', 1, 1e9))
  const tolerance = optional(o.tolerance, 1e-7, (v) => finite(v, 'tolerance', 0, 1))
  const threads = threadsOf(o.threads)
  const dimOf = (i: number) => dims[modes[i] as number] as number
  const room = (i: number) => (choice === 'given' ? (ranks[i] as number) : dimOf(i))
  const cut = (rank: (i: number) => number) => dims.map((d, k) => (modes.includes(k) ? rank(modes.indexOf(k)) : d))
  const core = allocate('float32', sizeOf(cut(room))) as Float32Array
  const factors = modes.map((_, i) => allocate('float32', dimOf(i) * room(i)) as Float32Array)
  const data = memory.input(x.data)
  const result = new Float64Array(4)
  yield {
    name: 'factorTucker',
    args: [
      dims.length, Int32Array.from(dims), modes.length, Int32Array.from(modes), kChoices[choice], energy, method === 'hooi', iterations,
      tolerance, threads, data, ranks, core, result, ...factors,
    ], // prettier-ignore
    parameter: 'tensor',
    refused(status) {
      if (status === kNonFinite) refuseTooLarge('tensor', data)
    },
  }
  const norm = Math.sqrt(result[3] as number)
  const error = Math.sqrt(result[0] as number)
  const coreDims = cut((i) => ranks[i] as number)
  return {
    core: f32(coreDims, trimmed(core, sizeOf(coreDims))),
    factors: factors.map((f, i) => f32([dimOf(i), ranks[i] as number], trimmed(f, dimOf(i) * (ranks[i] as number)))),
    modes,
    ranks: Array.from(ranks),
    error,
    relativeError: norm > 0 ? error / norm : 0,
    iterations: result[1] as number,
    converged: result[2] === 1,
  }
}

/** @internal The first `count` elements, in memory of their own where there are more. */
export function trimmed(data: Float32Array, count: number): Float32Array {
  return data.length === count ? data : data.slice(0, count)
}

function modesOf(value: unknown, order: number): number[] {
  if (!Array.isArray(value)) fail('ERR_DTYPE', 'modes', 'an array of integers', value)
  if (value.length === 0) fail('ERR_SHAPE', 'modes', 'at least one mode', value)
  const modes = value.map((m: unknown, i) => integer(m, `modes[${i}]`, 0, order - 1))
  for (let i = 1; i < modes.length; i++)
    if ((modes[i] as number) <= (modes[i - 1] as number)) fail('ERR_RANGE', `modes[${i}]`, 'ascending modes, each once', modes[i])
  return modes
}

function ranksOf(value: unknown, modes: readonly number[], dims: readonly number[]): number[] {
  if (!Array.isArray(value)) fail('ERR_DTYPE', 'ranks', "an array of integers, or 'vbmf'", value)
  if (value.length !== modes.length) fail('ERR_SHAPE', 'ranks', `${modes.length} ranks, one for each mode`, value)
  return value.map((r: unknown, i) => integer(r, `ranks[${i}]`, 1, dims[modes[i] as number] as number))
}

/** What {@link vbmfRank} answers. */
export interface VbmfRank {
  /** 0 where nothing stands out of the noise. */
  readonly rank: number
  /** Standard deviation of the noise in one element. */
  readonly noise: number
}

/**
 * The rank of a matrix that carries Gaussian noise of unknown strength: the global solution of empirical variational Bayes
 * matrix factorization. It keeps the singular values above a threshold that follows from the noise, which is itself found
 * from the spectrum.
 *
 * @param singularValues min(rows, columns) of them, descending, not negative
 * @param dims [rows, columns]
 * @throws {WhittleError} `ERR_SHAPE` (`singularValues`, `dims`), `ERR_RANGE` (`singularValues[i]` negative, not finite or not
 * descending), `ERR_DTYPE`
 * @see Nakajima, Sugiyama, Babacan, Tomioka 2013; used for layer ranks by Kim et al. 2016
 * @example
 * vbmfRank([9.1, 7.4, 1.1, 1, 0.9], [5, 8]).rank
 */
export function vbmfRank(singularValues: ArrayLike<number>, dims: readonly [rows: number, columns: number]): VbmfRank {
  if (!Array.isArray(dims) || dims.length !== 2) fail('ERR_SHAPE', 'dims', '[rows, columns]', dims)
  const [rows, columns] = [integer(dims[0], 'dims[0]', 1, 2 ** 31), integer(dims[1], 'dims[1]', 1, 2 ** 31)]
  if (!Array.isArray(singularValues) && !ArrayBuffer.isView(singularValues)) fail('ERR_DTYPE', 'singularValues', 'an array of numbers', singularValues)
  const count = Math.min(rows, columns)
  if (singularValues.length !== count) fail('ERR_SHAPE', 'singularValues', `${count} numbers, as many as the smaller dimension`, singularValues)
  const squares = new Float64Array(count)
  for (let i = 0; i < count; i++) {
    const s = finite(singularValues[i], `singularValues[${i}]`, 0)
    if (i > 0 && s > (singularValues[i - 1] as number)) fail('ERR_RANGE', `singularValues[${i}]`, 'descending numbers', s)
    squares[i] = s
  }
  // Squares of tiny or huge numbers stay within double precision this way.
  const scale = (squares[0] as number) || 1
  for (let i = 0; i < count; i++) squares[i] = ((squares[i] as number) / scale) ** 2
  const result = new Float64Array(2)
  runSync(function* (): Routine<void> {
    yield { name: 'factorVbmf', args: [count, rows, columns, squares, result], parameter: 'singularValues' }
  })
  return { rank: result[0] as number, noise: Math.sqrt(result[1] as number) * scale }
}
