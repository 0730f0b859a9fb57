import { Initializer, MemorySource, Node, type Graph } from '../../model/graph'
import { ComputedSource, nonFiniteText } from '../computed'
import type { Linear } from '../fold/linear'
import type { Memory } from '../passes/pass'
import type { Progress, Run } from '../progress'
import type { Basis } from './basis'

/**
 * Layers whose channels are brought into another basis: y = x W + b becomes y' = x' M₁ᵀ diag(γ) W M₂ + (b + β W) M₂, where the layer
 * read x' M₁ᵀ γ + β and what it writes is read as y' M₂ᵀ. Collected first, written once: a layer may have both sides turned.
 */
export class Turns {
  readonly #graph: Graph
  readonly #turns = new Map<Linear, Turn>()

  constructor(graph: Graph) {
    this.#graph = graph
  }

  input(layer: Linear, basis: Basis, scale?: Float64Array, shift?: Float64Array): void {
    Object.assign(this.#of(layer), { input: basis, scale, shift })
  }

  output(layer: Linear, basis: Basis): void {
    this.#of(layer).output = basis
  }

  #of(layer: Linear): Turn {
    let found = this.#turns.get(layer)
    if (!found) this.#turns.set(layer, (found = {}))
    return found
  }

  /**
   * Names of the weights.
   *
   * @throws {WhittleError} `ERR_RANGE` naming a weight that is not finite: a turn would spread that over all channels
   */
  async write({ keep, scratch }: Memory, run: Run, phase: Progress['phase']): Promise<Set<string>> {
    const names = new Set<string>()
    for (const [layer, turn] of this.#turns) {
      await run.tell(phase, names.size, this.#turns.size, layer.weight.name)
      nonFiniteText(layer.weight.name, scratch.read(layer.weight).data as Float32Array)
      writeBias(this.#graph, layer, turn)
      const { weight } = layer
      const dims = turned(weight.dims, layer, turn)
      const byteLength = 4 * dims.reduce((a, b) => a * b, 1)
      const compute = (): Uint8Array => bytesOf(turnWeight(weight, layer, turn))
      const source = keep.take(byteLength) ? new MemorySource(compute()) : new ComputedSource(byteLength, compute)
      this.#graph.setInitializer(weight.name, new Initializer(weight.name, 'float32', dims, source))
      names.add(weight.name)
    }
    return names
  }
}

interface Turn {
  input?: Basis
  scale?: Float64Array | undefined
  shift?: Float64Array | undefined
  output?: Basis
}

const bytesOf = (data: Float32Array): Uint8Array =>
  new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)

/** Where inputs and outputs lie in a weight. */
function axesOf({ node }: Linear): { readonly input: number; readonly output: number } {
  const rowsFirst = node.is('Conv') || (node.is('Gemm') && node.int('transB', 0) !== 0)
  return rowsFirst ? { input: 1, output: 0 } : { input: 0, output: 1 }
}

function turned(dims: readonly number[], layer: Linear, { input, output }: Turn): number[] {
  const axes = axesOf(layer)
  return dims.map((d, i) => (i === axes.input ? (input?.to ?? d) : i === axes.output ? (output?.to ?? d) : d))
}

function turnWeight(weight: Initializer, layer: Linear, { input, output, scale }: Turn): Float32Array {
  const axes = axesOf(layer)
  let data = weight.readSync().data as Float32Array
  let dims = [...weight.dims]
  if (input) {
    data = turnAxis(data, dims, axes.input, input, scale)
    dims = dims.map((d, i) => (i === axes.input ? input.to : d))
  }
  return output ? turnAxis(data, dims, axes.output, output) : data
}

/** Vectors that are turned at a time: what lies between the tensor and the result stays small. */
const kPanel = 64

/** Every vector along `axis`, times `scale` element by element where there is one, times the basis. */
export function turnAxis(
  data: Float32Array,
  dims: readonly number[],
  axis: number,
  basis: Basis,
  scale?: Float64Array,
): Float32Array {
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  const { from: n, to } = basis
  const count = data.length / n
  const out = new Float32Array(count * to)
  const place = (v: number, size: number): number => Math.floor(v / inner) * inner * size + (v % inner)
  for (let at = 0; at < count; at += kPanel) {
    const panel = Math.min(kPanel, count - at)
    const rows = new Float32Array(panel * n)
    for (let j = 0; j < panel; j++)
      for (let i = 0, k = place(at + j, n); i < n; i++, k += inner) rows[j * n + i] = data[k]! * (scale?.[i] ?? 1)
    const made = basis.apply(rows)
    for (let j = 0; j < panel; j++)
      for (let i = 0, k = place(at + j, to); i < to; i++, k += inner) out[k] = made[j * to + i]!
  }
  return out
}

function writeBias(graph: Graph, layer: Linear, { shift, output }: Turn): void {
  const old = layer.biasName
  const bias = layer.bias().slice()
  if (shift?.some((v) => v !== 0)) layer.each((w, i, o) => (bias[o] = bias[o]! + w * shift[i]!))
  else if (old === undefined || !output) return
  const data = output ? output.apply(Float32Array.from(bias)) : Float32Array.from(bias)
  const name = graph.uniqueName(old ?? 'bias')
  graph.addInitializer(Initializer.from(name, { type: 'float32', dims: [data.length], data }))
  const { node, adder } = layer
  if (!node.is('MatMul')) node.setInput(2, name)
  else if (adder) adder.inputs = adder.inputs.map((i) => (i === old ? name : i))
  else {
    const y = node.outputs[0]!
    const product = graph.uniqueName(`${y}_product`)
    node.outputs = [product]
    layer.adder = graph.addNode(
      new Node({ opType: 'Add', name: graph.uniqueName(`${node.label}_bias`), inputs: [product, name], outputs: [y] }),
      { after: node },
    )
  }
}

/** What is in another basis is another value: nothing may compare it with the original's. */
export function rename(graph: Graph, value: string, ending: string): string {
  const maker = graph.producer(value)
  if (!maker) return value
  const name = graph.uniqueName(`${value}_${ending}`)
  graph.replaceUses(value, name)
  maker.outputs = maker.outputs.map((o) => (o === value ? name : o))
  graph.valueInfo.delete(value)
  return name
}
