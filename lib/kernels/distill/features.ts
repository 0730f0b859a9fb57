import { type Tensor } from '../../tensor'
import { fail, finite, integer, oneOf, options } from '../../validate'
import { f32, floats, outputOf, run, runAsync, sameDims, shown, threadsOf, type Operand, type Prepared } from './call'

/** A loss over features and its gradient with respect to the student's (their dims), float32. */
export interface FeatureLoss {
  readonly loss: number
  readonly grad: Tensor<Float32Array>
}

interface Common {
  /** Dims of student and teacher where they are bare arrays. */
  readonly studentDims?: readonly number[]
  readonly teacherDims?: readonly number[]
  /** Where to write the gradient: as many elements as the student has, no overlap with an input. */
  readonly out?: Float32Array
  /** Threads to use, 1 to 256. Default: see `setThreads`. */
  readonly threads?: number
}

/** Options of `distill.feature`. */
export interface FeatureOptions extends Common {
  /** [teacher channels, student channels]: a 1×1 convolution without bias over axis 1 of the student. */
  readonly regressor?: Operand
  /** Where to write the regressor's gradient. */
  readonly outRegressor?: Float32Array
}

/** What `distill.feature` answers with a regressor. */
export interface RegressedLoss extends FeatureLoss {
  readonly gradRegressor: Tensor<Float32Array>
}

/** Options of `distill.attention`. */
export interface AttentionOptions extends Common {
  /** Exponent of the map Σ|a|^p, an integer from 1 to 8. Default 2. */
  readonly p?: number
  /** `'norm'` (default): mean over samples of ‖Q_s − Q_t‖₂, the paper's. `'mean'`: mean of squares, the authors' code. */
  readonly form?: 'norm' | 'mean'
}

/** Options of `distill.relationDistance` and `distill.relationAngle`. */
export interface RelationOptions extends Common {
  /** Where Huber's loss turns linear, above 0. Default 1. */
  readonly delta?: number
}

/** Options of `distill.similarity`. */
export interface SimilarityOptions extends Common {}

/** Options of `distill.correlation`. */
export interface CorrelationOptions extends Common {
  /** Width of the Gaussian kernel exp(−γ‖a−b‖²), above 0 and at most 100. Default 0.4. */
  readonly gamma?: number
  /** Order of its Taylor series, an integer from 1 to 16. Default 2. */
  readonly order?: number
}

/** @internal */
export const kCommon = ['studentDims', 'teacherDims', 'out', 'threads'] as const

function prepareFeature(studentValue: unknown, teacherValue: unknown, given: unknown): Prepared<FeatureLoss | RegressedLoss> {
  const o = options(given, 'options', [...kCommon, 'regressor', 'outRegressor'] as const)
  const student = floats(studentValue, 'student', 1, o.studentDims)
  const teacher = floats(teacherValue, 'teacher', 1, o.teacherDims)
  const common = { name: 'distillFeature' as const, results: 1 }
  const threads = threadsOf(o.threads)
  if (o.regressor === undefined) {
    if (o.outRegressor !== undefined) fail('ERR_RANGE', 'outRegressor', 'it only beside a regressor', o.outRegressor)
    sameDims(student.dims, teacher.dims, 'teacher')
    return {
      ...common,
      numbers: [1, 1, 1, student.data.length, threads],
      inputs: [student.data, teacher.data, null],
      outputs: [outputOf(o.out, 'out', student.dims, [student.data, teacher.data]), null],
      suspects: [['student', student.data], ['teacher', teacher.data]],
      finish: (result, [g]) => ({ loss: result[0] as number, grad: f32(student.dims, g as Float32Array) }),
    }
  }
  const regressor = floats(o.regressor, 'regressor', 2)
  const [batch, own] = student.dims
  if (own === undefined) fail('ERR_SHAPE', 'student', 'at least 2 dimensions [batch, channels, …]', shown(student.dims))
  const [outputs, inputs] = regressor.dims as [number, number]
  if (regressor.dims.length !== 2 || inputs !== own) fail('ERR_SHAPE', 'regressor', `dims [teacher channels, ${own}]`, shown(regressor.dims))
  sameDims([batch as number, outputs, ...student.dims.slice(2)], teacher.dims, 'teacher')
  const buffers = [student.data, teacher.data, regressor.data]
  const grad = outputOf(o.out, 'out', student.dims, buffers)
  return {
    ...common,
    numbers: [batch as number, own, outputs, student.data.length / (batch as number) / own, threads],
    inputs: buffers,
    outputs: [grad, outputOf(o.outRegressor, 'outRegressor', regressor.dims, [...buffers, grad.view])],
    suspects: [['student', student.data], ['teacher', teacher.data], ['regressor', regressor.data]],
    finish: (result, [g, w]) => ({
      loss: result[0] as number,
      grad: f32(student.dims, g as Float32Array),
      gradRegressor: f32(regressor.dims, w as Float32Array),
    }),
  }
}

function prepareAttention(studentValue: unknown, teacherValue: unknown, given: unknown): Prepared<FeatureLoss> {
  const o = options(given, 'options', [...kCommon, 'p', 'form'] as const)
  const student = floats(studentValue, 'student', 3, o.studentDims)
  const teacher = floats(teacherValue, 'teacher', 3, o.teacherDims)
  const [batch, own] = student.dims as [number, number]
  sameDims([batch, teacher.dims[1] as number, ...student.dims.slice(2)], teacher.dims, 'teacher')
  const p = o.p === undefined ? 2 : integer(o.p, 'p', 1, 8)
  const form = o.form === undefined ? 'norm' : oneOf(o.form, 'form', ['norm', 'mean'] as const)
  const positions = student.data.length / batch / own
  return {
    name: 'distillAttention',
    numbers: [batch, own, teacher.dims[1] as number, positions, p, form === 'mean' ? 1 : 0, threadsOf(o.threads)],
    inputs: [student.data, teacher.data],
    outputs: [outputOf(o.out, 'out', student.dims, [student.data, teacher.data])],
    results: 1,
    suspects: [['student', student.data], ['teacher', teacher.data]],
    finish: (result, [g]) => ({ loss: result[0] as number, grad: f32(student.dims, g as Float32Array) }),
  }
}

/** @internal */
export const kKinds = ['distance', 'angle', 'similarity', 'correlation'] as const

/** @internal The options of a relation, checked. */
export function relationTerms(kind: (typeof kKinds)[number], given: unknown) {
  const huber = kind === 'distance' || kind === 'angle'
  const extra = huber ? (['delta'] as const) : kind === 'correlation' ? (['gamma', 'order'] as const) : []
  const o = options<'delta' | 'gamma' | 'order' | (typeof kCommon)[number]>(given, 'options', [...kCommon, ...extra])
  const above = (value: unknown, parameter: string, standard: number, max: number): number => {
    const x = value === undefined ? standard : finite(value, parameter, 0, max)
    return x > 0 ? x : fail('ERR_RANGE', parameter, 'a number above 0', value)
  }
  return {
    options: o,
    huber,
    delta: above(o.delta, 'delta', 1, 1e30),
    gamma: above(o.gamma, 'gamma', 0.4, 100),
    order: o.order === undefined ? 2 : integer(o.order, 'order', 1, 16),
    threads: threadsOf(o.threads),
  }
}

function prepareRelation(
  kind: (typeof kKinds)[number],
  studentValue: unknown,
  teacherValue: unknown,
  given: unknown,
): Prepared<FeatureLoss> {
  const { options: o, huber, delta, gamma, order, threads } = relationTerms(kind, given)
  const student = floats(studentValue, 'student', 2, o.studentDims)
  const teacher = floats(teacherValue, 'teacher', 2, o.teacherDims)
  const samples = student.dims[0] as number
  if (teacher.dims[0] !== samples) fail('ERR_SHAPE', 'teacher', `${samples} samples, as the student has`, shown(teacher.dims))
  if (huber && samples < 2) fail('ERR_SHAPE', 'student', 'at least 2 samples', shown(student.dims))
  // samples^2 matrices of doubles must stay addressable
  if (samples > 32768) fail('ERR_SHAPE', 'student', 'at most 32768 samples', shown(student.dims))
  return {
    name: 'distillRelation',
    numbers: [
      kKinds.indexOf(kind), samples, student.data.length / samples, teacher.data.length / samples,
      delta, gamma, order, threads,
    ], // prettier-ignore
    inputs: [student.data, teacher.data],
    outputs: [outputOf(o.out, 'out', student.dims, [student.data, teacher.data])],
    results: 1,
    suspects: [['student', student.data], ['teacher', teacher.data]],
    finish: (result, [g]) => ({ loss: result[0] as number, grad: f32(student.dims, g as Float32Array) }),
  }
}

/**
 * Hints: `mean((r(student) − teacher)²)` over all elements, r the identity or a learned projection. Source: Romero et al.
 * 2015 (FitNets).
 *
 * @param student float32 features of any dims; with a regressor [batch, channels, …]
 * @param teacher the same dims; with a regressor its own channels
 * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE`, `ERR_RANGE` (NaN or infinite features, a loss beyond float32, options),
 * `ERR_HANDLE` for a detached buffer. After an error `out` holds unspecified numbers.
 * @example
 * const { loss, grad, gradRegressor } = distill.feature(student, teacher, { regressor: weights })
 */
export function feature(student: Operand, teacher: Operand, options: FeatureOptions & { readonly regressor: Operand }): RegressedLoss
export function feature(student: Operand, teacher: Operand, options?: FeatureOptions): FeatureLoss
export function feature(student: Operand, teacher: Operand, options?: FeatureOptions): FeatureLoss {
  return run(prepareFeature(student, teacher, options))
}

/** {@link feature} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function featureAsync(student: Operand, teacher: Operand, options: FeatureOptions & { readonly regressor: Operand }): Promise<RegressedLoss>
export async function featureAsync(student: Operand, teacher: Operand, options?: FeatureOptions): Promise<FeatureLoss>
export async function featureAsync(student: Operand, teacher: Operand, options?: FeatureOptions): Promise<FeatureLoss> {
  return runAsync(prepareFeature(student, teacher, options))
}

/**
 * Attention transfer: maps Q = Σ_channels |a|^p, flattened and divided by their norm, compared sample by sample. The
 * numbers of channels may differ. Source: Zagoruyko, Komodakis 2017.
 *
 * @param student float32 [batch, channels, …positions]
 * @param teacher the same batch and positions
 * @throws as {@link feature}
 * @example
 * const { loss, grad } = distill.attention(student, teacher, { form: 'mean' })
 */
export function attention(student: Operand, teacher: Operand, options?: AttentionOptions): FeatureLoss {
  return run(prepareAttention(student, teacher, options))
}

/** {@link attention} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function attentionAsync(student: Operand, teacher: Operand, options?: AttentionOptions): Promise<FeatureLoss> {
  return runAsync(prepareAttention(student, teacher, options))
}

/**
 * Relational distillation by distances: Huber between pairwise Euclidean distances, each side divided by the mean of its
 * positive ones (differentiated too); mean over all N² entries. Source: Park et al. 2019.
 *
 * Takes O(N²) memory. Coinciding points have distance 0 and pull nowhere.
 *
 * @param student float32 [N, …], N from 2 to 32768
 * @param teacher [N, …], its features may have another size
 * @throws as {@link feature}
 * @example
 * const { loss, grad } = distill.relationDistance(student, teacher)
 */
export function relationDistance(student: Operand, teacher: Operand, options?: RelationOptions): FeatureLoss {
  return run(prepareRelation('distance', student, teacher, options))
}

/** {@link relationDistance} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function relationDistanceAsync(student: Operand, teacher: Operand, options?: RelationOptions): Promise<FeatureLoss> {
  return runAsync(prepareRelation('distance', student, teacher, options))
}

/**
 * Relational distillation by angles: Huber between the cosines ⟨e_ij, e_ik⟩, e_ij = (x_j − x_i)/‖x_j − x_i‖; mean over
 * all N³ triples. Source: Park et al. 2019.
 *
 * Works from the Gram matrix in O(N²) memory (about 4 MB of scratch at N = 256) and O(N³) time. Coinciding points have
 * no direction: their cosines are 0 and pull nowhere.
 *
 * @param student float32 [N, …], N from 2 to 32768
 * @param teacher [N, …], its features may have another size
 * @throws as {@link feature}
 * @example
 * const { loss, grad } = distill.relationAngle(student, teacher)
 */
export function relationAngle(student: Operand, teacher: Operand, options?: RelationOptions): FeatureLoss {
  return run(prepareRelation('angle', student, teacher, options))
}

/** {@link relationAngle} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function relationAngleAsync(student: Operand, teacher: Operand, options?: RelationOptions): Promise<FeatureLoss> {
  return runAsync(prepareRelation('angle', student, teacher, options))
}

/**
 * Similarity-preserving distillation: G = F·Fᵀ with rows divided by their norms, `‖G_t − G_s‖²_F / N²`. Source: Tung,
 * Mori 2019.
 *
 * @param student float32 [N, …]
 * @param teacher [N, …], its features may have another size
 * @throws as {@link feature}
 * @example
 * const { loss, grad } = distill.similarity(student, teacher)
 */
export function similarity(student: Operand, teacher: Operand, options?: SimilarityOptions): FeatureLoss {
  return run(prepareRelation('similarity', student, teacher, options))
}

/** {@link similarity} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function similarityAsync(student: Operand, teacher: Operand, options?: SimilarityOptions): Promise<FeatureLoss> {
  return runAsync(prepareRelation('similarity', student, teacher, options))
}

/**
 * Correlation congruence: the Gaussian kernel of features of unit length as its Taylor series,
 * `C_ij = e^(−2γ)·Σ_p (2γ)^p/p!·⟨f_i, f_j⟩^p`, and `‖C_s − C_t‖²_F / N²`. Source: Peng et al. 2019.
 *
 * @param student float32 [N, …]; features of zeros stay zeros
 * @param teacher [N, …], its features may have another size
 * @throws as {@link feature}
 * @example
 * const { loss, grad } = distill.correlation(student, teacher, { gamma: 0.4, order: 2 })
 */
export function correlation(student: Operand, teacher: Operand, options?: CorrelationOptions): FeatureLoss {
  return run(prepareRelation('correlation', student, teacher, options))
}

/** {@link correlation} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function correlationAsync(student: Operand, teacher: Operand, options?: CorrelationOptions): Promise<FeatureLoss> {
  return runAsync(prepareRelation('correlation', student, teacher, options))
}
