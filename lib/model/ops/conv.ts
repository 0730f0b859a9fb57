import type { Dim } from '../types'
import { attribute } from '../node'
import { bad, op, unknown, type CoupleContext, type InferContext, type Ops } from './op'

/** Attributes of a sliding window, defaults filled in, for `n` spatial axes. */
export interface Window {
  readonly strides: readonly number[]
  readonly dilations: readonly number[]
  /** all begins, then all ends; meaningless unless `autoPad` is NOTSET */
  readonly pads: readonly number[]
  readonly autoPad: string
}

export function windowOf(c: InferContext, n: number): Window {
  const list = (name: string, value: number, length: number): readonly number[] => {
    const given = c.node.ints(name)
    if (given && given.length !== length) bad(c, `${name} has ${given.length} entries, expected ${length}`)
    return given ?? new Array<number>(length).fill(value)
  }
  const strides = list('strides', 1, n)
  if (strides.some((s) => s < 1)) bad(c, `strides [${strides.join(', ')}]`)
  return {
    strides,
    dilations: list('dilations', 1, n),
    pads: list('pads', 0, 2 * n),
    autoPad: c.node.string('auto_pad', 'NOTSET') || 'NOTSET',
  }
}

/** Sizes that a sliding window leaves. */
export function slide(c: InferContext, sizes: readonly Dim[], kernel: readonly Dim[], w: Window, ceil = false): Dim[] {
  const n = sizes.length
  return sizes.map((size, i) => {
    const stride = w.strides[i] as number
    const k = kernel[i] as Dim
    if (w.autoPad === 'SAME_UPPER' || w.autoPad === 'SAME_LOWER')
      return stride === 1 ? size : typeof size === 'number' ? Math.ceil(size / stride) : null
    if (typeof k !== 'number') return null
    const reach = (w.dilations[i] as number) * (k - 1)
    const pad = w.autoPad === 'VALID' ? 0 : (w.pads[i] as number) + (w.pads[i + n] as number)
    if (stride === 1 && pad === reach) return size
    if (typeof size !== 'number') return null
    const room = size + pad - reach - 1
    if (room < 0) bad(c, `a window of ${reach + 1} on an axis of ${size} with padding ${pad}`)
    if (!ceil) return Math.floor(room / stride) + 1
    const out = Math.ceil(room / stride) + 1
    // A window that would begin in the end padding is left out.
    return (out - 1) * stride >= size + (w.autoPad === 'VALID' ? 0 : (w.pads[i] as number)) ? out - 1 : out
  })
}

function inferConv(c: InferContext, weight: number, type = c.type(0)): void {
  const x = c.dims(0)
  const w = c.dims(weight)
  if (!x) return c.set(0, type, w ? unknown(w.length) : null)
  const n = x.length - 2
  if (n < 1 || (w && w.length !== x.length))
    bad(c, `an input of rank ${x.length} with weights of rank ${w?.length ?? '?'}`)
  const kernel = c.node.ints('kernel_shape') ?? w?.slice(2) ?? unknown(n)
  if (kernel.length !== n) bad(c, `kernel_shape has ${kernel.length} entries, expected ${n}`)
  const group = c.node.int('group', 1)
  const [channels, inner] = [x[1], w?.[1]]
  if (typeof channels === 'number' && typeof inner === 'number' && channels !== inner * group)
    bad(c, `${channels} channels with weights for ${inner * group}`)
  c.set(0, type, [x[0] as Dim, w?.[0] ?? null, ...slide(c, x.slice(2), kernel, windowOf(c, n))])
}

/** Batch and channels of a convolution; `outer` and `inner` are the weight's axes of outputs and inputs. */
function convChannels(c: CoupleContext, outer: number, inner: number): void {
  const [x, w, y] = [c.inputs[0], c.inputs[1], c.outputs[0]]
  if (!x || !w || !y) return
  c.couple(c.in(0, 0), c.out(0, 0))
  const group = c.node.int('group', 1)
  const [from, to] = [c.in(0, 1), c.out(0, 1)]
  const [ins, outs] = [from.size / group, to.size / group]
  if (c.node.inputs[2]) {
    c.couple(c.in(2, 0), to)
    c.weight(2, 0, 'scale')
  }
  if (group === 1) {
    c.couple(c.in(1, outer), to)
    c.couple(c.in(1, inner), from)
    c.weight(1, outer, 'output')
    c.weight(1, inner, 'input')
    return
  }
  if (ins === 1) {
    // One input a group: whole groups go.
    c.couple(to, from, (i) => Math.floor(i / outs))
    c.weight(1, 0, 'scale')
    if (outer === 0) c.couple(c.in(1, 0), to)
    else {
      c.couple(c.in(1, 0), from)
      c.leave(c.in(1, 1))
    }
    c.leave(c.in(1, inner))
    c.onCut((cut) => {
      const left = cut.size(cut.in(0, 1))
      if (left !== undefined) cut.node.attributes.set('group', attribute.int(left))
    })
    return
  }
  // Groups stay, each with as many channels as the others: the same place goes in all of them.
  c.couple(from, from, (i) => i % ins)
  c.couple(to, to, (i) => i % outs)
  const place = (axis: number, channels: typeof from, each: number): void =>
    c.couple(channels, c.in(1, axis), (i) => (c.in(1, axis).size === each ? i % each : i))
  place(outer, to, outs)
  place(inner, from, ins)
  c.weight(1, outer, 'output')
  c.weight(1, inner, 'input')
}

export const conv: Ops = {
  Conv: op((c) => inferConv(c, 1), (c) => convChannels(c, 0, 1)),
  ConvInteger: op((c) => inferConv(c, 1, 'int32')),
  QLinearConv: op((c) => inferConv(c, 3, c.type(7))),
  ConvTranspose: op((c) => {
    const x = c.dims(0)
    const w = c.dims(1)
    if (!x) return c.set(0, c.type(0), w ? unknown(w.length) : null)
    const n = x.length - 2
    if (n < 1) bad(c, `an input of rank ${x.length}`)
    const kernel = c.node.ints('kernel_shape') ?? w?.slice(2) ?? unknown(n)
    const window = windowOf(c, n)
    const extra = c.node.ints('output_padding', new Array<number>(n).fill(0))
    const given = c.node.ints('output_shape')
    const sizes = x.slice(2).map((size, i) => {
      if (given) return given[given.length - n + i] ?? null
      const k = kernel[i] as Dim
      const stride = window.strides[i] as number
      if (typeof size !== 'number' || typeof k !== 'number') return null
      if (window.autoPad.startsWith('SAME')) return size * stride
      const pad = window.autoPad === 'VALID' ? 0 : (window.pads[i] as number) + (window.pads[i + n] as number)
      return stride * (size - 1) + (extra[i] ?? 0) + (k - 1) * (window.dilations[i] as number) + 1 - pad
    })
    const outer = w?.[1]
    c.set(0, c.type(0), [x[0] as Dim, typeof outer === 'number' ? outer * c.node.int('group', 1) : null, ...sizes])
  }, (c) => convChannels(c, 1, 0)),
}
