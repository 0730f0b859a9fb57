import { WhittleError } from '../../errors'
import { allocate, type Tensor, type TensorLike } from '../../tensor'
import { integer, oneOf, options as checkOptions } from '../../validate'
import { f32, floats, kNonFinite, optional, refuseTooLarge, runAsync, runSync, threadsOf, type Memory, type Routine } from './routine'
import { energyOf, kChoices, trimmed } from './tucker'

declare module '../../native' {
  interface NativeBinding {
    factorSeparable(...args: unknown[]): number
  }
}

/** Options of {@link separable}. Exactly one of `rank` and `energy`. */
export interface SeparableOptions {
  /**
   * Number of terms: 1 to min(in·height, out·width), or to min(height, width) with scheme `'channel'`; or `'vbmf'` (scheme
   * `'joint'` only, at least 1, see {@link vbmfRank}).
   */
  readonly rank?: number | 'vbmf'
  /** The smallest rank that keeps this share of ‖K‖²: (0, 1]. With scheme `'channel'` of all filters together. */
  readonly energy?: number
  /**
   * `'joint'` (default): the filters of all channels share `rank` vertical ones. `'channel'`: each filter is a sum of `rank`
   * products of its own, for depthwise and grouped kernels.
   */
  readonly scheme?: 'joint' | 'channel'
  /** Default: all that the process may use. */
  readonly threads?: number
}

/** What {@link separable} answers. */
export interface SeparableResult {
  /** Weights of the first convolution: [rank, in, height, 1], or [out·in·rank, 1, height, 1] with scheme `'channel'`. */
  readonly vertical: Tensor<Float32Array>
  /** Weights of the second: [out, rank, 1, width], or [out·in, rank, 1, width]. */
  readonly horizontal: Tensor<Float32Array>
  readonly rank: number
  /** ‖K − K̂‖ (Frobenius) of what is answered. */
  readonly error: number
  /** error / ‖K‖; 0 for K = 0. */
  readonly relativeError: number
}

/**
 * Spatially separable approximation of a convolution kernel [out, in, height, width]: a height×1 and then a 1×width
 * convolution, `K[o, i] ≈ Σᵣ vertical[r, i] ⊗ horizontal[o, r]`, the best of its rank (by an SVD in double precision; so no
 * iterations). The scale of each term is shared evenly between its halves.
 *
 * Padding and stride split likewise: the rows' to the first, the columns' to the second. It saves multiplications where
 * rank · (in · height + out · width) < out · in · height · width. With scheme `'channel'` and a depthwise kernel
 * [c, 1, h, w] the first convolution has c groups with `rank` outputs each, the second c groups with `rank` inputs each.
 *
 * @param kernel float32, 4 dimensions, none empty, all finite
 * @throws {WhittleError} `ERR_RANGE` (`rank`, `energy`, `kernel[i]` not finite), `ERR_SHAPE`, `ERR_DTYPE`, `ERR_HANDLE`
 * @see Jaderberg, Vedaldi, Zisserman 2014, scheme 2
 * @example
 * const { vertical, horizontal, relativeError } = separable(kernel, { energy: 0.95 })
 */
export function separable(kernel: TensorLike, options: SeparableOptions): SeparableResult {
  return runSync((memory) => split(memory, kernel, options))
}

/** {@link separable} on another thread. Buffers over 256 KiB are read in place and become untransferable. */
export async function separableAsync(kernel: TensorLike, options: SeparableOptions): Promise<SeparableResult> {
  return runAsync((memory) => split(memory, kernel, options))
}

function* split(memory: Memory, given: unknown, optionsGiven: unknown): Routine<SeparableResult> {
  const o = checkOptions(optionsGiven, 'options', ['rank', 'energy', 'scheme', 'threads'])
  const k = floats(given, 'kernel', 4, 4)
  const [out, into, height, width] = k.dims as [number, number, number, number]
  const channel = optional(o.scheme, 'joint', (v) => oneOf(v, 'scheme', ['joint', 'channel'])) === 'channel'
  const [rows, cols] = channel ? [height, width] : [into * height, out * width]
  const copies = channel ? out * into : 1
  const most = Math.min(rows, cols)
  if ((o.rank === undefined) === (o.energy === undefined)) throw new WhittleError('ERR_RANGE', 'rank', 'rank: give rank or energy, one of them')
  const choice = o.energy !== undefined ? 'energy' : o.rank === 'vbmf' ? 'vbmf' : 'given'
  if (channel && choice === 'vbmf') throw new WhittleError('ERR_RANGE', 'rank', "rank: 'vbmf' needs scheme 'joint', got 'channel'")
  const rank = Int32Array.of(choice === 'given' ? integer(o.rank, 'rank', 1, most) : most)
  const energy = optional(o.energy, 1, energyOf)
  const threads = threadsOf(o.threads)
  const room = copies * (rank[0] as number)
  const vertical = allocate('float32', room * rows) as Float32Array
  const horizontal = allocate('float32', room * cols) as Float32Array
  const data = memory.input(k.data)
  const result = new Float64Array(2)
  yield {
    name: 'factorSeparable',
    args: [out, into, height, width, channel, kChoices[choice], energy, threads, data, rank, vertical, horizontal, result],
    parameter: 'kernel',
    refused(status) {
      if (status === kNonFinite) refuseTooLarge('kernel', data)
    },
  }
  const r = rank[0] as number
  const norm = Math.sqrt(result[1] as number)
  const error = Math.sqrt(result[0] as number)
  return {
    vertical: f32(channel ? [copies * r, 1, height, 1] : [r, into, height, 1], trimmed(vertical, copies * r * rows)),
    horizontal: f32(channel ? [copies, r, 1, width] : [out, r, 1, width], trimmed(horizontal, copies * r * cols)),
    rank: r,
    error,
    relativeError: norm > 0 ? error / norm : 0,
  }
}
