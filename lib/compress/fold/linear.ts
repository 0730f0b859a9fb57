import { Initializer, MemorySource, Node, type Graph } from '../../model/graph'
import { ownerOf } from '../../model/weights'
import { sizeOf } from '../../tensor'
import { ComputedSource } from '../computed'
import type { Memory } from '../passes/pass'

/**
 * A convolution or product with a constant float32 weight, seen as y = R W C x + b with diagonal R (a factor for each output
 * channel) and C (each input channel). Edits are collected in double precision and rounded once, by {@link write}. The
 * weight belongs to this node alone.
 */
export class Linear {
  readonly graph: Graph
  readonly node: Node
  readonly weight: Initializer
  readonly inputs: number
  readonly outputs: number
  /** The Add behind a MatMul that holds its bias. */
  adder: Node | undefined
  /** The weight as [a, b, taps]. */
  readonly #shape: readonly [number, number, number]
  /** channels that element (a, b) connects */
  readonly #ends: (a: number, b: number) => readonly [input: number, output: number]
  #rows: Float64Array | undefined
  #columns: Float64Array | undefined
  #bias: Float64Array | undefined
  #biasChanged = false

  private constructor(graph: Graph, node: Node, weight: Initializer) {
    this.graph = graph
    this.node = node
    this.weight = weight
    const d = weight.dims
    const group = node.int('group', 1)
    const [first, second] = d as [number, number]
    this.#shape = [first, second, sizeOf(d.slice(2))]
    if (node.opType === 'Conv') {
      this.inputs = second * group
      this.outputs = first
      this.#ends = (a, b) => [Math.floor(a / (first / group)) * second + b, a]
    } else if (node.opType === 'ConvTranspose') {
      this.inputs = first
      this.outputs = second * group
      this.#ends = (a, b) => [a, Math.floor(a / (first / group)) * second + b]
    } else if (node.opType === 'Gemm' && node.int('transB', 0)) {
      this.inputs = second
      this.outputs = first
      this.#ends = (a, b) => [b, a]
    } else {
      this.inputs = first
      this.outputs = second
      this.#ends = (a, b) => [a, b]
    }
  }

  /** The layer of a node; `undefined` for other nodes, and where the weight or bias is shared, no constant or not float32. */
  static of(graph: Graph, node: Node): Linear | undefined {
    if (!node.is('Conv', 'ConvTranspose', 'Gemm', 'MatMul')) return undefined
    const name = node.inputs[1]
    const weight = name && ownerOf(graph, name) === graph ? graph.initializers.get(name) : undefined
    if (!name || weight?.type !== 'float32' || graph.isInput(name) || graph.isOutput(name)) return undefined
    if (graph.users(name).length !== 1 || node.inputs.filter((i) => i === name).length !== 1 || !node.inputs[0]) return undefined
    const conv = node.is('Conv', 'ConvTranspose')
    if (conv ? weight.dims.length < 3 : weight.dims.length !== 2) return undefined
    if (conv && (weight.dims[0] as number) % node.int('group', 1)) return undefined
    if (weight.elementCount === 0) return undefined
    if (node.is('Gemm') && (node.int('transA', 0) || node.float('alpha', 1) !== 1 || (node.inputs[2] && node.float('beta', 1) !== 1))) return undefined
    const found = new Linear(graph, node, weight)
    if (node.is('MatMul')) found.adder = adderOf(graph, node, found.outputs)
    const bias = found.biasName
    if (bias !== undefined && !vectorOf(graph, bias, found.outputs)) return undefined
    return found
  }

  /** The value that the layer makes, bias added. */
  get output(): string {
    return (this.adder ?? this.node).outputs[0] as string
  }

  get data(): string {
    return this.node.inputs[0] as string
  }

  /** Rank of the layer's input and output, where the op fixes it. */
  get rank(): number | undefined {
    return this.node.is('MatMul') ? undefined : this.weight.dims.length
  }

  /** Whether zeros are added around the input. */
  get padded(): boolean {
    if (this.node.is('Gemm', 'MatMul')) return false
    if (this.node.is('ConvTranspose')) return true
    const auto = this.node.string('auto_pad', 'NOTSET')
    return auto === 'VALID' ? false : auto !== 'NOTSET' || this.node.ints('pads', []).some((p) => p !== 0)
  }

  get biasName(): string | undefined {
    if (!this.node.is('MatMul')) return this.node.inputs[2] || undefined
    const { adder, node } = this
    return adder?.inputs.find((i) => i !== node.outputs[0])
  }

  /** The bias as it is now; zeros where there is none. */
  bias(): Float64Array {
    if (!this.#bias) {
      const name = this.biasName
      this.#bias = (name === undefined ? undefined : vectorOf(this.graph, name, this.outputs)) ?? new Float64Array(this.outputs)
    }
    return this.#bias
  }

  /** The weight as it is now. */
  values(): Float32Array {
    const data = (this.weight.readSync().data as Float32Array).slice()
    return this.#rows || this.#columns ? this.#scaled(data) : data
  }

  /** Calls back for every weight: value, input and output channel. */
  each(callback: (value: number, input: number, output: number) => void): void {
    const data = this.weight.readSync().data as Float32Array
    const [A, B, K] = this.#shape
    let i = 0
    for (let a = 0; a < A; a++)
      for (let b = 0; b < B; b++) {
        const [input, output] = this.#ends(a, b)
        const factor = (this.#rows?.[output] ?? 1) * (this.#columns?.[input] ?? 1)
        for (let k = 0; k < K; k++) callback((data[i++] as number) * factor, input, output)
      }
  }

  /** y becomes s y + t. */
  scaleOutputs(s: ArrayLike<number>, t?: ArrayLike<number>): void {
    const rows = (this.#rows ??= new Float64Array(this.outputs).fill(1))
    const b = this.bias()
    let changed = t !== undefined
    for (let o = 0; o < this.outputs; o++) {
      rows[o] = (rows[o] as number) * (s[o] as number)
      if (b[o] !== 0) changed = true
      b[o] = (b[o] as number) * (s[o] as number) + (t?.[o] ?? 0)
    }
    if (changed) this.#biasChanged = true
  }

  /** x is to be read as s x + t; t only where nothing is padded. */
  scaleInputs(s: ArrayLike<number>, t?: ArrayLike<number>): void {
    if (t) {
      const b = this.bias()
      this.each((w, input, output) => (b[output] = (b[output] as number) + w * (t[input] as number)))
      this.#biasChanged = true
    }
    const columns = (this.#columns ??= new Float64Array(this.inputs).fill(1))
    for (let i = 0; i < this.inputs; i++) columns[i] = (columns[i] as number) * (s[i] as number)
  }

  addBias(t: ArrayLike<number>): void {
    const b = this.bias()
    for (let o = 0; o < this.outputs; o++) b[o] = (b[o] as number) + (t[o] as number)
    this.#biasChanged = true
  }

  /** Puts the changed weight and bias into the graph, under the weight's own name. Returns whether anything was changed. */
  write({ keep }: Memory): boolean {
    const { graph, node, weight } = this
    const scaled = this.#rows !== undefined || this.#columns !== undefined
    if (scaled) {
      const compute = (): Uint8Array => {
        const read = weight.readSync().data as Float32Array
        // What is small or in memory may be seen by others.
        const data = this.#scaled(weight.source.kind === 'memory' || weight.byteLength < 1e6 ? read.slice() : read)
        return new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
      }
      const source = keep.take(weight.byteLength) ? new MemorySource(compute()) : new ComputedSource(weight.byteLength, compute)
      graph.setInitializer(weight.name, new Initializer(weight.name, 'float32', weight.dims, source))
    }
    if (!this.#biasChanged) return scaled
    const old = this.biasName
    const data = Float32Array.from(this.bias())
    if (old === undefined && data.every((v) => v === 0)) return scaled
    const own = old !== undefined && graph.initializers.has(old) && graph.users(old).length === 1 && !graph.isOutput(old)
    const name = own ? old : graph.uniqueName('bias')
    const tensor = { type: 'float32', dims: [this.outputs], data } as const
    if (own) graph.setInitializer(name, tensor)
    else graph.addInitializer(Initializer.from(name, tensor))
    if (!node.is('MatMul')) node.setInput(2, name)
    else if (this.adder) this.adder.inputs = this.adder.inputs.map((i) => (i === old ? name : i))
    else {
      const y = node.outputs[0] as string
      node.outputs = [graph.uniqueName(`${y}_product`)]
      this.adder = graph.addNode(new Node({ opType: 'Add', name: graph.uniqueName(`${node.label}_bias`), inputs: [node.outputs[0] as string, name], outputs: [y] }), { after: node })
    }
    return true
  }

  #scaled(data: Float32Array): Float32Array {
    const [A, B, K] = this.#shape
    let i = 0
    for (let a = 0; a < A; a++)
      for (let b = 0; b < B; b++) {
        const [input, output] = this.#ends(a, b)
        const factor = (this.#rows?.[output] ?? 1) * (this.#columns?.[input] ?? 1)
        for (let k = 0; k < K; k++, i++) data[i] = (data[i] as number) * factor
      }
    return data
  }
}

/** The Add of a constant vector that alone reads a product. */
function adderOf(graph: Graph, node: Node, outputs: number): Node | undefined {
  const y = node.outputs[0] as string
  const users = graph.users(y)
  const add = users[0]
  if (users.length !== 1 || !add?.is('Add') || graph.isOutput(y) || add.subgraphs().length > 0) return undefined
  const other = add.inputs.find((i) => i !== y)
  const c = other ? graph.constant(other) : undefined
  return c && c.dims.length <= 1 && vectorOf(graph, other as string, outputs) ? add : undefined
}

/** A constant float32 vector of n values (or of one, n times) along the last axis. */
function vectorOf(graph: Graph, name: string, n: number): Float64Array | undefined {
  const c = graph.constant(name)
  if (c?.type !== 'float32' || graph.isInput(name) || c.dims.slice(0, -1).some((d) => d !== 1)) return undefined
  if (c.elementCount === n) return Float64Array.from(c.readSync().data as Float32Array)
  return c.elementCount === 1 ? new Float64Array(n).fill((c.readSync().data as Float32Array)[0] as number) : undefined
}

/** All layers of a graph in order of execution; those of subgraphs are not among them. */
export function linearsOf(graph: Graph): Map<Node, Linear> {
  const found = new Map<Node, Linear>()
  for (const node of graph.nodes) {
    const layer = Linear.of(graph, node)
    if (layer) found.set(node, layer)
  }
  return found
}

