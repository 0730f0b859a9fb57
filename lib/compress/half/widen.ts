import { Initializer, Node, attribute, type Graph } from '../../model/graph'
import { toBfloats, toHalves } from '../../model/half'
import type { Model } from '../../model/model'
import { inferShapes } from '../../model/ops/infer'
import { elementCodeOf } from '../../model/types'
import { weights } from '../../model/weights'
import type { LayerReport } from '../../report/types'
import { floatsOf, isShort, widen as widenComputation } from '../../session/widen'
import type { Tensor } from '../../tensor'
import { ComputedSource, Deviation } from '../computed'
import { stretches } from './halves'

/** Float16 or bfloat16. */
type Short = 'float16' | 'bfloat16'

/** A tensor that the file stores in 16 bits, and the float32 one that stands for it meanwhile. */
export interface Widened {
  readonly half: Initializer
  /** Of the float32 tensor. */
  readonly name: string
  readonly source: Initializer['source']
  /** Of the Cast between them in the file; none where nodes computed with it as it lay. */
  readonly cast?: string
}

/** What {@link widen} did. */
export interface WidenedModel {
  readonly tensors: readonly Widened[]
  /** The type that the model computed in, where that was not float32, and the ops that did. */
  readonly computed?: Short
  readonly ops?: ReadonlySet<string>
}

const kFloat32 = elementCodeOf('float32')

/** Fewer numbers do not pay for the Cast that they would lie behind. */
const kLeast = 64

/**
 * What a file has in float16 or bfloat16 becomes float32, so that every step sees weights and values that it can work on: weights
 * behind a Cast, and of a model that computes in such a type everything but its inputs and outputs, which keep their types. Tensors
 * are computed when they are read. Those that no step changes are to be put back by {@link narrow}.
 */
export function widen(model: Model): WidenedModel {
  const tensors: Widened[] = []
  for (const graph of model.graph.graphs())
    for (const half of [...graph.initializers.values()]) {
      if (!isShort(half.type) || graph.isInput(half.name) || graph.isOutput(half.name)) continue
      const casts = graph.users(half.name)
      // All others would still need the halves.
      if (
        casts.length === 0 ||
        !casts.every(
          (n) =>
            n.is('Cast') && n.inputs[0] === half.name && n.int('to', 0) === kFloat32 && !graph.isOutput(n.outputs[0]!),
        )
      )
        continue
      const [cast, ...others] = casts as [Node, ...Node[]]
      const name = cast.outputs[0]!
      for (const other of others) graph.replaceUses(other.outputs[0]!, name)
      const gone = new Set(casts)
      graph.setNodes(graph.nodes.filter((n) => !gone.has(n)))
      for (const n of casts) graph.valueInfo.delete(n.outputs[0]!)
      graph.initializers.delete(half.name)
      const wide = widenedOf(half, name)
      graph.addInitializer(wide)
      tensors.push({ half, name, source: wide.source, cast: cast.name })
    }
  let computed: Short | undefined
  const ops = widenComputation(model, (half) => {
    const wide = widenedOf(half, half.name)
    computed ??= half.type as Short
    if (half.elementCount >= kLeast) tensors.push({ half, name: half.name, source: wide.source })
    return wide
  })
  if (!ops) return { tensors }
  dropCasts(model)
  model.graph.sort()
  return { tensors, computed: computed ?? 'float16', ops }
}

const widenedOf = (half: Initializer, name: string): Initializer =>
  new Initializer(name, 'float32', half.dims, new ComputedSource(4 * half.elementCount, () => bytesOf(floatsOf(half.readSync() as Parameters<typeof floatsOf>[0]))))

/** What was cast between float32 and the other type is float32 on both sides now. */
function dropCasts(model: Model): void {
  const types = inferShapes(model.graph, model.opsets)
  for (const graph of model.graph.graphs()) {
    const gone = new Set<Node>()
    for (const node of graph.nodes) {
      const [from, to] = [node.inputs[0] ?? '', node.outputs[0] ?? '']
      if (!node.is('Cast') || node.int('to', 0) !== kFloat32 || types.get(from, graph)?.type !== 'float32' || graph.isOutput(to)) continue
      graph.replaceUses(to, from)
      graph.valueInfo.delete(to)
      gone.add(node)
    }
    if (gone.size > 0) graph.setNodes(graph.nodes.filter((n) => !gone.has(n)))
  }
}

/**
 * Stores in 16 bits again what is still there: as it was, or rounded where a step changed it and those bits hold it. Of a model that
 * computed in such a type that goes for weights that steps made, too.
 */
export function narrow(model: Model, { tensors, computed }: WidenedModel): void {
  if (tensors.length === 0) return
  const known = new Map(tensors.map((w) => [w.name, w]))
  const made = new Set(computed ? weights(model.graph).map((w) => w.initializer) : [])
  for (const graph of model.graph.graphs()) {
    const casts: Node[] = []
    for (const now of [...graph.initializers.values()]) {
      const { name } = now
      const from = known.get(name)
      if ((!from && !made.has(now)) || now.type !== 'float32' || graph.isInput(name) || graph.isOutput(name)) continue
      const same = from !== undefined && now.source === from.source
      const type = (from?.half.type ?? computed) as Short
      if (!same && (now.elementCount < kLeast || !holds(type, now))) continue
      const half = nameOf(graph, from?.half.name ?? name, name)
      graph.initializers.delete(name)
      graph.valueInfo.delete(name)
      graph.addInitializer(
        same
          ? from.half.renamed(half)
          : new Initializer(
              half,
              type,
              now.dims,
              new ComputedSource(2 * now.elementCount, () => bytesOf(rounded(type, now.readSync().data as Float32Array))),
            ),
      )
      casts.push(
        new Node({
          opType: 'Cast',
          name: nameFor(graph, from?.cast ?? `${name}_cast`),
          inputs: [half],
          outputs: [name],
          attributes: { to: attribute.int(kFloat32) },
        }),
      )
    }
    if (casts.length > 0) graph.setNodes([...casts, ...graph.nodes])
  }
}

/** The name that it had in the file, unless that is what the float32 one is called, or taken. */
const nameOf = (graph: Graph, was: string, name: string): string =>
  was === name || graph.defines(was) ? graph.uniqueName(was === name ? `${name}_half` : was) : was

const rounded = (type: Short, values: Float32Array): Uint16Array => (type === 'bfloat16' ? toBfloats(values) : toHalves(values))

/** Whether all is told as closely as normal numbers of the type are: neither infinite nor lost below the smallest. */
export function holds(type: Short, initializer: Initializer): boolean {
  const values = initializer.readSync().data as Float32Array
  const lost = new Deviation()
  for (const [part] of stretches(values)) lost.add(part, floatsOf({ type, data: rounded(type, part) }))
  // NaN where an infinity stands for a number.
  return lost.relative <= (type === 'bfloat16' ? 2 ** -8 : 2 ** -11)
}

const nameFor = (graph: Graph, name: string): string =>
  name && graph.nodes.some((n) => n.name === name) ? graph.uniqueName(name) : name

/** The numbers of a float tensor of 32 or 16 bits; `undefined` of any other. */
export function numbersOf(tensor: Pick<Tensor, 'type' | 'data'>): Float32Array | undefined {
  return tensor.type === 'float32' ? (tensor.data as Float32Array) : isShort(tensor.type) ? floatsOf(tensor) : undefined
}

const bytesOf = (data: Float32Array | Uint16Array): Uint8Array =>
  new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)

/** Reports of layers as the file has them, which took half of what steps saw. */
export function inFileBytes(layers: readonly LayerReport[], { tensors }: WidenedModel): readonly LayerReport[] {
  const known = new Set(tensors.map((w) => w.name))
  return layers.map((layer) => {
    if (!known.has(layer.weight)) return layer
    // Codes are what they are; floats are stored in 16 bits again.
    const floats = layer.action === 'quantized' && layer.bits !== undefined ? 1 : 2
    return { ...layer, bytesBefore: layer.bytesBefore / 2, bytesAfter: layer.bytesAfter / floats }
  })
}
