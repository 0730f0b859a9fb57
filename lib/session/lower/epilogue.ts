import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import { kNoCode, wholeCode, type Code } from '../codes'
import type { Lowering } from '../lowering'
import { sameOrder, type Quantized, type Value } from '../value'
import type { Memory } from '../program'
import { clipBounds, geluOf } from './elementwise'

// core/activation.h
const kKinds = { none: 0, clip: 1, hardswish: 2, sigmoid: 3, tanh: 4, silu: 5, gelu: 6, gelu_tanh: 7, hardswishAffine: 8 } as const

/** What happens to sums before they are written, and the value that results. */
export interface Epilogue {
  /** kind, lo, hi */
  readonly activation: readonly [number, number, number]
  readonly residual: (Value & { readonly memory: Memory }) | undefined
  /** what the residual's codes stand for; floats: `kNoCode` */
  readonly added: Code
  /** name of the value after all that was taken along */
  readonly output: string
}

function activationOf(node: Node, l: Lowering): Epilogue['activation'] | undefined {
  if (!node.is()) return undefined
  switch (node.opType) {
    case 'Relu':
      return [kKinds.clip, 0, Infinity]
    case 'Clip': {
      const bounds = clipBounds(node, l)
      return bounds && [kKinds.clip, ...bounds]
    }
    case 'HardSwish':
      return [kKinds.hardswish, 0, 0]
    case 'Sigmoid':
      return [kKinds.sigmoid, 0, 0]
    case 'Tanh':
      return [kKinds.tanh, 0, 0]
    case 'Swish':
      return [kKinds.silu, 0, 0]
    case 'Gelu':
      return [kKinds[geluOf(node) as 'gelu'], 0, 0]
    default:
      return undefined
  }
}

/**
 * Takes along what follows `name` and can be done while its sums are at hand: the addition of a value of the same shape
 * that is there already (where `residuals` is set; 'codes': 8-bit codes are added as they are), then an activation. `order` is how the
 * result will lie.
 */
export function takeEpilogue(l: Lowering, name: string, order: readonly number[], residuals: boolean | 'codes', node: Node): Epilogue {
  let output = name
  let residual: Epilogue['residual']
  let added = kNoCode
  let next = l.soleUser(output)
  if (residuals && next?.is('Add')) {
    const other = next.inputs[0] === output ? next.inputs[1] : next.inputs[0]
    const dims = l.dims(output, node)
    const known = other !== undefined && l.has(other) ? l.lazy(other, next) : undefined
    if (
      known &&
      !known.constant &&
      known.type === 'float32' &&
      sizeOf(known.dims) === sizeOf(dims) &&
      l.dims(next.outputs[0] as string, next).length === known.dims.length &&
      known.dims.length === dims.length &&
      (!known.memory || sameOrder(known.dims, known.order, order))
    ) {
      const code = residuals === 'codes' ? wholeCode(known) : undefined
      residual = l.inOrder(code ? (known.quantized as Quantized).codes : known, order, next)
      added = code ?? kNoCode
      l.taken.add(next)
      output = next.outputs[0] as string
      next = l.soleUser(output)
    }
  }
  const activation = next && activationOf(next, l)
  if (next && activation) {
    l.taken.add(next)
    output = next.outputs[0] as string
    if (activation[0] === kKinds.hardswish) {
      // PP-OCR's nets scale and shift behind it.
      const map = takeAffines(l, output, 0, 1)
      const [scale, shift] = [map.multiply[0] as number, map.add[0] as number]
      if (map.output !== output) return { activation: [kKinds.hardswishAffine, scale, shift], residual, added, output: map.output }
    }
  }
  return { activation: activation ?? [kKinds.none, 0, 0], residual, added, output }
}

/** A per-channel change of what is known before the model runs: y = x * multiply + add. */
export interface Affine {
  readonly multiply: Float64Array
  readonly add: Float64Array
}

/**
 * The affine map that the node applies along `axis` of `channels`, if it is one whose numbers are constants:
 * BatchNormalization, or arithmetic with a scalar or one number a channel.
 */
export function affineOf(l: Lowering, node: Node, name: string, axis: number, channels: number): Affine | undefined {
  if (node.is('BatchNormalization')) {
    if (node.inputs[0] !== name || axis !== 1) return undefined
    const [gamma, beta, mean, variance] = node.inputs.slice(1).map((i) => l.constant(i, node)?.data as Float32Array | undefined)
    if (!gamma || !beta || !mean || !variance) return undefined
    const epsilon = node.float('epsilon', 1e-5)
    const multiply = Float64Array.from(gamma, (g, i) => g / Math.sqrt((variance[i] as number) + epsilon))
    return { multiply, add: Float64Array.from(beta, (b, i) => b - (mean[i] as number) * (multiply[i] as number)) }
  }
  if (!node.is('Add', 'Sub', 'Mul', 'Div')) return undefined
  const [x, y] = node.inputs as [string, string]
  const swapped = y === name
  if (swapped && (node.opType === 'Sub' || node.opType === 'Div')) return undefined
  // Weights take it in for all plans: it must not depend on the shapes of one.
  const t = l.graph.constant((swapped ? x : y) as string) && l.constant(swapped ? x : y, node)
  if (!t || t.type !== 'float32') return undefined
  const rank = l.dims(name, node).length
  const at = axis - (rank - t.dims.length)
  const count = sizeOf(t.dims)
  if (t.dims.length > rank || (count !== 1 && (at < 0 || t.dims[at] !== channels || count !== channels))) return undefined
  const c = Float64Array.from({ length: channels }, (_, i) => Number(t.data[count === 1 ? 0 : i]))
  const one = new Float64Array(channels).fill(1)
  switch (node.opType) {
    case 'Add':
      return { multiply: one, add: c }
    case 'Sub':
      return { multiply: one, add: c.map((v) => -v) }
    case 'Mul':
      return { multiply: c, add: new Float64Array(channels) }
    default:
      return { multiply: c.map((v) => 1 / v), add: new Float64Array(channels) }
  }
}

/** Takes along every node behind `name` that is such a map; answers them as one, and the name of what results. */
export function takeAffines(l: Lowering, name: string, axis: number, channels: number): Affine & { readonly output: string } {
  const multiply = new Float64Array(channels).fill(1)
  const add = new Float64Array(channels)
  for (;;) {
    const next = l.soleUser(name)
    const map = next && affineOf(l, next, name, axis, channels)
    if (!next || !map) return { multiply, add, output: name }
    for (let i = 0; i < channels; i++) {
      multiply[i] = (multiply[i] as number) * (map.multiply[i] as number)
      add[i] = (add[i] as number) * (map.multiply[i] as number) + (map.add[i] as number)
    }
    l.taken.add(next)
    name = next.outputs[0] as string
  }
}
