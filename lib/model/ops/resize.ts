import type { Dim } from '../types'
import { passing, rewriteSizes } from './couple'
import { bad, op, unknown, type CoupleContext, type InferContext, type Ops } from './op'

function scaled(c: InferContext, x: readonly Dim[], scales: readonly number[], axes: readonly number[]): void {
  if (scales.length !== axes.length) bad(c, `${scales.length} scales for ${axes.length} axes`)
  const dims = [...x]
  axes.forEach((axis, i) => {
    const d = x[axis] as Dim
    const s = scales[i] as number
    dims[axis] = s === 1 ? d : typeof d === 'number' ? Math.floor(d * s) : null
  })
  c.set(0, c.type(0), dims)
}

/** Scales are floats and few: read from the constant at once. */
function floats(c: InferContext, input: number): readonly number[] | undefined {
  const known = c.type(input) === 'float32' ? c.numbers(input) : undefined
  if (known) return known
  const t = c.constant(input)
  if (!t || t.type !== 'float32' || t.elementCount > 64) return undefined
  return [...(t.readSync().data as Float32Array)]
}

function resize(c: InferContext): void {
  const x = c.dims(0)
  if (!x) return c.set(0, c.type(0), null)
  const axes = c.node.ints('axes')?.map((a) => (a < 0 ? a + x.length : a)) ?? x.map((_, i) => i)
  const [scalesAt, sizesAt] = c.opset >= 11 ? [2, 3] : [1, -1]
  if (sizesAt > 0 && c.has(sizesAt)) {
    const sizes = c.data(sizesAt)
    if (!sizes) return c.set(0, c.type(0), unknown(x.length))
    if (sizes.length !== axes.length) bad(c, `${sizes.length} sizes for ${axes.length} axes`)
    const policy = c.node.string('keep_aspect_ratio_policy', 'stretch')
    const dims = [...x]
    if (policy !== 'stretch') {
      const ratios = axes.map((axis, i) => {
        const [size, d] = [sizes[i], x[axis]]
        return typeof size === 'number' && typeof d === 'number' ? size / d : NaN
      })
      const scale = policy === 'not_larger' ? Math.min(...ratios) : Math.max(...ratios)
      for (const axis of axes) dims[axis] = Number.isNaN(scale) ? null : Math.floor((x[axis] as number) * scale + 0.5)
      return c.set(0, c.type(0), dims)
    }
    axes.forEach((axis, i) => (dims[axis] = sizes[i] as Dim))
    return c.set(0, c.type(0), dims)
  }
  const scales = floats(c, scalesAt)
  if (!scales) return c.set(0, c.type(0), unknown(x.length))
  scaled(c, x, scales, axes)
}

/** Sizes that stay: their indices pass as they are. A crop would not leave them so. */
function resizeChannels(c: CoupleContext): void {
  if (c.node.string('coordinate_transformation_mode', 'half_pixel') === 'tf_crop_and_resize') return
  passing(() => true)(c)
  for (const i of [1, 2, 3]) if (c.inputs[i]?.length === 1) c.leave(c.in(i, 0))
  const axes = c.node.ints('axes')?.map((a) => (a < 0 ? a + (c.inputs[0]?.length ?? 0) : a)) ?? c.inputs[0]?.map((_, i) => i) ?? []
  if (c.opset >= 11 && c.node.inputs[3]) c.onCut((cut) => rewriteSizes(cut, 3, axes))
}

export const resizing: Ops = {
  Resize: op(resize, resizeChannels),
  GridSample: op((c) => {
    const [x, grid] = [c.dims(0), c.dims(1)]
    if (x && grid && (x.length < 3 || grid.length !== x.length || (typeof grid[grid.length - 1] === 'number' && grid[grid.length - 1] !== x.length - 2)))
      bad(c, `an image of ${x.length} axes and places of [${grid.join(', ')}]`)
    if (x && grid && typeof x[0] === 'number' && typeof grid[0] === 'number' && x[0] !== grid[0]) bad(c, `${x[0]} images and places of ${grid[0]}`)
    c.set(0, c.type(0), x && grid && [x[0] as Dim, x[1] as Dim, ...grid.slice(1, -1)])
  }),
  RoiAlign: op((c) => {
    const [x, rois] = [c.dims(0), c.dims(1)]
    if (x && x.length !== 4) bad(c, `an image of ${x.length} axes`)
    if (rois && (rois.length !== 2 || (typeof rois[1] === 'number' && rois[1] !== 4))) bad(c, `regions of [${rois.join(', ')}]`)
    const [count, images] = [rois?.[0] ?? null, c.dims(2)?.[0] ?? null]
    if (typeof count === 'number' && typeof images === 'number' && count !== images) bad(c, `${count} regions of ${images} images`)
    c.set(0, c.type(0), x && [count, x[1] as Dim, c.node.int('output_height', 1), c.node.int('output_width', 1)])
  }),
  Upsample: op((c) => {
    const x = c.dims(0)
    const given = c.node.attributes.get('scales')
    const scales = given?.type === 'floats' ? given.value : floats(c, 1)
    if (!x || !scales) return c.set(0, c.type(0), x && unknown(x.length))
    scaled(
      c,
      x,
      scales,
      x.map((_, i) => i),
    )
  }, passing(() => true)),
}
