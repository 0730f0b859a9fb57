import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import { quantizedValue } from '../codes'
import { codeAhead, emitCodes } from '../expression'
import type { Lower, Lowering } from '../lowering'
import type { Memory } from '../program'
import { channelsLast, imageOf } from './window'

// core/plan/data.cpp
const kTaps = 1024

interface Taps {
  readonly count: number
  readonly index: Int32Array
  readonly weight: Float32Array
}

function nearest(mode: string, x: number): number {
  switch (mode) {
    case 'floor':
      return Math.floor(x)
    case 'ceil':
      return Math.ceil(x)
    case 'round_prefer_ceil':
      return Math.floor(x + 0.5)
    default:
      return Math.ceil(x - 0.5)
  }
}

/** Weights of the four neighbours of a point that lies `t` behind the second one (Keys 1981). */
function cubic(t: number, a: number): number[] {
  const near = (d: number): number => ((a + 2) * d - (a + 3)) * d * d + 1
  const far = (d: number): number => ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
  return [far(1 + t), near(t), near(1 - t), far(2 - t)]
}

/** Which places of an axis of `size` each of `out` places is made of. */
function tapsOf(node: Node, l: Lowering, size: number, out: number, scale: number, mode: string): Taps {
  const how = node.string('coordinate_transformation_mode', 'half_pixel')
  const rounding = node.string('nearest_mode', 'round_prefer_floor')
  const outside = node.int('exclude_outside', 0) !== 0
  const a = node.float('cubic_coeff_a', -0.75)
  const wide = node.int('antialias', 0) !== 0 && mode !== 'nearest' && size !== out && scale < 1
  const count = mode === 'nearest' || size === out ? 1 : mode === 'linear' ? 2 : 4
  const index = new Int32Array(out * count)
  const weight = new Float32Array(out * count)
  const place = (o: number): number => {
    switch (how) {
      case 'asymmetric':
        return o / scale
      case 'align_corners':
        return out === 1 ? 0 : (o * (size - 1)) / (out - 1)
      case 'pytorch_half_pixel':
        return out > 1 ? (o + 0.5) / scale - 0.5 : 0
      case 'half_pixel_symmetric': {
        const adjustment = out / (scale * size)
        return (size / 2) * (1 - adjustment) + (o + 0.5) / scale - 0.5
      }
      case 'half_pixel':
        return (o + 0.5) / scale - 0.5
      case 'tf_half_pixel_for_nn':
        return (o + 0.5) / scale
      default:
        return l.unsupported(node, `coordinates by ${how}`)
    }
  }
  const clamp = (i: number): number => Math.min(Math.max(i, 0), size - 1)
  if (wide) return wideTaps(size, out, place, clamp, scale, mode === 'linear' ? 1 : 2, (d) => (mode === 'linear' ? 1 - d : keys(d, a)), outside)
  for (let o = 0; o < out; o++) {
    const x = size === out && count === 1 && mode !== 'nearest' ? o : place(o)
    if (count === 1) {
      index[o] = clamp(mode === 'nearest' ? nearest(rounding, x) : o)
      weight[o] = 1
      continue
    }
    const low = Math.floor(x)
    const t = x - low
    const first = count === 2 ? low : low - 1
    let weights = count === 2 ? [1 - t, t] : cubic(t, a)
    if (outside && count === 4) {
      weights = weights.map((w, i) => (first + i < 0 || first + i >= size ? 0 : w))
      const sum = weights.reduce((s, w) => s + w, 0)
      weights = weights.map((w) => w / sum)
    }
    weights.forEach((w, i) => {
      index[o * count + i] = clamp(first + i)
      weight[o * count + i] = w
    })
  }
  return { count, index, weight }
}

/** Keys' kernel at a distance of 0 to 2. */
function keys(d: number, a: number): number {
  return d < 1 ? ((a + 2) * d - (a + 3)) * d * d + 1 : ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
}

/** Antialiasing: the kernel is as wide as `scale` is small, so that every place of the axis has its part. */
function wideTaps(size: number, out: number, place: (o: number) => number, clamp: (i: number) => number, scale: number, radius: number, kernel: (d: number) => number, outside: boolean): Taps {
  const support = radius / scale
  const count = 2 * Math.ceil(support) + 1
  const index = new Int32Array(out * count)
  const weight = new Float32Array(out * count)
  for (let o = 0; o < out; o++) {
    const x = place(o)
    const first = Math.floor(x - support + 1)
    const weights = Array.from({ length: count }, (_, i) => {
      const d = Math.abs(first + i - x) * scale
      return d >= radius || (outside && (first + i < 0 || first + i >= size)) ? 0 : kernel(d)
    })
    const sum = weights.reduce((s, w) => s + w, 0)
    weights.forEach((w, i) => {
      index[o * count + i] = clamp(first + i)
      weight[o * count + i] = w / sum
    })
  }
  return { count, index, weight }
}

/** Whether an axis is each of its places so and so many times. */
function repeats({ count, index }: Taps, size: number, out: number): boolean {
  return count === 1 && size > 0 && out % size === 0 && index.length === out && index.every((at, o) => at === Math.floor((o * size) / out))
}

const resize: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const v = l.lazy(node.inputs[0] as string, node)
  l.float(v, node)
  const dims = v.dims
  const outDims = l.dims(name, node)
  const rank = dims.length
  if (rank < 3 || rank > 5 || dims[0] !== outDims[0] || dims[1] !== outDims[1]) return l.unsupported(node, 'resizing of other than the spatial axes')
  const mode = node.string('mode', 'nearest')
  const axes = node.ints('axes')?.map((a) => (a < 0 ? a + rank : a)) ?? dims.map((_, i) => i)
  const policy = node.string('keep_aspect_ratio_policy', 'stretch')
  const wanted = policy === 'stretch' ? undefined : l.ints(node.inputs[3], node)
  const common = wanted && Math[policy === 'not_larger' ? 'min' : 'max'](...wanted.map((s, i) => s / (dims[axes[i] as number] as number)))
  const given = node.inputs[2] ? l.constant(node.inputs[2], node) : undefined
  const scales = dims.map((d, i) => {
    const at = axes.indexOf(i)
    if (common !== undefined && at >= 0) return common
    return given && sizeOf(given.dims) > 0 && at >= 0 ? Number(given.data[at]) : (outDims[i] as number) / d
  })
  const order = channelsLast(rank)
  const [n, h, w, c] = imageOf(dims)
  const [, oh, ow] = imageOf(outDims)
  const [d, od] = rank === 5 ? [dims[2] as number, outDims[2] as number] : [1, 1]
  const still: Taps = { count: 1, index: Int32Array.of(0), weight: Float32Array.of(1) }
  const zs = rank < 5 ? still : tapsOf(node, l, d, od, scales[2] as number, mode)
  const ys = rank === 3 ? still : tapsOf(node, l, h, oh, scales[rank - 2] as number, mode)
  const xs = tapsOf(node, l, w, ow, scales[rank - 1] as number, mode)
  const most = Math.max(zs.count, ys.count, xs.count)
  if (most > kTaps) return l.unsupported(node, `antialiasing over ${most} places`)
  const ahead = rank < 5 && repeats(ys, h, oh) && repeats(xs, w, ow) ? codeAhead(l, name, true) : undefined
  if (ahead) {
    // Places that are repeated are quantized once.
    const codes = l.inOrder(emitCodes(l, v, ahead.code, node), order, node)
    const out = l.make(ahead.code.type, outDims, order)
    const [down, across] = [oh / h, ow / w]
    l.stridedCopy(codes, [n * h, down, w, across, c], [w * c, 0, c, 0, 1], 0, out.memory, [down * ow * c, ow * c, across * c, c, 1], 0, node)
    return l.define(name, quantizedValue(outDims, { codes: out, scale: Float32Array.of(ahead.code.scale), zero: Int32Array.of(ahead.code.zero), axis: 0 }), node)
  }
  const x = l.inOrder(v, order, node)
  const out = l.make('float32', outDims, order)
  const key = `taps ${name} ${d}x${h}x${w} ${od}x${oh}x${ow} ${scales.join()}`
  const table = (axis: string, taps: Taps): Memory[] => [l.constants.raw(`${key} i${axis}`, () => taps.index), l.constants.raw(`${key} w${axis}`, () => taps.weight)]
  const step = (sizes: readonly number[], ys: Taps, xs: Taps, tables: readonly Memory[], from: Memory, to: Memory): void =>
    l.program.step('resize', node.label, ...sizes, ys.count, xs.count, ...tables, from, to)
  if (rank < 5 || (d === od && repeats(zs, d, od))) step([n, h, w, c, oh, ow], ys, xs, [...table('y', ys), ...table('x', xs)], x.memory, out.memory)
  else {
    // Slices as they are resized, then as rows of one image whose pixels are whole slices.
    const planes = l.program.memory('float32', n * oh * ow * c)
    step([n, h, w, c, oh, ow], ys, xs, [...table('y', ys), ...table('x', xs)], x.memory, planes)
    step([dims[0] as number, d, 1, oh * ow * c, od, 1], zs, still, [...table('z', zs), ...table('still', still)], planes, out.memory)
  }
  l.define(name, out, node)
}

export const resizing: Readonly<Record<string, Lower>> = { Resize: resize }
