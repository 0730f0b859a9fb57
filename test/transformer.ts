import { attribute, Graph, Initializer, Model, Node, ValueInfo, type Attribute, type Tensor } from '../lib'
import { noise } from './nets'

/** What an encoder is made of; `sdpa` writes attention and mask as newer exporters do. */
export interface EncoderShape {
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly inner: number
  readonly words: number
  readonly opset: number
  readonly sdpa?: boolean
}

export const kMiniLm: EncoderShape = { layers: 6, hidden: 384, heads: 12, inner: 1536, words: 1000, opset: 14 }
export const kBertBase: EncoderShape = { layers: 12, hidden: 768, heads: 12, inner: 3072, words: 1000, opset: 14 }

const kPositions = 512

/** An encoder of the BERT kind with random weights, in the words that PyTorch's exporter uses. Batch and length are symbols. */
export function encoder(shape: EncoderShape): Model {
  const { layers, hidden, heads, inner, words, opset, sdpa = false } = shape
  const depth = hidden / heads
  const graph = new Graph('encoder')
  let count = 0
  const add = (opType: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}): string => {
    const output = `${opType.toLowerCase()}_${count++}`
    graph.addNode(new Node({ opType, name: `/${output}`, inputs, outputs: [output], attributes }))
    return output
  }
  const weight = (dims: readonly number[], scale: number, shift = 0): string => {
    const name = `w${count++}`
    const data = noise(dims.reduce((a, b) => a * b, 1), count).map((v) => v * scale + shift)
    graph.addInitializer(Initializer.from(name, { type: 'float32', dims, data }))
    return name
  }
  const constant = (tensor: Tensor): string => add('Constant', [], { value: attribute.tensor(Initializer.from('', tensor)) })
  const ints = (...v: number[]): string => constant({ type: 'int64', dims: [v.length], data: BigInt64Array.from(v, BigInt) })
  const int = (v: number): string => constant({ type: 'int64', dims: [], data: BigInt64Array.of(BigInt(v)) })
  const float = (v: number): string => constant({ type: 'float32', dims: [], data: Float32Array.of(v) })
  const unsqueeze = (x: string, axis: number): string => add('Unsqueeze', [x, ints(axis)])
  const sizeOf = (x: string, axis: number): string => add('Gather', [add('Shape', [x]), int(axis)], { axis: attribute.int(0) })
  const shapeOf = (...parts: (string | number)[]): string =>
    add('Concat', parts.map((p) => (typeof p === 'number' ? ints(p) : unsqueeze(p, 0))), { axis: attribute.int(0) })
  const cast = (x: string, to: 'float32' | 'int64' | 'bool'): string => add('Cast', [x], { to: attribute.int({ float32: 1, int64: 7, bool: 9 }[to]) })
  const transpose = (x: string, ...perm: number[]): string => add('Transpose', [x], { perm: attribute.ints(perm) })
  const linear = (x: string, from: number, to: number): string =>
    add('Add', [weight([to], 0.1), add('MatMul', [x, weight([from, to], 2 / Math.sqrt(from))])])
  const layerNorm = (x: string): string => {
    const [gamma, beta] = [weight([hidden], 0.3, 1), weight([hidden], 0.2)]
    if (opset >= 17) return add('LayerNormalization', [x, gamma, beta], { epsilon: attribute.float(1e-12), axis: attribute.int(-1) })
    // Reductions take their axes as an attribute up to opset 17.
    const mean = (y: string): string => add('ReduceMean', [y], { axes: attribute.ints([-1]) })
    const centered = add('Sub', [x, mean(x)])
    const root = add('Sqrt', [add('Add', [mean(add('Pow', [centered, float(2)])), float(1e-12)])])
    return add('Add', [add('Mul', [add('Div', [centered, root]), gamma]), beta])
  }
  const gelu = (x: string): string =>
    opset >= 20
      ? add('Gelu', [x])
      : add('Mul', [add('Mul', [x, add('Add', [add('Erf', [add('Div', [x, float(Math.SQRT2)])]), float(1)])]), float(0.5)])

  graph.inputs = ['input_ids', 'attention_mask', 'token_type_ids'].map((n) => new ValueInfo(n, 'int64', ['batch', 'sequence']))
  const positions = 'position_ids'
  graph.addInitializer(
    Initializer.from(positions, { type: 'int64', dims: [1, kPositions], data: BigInt64Array.from({ length: kPositions }, (_, i) => BigInt(i)) }),
  )
  const length = sizeOf('input_ids', 1)
  const here = add('Slice', [positions, ints(0), unsqueeze(length, 0), ints(1), ints(1)])
  const sum = add('Add', [add('Gather', [weight([words, hidden], 1), 'input_ids']), add('Gather', [weight([2, hidden], 1), 'token_type_ids'])])
  let x = layerNorm(add('Add', [sum, add('Gather', [weight([kPositions, hidden], 0.5), here])]))

  // 1 keeps, 0 hides: what is hidden gets the lowest float.
  const lowest = -3.4028234663852886e38
  let mask: string
  if (sdpa) {
    const [b, s] = [sizeOf('attention_mask', 0), sizeOf('attention_mask', 1)]
    const wanted = shapeOf(b, 1, s, s)
    // the exporter's guard against −1 in an expansion
    const ones = add('ConstantOfShape', [ints(4)], { value: attribute.tensor(Initializer.from('', { type: 'int64', dims: [1], data: BigInt64Array.of(1n) })) })
    const free = add('Equal', [wanted, add('Mul', [ones, ints(-1)])])
    const whole = add('Expand', [unsqueeze(unsqueeze('attention_mask', 1), 2), add('Where', [free, ones, wanted])])
    const inverted = add('Sub', [float(1), cast(whole, 'float32')])
    mask = add('Where', [cast(inverted, 'bool'), float(lowest), inverted])
  } else mask = add('Mul', [add('Sub', [float(1), cast(unsqueeze(unsqueeze('attention_mask', 1), 2), 'float32')]), float(lowest)])

  for (let i = 0; i < layers; i++) {
    const split = (y: string): string => add('Reshape', [y, shapeOf(sizeOf(y, 0), sizeOf(y, 1), heads, depth)])
    const [q, k, v] = [linear(x, hidden, hidden), linear(x, hidden, hidden), linear(x, hidden, hidden)]
    const values = transpose(split(v), 0, 2, 1, 3)
    const queries = transpose(split(q), 0, 2, 1, 3)
    let scores: string
    if (sdpa) {
      // sqrt(1 / sqrt(depth)) on either side, worked out from the shape
      const last = add('Slice', [add('Shape', [queries]), ints(-1), ints(2 ** 53 - 1)])
      const scale = add('Sqrt', [add('Div', [constant({ type: 'float32', dims: [1], data: Float32Array.of(1) }), add('Sqrt', [cast(last, 'float32')])])])
      const keys = transpose(split(k), 0, 2, 3, 1)
      scores = add('MatMul', [add('Mul', [queries, scale]), add('Mul', [keys, scale])])
    } else scores = add('Div', [add('MatMul', [queries, transpose(split(k), 0, 2, 3, 1)]), float(Math.sqrt(depth))])
    const weights = add('Softmax', [add('Add', [scores, mask])], { axis: attribute.int(-1) })
    const mixed = transpose(add('MatMul', [weights, values]), 0, 2, 1, 3)
    const joined = add('Reshape', [mixed, shapeOf(sizeOf(mixed, 0), sizeOf(mixed, 1), hidden)])
    x = layerNorm(add('Add', [linear(joined, hidden, hidden), x]))
    x = layerNorm(add('Add', [linear(gelu(linear(x, hidden, inner)), inner, hidden), x]))
  }
  const first = add('Gather', [x, int(0)], { axis: attribute.int(1) })
  const pooled = add('Tanh', [add('Gemm', [first, weight([hidden, hidden], 2 / Math.sqrt(hidden)), weight([hidden], 0.1)], { transB: attribute.int(1) })])
  graph.addNode(new Node({ opType: 'Identity', inputs: [x], outputs: ['last_hidden_state'] }))
  graph.addNode(new Node({ opType: 'Identity', inputs: [pooled], outputs: ['pooler_output'] }))
  graph.outputs = [
    new ValueInfo('last_hidden_state', 'float32', ['batch', 'sequence', hidden]),
    new ValueInfo('pooler_output', 'float32', ['batch', hidden]),
  ]
  return new Model({ graph, opsets: [['', opset]], irVersion: 8 })
}

/** Tokens, a mask that hides the end of every second text, and segments. */
export function tokens(batch: number, length: number, words: number): Record<string, Tensor> {
  const dims = [batch, length]
  const random = noise(batch * length, 31)
  const of = (f: (i: number, at: number) => number): Tensor => ({
    type: 'int64',
    dims,
    data: BigInt64Array.from({ length: batch * length }, (_, i) => BigInt(f(i, i % length))),
  })
  return {
    input_ids: of((i) => Math.floor((((random[i] as number) + 1) / 2) * words)),
    attention_mask: of((i, at) => (Math.floor(i / length) % 2 === 1 && at > length * 0.6 ? 0 : 1)),
    token_type_ids: of((_, at) => (at > length / 2 ? 1 : 0)),
  }
}

/** A decoder whose blocks normalize what they read. */
export interface PreNormShape {
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly inner: number
  readonly words: number
  /** Queries, keys and values by one product: `'split'` as GPT-2 takes them apart, `'gather'` as vision transformers do. */
  readonly qkv?: 'split' | 'gather'
  /** Whether what the last normalization makes is an output, with no product behind it. */
  readonly bare?: boolean
  /**
   * Channels that stand out: normalizations scale them up by `factor`, and the products behind take that back, as trained models
   * do (Wei 2022); their values in the stream are four times the others'.
   */
  readonly outliers?: readonly number[]
  readonly factor?: number
  /** The stream lies near a subspace of so many dimensions. */
  readonly rank?: number
}

/** A model of that shape with random weights. Input `ids`: [batch, sequence]. */
export function preNorm(shape: PreNormShape): Model {
  const { layers, hidden, heads, inner, words, qkv, bare = false, outliers = [], factor = 30, rank } = shape
  const depth = hidden / heads
  const graph = new Graph('decoder')
  let count = 0
  const add = (opType: string, inputs: readonly string[], attributes: Record<string, Attribute> = {}, outputs = 1): string => {
    const names = Array.from({ length: outputs }, (_, i) => `${opType.toLowerCase()}_${count}${i ? `_${i}` : ''}`)
    count++
    graph.addNode(new Node({ opType, name: `/${names[0]}`, inputs, outputs: names, attributes }))
    return names[0]!
  }
  const initializer = (name: string, tensor: Tensor): string => {
    graph.addInitializer(Initializer.from(name, tensor))
    return name
  }
  // Columns that write the stream reach further where channels stand out, or lie near a subspace.
  const space = rank === undefined ? undefined : noise(rank * hidden, 4711)
  const stream = (rows: number, data: Float32Array): Float32Array => {
    const out = new Float32Array(rows * hidden)
    for (let i = 0; i < rows; i++)
      for (let j = 0; j < hidden; j++) {
        let v = data[i * hidden + j]! * (space ? 0.02 : 1)
        if (space) for (let r = 0; r < rank!; r++) v += data[i * hidden + r]! * space[r * hidden + j]! * 1.5
        out[i * hidden + j] = outliers.includes(j) ? v * 4 : v
      }
    return out
  }
  const weight = (dims: readonly number[], scale: number, role?: 'writes' | 'reads'): string => {
    const data = noise(dims.reduce((a, b) => a * b, 1), 100 + count).map((v) => v * scale)
    if (role === 'reads') data.forEach((v, i) => outliers.includes(Math.floor(i / dims[1]!)) && (data[i] = v / factor))
    return initializer(`w${count++}`, { type: 'float32', dims, data: role === 'writes' ? stream(data.length / hidden, data) : data })
  }
  const ints = (...v: number[]): string => initializer(`i${count++}`, { type: 'int64', dims: [v.length], data: BigInt64Array.from(v, BigInt) })
  const linear = (x: string, from: number, to: number, role?: 'writes' | 'reads'): string =>
    add('Add', [add('MatMul', [x, weight([from, to], 2 / Math.sqrt(from), role)]), weight([to], 0.1, role === 'writes' ? role : undefined)])
  const layerNorm = (x: string): string => {
    const gamma = noise(hidden, 100 + count).map((v, j) => (1 + 0.4 * v) * (outliers.includes(j) ? factor : 1))
    return add('LayerNormalization', [x, initializer(`g${count++}`, { type: 'float32', dims: [hidden], data: gamma }), weight([hidden], 0.3)], { epsilon: attribute.float(1e-5) })
  }
  const perm = (x: string, ...p: number[]): string => add('Transpose', [x], { perm: attribute.ints(p) })

  graph.inputs = [new ValueInfo('ids', 'int64', ['batch', 'sequence'])]
  let x = add('Add', [add('Gather', [weight([words, hidden], 1, 'writes'), 'ids']), weight([1, 1, hidden], 0.5, 'writes')])
  for (let i = 0; i < layers; i++) {
    const y = layerNorm(x)
    const split = (v: string): string => add('Reshape', [v, ints(0, 0, heads, depth)])
    let q: string, k: string, v: string
    if (qkv === 'gather') {
      const all = perm(add('Reshape', [linear(y, hidden, 3 * hidden, 'reads'), ints(0, 0, 3, heads, depth)]), 2, 0, 3, 1, 4)
      ;[q, v] = [0, 2].map((part) => add('Gather', [all, initializer(`i${count++}`, { type: 'int64', dims: [], data: BigInt64Array.of(BigInt(part)) })], { axis: attribute.int(0) })) as [string, string]
      k = perm(add('Gather', [all, initializer(`i${count++}`, { type: 'int64', dims: [], data: BigInt64Array.of(1n) })], { axis: attribute.int(0) }), 0, 1, 3, 2)
    } else if (qkv === 'split') {
      const flat = add('Reshape', [y, ints(-1, hidden)])
      const gemm = add('Gemm', [flat, weight([hidden, 3 * hidden], 2 / Math.sqrt(hidden), 'reads'), weight([3 * hidden], 0.1)])
      const whole = add('Reshape', [gemm, add('Concat', [add('Slice', [add('Shape', [y]), ints(0), ints(2)]), ints(3 * hidden)], { axis: attribute.int(0) })])
      const first = add('Split', [whole, ints(hidden, hidden, hidden)], { axis: attribute.int(2) }, 3)
      q = perm(split(first), 0, 2, 1, 3)
      k = perm(split(`${first}_1`), 0, 2, 3, 1)
      v = perm(split(`${first}_2`), 0, 2, 1, 3)
    } else {
      q = perm(split(linear(y, hidden, hidden, 'reads')), 0, 2, 1, 3)
      k = perm(split(linear(y, hidden, hidden, 'reads')), 0, 2, 3, 1)
      v = perm(split(linear(y, hidden, hidden, 'reads')), 0, 2, 1, 3)
    }
    const scores = add('Mul', [add('MatMul', [q, k]), initializer(`s${count++}`, { type: 'float32', dims: [], data: Float32Array.of(1 / Math.sqrt(depth)) })])
    const mixed = perm(add('MatMul', [add('Softmax', [scores], { axis: attribute.int(-1) }), v]), 0, 2, 1, 3)
    x = add('Add', [x, linear(add('Reshape', [mixed, ints(0, 0, hidden)]), hidden, hidden, 'writes')])
    x = add('Add', [linear(add('Relu', [linear(layerNorm(x), hidden, inner, 'reads')]), inner, hidden, 'writes'), x])
  }
  const last = layerNorm(x)
  const y = bare ? last : add('MatMul', [last, weight([hidden, words], 2 / Math.sqrt(hidden), 'reads')])
  graph.addNode(new Node({ opType: 'Identity', inputs: [y], outputs: ['y'] }))
  graph.outputs = [new ValueInfo('y', 'float32', ['batch', 'sequence', bare ? hidden : words])]
  return new Model({ graph, opsets: [['', 17]], irVersion: 8 })
}
