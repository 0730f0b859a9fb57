import { sizeOf, type Tensor } from '../../tensor'
import type { Node } from '../../model'
import { equationOf } from '../../model/ops/equation'
import { axisOf, lines, made, numbers, plain, refuse, strides, type Host } from './host'

const kFolds: Readonly<Record<string, readonly [first: number, step: (a: number, v: number) => number, last?: (a: number, n: number) => number]>> = {
  ReduceSum: [0, (a, v) => a + v],
  ReduceMean: [0, (a, v) => a + v, (a, n) => a / n],
  ReduceProd: [1, (a, v) => a * v],
  ReduceMax: [-Infinity, Math.max],
  ReduceMin: [Infinity, Math.min],
  ReduceL1: [0, (a, v) => a + Math.abs(v)],
  ReduceL2: [0, (a, v) => a + v * v, Math.sqrt],
  ReduceSumSquare: [0, (a, v) => a + v * v],
  ReduceLogSum: [0, (a, v) => a + v, Math.log],
  ReduceLogSumExp: [0, (a, v) => a + Math.exp(v), Math.log],
}

const reduce = plain((node, given, list) => {
  const x = given as Tensor
  const rank = x.dims.length
  const axes = list ? Array.from(numbers(list)) : (node.ints('axes') ?? [])
  const alone = axes.length === 0 && node.int('noop_with_empty_axes', 0) !== 0
  const gone = new Set(axes.length === 0 && !alone ? x.dims.map((_, i) => i) : axes.map((a) => axisOf(node, a, rank)))
  const kept = x.dims.map((d, i) => (gone.has(i) ? 1 : d))
  const [own, to] = [strides(x.dims), strides(kept)]
  const [first, step, last] = kFolds[node.opType] as NonNullable<(typeof kFolds)[string]>
  const sums = new Float64Array(sizeOf(kept)).fill(first)
  const all = numbers(x)
  for (let i = 0; i < all.length; i++) {
    let at = 0
    for (let k = 0; k < rank; k++) if (!gone.has(k)) at += (Math.floor(i / (own[k] as number)) % (x.dims[k] as number)) * (to[k] as number)
    sums[at] = step(sums[at] as number, all[i] as number)
  }
  const n = sizeOf(x.dims.filter((_, i) => gone.has(i)))
  const out = last ? sums.map((v) => last(v, n)) : sums
  return [made(x.type, node.int('keepdims', 1) ? kept : x.dims.filter((_, i) => !gone.has(i)), out)]
})

const cumSum = plain((node, given, where) => {
  const x = given as Tensor
  const axis = axisOf(node, Number((where as Tensor).data[0]), x.dims.length)
  const [exclusive, reverse] = [node.int('exclusive', 0) !== 0, node.int('reverse', 0) !== 0]
  const all = numbers(x)
  const out = new Float64Array(all.length)
  lines(x.dims, axis, (at, n) => {
    let sum = 0
    for (let i = 0; i < n; i++) {
      const place = at(reverse ? n - 1 - i : i)
      if (!exclusive) sum += all[place] as number
      out[place] = sum
      if (exclusive) sum += all[place] as number
    }
  })
  return [made(x.type, x.dims, out)]
})

function argBest(sign: 1 | -1): Host {
  return plain((node, given) => {
    const x = given as Tensor
    const axis = axisOf(node, node.int('axis', 0), x.dims.length)
    const last = node.int('select_last_index', 0) !== 0
    const all = numbers(x)
    const out: number[] = []
    lines(x.dims, axis, (at, n) => {
      let best = 0
      for (let i = 1; i < n; i++) {
        const d = sign * ((all[at(i)] as number) - (all[at(best)] as number))
        if (last ? d >= 0 : d > 0) best = i
      }
      out.push(best)
    })
    const dims = node.int('keepdims', 1) ? x.dims.map((d, i) => (i === axis ? 1 : d)) : x.dims.filter((_, i) => i !== axis)
    return [made('int64', dims, out)]
  })
}

const hardmax = plain((node, given) => {
  const x = given as Tensor
  const axis = axisOf(node, node.int('axis', -1), x.dims.length)
  const all = numbers(x)
  const out = new Float64Array(all.length)
  lines(x.dims, axis, (at, n) => {
    let best = 0
    for (let i = 1; i < n; i++) if ((all[at(i)] as number) > (all[at(best)] as number)) best = i
    if (n > 0) out[at(best)] = 1
  })
  return [made(x.type, x.dims, out)]
})

/** Mean and 1 / sqrt(variance + epsilon) of each run of n. */
function moments(all: ArrayLike<number>, n: number, epsilon: number): readonly [mean: Float64Array, inverse: Float64Array] {
  const rows = n === 0 ? 0 : all.length / n
  const [mean, inverse] = [new Float64Array(rows), new Float64Array(rows)]
  for (let r = 0; r < rows; r++) {
    let sum = 0
    for (let i = 0; i < n; i++) sum += all[r * n + i] as number
    const m = sum / n
    let squares = 0
    for (let i = 0; i < n; i++) squares += ((all[r * n + i] as number) - m) ** 2
    mean[r] = m
    inverse[r] = 1 / Math.sqrt(squares / n + epsilon)
  }
  return [mean, inverse]
}

const layerNorm = plain((node, given, scale, bias) => {
  const x = given as Tensor
  const axis = axisOf(node, node.int('axis', -1), x.dims.length)
  const n = sizeOf(x.dims.slice(axis))
  const [all, g, b] = [numbers(x), numbers(scale as Tensor), bias && numbers(bias)]
  const [mean, inverse] = moments(all, n, node.float('epsilon', 1e-5))
  const out = Float64Array.from(all, (v, i) => {
    const r = Math.floor(i / n)
    const j = i % n
    return (v - (mean[r] as number)) * (inverse[r] as number) * (g[j % g.length] as number) + (b ? (b[j % b.length] as number) : 0)
  })
  const dims = x.dims.map((d, i) => (i < axis ? d : 1))
  return [made(x.type, x.dims, out), made('float32', dims, mean), made('float32', dims, inverse)]
})

/** Normalizes each group of channels of each sample; `groups` by channel count. */
function grouped(node: Node, x: Tensor, groups: number, scale: ArrayLike<number>, bias: ArrayLike<number>): Tensor {
  const channels = x.dims[1] as number
  const space = sizeOf(x.dims.slice(2))
  const n = (channels / groups) * space
  if (channels % groups !== 0) refuse(node, `${channels} channels in ${groups} groups`)
  const all = numbers(x)
  const [mean, inverse] = moments(all, n, node.float('epsilon', 1e-5))
  const out = Float64Array.from(all, (v, i) => {
    const r = Math.floor(i / n)
    const c = Math.floor(i / space) % channels
    // Up to opset 20 a group has one scale, from 21 on a channel.
    const at = scale.length === channels ? c : Math.floor((c * groups) / channels)
    return (v - (mean[r] as number)) * (inverse[r] as number) * (scale[at] as number) + (bias[at] as number)
  })
  return made(x.type, x.dims, out)
}

const groupNorm = plain((node, x, scale, bias) => [grouped(node, x as Tensor, node.int('num_groups', 1), numbers(scale as Tensor), numbers(bias as Tensor))])
const instanceNorm = plain((node, x, scale, bias) => [grouped(node, x as Tensor, (x as Tensor).dims[1] as number, numbers(scale as Tensor), numbers(bias as Tensor))])

/** Normalizes by the statistics of what it is given, and moves the running ones towards them. */
const batchNormInTraining = plain((node, given, scale, bias, mean, variance) => {
  const x = given as Tensor
  const channels = x.dims[1] as number
  const space = sizeOf(x.dims.slice(2))
  const count = x.data.length / channels
  const [momentum, epsilon] = [node.float('momentum', 0.9), node.float('epsilon', 1e-5)]
  const all = numbers(x)
  const [g, b, m0, v0] = [scale, bias, mean, variance].map((t) => numbers(t as Tensor)) as [ArrayLike<number>, ArrayLike<number>, ArrayLike<number>, ArrayLike<number>]
  const [m, v] = [new Float64Array(channels), new Float64Array(channels)]
  const channel = (i: number): number => Math.floor(i / space) % channels
  for (let i = 0; i < all.length; i++) m[channel(i)]! += (all[i] as number) / count
  for (let i = 0; i < all.length; i++) v[channel(i)]! += ((all[i] as number) - (m[channel(i)] as number)) ** 2 / count
  const out = Float64Array.from(all, (a, i) => {
    const c = channel(i)
    return ((a - (m[c] as number)) / Math.sqrt((v[c] as number) + epsilon)) * (g[c] as number) + (b[c] as number)
  })
  const moved = (now: Float64Array, was: ArrayLike<number>): Float64Array => now.map((a, i) => (was[i] as number) * momentum + a * (1 - momentum))
  return [made(x.type, x.dims, out), made('float32', [channels], moved(m, m0)), made('float32', [channels], moved(v, v0))]
})

const lrn = plain((node, given) => {
  const x = given as Tensor
  const size = node.int('size', 1)
  const [alpha, beta, bias] = [node.float('alpha', 1e-4), node.float('beta', 0.75), node.float('bias', 1)]
  const all = numbers(x)
  const out = new Float64Array(all.length)
  lines(x.dims, 1, (at, n) => {
    for (let c = 0; c < n; c++) {
      let sum = 0
      for (let i = Math.max(0, c - Math.floor((size - 1) / 2)); i <= Math.min(n - 1, c + Math.ceil((size - 1) / 2)); i++) sum += (all[at(i)] as number) ** 2
      out[at(c)] = (all[at(c)] as number) / (bias + (alpha / size) * sum) ** beta
    }
  })
  return [made(x.type, x.dims, out)]
})

const lpNorm = plain((node, given) => {
  const x = given as Tensor
  const p = node.int('p', 2)
  const all = numbers(x)
  const out = new Float64Array(all.length)
  lines(x.dims, axisOf(node, node.int('axis', -1), x.dims.length), (at, n) => {
    let sum = 0
    for (let i = 0; i < n; i++) sum += Math.abs(all[at(i)] as number) ** p
    const norm = sum ** (1 / p)
    for (let i = 0; i < n; i++) out[at(i)] = norm === 0 ? 0 : (all[at(i)] as number) / norm
  })
  return [made(x.type, x.dims, out)]
})

const meanVariance = plain((node, given) => {
  const x = given as Tensor
  const gone = new Set(node.ints('axes', [0, 2, 3]).map((a) => axisOf(node, a, x.dims.length)))
  const own = strides(x.dims)
  const all = numbers(x)
  const key = (i: number): number => x.dims.reduce((s, d, k) => (gone.has(k) ? s : s * d + (Math.floor(i / (own[k] as number)) % d)), 0)
  const sums = new Map<number, [n: number, s: number, q: number]>()
  for (let i = 0; i < all.length; i++) {
    const k = key(i)
    const t = sums.get(k) ?? [0, 0, 0]
    const v = all[i] as number
    sums.set(k, [t[0] + 1, t[1] + v, t[2] + v * v])
  }
  const out = Float64Array.from(all, (v, i) => {
    const [n, s, q] = sums.get(key(i)) as [number, number, number]
    return (v - s / n) / (Math.sqrt(q / n - (s / n) ** 2) + 1e-9)
  })
  return [made(x.type, x.dims, out)]
})

/** The sum over all letters that the result lacks, one product after another. */
const einsum = plain((node, ...operands) => {
  const text = node.string('equation', '')
  const { terms: letters, result } = equationOf(node, operands.map((t) => t?.dims.length)) ?? refuse(node, `operands of ${operands.map((t) => t?.dims.length).join(', ')} axes for ${text}`)
  const size = new Map<string, number>()
  letters.forEach((list, i) =>
    list.forEach((c, k) => {
      const d = (operands[i] as Tensor).dims[k]
      const known = size.get(c) ?? 1
      if (d === undefined || (known !== 1 && d !== 1 && known !== d)) refuse(node, `operand ${i} of [${(operands[i] as Tensor).dims.join(', ')}] for ${text}`)
      size.set(c, Math.max(known, d))
    }),
  )
  const order = [...result, ...[...size.keys()].filter((c) => !result.includes(c))]
  const dims = order.map((c) => size.get(c) as number)
  const steps = letters.map((list, i) => {
    const t = operands[i] as Tensor
    const own = strides(t.dims)
    return order.map((c) => list.reduce((s, x, k) => (x === c && t.dims[k] !== 1 ? s + (own[k] as number) : s), 0))
  })
  const all = (operands as Tensor[]).map(numbers)
  const outDims = dims.slice(0, result.length)
  const out = new Float64Array(sizeOf(outDims))
  const inner = sizeOf(dims.slice(result.length))
  const total = sizeOf(dims)
  for (let i = 0; i < total; i++) {
    let rest = i
    const at = new Array<number>(all.length).fill(0)
    for (let k = dims.length - 1; k >= 0; k--) {
      const c = rest % (dims[k] as number)
      rest = Math.floor(rest / (dims[k] as number))
      for (let o = 0; o < at.length; o++) at[o] = (at[o] as number) + c * ((steps[o] as number[])[k] as number)
    }
    const place = Math.floor(i / inner)
    out[place] = (out[place] as number) + all.reduce((p, v, o) => p * (v[at[o] as number] as number), 1)
  }
  return [made((operands[0] as Tensor).type, outDims, out)]
})

const det = plain((node, given) => {
  const x = given as Tensor
  const [n, m] = x.dims.slice(-2) as [number, number]
  if (n !== m) refuse(node, `a matrix of ${n} x ${m}`)
  const all = numbers(x)
  const out: number[] = []
  for (let b = 0; b < sizeOf(x.dims.slice(0, -2)); b++) {
    const a = Array.from({ length: n }, (_, i) => Array.from({ length: n }, (__, j) => all[(b * n + i) * n + j] as number))
    let product = 1
    for (let c = 0; c < n; c++) {
      let best = c
      for (let r = c + 1; r < n; r++) if (Math.abs(a[r]?.[c] as number) > Math.abs(a[best]?.[c] as number)) best = r
      if (best !== c) {
        ;[a[c], a[best]] = [a[best] as number[], a[c] as number[]]
        product = -product
      }
      const pivot = a[c]?.[c] as number
      product *= pivot
      if (pivot === 0) break
      for (let r = c + 1; r < n; r++) {
        const f = (a[r]?.[c] as number) / pivot
        for (let k = c; k < n; k++) (a[r] as number[])[k] = (a[r]?.[k] as number) - f * (a[c]?.[k] as number)
      }
    }
    out.push(product)
  }
  return [made(x.type, x.dims.slice(0, -2), out)]
})

export const reductions: Readonly<Record<string, Host>> = Object.fromEntries(Object.keys(kFolds).map((op) => [op, reduce]))
export const cumulation: Readonly<Record<string, Host>> = { CumSum: cumSum, ArgMax: argBest(1), ArgMin: argBest(-1) }
export const layerNorms: Readonly<Record<string, Host>> = { LayerNormalization: layerNorm, GroupNormalization: groupNorm, InstanceNormalization: instanceNorm }
export const training: Readonly<Record<string, Host>> = { BatchNormalization: batchNormInTraining }
export const sums: Readonly<Record<string, Host>> = {
  Hardmax: hardmax,
  LRN: lrn,
  LpNormalization: lpNorm,
  MeanVarianceNormalization: meanVariance,
  Einsum: einsum,
  Det: det,
}
