import { WhittleError } from '../../errors'
import { allocate, sizeOf, type Tensor, type TensorLike } from '../../tensor'
import { fail, finite, integer, oneOf, options as checkOptions, tensor } from '../../validate'
import { f32, floats, kNonFinite, optional, refuseNonFinite, runAsync, runSync, seedOf, threadsOf, type Memory, type Routine } from './routine'

declare module '../../native' {
  interface NativeBinding {
    factorCp(...args: unknown[]): number
  }
}

/** Options of {@link cp}. */
export interface CpOptions {
  /** Number of components: 1 to the number of elements over the longest dimension. May exceed every dimension. */
  readonly rank: number
  /** Sweeps over all modes, at most. Default 500. */
  readonly iterations?: number
  /** Converged when a sweep lowers the error by no more than this share of ‖X‖. Default 1e-6. */
  readonly tolerance?: number
  /** Of the random numbers of the start. Default 0. */
  readonly seed?: number
  /**
   * `'hosvd'` (default): leading singular vectors of the unfoldings, random ones beyond their number; `'random'`: normal
   * numbers; or one [dim, rank] matrix for each mode.
   */
  readonly init?: 'hosvd' | 'random' | readonly (TensorLike | Float32Array)[]
  /**
   * Weight of Σ weight² beside the squared error, relative to components of unit length. It keeps the weights below
   * ‖X‖ / √regularization, where a tensor has no best approximation of this rank and components would grow against each
   * other without end. Default 1e-6; 0 turns it off.
   */
  readonly regularization?: number
  /** Default: all that the process may use. */
  readonly threads?: number
}

/** What {@link cp} answers. */
export interface CpResult {
  /** One [dim, rank] matrix for each mode; columns of unit length. */
  readonly factors: readonly Tensor<Float32Array>[]
  /** [rank], not negative, descending. */
  readonly weights: Tensor<Float32Array>
  /** ‖X − X̂‖ (Frobenius) of what is answered. */
  readonly error: number
  /** error / ‖X‖; 0 for X = 0. */
  readonly relativeError: number
  /** Sweeps made. */
  readonly iterations: number
  /** False where `iterations` ran out first. */
  readonly converged: boolean
  /** The least product over the modes of the cosines between two components; near −1, two nearly cancel. */
  readonly congruence: number
  /** √(Σ weight²) / ‖X‖; far above 1, components cancel each other. */
  readonly amplification: number
  /**
   * congruence ≤ −0.9 or amplification ≥ 10: the components cancel, so they are sensitive to rounding and quantization.
   * Raise `regularization` or lower the rank.
   */
  readonly degenerate: boolean
}

/**
 * Canonical polyadic (CP) decomposition of a tensor of any order ≥ 2: `X ≈ Σᵣ weightᵣ · aᵣ ∘ bᵣ ∘ cᵣ ∘ …`, by alternating
 * least squares in double precision. For a convolution kernel [out, in, h, w] the four factors become a 1×1, an h×1
 * depthwise, a 1×w depthwise and a 1×1 convolution.
 *
 * ALS finds a local minimum, which depends on the start. Memory beside the tensor: its size over the longest dimension,
 * times the rank, in double; a copy where the longest dimension is neither first nor last.
 *
 * @param tensor float32, at least 2 dimensions, none empty, all finite
 * @throws {WhittleError} `ERR_RANGE` (`rank`, `tensor[i]` not finite, options), `ERR_SHAPE`, `ERR_DTYPE`, `ERR_HANDLE`
 * @see Lebedev et al. 2015; Kolda, Bader 2009
 * @example
 * const { factors, weights, relativeError, degenerate } = cp(kernel, { rank: 32 })
 */
export function cp(tensor: TensorLike, options: CpOptions): CpResult {
  return runSync((memory) => decompose(memory, tensor, options))
}

/** {@link cp} on another thread. Buffers over 256 KiB are read in place and become untransferable. */
export async function cpAsync(tensor: TensorLike, options: CpOptions): Promise<CpResult> {
  return runAsync((memory) => decompose(memory, tensor, options))
}

const kKeys = ['rank', 'iterations', 'tolerance', 'seed', 'init', 'regularization', 'threads'] as const

function* decompose(memory: Memory, given: unknown, optionsGiven: unknown): Routine<CpResult> {
  const o = checkOptions(optionsGiven, 'options', kKeys)
  const x = floats(given, 'tensor', 2)
  const dims = [...x.dims]
  const rank = integer(o.rank, 'rank', 1, sizeOf(dims) / Math.max(...dims))
  const iterations = optional(o.iterations, 500, (v) => integer(v, 'iterations', 1, 1e9))
  const tolerance = optional(o.tolerance, 1e-6, (v) => finite(v, 'tolerance', 0, 1))
  const regularization = optional(o.regularization, 1e-6, (v) => finite(v, 'regularization', 0, 1e3))
  const seed = seedOf(o.seed)
  const threads = threadsOf(o.threads)
  const list = Array.isArray(o.init) ? (o.init as readonly unknown[]) : undefined
  const init = list ? 'given' : optional(o.init, 'hosvd', (v) => oneOf(v, 'init', ['hosvd', 'random']))
  if (list && list.length !== dims.length) fail('ERR_SHAPE', 'init', `${dims.length} matrices, one for each mode`, list)
  const factors = dims.map((d, k) => (list ? start(list[k], `init[${k}]`, d, rank) : (allocate('float32', d * rank) as Float32Array)))
  const weights = allocate('float32', rank) as Float32Array
  const data = memory.input(x.data)
  const result = new Float64Array(6)
  yield {
    name: 'factorCp',
    args: [
      dims.length, Int32Array.from(dims), rank, init === 'hosvd', list !== undefined, seed, iterations, tolerance, regularization, threads,
      data, weights, result, ...factors,
    ], // prettier-ignore
    parameter: 'tensor',
    refused(status) {
      if (status !== kNonFinite) return
      refuseNonFinite('tensor', data)
      throw new WhittleError('ERR_RANGE', 'regularization', 'regularization: the components grew beyond the range of float32; raise it')
    },
  }
  const norm = Math.sqrt(result[3] as number)
  const error = Math.sqrt(result[0] as number)
  const congruence = result[4] as number
  const amplification = norm > 0 ? Math.sqrt(result[5] as number) / norm : 0
  return {
    factors: factors.map((f, k) => f32([dims[k] as number, rank], f)),
    weights: f32([rank], weights),
    error,
    relativeError: norm > 0 ? error / norm : 0,
    iterations: result[1] as number,
    converged: result[2] === 1,
    congruence,
    amplification,
    degenerate: congruence <= -0.9 || amplification >= 10,
  }
}

function start(value: unknown, parameter: string, rows: number, cols: number): Float32Array {
  const { data, dims } = tensor(value, parameter, ['float32'], ArrayBuffer.isView(value) ? [rows, cols] : undefined) as Tensor<Float32Array>
  if (dims.length !== 2 || dims[0] !== rows || dims[1] !== cols)
    throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected dims [${rows}, ${cols}], got [${dims.join(', ')}]`)
  refuseNonFinite(parameter, data)
  return data.slice()
}
