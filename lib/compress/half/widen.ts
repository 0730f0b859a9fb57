import { Initializer, Node, attribute, type Graph } from '../../model/graph'
import { fromHalves, toHalves } from '../../model/half'
import type { Model } from '../../model/model'
import { elementCodeOf } from '../../model/types'
import { ComputedSource } from '../computed'

/** A float16 tensor that the file casts to float32, and the float32 one that stands for it meanwhile. */
export interface Widened {
  readonly half: Initializer
  readonly cast: Node
  readonly source: Initializer['source']
}

const kFloat32 = elementCodeOf('float32')

/** What halves round to infinity. */
const kBeyond = 65520

/**
 * Weights that a file stores in float16 behind a Cast become float32 ones that are computed when they are read, so that every step
 * sees them as weights. Those that no step changes are to be put back by {@link narrow}.
 */
export function widen(model: Model): Widened[] {
  const found: Widened[] = []
  for (const graph of model.graph.graphs())
    for (const half of [...graph.initializers.values()]) {
      if (half.type !== 'float16' || graph.isInput(half.name) || graph.isOutput(half.name)) continue
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
      const source = new ComputedSource(4 * half.elementCount, () => bytesOf(fromHalves(wordsOf(half.readSync().data))))
      graph.addInitializer(new Initializer(name, 'float32', half.dims, source))
      found.push({ half, cast, source })
    }
  return found
}

/** Stores what is still there in float16 again: as it was, or rounded where a step changed it and it reaches no further than halves do. */
export function narrow(model: Model, widened: readonly Widened[]): void {
  if (widened.length === 0) return
  const known = new Map(widened.map((w) => [w.cast.outputs[0]!, w]))
  for (const graph of model.graph.graphs()) {
    const casts: Node[] = []
    for (const now of [...graph.initializers.values()]) {
      const { name } = now
      const from = known.get(name)
      if (!from || now.type !== 'float32' || graph.isInput(name) || graph.isOutput(name)) continue
      const same = now.source === from.source
      if (!same && !(now.readSync().data as Float32Array).every((v) => Math.abs(v) < kBeyond)) continue
      const taken = graph.defines(from.half.name)
      const half = taken ? graph.uniqueName(from.half.name) : from.half.name
      graph.initializers.delete(name)
      graph.valueInfo.delete(name)
      graph.addInitializer(
        same
          ? from.half.renamed(half)
          : new Initializer(
              half,
              'float16',
              now.dims,
              new ComputedSource(2 * now.elementCount, () => bytesOf(toHalves(now.readSync().data as Float32Array))),
            ),
      )
      casts.push(
        new Node({
          opType: 'Cast',
          name: nameFor(graph, from.cast.name),
          inputs: [half],
          outputs: [name],
          attributes: { to: attribute.int(kFloat32) },
        }),
      )
    }
    if (casts.length > 0) graph.setNodes([...casts, ...graph.nodes])
  }
}

const nameFor = (graph: Graph, name: string): string =>
  name && graph.nodes.some((n) => n.name === name) ? graph.uniqueName(name) : name

const bytesOf = (data: Float32Array | Uint16Array): Uint8Array =>
  new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
/** Engines that have Float16Array read halves as such. */
const wordsOf = (data: ArrayBufferView): Uint16Array =>
  new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2)
