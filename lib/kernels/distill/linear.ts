import type { Tensor, TypedArray } from '../../tensor'
import { boolean, fail, options, tensor } from '../../validate'
import { f32, floats, logitsOf, outputOf, run, runAsync, sameDims, shown, threadsOf } from './call'
import type { LogitOperand, LogitTensor, Operand, Prepared } from './call'
import { kHard, kSoft, lossesOf, mixed, numbersOf, type AnyLoss, type KlOptions, type Loss, type Reduction } from './logits'

/** The end of a classifier: its logits are `hidden · weightᵀ + bias`. */
export interface LinearHead {
  /** float32 […, size], one row for each sample. */
  readonly hidden: Operand
  /** float32 [classes, size]. */
  readonly weight: Operand
  /** float32, one for each class. */
  readonly bias?: Operand
}

/** Logits that are there already: float32 or bfloat16 […, classes], one row for each sample. */
export interface GivenLogits {
  readonly logits: LogitOperand
}

/** Options of `distill.linearKl`. */
export interface LinearKlOptions<R extends string = 'batchmean'> extends Omit<KlOptions<R>, 'studentDims' | 'teacherDims'> {
  /** Answer the gradients of the student's weight and bias too. A second pass over the vocabulary. Default false. */
  readonly gradWeight?: boolean
  /** Where to write the weight's gradient. */
  readonly outWeight?: Float32Array
  /** Where to write the bias's gradient. */
  readonly outBias?: Float32Array
}

/** What `distill.linearKl` answers with `gradWeight: true`: `grad` is still that of the hidden states. */
export interface LinearKlLoss<R extends string = 'batchmean'> extends Loss<R> {
  readonly gradWeight: Tensor<Float32Array>
  /** Where the student has a bias. */
  readonly gradBias?: Tensor<Float32Array>
}

interface Head {
  readonly hidden: Tensor<Float32Array>
  readonly weight: Tensor<Float32Array>
  readonly bias: Float32Array | null
  readonly size: number
  readonly classes: number
}

/** @internal */
export const kLinear = [...kSoft.filter((k) => k !== 'studentDims' && k !== 'teacherDims'), ...kHard, 'labels', 'alpha', 'gradWeight', 'outWeight', 'outBias'] as const

function headOf(fields: Partial<Record<'hidden' | 'weight' | 'bias', unknown>>, name: string): Head {
  const hidden = floats(fields.hidden, `${name}.hidden`, 1)
  const size = hidden.dims[hidden.dims.length - 1] as number
  const weight = floats(fields.weight, `${name}.weight`, 2)
  const classes = weight.dims[0] as number
  if (weight.dims.length !== 2 || weight.dims[1] !== size) fail('ERR_SHAPE', `${name}.weight`, `dims [classes, ${size}]`, shown(weight.dims))
  if (fields.bias === undefined) return { hidden, weight, bias: null, size, classes }
  const bias = tensor(fields.bias, `${name}.bias`, ['float32']) as Tensor<Float32Array>
  if (bias.data.length !== classes) fail('ERR_SHAPE', `${name}.bias`, `${classes} numbers, one for each class`, shown(bias.dims))
  return { hidden, weight, bias: bias.data, size, classes }
}

function teacherOf(value: unknown): Head | LogitTensor {
  const fields = options(value, 'teacher', ['hidden', 'weight', 'bias', 'logits'] as const)
  if (fields.logits === undefined) return headOf(fields, 'teacher')
  for (const key of ['hidden', 'weight', 'bias'] as const)
    if (fields[key] !== undefined) fail('ERR_RANGE', `teacher.${key}`, 'either logits or hidden states, not both', fields[key])
  return logitsOf(fields.logits, 'teacher.logits', 1)
}

function prepare(studentValue: unknown, teacherValue: unknown, given: unknown): Prepared<AnyLoss> {
  const o = options(given, 'options', kLinear)
  const student = headOf(options(studentValue, 'student', ['hidden', 'weight', 'bias'] as const), 'student')
  const { classes, size } = student
  const dims = student.hidden.dims
  const logitDims = [...dims.slice(0, -1), classes]
  const samples = student.hidden.data.length / size
  const teacher = teacherOf(teacherValue)
  if ('hidden' in teacher) {
    sameDims([...dims.slice(0, -1), teacher.size], teacher.hidden.dims, 'teacher.hidden')
    if (teacher.classes !== classes) fail('ERR_SHAPE', 'teacher.weight', `dims [${classes}, ${teacher.size}]`, shown(teacher.weight.dims))
  } else sameDims(logitDims, teacher.dims, 'teacher.logits')
  const terms = mixed(o, samples, classes)
  const wanted = o.gradWeight === undefined ? false : boolean(o.gradWeight, 'gradWeight')
  if (!wanted && o.outWeight !== undefined) fail('ERR_RANGE', 'outWeight', 'it only with gradWeight: true', o.outWeight)
  if ((!wanted || !student.bias) && o.outBias !== undefined) fail('ERR_RANGE', 'outBias', 'it only with gradWeight: true and a bias', o.outBias)
  const inputs: (TypedArray | null)[] = [student.hidden.data, student.weight.data, student.bias]
  if ('hidden' in teacher) inputs.push(teacher.hidden.data, teacher.weight.data, teacher.bias, null)
  else inputs.push(null, null, null, teacher.data)
  inputs.push(terms.labels ?? null, terms.weights ?? null)
  const buffers: ArrayBufferView[] = inputs.filter((x) => x !== null)
  const take = (value: unknown, parameter: string, shape: readonly number[]) => {
    const out = outputOf(value, parameter, shape, buffers)
    buffers.push(out.view)
    return out
  }
  const grad = take(o.out, 'out', dims)
  const losses = lossesOf(terms, o.outLoss, dims.slice(0, -1), buffers)
  if (losses) buffers.push(losses.view)
  const gradWeight = wanted ? take(o.outWeight, 'outWeight', student.weight.dims) : null
  const gradBias = wanted && student.bias ? take(o.outBias, 'outBias', [classes]) : null
  const half = [false, !('hidden' in teacher) && teacher.type === 'bfloat16']
  const suspects: [string, Float32Array | Uint16Array | null][] = [
    ['student.hidden', student.hidden.data],
    ['student.weight', student.weight.data],
    ['student.bias', student.bias],
  ]
  if ('hidden' in teacher)
    suspects.push(['teacher.hidden', teacher.hidden.data], ['teacher.weight', teacher.weight.data], ['teacher.bias', teacher.bias])
  else suspects.push(['teacher.logits', teacher.data])
  return {
    name: 'distillLinearKl',
    numbers: [
      ...numbersOf({ ...terms, perClass: false }, samples, classes, 1, threadsOf(o.threads), losses, half),
      'hidden' in teacher ? 0 : 1, size, 'hidden' in teacher ? teacher.size : 0,
    ], // prettier-ignore
    inputs,
    outputs: [grad, losses, gradWeight, gradBias],
    results: 3,
    suspects: suspects.filter((s): s is [string, Float32Array | Uint16Array] => s[1] !== null),
    finish: (result, [g, each, w, b]) => ({
      loss: losses ? f32(dims.slice(0, -1), each as Float32Array) : (result[0] as number),
      grad: f32(dims, g as Float32Array),
      ...(gradWeight && { gradWeight: f32(student.weight.dims, w as Float32Array) }),
      ...(gradBias && { gradBias: f32([classes], b as Float32Array) }),
    }),
  }
}

/**
 * `kl` of logits that are never held: a student's `hidden · weightᵀ + bias` against a teacher's, block by block over the
 * vocabulary, with the gradient by the student's hidden states and, where asked, by its weight and bias. For 8 samples of
 * 128 256 classes two logit tensors would take 8.2 MB; this takes less than a tenth of that beside its results.
 *
 * Options and numbers are those of {@link distill.kl} over the same logits; `reduction: 'none'` keeps one value for each
 * sample. Sources: Hinton, Vinyals, Dean 2015; Milakov, Gimelshein 2018 (online softmax).
 *
 * @param student `{ hidden: float32 […, size], weight: float32 [classes, size], bias?: float32 [classes] }`
 * @param teacher the same, with a size of its own, or `{ logits: float32 or bfloat16 […, classes] }`
 * @returns `loss`, `grad` (of `student.hidden`), with `gradWeight: true` also `gradWeight` and, where there is a bias, `gradBias`
 * @throws as `distill.kl`; all of `student.hidden` must be finite, ignored samples included
 * @example
 * const { loss, grad, gradWeight } = distill.linearKl(
 *   { hidden, weight },
 *   { hidden: teacherHidden, weight: teacherWeight },
 *   { temperature: 2, gradWeight: true },
 * )
 */
export function linearKl<R extends Reduction = 'batchmean'>(
  student: LinearHead,
  teacher: LinearHead | GivenLogits,
  options: LinearKlOptions<R> & { readonly gradWeight: true },
): LinearKlLoss<R>
export function linearKl<R extends Reduction = 'batchmean'>(
  student: LinearHead,
  teacher: LinearHead | GivenLogits,
  options?: LinearKlOptions<R>,
): Loss<R>
export function linearKl<R extends Reduction = 'batchmean'>(
  student: LinearHead,
  teacher: LinearHead | GivenLogits,
  options?: LinearKlOptions<R>,
): Loss<R> {
  return run(prepare(student, teacher, options)) as Loss<R>
}

/** {@link linearKl} off the JavaScript thread; inputs must not be written until the promise settles. */
export function linearKlAsync<R extends Reduction = 'batchmean'>(
  student: LinearHead,
  teacher: LinearHead | GivenLogits,
  options: LinearKlOptions<R> & { readonly gradWeight: true },
): Promise<LinearKlLoss<R>>
export function linearKlAsync<R extends Reduction = 'batchmean'>(
  student: LinearHead,
  teacher: LinearHead | GivenLogits,
  options?: LinearKlOptions<R>,
): Promise<Loss<R>>
export async function linearKlAsync<R extends Reduction = 'batchmean'>(
  student: LinearHead,
  teacher: LinearHead | GivenLogits,
  options?: LinearKlOptions<R>,
): Promise<Loss<R>> {
  return (await runAsync(prepare(student, teacher, options))) as Loss<R>
}
