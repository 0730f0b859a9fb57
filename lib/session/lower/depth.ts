import type { Node } from '../../model'
import type { Lowering } from '../lowering'
import type { Memory } from '../program'
import type { Value } from '../value'
import { cropped, imageOf, isStill, kStill, met, planar, slidesOf, type Slide, type Window } from './window'

type InMemory = Value & { readonly memory: Memory }
type Numbers = Float32Array | Int8Array

/** The window in depth of a step that goes over three axes: sizes of input and result, kernel, stride, dilation, padding in front. */
export type Depth = readonly [d: number, od: number, kernel: number, stride: number, dilation: number, pad: number]

/** What a convolution over one to three axes comes to as one over images, or over maps where `depth` is set. */
export interface Images<T extends Numbers> {
  /** n, h, w, c */
  readonly image: readonly [number, number, number, number]
  readonly depth?: Depth
  /** height and width of results */
  readonly out: readonly [number, number]
  readonly window: Window
  /** [outputs][inputs of a group][kernel], with `depth` that of all three axes */
  readonly weights: T
  /** Where the images lie, of the map in channels-last order; `zero`: what lies beyond it */
  readonly place: (x: InMemory, zero?: number) => Memory
}

/** Taps [first, end) of the first axis of windows [matrices][kernel][inner]. */
function part<T extends Numbers>(weights: T, kernel: number, inner: number, first: number, end: number): T {
  const matrices = weights.length / (kernel * inner)
  const kept = (weights instanceof Float32Array ? new Float32Array(matrices * (end - first) * inner) : new Int8Array(matrices * (end - first) * inner)) as T
  for (let m = 0; m < matrices; m++) kept.set(weights.subarray((m * kernel + first) * inner, (m * kernel + end) * inner), m * (end - first) * inner)
  return kept
}

/** [oc][ic][depth][inner] to [oc][depth][ic][inner]. */
export function byDepth<T extends Numbers>(weights: T, ic: number, depth: number, inner: number): T {
  const to = weights.slice() as T
  for (let from = 0, at = 0; at < to.length; from += ic * depth * inner)
    for (let z = 0; z < depth; z++) for (let i = 0; i < ic; i++, at += inner) to.set(weights.subarray(from + (i * depth + z) * inner, from + (i * depth + z + 1) * inner), at)
  return to
}

/**
 * For each image of the result the slices under its window become channels of one image, [n, d, h * w, c] to
 * [n, od, h * w, group, slice, channel of a group].
 */
function stack(l: Lowering, node: Node, x: InMemory, z: Slide, od: number, groups: number, zero: number): Memory {
  const [n, c, d, h, w] = x.dims as [number, number, number, number, number]
  const [plane, each] = [h * w, c / groups]
  const deep = z.kernel * c
  const to = l.program.memory(x.type, n * od * plane * deep)
  const bytes = x.type === 'float32' ? 4 : 1
  const strides = [od * plane * deep, plane * deep, deep, z.kernel * each, 1]
  for (let tap = 0; tap < z.kernel; tap++) {
    // Results [first, end) find a slice under this tap.
    const shift = tap * z.dilation - z.pads[0]
    const first = Math.min(od, Math.max(0, Math.ceil(-shift / z.stride)))
    const end = Math.max(first, Math.min(od, Math.floor((d - 1 - shift) / z.stride) + 1))
    const at = (o: number): number => o * plane * deep + tap * each
    const box = (count: number): number[] => [n, count, plane, groups, each]
    if (end > first)
      l.stridedCopy(x, box(end - first), [d * plane * c, z.stride * plane * c, c, each, 1], (first * z.stride + shift) * plane * c, to, strides, at(first), node)
    const none: InMemory = { ...x, memory: l.constants.raw(`${bytes} bytes of ${zero}`, () => new Uint8Array(bytes).fill(zero)) }
    for (const [from, until] of [[0, first], [end, od]] as const) if (until > from) l.stridedCopy(none, box(until - from), [0, 0, 0, 0, 0], 0, to, strides, at(from), node)
  }
  return to
}

/** A convolution of a map [n, c, …] with weights [outputs][inputs of a group][kernel] as one of images; `deep`: where it cannot be, as it is. */
export function imagesOf<T extends Numbers>(node: Node, l: Lowering, dims: readonly number[], kernel: readonly number[], weights: T, outDims: readonly number[], deep = false): Images<T> {
  const slides = slidesOf(node, l, kernel, dims.slice(2), outDims.slice(2))
  const [n, h, w, c] = imageOf(dims)
  const [, oh, ow] = imageOf(outDims)
  const plain = { image: [n, h, w, c], out: [oh, ow], weights, place: (x: InMemory) => x.memory } as const
  if (slides.length < 3) return { ...plain, window: planar(slides) }
  const [z, y, x] = slides as [Slide, Slide, Slide]
  const [d, od] = [dims[2] as number, outDims[2] as number]
  if (isStill(z)) return { ...plain, window: planar([y, x]) }
  // A window along the depth alone is a tall one over images of one row for each slice.
  if (isStill(y) && isStill(x)) return { ...plain, image: [n / (d || 1), d, h * w, c], out: [od, oh * ow], window: planar([z, kStill]) }
  const [first, end] = met(z, d, od)
  const depth = end - first
  const own: Slide = { ...z, kernel: depth, pads: [z.pads[0] - first * z.dilation, z.pads[1]] }
  const inner = y.kernel * x.kernel
  const groups = node.int('group', 1)
  const kept = depth === z.kernel ? weights : part(weights, z.kernel, inner, first, end)
  const window = { ...planar([y, x]), part: depth === z.kernel ? '' : ` slices ${first} ${end}` }
  if (deep) return { ...plain, image: [dims[0] as number, h, w, c], depth: [d, od, depth, z.stride, z.dilation, own.pads[0]], window, weights: kept }
  return {
    image: [(dims[0] as number) * od, h, w, depth * c],
    out: [oh, ow],
    window,
    weights: depth === 1 ? kept : byDepth(kept, c / groups, depth, inner),
    place: (map, zero = 0) => stack(l, node, map, own, od, groups, zero),
  }
}

/** The same without taps that see nothing but padding. */
export function metImagesOf(node: Node, l: Lowering, dims: readonly number[], kernel: readonly number[], weights: Float32Array, outDims: readonly number[], deep: boolean): Images<Float32Array> {
  const images = imagesOf(node, l, dims, kernel, weights, outDims, deep)
  const [window, kept] = cropped(images.window, images.weights, [images.image[1], images.image[2]], images.out)
  return { ...images, window, weights: kept }
}
