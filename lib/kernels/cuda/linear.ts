import { WhittleError } from '../../errors'
import { sizeOf } from '../../tensor'
import { boolean, fail, options } from '../../validate'
import type { DeviceTensor } from '../device'
import { threadsOf } from '../distill/call'
import { kLinear, type LinearKlOptions } from '../distill/linear'
import type { Reduction } from '../distill/logits'
import { runAsync, runSync, type Routine, type Turn } from './call'
import { lossesOf, mixed, numbersOf, refusedOf, type DeviceLoss } from './distill'

/** The end of a classifier on a GPU: its logits are `hidden · weightᵀ + bias`. */
export interface DeviceLinearHead {
  /** float32 […, size], one row for each sample. */
  readonly hidden: DeviceTensor
  /** float32 [classes, size]. */
  readonly weight: DeviceTensor
  /** float32, one for each class. */
  readonly bias?: DeviceTensor
}

/** Logits on a GPU that are there already: float32 or bfloat16 […, classes]. */
export interface DeviceGivenLogits {
  readonly logits: DeviceTensor
}

/** Options of `distill.linearKl` on a GPU. */
export interface DeviceLinearKlOptions<R extends string = 'batchmean'>
  extends Omit<LinearKlOptions<R>, 'out' | 'outLoss' | 'outWeight' | 'outBias' | 'classWeights' | 'labels'> {
  readonly labels?: DeviceTensor
  readonly classWeights?: DeviceTensor
  readonly out?: DeviceTensor
  readonly outLoss?: DeviceTensor
  readonly outWeight?: DeviceTensor
  readonly outBias?: DeviceTensor
}

/** What `distill.linearKl` on a GPU answers with `gradWeight: true`. */
export interface DeviceLinearKlLoss<R extends string = 'batchmean'> extends DeviceLoss<R> {
  readonly gradWeight: DeviceTensor
  /** Where the student has a bias. */
  readonly gradBias?: DeviceTensor
}

interface AnyLoss {
  readonly loss: number | DeviceTensor
  readonly grad: DeviceTensor
  readonly gradWeight?: DeviceTensor
  readonly gradBias?: DeviceTensor
}

const kFloat = ['float32'] as const

function headOf(turn: Turn, fields: Partial<Record<'hidden' | 'weight' | 'bias', unknown>>, name: string) {
  const hidden = turn.operand(fields.hidden, `${name}.hidden`, kFloat)
  const size = hidden.dims[hidden.dims.length - 1]
  if (size === undefined || sizeOf(hidden.dims) === 0) fail('ERR_SHAPE', `${name}.hidden`, 'at least 1 dimension, and none of 0', [...hidden.dims])
  const weight = turn.operand(fields.weight, `${name}.weight`, kFloat)
  const [classes] = weight.dims
  if (!classes || weight.dims.length !== 2 || weight.dims[1] !== size) fail('ERR_SHAPE', `${name}.weight`, `dims [classes, ${size}]`, [...weight.dims])
  const bias = fields.bias === undefined ? null : turn.operandOf(fields.bias, `${name}.bias`, kFloat, [classes], false)
  return { hidden, weight, bias, size, classes }
}

const same = (t: DeviceTensor, parameter: string, dims: readonly number[]): void => {
  if (t.dims.length !== dims.length || dims.some((d, i) => d !== t.dims[i]))
    throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected dims [${dims.join(', ')}], got [${t.dims.join(', ')}]`)
}

function teacherOf(turn: Turn, value: unknown, lead: readonly number[], classes: number) {
  const fields = options(value, 'teacher', ['hidden', 'weight', 'bias', 'logits'] as const)
  if (fields.logits === undefined) {
    const head = headOf(turn, fields, 'teacher')
    same(head.hidden, 'teacher.hidden', [...lead, head.size])
    same(head.weight, 'teacher.weight', [classes, head.size])
    return { tensors: [head.hidden, head.weight, head.bias, null], size: head.size, half: false }
  }
  for (const key of ['hidden', 'weight', 'bias'] as const)
    if (fields[key] !== undefined) fail('ERR_RANGE', `teacher.${key}`, 'either logits or hidden states, not both', fields[key])
  const logits = turn.operandOf(fields.logits, 'teacher.logits', ['float32', 'bfloat16'], [...lead, classes])
  return { tensors: [null, null, null, logits], size: 0, half: logits.type === 'bfloat16' }
}

function* linear(turn: Turn, studentValue: unknown, teacherValue: unknown, given: unknown): Routine<AnyLoss> {
  const o = options(given, 'options', kLinear)
  const student = headOf(turn, options(studentValue, 'student', ['hidden', 'weight', 'bias'] as const), 'student')
  const { classes, size } = student
  const { dims } = student.hidden
  const lead = dims.slice(0, -1)
  const samples = sizeOf(dims) / size
  const teacher = teacherOf(turn, teacherValue, lead, classes)
  const terms = mixed(turn, o, { samples, classes })
  threadsOf(o.threads)
  const wanted = o.gradWeight === undefined ? false : boolean(o.gradWeight, 'gradWeight')
  if (!wanted && o.outWeight !== undefined) fail('ERR_RANGE', 'outWeight', 'it only with gradWeight: true', o.outWeight)
  if ((!wanted || !student.bias) && o.outBias !== undefined) fail('ERR_RANGE', 'outBias', 'it only with gradWeight: true and a bias', o.outBias)
  const grad = turn.result(o.out, 'out', 'float32', dims)
  const losses = lossesOf(turn, terms, o.outLoss, lead)
  const gradWeight = wanted ? turn.result(o.outWeight, 'outWeight', 'float32', student.weight.dims) : null
  const gradBias = wanted && student.bias ? turn.result(o.outBias, 'outBias', 'float32', [classes]) : null
  const result = new Float64Array(3)
  yield {
    name: 'cudaLinearKl',
    numbers: [...numbersOf(terms, samples, classes, 1, losses, [false, teacher.half]), size, teacher.size, wanted, student.bias !== null],
    tensors: [
      student.hidden, student.weight, student.bias, ...teacher.tensors, terms.labels, terms.classWeights, grad, losses, gradWeight, gradBias,
    ], // prettier-ignore
    result,
    parameter: 'student.hidden',
    refused: refusedOf(terms, classes, result, 'student.hidden'),
  }
  return { loss: losses ?? (result[0] as number), grad, ...(gradWeight && { gradWeight }), ...(gradBias && { gradBias }) }
}

/** `distill.linearKl` on a GPU: blocks of 1024 samples by 4096 classes, always two passes. */
export function linearKl<R extends Reduction = 'batchmean'>(
  student: DeviceLinearHead,
  teacher: DeviceLinearHead | DeviceGivenLogits,
  options: DeviceLinearKlOptions<R> & { readonly gradWeight: true },
): DeviceLinearKlLoss<R>
export function linearKl<R extends Reduction = 'batchmean'>(
  student: DeviceLinearHead,
  teacher: DeviceLinearHead | DeviceGivenLogits,
  options?: DeviceLinearKlOptions<R>,
): DeviceLoss<R>
export function linearKl<R extends Reduction = 'batchmean'>(
  student: DeviceLinearHead,
  teacher: DeviceLinearHead | DeviceGivenLogits,
  options?: DeviceLinearKlOptions<R>,
): DeviceLoss<R> {
  return runSync((turn) => linear(turn, student, teacher, options)) as DeviceLoss<R>
}

/** {@link linearKl} off the JavaScript thread. */
export function linearKlAsync<R extends Reduction = 'batchmean'>(
  student: DeviceLinearHead,
  teacher: DeviceLinearHead | DeviceGivenLogits,
  options: DeviceLinearKlOptions<R> & { readonly gradWeight: true },
): Promise<DeviceLinearKlLoss<R>>
export function linearKlAsync<R extends Reduction = 'batchmean'>(
  student: DeviceLinearHead,
  teacher: DeviceLinearHead | DeviceGivenLogits,
  options?: DeviceLinearKlOptions<R>,
): Promise<DeviceLoss<R>>
export async function linearKlAsync<R extends Reduction = 'batchmean'>(
  student: DeviceLinearHead,
  teacher: DeviceLinearHead | DeviceGivenLogits,
  options?: DeviceLinearKlOptions<R>,
): Promise<DeviceLoss<R>> {
  return (await runAsync((turn) => linear(turn, student, teacher, options))) as DeviceLoss<R>
}
