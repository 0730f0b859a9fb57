import { sizeOf, typedArrayName } from '../../tensor'
import { weightViewOf, type Weight } from '../../model/weights'
import type { Node } from '../../model/node'
import { paged, touched } from '../paged'

/**
 * A weight tensor seen as `groups` matrices [outputs, size], each row the products of one sum, in the order in which
 * {@link Moments} counts input features: channels, then taps.
 */
export interface RowLayout {
  readonly groups: number
  /** Rows of one group. */
  readonly outputs: number
  /** Products of one sum. */
  readonly size: number
  /**
   * How the tensor lies: `rows` as it is; `columns` with each group's matrix transposed; `taps` as
   * [groups, channels, outputs, taps].
   */
  readonly order: 'rows' | 'columns' | 'taps'
  /** Of `taps`: their number. 1 otherwise. */
  readonly taps: number
}

/** @internal How the rows of a weight lie in its tensor; `undefined` where it has none. */
export function rowLayoutOf({ node, initializer }: Pick<Weight, 'node' | 'initializer'>, index = weightInputOf(node, initializer.name)): RowLayout | undefined {
  const { dims } = initializer
  const view = index < 0 ? undefined : weightViewOf(node, index, dims)
  if (!view || sizeOf(dims) === 0) return undefined
  const rank = dims.length
  const last = dims[rank - 1]!
  const rows = (groups: number, outputs: number, size: number): RowLayout => ({ groups, outputs, size, order: 'rows', taps: 1 })
  switch (node.opType) {
    case 'Conv': {
      const groups = node.int('group', 1)
      return groups >= 1 && dims[0]! % groups === 0 ? rows(groups, dims[0]! / groups, sizeOf(dims.slice(1))) : undefined
    }
    case 'ConvTranspose': {
      const groups = node.int('group', 1)
      if (groups < 1 || dims[0]! % groups) return undefined
      const taps = sizeOf(dims.slice(2))
      return { groups, outputs: dims[1]!, size: (dims[0]! / groups) * taps, order: 'taps', taps }
    }
    case 'RNN':
    case 'GRU':
    case 'LSTM':
      // Both directions read the same inputs, but each its own hidden states.
      return index === 2 ? rows(dims[0]!, dims[1]!, last) : rows(1, dims[0]! * dims[1]!, last)
    case 'Gather':
      return rows(1, dims[0]!, sizeOf(dims.slice(1)))
  }
  const groups = sizeOf(dims.slice(0, rank - 2))
  if (view.reductionAxis < view.outputAxis) return { groups, outputs: last, size: dims[rank - 2]!, order: 'columns', taps: 1 }
  return rows(groups, dims[rank - 2]!, last)
}

/** @internal Which input of a node a value is, -1 if none. */
export function weightInputOf(node: Node, name: string): number {
  return node.inputs.indexOf(name)
}

/** @internal The tensor as [groups · outputs, size]: itself where it lies so, else a copy. */
export function toRows<T extends Float32Array | Int8Array>(data: T, layout: RowLayout): T {
  return turn(data, layout, true)
}

/** @internal What {@link toRows} made, as the tensor lies. */
export function fromRows<T extends Float32Array | Int8Array>(rows: T, layout: RowLayout): T {
  return turn(rows, layout, false)
}

/** Channels and outputs of a tile: few pages of each side at a time. */
const kWide = 512
const kTile = 64

function turn<T extends Float32Array | Int8Array>(data: T, { groups, outputs, size, order, taps }: RowLayout, forward: boolean): T {
  if (order === 'rows') return data
  const type = typedArrayName(data) === 'Float32Array' ? 'float32' : 'int8'
  const out = paged(type, data.length, 'weights') as T
  const channels = size / taps
  for (let g = 0; g < groups; g++)
    for (let c0 = 0; c0 < channels; c0 += kWide)
      for (let o0 = 0; o0 < outputs; o0 += kTile) {
        const [c1, o1] = [Math.min(channels, c0 + kWide), Math.min(outputs, o0 + kTile)]
        for (let c = c0; c < c1; c++)
          for (let o = o0; o < o1; o++) {
            const tensor = ((g * channels + c) * outputs + o) * taps
            const row = (g * outputs + o) * size + c * taps
            if (forward) for (let t = 0; t < taps; t++) out[row + t] = data[tensor + t]!
            else for (let t = 0; t < taps; t++) out[tensor + t] = data[row + t]!
          }
        touched(2 * data.BYTES_PER_ELEMENT * (c1 - c0) * (o1 - o0) * taps)
      }
  return out
}
