import { WhittleError } from '../../errors'
import { byteLengthOf, sizeOf } from '../../tensor'
import { fail, finite, oneOf, options } from '../../validate'
import type { DeviceTensor } from '../device'
import { temperatureOf, threadsOf } from '../distill/call'
import {
  ignoreOf,
  kCrossEntropy,
  kDkd,
  kKl,
  kMultiTeacher,
  kReductions,
  kSoft,
  type CrossEntropyOptions,
  type DkdOptions,
  type JsOptions,
  type KlOptions,
  type Reduction,
} from '../distill/logits'
import { runAsync, runSync, type Routine, type Turn } from './call'

/** A loss over logits on a GPU: one number, or with reduction `'none'` a tensor there; the gradient lies there too. */
export interface DeviceLoss<R extends string = 'mean'> {
  readonly loss: R extends 'none' ? DeviceTensor : number
  readonly grad: DeviceTensor
}

interface Memory {
  readonly out?: DeviceTensor
  /** Where `'none'` writes its values. */
  readonly outLoss?: DeviceTensor
  readonly classWeights?: DeviceTensor
}

/** Options of `crossEntropy` for logits on a GPU. */
export interface DeviceCrossEntropyOptions<R extends string = 'mean'>
  extends Omit<CrossEntropyOptions<R>, 'out' | 'outLoss' | 'classWeights' | 'logitsDims'>, Memory {}

/** Options of `distill.kl` for logits on a GPU. */
export interface DeviceKlOptions<R extends string = 'batchmean'>
  extends Omit<KlOptions<R>, 'out' | 'outLoss' | 'classWeights' | 'labels' | 'studentDims' | 'teacherDims'>, Memory {
  /** Classes, one for each sample: int32. */
  readonly labels?: DeviceTensor
}

/** Options of `distill.js` for logits on a GPU. */
export interface DeviceJsOptions<R extends string = 'batchmean'>
  extends Omit<JsOptions<R>, 'out' | 'outLoss' | 'studentDims' | 'teacherDims'>, Omit<Memory, 'classWeights'> {}

/** Options of `distill.dkd` for logits on a GPU. */
export interface DeviceDkdOptions<R extends string = 'batchmean'>
  extends Omit<DkdOptions<R>, 'out' | 'outLoss' | 'studentDims' | 'teacherDims'>, Omit<Memory, 'classWeights'> {}

/** Options of `distill.multiTeacher` for logits on a GPU. */
export interface DeviceMultiTeacherOptions<R extends string = 'batchmean'> extends DeviceKlOptions<R> {
  /** How much each teacher counts: finite, >= 0, divided by their sum. Default: all the same. */
  readonly weights?: DeviceTensor
}

/** What `distill.dkd` of logits on a GPU answers. */
export interface DeviceDkdLoss<R extends string = 'batchmean'> extends DeviceLoss<R> {
  readonly target: number
  readonly nonTarget: number
}

interface AnyLoss {
  readonly loss: number | DeviceTensor
  readonly grad: DeviceTensor
}

const kTypes = ['float32', 'bfloat16'] as const
const kLabelled = ['alpha', 'classWeights', 'ignoreIndex', 'labelSmoothing'] as const

/** @internal What the numbers of every loss over logits say, and its labels. */
export interface Terms {
  readonly labels: DeviceTensor | null
  readonly classWeights: DeviceTensor | null
  readonly ignore: number | undefined
  readonly smoothing: number
  readonly temperature: number
  readonly alpha: number
  readonly beta?: number
  readonly reduction: (typeof kReductions)[number]
}

type Given = Partial<Record<'labels' | (typeof kLabelled)[number] | 'temperature' | 'reduction' | 'out' | 'outLoss' | 'threads', unknown>>

/** @internal The logits' samples and classes. */
export function extent(dims: readonly number[], parameter: string): { samples: number; classes: number } {
  const classes = dims[dims.length - 1]
  if (classes === undefined || sizeOf(dims) === 0) fail('ERR_SHAPE', parameter, 'at least 1 dimension, and none of 0', [...dims])
  return { samples: sizeOf(dims) / classes, classes }
}

const labelsOf = (turn: Turn, value: unknown, samples: number): DeviceTensor => turn.operandOf(value, 'labels', ['int32'], [samples], false)

/** What concerns labels, where there are some. */
function hard(turn: Turn, o: Given, { samples, classes }: { samples: number; classes: number }) {
  return {
    labels: labelsOf(turn, o.labels ?? null, samples),
    classWeights: o.classWeights === undefined ? null : turn.operandOf(o.classWeights, 'classWeights', ['float32'], [classes], false),
    ignore: ignoreOf(o.ignoreIndex),
    smoothing: o.labelSmoothing === undefined ? 0 : finite(o.labelSmoothing, 'labelSmoothing', 0, 1),
  }
}

const kSoftOnly = { labels: null, classWeights: null, ignore: undefined, smoothing: 0 } as const

/** @internal As `mixed` of the CPU: the terms of `kl` and its kin. */
export function mixed(turn: Turn, o: Given, size: { samples: number; classes: number }): Terms {
  const reduction = o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions)
  const temperature = temperatureOf(o.temperature)
  if (o.labels === undefined) {
    for (const key of kLabelled)
      if (o[key] !== undefined) throw new WhittleError('ERR_RANGE', key, `${key}: expected only beside labels, which are not given`)
    return { ...kSoftOnly, temperature, alpha: 1, reduction }
  }
  const alpha = o.alpha === undefined ? 0.5 : finite(o.alpha, 'alpha', 0, 1)
  return { ...hard(turn, o, size), temperature, alpha, reduction }
}

/** @internal The numbers that every loss over logits begins with, in the order of binding/cuda_distill.cpp. */
export function numbersOf(t: Terms, samples: number, classes: number, teachers: number, losses: DeviceTensor | null, half: readonly boolean[]) {
  return [
    samples, classes, teachers, t.ignore !== undefined, t.ignore ?? 0, t.temperature, t.alpha, t.beta ?? 0, t.smoothing,
    kReductions.indexOf(t.reduction), losses ? sizeOf(losses.dims) : 0, ...half,
  ] // prettier-ignore
}

/** @internal Memory for the values that `'none'` keeps. */
export function lossesOf(turn: Turn, t: Terms, value: unknown, dims: readonly number[]): DeviceTensor | null {
  if (t.reduction === 'none') return turn.result(value, 'outLoss', 'float32', dims)
  if (value !== undefined)
    throw new WhittleError('ERR_RANGE', 'outLoss', `outLoss: expected only with reduction 'none', which keeps values, got reduction '${t.reduction}'`)
  return null
}

/** @internal What statuses mean for a loss over logits; `result` tells the two kinds of weights from labels. */
export const refusedOf = (t: Terms, classes: number, result: Float64Array, parameter: string) => (status: number) => {
  if (status === 3 && result[0] === 1) throw new WhittleError('ERR_RANGE', 'classWeights', 'classWeights: expected finite numbers >= 0')
  if (status === 3 && result[0] === 2) throw new WhittleError('ERR_RANGE', 'weights', 'weights: expected finite numbers >= 0, at least one above 0')
  if (status === 3) {
    const or = t.ignore === undefined ? '' : ` or ignoreIndex ${t.ignore}`
    throw new WhittleError('ERR_RANGE', 'labels', `labels: expected classes from 0 to ${classes - 1}${or}, found another number`)
  }
  if (status === 8) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected finite logits and a loss within the range of float32`)
}

interface Parts {
  readonly student: DeviceTensor
  readonly teacher?: DeviceTensor
  readonly teachers?: number
  readonly mix?: DeviceTensor | null
  /** `'none'` keeps a value for each class. */
  readonly perClass?: boolean
}

function* lossOf(
  turn: Turn,
  name: 'cudaCrossEntropy' | 'cudaKl' | 'cudaJs' | 'cudaDkd' | 'cudaMultiTeacher',
  p: Parts,
  t: Terms,
  o: Given,
): Routine<AnyLoss & { readonly result: Float64Array }> {
  const { dims } = p.student
  const { samples, classes } = extent(dims, 'student')
  threadsOf(o.threads)
  const grad = turn.result(o.out, 'out', 'float32', dims)
  const losses = lossesOf(turn, t, o.outLoss, p.perClass && !t.labels ? dims : dims.slice(0, -1))
  const result = new Float64Array(3)
  const parameter = p.teacher ? 'student' : 'logits'
  yield {
    name,
    numbers: numbersOf(t, samples, classes, p.teachers ?? 1, losses, [p.student.type === 'bfloat16', p.teacher?.type === 'bfloat16']),
    tensors: [p.student, p.teacher ?? null, p.mix ?? null, t.labels, t.classWeights, grad, losses],
    result,
    parameter,
    refused: refusedOf(t, classes, result, parameter),
  }
  return { loss: losses ?? (result[0] as number), grad, result }
}

const bare = ({ loss, grad }: AnyLoss): AnyLoss => ({ loss, grad })

function* entropy(turn: Turn, logits: unknown, labels: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kCrossEntropy)
  const student = turn.operand(logits, 'logits', kTypes)
  const reduction = o.reduction === undefined ? 'mean' : oneOf(o.reduction, 'reduction', ['mean', 'sum', 'none'] as const)
  const terms = { ...hard(turn, { ...o, labels }, extent(student.dims, 'logits')), temperature: temperatureOf(o.temperature), alpha: 0, reduction }
  return bare(yield* lossOf(turn, 'cudaCrossEntropy', { student }, terms, o))
}

function pair(turn: Turn, s: unknown, t: unknown) {
  const student = turn.operand(s, 'student', kTypes)
  return { student, teacher: turn.operandOf(t, 'teacher', kTypes, student.dims), ...extent(student.dims, 'student') }
}

function* divergence(turn: Turn, s: unknown, t: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kKl)
  const p = pair(turn, s, t)
  return bare(yield* lossOf(turn, 'cudaKl', { ...p, perClass: true }, mixed(turn, o, p), o))
}

function* jensen(turn: Turn, s: unknown, t: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kSoft)
  const p = pair(turn, s, t)
  const reduction = o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions)
  return bare(yield* lossOf(turn, 'cudaJs', p, { ...kSoftOnly, temperature: temperatureOf(o.temperature), alpha: 1, reduction }, o))
}

function* decoupled(turn: Turn, s: unknown, t: unknown, labels: unknown, given: unknown): Routine<AnyLoss & { target: number; nonTarget: number }> {
  const o = options(given, 'options', kDkd)
  const p = pair(turn, s, t)
  if (p.classes < 2) fail('ERR_SHAPE', 'student', 'at least 2 classes, a target and others', [...p.student.dims])
  const terms = {
    ...kSoftOnly,
    labels: labelsOf(turn, labels ?? null, p.samples),
    ignore: ignoreOf(o.ignoreIndex),
    temperature: temperatureOf(o.temperature),
    alpha: o.alpha === undefined ? 1 : finite(o.alpha, 'alpha', 0, 1e6),
    beta: o.beta === undefined ? 8 : finite(o.beta, 'beta', 0, 1e6),
    reduction: o.reduction === undefined ? ('batchmean' as const) : oneOf(o.reduction, 'reduction', kReductions),
  }
  const { loss, grad, result } = yield* lossOf(turn, 'cudaDkd', p, terms, o)
  return { loss, grad, target: result[1] as number, nonTarget: result[2] as number }
}

/** [K, ...student.dims] in one tensor: as given, or copied together from a list whose members have one type. */
function* stacked(turn: Turn, value: unknown, student: DeviceTensor): Routine<{ teacher: DeviceTensor; teachers: number; copied: boolean }> {
  const { dims } = student
  if (!Array.isArray(value)) {
    const teacher = turn.operand(value, 'teachers', kTypes)
    const [teachers] = teacher.dims
    if (!teachers || teacher.dims.length !== dims.length + 1 || dims.some((d, i) => d !== teacher.dims[i + 1]))
      throw new WhittleError('ERR_SHAPE', 'teachers', `teachers: expected dims [K, ${dims.join(', ')}], got [${teacher.dims.join(', ')}]`)
    return { teacher, teachers, copied: false }
  }
  if (value.length === 0) fail('ERR_SHAPE', 'teachers', 'at least one teacher', value)
  const all: DeviceTensor[] = []
  for (const one of value as unknown[]) all.push(turn.operandOf(one, `teachers[${all.length}]`, [all[0]?.type ?? kTypes].flat(), dims))
  const { type } = all[0] as DeviceTensor
  const teacher = turn.make('teachers', type, [all.length, ...dims])
  const bytes = byteLengthOf(type, sizeOf(dims))
  for (const [k, one] of all.entries())
    yield { name: 'cudaCopy', numbers: [bytes, k * bytes], tensors: [one, teacher], parameter: 'teachers' }
  return { teacher, teachers: all.length, copied: true }
}

function* several(turn: Turn, s: unknown, teachersGiven: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kMultiTeacher)
  const student = turn.operand(s, 'student', kTypes)
  const size = extent(student.dims, 'student')
  const { teacher, teachers, copied } = yield* stacked(turn, teachersGiven, student)
  const mix = o.weights === undefined ? null : turn.operandOf(o.weights, 'weights', ['float32'], [teachers], false)
  const loss = bare(yield* lossOf(turn, 'cudaMultiTeacher', { student, teacher, teachers, mix, perClass: true }, mixed(turn, o, size), o))
  if (copied) teacher.dispose()
  return loss
}

/**
 * `crossEntropy` on a GPU; labels are int32 there. Not one number of the gradient leaves it.
 *
 * @throws {WhittleError} also `ERR_DEVICE` for an operand that lies elsewhere
 */
export const crossEntropy = <R extends 'mean' | 'sum' | 'none' = 'mean'>(
  logits: DeviceTensor,
  labels: DeviceTensor,
  options?: DeviceCrossEntropyOptions<R>,
): DeviceLoss<R> => runSync((turn) => entropy(turn, logits, labels, options)) as DeviceLoss<R>

/** {@link crossEntropy} off the JavaScript thread. */
export const crossEntropyAsync = async <R extends 'mean' | 'sum' | 'none' = 'mean'>(
  logits: DeviceTensor,
  labels: DeviceTensor,
  options?: DeviceCrossEntropyOptions<R>,
): Promise<DeviceLoss<R>> => (await runAsync((turn) => entropy(turn, logits, labels, options))) as DeviceLoss<R>

/** `distill.kl` on a GPU; student, teacher and labels (int32) lie there. */
export const kl = <R extends Reduction = 'batchmean'>(student: DeviceTensor, teacher: DeviceTensor, options?: DeviceKlOptions<R>): DeviceLoss<R> =>
  runSync((turn) => divergence(turn, student, teacher, options)) as DeviceLoss<R>

/** {@link kl} off the JavaScript thread. */
export const klAsync = async <R extends Reduction = 'batchmean'>(
  student: DeviceTensor,
  teacher: DeviceTensor,
  options?: DeviceKlOptions<R>,
): Promise<DeviceLoss<R>> => (await runAsync((turn) => divergence(turn, student, teacher, options))) as DeviceLoss<R>

/** `distill.js` on a GPU. */
export const js = <R extends Reduction = 'batchmean'>(student: DeviceTensor, teacher: DeviceTensor, options?: DeviceJsOptions<R>): DeviceLoss<R> =>
  runSync((turn) => jensen(turn, student, teacher, options)) as DeviceLoss<R>

/** {@link js} off the JavaScript thread. */
export const jsAsync = async <R extends Reduction = 'batchmean'>(
  student: DeviceTensor,
  teacher: DeviceTensor,
  options?: DeviceJsOptions<R>,
): Promise<DeviceLoss<R>> => (await runAsync((turn) => jensen(turn, student, teacher, options))) as DeviceLoss<R>

/** `distill.dkd` on a GPU; labels are int32 there. */
export const dkd = <R extends Reduction = 'batchmean'>(
  student: DeviceTensor,
  teacher: DeviceTensor,
  labels: DeviceTensor,
  options?: DeviceDkdOptions<R>,
): DeviceDkdLoss<R> => runSync((turn) => decoupled(turn, student, teacher, labels, options)) as DeviceDkdLoss<R>

/** {@link dkd} off the JavaScript thread. */
export const dkdAsync = async <R extends Reduction = 'batchmean'>(
  student: DeviceTensor,
  teacher: DeviceTensor,
  labels: DeviceTensor,
  options?: DeviceDkdOptions<R>,
): Promise<DeviceDkdLoss<R>> => (await runAsync((turn) => decoupled(turn, student, teacher, labels, options))) as DeviceDkdLoss<R>

/** `distill.multiTeacher` on a GPU; a list of teachers is copied together there. */
export const multiTeacher = <R extends Reduction = 'batchmean'>(
  student: DeviceTensor,
  teachers: DeviceTensor | readonly DeviceTensor[],
  options?: DeviceMultiTeacherOptions<R>,
): DeviceLoss<R> => runSync((turn) => several(turn, student, teachers, options)) as DeviceLoss<R>

/** {@link multiTeacher} off the JavaScript thread. */
export const multiTeacherAsync = async <R extends Reduction = 'batchmean'>(
  student: DeviceTensor,
  teachers: DeviceTensor | readonly DeviceTensor[],
  options?: DeviceMultiTeacherOptions<R>,
): Promise<DeviceLoss<R>> => (await runAsync((turn) => several(turn, student, teachers, options))) as DeviceLoss<R>
