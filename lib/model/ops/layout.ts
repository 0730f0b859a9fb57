import type { Dim } from '../types'
import { layoutChannels as channels } from './layout_channels'
import { axisOf, bad, broadcast, kMaxData, op, product, readSmall, unknown, type InferContext, type Ops } from './op'

/** A list that is an attribute up to some opset and an input from then on. */
function listOf(c: InferContext, name: string, input: number, since: number): readonly number[] | undefined {
  return c.opset >= since ? c.numbers(input) : c.node.ints(name)
}

function reshape(c: InferContext): void {
  const x = c.dims(0)
  const wish = c.opset >= 5 ? c.data(1) : c.node.ints('shape')
  if (!wish) {
    const rank = c.dims(1)?.[0]
    return c.set(0, c.type(0), typeof rank === 'number' ? unknown(rank) : null)
  }
  const keepZero = c.node.int('allowzero', 0) !== 0
  const dims: Dim[] = wish.map((d, i) => {
    if (d === 0 && !keepZero) {
      if (x && i >= x.length) bad(c, `dimension ${i} is to be copied from an input of rank ${x.length}`)
      return x ? (x[i] as Dim) : null
    }
    return d
  })
  const open = dims.indexOf(-1)
  if (dims.indexOf(-1, open + 1) > 0 && open >= 0) bad(c, 'more than one dimension of -1')
  if (open >= 0) dims[open] = rest(c, x, dims, open)
  const [before, after] = [x ? product(x) : null, product(dims)]
  if (before !== null && after !== null && before !== after)
    bad(c, `[${x?.join(', ')}] cannot become [${dims.join(', ')}]`)
  c.set(0, c.type(0), dims, c.data(0))
}

/** The size that -1 stands for. Symbols that occur on both sides cancel. */
function rest(c: InferContext, x: readonly Dim[] | null, dims: readonly Dim[], open: number): Dim {
  if (!x) return null
  const left = [...x]
  const right = dims.filter((_, i) => i !== open)
  for (let i = right.length - 1; i >= 0; i--) {
    const d = right[i] as Dim
    const at = typeof d === 'string' ? left.indexOf(d) : -1
    if (at >= 0) {
      left.splice(at, 1)
      right.splice(i, 1)
    }
  }
  const over = product(right)
  if (over === null) return null
  const symbols = left.filter((d) => typeof d !== 'number')
  const total = product(left.filter((d) => typeof d === 'number')) as number
  if (symbols.length === 0) {
    if (over === 0 || total % over !== 0) bad(c, `${total} elements cannot fill [${dims.join(', ')}]`)
    return total / over
  }
  return symbols.length === 1 && total === over ? (symbols[0] as Dim) : null
}

function squeeze(c: InferContext): void {
  const x = c.dims(0)
  const given = c.opset >= 13 ? c.has(1) : c.node.attributes.has('axes')
  const axes = listOf(c, 'axes', 1, 13)
  if (!x || (given && !axes)) return c.set(0, c.type(0), null)
  if (!axes) {
    // Which sizes are 1 must be known of all.
    if (x.some((d) => typeof d !== 'number')) return c.set(0, c.type(0), null)
    return c.set(
      0,
      c.type(0),
      x.filter((d) => d !== 1),
      c.data(0),
    )
  }
  const gone = new Set(axes.map((a) => axisOf(c, a, x.length)))
  for (const a of gone) if (typeof x[a] === 'number' && x[a] !== 1) bad(c, `axis ${a} has size ${x[a]}`)
  c.set(
    0,
    c.type(0),
    x.filter((_, i) => !gone.has(i)),
    c.data(0),
  )
}

function unsqueeze(c: InferContext): void {
  const x = c.dims(0)
  const axes = listOf(c, 'axes', 1, 13)
  if (!x || !axes) return c.set(0, c.type(0), null)
  const rank = x.length + axes.length
  const made = new Set(axes.map((a) => axisOf(c, a, rank)))
  if (made.size !== axes.length) bad(c, `axes [${axes.join(', ')}] repeat`)
  let next = 0
  const dims = Array.from({ length: rank }, (_, i) => (made.has(i) ? 1 : (x[next++] as Dim)))
  c.set(0, c.type(0), dims, c.data(0))
}

function slice(c: InferContext): void {
  const x = c.dims(0)
  if (!x) return c.set(0, c.type(0), null)
  const old = c.opset < 10
  const starts = old ? c.node.ints('starts') : c.numbers(1)
  const ends = old ? c.node.ints('ends') : c.numbers(2)
  const axes = old ? c.node.ints('axes') : c.has(3) ? c.numbers(3) : undefined
  const steps = old ? undefined : c.has(4) ? c.numbers(4) : undefined
  if (!starts || !ends || (!old && c.has(3) && !axes) || (!old && c.has(4) && !steps)) {
    const touched = axes?.map((a) => axisOf(c, a, x.length))
    return c.set(
      0,
      c.type(0),
      x.map((d, i) => (touched && !touched.includes(i) ? d : null)),
    )
  }
  const dims = [...x]
  const begin = x.map(() => 0)
  const step = x.map(() => 1)
  starts.forEach((s, i) => {
    const axis = axisOf(c, axes ? (axes[i] as number) : i, x.length)
    const by = steps ? (steps[i] as number) : 1
    const end = ends[i] as number
    const d = x[axis] as Dim
    if (by === 0) bad(c, 'a step of 0')
    if (typeof d !== 'number') {
      dims[axis] = s === 0 && by === 1 && end >= 2 ** 31 - 1 ? d : null
      return
    }
    const clamp = (v: number, low: number, high: number): number => Math.min(Math.max(v < 0 ? v + d : v, low), high)
    const [from, to] = by > 0 ? [clamp(s, 0, d), clamp(end, 0, d)] : [clamp(s, 0, d - 1), clamp(end, -1, d - 1)]
    dims[axis] = Math.max(0, Math.ceil((to - from) / by))
    begin[axis] = from
    step[axis] = by
  })
  c.set(0, c.type(0), dims, walked(x, c.data(0), dims, begin, step, x.map((_, i) => i)))
}

/** Content of a box of `x` whose axes may change places: axis i of the result is axis `order[i]` of x. */
function walked(
  x: readonly Dim[],
  data: readonly Dim[] | undefined,
  dims: readonly Dim[],
  begin: readonly number[],
  step: readonly number[],
  order: readonly number[],
): Dim[] | undefined {
  const n = product(dims)
  if (!data || n === null || n > kMaxData || product(x) !== data.length) return undefined
  const strides = x.map((_, i) => product(x.slice(i + 1)) as number)
  return Array.from({ length: n }, (_, place) => {
    let at = 0
    for (let i = dims.length - 1; i >= 0; i--) {
      const d = dims[i] as number
      const axis = order[i] as number
      at += ((begin[axis] as number) + (place % d) * (step[axis] as number)) * (strides[axis] as number)
      place = Math.floor(place / d)
    }
    return data[at] ?? null
  })
}

function turned(x: readonly Dim[], order: readonly number[], data: readonly Dim[] | undefined): Dim[] | undefined {
  return walked(x, data, order.map((i) => x[i] as Dim), x.map(() => 0), x.map(() => 1), order)
}

function concat(c: InferContext): void {
  const parts = c.node.inputs.map((_, i) => c.dims(i))
  const known = parts.find((p) => p !== null)
  if (!known) return c.set(0, c.type(0), null)
  const axis = axisOf(c, c.node.int('axis', c.opset < 4 ? 1 : 0), known.length)
  const dims: Dim[] = known.map((_, i) => {
    if (i === axis) {
      const sizes = parts.map((p) => p?.[axis] ?? null)
      return product(sizes) === null ? null : sizes.reduce<number>((sum, d) => sum + (d as number), 0)
    }
    const sizes = parts.map((p) => p?.[i] ?? null)
    const numbers = new Set(sizes.filter((d) => typeof d === 'number'))
    if (numbers.size > 1) bad(c, `sizes ${[...numbers].join(' and ')} on axis ${i}`)
    const [only] = numbers
    return only ?? (sizes.every((d) => d === sizes[0]) ? (sizes[0] as Dim) : (sizes.find((d) => d !== null) ?? null))
  })
  const datas = c.node.inputs.map((_, i) => c.data(i))
  const data = known.length === 1 && datas.every((d) => d !== undefined) ? datas.flat() : undefined
  c.set(0, c.type(0), dims, data)
}

function gather(c: InferContext): void {
  const x = c.dims(0)
  const at = c.dims(1)
  if (!x || !at) return c.set(0, c.type(0), null)
  const axis = axisOf(c, c.node.int('axis', 0), x.length)
  const from = c.data(0)
  const picks = c.numbers(1)
  const data = from && picks && x.length === 1 ? picks.map((i) => from[i < 0 ? i + from.length : i] ?? null) : undefined
  c.set(0, c.type(0), [...x.slice(0, axis), ...at, ...x.slice(axis + 1)], data)
}

function split(c: InferContext): void {
  const x = c.dims(0)
  const n = c.node.outputs.length
  const sizes = c.opset >= 13 ? (c.has(1) ? c.numbers(1) : undefined) : c.node.ints('split')
  let at: number | null = 0
  for (let i = 0; i < n; i++) {
    if (!x) {
      c.set(i, c.type(0), null)
      continue
    }
    const axis = axisOf(c, c.node.int('axis', 0), x.length)
    const total = x[axis] as Dim
    const even = typeof total === 'number' && !(c.opset >= 13 && c.has(1)) ? Math.ceil(total / n) : null
    const size = sizes
      ? (sizes[i] ?? null)
      : even === null
        ? null
        : Math.min(even, Math.max(0, (total as number) - even * i))
    const data = c.data(0)
    const part = x.length === 1 && data && typeof at === 'number' && typeof size === 'number' ? data.slice(at, at + size) : undefined
    c.set(
      i,
      c.type(0),
      x.map((d, j) => (j === axis ? size : d)),
      part,
    )
    at = typeof at === 'number' && typeof size === 'number' ? at + size : null
  }
}

function pad(c: InferContext): void {
  const x = c.dims(0)
  const pads = c.opset >= 11 ? c.numbers(1) : (c.node.ints('pads') ?? c.node.ints('paddings'))
  if (!x || !pads) return c.set(0, c.type(0), x && unknown(x.length))
  const axes = c.has(3) ? c.numbers(3) : x.map((_, i) => i)
  if (!axes || pads.length !== 2 * axes.length) return c.set(0, c.type(0), unknown(x.length))
  const dims = [...x]
  axes.forEach((a, i) => {
    const axis = axisOf(c, a, x.length)
    const more = (pads[i] as number) + (pads[i + axes.length] as number)
    const d = x[axis] as Dim
    dims[axis] = more === 0 ? d : typeof d === 'number' ? d + more : null
  })
  c.set(0, c.type(0), dims)
}

function topK(c: InferContext): void {
  const x = c.dims(0)
  const k = c.opset >= 10 ? (c.numbers(1)?.[0] ?? null) : c.node.int('k', 0)
  const axis = x ? axisOf(c, c.node.int('axis', -1), x.length) : 0
  const dims = x && x.map((d, i) => (i === axis ? k : d))
  c.set(0, c.type(0), dims)
  c.set(1, 'int64', dims)
}

/** Content of a vector or scalar that repeats one number. */
function repeated(dims: readonly Dim[] | null, value: readonly Dim[] | undefined): Dim[] | undefined {
  const n = dims && dims.length <= 1 ? product(dims) : null
  if (n === null || n > kMaxData || !value) return undefined
  if (value.length === n) return [...value]
  return value.length === 1 ? new Array<Dim>(n).fill(value[0] as Dim) : undefined
}

export const layout: Ops = {
  Reshape: op(reshape, channels.Reshape),
  Squeeze: op(squeeze, channels.Squeeze),
  Unsqueeze: op(unsqueeze, channels.Unsqueeze),
  Slice: op(slice, channels.Slice),
  Concat: op(concat, channels.Concat),
  Gather: op(gather, channels.Gather),
  Split: op(split, channels.Split),
  Pad: op(pad, channels.Pad),
  TopK: op(topK),
  Transpose: op((c) => {
    const x = c.dims(0)
    const order = c.node.ints('perm') ?? x?.map((_, i) => x.length - 1 - i)
    if (x && order && order.length !== x.length)
      bad(c, `perm has ${order.length} entries for an input of rank ${x.length}`)
    c.set(0, c.type(0), x && order ? order.map((i) => x[i] as Dim) : order ? unknown(order.length) : null, x && order ? turned(x, order, c.data(0)) : undefined)
  }, channels.Transpose),
  Flatten: op((c) => {
    const x = c.dims(0)
    if (!x) return c.set(0, c.type(0), [null, null])
    const at = c.node.int('axis', 1)
    const axis = at < 0 ? at + x.length : at
    const side = (part: readonly Dim[]): Dim => {
      const others = part.filter((d) => d !== 1)
      return others.length === 1 ? (others[0] as Dim) : product(part)
    }
    c.set(0, c.type(0), [side(x.slice(0, axis)), side(x.slice(axis))])
  }, channels.Flatten),
  Expand: op((c) => {
    const shape = c.data(1)
    if (!shape) {
      const rank = c.dims(1)?.[0]
      return c.set(0, c.type(0), typeof rank === 'number' ? unknown(Math.max(rank, c.dims(0)?.length ?? 0)) : null)
    }
    const dims = broadcast(c, [c.dims(0), shape])
    c.set(0, c.type(0), dims, repeated(dims, c.data(0)))
  }, channels.Expand),
  Tile: op((c) => {
    const x = c.dims(0)
    const times = c.opset >= 6 ? c.numbers(1) : undefined
    if (!x || !times) return c.set(0, c.type(0), x && unknown(x.length))
    c.set(
      0,
      c.type(0),
      x.map((d, i) => (times[i] === 1 ? d : typeof d === 'number' ? d * (times[i] as number) : null)),
    )
  }, channels.Tile),
  Shape: op((c) => {
    const x = c.dims(0)
    if (!x) return c.set(0, 'int64', [null])
    const end = c.node.int('end', x.length)
    const part = x.slice(c.node.int('start', 0), end)
    c.set(0, 'int64', [part.length], part)
  }, channels.Shape),
  Size: op((c) => {
    const n = c.dims(0) && product(c.dims(0) as readonly Dim[])
    c.set(0, 'int64', [], [n])
  }),
  ConstantOfShape: op((c) => {
    const value = c.node.attributes.get('value')
    const type = value?.type === 'tensor' ? value.value.type : 'float32'
    const rank = c.dims(0)?.[0]
    const dims = c.data(0) ?? (typeof rank === 'number' ? unknown(rank) : null)
    c.set(0, type, dims, repeated(dims, value?.type === 'tensor' ? readSmall(value.value) : [0]))
  }),
  GatherElements: op((c) => c.set(0, c.type(0), c.dims(1))),
  GatherND: op((c) => {
    const [x, at] = [c.dims(0), c.dims(1)]
    const depth = at?.[at.length - 1]
    const batch = c.node.int('batch_dims', 0)
    c.set(0, c.type(0), x && at && typeof depth === 'number' ? [...at.slice(0, -1), ...x.slice(batch + depth)] : null)
  }),
  DepthToSpace: op((c) => space(c, 1), channels.DepthToSpace),
  SpaceToDepth: op((c) => space(c, -1), channels.SpaceToDepth),
  Range: op((c) => {
    const [a, b, step] = [c.numbers(0)?.[0], c.numbers(1)?.[0], c.numbers(2)?.[0]]
    const n = a !== undefined && b !== undefined && step ? Math.max(0, Math.ceil((b - a) / step)) : null
    const whole = c.type(0) === 'int64' || c.type(0) === 'int32'
    const data = whole && n !== null && n <= kMaxData ? Array.from({ length: n }, (_, i) => (a as number) + i * (step as number)) : undefined
    c.set(0, c.type(0), [n], data)
  }),
  OneHot: op((c) => {
    const x = c.dims(0)
    if (!x) return c.set(0, c.type(2), null)
    const axis = axisOf(c, c.node.int('axis', -1), x.length + 1)
    c.set(0, c.type(2), [...x.slice(0, axis), c.numbers(1)?.[0] ?? null, ...x.slice(axis)])
  }),
  Compress: op((c) => c.set(0, c.type(0), c.node.int('axis') === undefined ? [null] : (c.dims(0)?.map((d, i, all) => (i === axisOf(c, c.node.int('axis', 0), all.length) ? null : d)) ?? null))),
  NonZero: op((c) => c.set(0, 'int64', [c.dims(0)?.length ?? null, null])),
}

function space(c: InferContext, direction: 1 | -1): void {
  const x = c.dims(0)
  const block = c.node.int('blocksize', 1)
  if (!x || x.length !== 4) return c.set(0, c.type(0), null)
  const grow = (d: Dim, by: number): Dim => (typeof d === 'number' ? (by > 0 ? d * by : d / -by) : null)
  const [n, channels, h, w] = x as [Dim, Dim, Dim, Dim]
  c.set(0, c.type(0), [
    n,
    grow(channels, -direction * block * block),
    grow(h, direction * block),
    grow(w, direction * block),
  ])
}
