import { attribute, Initializer, Node, type DataSource, type Graph } from '../../model/graph'
import type { Weight } from '../../model/weights'
import { sizeOf } from '../../tensor'
import type { Grid } from '../rounding/grid'
import { packedBytes, packingOf, tableOf, type Packing, type Plane } from '../rounding/packing'
import type { Cut } from '../rounding/scales'

/** How quantized weights are written; see `QuantizeStep.storage`. */
export type Storage = 'folded' | 'qdq'

/** @internal How a weight is cut into values that share a scale, and what one value is stored in. */
export interface Layout extends Cut {
  /** The weight as the codes see it; product of dims unchanged. */
  readonly dims: readonly number[]
  /** Per channel: the axis of the scales. Per block: the axis that is cut. */
  readonly axis: number
  /** 0 for per channel. */
  readonly blockSize: number
  /** `int8` a code to a byte, `int4` a tensor of that type, `packed` bytes that a table unpacks. */
  readonly container: 'int8' | 'int4' | 'packed'
  readonly packing?: Packing
  /** Where the value is a sum of planes with scales of their own: how many. The planes lie one after another in one tensor. */
  readonly terms?: number
  /** Of one plane. */
  readonly scaleDims: readonly number[]
}

/** @internal Shortest block that pays for its scale. */
const kSmallestBlock = 8

/** @internal What is asked of a weight's codes. */
export interface Wanted {
  readonly grid: Grid
  readonly bits: number
  readonly blockSize: number
  readonly storage: Storage
  /** Not several codes to a byte: so few values need them that the table which unpacks them would be larger than what it saves. */
  readonly unpacked?: boolean
}

/**
 * @internal The layout for a weight, or why it gets another one than was asked for. Codes lie in the order of the
 * tensor whatever the layout, so both storages hold the same bytes.
 */
export function layoutOf(weight: Weight, { grid, bits, blockSize, storage, unpacked = false }: Wanted): { layout: Layout; reason?: string } {
  const { dims, outputAxis, reductionAxis } = weight.view
  const perChannel: Layout = { dims, axis: outputAxis, blockSize: 0, container: 'int8', scaleDims: [dims[outputAxis]!] }
  const small = grid.levels !== undefined || bits <= 4
  if (blockSize === 0 && !small) return { layout: perChannel }
  if (reductionAxis < 0)
    return { layout: perChannel, reason: 'its reduction lies on several axes: int8 per channel instead of blocks' }
  const reduction = dims[reductionAxis]!
  const block = blockSize === 0 ? reduction : largestDivisor(reduction, blockSize)
  if (block < Math.min(kSmallestBlock, reduction))
    return {
      layout: perChannel,
      reason: `no block from ${kSmallestBlock} to ${blockSize} divides ${reduction}: int8 per channel instead`,
    }
  const packing = small && storage === 'folded' ? packingOf(grid, bits, sizeOf(dims)) : undefined
  if (packing && unpacked)
    return { layout: perChannel, reason: 'too few values for the table that unpacks them: int8 per channel instead of several to a byte' }
  if (small && (storage === 'folded' ? !packing : sizeOf(dims) % 2))
    return { layout: perChannel, reason: 'an odd number of values: int8 per channel instead of several to a byte' }
  const scaleDims = dims.map((d, i) => (i === reductionAxis ? d / block : d))
  const cut = { dims, axis: reductionAxis, blockSize: block, scaleDims }
  if (packing) return { layout: { ...cut, container: 'packed', packing, ...(grid.format === 'residual' ? { terms: bits } : {}) } }
  return { layout: { ...cut, container: small ? 'int4' : 'int8' } }
}

function largestDivisor(of: number, atMost: number): number {
  for (let d = Math.min(of, atMost); d > 1; d--) if (of % d === 0) return d
  return 1
}

/** @internal Bytes of codes and scales together. */
export function bytesOf(layout: Layout): number {
  const { dims, packing } = layout
  const count = sizeOf(dims)
  const codes = packing ? packedBytes(packing, dims) : layout.container === 'int4' ? count / 2 : count
  return codes + sizeOf(layout.scaleDims) * 4 * (layout.terms ?? 1)
}

/** @internal Bytes that nodes and names of one weight's codes add to a file, about; what weights share is not counted. */
export function addedBytes({ initializer: { name } }: Weight, { packing, terms, blockSize }: Layout): number {
  const { length } = name
  if (terms) return 200 + 13 * length
  if (packing) return 150 + 13 * length + (packing.planes.length - 1) * (110 + 8 * length)
  return blockSize > 0 ? 110 + 10 * length : 70 + 7 * length
}

/** @internal Whether tables are held against what they save; to look at single weights tests leave them out. */
export const Tables = { counted: true }

/** @internal Bytes of the tables of a packing, once in a file. */
export function tableBytes({ name, planes }: Packing): number {
  return Tables.counted ? [...new Set(planes.map((p) => p.perByte))].reduce((sum, n) => sum + 1024 * n + name.length + 20, 0) : 0
}

/** @internal Adds what quantized weights need to a graph: nodes first, in one go, shared constants once. */
export class Emitter {
  readonly #nodes = new Map<Graph, Node[]>()
  readonly #shapes = new Map<string, string>()
  readonly #tables = new Map<string, string>()
  readonly #root: Graph

  constructor(root: Graph) {
    this.#root = root
  }

  /** Lowest opset that the written ops need; Cast and Mul of constants need what the file has, but numpy broadcast. */
  static opset(storage: Storage, layout: Layout): number {
    if (storage === 'folded') return layout.terms ? 13 : 7
    return layout.blockSize > 0 ? 21 : 13
  }

  /**
   * Replaces the weight by codes, scales and the nodes that multiply them; readers keep the weight's name. `codes`: one
   * source, or of packed codes one for each plane.
   */
  replace(weight: Weight, layout: Layout, storage: Storage, codes: readonly DataSource[], scales: DataSource): void {
    const { graph, initializer } = weight
    const { name } = initializer
    unlist(graph, name)
    const q = graph.uniqueName(`${name}_q`)
    const s = graph.uniqueName(`${name}_s`)
    if (layout.packing && layout.terms) this.#sum(weight, layout, layout.packing, codes[0]!, scales, q, s)
    else if (layout.packing) this.#lookUp(weight, layout, layout.packing, codes, scales, q, s)
    else if (storage === 'qdq') this.#dequantize(weight, layout, codes[0]!, scales, q, s)
    else this.#castMul(weight, layout, codes[0]!, scales, q, s)
  }

  /** Replaces the weight by float16 values and a Cast. */
  replaceByHalves({ graph, initializer: { name, dims } }: Weight, halves: DataSource): void {
    unlist(graph, name)
    const h = graph.uniqueName(`${name}_h`)
    graph.addInitializer(new Initializer(h, 'float16', dims, halves))
    this.#add(graph, node('Cast', [h], name, { to: attribute.int(kFloat) }))
  }

  /** Puts the collected nodes before all others: their inputs are constants. */
  finish(): void {
    for (const [graph, nodes] of this.#nodes) graph.setNodes([...nodes, ...graph.nodes])
    this.#nodes.clear()
  }

  #castMul(
    { graph, initializer, view }: Weight,
    layout: Layout,
    codes: DataSource,
    scales: DataSource,
    q: string,
    s: string,
  ): void {
    const { name, dims } = initializer
    const cast = graph.uniqueName(`${name}_f`)
    if (layout.blockSize === 0) {
      graph.addInitializer(new Initializer(q, 'int8', dims, codes))
      graph.addInitializer(scaleOf(s, layout.whole ? [] : channelScaleDims(dims, view), scales))
      this.#add(graph, node('Cast', [q], cast, { to: attribute.int(kFloat) }), node('Mul', [cast, s], name))
      return
    }
    const scaled = graph.uniqueName(`${name}_b`)
    graph.addInitializer(new Initializer(q, 'int8', blockedDims(layout), codes))
    graph.addInitializer(scaleOf(s, blockedScaleDims(layout), scales))
    this.#add(
      graph,
      node('Cast', [q], cast, { to: attribute.int(kFloat) }),
      node('Mul', [cast, s], scaled),
      node('Reshape', [scaled, this.#shape(dims)], name),
    )
  }

  /** Several codes a byte: tables of 256 rows, read by Gather, unpack them in ops of any opset. */
  #lookUp(
    { graph, initializer }: Weight,
    layout: Layout,
    { name: kind, planes }: Packing,
    codes: readonly DataSource[],
    scales: DataSource,
    q: string,
    s: string,
  ): void {
    const { name, dims } = initializer
    const scaled = graph.uniqueName(`${name}_b`)
    const { blockSize } = layout
    const blocked = blockedDims(layout)
    const [first] = planes as [Plane]
    // Then a byte's values lie side by side in the result as it is.
    const lastCut = planes.length === 1 && layout.axis === layout.dims.length - 1 && blockSize % first.perByte === 0
    graph.addInitializer(scaleOf(s, lastCut ? [...blockedScaleDims(layout), 1] : blockedScaleDims(layout), scales))
    const nodes: Node[] = []
    let values = ''
    for (const [i, plane] of planes.entries()) {
      const bytes = i === 0 ? q : graph.uniqueName(`${name}_q${i}`)
      const index = graph.uniqueName(`${name}_i`)
      const pairs = graph.uniqueName(`${name}_f`)
      const lie = lastCut ? [...blocked.slice(0, -1), blockSize / plane.perByte] : [codes[i]!.byteLength]
      graph.addInitializer(new Initializer(bytes, 'uint8', lie, codes[i]!))
      nodes.push(
        node('Cast', [bytes], index, { to: attribute.int(kInt32) }),
        node('Gather', [this.#table(planes.length > 1 ? `${kind}_${i}` : kind, plane), index], pairs, { axis: attribute.int(0) }),
      )
      let part = pairs
      if (!lastCut) {
        part = graph.uniqueName(`${name}_c`)
        nodes.push(node('Reshape', [pairs, this.#shape(blocked)], part))
      }
      if (i > 0) {
        const sum = graph.uniqueName(`${name}_a`)
        nodes.push(node('Add', [values, part], sum))
        part = sum
      }
      values = part
    }
    nodes.push(node('Mul', [values, s], scaled), node('Reshape', [scaled, this.#shape(dims)], name))
    this.#add(graph, ...nodes)
  }

  /** Planes of signs, [planes, …], each times its scale, summed over the first axis. */
  #sum({ graph, initializer }: Weight, layout: Layout, { name: kind, planes }: Packing, codes: DataSource, scales: DataSource, q: string, s: string): void {
    const { name, dims } = initializer
    const terms = planes.length
    const [plane] = planes as [Plane]
    const blocked = [terms, ...blockedDims(layout)]
    const [index, signs, parts, scaled, sum] = ['i', 'f', 'c', 'b', 'a'].map((end) => graph.uniqueName(`${name}_${end}`)) as [string, string, string, string, string]
    graph.addInitializer(new Initializer(q, 'uint8', [terms, codes.byteLength / terms], codes))
    graph.addInitializer(scaleOf(s, [terms, ...blockedScaleDims(layout)], scales))
    this.#add(
      graph,
      node('Cast', [q], index, { to: attribute.int(kInt32) }),
      node('Gather', [this.#table(kind, plane), index], signs, { axis: attribute.int(0) }),
      node('Reshape', [signs, this.#shape(blocked)], parts),
      node('Mul', [parts, s], scaled),
      node('ReduceSum', [scaled, this.#shape([0])], sum, { keepdims: attribute.int(0) }),
      node('Reshape', [sum, this.#shape(dims)], name),
    )
  }

  #dequantize(
    { graph, initializer }: Weight,
    layout: Layout,
    codes: DataSource,
    scales: DataSource,
    q: string,
    s: string,
  ): void {
    const { name, dims } = initializer
    const axis = layout.whole ? 0 : layout.blockSize > 0 ? layout.axis : tensorAxis(dims, layout)
    // Where the view's axis is an axis of the tensor itself no Reshape is needed.
    const seen = axis >= 0 && (layout.blockSize === 0 || sameDims(dims, layout.dims)) ? dims : layout.dims
    const direct = sameDims(seen, dims)
    const made = direct ? name : graph.uniqueName(`${name}_f`)
    graph.addInitializer(new Initializer(q, layout.container === 'int4' ? 'int4' : 'int8', seen, codes))
    graph.addInitializer(scaleOf(s, layout.scaleDims, scales))
    const attributes = layout.whole ? {} : { axis: attribute.int(direct ? axis : layout.axis) }
    this.#add(
      graph,
      node(
        'DequantizeLinear',
        [q, s],
        made,
        layout.blockSize > 0 ? { ...attributes, block_size: attribute.int(layout.blockSize) } : attributes,
      ),
      ...(direct ? [] : [node('Reshape', [made, this.#shape(dims)], name)]),
    )
  }

  #add(graph: Graph, ...nodes: Node[]): void {
    const list = this.#nodes.get(graph)
    if (list) list.push(...nodes)
    else this.#nodes.set(graph, nodes)
  }

  #shape(dims: readonly number[]): string {
    const key = dims.join('x')
    let name = this.#shapes.get(key)
    if (!name) {
      name = this.#root.uniqueName(`shape_${key}`)
      this.#root.addInitializer(
        Initializer.from(name, { type: 'int64', dims: [dims.length], data: BigInt64Array.from(dims, BigInt) }),
      )
      this.#shapes.set(key, name)
    }
    return name
  }

  #table(kind: string, plane: Plane): string {
    const key = `${kind}_${plane.perByte}`
    let name = this.#tables.get(key)
    if (!name) {
      name = this.#root.uniqueName(kind === 'int4' ? 'int4_pairs' : `${kind}_table`)
      const data = tableOf(plane)
      this.#root.addInitializer(Initializer.from(name, { type: 'float32', dims: [256, plane.perByte], data }))
      this.#tables.set(key, name)
    }
    return name
  }
}

/** Takes a weight out of its graph. One that is listed among the inputs (IR version 3) stops being one. */
function unlist(graph: Graph, name: string): void {
  if (graph.isInput(name)) graph.inputs = graph.inputs.filter((i) => i.name !== name)
  graph.initializers.delete(name)
  graph.valueInfo.delete(name)
}

const kFloat = 1
const kInt32 = 6

const sameDims = (a: readonly number[], b: readonly number[]): boolean =>
  a.length === b.length && a.every((d, i) => d === b[i])

function node(opType: string, inputs: string[], output: string, attributes = {}): Node {
  return new Node({ opType, inputs, outputs: [output], attributes })
}

const scaleOf = (name: string, dims: readonly number[], scales: DataSource): Initializer => new Initializer(name, 'float32', dims, scales)

/** The cut axis becomes two: blocks, and values of a block. */
function blockedDims({ dims, axis, blockSize }: Layout): number[] {
  return dims.flatMap((d, i) => (i === axis ? [d / blockSize, blockSize] : [d]))
}

function blockedScaleDims({ dims, axis, blockSize }: Layout): number[] {
  return dims.flatMap((d, i) => (i === axis ? [d / blockSize, 1] : [d]))
}

/** @internal Dims that broadcast one scale an output channel over the tensor as it is. */
export function channelScaleDims(dims: readonly number[], view: Weight['view']): number[] {
  const channels = view.dims[view.outputAxis]!
  // View [outputs, rest]: the outputs are one or more leading axes of the tensor.
  if (view.outputAxis === 0) {
    let lead = 0
    for (let n = 1; lead < dims.length && n < channels; lead++) n *= dims[lead]!
    const kept = Math.max(lead, 1)
    return [...dims.slice(0, kept), ...dims.slice(kept).map(() => 1)]
  }
  // View [inputs, outputs, rest] or [batch, inputs, outputs].
  const at = tensorAxis(dims, { dims: view.dims, axis: view.outputAxis })
  return [channels, ...dims.slice(at + 1).map(() => 1)]
}

/** The tensor's axis that a per-channel axis of the view is, -1 if it is several. */
function tensorAxis(dims: readonly number[], { dims: seen, axis }: Pick<Layout, 'dims' | 'axis'>): number {
  const before = sizeOf(seen.slice(0, axis))
  let n = 1
  for (let i = 0; i < dims.length; i++) {
    if (n === before && dims[i] === seen[axis] && sizeOf(dims.slice(i + 1)) === sizeOf(seen.slice(axis + 1))) return i
    n *= dims[i]!
  }
  return -1
}
