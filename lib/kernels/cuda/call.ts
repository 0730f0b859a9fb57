import { WhittleError } from '../../errors'
import { handleObject } from '../../handle'
import { native } from '../../native'
import { sizeOf, type DataType, type TypedArray } from '../../tensor'
import { describe, fail } from '../../validate'
import { checkDevice, isDeviceTensor, newDeviceTensor, type DeviceTensor } from '../device'

type Name =
  | 'cudaQuantize'
  | 'cudaDequantize'
  | 'cudaRanges'
  | 'cudaHistogram'
  | 'cudaScores'
  | 'cudaLargest'
  | 'cudaRuns'
  | 'cudaApply'
  | 'cudaAbove'
  | 'cudaCount'
  | 'cudaBalanced'
  | 'cudaBlocks'
  | 'cudaMedian'
  | 'cudaRandom'
  | 'cudaExpand'
  | 'cudaFakeQuantize'
  | 'cudaCrossEntropy'
  | 'cudaKl'
  | 'cudaJs'
  | 'cudaDkd'
  | 'cudaMultiTeacher'
  | 'cudaLinearKl'
  | 'cudaFeature'
  | 'cudaAttention'
  | 'cudaRelation'
  | 'cudaGemm'
  | 'cudaGemmInt8'
  | 'cudaPackInt8'
  | 'cudaCopy'
  | 'cudaSvd'
  | 'cudaSparseCount'
  | 'cudaSparseFill'
  | 'cudaSparseCompress'
  | 'cudaSparseDense'
  | 'cudaSparseMultiply'
type Argument = object | null
type Calls = { [N in Name]: (numbers: Float64Array, ...args: readonly Argument[]) => number } & {
  [N in Name as `${N}Async`]: (numbers: Float64Array, ...args: readonly Argument[]) => Promise<number>
}

declare module '../../native' {
  interface NativeBinding extends Calls {}
}

/** @internal A native operation; its numbers follow the device's, in the order of binding/cuda.cpp. */
export interface Operation {
  readonly name: Name
  readonly numbers: readonly (number | boolean)[]
  readonly tensors: readonly (DeviceTensor | null)[]
  /** Host memory for what the operation answers beside tensors. */
  readonly result?: Float64Array
  /** The parameter to name for a status. */
  readonly parameter: string
  /** Throws for the statuses that mean something else here. */
  readonly refused?: (status: number) => void
}

/** @internal Host memory to bring to the device. */
export interface Upload {
  readonly to: DeviceTensor
  readonly from: TypedArray
}

/**
 * @internal The steps of an operation on device tensors, written once for a function and its `…Async` twin. Operands are taken
 * through {@link Turn} before the first yield.
 */
export type Routine<T> = Generator<Operation | Upload, T, void>

const idOf = (tensor: DeviceTensor): number => native().handleInfo(handleObject(tensor, 'DeviceTensor', 'tensor'))?.[1] as number

/** @internal One call: the device that its operands lie on, and the tensors that it makes. */
export class Turn {
  readonly #inputs: DeviceTensor[] = []
  readonly #made: DeviceTensor[] = []
  #first = ''

  /** The device's number. */
  get device(): number {
    return Number((this.#inputs[0] as DeviceTensor).location.slice('cuda:'.length))
  }

  /** An operand of one of `types`; the first says where the others have to lie. */
  operand(value: unknown, parameter: string, types: readonly DataType[]): DeviceTensor {
    const tensor = this.#here(value, parameter)
    if (!types.includes(tensor.type)) fail('ERR_DTYPE', `${parameter}.type`, types.join(' or '), tensor.type)
    if (this.#inputs.length === 0) this.#first = parameter
    this.#inputs.push(tensor)
    return tensor
  }

  /** The same with as many elements as `dims`, or exactly those. */
  operandOf(value: unknown, parameter: string, types: readonly DataType[], dims: readonly number[], exact = true): DeviceTensor {
    const tensor = this.operand(value, parameter, types)
    const fits = exact ? sameDims(tensor.dims, dims) : sizeOf(tensor.dims) === sizeOf(dims)
    if (!fits) throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected dims [${dims.join(', ')}], got [${tensor.dims.join(', ')}]`)
    return tensor
  }

  /** The caller's tensor for a result, which may be no operand but `inPlace`; or a new one. */
  result(out: unknown, parameter: string, type: DataType, dims: readonly number[], inPlace?: DeviceTensor): DeviceTensor {
    if (out === undefined || out === null) return this.make(parameter, type, dims)
    const tensor = this.#here(out, parameter)
    if (tensor.type !== type) fail('ERR_DTYPE', parameter, `a tensor of ${type}`, tensor.type)
    if (!sameDims(tensor.dims, dims))
      throw new WhittleError('ERR_SHAPE', parameter, `${parameter}: expected dims [${dims.join(', ')}], got [${tensor.dims.join(', ')}]`)
    const id = idOf(tensor)
    if (this.#inputs.some((x) => x !== inPlace && idOf(x) === id))
      throw new WhittleError('ERR_RANGE', parameter, `${parameter}: overlaps an operand; give it memory of its own`)
    this.#inputs.push(tensor)
    return tensor
  }

  /** A tensor beside the operands, not initialized; gone if the call fails. */
  make(parameter: string, type: DataType, dims: readonly number[]): DeviceTensor {
    const tensor = newDeviceTensor(this.device, type, dims, parameter)
    this.#made.push(tensor)
    return tensor
  }

  abandon(): void {
    for (const tensor of this.#made) tensor.dispose()
  }

  #here(value: unknown, parameter: string): DeviceTensor {
    const [first] = this.#inputs
    if (!isDeviceTensor(value)) {
      const where = first ? `a tensor on ${first.location}, where ${this.#first} lies` : 'a tensor on a GPU'
      throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: expected ${where}, got ${describe(value)}; toDevice() copies it`)
    }
    handleObject(value, 'DeviceTensor', parameter)
    if (first && value.location !== first.location)
      throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: expected a tensor on ${first.location}, where ${this.#first} lies, got one on ${value.location}`)
    return value
  }
}

const sameDims = (a: readonly number[], b: readonly number[]): boolean => a.length === b.length && a.every((d, i) => d === b[i])

function settle(status: number, step: Operation | Upload): void {
  if (status === 0) return
  if ('to' in step) return checkDevice(status, 'tensor')
  if (status !== 4) step.refused?.(status)
  checkDevice(status, step.parameter)
}

const argumentsOf = (turn: Turn, step: Operation): [Float64Array, ...Argument[]] => [
  Float64Array.from([turn.device, ...step.numbers.map(Number)]),
  ...step.tensors.map((t) => t && handleObject(t, 'DeviceTensor', step.parameter)),
  ...(step.result ? [step.result] : []),
]

/** @internal */
export function runSync<T>(start: (turn: Turn) => Routine<T>): T {
  const turn = new Turn()
  try {
    const routine = start(turn)
    for (;;) {
      const step = routine.next()
      if (step.done) return step.value
      const { value } = step
      if ('to' in value) settle(native().deviceUpload(handleObject(value.to, 'DeviceTensor', 'tensor'), value.from), value)
      else settle(native()[value.name](...argumentsOf(turn, value)), value)
    }
  } catch (e) {
    turn.abandon()
    throw e
  }
}

/** @internal */
export async function runAsync<T>(start: (turn: Turn) => Routine<T>): Promise<T> {
  const turn = new Turn()
  try {
    const routine = start(turn)
    for (;;) {
      const step = routine.next()
      if (step.done) return step.value
      const { value } = step
      if ('to' in value) settle(await native().deviceUploadAsync(handleObject(value.to, 'DeviceTensor', 'tensor'), value.from), value)
      else settle(await native()[`${value.name}Async`](...argumentsOf(turn, value)), value)
    }
  } catch (e) {
    turn.abandon()
    throw e
  }
}

/** @internal Says that an option has no implementation for GPUs. */
export function missing(parameter: string, what: string): never {
  throw new WhittleError('ERR_DEVICE', parameter, `${parameter}: ${what} does not run on a GPU; toHost() brings the tensor to the CPU`)
}
