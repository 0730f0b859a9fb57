import { WhittleError } from '../../errors'
import { byteLengthOf, sizeOf } from '../../tensor'
import type { DeviceTensor } from '../device'
import { lowRankOptions, lowRankTerms, type LowRank, type LowRankOptions } from '../lowrank'
import { svdOptions, svdPlan, svdScalars, type SingularValues, type Svd, type SvdOptions, type SvdPlan } from '../svd'
import { missing, runAsync, runSync, type Routine, type Turn } from './call'

/** What `svd` of a tensor on a GPU answers with `vectors: false`. */
export interface DeviceSingularValues extends Omit<SingularValues, 's'> {
  /** Singular values, descending: […, rank]. */
  readonly s: DeviceTensor
}

/** A ≈ U·diag(s)·Vᵀ on a GPU. */
export interface DeviceSvd extends DeviceSingularValues, Omit<Svd, 'u' | 's' | 'v'> {
  readonly u: DeviceTensor
  readonly v: DeviceTensor
}

/** W ≈ A·B on a GPU. */
export interface DeviceLowRank extends Omit<LowRank, 'a' | 'b'> {
  readonly a: DeviceTensor
  readonly b: DeviceTensor
}

type Dims = readonly number[]
type AnySvd = DeviceSingularValues & Partial<DeviceSvd>

const kTypes = ['float32', 'float64'] as const

function matrixOf(turn: Turn, value: unknown, parameter: string): DeviceTensor {
  const t = turn.operand(value, parameter, kTypes)
  const shown = `[${t.dims.join(', ')}]`
  if (t.dims.length < 2) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected at least 2 dimensions, got ${shown}`)
  if (sizeOf(t.dims) === 0) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected no dimension of 0, got ${shown}`)
  if (sizeOf(t.dims) > 2 ** 31 - 1) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected at most 2147483647 elements, got ${shown}`)
  return t
}

/** Where only `rank` of the columns that there was room for hold results, these in memory of their own. */
function* fitted(turn: Turn, tensor: DeviceTensor, dims: Dims, parameter: string): Routine<DeviceTensor> {
  if (sizeOf(dims) === sizeOf(tensor.dims)) return tensor
  const out = turn.make(parameter, tensor.type, dims)
  yield { name: 'cudaCopy', numbers: [byteLengthOf(tensor.type, sizeOf(dims)), 0], tensors: [tensor, out], parameter }
  tensor.dispose()
  return out
}

/** What is left of a decomposition to name: its tensors, with room for every column. */
interface Found {
  readonly u: DeviceTensor | null
  readonly s: DeviceTensor
  readonly v: DeviceTensor | null
  readonly result: Float64Array
}

function* found(turn: Turn, a: DeviceTensor, plan: SvdPlan, factors: boolean, parameter: string): Routine<Found> {
  const { m, n, maxRank, vectors } = plan
  const lead = a.dims.slice(0, -2)
  const u = vectors ? turn.make('u', a.type, [...lead, m, maxRank]) : null
  const s = turn.make('s', a.type, [...lead, maxRank])
  const v = vectors ? turn.make('v', a.type, factors ? [maxRank, n] : [...lead, n, maxRank]) : null
  const result = new Float64Array(7)
  yield {
    name: 'cudaSvd',
    numbers: [...plan.numbers, a.type === 'float64', factors],
    tensors: [a, u, s, v],
    result,
    parameter,
    refused: (status) => {
      if (status === 8) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected finite numbers`)
      if (status === 3)
        throw new WhittleError('ERR_RANGE', parameter, `${parameter}: a singular value is beyond the range of ${a.type}; scale the matrix down`)
    },
  }
  return { u, s, v, result }
}

function* decompose(turn: Turn, value: unknown, given: unknown): Routine<AnySvd> {
  const o = svdOptions(given)
  const a = matrixOf(turn, value, 'a')
  const plan = svdPlan(a.dims, o)
  const { u, s, v, result } = yield* found(turn, a, plan, false, 'a')
  const scalars = svdScalars(result)
  const lead = a.dims.slice(0, -2)
  const { rank } = scalars
  const vectors = u && v && {
    u: yield* fitted(turn, u, [...lead, plan.m, rank], 'u'),
    v: yield* fitted(turn, v, [...lead, plan.n, rank], 'v'),
  } // prettier-ignore
  return { ...vectors, s: yield* fitted(turn, s, [...lead, rank], 's'), ...scalars }
}

function* factorize(turn: Turn, value: unknown, given: unknown): Routine<DeviceLowRank> {
  const o = lowRankOptions(given)
  if (o.secondMoments !== undefined) missing('secondMoments', 'a decomposition in the norm of calibration inputs')
  const w = matrixOf(turn, value, 'w')
  const plan = svdPlan(w.dims, { ...lowRankTerms(w.dims, o).svd })
  const { m, n } = plan
  const { u, s, v, result } = yield* found(turn, w, plan, true, 'w')
  const scalars = svdScalars(result)
  s.dispose()
  const { rank, error, relativeError, method, iterations, converged } = scalars
  return {
    a: yield* fitted(turn, u as DeviceTensor, [m, rank], 'a'),
    b: yield* fitted(turn, v as DeviceTensor, [rank, n], 'b'),
    rank,
    error,
    relativeError,
    outputError: relativeError,
    saves: rank * (m + n) < m * n,
    parameters: rank * (m + n),
    damping: 0,
    method,
    iterations,
    converged,
  }
}

/**
 * `svd` on a GPU, through cuSOLVER: the CPU's meaning and precision (float64 within), not its bits. Of a matrix that is not
 * finite the message has no index.
 *
 * @throws {WhittleError} also `ERR_DEVICE` where cuSOLVER or cuBLASLt is missing, or none of its methods gives factors that
 * make up the matrix
 */
export function svd(a: DeviceTensor, options: SvdOptions & { readonly vectors: false }): DeviceSingularValues
export function svd(a: DeviceTensor, options?: SvdOptions & { readonly vectors?: true }): DeviceSvd
export function svd(a: DeviceTensor, options?: SvdOptions): AnySvd
export function svd(a: DeviceTensor, options?: SvdOptions): AnySvd {
  return runSync((turn) => decompose(turn, a, options))
}

/** {@link svd} off the JavaScript thread. */
export function svdAsync(a: DeviceTensor, options: SvdOptions & { readonly vectors: false }): Promise<DeviceSingularValues>
export function svdAsync(a: DeviceTensor, options?: SvdOptions & { readonly vectors?: true }): Promise<DeviceSvd>
export function svdAsync(a: DeviceTensor, options?: SvdOptions): Promise<AnySvd>
export async function svdAsync(a: DeviceTensor, options?: SvdOptions): Promise<AnySvd> {
  return runAsync((turn) => decompose(turn, a, options))
}

/**
 * `lowRank` on a GPU, without `secondMoments`.
 *
 * @throws {WhittleError} also `ERR_DEVICE` as {@link svd}, and for `secondMoments`
 */
export const lowRank = (w: DeviceTensor, options?: LowRankOptions): DeviceLowRank => runSync((turn) => factorize(turn, w, options))

/** {@link lowRank} off the JavaScript thread. */
export const lowRankAsync = async (w: DeviceTensor, options?: LowRankOptions): Promise<DeviceLowRank> =>
  runAsync((turn) => factorize(turn, w, options))
