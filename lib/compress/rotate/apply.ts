import { attribute, Initializer, Node, type Graph } from '../../model/graph'
import { ComputedSource, nonFiniteText } from '../computed'
import { ease, pagedFloats, touched } from '../paged'
import type { Basis } from './basis'
import type { Norm, Reader, Stream } from './stream'
import { rename, turnAxis, type Turns } from './turn'

/**
 * Brings a stream into another basis. A normalization of n channels whose image has k and no mean divides by the deviation of k: the
 * factor √(n/k) goes into what reads it, and its epsilon grows by n/k. What no basis folds into gets a product of its own.
 */
export function turnStream(
  graph: Graph,
  stream: Stream,
  basis: Basis,
  turns: Turns,
  ending: string,
  shiftOf = (reader: Reader) => reader.norm?.shift,
): void {
  const { width } = stream
  const grown = width / basis.to
  const gain = Math.sqrt(grown)
  const scaleOf = (norm: Norm): Float64Array => norm.scale.map((v) => v * gain)

  for (const layer of stream.writers) {
    turns.output(layer, basis)
    if (layer.adder) rename(graph, layer.node.outputs[0]!, ending)
  }
  for (const reader of stream.readers)
    turns.input(reader.layer, basis, reader.norm && scaleOf(reader.norm), shiftOf(reader))
  for (const table of stream.tables) {
    nonFiniteText(table.name, table.readSync().data as Float32Array)
    const dims = [table.dims[0]!, basis.to]
    const compute = (): Uint8Array =>
      new Uint8Array(turnAxis(table.readSync().data as Float32Array, table.dims, 1, basis).buffer as ArrayBuffer)
    graph.setInitializer(
      table.name,
      new Initializer(table.name, 'float32', dims, new ComputedSource(4 * dims[0]! * basis.to, compute)),
    )
  }
  for (const { node, index } of stream.constants)
    node.setInput(index, turnConstant(graph, node.inputs[index]!, width, basis, ending))
  for (const { node, shift } of stream.through)
    if (shift) node.setInput(2, turnConstant(graph, node.inputs[2]!, width, basis, ending))
  for (const { node } of stream.norms) {
    const ones = graph.uniqueName(`${node.inputs[1]}_folded`)
    graph.addInitializer(
      Initializer.from(ones, { type: 'float32', dims: [basis.to], data: new Float32Array(basis.to).fill(1) }),
    )
    node.inputs = [node.inputs[0]!, ones]
    if (grown !== 1) node.attributes.set('epsilon', attribute.float(node.float('epsilon', 1e-5) * grown))
  }
  turnLooseEnds(graph, stream, basis, ending, scaleOf)
}

function turnConstant(graph: Graph, name: string, width: number, basis: Basis, ending: string): string {
  const c = graph.constant(name)!
  const data = c.readSync().data as Float32Array
  const full = c.elementCount === 1 ? new Float32Array(width).fill(data[0]!) : data
  const dims = c.elementCount === 1 ? [basis.to] : [...c.dims.slice(0, -1), basis.to]
  const made = graph.uniqueName(`${name}_${ending}`)
  graph.addInitializer(Initializer.from(made, { type: 'float32', dims, data: basis.apply(full) }))
  return made
}

/** Rows of a matrix that are made at once. */
const kRows = 256

/** M, as rows. */
export function matrixOf(basis: Basis): Float32Array {
  const out = pagedFloats(basis.from * basis.to)
  for (let i = 0; i < basis.from; i += kRows) {
    const rows = Math.min(kRows, basis.from - i)
    const unit = new Float32Array(rows * basis.from)
    for (let r = 0; r < rows; r++) unit[r * basis.from + i + r] = 1
    out.set(basis.apply(unit), i * basis.to)
    touched(4 * rows * basis.to)
  }
  return out
}

function turnLooseEnds(
  graph: Graph,
  stream: Stream,
  basis: Basis,
  ending: string,
  scaleOf: (norm: Norm) => Float64Array,
): void {
  const { width, loose } = stream
  const matrix = loose.length > 0 ? matrixOf(basis) : new Float32Array()
  const written = new Map<string, string>()
  let forward: string | undefined
  for (const { value, node } of loose.filter((l) => l.side === 'write')) {
    if (written.has(value)) continue
    if (forward === undefined) {
      forward = graph.uniqueName(`basis_${ending}`)
      graph.addInitializer(Initializer.from(forward, { type: 'float32', dims: [width, basis.to], data: matrix }))
    }
    const turned = graph.uniqueName(`${value}_${ending}`)
    written.set(value, turned)
    graph.replaceUses(value, turned)
    const product = new Node({
      opType: 'MatMul',
      name: graph.uniqueName(`${value}_basis`),
      inputs: [value, forward],
      outputs: [turned],
    })
    if (node) graph.addNode(product, { after: node })
    else graph.addNode(product, graph.nodes[0] ? { before: graph.nodes[0] } : {})
  }
  const renamed = new Map<string, string>()
  for (const value of [...stream.values.keys(), ...stream.normed.keys()])
    if (!written.has(value)) renamed.set(value, rename(graph, value, ending))

  // Those that read one value behind one normalization share a product.
  const restored = new Map<string, string>()
  for (const { value, node, norm } of loose.filter((l) => l.side === 'read')) {
    const whole = written.get(value)
    if (whole !== undefined) {
      // The value as it was is there.
      if (node) graph.replaceUses(whole, value, { in: [node] })
      continue
    }
    const from = renamed.get(value)!
    const known = restored.get(value)
    if (known !== undefined && node) {
      graph.replaceUses(from, known, { in: [node] })
      continue
    }
    const scale = norm && scaleOf(norm)
    const back = pagedFloats(matrix.length)
    for (let i0 = 0; i0 < width; i0 += kRows) {
      const end = Math.min(width, i0 + kRows)
      for (let j = 0; j < basis.to; j++)
        for (let i = i0; i < end; i++) back[j * width + i] = matrix[i * basis.to + j]! * (scale?.[i] ?? 1)
      ease()
    }
    const weight = graph.uniqueName(`${value}_basis`)
    graph.addInitializer(Initializer.from(weight, { type: 'float32', dims: [basis.to, width], data: back }))
    // Of an output of the model the name must stay; other nodes may read it as well.
    const to = graph.isOutput(value) ? value : graph.uniqueName(`${value}_restored`)
    const maker = graph.producer(from)!
    const product = norm?.shift ? graph.uniqueName(`${value}_product`) : to
    const first = graph.addNode(
      new Node({
        opType: 'MatMul',
        name: graph.uniqueName(`${value}_basis`),
        inputs: [from, weight],
        outputs: [product],
      }),
      { after: maker },
    )
    if (norm?.shift) {
      const shift = graph.uniqueName(`${value}_shift`)
      graph.addInitializer(
        Initializer.from(shift, { type: 'float32', dims: [width], data: Float32Array.from(norm.shift) }),
      )
      graph.addNode(
        new Node({
          opType: 'Add',
          name: graph.uniqueName(`${value}_shifted`),
          inputs: [product, shift],
          outputs: [to],
        }),
        { after: first },
      )
    }
    restored.set(value, to)
    if (node) graph.replaceUses(from, to, { in: [node] })
  }
}
