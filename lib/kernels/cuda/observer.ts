import { floatCode, kFloatTypes, shapeArguments, shapeOf, type Shape } from '../scheme'
import type { DeviceTensor } from '../device'
import { runAsync, runSync, type Routine, type Turn } from './call'

/** @internal The groups that an observer sees in a device tensor. */
export interface DeviceGroups {
  readonly shape: Shape
  readonly size: number
}

/** @internal The least and the greatest value of each group. */
export interface Bounds {
  readonly lo: Float32Array
  readonly hi: Float32Array
}

function* bounds(turn: Turn, value: unknown, shape: Shape): Routine<Bounds> {
  const x = turn.operand(value, 'x', kFloatTypes)
  const result = new Float64Array(2 * shape.count)
  yield { name: 'cudaRanges', numbers: [...shapeArguments(shape), floatCode(x.type)], tensors: [x], result, parameter: 'x' }
  return { lo: Float32Array.from(result.subarray(0, shape.count)), hi: Float32Array.from(result.subarray(shape.count)) }
}

function* counts(turn: Turn, value: unknown, shape: Shape, factors: Float32Array, bins: number): Routine<Float64Array> {
  const x = turn.operand(value, 'x', kFloatTypes)
  const result = new Float64Array(shape.count * (1 + bins))
  result.set(factors)
  yield {
    name: 'cudaHistogram',
    numbers: [shape.outer, shape.axis, shape.inner, floatCode(x.type), bins],
    tensors: [x],
    result,
    parameter: 'x',
  }
  return result.subarray(shape.count)
}

/** @internal */
export const groupsOf = (x: DeviceTensor, axis: unknown): DeviceGroups => ({
  shape: shapeOf(x.dims, axis, undefined),
  size: x.dims.reduce((a, b) => a * b, 1),
})

/** @internal */
export const boundsOf = (x: DeviceTensor, shape: Shape): Bounds => runSync((turn) => bounds(turn, x, shape))
/** @internal */
export const boundsOfAsync = (x: DeviceTensor, shape: Shape): Promise<Bounds> => runAsync((turn) => bounds(turn, x, shape))
/** @internal */
export const countsOf = (x: DeviceTensor, shape: Shape, factors: Float32Array, bins: number): Float64Array =>
  runSync((turn) => counts(turn, x, shape, factors, bins))
/** @internal */
export const countsOfAsync = (x: DeviceTensor, shape: Shape, factors: Float32Array, bins: number): Promise<Float64Array> =>
  runAsync((turn) => counts(turn, x, shape, factors, bins))
