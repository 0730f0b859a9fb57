import { WhittleError } from '../../errors'
import { sizeOf } from '../../tensor'
import { fail, finite, oneOf, options } from '../../validate'
import type { DeviceTensor } from '../device'
import { temperatureOf, threadsOf } from '../distill/call'
import {
  ignoreOf,
  kCrossEntropy,
  kKl,
  kReductions,
  kSoft,
  type CrossEntropyOptions,
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

interface AnyLoss {
  readonly loss: number | DeviceTensor
  readonly grad: DeviceTensor
}

const kTypes = ['float32', 'bfloat16'] as const

interface Terms {
  readonly name: 'cudaCrossEntropy' | 'cudaKl' | 'cudaJs'
  readonly student: DeviceTensor
  readonly teacher: DeviceTensor | null
  readonly labels: unknown
  readonly temperature: number
  readonly alpha: number
  readonly reduction: (typeof kReductions)[number]
  readonly options: Partial<Record<'classWeights' | 'ignoreIndex' | 'labelSmoothing' | 'out' | 'outLoss' | 'threads', unknown>>
}

function* lossOf(turn: Turn, t: Terms): Routine<AnyLoss> {
  const { dims } = t.student
  const classes = dims[dims.length - 1]
  const parameter = t.teacher ? 'student' : 'logits'
  if (classes === undefined || sizeOf(dims) === 0) fail('ERR_SHAPE', parameter, 'at least 1 dimension, and none of 0', [...dims])
  const samples = sizeOf(dims) / classes
  const o = t.options
  const labels = t.labels === undefined ? null : turn.operandOf(t.labels, 'labels', ['int32'], [samples], false)
  const weights = o.classWeights === undefined ? null : turn.operandOf(o.classWeights, 'classWeights', ['float32'], [classes], false)
  const ignore = ignoreOf(o.ignoreIndex)
  const smoothing = o.labelSmoothing === undefined ? 0 : finite(o.labelSmoothing, 'labelSmoothing', 0, 1)
  threadsOf(o.threads)
  const none = t.reduction === 'none'
  if (!none && o.outLoss !== undefined)
    throw new WhittleError('ERR_RANGE', 'outLoss', `outLoss: expected only with reduction 'none', which keeps values, got reduction '${t.reduction}'`)
  const grad = turn.result(o.out, 'out', 'float32', dims)
  const losses = none ? turn.result(o.outLoss, 'outLoss', 'float32', labels || t.name === 'cudaJs' ? dims.slice(0, -1) : dims) : null
  const result = new Float64Array(3)
  yield {
    name: t.name,
    numbers: [
      samples, classes, ignore !== undefined, ignore ?? 0, t.temperature, t.alpha, smoothing, kReductions.indexOf(t.reduction),
      losses ? sizeOf(losses.dims) : 0, t.student.type === 'bfloat16', t.teacher?.type === 'bfloat16',
    ], // prettier-ignore
    tensors: [t.student, t.teacher, labels, weights, grad, losses],
    result,
    parameter,
    refused: (status) => {
      if (status === 3 && result[0] === 1) throw new WhittleError('ERR_RANGE', 'classWeights', 'classWeights: expected finite numbers >= 0')
      if (status === 3) {
        const or = ignore === undefined ? '' : ` or ignoreIndex ${ignore}`
        throw new WhittleError('ERR_RANGE', 'labels', `labels: expected classes from 0 to ${classes - 1}${or}, found another number`)
      }
      if (status === 8) throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected finite logits and a loss within the range of float32`)
    },
  }
  return { loss: losses ?? (result[0] as number), grad }
}

function* entropy(turn: Turn, logits: unknown, labels: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kCrossEntropy)
  const student = turn.operand(logits, 'logits', kTypes)
  const reduction = o.reduction === undefined ? 'mean' : oneOf(o.reduction, 'reduction', ['mean', 'sum', 'none'] as const)
  return yield* lossOf(turn, { name: 'cudaCrossEntropy', student, teacher: null, labels: labels ?? null, temperature: temperatureOf(o.temperature), alpha: 0, reduction, options: o })
}

function* divergence(turn: Turn, s: unknown, t: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kKl)
  const student = turn.operand(s, 'student', kTypes)
  const teacher = turn.operandOf(t, 'teacher', kTypes, student.dims)
  if (o.labels === undefined)
    for (const key of ['alpha', 'classWeights', 'ignoreIndex', 'labelSmoothing'] as const)
      if (o[key] !== undefined) throw new WhittleError('ERR_RANGE', key, `${key}: expected only beside labels, which are not given`)
  const alpha = o.labels === undefined ? 1 : o.alpha === undefined ? 0.5 : finite(o.alpha, 'alpha', 0, 1)
  const reduction = o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions)
  return yield* lossOf(turn, {
    name: 'cudaKl', student, teacher, labels: o.labels, temperature: temperatureOf(o.temperature), alpha, reduction, options: o,
  }) // prettier-ignore
}

function* jensen(turn: Turn, s: unknown, t: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kSoft)
  const student = turn.operand(s, 'student', kTypes)
  const teacher = turn.operandOf(t, 'teacher', kTypes, student.dims)
  const reduction = o.reduction === undefined ? 'batchmean' : oneOf(o.reduction, 'reduction', kReductions)
  return yield* lossOf(turn, {
    name: 'cudaJs', student, teacher, labels: undefined, temperature: temperatureOf(o.temperature), alpha: 1, reduction, options: o,
  }) // prettier-ignore
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
