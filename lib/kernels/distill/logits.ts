import { WhittleError } from '../../errors'
import { allocate, sizeOf, type Tensor, type TensorLike } from '../../tensor'
import { fail, finite, integer, oneOf, options } from '../../validate'
import {
  classLabels,
  f32,
  logitsOf,
  nonNegative,
  outputOf,
  run,
  runAsync,
  sameDims,
  shown,
  temperatureOf,
  threadsOf,
  type LogitOperand,
  type LogitTensor,
  type Operand,
  type Output,
  type Prepared,
} from './call'

/**
 * How samples become one loss. `mean` and `batchmean` divide by the samples that count, with one exception taken over
 * from torch: without labels `kl` and `multiTeacher` divide by samples · classes for `mean`. `none` keeps the values;
 * its gradient is that of their sum.
 */
export type Reduction = 'mean' | 'batchmean' | 'sum' | 'none'

/**
 * A loss and its gradient with respect to the student (its dims). Both are float32 for bfloat16 logits too: the arithmetic
 * has those digits, and rounding them away is the caller's choice.
 */
export interface Loss<R extends string = 'mean'> {
  readonly loss: R extends 'none' ? Tensor<Float32Array> : number
  readonly grad: Tensor<Float32Array>
}

/** Labels: classes, one for each sample; `Int32Array`, `BigInt64Array` or a tensor of them. */
export type Labels = TensorLike | Int32Array | BigInt64Array

interface Memory {
  /** Where to write the gradient: as many elements as the student has, no overlap with an input. */
  readonly out?: Float32Array
  /** Threads to use, 1 to 256. Default: see `setThreads`. */
  readonly threads?: number
}

interface HardOptions {
  /** Finite factors >= 0 of the cross-entropy, one for each class. Means divide by the sum of the labels' weights. */
  readonly classWeights?: Operand
  /** Samples with this label have no loss and no gradient and do not count in means. Default: no such label. */
  readonly ignoreIndex?: number
  /** Share of the target that is spread evenly over all classes, 0 to 1. Default 0. */
  readonly labelSmoothing?: number
}

/** Options of {@link crossEntropy}. */
export interface CrossEntropyOptions<R extends string = 'mean'> extends Memory, HardOptions {
  /**
   * Divides the logits, 1e-6 to 1e6. Default 1. Neither loss nor gradient is multiplied by its square: the gradient is that
   * of the loss. Source: Guo, Pleiss, Sun, Weinberger 2017.
   */
  readonly temperature?: number
  /** `'mean'` (default), `'sum'` or `'none'`: one value for each sample. */
  readonly reduction?: R
  /** Dims of `logits` where they are a bare array. */
  readonly logitsDims?: readonly number[]
  /** Where `'none'` writes its values. */
  readonly outLoss?: Float32Array
}

interface SoftOptions<R extends string> extends Memory {
  /** Divides the logits of both sides, 1e-6 to 1e6. Default 1. */
  readonly temperature?: number
  /** Default `'batchmean'`. */
  readonly reduction?: R
  /** Dims of student and teacher where they are bare arrays. */
  readonly studentDims?: readonly number[]
  readonly teacherDims?: readonly number[]
  /** Where `'none'` writes its values. */
  readonly outLoss?: Float32Array
}

/** Options of `distill.kl`. */
export interface KlOptions<R extends string = 'batchmean'> extends SoftOptions<R>, HardOptions {
  /** Mixes in the cross-entropy with these labels. */
  readonly labels?: Labels
  /** Weight of the divergence beside the labels, 0 to 1. Default 0.5; only with `labels`. */
  readonly alpha?: number
}

/** Options of `distill.multiTeacher`. */
export interface MultiTeacherOptions<R extends string = 'batchmean'> extends KlOptions<R> {
  /** How much each teacher counts: finite, >= 0, divided by their sum. Default: all the same. */
  readonly weights?: Operand
}

/** Options of `distill.js`. */
export interface JsOptions<R extends string = 'batchmean'> extends SoftOptions<R> {}

/** Options of `distill.dkd`. */
export interface DkdOptions<R extends string = 'batchmean'> extends SoftOptions<R> {
  /** Weight of the target's term, >= 0. Default 1. */
  readonly alpha?: number
  /** Weight of the other classes' term, >= 0. Default 8. */
  readonly beta?: number
  readonly ignoreIndex?: number
}

/** What `distill.dkd` answers: beside the loss its two terms before alpha and beta, with T², summed or averaged alike. */
export interface DkdLoss<R extends string = 'batchmean'> extends Loss<R> {
  readonly target: number
  readonly nonTarget: number
}

/** @internal */
export const kReductions = ['mean', 'batchmean', 'sum', 'none'] as const
/** @internal Options of the divergence. */
export const kSoft = ['temperature', 'reduction', 'studentDims', 'teacherDims', 'out', 'outLoss', 'threads'] as const
/** @internal Options of the labels beside `labels` and `alpha`. */
export const kHard = ['classWeights', 'ignoreIndex', 'labelSmoothing'] as const
/** @internal */
export const kCrossEntropy = [...kHard, 'temperature', 'reduction', 'logitsDims', 'out', 'outLoss', 'threads'] as const
/** @internal */
export const kKl = [...kSoft, ...kHard, 'labels', 'alpha'] as const
export const kMultiTeacher = [...kKl, 'weights'] as const
export const kDkd = [...kSoft, 'alpha', 'beta', 'ignoreIndex'] as const

/** @internal */
export interface AnyLoss {
  readonly loss: number | Tensor<Float32Array>
  readonly grad: Tensor<Float32Array>
}
interface AnyDkdLoss extends AnyLoss {
  readonly target: number
  readonly nonTarget: number
}

/** @internal What labels, temperature and reduction come to. */
export interface Terms {
  readonly temperature?: number
  readonly alpha?: number
  readonly beta?: number
  readonly smoothing?: number
  readonly ignore?: number | undefined
  readonly reduction: (typeof kReductions)[number]
  readonly labels?: Int32Array | null
  readonly weights?: Float32Array | null
  /** `'none'` keeps one value for each class, not for each sample. */
  readonly perClass?: boolean
}

interface Setup extends Terms {
  readonly student: LogitTensor
  readonly teachers?: number
  readonly teacher?: Float32Array | Uint16Array
  /** The teacher's logits are bfloat16. */
  readonly teacherHalf?: boolean
  readonly mix?: Float32Array | null
  readonly options: Partial<Record<'out' | 'outLoss' | 'threads', unknown>>
}

/** @internal The numbers that every loss over logits begins with, in the order of binding/distill.cpp. */
export function numbersOf(t: Terms, samples: number, classes: number, teachers: number, threads: number, losses: Output | null, half: readonly boolean[]): number[] {
  return [
    samples, classes, teachers, t.ignore === undefined ? 0 : 1, t.ignore ?? 0, t.temperature ?? 1, t.alpha ?? 1, t.beta ?? 0,
    t.smoothing ?? 0, kReductions.indexOf(t.reduction), threads, losses ? losses.view.length : 0, ...half.map(Number),
  ] // prettier-ignore
}

/** @internal Memory for the values that `'none'` keeps. */
export function lossesOf(t: Terms, value: unknown, dims: readonly number[], buffers: readonly ArrayBufferView[]): Output | null {
  if (t.reduction === 'none') return outputOf(value, 'outLoss', dims, buffers)
  if (value !== undefined)
    throw new WhittleError('ERR_RANGE', 'outLoss', `outLoss: expected only with reduction 'none', which keeps values, got reduction '${t.reduction}'`)
  return null
}

function lossOf(name: Prepared<unknown>['name'], s: Setup, suspects: Prepared<unknown>['suspects']): Prepared<AnyLoss> {
  const dims = s.student.dims
  const classes = dims[dims.length - 1] as number
  const samples = sizeOf(dims) / classes
  const inputs = [s.student.data, s.teacher ?? null, s.mix ?? null, s.labels ?? null, s.weights ?? null]
  const buffers = inputs.filter((x) => x !== null)
  const grad = outputOf(s.options.out, 'out', dims, buffers)
  const lossDims = s.perClass ? dims : dims.slice(0, -1)
  const losses = lossesOf(s, s.options.outLoss, lossDims, [...buffers, grad.view])
  const half = [s.student.type === 'bfloat16', s.teacherHalf ?? false]
  return {
    name,
    numbers: numbersOf(s, samples, classes, s.teachers ?? 1, threadsOf(s.options.threads), losses, half),
    inputs,
    outputs: [grad, losses],
    results: 3,
    suspects,
    finish: (result, [g, l]) => ({
      loss: s.reduction === 'none' ? f32(lossDims, l as Float32Array) : (result[0] as number),
      grad: f32(dims, g as Float32Array),
    }),
  }
}

/** @internal */
export function ignoreOf(value: unknown): number | undefined {
  return value === undefined ? undefined : integer(value, 'ignoreIndex', -(2 ** 31), 2 ** 31 - 1)
}

function hardOf(o: Partial<Record<(typeof kHard)[number], unknown>>, classes: number): { weights: Float32Array | null; smoothing: number } {
  return {
    weights: o.classWeights === undefined ? null : nonNegative(o.classWeights, 'classWeights', classes, 'class'),
    smoothing: o.labelSmoothing === undefined ? 0 : finite(o.labelSmoothing, 'labelSmoothing', 0, 1),
  }
}

function prepareCrossEntropy(logits: unknown, labels: unknown, given: unknown): Prepared<AnyLoss> {
  const o = options(given, 'options', kCrossEntropy)
  const student = logitsOf(logits, 'logits', 1, o.logitsDims)
  const classes = student.dims[student.dims.length - 1] as number
  const reduction = o.reduction === undefined ? 'mean' : oneOf(o.reduction, 'reduction', ['mean', 'sum', 'none'] as const)
  const ignore = ignoreOf(o.ignoreIndex)
  const known = classLabels(labels, student.data.length / classes, classes, ignore)
  const temperature = temperatureOf(o.temperature)
  return lossOf('distillCrossEntropy', { student, reduction, temperature, ignore, labels: known, ...hardOf(o, classes), options: o }, [
    ['logits', student.data],
  ])
}

/** @internal The part of `kl` and its kin that concerns labels. */
export function mixed(o: Partial<Record<(typeof kKl)[number], unknown>>, samples: number, classes: number): Terms {
  const reduction = o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions)
  const temperature = temperatureOf(o.temperature)
  if (o.labels === undefined) {
    for (const key of ['alpha', ...kHard] as const)
      if (o[key] !== undefined) throw new WhittleError('ERR_RANGE', key, `${key}: expected only beside labels, which are not given`)
    return { reduction, temperature, perClass: true }
  }
  const ignore = ignoreOf(o.ignoreIndex)
  const alpha = o.alpha === undefined ? 0.5 : finite(o.alpha, 'alpha', 0, 1)
  return { reduction, temperature, alpha, ignore, labels: classLabels(o.labels, samples, classes, ignore), ...hardOf(o, classes) }
}

function pair(studentValue: unknown, teacherValue: unknown, o: { studentDims?: unknown; teacherDims?: unknown }) {
  const student = logitsOf(studentValue, 'student', 1, o.studentDims)
  const teacher = logitsOf(teacherValue, 'teacher', 1, o.teacherDims ?? o.studentDims)
  sameDims(student.dims, teacher.dims, 'teacher')
  const classes = student.dims[student.dims.length - 1] as number
  return { student, teacher, teacherHalf: teacher.type === 'bfloat16', classes, samples: student.data.length / classes }
}

function prepareKl(studentValue: unknown, teacherValue: unknown, given: unknown): Prepared<AnyLoss> {
  const o = options(given, 'options', kKl)
  const { student, teacher, teacherHalf, classes, samples } = pair(studentValue, teacherValue, o)
  const setup = { student, teacher: teacher.data, teacherHalf, ...mixed(o, samples, classes), options: o }
  return lossOf('distillKl', setup, [['student', student.data], ['teacher', teacher.data]])
}

function prepareJs(studentValue: unknown, teacherValue: unknown, given: unknown): Prepared<AnyLoss> {
  const o = options(given, 'options', kSoft)
  const { student, teacher, teacherHalf } = pair(studentValue, teacherValue, o)
  const reduction = o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions)
  const setup = { student, teacher: teacher.data, teacherHalf, reduction, temperature: temperatureOf(o.temperature), options: o }
  return lossOf('distillJs', setup, [['student', student.data], ['teacher', teacher.data]])
}

function prepareDkd(studentValue: unknown, teacherValue: unknown, labels: unknown, given: unknown): Prepared<AnyDkdLoss> {
  const o = options(given, 'options', kDkd)
  const { student, teacher, teacherHalf, classes, samples } = pair(studentValue, teacherValue, o)
  if (classes < 2) fail('ERR_SHAPE', 'student', 'at least 2 classes, a target and others', shown(student.dims))
  const ignore = ignoreOf(o.ignoreIndex)
  const p = lossOf(
    'distillDkd',
    {
      student,
      teacher: teacher.data,
      teacherHalf,
      reduction: o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions),
      temperature: temperatureOf(o.temperature),
      alpha: o.alpha === undefined ? 1 : finite(o.alpha, 'alpha', 0, 1e6),
      beta: o.beta === undefined ? 8 : finite(o.beta, 'beta', 0, 1e6),
      ignore,
      labels: classLabels(labels, samples, classes, ignore),
      options: o,
    },
    [['student', student.data], ['teacher', teacher.data]],
  )
  return {
    ...p,
    finish: (result, outputs) => ({ ...p.finish(result, outputs), target: result[1] as number, nonTarget: result[2] as number }),
  }
}

/** [K, ...student.dims] in one array: as given, or copied together from a list whose members have one type. */
function stacked(value: unknown, student: LogitTensor, dims: unknown): { teacher: Float32Array | Uint16Array; teacherHalf: boolean; teachers: number } {
  if (Array.isArray(value)) {
    const list: unknown[] = value
    if (list.length === 0) fail('ERR_SHAPE', 'teachers', 'at least one teacher', value)
    const each = list.map((one, k) => logitsOf(one, `teachers[${k}]`, 1, dims ?? student.dims))
    const type = (each[0] as LogitTensor).type as 'float32' | 'bfloat16'
    const teacher = allocate(type, list.length * student.data.length, 'teachers') as Float32Array | Uint16Array
    each.forEach((t, k) => {
      sameDims(student.dims, t.dims, `teachers[${k}]`)
      if (t.type !== type) fail('ERR_DTYPE', `teachers[${k}]`, `${type}, as the first teacher`, t.type)
      teacher.set(t.data, k * student.data.length)
    })
    return { teacher, teacherHalf: type === 'bfloat16', teachers: list.length }
  }
  const t = logitsOf(value, 'teachers', 2, dims)
  sameDims(student.dims, t.dims.slice(1), 'teachers')
  return { teacher: t.data, teacherHalf: t.type === 'bfloat16', teachers: t.dims[0] as number }
}

function prepareMultiTeacher(studentValue: unknown, teachers: unknown, given: unknown): Prepared<AnyLoss> {
  const o = options(given, 'options', kMultiTeacher)
  const student = logitsOf(studentValue, 'student', 1, o.studentDims)
  const classes = student.dims[student.dims.length - 1] as number
  const all = stacked(teachers, student, o.teacherDims)
  const mix = o.weights === undefined ? new Float32Array(all.teachers).fill(1) : nonNegative(o.weights, 'weights', all.teachers, 'teacher')
  if (!mix.some((w) => w > 0)) fail('ERR_RANGE', 'weights', 'at least one above 0', o.weights)
  const setup = { student, ...all, mix, ...mixed(o, student.data.length / classes, classes), options: o }
  return lossOf('distillMultiTeacher', setup, [['student', student.data], ['teachers', all.teacher]])
}

/**
 * Cross-entropy of logits with labels, `(1−ε)·(−log p_y) + ε/C·Σ_c(−log p_c)`, p = softmax(logits/T), and its gradient in
 * one call.
 *
 * Exact on extreme logits: the maximum is subtracted before anything else. If every sample is ignored the loss is 0.
 *
 * @param logits float32 or bfloat16 […, classes], or a bare array with `logitsDims` (one sample without)
 * @param labels one class for each sample
 * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE`, `ERR_RANGE` (a label out of range, a NaN or infinite logit, a loss
 * beyond float32, options), `ERR_HANDLE` for a detached buffer. After an error `out` holds unspecified numbers.
 * @example
 * const logits = { type: 'float32', dims: [2, 3], data: new Float32Array([2, 1, 0, 0, 3, 0]) }
 * const { loss, grad } = crossEntropy(logits, new Int32Array([0, 1]), { labelSmoothing: 0.1 })
 */
export function crossEntropy<R extends 'mean' | 'sum' | 'none' = 'mean'>(logits: LogitOperand, labels: Labels, options?: CrossEntropyOptions<R>): Loss<R> {
  return run(prepareCrossEntropy(logits, labels, options)) as Loss<R>
}

/** {@link crossEntropy} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function crossEntropyAsync<R extends 'mean' | 'sum' | 'none' = 'mean'>(
  logits: LogitOperand,
  labels: Labels,
  options?: CrossEntropyOptions<R>,
): Promise<Loss<R>> {
  return (await runAsync(prepareCrossEntropy(logits, labels, options))) as Loss<R>
}

/**
 * Distillation by probabilities: `T²·KL(softmax(teacher/T) ‖ softmax(student/T))`, or with labels, per sample,
 * `(1−α)·CE(labels, student) + α·T²·KL`. Source: Hinton, Vinyals, Dean 2015.
 *
 * `reduction: 'none'` keeps the samples × classes terms (`student`'s dims); with labels one value for each sample. With
 * `classWeights` the two parts have means of their own: the cross-entropy divides by the sum of weights.
 *
 * @param student float32 or bfloat16 logits […, classes], or a bare array with `studentDims`
 * @param teacher logits of the same dims, float32 or bfloat16 whatever the student's
 * @throws as {@link crossEntropy}; `ERR_RANGE` too for a temperature that is not above 0 or an alpha outside [0, 1]
 * @example
 * const { loss, grad } = distill.kl(student, teacher, { temperature: 4, labels, alpha: 0.9 })
 */
export function kl<R extends Reduction = 'batchmean'>(student: LogitOperand, teacher: LogitOperand, options?: KlOptions<R>): Loss<R> {
  return run(prepareKl(student, teacher, options)) as Loss<R>
}

/** {@link kl} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function klAsync<R extends Reduction = 'batchmean'>(student: LogitOperand, teacher: LogitOperand, options?: KlOptions<R>): Promise<Loss<R>> {
  return (await runAsync(prepareKl(student, teacher, options))) as Loss<R>
}

/**
 * Jensen–Shannon divergence `½KL(p‖m) + ½KL(q‖m)`, m = (p+q)/2, natural logarithm, without a factor T². `mean` and
 * `batchmean` both average over samples; `none` keeps one value for each.
 *
 * @throws as {@link kl}
 * @example
 * const { loss, grad } = distill.js(student, teacher, { temperature: 2 })
 */
export function js<R extends Reduction = 'batchmean'>(student: LogitOperand, teacher: LogitOperand, options?: JsOptions<R>): Loss<R> {
  return run(prepareJs(student, teacher, options)) as Loss<R>
}

/** {@link js} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function jsAsync<R extends Reduction = 'batchmean'>(student: LogitOperand, teacher: LogitOperand, options?: JsOptions<R>): Promise<Loss<R>> {
  return (await runAsync(prepareJs(student, teacher, options))) as Loss<R>
}

/**
 * Decoupled distillation: `T²·(α·KL(b_t‖b_s) + β·KL(p̂_t‖p̂_s))` with b = [p_y, 1−p_y] and p̂ the softmax over the
 * classes other than y, taken exactly (the authors' code masks the target by −1000). `mean` and `batchmean` both average
 * over samples. Source: Zhao et al. 2022.
 *
 * @param labels one class for each sample; at least 2 classes
 * @throws as {@link kl}
 * @example
 * const { loss, grad, target, nonTarget } = distill.dkd(student, teacher, labels, { temperature: 4, beta: 2 })
 */
export function dkd<R extends Reduction = 'batchmean'>(student: LogitOperand, teacher: LogitOperand, labels: Labels, options?: DkdOptions<R>): DkdLoss<R> {
  return run(prepareDkd(student, teacher, labels, options)) as DkdLoss<R>
}

/** {@link dkd} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function dkdAsync<R extends Reduction = 'batchmean'>(
  student: LogitOperand,
  teacher: LogitOperand,
  labels: Labels,
  options?: DkdOptions<R>,
): Promise<DkdLoss<R>> {
  return (await runAsync(prepareDkd(student, teacher, labels, options))) as DkdLoss<R>
}

/**
 * Several teachers: `T²·KL(Σ_k w_k·softmax(t_k/T) ‖ softmax(student/T))`, with labels as in {@link kl}.
 *
 * @param teachers logits [K, …student's dims], or a list of K tensors of the student's dims
 * @throws as {@link kl}
 * @example
 * const { loss, grad } = distill.multiTeacher(student, [a, b], { temperature: 4, weights: new Float32Array([2, 1]) })
 */
export function multiTeacher<R extends Reduction = 'batchmean'>(
  student: LogitOperand,
  teachers: LogitOperand | readonly LogitOperand[],
  options?: MultiTeacherOptions<R>,
): Loss<R> {
  return run(prepareMultiTeacher(student, teachers, options)) as Loss<R>
}

/** {@link multiTeacher} off the JavaScript thread; inputs must not be written until the promise settles. */
export async function multiTeacherAsync<R extends Reduction = 'batchmean'>(
  student: LogitOperand,
  teachers: LogitOperand | readonly LogitOperand[],
  options?: MultiTeacherOptions<R>,
): Promise<Loss<R>> {
  return (await runAsync(prepareMultiTeacher(student, teachers, options))) as Loss<R>
}
