import type { Model, Tensor } from '../../lib'

/** Which indices of which axis of a weight. */
export interface Columns {
  readonly tensor: string
  readonly axis: number
  readonly indices: readonly number[]
}

/** The model with these parts of its weights set to zero: what is pruned must compute what this does. */
export function zeroed(model: Model, columns: readonly Columns[]): Model {
  const copy = model.clone()
  for (const { tensor, axis, indices } of columns) {
    const t = copy.graph.initializers.get(tensor)!.readSync() as Tensor<Float32Array>
    const data = Float32Array.from(t.data)
    const inner = t.dims.slice(axis + 1).reduce((a, b) => a * b, 1)
    for (let i = 0; i < data.length; i++) if (indices.includes(Math.floor(i / inner) % t.dims[axis]!)) data[i] = 0
    copy.graph.setInitializer(tensor, { type: 'float32', dims: t.dims, data })
  }
  return copy
}
