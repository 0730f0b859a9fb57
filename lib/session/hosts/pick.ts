import { sizeOf, allocate, type Tensor } from '../../tensor'
import type { Node } from '../../model'
import { axisOf, made, numbers, pick, plain, refuse, strides, type Host } from './host'

const nonZero = plain((_, x) => {
  const { dims, data } = x as Tensor
  const rank = dims.length
  const all = numbers(x as Tensor)
  const at = new Float64Array(data.length)
  let count = 0
  for (let i = 0; i < all.length; i++) if (all[i] !== 0) at[count++] = i
  const out = new Float64Array(rank * count)
  for (let j = 0; j < count; j++) {
    let place = at[j] as number
    for (let k = rank - 1; k >= 0; k--) {
      const d = dims[k] as number
      out[k * count + j] = place % d
      place = Math.floor(place / d)
    }
  }
  return [made('int64', [rank, count], out)]
})

const compress = plain((node, given, condition) => {
  const x = given as Tensor
  const picks = Array.from((condition as Tensor).data as Iterable<number>).flatMap((c, i) => (c ? [i] : []))
  const a = node.int('axis')
  const rank = x.dims.length
  if (a === undefined) return [pick(x, 1, x.data.length, 1, picks.filter((p) => p < x.data.length), [picks.length])]
  const axis = a < 0 ? a + rank : a
  const n = x.dims[axis] as number
  const kept = picks.filter((p) => p < n)
  const dims = x.dims.map((d, i) => (i === axis ? kept.length : d))
  return [pick(x, sizeOf(x.dims.slice(0, axis)), n, sizeOf(x.dims.slice(axis + 1)), kept, dims)]
})

/** An index as it counts from the front. */
function at(node: Node, i: number, size: number): number {
  if (!(i >= -size && i < size)) refuse(node, `index ${i} on an axis of ${size}`)
  return i < 0 ? i + size : i
}

const gatherElements = plain((node, given, where) => {
  const [x, index] = [given as Tensor, where as Tensor]
  const axis = axisOf(node, node.int('axis', 0), x.dims.length)
  if (index.dims.length !== x.dims.length) refuse(node, `indices of rank ${index.dims.length} for data of rank ${x.dims.length}`)
  const [from, to] = [strides(x.dims), strides(index.dims)]
  const picks = numbers(index)
  const data = allocate(x.type, picks.length)
  for (let i = 0; i < picks.length; i++) data[i] = x.data[elementAt(node, x, index, from, to, axis, i, picks[i] as number)] as never
  return [{ type: x.type, dims: index.dims, data }]
})

/** Place in `x` of element i of `index`, its coordinate along `axis` replaced. */
function elementAt(node: Node, x: Tensor, index: Tensor, from: readonly number[], to: readonly number[], axis: number, i: number, pickAt: number): number {
  let place = 0
  for (let k = 0; k < index.dims.length; k++) {
    const c = k === axis ? at(node, pickAt, x.dims[axis] as number) : Math.floor(i / (to[k] as number)) % (index.dims[k] as number)
    if (c >= (x.dims[k] as number)) refuse(node, `indices of [${index.dims.join(', ')}] for data of [${x.dims.join(', ')}]`)
    place += c * (from[k] as number)
  }
  return place
}

function joined(node: Node): (a: number, b: number) => number {
  switch (node.string('reduction', 'none')) {
    case 'add':
      return (a, b) => a + b
    case 'mul':
      return (a, b) => a * b
    case 'max':
      return Math.max
    case 'min':
      return Math.min
    default:
      return (_, b) => b
  }
}

const scatterElements = plain((node, given, where, updates) => {
  const [x, index, u] = [given as Tensor, where as Tensor, updates as Tensor]
  const axis = axisOf(node, node.int('axis', 0), x.dims.length)
  if (index.dims.join() !== u.dims.join() || index.dims.length !== x.dims.length) refuse(node, `indices of [${index.dims.join(', ')}], updates of [${u.dims.join(', ')}]`)
  const out = Array.from(numbers(x))
  const [from, to] = [strides(x.dims), strides(index.dims)]
  const [picks, values, join] = [numbers(index), numbers(u), joined(node)]
  for (let i = 0; i < picks.length; i++) {
    const place = elementAt(node, x, index, from, to, axis, i, picks[i] as number)
    out[place] = join(out[place] as number, values[i] as number)
  }
  return [made(x.type, x.dims, out)]
})

/** Offset of the slice that row `r` of the indices names; `depth` coordinates from axis `first` on. */
function sliceAt(node: Node, picks: ArrayLike<number>, r: number, depth: number, dims: readonly number[], own: readonly number[], first: number): number {
  let place = 0
  for (let k = 0; k < depth; k++) place += at(node, picks[r * depth + k] as number, dims[first + k] as number) * (own[first + k] as number)
  return place
}

const gatherND = plain((node, given, where) => {
  const [x, index] = [given as Tensor, where as Tensor]
  const batch = node.int('batch_dims', 0)
  const depth = index.dims[index.dims.length - 1] as number
  if (batch + depth > x.dims.length) refuse(node, `indices of depth ${depth} for data of rank ${x.dims.length}`)
  const own = strides(x.dims)
  const inner = sizeOf(x.dims.slice(batch + depth))
  const rows = sizeOf(index.dims.slice(0, -1))
  const each = rows / (sizeOf(index.dims.slice(0, batch)) || 1)
  const stride = batch > 0 ? (own[batch - 1] as number) : 0
  const picks = numbers(index)
  const data = allocate(x.type, rows * inner)
  for (let r = 0; r < rows; r++) {
    const from = Math.floor(r / each) * stride + sliceAt(node, picks, r, depth, x.dims, own, batch)
    data.set(x.data.subarray(from, from + inner) as never, r * inner)
  }
  return [{ type: x.type, dims: [...index.dims.slice(0, -1), ...x.dims.slice(batch + depth)], data }]
})

const scatterND = plain((node, given, where, updates) => {
  const [x, index, u] = [given as Tensor, where as Tensor, updates as Tensor]
  const depth = index.dims[index.dims.length - 1] as number
  if (depth > x.dims.length) refuse(node, `indices of depth ${depth} for data of rank ${x.dims.length}`)
  const own = strides(x.dims)
  const inner = sizeOf(x.dims.slice(depth))
  const rows = sizeOf(index.dims.slice(0, -1))
  if (u.data.length !== rows * inner) refuse(node, `updates of [${u.dims.join(', ')}]`)
  const out = Array.from(numbers(x))
  const [picks, values, join] = [numbers(index), numbers(u), joined(node)]
  for (let r = 0; r < rows; r++) {
    const to = sliceAt(node, picks, r, depth, x.dims, own, 0)
    for (let i = 0; i < inner; i++) out[to + i] = join(out[to + i] as number, values[r * inner + i] as number)
  }
  return [made(x.type, x.dims, out)]
})

const topK = plain((node, given, count) => {
  const x = given as Tensor
  const axis = axisOf(node, node.int('axis', -1), x.dims.length)
  const n = x.dims[axis] as number
  const k = Number((count as Tensor).data[0])
  if (!(k >= 0 && k <= n)) refuse(node, `the largest ${k} of ${n}`)
  const largest = node.int('largest', 1) !== 0
  const [outer, inner] = [sizeOf(x.dims.slice(0, axis)), sizeOf(x.dims.slice(axis + 1))]
  const dims = x.dims.map((d, i) => (i === axis ? k : d))
  const values = allocate(x.type, outer * k * inner)
  const index = new BigInt64Array(outer * k * inner)
  const all = numbers(x)
  for (let o = 0; o < outer; o++)
    for (let j = 0; j < inner; j++) {
      const v = (i: number): number => all[(o * n + i) * inner + j] as number
      const order = Array.from({ length: n }, (_, i) => i).sort((a, b) => (v(a) === v(b) ? a - b : largest ? v(b) - v(a) : v(a) - v(b)))
      for (let i = 0; i < k; i++) {
        const to = (o * k + i) * inner + j
        values[to] = x.data[(o * n + (order[i] as number)) * inner + j] as never
        index[to] = BigInt(order[i] as number)
      }
    }
  return [
    { type: x.type, dims, data: values },
    { type: 'int64', dims, data: index },
  ]
})

const oneHot = plain((node, indices, depth, values) => {
  const [index, pair] = [indices as Tensor, values as Tensor]
  const n = Number((depth as Tensor).data[0])
  const axis = axisOf(node, node.int('axis', -1), index.dims.length + 1)
  const dims = [...index.dims.slice(0, axis), n, ...index.dims.slice(axis)]
  const inner = sizeOf(index.dims.slice(axis))
  const data = allocate(pair.type, sizeOf(dims)).fill(pair.data[0] as never)
  const picks = numbers(index)
  for (let i = 0; i < picks.length; i++) {
    const p = picks[i] as number
    const c = p < 0 ? p + n : p
    if (c >= 0 && c < n) data[(Math.floor(i / inner) * n + c) * inner + (i % inner)] = pair.data[1] as never
  }
  return [{ type: pair.type, dims, data }]
})

const trilu = plain((node, given, shift) => {
  const x = given as Tensor
  const k = shift ? Number(shift.data[0]) : 0
  const upper = node.int('upper', 1) !== 0
  const [rows, cols] = x.dims.slice(-2) as [number, number]
  const data = x.data.slice()
  const zero = (x.type === 'int64' || x.type === 'uint64' ? 0n : 0) as never
  for (let i = 0; i < data.length; i++) {
    const [r, c] = [Math.floor(i / cols) % rows, i % cols]
    if (upper ? c - r < k : c - r > k) data[i] = zero
  }
  return [{ type: x.type, dims: x.dims, data }]
})

const unique = plain((node, given) => {
  const x = given as Tensor
  const a = node.int('axis')
  const axis = a === undefined ? 0 : axisOf(node, a, x.dims.length)
  const [outer, n, inner] = a === undefined ? [1, x.data.length, 1] : [sizeOf(x.dims.slice(0, axis)), x.dims[axis] as number, sizeOf(x.dims.slice(axis + 1))]
  const all = numbers(x)
  const compare = (p: number, q: number): number => {
    for (let o = 0; o < outer; o++)
      for (let j = 0; j < inner; j++) {
        const d = (all[(o * n + p) * inner + j] as number) - (all[(o * n + q) * inner + j] as number)
        if (d !== 0) return d
      }
    return 0
  }
  const order = Array.from({ length: n }, (_, i) => i).sort((p, q) => compare(p, q) || p - q)
  const groups: number[][] = []
  for (const i of order) {
    const last = groups[groups.length - 1]
    if (last && compare(last[0] as number, i) === 0) last.push(i)
    else groups.push([i])
  }
  if (node.int('sorted', 1) === 0) groups.sort((p, q) => (p[0] as number) - (q[0] as number))
  const firsts = groups.map((g) => g[0] as number)
  const inverse = new Array<number>(n)
  groups.forEach((g, i) => g.forEach((m) => (inverse[m] = i)))
  const dims = a === undefined ? [firsts.length] : x.dims.map((d, i) => (i === axis ? firsts.length : d))
  const list = (v: readonly number[]): Tensor => made('int64', [v.length], v)
  return [pick(x, outer, n, inner, firsts, dims), list(firsts), list(inverse), list(groups.map((g) => g.length))]
})

const reverseSequence = plain((node, given, lengths) => {
  const x = given as Tensor
  const [batch, time] = [node.int('batch_axis', 1), node.int('time_axis', 0)]
  const own = strides(x.dims)
  const many = numbers(lengths as Tensor)
  const data = allocate(x.type, x.data.length)
  for (let i = 0; i < data.length; i++) {
    const b = Math.floor(i / (own[batch] as number)) % (x.dims[batch] as number)
    const t = Math.floor(i / (own[time] as number)) % (x.dims[time] as number)
    const n = many[b] as number
    data[i] = x.data[t < n ? i + (n - 1 - 2 * t) * (own[time] as number) : i] as never
  }
  return [{ type: x.type, dims: x.dims, data }]
})

const eyeLike: Host = (node, scope) =>
  plain((n, given) => {
    const x = given as Tensor
    const [rows, cols] = x.dims as [number, number]
    const k = n.int('k', 0)
    const type = n.int('dtype') === undefined ? x.type : scope.type(n.outputs[0] as string)
    return [made(type, x.dims, Array.from({ length: rows * cols }, (_, i) => ((i % cols) - Math.floor(i / cols) === k ? 1 : 0)))]
  })(node, scope)

const nonMaxSuppression = plain((node, given, points, most, overlap, least) => {
  const [boxes, scores] = [given as Tensor, points as Tensor]
  const limit = most ? Number(most.data[0]) : 0
  const [far, low] = [overlap ? Number(overlap.data[0]) : 0, least ? Number(least.data[0]) : -Infinity]
  const [batches, classes, n] = scores.dims as [number, number, number]
  // [y1, x1, y2, x2, area] of each box of an image
  const sides = numbers(boxes)
  const centered = node.int('center_point_box', 0) !== 0
  const corners = (b: number): Float64Array => {
    const out = new Float64Array(n * 5)
    for (let i = 0; i < n; i++) {
      const at = (b * n + i) * 4
      const [p, q, r, s] = [sides[at], sides[at + 1], sides[at + 2], sides[at + 3]] as [number, number, number, number]
      const box = centered ? [q - s / 2, p - r / 2, q + s / 2, p + r / 2] : [Math.min(p, r), Math.min(q, s), Math.max(p, r), Math.max(q, s)]
      out.set(box, i * 5)
      out[i * 5 + 4] = ((box[2] as number) - (box[0] as number)) * ((box[3] as number) - (box[1] as number))
    }
    return out
  }
  /** whether two boxes share no more than `far` of what both cover */
  const apart = (v: Float64Array, i: number, j: number): boolean => {
    const [a, c] = [i * 5, j * 5]
    const high = Math.min(v[a + 2] as number, v[c + 2] as number) - Math.max(v[a] as number, v[c] as number)
    const wide = Math.min(v[a + 3] as number, v[c + 3] as number) - Math.max(v[a + 1] as number, v[c + 1] as number)
    if (!(high > 0 && wide > 0)) return far >= 0
    const both = high * wide
    return both / ((v[a + 4] as number) + (v[c + 4] as number) - both || 1) <= far
  }
  const rows: number[] = []
  const points64 = Float64Array.from(numbers(scores))
  const kept = new Int32Array(Math.min(n, Math.max(0, limit)))
  for (let b = 0; b < batches; b++) {
    const all = corners(b)
    for (let c = 0; c < classes; c++) {
      const score = points64.subarray((b * classes + c) * n, (b * classes + c + 1) * n)
      let order = new Int32Array(n)
      let count = 0
      for (let i = 0; i < n; i++) if ((score[i] as number) > low) order[count++] = i
      order = order.subarray(0, count).sort((i, j) => (score[j] as number) - (score[i] as number) || i - j)
      let many = 0
      for (let t = 0; t < count && many < kept.length; t++) {
        const i = order[t] as number
        let k = 0
        while (k < many && apart(all, kept[k] as number, i)) k++
        if (k === many) kept[many++] = i
      }
      for (let k = 0; k < many; k++) rows.push(b, c, kept[k] as number)
    }
  }
  return [made('int64', [rows.length / 3, 3], rows)]
})

/** Counts of runs of integers (n-grams) of a list, by where the node's pool has them. */
const tfIdf = plain((node, given) => {
  const x = given as Tensor
  const [pool, starts, places] = [node.ints('pool_int64s'), node.ints('ngram_counts', []), node.ints('ngram_indexes', [])]
  if (!pool) refuse(node, 'n-grams of strings')
  const [least, most, skips] = [node.int('min_gram_length', 1), node.int('max_gram_length', 1), node.int('max_skip_count', 0)]
  const mode = node.string('mode', 'TF')
  const found = node.attributes.get('weights')
  const weights = found?.type === 'floats' ? found.value : undefined
  const rows = x.dims.length === 2 ? (x.dims[0] as number) : 1
  const length = x.dims[x.dims.length - 1] ?? 1
  const width = places.reduce((m, p) => Math.max(m, p + 1), 0)
  const grams = new Map<string, number>()
  let id = 0
  starts.forEach((from, i) => {
    const end = starts[i + 1] ?? pool.length
    for (let at = from; at < end; at += i + 1) grams.set(pool.slice(at, at + i + 1).join(), id++)
  })
  const all = numbers(x)
  const out = new Float64Array(rows * width)
  for (let r = 0; r < rows; r++)
    for (let skip = 0; skip <= skips; skip++)
      for (let n = least; n <= most; n++) {
        // A single has no gaps, so it counts once.
        if (n === 1 && skip > 0) continue
        for (let i = 0; i + (n - 1) * (skip + 1) < length; i++) {
          const gram = grams.get(Array.from({ length: n }, (_, k) => all[r * length + i + k * (skip + 1)]).join())
          if (gram !== undefined) out[r * width + (places[gram] as number)]! += 1
        }
      }
  const weight = (i: number): number => (weights ? (weights[places.indexOf(i)] as number) : 1)
  const values = out.map((v, i) => (mode === 'TF' ? v : mode === 'IDF' ? (v > 0 ? weight(i % width) : 0) : v * weight(i % width)))
  return [made('float32', x.dims.length === 2 ? [rows, width] : [width], values)]
})

/** Where a step of a plan does not do. */
export const oddPicking: Readonly<Record<string, Host>> = {
  GatherElements: gatherElements,
  ScatterElements: scatterElements,
  Scatter: scatterElements,
  GatherND: gatherND,
  ScatterND: scatterND,
  TopK: topK,
  Trilu: trilu,
}

export const picking: Readonly<Record<string, Host>> = {
  NonZero: nonZero,
  Compress: compress,
  OneHot: oneHot,
  Unique: unique,
  ReverseSequence: reverseSequence,
  EyeLike: eyeLike,
  NonMaxSuppression: nonMaxSuppression,
  TfIdfVectorizer: tfIdf,
}
