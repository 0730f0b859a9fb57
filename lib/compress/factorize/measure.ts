import { Graph, Initializer, Node, ValueInfo } from '../../model/graph'
import { Model } from '../../model/model'
import { Session } from '../../session'
import { sizeOf, type Tensor } from '../../tensor'
import type { FactorLayer } from './layer'
import { rewrite, type Placed } from './rewrite'

const kRuns = 9

/**
 * Median milliseconds of a layer as it is and as its factors, on Session, in turns, for an input of `dims`. Measured where
 * this runs: another machine may find otherwise.
 */
export async function measureBoth(
  layer: FactorLayer,
  stages: readonly Placed[],
  model: Model,
  dims: readonly number[],
  threads: number | undefined,
): Promise<{ before: number; after: number }> {
  const alone = (factored: boolean): Model => {
    const node = layer.users[0]!
    const { initializer } = layer.weight
    const graph = new Graph('layer')
    graph.inputs = [new ValueInfo('x', 'float32', dims)]
    graph.addInitializer(initializer)
    const copy = new Node({
      opType: node.opType,
      inputs: layer.index === 1 ? ['x', initializer.name] : [initializer.name, 'x'],
      outputs: ['y'],
      attributes: node.attributes,
    })
    graph.addNode(copy)
    graph.outputs = [new ValueInfo('y', 'float32', null)]
    const made = new Model({ graph, opsets: model.opsets, irVersion: 8 })
    if (factored) rewrite({ ...layer, weight: { ...layer.weight, node: copy, graph }, users: [copy] }, stages)
    return made
  }
  const options = threads === undefined ? {} : { threads }
  const sessions = [await Session.create(alone(false), options), await Session.create(alone(true), options)]
  const data = Float32Array.from({ length: sizeOf(dims) }, (_, i) => ((i * 2654435761) % 2 ** 32) / 2 ** 31 - 1)
  const x: Tensor = { type: 'float32', dims: [...dims], data }
  const times: [number[], number[]] = [[], []]
  try {
    for (let run = 0; run <= kRuns; run++)
      for (const [i, session] of sessions.entries()) {
        const start = performance.now()
        await session.run({ x })
        // The first run plans.
        if (run > 0) times[i]!.push(performance.now() - start)
      }
  } finally {
    for (const s of sessions) s.dispose()
  }
  const median = (list: number[]): number => list.sort((a, b) => a - b)[list.length >> 1]!
  return { before: median(times[0]), after: median(times[1]) }
}

/** Makes initializers of what is in memory, for measuring. */
export function placed(name: string, dims: readonly number[], data: Float32Array): Initializer['source'] {
  return Initializer.from(name, { type: 'float32', dims, data }).source
}
