import { attribute, Graph, Initializer, Model, Node, ValueInfo } from '../model'
import { allocate, type Tensor, type TensorLike } from '../tensor'
import { boolean, fail, finite, integer, oneOf, options, tensor } from '../validate'
import { Session } from './session'

/** Height and width; null follows from the other one, with the image's own proportions. */
export type Size = readonly [height: number | null, width: number | null]

/** What becomes of an image before the model sees it, in this order; what is left out is not done. */
export interface PreOptions {
  /**
   * To `size`, or each side to the nearest multiple of `multiple` (at least one). Pixels are points at half coordinates (ONNX's
   * `half_pixel`, OpenCV's `INTER_LINEAR`), without antialiasing. `mode`: `'bilinear'` (default) or `'nearest'`.
   */
  resize?: { size?: Size; multiple?: number; mode?: 'bilinear' | 'nearest' }
  /** (x · scale − mean) / std. `scale` is 1 unless given (1 / 255 for bytes); mean (0) and std (1) are one number or one a channel. */
  normalize?: { scale?: number; mean?: number | readonly number[]; std?: number | readonly number[] }
  /** At the bottom and right, to `size` or to the next multiple, with `value` (default 0) as the model is to see it. */
  pad?: { size?: readonly [height: number, width: number]; multiple?: number; value?: number }
  /** Channels from last to first: RGB to BGR. Default false. */
  reverseChannels?: boolean
}

interface Place {
  readonly size: Size | undefined
  readonly multiple: number | undefined
}

const kSide = 1 << 15

function place(given: Partial<Record<'size' | 'multiple', unknown>>, what: string, open: boolean): Place {
  const { size, multiple } = given
  if ((size === undefined) === (multiple === undefined)) fail('ERR_RANGE', what, 'either size or multiple', size === undefined ? 'neither' : 'both')
  if (multiple !== undefined) return { size: undefined, multiple: integer(multiple, `${what}.multiple`, 1, kSide) }
  if (!Array.isArray(size) || size.length !== 2) fail('ERR_SHAPE', `${what}.size`, '[height, width]', size)
  const sides = size.map((s: unknown, i) => (open && s === null ? null : integer(s, `${what}.size[${i}]`, 1, kSide)))
  if (sides[0] === null && sides[1] === null) fail('ERR_RANGE', `${what}.size`, 'a height or a width', 'neither')
  return { size: sides as unknown as Size, multiple: undefined }
}

function perChannel(value: unknown, what: string, missing: number): number[] {
  const list: unknown[] = value === undefined ? [missing] : Array.isArray(value) ? value : [value]
  if (list.length === 0 || list.length > 64) fail('ERR_SHAPE', what, '1 to 64 numbers', value)
  return list.map((v, i) => finite(v, Array.isArray(value) ? `${what}[${i}]` : what))
}

/** Images to what a model takes: a small graph of its own, on a session's kernels. */
export class Pre {
  readonly #session: Session
  readonly #resize: Place | undefined
  readonly #pad: Place | undefined
  /** 1: any number */
  readonly #channels: number

  private constructor(session: Session, resize: Place | undefined, pad: Place | undefined, channels: number) {
    this.#session = session
    this.#resize = resize
    this.#pad = pad
    this.#channels = channels
  }

  static async create(given: unknown): Promise<Pre> {
    const { resize, normalize, pad, reverseChannels } = options(given, 'pre', ['resize', 'normalize', 'pad', 'reverseChannels'])
    const r = options(resize, 'pre.resize', ['size', 'multiple', 'mode'])
    const mode = oneOf(r.mode ?? 'bilinear', 'pre.resize.mode', ['bilinear', 'nearest'])
    const n = options(normalize, 'pre.normalize', ['scale', 'mean', 'std'])
    const scale = finite(n.scale ?? 1, 'pre.normalize.scale')
    const [mean, std] = [perChannel(n.mean, 'pre.normalize.mean', 0), perChannel(n.std, 'pre.normalize.std', 1)]
    if (std.includes(0)) fail('ERR_RANGE', 'pre.normalize.std', 'numbers other than 0', 0)
    const channels = Math.max(mean.length, std.length)
    for (const [what, list] of [['mean', mean], ['std', std]] as const)
      if (list.length !== 1 && list.length !== channels) fail('ERR_SHAPE', `pre.normalize.${what}`, `1 or ${channels} numbers`, `${list.length}`)
    const at = (list: readonly number[], i: number): number => list[list.length === 1 ? 0 : i] as number
    const multiply = Float32Array.from({ length: channels }, (_, i) => scale / at(std, i))
    const add = Float32Array.from({ length: channels }, (_, i) => -at(mean, i) / at(std, i))
    const p = options(pad, 'pre.pad', ['size', 'multiple', 'value'])
    const value = finite(p.value ?? 0, 'pre.pad.value')
    const reverse = reverseChannels === undefined ? false : boolean(reverseChannels, 'pre.reverseChannels')

    const g = new Graph('pre')
    g.inputs = [new ValueInfo('image', 'float32', [null, null, null])]
    const constant = (name: string, t: Tensor): string => (g.addInitializer(Initializer.from(name, t)), name)
    const long = (name: string, ...v: number[]): string => constant(name, { type: 'int64', dims: [v.length], data: BigInt64Array.from(v, BigInt) })
    let last = 'image'
    const step = (opType: string, inputs: readonly string[], attributes = {}): void => {
      const name = `${opType.toLowerCase()}${g.nodes.length}`
      g.addNode(new Node({ opType, name, inputs: [last, ...inputs], outputs: [name], attributes }))
      last = name
    }
    const given64 = (name: string, length: number): void => void (g.inputs = [...g.inputs, new ValueInfo(name, 'int64', [length])])
    if (reverse) step('Slice', [long('from', -1), long('to', -(2 ** 31)), long('axis', 2), long('by', -1)])
    step('Transpose', [], { perm: attribute.ints([2, 0, 1]) })
    step('Unsqueeze', [long('front', 0)])
    if (resize !== undefined) {
      given64('sizes', 4)
      step('Resize', ['', '', 'sizes'], { mode: attribute.string(mode === 'nearest' ? 'nearest' : 'linear') })
    }
    if (normalize !== undefined) {
      step('Mul', [constant('multiply', { type: 'float32', dims: [1, channels, 1, 1], data: multiply })])
      step('Add', [constant('add', { type: 'float32', dims: [1, channels, 1, 1], data: add })])
    }
    if (pad !== undefined) {
      given64('pads', 8)
      step('Pad', ['pads', constant('value', { type: 'float32', dims: [], data: Float32Array.of(value) })])
    }
    g.outputs = [new ValueInfo(last, 'float32', null)]
    const places = [resize === undefined ? undefined : place(r, 'pre.resize', true), pad === undefined ? undefined : place(p, 'pre.pad', false)] as const
    const session = await Session.create(new Model({ graph: g, opsets: [['', 17]], irVersion: 8 }))
    return new Pre(session, ...places, channels)
  }

  /** [n, channels, height, width] of images [height, width, channels]. */
  run(images: readonly TensorLike[], what: string): Tensor {
    const rows = images.map((image, i) => this.#one(image, images.length > 1 ? `${what}[${i}]` : what))
    const [first] = rows as [Tensor, ...Tensor[]]
    if (rows.length === 1) return first
    const size = first.data.length
    const data = allocate('float32', size * rows.length, what)
    rows.forEach((row, i) => {
      if (row.dims.join() !== first.dims.join()) fail('ERR_SHAPE', `${what}[${i}]`, `an image that becomes [${first.dims.join(', ')}] as the first`, `[${row.dims.join(', ')}]`)
      data.set(row.data as never, i * size)
    })
    return { type: 'float32', dims: [rows.length, ...first.dims.slice(1)], data }
  }

  dispose(): void {
    this.#session.dispose()
  }

  #one(given: TensorLike, what: string): Tensor {
    const t = tensor(given, what, ['uint8', 'float32'])
    const [h, w, c] = t.dims as [number, number, number]
    if (t.dims.length !== 3 || h < 1 || w < 1 || c < 1) fail('ERR_SHAPE', what, 'an image [height, width, channels]', `[${t.dims.join(', ')}]`)
    if (this.#channels > 1 && c !== this.#channels) fail('ERR_SHAPE', what, `${this.#channels} channels, as pre.normalize has numbers`, c)
    const feeds: Record<string, Tensor> = { image: { type: 'float32', dims: t.dims, data: t.type === 'uint8' ? Float32Array.from(t.data as Uint8Array) : t.data } }
    let [high, wide] = [h, w]
    if (this.#resize) {
      const { size, multiple } = this.#resize
      if (multiple) [high, wide] = [near(h, multiple), near(w, multiple)]
      else if (size) [high, wide] = [size[0] ?? side((h * (size[1] as number)) / w), size[1] ?? side((w * (size[0] as number)) / h)]
      feeds['sizes'] = long(1, c, high, wide)
    }
    if (this.#pad) {
      const { size, multiple } = this.#pad
      const [toHigh, toWide] = (multiple ? [above(high, multiple), above(wide, multiple)] : size) as [number, number]
      if (toHigh < high || toWide < wide) fail('ERR_SHAPE', what, `at most ${toHigh} x ${toWide}, to be padded to that`, `${high} x ${wide}`)
      feeds['pads'] = long(0, 0, 0, 0, 0, 0, toHigh - high, toWide - wide)
    }
    return Object.values(this.#session.runSync(feeds))[0] as Tensor
  }
}

const long = (...v: number[]): Tensor => ({ type: 'int64', dims: [v.length], data: BigInt64Array.from(v, BigInt) })
const side = (v: number): number => Math.min(Math.max(Math.round(v), 1), kSide)
const near = (v: number, m: number): number => Math.max(Math.round(v / m), 1) * m
const above = (v: number, m: number): number => Math.ceil(v / m) * m
