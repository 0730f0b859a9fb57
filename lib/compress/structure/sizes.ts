import { Node, type Graph } from '../../model/graph'
import type { Model } from '../../model/model'
import { ownConstant } from '../../model/ops/couple'
import { inferShapes, type Shapes } from '../../model/ops/infer'
import { sizeOf } from '../../tensor'

/** Dims of a value, `undefined` where they are not known. */
type DimsOf = (value: string) => readonly number[] | undefined

const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b))

/**
 * Target sizes that a graph computes (products of a batch and a number of heads, a width read off another value) are brought to what they
 * should be: the whole list times a fraction for each entry, which holds for every size of the inputs. `wanted` are the dims after the
 * cut, `sizes` those of the inputs.
 */
export function scaleTargets(model: Model, sizes: ReadonlyMap<string, readonly number[]>, wanted: DimsOf): void {
  const { graph, opsets } = model
  const dims = new Map(sizes)
  for (const node of graph.nodes) for (const o of node.outputs) {
    const known = o ? wanted(o) : undefined
    if (known) dims.set(o, known)
  }
  let shapes: Shapes | undefined
  for (const node of [...graph.nodes]) {
    const list = node.inputs[1] ?? ''
    const want = wanted(node.outputs[0] ?? '')
    if (!node.is('Reshape', 'Expand') || !list || !want || graph.constant(list)) continue
    shapes ??= inferShapes(graph, opsets, { dims })
    const now = shapes.get(list, graph)?.data
    if (!now?.every((d) => typeof d === 'number') || now.length > want.length || (node.is('Reshape') && now.length !== want.length)) continue
    const target = want.slice(want.length - now.length)
    const times = target.map(() => 1)
    const over = target.map(() => 1)
    for (const [i, n] of now.entries()) {
      // Zero copies a size, minus one is what is left, one is repeated.
      if (n < (node.is('Expand') ? 2 : 1) || n === target[i]) continue
      const d = divisor(target[i]!, n)
      times[i] = target[i]! / d
      over[i] = n / d
    }
    if (over.every((d) => d === 1) && times.every((d) => d === 1)) continue
    if (sizeOf(target) === 0) continue
    const product = insert(graph, node, 'Mul', list, times)
    node.setInput(1, insert(graph, node, 'Div', product, over))
  }
}

function insert(graph: Graph, before: Node, op: 'Mul' | 'Div', value: string, by: readonly number[]): string {
  const output = graph.uniqueName(`${value}_${op === 'Mul' ? 'times' : 'over'}`)
  const name = graph.uniqueName(`${before.label}_${op.toLowerCase()}`)
  graph.addNode(new Node({ opType: op, name, inputs: [value, ownConstant(graph, output, by)], outputs: [output] }), { before })
  return output
}

/** Other sizes for the inputs, twice as large wherever the model leaves them open; nothing where it leaves none. */
export function otherSizes(model: Model, sizes: ReadonlyMap<string, readonly number[]>): ReadonlyMap<string, readonly number[]> | undefined {
  let open = false
  const found = new Map(
    [...sizes].map(([name, dims]) => {
      const declared = model.graph.inputs.find((i) => i.name === name)?.dims
      return [name, dims.map((d, axis) => {
        if (typeof declared?.[axis] === 'number') return d
        open = true
        return 2 * d
      })]
    }),
  )
  return open ? found : undefined
}
