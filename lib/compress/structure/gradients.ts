import type { Graph } from '../../model/graph'
import { SafeTensors } from '../../model/safetensors'
import type { TensorLike } from '../../tensor'
import { fail, tensor as checkTensor } from '../../validate'
import type { Scratch } from '../computed'
import type { Group } from './groups'
import { scoredMembers, slicesOf, type Sides } from './score'

type Tensors = ReadonlyMap<string, { readonly dims: readonly number[]; readonly data: Float32Array }>

/** @internal Gradients of the loss by weight name. In a report only the names appear. */
export class Gradients {
  readonly #tensors: Tensors

  private constructor(tensors: Tensors) {
    this.#tensors = tensors
  }

  /** @throws `ERR_DTYPE` and `ERR_SHAPE` naming `parameter` */
  static of(value: unknown, parameter: string): Gradients {
    if (value instanceof Gradients) return value
    if (value === null || typeof value !== 'object' || Array.isArray(value)) fail('ERR_DTYPE', parameter, 'tensors by weight name, or the path of a safetensors file', value)
    return new Gradients(
      new Map(
        Object.entries(value as Record<string, TensorLike>).map(([name, t]) => {
          const { dims, data } = checkTensor(t, `${parameter}.${name}`, ['float32'])
          return [name, { dims, data: data as Float32Array }]
        }),
      ),
    )
  }

  /** A safetensors file. */
  static async load(path: string): Promise<Gradients> {
    const file = await SafeTensors.load(path)
    try {
      return new Gradients(new Map([...file.tensors].filter(([, t]) => t.type === 'float32').map(([name, t]) => [name, { dims: t.dims, data: t.readSync().data as Float32Array }])))
    } finally {
      file.close()
    }
  }

  get(name: string): { readonly dims: readonly number[]; readonly data: Float32Array } | undefined {
    return this.#tensors.get(name)
  }

  toJSON(): unknown {
    return { names: [...this.#tensors.keys()] }
  }
}

/** @internal Σ over coupled weights of (Σ g·w)² over a unit's values: what removing it does to the loss, to first order (Molchanov 2019). */
export function taylorScores(graph: Graph, group: Group, gradients: Gradients, sides: Sides, scratch: Scratch): Float64Array | string {
  const scores = new Float64Array(group.units)
  let seen = 0
  for (const member of scoredMembers(graph, group, sides)) {
    const gradient = gradients.get(member.tensor)
    if (!gradient) continue
    const { dims } = graph.initializers.get(member.tensor)!
    if (gradient.dims.length !== dims.length || gradient.dims.some((d, i) => d !== dims[i]))
      fail('ERR_SHAPE', `gradients.${member.tensor}`, `dims [${dims.join(', ')}]`, `[${gradient.dims.join(', ')}]`)
    const slices = slicesOf(graph, member, scratch)
    if (!slices) continue
    seen++
    const { data, outer, size, inner } = slices
    const sums = new Float64Array(size)
    for (let o = 0, i = 0; o < outer; o++) for (let c = 0; c < size; c++) for (let k = 0; k < inner; k++, i++) sums[c]! += data[i]! * gradient.data[i]!
    for (let u = 0; u < group.units; u++) {
      let sum = 0
      for (let k = 0; k < member.per; k++) sum += sums[member.indices[u * member.per + k]!]!
      scores[u]! += sum * sum
    }
  }
  return seen > 0 ? scores : 'there are no gradients for its weights'
}
