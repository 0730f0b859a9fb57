import type { Attribute, Tensor } from '../lib'
import { agree, attribute, float, floats, graph, ints, modelOf, sizeOf, type Input, type Step, type Values } from './graphs'

/**
 * Graphs drawn at random, against onnxruntime-node: operators in every order, on values that lie in memory in every way. WHITTLE_LONG=1 draws twenty
 * times as many; WHITTLE_SEED=n begins elsewhere.
 */
const kRounds = process.env['WHITTLE_LONG'] ? 1600 : 80
const kSeed = Number(process.env['WHITTLE_SEED'] ?? 1)
const kMost = 50_000

interface Drawn {
  readonly name: string
  readonly dims: readonly number[]
}

class Draw {
  readonly inputs: Input[] = []
  readonly constants: Record<string, Tensor> = {}
  readonly steps: Step[] = []
  readonly values: Drawn[] = []
  readonly feeds: Record<string, Tensor> = {}
  #state: number
  #count = 0

  constructor(seed: number) {
    this.#state = Math.imul(seed, 2654435761) >>> 0
    for (let i = this.within(1, 3); i > 0; i--) this.input(Array.from({ length: this.one([2, 3, 4, 4]) }, () => this.one([1, 1, 2, 3, 4, 5, 7, 8, 16, 17])))
    for (let i = this.within(3, 12); i > 0; i--) {
      const v = this.one(this.values.slice(-5))
      if (sizeOf(v.dims) <= kMost) this.one(kMoves)(this, v)
    }
  }

  below(n: number): number {
    this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0
    return Math.floor((this.#state / 2 ** 32) * n)
  }
  within(lo: number, hi: number): number {
    return lo + this.below(hi - lo + 1)
  }
  one<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T
  }
  shuffled(n: number): number[] {
    const list = Array.from({ length: n }, (_, i) => i)
    for (let i = n - 1; i > 0; i--) {
      const j = this.below(i + 1)
      ;[list[i], list[j]] = [list[j] as number, list[i] as number]
    }
    return list
  }
  name(): string {
    return `v${this.#count++}`
  }
  input(dims: readonly number[]): Drawn {
    const name = this.name()
    this.inputs.push([name, 'float32', this.below(2) ? dims : dims.map((_, i) => `${name}_${i}`)])
    this.feeds[name] = floats(dims, this.#count)
    const v = { name, dims }
    this.values.push(v)
    return v
  }
  constant(t: Tensor): string {
    const name = this.name()
    this.constants[name] = t
    return name
  }
  floats(...dims: number[]): string {
    return this.constant(floats(dims, ++this.#count))
  }
  ints(...values: number[]): string {
    return this.constant(ints(...values))
  }
  /** A step whose result nobody else reads. */
  inner(op: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}): string {
    const out = this.name()
    this.steps.push([op, inputs, [out], attributes])
    return out
  }
  add(op: string, inputs: readonly string[], dims: readonly number[], attributes: Record<string, Attribute> = {}): Drawn {
    const v = { name: this.inner(op, inputs, attributes), dims }
    this.values.push(v)
    return v
  }
  /** Values nobody reads are results. */
  model(): { readonly of: ReturnType<typeof modelOf>; readonly feeds: Values } | undefined {
    const read = new Set([...this.steps.flatMap(([, names]) => names), ...this.inputs.map(([n]) => n)])
    const outputs = this.values.filter((v) => !read.has(v.name)).map((v) => v.name)
    return outputs.length > 0 ? { of: modelOf(graph(this.inputs, this.constants, this.steps, outputs)), feeds: this.feeds } : undefined
  }
}

const { int, ints: list, string: text } = attribute
type Move = (d: Draw, v: Drawn) => void
const replaced = (dims: readonly number[], at: number, size: number): number[] => dims.map((n, i) => (i === at ? size : n))
const swapped = (rank: number): number[] => [...Array(rank - 2).keys(), rank - 1, rank - 2]

const transpose: Move = (d, { name, dims }) => {
  const perm = d.shuffled(dims.length)
  d.add('Transpose', [name], perm.map((i) => dims[i] as number), { perm: list(perm) })
}
const reshape: Move = (d, { name, dims }) => {
  let rest = sizeOf(dims)
  const out: number[] = []
  for (let i = d.within(0, 3); i > 0; i--) {
    const n = d.one([1, 2, 3, 4, 5, 7, 8, 16].filter((q) => rest % q === 0))
    out.push(n)
    rest /= n
  }
  out.splice(d.within(0, out.length), 0, rest)
  const free = d.below(2) ? d.below(out.length) : -1
  d.add('Reshape', [name, d.ints(...out.map((n, i) => (i === free ? -1 : n)))], out)
}
const slice: Move = (d, { name, dims }) => {
  const axis = d.below(dims.length)
  const n = dims[axis] as number
  const step = d.one([1, 1, 2, -1])
  const first = step < 0 ? n - 1 : d.below(n)
  const end = step < 0 ? -n - 1 : d.within(first + 1, n)
  d.add('Slice', [name, ...[first, end, axis, step].map((x) => d.ints(x))], replaced(dims, axis, step < 0 ? n : Math.ceil((end - first) / step)))
}
const concat: Move = (d, { name, dims }) => {
  const axis = d.below(dims.length)
  const other = d.one(d.values.filter((o) => o.dims.length === dims.length && o.dims.every((n, i) => i === axis || n === dims[i])))
  d.add('Concat', [name, other.name], replaced(dims, axis, (dims[axis] as number) + (other.dims[axis] as number)), { axis: int(axis) })
}
const expand: Move = (d, { name, dims }) => {
  const out = [...(dims.length < 4 && d.below(3) === 0 ? [2] : []), ...dims.map((n) => (n === 1 ? d.within(1, 3) : n))]
  d.add('Expand', [name, d.ints(...out)], out)
}
const gather: Move = (d, { name, dims }) => {
  const axis = d.below(dims.length)
  const n = dims[axis] as number
  const index = Array.from({ length: d.within(1, 4) }, () => d.within(-n, n - 1))
  d.add('Gather', [name, d.ints(...index)], replaced(dims, axis, index.length), { axis: int(axis) })
}
const pad: Move = (d, { name, dims }) => {
  const rank = dims.length
  const pads = Array.from({ length: 2 * rank }, () => d.one([0, 0, 0, 1, 2]))
  const mode = dims.some((n, i) => Math.max(pads[i] as number, pads[i + rank] as number) >= n) ? 'constant' : d.one(['constant', 'edge', 'reflect'])
  d.add('Pad', [name, d.ints(...pads)], dims.map((n, i) => n + (pads[i] as number) + (pads[i + rank] as number)), { mode: text(mode) })
}
const unary: Move = (d, { name, dims }) => {
  d.add(d.one(['Relu', 'Sigmoid', 'Tanh', 'Neg', 'Abs', 'Erf', 'LeakyRelu', 'HardSwish', 'HardSigmoid', 'Softplus', 'Identity', 'Elu', 'Sin']), [name], dims)
}
const binary: Move = (d, { name, dims }) => {
  const fits = (o: Drawn): boolean => [...Array(Math.min(dims.length, o.dims.length)).keys()].every((i) => new Set([1, dims[dims.length - 1 - i], o.dims[o.dims.length - 1 - i]]).size < 3)
  const other = d.one(d.values.filter(fits))
  const rank = Math.max(dims.length, other.dims.length)
  const at = (of: readonly number[], i: number): number => of[i - rank + of.length] ?? 1
  const out = Array.from({ length: rank }, (_, i) => Math.max(at(dims, i), at(other.dims, i)))
  if (sizeOf(out) <= kMost) d.add(d.one(['Add', 'Mul', 'Max', 'Min']), d.below(2) ? [name, other.name] : [other.name, name], out)
}
const withConstant: Move = (d, { name, dims }) => {
  const c = d.floats(...d.one([[], dims.slice(-1), dims.map((n, i) => (i > 0 && d.below(2) ? n : 1))]))
  d.add(d.one(['Add', 'Mul', 'Sub']), d.below(3) ? [name, c] : [c, name], dims)
}
const product: Move = (d, { name, dims }) => {
  const rank = dims.length
  if (rank < 2) return
  const other = d.values.find((o) => o.dims.length === rank && o.dims[rank - 2] === dims[rank - 1] && o.dims.slice(0, -2).every((n, i) => n === dims[i]))
  if (other) d.add('MatMul', [name, other.name], [...dims.slice(0, -1), other.dims[rank - 1] as number])
  else d.add('MatMul', [name, d.inner('Transpose', [name], { perm: list(swapped(rank)) })], [...dims.slice(0, -1), dims[rank - 2] as number])
}
const layer: Move = (d, { name, dims }) => {
  const n = d.one([1, 3, 8, 17])
  const p = d.inner('MatMul', [name, d.floats(dims[dims.length - 1] as number, n)])
  d.add('Add', [p, d.floats(n)], [...dims.slice(0, -1), n])
}
const softmax: Move = (d, { name, dims }) => void d.add('Softmax', [name], dims, { axis: int(d.one([-1, d.below(dims.length)])) })
const reduce: Move = (d, { name, dims }) => {
  if (dims.length < 2) return
  const axes = d.shuffled(dims.length).slice(0, d.within(1, dims.length - 1))
  const keep = d.below(2)
  const out = keep ? dims.map((n, i) => (axes.includes(i) ? 1 : n)) : dims.filter((_, i) => !axes.includes(i))
  d.add(d.one(['ReduceMean', 'ReduceMax', 'ReduceMin', 'ReduceL2']), [name], out, { keepdims: int(keep), axes: list(axes) })
}
const convolution: Move = (d, { name, dims }) => {
  const spatial = dims.slice(2)
  const [kernel, apart, step] = [spatial.map(() => d.one([1, 1, 2, 3])), d.one([1, 1, 2]), d.one([1, 1, 2])]
  const channels = dims[1] as number
  if (spatial.length < 1 || spatial.some((n, i) => n + 2 < ((kernel[i] as number) - 1) * apart + 1)) return
  const group = d.one([1, 1, channels])
  const outputs = group > 1 ? channels * d.within(1, 2) : d.one([1, 3, 8, 17])
  const out = [dims[0] as number, outputs, ...spatial.map((n, i) => Math.floor((n + 1 - ((kernel[i] as number) - 1) * apart) / step) + 1)]
  const all = (v: number, n = spatial.length): Attribute => list(new Array<number>(n).fill(v))
  const y = d.add('Conv', [name, d.floats(outputs, channels / group, ...kernel), d.floats(outputs)], out, { pads: all(1, 2 * spatial.length), strides: all(step), dilations: all(apart), group: int(group) })
  if (d.below(2)) d.add(d.one(['Relu', 'Sigmoid', 'HardSwish']), [y.name], out)
}
const pool: Move = (d, { name, dims }) => {
  const spatial = dims.slice(2)
  if (spatial.length < 1 || spatial.some((n) => n < 2)) return
  const step = d.within(1, 2)
  const out = [...dims.slice(0, 2), ...spatial.map((n) => Math.floor((n - 2) / step) + 1)]
  d.add(d.one(['MaxPool', 'AveragePool']), [name], out, { kernel_shape: list(spatial.map(() => 2)), strides: list(spatial.map(() => step)) })
}
const normalized: Move = (d, { name, dims }) => {
  const channels = dims[1] as number
  if (dims.length < 3) return
  const positive = d.constant(float([channels], ...Array.from({ length: channels }, (_, i) => 0.5 + (i % 3))))
  d.add('BatchNormalization', [name, d.floats(channels), d.floats(channels), d.floats(channels), positive], dims)
}
/** Queries that are keys and values too; the mask repeats along any axes, and lies in memory in any order. */
const attention: Move = (d, { name, dims }) => {
  const rank = dims.length
  const rows = dims[rank - 2] as number
  if (rank < 3) return
  const scores = d.inner('MatMul', [name, d.inner('Transpose', [name], { perm: list(swapped(rank)) })])
  const shape = d.one([[rows, rows], [1, rows], [rows, 1], [...dims.slice(0, -2), rows, rows]])
  const perm = d.shuffled(shape.length)
  const lies = perm.map((_, i) => shape[perm.indexOf(i)] as number)
  const mask = d.inner('Transpose', [d.below(2) ? d.input(lies).name : d.floats(...lies)], { perm: list(perm) })
  const weights = d.inner('Softmax', [d.below(4) ? d.inner('Add', [scores, mask]) : scores], { axis: int(-1) })
  d.add('MatMul', [weights, name], dims)
}

const kMoves: readonly Move[] = [
  transpose, transpose, reshape, reshape, slice, concat, expand, gather, pad, unary, unary, binary, binary, withConstant, withConstant, product, layer, layer, softmax,
  reduce, convolution, convolution, pool, normalized, attention, attention,
] // prettier-ignore

test.each(Array.from({ length: kRounds / 10 }, (_, i) => kSeed + i * 10))('ten graphs from seed %d on agree', async (seed) => {
  for (let s = seed; s < seed + 10; s++) {
    const drawn = new Draw(s)
    const { of, feeds } = drawn.model() ?? {}
    if (!of || !feeds) continue
    await agree(of, feeds).catch((e: unknown) => {
      throw new Error(`seed ${s}, ${drawn.steps.map(([op]) => op).join(' ')}: ${String(e)}`)
    })
  }
})
