import type { Node } from '../../model'
import type { Lowering } from '../lowering'

/** A two-dimensional sliding window with its padding worked out; one-dimensional ones have height 1. */
export interface Window {
  readonly kernel: readonly [number, number]
  readonly strides: readonly [number, number]
  readonly dilations: readonly [number, number]
  /** top, left, bottom, right */
  readonly pads: readonly [number, number, number, number]
  /** which taps of the file's kernel these are, where not all: part of the name of what is made of its weights */
  readonly part?: string
}

/** A window over one or two axes; `pads` are begin and end of each. */
function planar(
  kernel: readonly number[],
  strides: readonly number[],
  dilations: readonly number[],
  pads: readonly (readonly [number, number])[],
): Window {
  const two = <T>(list: readonly T[], first: T): readonly [T, T] =>
    list.length === 1 ? [first, list[0] as T] : [list[0] as T, list[1] as T]
  const [y, x] = two<readonly [number, number]>(pads, [0, 0])
  return { kernel: two(kernel, 1), strides: two(strides, 1), dilations: two(dilations, 1), pads: [y[0], x[0], y[1], x[1]] }
}

/** `sizes` and `out`: the spatial sizes of input and output. */
export function windowOf(node: Node, l: Lowering, kernel: readonly number[], sizes: readonly number[], out: readonly number[]): Window {
  const n = kernel.length
  if (n > 2) l.unsupported(node, `a window over ${n} axes`)
  const strides = node.ints('strides', new Array<number>(n).fill(1))
  const dilations = node.ints('dilations', new Array<number>(n).fill(1))
  const given = node.ints('pads', new Array<number>(2 * n).fill(0))
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  const pads = sizes.map((size, i): [number, number] => {
    if (auto === 'NOTSET') return [given[i] as number, given[i + n] as number]
    if (auto === 'VALID') return [0, 0]
    const need = ((out[i] as number) - 1) * (strides[i] as number) + ((kernel[i] as number) - 1) * (dilations[i] as number) + 1 - size
    const small = Math.floor(Math.max(0, need) / 2)
    const large = Math.max(0, need) - small
    return auto === 'SAME_LOWER' ? [large, small] : [small, large]
  })
  if (pads.flat().some((p) => p < 0)) l.unsupported(node, 'negative padding')
  return planar(kernel, strides, dilations, pads)
}

/** Taps [first, end) of one axis that meet the image at all; padding in front stays at least 0. */
function met(kernel: number, stride: number, dilation: number, pad: number, size: number, out: number): readonly [first: number, end: number] {
  let [first, end] = [0, kernel]
  while (first < kernel - 1 && (out - 1) * stride - pad + first * dilation < 0 && pad >= (first + 1) * dilation) first++
  while (end > first + 1 && (end - 1) * dilation - pad >= size) end--
  return [first, end]
}

/**
 * A window without the rows and columns of taps that see nothing but padding (dilated windows on small images), and its weights,
 * [matrices][kernel]; the same objects where all of them meet the image. `sizes` and `out`: height and width of input and output.
 */
export function cropped(window: Window, weights: Float32Array, sizes: readonly [number, number], out: readonly [number, number]): readonly [Window, Float32Array] {
  const { kernel, strides, dilations, pads } = window
  const [y, x] = [0, 1].map((i) => met(kernel[i]!, strides[i]!, dilations[i]!, pads[i]!, sizes[i]!, out[i]!)) as [readonly [number, number], readonly [number, number]]
  const [kh, kw] = [y[1] - y[0], x[1] - x[0]]
  if (kh === kernel[0] && kw === kernel[1]) return [window, weights]
  const matrices = weights.length / (kernel[0] * kernel[1])
  const kept = new Float32Array(matrices * kh * kw)
  for (let m = 0; m < matrices; m++)
    for (let i = 0; i < kh; i++) {
      const from = (m * kernel[0] + y[0] + i) * kernel[1] + x[0]
      kept.set(weights.subarray(from, from + kw), (m * kh + i) * kw)
    }
  return [{ ...window, kernel: [kh, kw], pads: [pads[0] - y[0] * dilations[0], pads[1] - x[0] * dilations[1], pads[2], pads[3]], part: ` taps ${[...y, ...x].join(' ')}` }, kept]
}

/** The window of a transposed convolution; padding is what is cut from its result. */
export function transposedWindow(node: Node, l: Lowering, kernel: readonly number[], sizes: readonly number[], out: readonly number[]): Window {
  const n = kernel.length
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  const strides = node.ints('strides', new Array<number>(n).fill(1))
  const dilations = node.ints('dilations', new Array<number>(n).fill(1))
  const extra = node.ints('output_padding', new Array<number>(n).fill(0))
  if (auto === 'NOTSET' && !node.ints('output_shape')) return windowOf(node, l, kernel, sizes, out)
  const pads = sizes.map((size, i): readonly [number, number] => {
    const full = (strides[i] as number) * (size - 1) + (extra[i] as number) + ((kernel[i] as number) - 1) * (dilations[i] as number) + 1
    const total = Math.max(0, full - (out[i] as number))
    const half = Math.floor(total / 2)
    return auto === 'SAME_UPPER' ? [half, total - half] : [total - half, half]
  })
  return planar(kernel, strides, dilations, pads)
}

/** Channels-last order of a feature map [n, c, …]. */
export function channelsLast(rank: number): number[] {
  return [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1]
}

/** n, h, w, c of a map [n, c, w] or [n, c, h, w]. */
export function imageOf(dims: readonly number[]): [n: number, h: number, w: number, c: number] {
  const [n, c, h, w] = dims as [number, number, number, number | undefined]
  return w === undefined ? [n, 1, h, c] : [n, h, w, c]
}
