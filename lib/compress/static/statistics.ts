import { Initializer, type Node } from '../../model/graph'
import type { Model } from '../../model/model'
import type { Calibration } from '../calibration'
import type { Run } from '../progress'

/**
 * @internal Means and variances of batch normalizations, estimated anew on calibration inputs: those of what now comes in, one
 * normalization after the other, each with the earlier ones at their new values. Those that share their statistics or do not
 * have them as constants stay. Returns how many changed.
 */
export async function reestimate(model: Model, calibration: Calibration, run: Run, sets: number): Promise<number> {
  const { graph } = model
  const norms = graph.topologicalOrder().filter((n) => n.is('BatchNormalization') && !n.int('training_mode', 0) && statistics(model, n))
  for (const [i, node] of norms.entries()) {
    await run.tell('repair', i, norms.length, node.label)
    const [mean, variance] = statistics(model, node)!
    const channels = mean.elementCount
    const sum = new Float64Array(channels)
    const squares = new Float64Array(channels)
    // Sums are of distances to the first value of a channel, which lose no digits to a large mean.
    let pivot: Float64Array | undefined
    let count = 0
    const input = node.inputs[0]!
    await calibration.each(model, [input], run, (values, index) => {
      const { data, dims } = values.get(input)!
      const x = data as Float32Array
      const plane = dims.slice(2).reduce((a, b) => a * b, 1)
      const batch = dims[0] ?? 0
      if (batch * plane === 0) return index + 1 < sets
      pivot ??= Float64Array.from({ length: channels }, (_, c) => x[c * plane]!)
      for (let n = 0; n < batch; n++)
        for (let c = 0; c < channels; c++) {
          const start = (n * channels + c) * plane
          const from = pivot[c]!
          for (let k = start; k < start + plane; k++) {
            const d = x[k]! - from
            sum[c]! += d
            squares[c]! += d * d
          }
        }
      count += batch * plane
      return index + 1 < sets
    })
    if (count === 0) continue
    const means = Float32Array.from(sum, (s, c) => pivot![c]! + s / count)
    const variances = Float32Array.from(squares, (q, c) => Math.max(0, q / count - (sum[c]! / count) ** 2))
    for (const [old, data] of [[mean, means], [variance, variances]] as const)
      graph.setInitializer(old.name, Initializer.from(old.name, { type: 'float32', dims: old.dims, data }))
  }
  return norms.length
}

/** Mean and variance of a normalization that alone reads them. */
function statistics({ graph }: Model, node: Node): readonly [Initializer, Initializer] | undefined {
  const [mean, variance] = [3, 4].map((i) => {
    const found = graph.initializers.get(node.inputs[i] ?? '')
    return found?.type === 'float32' && graph.users(found.name).length === 1 && !graph.isInput(found.name) && !graph.isOutput(found.name) ? found : undefined
  })
  return mean && variance && mean.name !== variance.name ? [mean, variance] : undefined
}
