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

/** A sliding window along one axis. */
export interface Slide {
  readonly kernel: number
  readonly stride: number
  readonly dilation: number
  /** places of padding in front and behind; of a transposed convolution, what is cut from its result */
  readonly pads: readonly [number, number]
}

/** A window that is each place by itself. */
export const kStill: Slide = { kernel: 1, stride: 1, dilation: 1, pads: [0, 0] }

/** A window over one or two axes. */
export function planar(slides: readonly Slide[]): Window {
  const [y, x] = (slides.length === 1 ? [kStill, slides[0]] : slides) as [Slide, Slide]
  const both = (of: (s: Slide) => number): readonly [number, number] => [of(y), of(x)]
  return { kernel: both((s) => s.kernel), strides: both((s) => s.stride), dilations: both((s) => s.dilation), pads: [y.pads[0], x.pads[0], y.pads[1], x.pads[1]] }
}

/** Whether a window along an axis is each place by itself. */
export function isStill({ kernel, stride, pads }: Slide): boolean {
  return kernel === 1 && stride === 1 && pads[0] === 0 && pads[1] === 0
}

/** A window along each of one to three axes. `sizes` and `out`: the spatial sizes of input and output. */
export function slidesOf(node: Node, l: Lowering, kernel: readonly number[], sizes: readonly number[], out: readonly number[]): Slide[] {
  const n = kernel.length
  if (n > 3) l.unsupported(node, `a window over ${n} axes`)
  const strides = node.ints('strides', new Array<number>(n).fill(1))
  const dilations = node.ints('dilations', new Array<number>(n).fill(1))
  const given = node.ints('pads', new Array<number>(2 * n).fill(0))
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  return sizes.map((size, i) => {
    const [k, stride, dilation] = [kernel[i] as number, strides[i] as number, dilations[i] as number]
    const need = Math.max(0, ((out[i] as number) - 1) * stride + (k - 1) * dilation + 1 - size)
    const small = Math.floor(need / 2)
    const pads: [number, number] =
      auto === 'NOTSET' ? [given[i] as number, given[i + n] as number] : auto === 'VALID' ? [0, 0] : auto === 'SAME_LOWER' ? [need - small, small] : [small, need - small]
    if (pads.some((p) => p < 0)) l.unsupported(node, 'negative padding')
    return { kernel: k, stride, dilation, pads }
  })
}

/** Taps [first, end) of one axis that meet the image at all; padding in front stays at least 0. */
export function met({ kernel, stride, dilation, pads: [pad] }: Slide, size: number, out: number): readonly [first: number, end: number] {
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
  const [y, x] = [0, 1].map((i) => met({ kernel: kernel[i]!, stride: strides[i]!, dilation: dilations[i]!, pads: [pads[i]!, 0] }, sizes[i]!, out[i]!)) as [readonly [number, number], readonly [number, number]]
  const [kh, kw] = [y[1] - y[0], x[1] - x[0]]
  if (kh === kernel[0] && kw === kernel[1]) return [window, weights]
  const matrices = weights.length / (kernel[0] * kernel[1])
  const kept = new Float32Array(matrices * kh * kw)
  for (let m = 0; m < matrices; m++)
    for (let i = 0; i < kh; i++) {
      const from = (m * kernel[0] + y[0] + i) * kernel[1] + x[0]
      kept.set(weights.subarray(from, from + kw), (m * kh + i) * kw)
    }
  return [{ ...window, kernel: [kh, kw], pads: [pads[0] - y[0] * dilations[0], pads[1] - x[0] * dilations[1], pads[2], pads[3]], part: `${window.part ?? ''} taps ${[...y, ...x].join(' ')}` }, kept]
}

/** The windows of a transposed convolution along each axis; padding is what is cut from its result. */
export function transposedSlides(node: Node, l: Lowering, kernel: readonly number[], sizes: readonly number[], out: readonly number[]): Slide[] {
  const n = kernel.length
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  const strides = node.ints('strides', new Array<number>(n).fill(1))
  const dilations = node.ints('dilations', new Array<number>(n).fill(1))
  const extra = node.ints('output_padding', new Array<number>(n).fill(0))
  if (auto === 'NOTSET' && !node.ints('output_shape')) return slidesOf(node, l, kernel, sizes, out)
  if (n > 3) l.unsupported(node, `a window over ${n} axes`)
  return sizes.map((size, i) => {
    const [k, stride, dilation] = [kernel[i] as number, strides[i] as number, dilations[i] as number]
    const full = stride * (size - 1) + (extra[i] as number) + (k - 1) * dilation + 1
    const total = Math.max(0, full - (out[i] as number))
    const half = Math.floor(total / 2)
    return { kernel: k, stride, dilation, pads: auto === 'SAME_UPPER' ? [half, total - half] : [total - half, half] }
  })
}

/** Channels-last order of a feature map [n, c, …]. */
export function channelsLast(rank: number): number[] {
  return [0, ...Array.from({ length: rank - 2 }, (_, i) => i + 2), 1]
}

/** n, h, w, c of a map [n, c, w], [n, c, h, w] or, each slice an image of its own, [n, c, d, h, w]. */
export function imageOf(dims: readonly number[]): [n: number, h: number, w: number, c: number] {
  const [n, c] = dims as [number, number]
  const [d, h, w] = [1, 1, ...dims.slice(2)].slice(-3) as [number, number, number]
  return [n * d, h, w, c]
}
