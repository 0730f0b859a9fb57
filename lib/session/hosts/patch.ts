import { sizeOf, type Tensor } from '../../tensor'
import type { Node } from '../../model'
import { axisOf, made, numbers, plain, refuse, strides, type Host } from './host'

/** A window over `n` spatial axes, as its node tells. */
function windowOf(node: Node, n: number, kernel: readonly number[]) {
  const list = (name: string, value: number, count = n): readonly number[] => node.ints(name, new Array<number>(count).fill(value))
  const pads = [...list('pads', 0, 2 * n)]
  return { kernel, steps: list('strides', 1), apart: list('dilations', 1), begin: pads.slice(0, n), end: pads.slice(n) }
}

type Window = ReturnType<typeof windowOf>

/** Sizes of what a window makes of `sizes`; sets the pads that `auto_pad` asks for. */
function slide(node: Node, sizes: readonly number[], w: Window): number[] {
  const auto = node.string('auto_pad', 'NOTSET') || 'NOTSET'
  const ceil = node.int('ceil_mode', 0) !== 0
  return sizes.map((size, i) => {
    const [k, s, d] = [w.kernel[i], w.steps[i], w.apart[i]] as [number, number, number]
    const reach = (k - 1) * d + 1
    if (auto.startsWith('SAME')) {
      const count = Math.ceil(size / s)
      const need = Math.max(0, (count - 1) * s + reach - size)
      w.begin[i] = auto === 'SAME_UPPER' ? Math.floor(need / 2) : Math.ceil(need / 2)
      w.end[i] = need - (w.begin[i] as number)
      return count
    }
    const room = size + (w.begin[i] as number) + (w.end[i] as number) - reach
    const count = (ceil ? Math.ceil(room / s) : Math.floor(room / s)) + 1
    if (count < 1) refuse(node, `a window of ${reach} over ${size}`)
    return ceil && (count - 1) * s >= size + (w.begin[i] as number) ? count - 1 : count
  })
}

/** Coordinates of element i of a tensor of `dims`. */
function coordinates(i: number, dims: readonly number[], own: readonly number[]): number[] {
  return dims.map((d, k) => Math.floor(i / (own[k] as number)) % d)
}

/** Place of tap t of the window at `o`, or -1 outside. */
function tapAt(o: readonly number[], tap: readonly number[], w: Window, sizes: readonly number[], own: readonly number[]): number {
  let at = 0
  for (let k = 0; k < sizes.length; k++) {
    const c = (o[k] as number) * (w.steps[k] as number) - (w.begin[k] as number) + (tap[k] as number) * (w.apart[k] as number)
    if (c < 0 || c >= (sizes[k] as number)) return -1
    at += c * (own[k] as number)
  }
  return at
}

const lpPool = plain((node, given) => {
  const x = given as Tensor
  const sizes = x.dims.slice(2)
  const kernel = node.opType === 'GlobalLpPool' ? sizes : (node.ints('kernel_shape') ?? [])
  if (kernel.length !== sizes.length) refuse(node, `a window over ${kernel.length} axes of ${sizes.length}`)
  const w = windowOf(node, sizes.length, kernel)
  const outSizes = slide(node, sizes, w)
  const p = node.int('p', 2)
  const [own, to, taps] = [strides(sizes), strides(outSizes), strides(kernel)]
  const [space, each, count] = [sizeOf(sizes), sizeOf(outSizes), sizeOf(kernel)]
  const places = Array.from({ length: count }, (_, t) => coordinates(t, kernel, taps))
  const all = numbers(x)
  const out = new Float64Array(sizeOf(x.dims.slice(0, 2)) * each)
  for (let i = 0; i < out.length; i++) {
    const o = coordinates(i % each, outSizes, to)
    let sum = 0
    for (const tap of places) {
      const at = tapAt(o, tap, w, sizes, own)
      if (at >= 0) sum += Math.abs(all[Math.floor(i / each) * space + at] as number) ** p
    }
    out[i] = sum ** (1 / p)
  }
  return [made(x.type, [...x.dims.slice(0, 2), ...outSizes], out)]
})

/** Sums of blocks put back where they were cut out. */
const col2im = plain((node, given, image, block) => {
  const x = given as Tensor
  const [sizes, kernel] = [Array.from(numbers(image as Tensor)), Array.from(numbers(block as Tensor))]
  const w = windowOf(node, sizes.length, kernel)
  const blocks = slide(node, sizes, w)
  const [n, rows, columns] = x.dims as [number, number, number]
  const count = sizeOf(kernel)
  const channels = rows / count
  if (x.dims.length !== 3 || !Number.isInteger(channels) || sizeOf(blocks) !== columns) refuse(node, `columns of [${x.dims.join(', ')}] for blocks of [${kernel.join(', ')}] of [${sizes.join(', ')}]`)
  const [own, to, taps] = [strides(sizes), strides(blocks), strides(kernel)]
  const all = numbers(x)
  const space = sizeOf(sizes)
  const out = new Float64Array(n * channels * space)
  for (let t = 0; t < count; t++) {
    const tap = coordinates(t, kernel, taps)
    const places = Int32Array.from({ length: columns }, (_, j) => tapAt(coordinates(j, blocks, to), tap, w, sizes, own))
    for (let r = 0; r < n * channels; r++)
      for (let j = 0; j < columns; j++) {
        const at = places[j] as number
        if (at >= 0) out[r * space + at] = (out[r * space + at] as number) + (all[(r * count + t) * columns + j] as number)
      }
  }
  return [made(x.type, [n, channels, ...sizes], out)]
})

/** Convolution whose taps lie where another tensor says, between pixels too. */
const deformConv = plain((node, given, weight, shift, bias, mask) => {
  const [x, wt, offset] = [given as Tensor, weight as Tensor, shift as Tensor]
  if (x.dims.length !== 4) refuse(node, `an image of rank ${x.dims.length}`)
  const [n, , h, wide] = x.dims as [number, number, number, number]
  const [oc, ic, kh, kw] = wt.dims as [number, number, number, number]
  const w = windowOf(node, 2, [kh, kw])
  const [oh, ow] = slide(node, [h, wide], w) as [number, number]
  const [groups, parts] = [node.int('group', 1), node.int('offset_group', 1)]
  const channels = ic * groups
  const [all, weights, offsets] = [numbers(x), numbers(wt), numbers(offset)]
  const [b, m] = [bias && numbers(bias), mask && numbers(mask)]
  const taps = kh * kw
  if (x.dims[1] !== channels || oc % groups || channels % parts || offset.dims.join() !== [n, 2 * parts * taps, oh, ow].join() || (mask && mask.dims.join() !== [n, parts * taps, oh, ow].join()))
    refuse(node, `x [${x.dims.join(', ')}], weights [${wt.dims.join(', ')}], offsets [${offset.dims.join(', ')}]`)
  const out = new Float64Array(n * oc * oh * ow)
  const column = new Float64Array(channels * taps)
  const pixel = (base: number, y: number, xx: number): number => (y < 0 || xx < 0 || y >= h || xx >= wide ? 0 : (all[base + y * wide + xx] as number))
  for (let s = 0; s < n; s++)
    for (let p = 0; p < oh * ow; p++) {
      const [oy, ox] = [Math.floor(p / ow), p % ow]
      for (let part = 0; part < parts; part++)
        for (let t = 0; t < taps; t++) {
          const at = ((s * parts + part) * taps + t) * 2 * oh * ow + p
          const y = oy * (w.steps[0] as number) - (w.begin[0] as number) + Math.floor(t / kw) * (w.apart[0] as number) + (offsets[at] as number)
          const xx = ox * (w.steps[1] as number) - (w.begin[1] as number) + (t % kw) * (w.apart[1] as number) + (offsets[at + oh * ow] as number)
          const factor = m ? (m[((s * parts + part) * taps + t) * oh * ow + p] as number) : 1
          const [y0, x0] = [Math.floor(y), Math.floor(xx)]
          const [dy, dx] = [y - y0, xx - x0]
          const inside = y > -1 && xx > -1 && y < h && xx < wide
          for (let c = (part * channels) / parts; c < ((part + 1) * channels) / parts; c++) {
            const base = (s * channels + c) * h * wide
            column[c * taps + t] = !inside
              ? 0
              : factor *
                ((1 - dy) * ((1 - dx) * pixel(base, y0, x0) + dx * pixel(base, y0, x0 + 1)) + dy * ((1 - dx) * pixel(base, y0 + 1, x0) + dx * pixel(base, y0 + 1, x0 + 1)))
          }
        }
      for (let o = 0; o < oc; o++) {
        const first = Math.floor(o / (oc / groups)) * ic * taps
        let sum = b ? (b[o] as number) : 0
        for (let i = 0; i < ic * taps; i++) sum += (weights[o * ic * taps + i] as number) * (column[first + i] as number)
        out[(s * oc + o) * oh * ow + p] = sum
      }
    }
  return [made(x.type, [n, oc, oh, ow], out)]
})

/** Pixels put back where a pool found them. */
const maxUnpool = plain((node, given, where, shape) => {
  const [x, index] = [given as Tensor, where as Tensor]
  const sizes = x.dims.slice(2)
  const kernel = node.ints('kernel_shape') ?? []
  const w = windowOf(node, sizes.length, kernel)
  const grown = sizes.map((d, i) => (d - 1) * (w.steps[i] as number) - (w.begin[i] as number) - (w.end[i] as number) + (kernel[i] as number))
  const plain = [...x.dims.slice(0, 2), ...grown]
  const dims = shape ? Array.from(numbers(shape)) : plain
  const out = new Float64Array(sizeOf(dims))
  const [all, at] = [numbers(x), numbers(index)]
  const [from, to] = [strides(plain), strides(dims)]
  const [same, whole] = [dims.join() === plain.join(), sizeOf(plain)]
  for (let i = 0; i < at.length; i++) {
    const place = same ? (at[i] as number) : coordinates(at[i] as number, plain, from).reduce((s, c, k) => s + c * (to[k] as number), 0)
    if (!((at[i] as number) >= 0 && (at[i] as number) < whole) || place >= out.length) refuse(node, `position ${at[i]} of [${plain.join(', ')}]`)
    out[place] = all[i] as number
  }
  return [made(x.type, dims, out)]
})

/** Means or maxima of samples of regions of an image. */
const roiAlign = plain((node, given, regions, which) => {
  const [x, rois, batch] = [given as Tensor, regions as Tensor, which as Tensor]
  const [n, c, h, w] = x.dims as [number, number, number, number]
  const count = rois.dims[0] as number
  const [oh, ow] = [node.int('output_height', 1), node.int('output_width', 1)]
  const [ratio, scale] = [node.int('sampling_ratio', 0), node.float('spatial_scale', 1)]
  const half = node.string('coordinate_transformation_mode', 'half_pixel') === 'half_pixel'
  const largest = node.string('mode', 'avg') === 'max'
  const [all, box, at] = [numbers(x), numbers(rois), numbers(batch)]
  const out = new Float64Array(count * c * oh * ow)
  for (let r = 0; r < count; r++) {
    const b = at[r] as number
    if (!(b >= 0 && b < n) || rois.dims[1] !== 4) refuse(node, `region ${r} of image ${b}, of ${n}`)
    const side = (i: number): number => (box[r * 4 + i] as number) * scale - (half ? 0.5 : 0)
    const [x1, y1] = [side(0), side(1)]
    const least = half ? -Infinity : 1
    const [rw, rh] = [Math.max(side(2) - x1, least), Math.max(side(3) - y1, least)]
    const [bw, bh] = [rw / ow, rh / oh]
    const [gw, gh] = [ratio > 0 ? ratio : Math.ceil(rw / ow), ratio > 0 ? ratio : Math.ceil(rh / oh)]
    // Pixels of the samples of a place and their shares, which all channels have in common.
    const taps = new Int32Array(4 * Math.max(0, gh * gw))
    const shares = new Float64Array(taps.length)
    for (let p = 0; p < oh * ow; p++) {
      let many = 0
      let outside = false
      for (let i = 0; i < gh; i++)
        for (let j = 0; j < gw; j++) {
          let y = y1 + Math.floor(p / ow) * bh + ((i + 0.5) * bh) / gh
          let xx = x1 + (p % ow) * bw + ((j + 0.5) * bw) / gw
          if (y < -1 || y > h || xx < -1 || xx > w) {
            outside = true
            continue
          }
          y = Math.max(y, 0)
          xx = Math.max(xx, 0)
          let [y0, x0] = [Math.floor(y), Math.floor(xx)]
          if (y0 >= h - 1) y = y0 = h - 1
          if (x0 >= w - 1) xx = x0 = w - 1
          const [yy, xy] = [Math.min(y0 + 1, h - 1), Math.min(x0 + 1, w - 1)]
          const [dy, dx] = [y - y0, xx - x0]
          taps[many] = y0 * w + x0
          shares[many++] = (1 - dy) * (1 - dx)
          taps[many] = y0 * w + xy
          shares[many++] = (1 - dy) * dx
          taps[many] = yy * w + x0
          shares[many++] = dy * (1 - dx)
          taps[many] = yy * w + xy
          shares[many++] = dy * dx
        }
      for (let k = 0; k < c; k++) {
        const base = (b * c + k) * h * w
        let [sum, best] = [0, outside ? 0 : -Infinity]
        for (let t = 0; t < many; t++) {
          const v = (shares[t] as number) * (all[base + (taps[t] as number)] as number)
          sum += v
          if (largest && !(v <= best)) best = v
        }
        out[(r * c + k) * oh * ow + p] = largest ? best : sum / Math.max(gh * gw, 1)
      }
    }
  }
  return [made(x.type, [count, c, oh, ow], out)]
})

const centerCropPad = plain((node, given, shape) => {
  const x = given as Tensor
  const want = numbers(shape as Tensor)
  const axes = node.ints('axes')?.map((a) => axisOf(node, a, x.dims.length)) ?? x.dims.map((_, i) => i)
  if (want.length !== axes.length) refuse(node, `${want.length} sizes for ${axes.length} axes`)
  const dims = [...x.dims]
  const shift = x.dims.map(() => 0)
  axes.forEach((axis, i) => {
    const [from, to] = [x.dims[axis] as number, want[i] as number]
    dims[axis] = to
    // The odd one goes to the end.
    shift[axis] = from > to ? Math.floor((from - to) / 2) : -Math.floor((to - from) / 2)
  })
  const [own, to] = [strides(x.dims), strides(dims)]
  const all = numbers(x)
  const out = Float64Array.from({ length: sizeOf(dims) }, (_, i) => {
    let at = 0
    for (let k = 0; k < dims.length; k++) {
      const c = (Math.floor(i / (to[k] as number)) % (dims[k] as number)) + (shift[k] as number)
      if (c < 0 || c >= (x.dims[k] as number)) return 0
      at += c * (own[k] as number)
    }
    return all[at] as number
  })
  return [made(x.type, dims, out)]
})

/** Where each pixel of an image comes from under an affine map. */
const affineGrid = plain((node, given, size) => {
  const theta = given as Tensor
  const sizes = Array.from(numbers(size as Tensor)).slice(2)
  const n = theta.dims[0] as number
  const rank = sizes.length
  if (theta.dims.join() !== [n, rank, rank + 1].join()) refuse(node, `maps of [${theta.dims.join(', ')}] for ${rank} axes`)
  const corners = node.int('align_corners', 0) !== 0
  const own = strides(sizes)
  const all = numbers(theta)
  const each = sizeOf(sizes)
  const out = new Float64Array(n * each * rank)
  for (let b = 0; b < n; b++)
    for (let p = 0; p < each; p++) {
      const c = coordinates(p, sizes, own).map((i, k) => {
        const d = sizes[k] as number
        return corners ? (d === 1 ? 0 : (2 * i) / (d - 1) - 1) : (2 * i + 1) / d - 1
      })
      // Maps take x first; axes come the other way round.
      const point = [...c.reverse(), 1]
      for (let r = 0; r < rank; r++) out[(b * each + p) * rank + r] = point.reduce((s, v, k) => s + v * (all[(b * rank + r) * (rank + 1) + k] as number), 0)
    }
  return [made(theta.type, [n, ...sizes, rank], out)]
})

/** Sums of products of codes less their zero points. */
const convInteger = plain((node, given, weight, xZero, wZero) => {
  const [x, wt] = [given as Tensor, weight as Tensor]
  const sizes = x.dims.slice(2)
  const kernel = wt.dims.slice(2)
  const w = windowOf(node, sizes.length, kernel)
  const outSizes = slide(node, sizes, w)
  const groups = node.int('group', 1)
  const [n, c] = x.dims as [number, number]
  const [oc, ic] = wt.dims as [number, number]
  if (c !== ic * groups || oc % groups) refuse(node, `x [${x.dims.join(', ')}], weights [${wt.dims.join(', ')}]`)
  const [all, weights] = [numbers(x), numbers(wt)]
  const zero = xZero ? (numbers(xZero)[0] as number) : 0
  const zeros = wZero && numbers(wZero)
  const [own, to, taps] = [strides(sizes), strides(outSizes), strides(kernel)]
  const [space, each, count] = [sizeOf(sizes), sizeOf(outSizes), sizeOf(kernel)]
  const places = Array.from({ length: count }, (_, t) => coordinates(t, kernel, taps))
  const out = new Float64Array(n * oc * each)
  for (let p = 0; p < each; p++) {
    const at = places.map((tap) => tapAt(coordinates(p, outSizes, to), tap, w, sizes, own))
    for (let b = 0; b < n; b++)
      for (let o = 0; o < oc; o++) {
        const z = zeros ? (zeros[zeros.length === 1 ? 0 : o] as number) : 0
        const first = b * c + Math.floor(o / (oc / groups)) * ic
        let sum = 0
        for (let i = 0; i < ic; i++)
          for (let t = 0; t < count; t++) {
            const where = at[t] as number
            if (where >= 0) sum += ((all[(first + i) * space + where] as number) - zero) * ((weights[(o * ic + i) * count + t] as number) - z)
          }
        out[(b * oc + o) * each + p] = sum
      }
  }
  return [made('int32', [n, oc, ...outSizes], out)]
})

export const patches: Readonly<Record<string, Host>> = {
  LpPool: lpPool,
  GlobalLpPool: lpPool,
  Col2Im: col2im,
  DeformConv: deformConv,
  MaxUnpool: maxUnpool,
  CenterCropPad: centerCropPad,
  AffineGrid: affineGrid,
  ConvInteger: convInteger,
}
export const regions: Readonly<Record<string, Host>> = { RoiAlign: roiAlign }
