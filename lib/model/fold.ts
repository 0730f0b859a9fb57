import { createHash } from 'node:crypto'
import { WhittleError } from '../errors'
import type { Graph } from './graph'
import { Initializer } from './initializer'
import type { Model } from './model'
import type { Attribute, Node } from './node'

/**
 * Makes every `Constant` node an initializer of the same name, in subgraphs too, so that passes meet one kind of weight.
 * The data stays where it is in the file. Strings and sparse constants stay nodes, and so does a constant that is itself
 * an output of its graph. Returns how many were folded. Raises the IR version to 4 if any was, since earlier ones allow
 * no initializer that is not an input.
 */
export function foldConstantNodes(model: Model): number {
  return foldConstantsOf(model, () => false)
}

/** @internal The same; in graphs that `answers` allows constants that are outputs too, which runtimes take as initializers. */
export function foldConstantsOf(model: Model, answers: (graph: Graph) => boolean): number {
  let count = 0
  for (const graph of model.graph.graphs()) count += foldGraph(graph, answers(graph))
  if (count > 0) raiseIrVersion(model, 4)
  return count
}

function foldGraph(graph: Graph, answers: boolean): number {
  const keep: Node[] = []
  const made: Initializer[] = []
  const outputs = new Set(answers ? [] : graph.outputs.map((o) => o.name))
  for (const node of graph.nodes) {
    const name = node.outputs[0]
    const made1 = node.is('Constant') && name && !outputs.has(name) ? constantOf(node, name) : undefined
    if (made1) made.push(made1)
    else keep.push(node)
  }
  if (made.length === 0) return 0
  graph.setNodes(keep)
  for (const t of made) graph.addInitializer(t)
  return made.length
}

/** The value of a `Constant` node as an initializer; `undefined` for kinds that cannot be one. */
function constantOf(node: Node, name: string): Initializer | undefined {
  const [only, another] = [...node.attributes].filter(([key]) => key.startsWith('value') || key === 'sparse_value')
  if (!only || another)
    throw new WhittleError(
      'ERR_MODEL_FORMAT',
      node.label,
      `Constant ${node.label}: expected one value, got ${another ? 'several' : 'none'}`,
    )
  const a: Attribute = only[1]
  if (a.reference) return undefined
  switch (a.type) {
    case 'tensor':
      return a.value.type === 'string' || a.value.type === 'undefined' ? undefined : a.value.renamed(name)
    case 'float':
      return Initializer.from(name, { type: 'float32', dims: [], data: Float32Array.of(a.value) })
    case 'floats':
      return Initializer.from(name, { type: 'float32', dims: [a.value.length], data: Float32Array.from(a.value) })
    case 'int':
      return Initializer.from(name, { type: 'int64', dims: [], data: BigInt64Array.of(BigInt(a.value)) })
    case 'ints':
      return Initializer.from(name, {
        type: 'int64',
        dims: [a.value.length],
        data: BigInt64Array.from(a.value, BigInt),
      })
    default:
      return undefined
  }
}

/**
 * Raises a model's IR version to at least `version`. Where that passes 4, initializers that are listed as graph inputs
 * (version 3 demands it) are taken off that list: from 4 on, a listed one is a value that callers may replace, which
 * keeps runtimes from treating it as constant.
 */
export function raiseIrVersion(model: Model, version: number): void {
  if (model.irVersion >= version) return
  if (model.irVersion < 4 && version >= 4)
    for (const g of model.graph.graphs())
      if (g.inputs.some((i) => g.initializers.has(i.name)))
        g.inputs = g.inputs.filter((i) => !g.initializers.has(i.name))
  model.irVersion = version
}

/**
 * A digest of a tensor's type, dims and content, for finding equal weights. Reads the data in pieces. Tensors that share
 * a source need not be compared: pass `known` to read each source once.
 *
 * Throws `ERR_IO` if the file cannot be read.
 */
export async function contentHash(tensor: Initializer, known?: Map<Initializer['source'], string>): Promise<string> {
  let content = known?.get(tensor.source)
  if (content === undefined) {
    const hash = createHash('sha256')
    for await (const chunk of tensor.chunks()) hash.update(chunk)
    content = hash.digest('base64')
    known?.set(tensor.source, content)
  }
  return `${tensor.type}[${tensor.dims.join(',')}] ${tensor.byteLength} ${content}`
}
