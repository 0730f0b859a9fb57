import { WhittleError } from '../../errors'
import { allocate, type Tensor, type TensorLike } from '../../tensor'
import { fail, finite, integer, oneOf, options as checkOptions, tensor } from '../../validate'
import { f32, floats, kNonFinite, kRange, optional, refuseNonFinite, runAsync, runSync, seedOf, threadsOf, type Memory, type Routine } from './routine'

declare module '../../native' {
  // core/factor.h; the order of arguments is that of binding/factor.cpp.
  interface NativeBinding {
    factorNmf(...args: unknown[]): number
  }
}

/** Options of {@link nmf}. */
export interface NmfOptions {
  /** 1 to min(m, n). */
  readonly rank: number
  /**
   * `'hals'` (default; Cichocki, Phan 2009) solves for one component at a time and needs far fewer iterations;
   * `'multiplicative'` (Lee, Seung 2001) never raises the error, but slows down, and a zero stays zero.
   */
  readonly method?: 'hals' | 'multiplicative'
  /** At most so many; each updates W, then H. Default 1000; 0 answers the start. */
  readonly iterations?: number
  /**
   * Every 10 iterations the error is measured; converged when it fell by no more than this share of the first one. Default
   * 1e-5; 0 goes on until it no longer falls.
   */
  readonly tolerance?: number
  /** Of the random start. Default 0. */
  readonly seed?: number
  /** A start: `w` [m, rank] and `h` [rank, n], not negative. */
  readonly init?: { readonly w: TensorLike | Float32Array; readonly h: TensorLike | Float32Array }
  /** Default: all that the process may use. */
  readonly threads?: number
}

/** What {@link nmf} answers. */
export interface NmfResult {
  /** [m, rank], not negative. */
  readonly w: Tensor<Float32Array>
  /** [rank, n], not negative. */
  readonly h: Tensor<Float32Array>
  /** ‖A − WH‖ (Frobenius), measured. */
  readonly error: number
  /** error / ‖A‖; 0 for A = 0. */
  readonly relativeError: number
  readonly iterations: number
  /** False where `iterations` ran out first. */
  readonly converged: boolean
}

/**
 * Non-negative matrix factorization: `A ≈ W H` with all three non-negative, in the Frobenius norm.
 *
 * The problem has many local minima; another `seed` may find a better one. The start is |normal| · √(mean(A)/rank). The
 * work is in float32, the error is that of A − WH in float32, squared and added in double precision.
 *
 * @param a float32 [m, n], finite, no element negative, none empty
 * @throws {WhittleError} `ERR_RANGE` (`a[i]` negative or not finite; `rank`; options), `ERR_SHAPE`, `ERR_DTYPE`, `ERR_HANDLE`
 * @see Lee, Seung 2001; Cichocki, Phan 2009
 * @example
 * const { w, h, relativeError, converged } = nmf({ type: 'float32', dims: [256, 128], data }, { rank: 16 })
 */
export function nmf(a: TensorLike, options: NmfOptions): NmfResult {
  return runSync((memory) => factorize(memory, a, options))
}

/** {@link nmf} on another thread. Buffers over 256 KiB are read in place and become untransferable. */
export async function nmfAsync(a: TensorLike, options: NmfOptions): Promise<NmfResult> {
  return runAsync((memory) => factorize(memory, a, options))
}

const kKeys = ['rank', 'method', 'iterations', 'tolerance', 'seed', 'init', 'threads'] as const

function* factorize(memory: Memory, given: unknown, optionsGiven: unknown): Routine<NmfResult> {
  const o = checkOptions(optionsGiven, 'options', kKeys)
  const a = floats(given, 'a', 2, 2)
  const [m, n] = a.dims as [number, number]
  const rank = integer(o.rank, 'rank', 1, Math.min(m, n))
  const method = optional(o.method, 'hals', (v) => oneOf(v, 'method', ['hals', 'multiplicative']))
  const iterations = optional(o.iterations, 1000, (v) => integer(v, 'iterations', 0, 1e9))
  const tolerance = optional(o.tolerance, 1e-5, (v) => finite(v, 'tolerance', 0, 1))
  const seed = seedOf(o.seed)
  const threads = threadsOf(o.threads)
  const init = o.init === undefined ? undefined : checkOptions(o.init, 'init', ['w', 'h'])
  const w = init ? start(init.w, 'init.w', m, rank) : (allocate('float32', m * rank) as Float32Array)
  const h = init ? start(init.h, 'init.h', rank, n) : (allocate('float32', rank * n) as Float32Array)
  const data = memory.input(a.data)
  const result = new Float64Array(4)
  yield {
    name: 'factorNmf',
    args: [m, n, rank, method === 'hals', init !== undefined, seed, iterations, tolerance, threads, data, w, h, result],
    parameter: 'a',
    refused(status) {
      if (status === kNonFinite) {
        refuseNonFinite('a', data)
        throw new WhittleError('ERR_RANGE', 'init', 'init: the iterations left the range of float32; give a start nearer to a')
      }
      if (status !== kRange) return
      const at = data.findIndex((v) => v < 0)
      fail('ERR_RANGE', `a[${at}]`, 'no negative number', data[at])
    },
  }
  const error = Math.sqrt(result[0] as number)
  const norm = Math.sqrt(result[3] as number)
  return {
    w: f32([m, rank], w),
    h: f32([rank, n], h),
    error,
    relativeError: norm > 0 ? error / norm : 0,
    iterations: result[1] as number,
    converged: result[2] === 1,
  }
}

/** A private copy: the call writes it. */
function start(value: unknown, parameter: string, rows: number, cols: number): Float32Array {
  const { data, dims } = tensor(value, parameter, ['float32'], ArrayBuffer.isView(value) ? [rows, cols] : undefined) as Tensor<Float32Array>
  if (dims.length !== 2 || dims[0] !== rows || dims[1] !== cols)
    throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected dims [${rows}, ${cols}], got [${dims.join(', ')}]`)
  refuseNonFinite(parameter, data)
  const at = data.findIndex((v) => v < 0)
  if (at >= 0) fail('ERR_RANGE', `${parameter}[${at}]`, 'no negative number', data[at])
  return data.slice()
}
