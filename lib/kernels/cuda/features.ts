import { WhittleError } from '../../errors'
import { sizeOf } from '../../tensor'
import { fail, integer, oneOf, options } from '../../validate'
import type { DeviceTensor } from '../device'
import { threadsOf } from '../distill/call'
import {
  kCommon,
  kKinds,
  relationTerms,
  type AttentionOptions,
  type CorrelationOptions,
  type FeatureOptions,
  type RelationOptions,
  type SimilarityOptions,
} from '../distill/features'
import { runAsync, runSync, type Routine, type Turn } from './call'

/** A loss over features on a GPU; the gradient lies there too. */
export interface DeviceFeatureLoss {
  readonly loss: number
  readonly grad: DeviceTensor
}

/** What `distill.feature` on a GPU answers with a regressor. */
export interface DeviceRegressedLoss extends DeviceFeatureLoss {
  readonly gradRegressor: DeviceTensor
}

interface Memory {
  readonly out?: DeviceTensor
}
type Without<O> = Omit<O, 'out' | 'studentDims' | 'teacherDims'> & Memory

/** Options of `distill.feature` on a GPU. */
export interface DeviceFeatureOptions extends Without<Omit<FeatureOptions, 'regressor' | 'outRegressor'>> {
  readonly regressor?: DeviceTensor
  readonly outRegressor?: DeviceTensor
}
/** Options of `distill.attention` on a GPU. */
export interface DeviceAttentionOptions extends Without<AttentionOptions> {}
/** Options of `distill.relationDistance` and `distill.relationAngle` on a GPU. */
export interface DeviceRelationOptions extends Without<RelationOptions> {}
/** Options of `distill.similarity` on a GPU. */
export interface DeviceSimilarityOptions extends Without<SimilarityOptions> {}
/** Options of `distill.correlation` on a GPU. */
export interface DeviceCorrelationOptions extends Without<CorrelationOptions> {}

const kFloat = ['float32'] as const

function shape(parameter: string, expected: string, dims: readonly number[]): never {
  throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected ${expected}, got [${dims.join(', ')}]`)
}

function floats(turn: Turn, value: unknown, parameter: string, rank: number): DeviceTensor {
  const t = turn.operand(value, parameter, kFloat)
  if (t.dims.length < rank) shape(parameter, `at least ${rank} dimension${rank > 1 ? 's' : ''}`, t.dims)
  if (sizeOf(t.dims) === 0) shape(parameter, 'no dimension of 0', t.dims)
  return t
}

function same(expected: readonly number[], t: DeviceTensor, parameter: string): void {
  if (expected.length !== t.dims.length || expected.some((d, i) => d !== t.dims[i])) shape(parameter, `dims [${expected.join(', ')}]`, t.dims)
}

const notFinite = (status: number): void => {
  if (status === 8) throw new WhittleError('ERR_RANGE', 'student', 'student: expected finite features on both sides and a loss within the range of float32')
}

function* hints(turn: Turn, s: unknown, t: unknown, given: unknown): Routine<DeviceFeatureLoss | DeviceRegressedLoss> {
  const o = options(given, 'options', [...kCommon, 'regressor', 'outRegressor'] as const)
  const student = floats(turn, s, 'student', 1)
  const teacher = floats(turn, t, 'teacher', 1)
  threadsOf(o.threads)
  const result = new Float64Array(1)
  const call = { name: 'cudaFeature', result, parameter: 'student', refused: notFinite } as const
  if (o.regressor === undefined) {
    if (o.outRegressor !== undefined) fail('ERR_RANGE', 'outRegressor', 'it only beside a regressor', o.outRegressor)
    same(student.dims, teacher, 'teacher')
    const grad = turn.result(o.out, 'out', 'float32', student.dims)
    yield { ...call, numbers: [1, 1, 1, sizeOf(student.dims), false], tensors: [student, teacher, null, grad, null] }
    return { loss: result[0] as number, grad }
  }
  const regressor = floats(turn, o.regressor, 'regressor', 2)
  const [batch, own] = student.dims
  if (batch === undefined || own === undefined) shape('student', 'at least 2 dimensions [batch, channels, …]', student.dims)
  const [outputs, inputs] = regressor.dims as [number, number]
  if (regressor.dims.length !== 2 || inputs !== own) shape('regressor', `dims [teacher channels, ${own}]`, regressor.dims)
  same([batch, outputs, ...student.dims.slice(2)], teacher, 'teacher')
  const grad = turn.result(o.out, 'out', 'float32', student.dims)
  const gradRegressor = turn.result(o.outRegressor, 'outRegressor', 'float32', regressor.dims)
  yield {
    ...call,
    numbers: [batch, own, outputs, sizeOf(student.dims) / batch / own, true],
    tensors: [student, teacher, regressor, grad, gradRegressor],
  }
  return { loss: result[0] as number, grad, gradRegressor }
}

function* maps(turn: Turn, s: unknown, t: unknown, given: unknown): Routine<DeviceFeatureLoss> {
  const o = options(given, 'options', [...kCommon, 'p', 'form'] as const)
  const student = floats(turn, s, 'student', 3)
  const teacher = floats(turn, t, 'teacher', 3)
  const [batch, own] = student.dims as [number, number]
  same([batch, teacher.dims[1] as number, ...student.dims.slice(2)], teacher, 'teacher')
  const p = o.p === undefined ? 2 : integer(o.p, 'p', 1, 8)
  const form = o.form === undefined ? 'norm' : oneOf(o.form, 'form', ['norm', 'mean'] as const)
  threadsOf(o.threads)
  const grad = turn.result(o.out, 'out', 'float32', student.dims)
  const result = new Float64Array(1)
  yield {
    name: 'cudaAttention',
    numbers: [batch, own, teacher.dims[1] as number, sizeOf(student.dims) / batch / own, p, form === 'mean'],
    tensors: [student, teacher, grad],
    result,
    parameter: 'student',
    refused: notFinite,
  }
  return { loss: result[0] as number, grad }
}

type Kind = (typeof kKinds)[number]

function* relations(turn: Turn, kind: Kind, s: unknown, t: unknown, given: unknown): Routine<DeviceFeatureLoss> {
  const terms = relationTerms(kind, given)
  const student = floats(turn, s, 'student', 2)
  const teacher = floats(turn, t, 'teacher', 2)
  const [samples] = student.dims as [number]
  if (teacher.dims[0] !== samples) shape('teacher', `${samples} samples, as the student has`, teacher.dims)
  if (terms.huber && samples < 2) shape('student', 'at least 2 samples', student.dims)
  if (samples > 32768) shape('student', 'at most 32768 samples', student.dims)
  const grad = turn.result(terms.options.out, 'out', 'float32', student.dims)
  const result = new Float64Array(1)
  yield {
    name: 'cudaRelation',
    numbers: [kKinds.indexOf(kind), samples, sizeOf(student.dims) / samples, sizeOf(teacher.dims) / samples, terms.delta, terms.gamma, terms.order],
    tensors: [student, teacher, grad],
    result,
    parameter: 'student',
    refused: notFinite,
  }
  return { loss: result[0] as number, grad }
}

/** `distill.feature` on a GPU. */
export function feature(student: DeviceTensor, teacher: DeviceTensor, options: DeviceFeatureOptions & { readonly regressor: DeviceTensor }): DeviceRegressedLoss
export function feature(student: DeviceTensor, teacher: DeviceTensor, options?: DeviceFeatureOptions): DeviceFeatureLoss
export function feature(student: DeviceTensor, teacher: DeviceTensor, options?: DeviceFeatureOptions): DeviceFeatureLoss {
  return runSync((turn) => hints(turn, student, teacher, options))
}

/** {@link feature} off the JavaScript thread. */
export function featureAsync(
  student: DeviceTensor,
  teacher: DeviceTensor,
  options: DeviceFeatureOptions & { readonly regressor: DeviceTensor },
): Promise<DeviceRegressedLoss>
export function featureAsync(student: DeviceTensor, teacher: DeviceTensor, options?: DeviceFeatureOptions): Promise<DeviceFeatureLoss>
export async function featureAsync(student: DeviceTensor, teacher: DeviceTensor, options?: DeviceFeatureOptions): Promise<DeviceFeatureLoss> {
  return runAsync((turn) => hints(turn, student, teacher, options))
}

type Sync<O> = (student: DeviceTensor, teacher: DeviceTensor, options?: O) => DeviceFeatureLoss
type Async<O> = (student: DeviceTensor, teacher: DeviceTensor, options?: O) => Promise<DeviceFeatureLoss>

const syncOf =
  <O>(kind: Kind): Sync<O> =>
  (student, teacher, options) =>
    runSync((turn) => relations(turn, kind, student, teacher, options))
const asyncOf =
  <O>(kind: Kind): Async<O> =>
  async (student, teacher, options) =>
    runAsync((turn) => relations(turn, kind, student, teacher, options))

/** `distill.attention` on a GPU. */
export const attention: Sync<DeviceAttentionOptions> = (student, teacher, options) => runSync((turn) => maps(turn, student, teacher, options))
/** {@link attention} off the JavaScript thread. */
export const attentionAsync: Async<DeviceAttentionOptions> = async (student, teacher, options) =>
  runAsync((turn) => maps(turn, student, teacher, options))

/** `distill.relationDistance` on a GPU: distances in float64 through cuBLASLt. */
export const relationDistance = syncOf<DeviceRelationOptions>('distance')
/** {@link relationDistance} off the JavaScript thread. */
export const relationDistanceAsync = asyncOf<DeviceRelationOptions>('distance')
/** `distill.relationAngle` on a GPU: cosines in float64 from Gram matrices; memory grows with samples², time with samples³. */
export const relationAngle = syncOf<DeviceRelationOptions>('angle')
/** {@link relationAngle} off the JavaScript thread. */
export const relationAngleAsync = asyncOf<DeviceRelationOptions>('angle')
/** `distill.similarity` on a GPU. */
export const similarity = syncOf<DeviceSimilarityOptions>('similarity')
/** {@link similarity} off the JavaScript thread. */
export const similarityAsync = asyncOf<DeviceSimilarityOptions>('similarity')
/** `distill.correlation` on a GPU. */
export const correlation = syncOf<DeviceCorrelationOptions>('correlation')
/** {@link correlation} off the JavaScript thread. */
export const correlationAsync = asyncOf<DeviceCorrelationOptions>('correlation')
