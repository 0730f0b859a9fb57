import { WhittleError } from '../../errors'
import type { Node } from '../../model/node'
import { sizeOf, type Tensor } from '../../tensor'
import type { RowLayout } from './matrix'

/** @internal The inputs of a weight's sums in one value: `rows` vectors of `size` features in each of `groups`. */
export interface Samples {
  readonly rows: number
  /** Writes the vectors number `at[0 … count)` as [groups, size, count]. */
  fill(out: Float32Array, at: Int32Array, count: number): void
}

/** @internal The value that a weight multiplies as input `index` of `node`; `undefined` if none tells. */
export function sampledValueOf(node: Node, index: number): string | undefined {
  switch (node.opType) {
    case 'MatMul':
    case 'Gemm':
      return node.inputs[1 - index] || undefined
    case 'Conv':
    case 'ConvTranspose':
      return node.inputs[0] || undefined
    case 'RNN':
    case 'GRU':
    case 'LSTM':
      // Recurrent weights multiply hidden states, which are the first output where the model keeps it.
      return (index === 1 ? node.inputs[0] : node.outputs[0]) || undefined
    default:
      return undefined
  }
}

/** @internal What of a node, beside the value, decides which vectors there are: equal keys, equal vectors. */
export function samplingKeyOf(node: Node, index: number, layout: RowLayout, dims: readonly number[]): string {
  if (node.is('Conv', 'ConvTranspose')) {
    const list = (name: string): string => (node.ints(name) ?? []).join()
    const kernel = [layout.groups, layout.size, layout.taps, ...dims.slice(2)].join()
    const window = ['strides', 'pads', 'dilations', 'output_padding', 'output_shape'].map(list).join('|')
    const outputs = node.is('Conv') ? '' : node.outputs[0]
    return `${node.opType}|${kernel}|${window}|${node.string('auto_pad', '')}|${outputs}`
  }
  if (node.is('RNN', 'GRU', 'LSTM')) return index === 1 ? 'matrix|1|rows|' : `hidden|${node.int('layout', 0)}`
  const batch = node.is('MatMul') ? dims.slice(0, -2).join() : ''
  return `matrix|${layout.groups}|${featuresLast(node, index) ? 'rows' : 'columns'}|${batch}`
}

/** Whether the features of a vector lie side by side in the value. */
function featuresLast(node: Node, index: number): boolean {
  if (node.is('Gemm')) return index === 1 ? node.int('transA', 0) === 0 : node.int('transB', 0) !== 0
  return index === 1
}

/** @internal `dims` are the weight's. Throws `ERR_DTYPE` or `ERR_SHAPE` where the value is not what the node says. */
export function samplesOf(node: Node, index: number, layout: RowLayout, dims: readonly number[], value: Tensor): Samples {
  if (value.type !== 'float32') throw wrong('ERR_DTYPE', node, `float32 inputs, got ${value.type}`)
  const x = value as Tensor<Float32Array>
  if (node.is('Conv')) return patches(node, layout, dims, x)
  if (node.is('ConvTranspose')) return transposedPatches(node, layout, dims, x)
  if (node.is('RNN', 'GRU', 'LSTM') && index === 2) return hiddenStates(node, layout, x)
  return vectors(node, layout, featuresLast(node, index), node.is('MatMul') ? dims.slice(0, -2) : [], x)
}

function wrong(code: 'ERR_DTYPE' | 'ERR_SHAPE', node: Node, text: string): WhittleError {
  return new WhittleError(code, node.label, `calibration: node ${node.label}: expected ${text}`)
}

/** Rows or columns of the matrices of `x`; weights with batches of their own have those that meet each. */
function vectors(node: Node, layout: RowLayout, last: boolean, batch: readonly number[], { dims, data }: Tensor<Float32Array>): Samples {
  const { groups, size } = layout
  const lead = dims.slice(0, -2)
  const flat = dims.length < 2
  const [a, b] = flat ? [1, dims[0] ?? 1] : [dims[dims.length - 2]!, dims[dims.length - 1]!]
  const [count, features] = last || flat ? [a, b] : [b, a]
  if (features !== size) throw wrong('ERR_SHAPE', node, `inputs of ${size} features, got [${dims.join(', ')}]`)
  const area = a * b
  const matrices = sizeOf(lead)
  // Which matrices of x a group meets.
  const met: number[][] = Array.from({ length: groups }, () => [])
  if (groups === 1) for (let i = 0; i < matrices; i++) met[0]!.push(i * area)
  else pairs(batch, lead, (g, i) => void met[g]!.push(i * area))
  const per = met[0]!.length
  const strideRow = last || flat ? size : 1
  const strideFeature = last || flat ? 1 : b
  return {
    rows: per * count,
    fill(out, at, n) {
      for (let g = 0; g < groups; g++) {
        const bases = met[g]!
        const o = g * n * size
        for (let j = 0; j < n; j++) {
          const row = at[j]!
          const i = Math.floor(row / count)
          const from = bases[i]! + (row - i * count) * strideRow
          for (let k = 0; k < size; k++) out[o + k * n + j] = data[from + k * strideFeature]!
        }
      }
    },
  }
}

/** Which matrix of each side meet where leading dims `left` and `right` broadcast. */
function pairs(left: readonly number[], right: readonly number[], met: (left: number, right: number) => void): void {
  const rank = Math.max(left.length, right.length)
  const l = [...new Array<number>(rank - left.length).fill(1), ...left]
  const r = [...new Array<number>(rank - right.length).fill(1), ...right]
  const walk = (axis: number, i: number, j: number): void => {
    if (axis === rank) return met(i, j)
    for (let k = 0; k < Math.max(l[axis]!, r[axis]!); k++)
      walk(axis + 1, i * l[axis]! + (l[axis] === 1 ? 0 : k), j * r[axis]! + (r[axis] === 1 ? 0 : k))
  }
  walk(0, 0, 0)
}

/** [T, directions, B, hidden], or [B, T, directions, hidden] in layout 1. */
function hiddenStates(node: Node, { groups, size }: RowLayout, { dims, data }: Tensor<Float32Array>): Samples {
  const inner = node.int('layout', 0) ? 1 : dims[2]!
  if (dims.length !== 4 || dims[3] !== size) throw wrong('ERR_SHAPE', node, `hidden states of ${size}, got [${dims.join(', ')}]`)
  return {
    rows: data.length / (groups * size),
    fill(out, at, n) {
      for (let g = 0; g < groups; g++)
        for (let j = 0; j < n; j++) {
          const outer = Math.floor(at[j]! / inner)
          const from = ((outer * groups + g) * inner + (at[j]! - outer * inner)) * size
          for (let k = 0; k < size; k++) out[(g * size + k) * n + j] = data[from + k]!
        }
    },
  }
}

interface Window {
  readonly sizes: readonly number[]
  readonly kernel: readonly number[]
  readonly strides: readonly number[]
  readonly dilations: readonly number[]
}

function windowOf(node: Node, dims: readonly number[], x: readonly number[]): Window {
  const n = dims.length - 2
  if (x.length !== n + 2) throw wrong('ERR_SHAPE', node, `inputs of rank ${n + 2}, got [${x.join(', ')}]`)
  const ones = new Array<number>(n).fill(1)
  return { sizes: x.slice(2), kernel: dims.slice(2), strides: node.ints('strides', ones), dilations: node.ints('dilations', ones) }
}

const reach = (w: Window, i: number): number => (w.kernel[i]! - 1) * w.dilations[i]! + 1

/** Patches of a convolution: features are the channels of a group times taps, zero in the padding. */
function patches(node: Node, layout: RowLayout, dims: readonly number[], x: Tensor<Float32Array>): Samples {
  const w = windowOf(node, dims, x.dims)
  const n = w.sizes.length
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  const given = node.ints('pads', new Array<number>(2 * n).fill(0))
  const begins: number[] = []
  const out = w.sizes.map((size, i) => {
    const stride = w.strides[i]!
    if (auto === 'NOTSET' || auto === 'VALID') {
      const [begin, end] = auto === 'VALID' ? [0, 0] : [given[i]!, given[i + n]!]
      begins.push(begin)
      return Math.max(0, Math.floor((size + begin + end - reach(w, i)) / stride) + 1)
    }
    const count = Math.ceil(size / stride)
    const need = Math.max(0, (count - 1) * stride + reach(w, i) - size)
    begins.push(auto === 'SAME_LOWER' ? Math.ceil(need / 2) : Math.floor(need / 2))
    return count
  })
  return windows(node, layout, x, w, out, (axis, o, tap) => o * w.strides[axis]! + tap * w.dilations[axis]! - begins[axis]!)
}

/**
 * What a transposed convolution sums for one output: features are again channels times taps; taps that fall between
 * inputs are zero.
 */
function transposedPatches(node: Node, layout: RowLayout, dims: readonly number[], x: Tensor<Float32Array>): Samples {
  const w = windowOf(node, dims, x.dims)
  const n = w.sizes.length
  const zeros = new Array<number>(2 * n).fill(0)
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  const extra = node.ints('output_padding', zeros)
  const given = node.ints('pads', zeros)
  const shape = node.ints('output_shape')
  const begins: number[] = []
  const out = w.sizes.map((size, i) => {
    const full = w.strides[i]! * (size - 1) + extra[i]! + reach(w, i)
    if (auto === 'NOTSET' && !shape) {
      begins.push(given[i]!)
      return Math.max(0, full - given[i]! - given[i + n]!)
    }
    const want = shape ? shape[shape.length - n + i]! : auto === 'VALID' ? full : size * w.strides[i]!
    const total = Math.max(0, full - want)
    begins.push(auto === 'SAME_UPPER' ? Math.floor(total / 2) : total - Math.floor(total / 2))
    return want
  })
  return windows(node, layout, x, w, out, (axis, o, tap) => {
    const at = o + begins[axis]! - tap * w.dilations[axis]!
    return at % w.strides[axis]! === 0 ? at / w.strides[axis]! : -1
  })
}

/** Vectors of channels × taps; `place` says where along an axis a tap of an output lies, outside of the input for zero. */
function windows(
  node: Node,
  { groups, size }: RowLayout,
  { dims, data }: Tensor<Float32Array>,
  w: Window,
  out: readonly number[],
  place: (axis: number, output: number, tap: number) => number,
): Samples {
  const taps = sizeOf(w.kernel)
  const channels = size / taps
  if (dims[1] !== channels * groups) throw wrong('ERR_SHAPE', node, `${channels * groups} channels, got [${dims.join(', ')}]`)
  const area = sizeOf(w.sizes)
  const outArea = sizeOf(out)
  // Offsets by axis, output and tap, within a map; NaN-free: -1 is padding.
  const steps = w.sizes.map((s, axis) => sizeOf(w.sizes.slice(axis + 1)) * (s > 0 ? 1 : 0))
  const tables = w.sizes.map((s, axis) => {
    const k = w.kernel[axis]!
    const table = new Int32Array(out[axis]! * k)
    for (let i = 0; i < table.length; i++) {
      const at = place(axis, Math.floor(i / k), i % k)
      table[i] = at >= 0 && at < s ? at * steps[axis]! : -1
    }
    return table
  })
  return {
    rows: dims[0]! * outArea,
    fill(into, at, n) {
      const offsets = new Int32Array(taps * n)
      const base = new Int32Array(n)
      const coordinates = new Array<number>(out.length).fill(0)
      for (let j = 0; j < n; j++) {
        const image = Math.floor(at[j]! / outArea)
        base[j] = image * dims[1]! * area
        let rest = at[j]! - image * outArea
        for (let axis = out.length - 1; axis >= 0; axis--) {
          coordinates[axis] = rest % out[axis]!
          rest = Math.floor(rest / out[axis]!)
        }
        for (let tap = 0; tap < taps; tap++) {
          let offset = 0
          let left = tap
          for (let axis = out.length - 1; axis >= 0 && offset >= 0; axis--) {
            const k = w.kernel[axis]!
            const step = tables[axis]![coordinates[axis]! * k + (left % k)]!
            left = Math.floor(left / k)
            offset = step < 0 ? -1 : offset + step
          }
          offsets[tap * n + j] = offset
        }
      }
      for (let c = 0; c < channels * groups; c++)
        for (let tap = 0; tap < taps; tap++) {
          const o = (c * taps + tap) * n
          const from = c * area
          for (let j = 0; j < n; j++) {
            const offset = offsets[tap * n + j]!
            into[o + j] = offset < 0 ? 0 : data[base[j]! + from + offset]!
          }
        }
    },
  }
}
