import type { Node } from '../../model'
import { sizeOf } from '../../tensor'
import type { Lower, Lowering } from '../lowering'
import type { Argument, Memory } from '../program'
import { identity, type Value } from '../value'

// core/recurrent.h
const kKinds = { RNN: 0, GRU: 1, LSTM: 2 } as const
const kGates = { RNN: 1, GRU: 3, LSTM: 4 } as const
const kActivations: Readonly<Record<string, readonly [kind: number, alpha: number, beta: number]>> = {
  relu: [0, 0, 0],
  tanh: [1, 0, 0],
  sigmoid: [2, 0, 0],
  affine: [3, 1, 0],
  leakyrelu: [4, Math.fround(0.01), 0],
  thresholdedrelu: [5, 1, 0],
  scaledtanh: [6, 1, 1],
  hardsigmoid: [7, Math.fround(0.2), 0.5],
  elu: [8, 1, 0],
  softsign: [9, 0, 0],
  softplus: [10, 0, 0],
}
const kDefaults = { RNN: ['Tanh'], GRU: ['Sigmoid', 'Tanh'], LSTM: ['Sigmoid', 'Tanh', 'Tanh'] } as const
/** How many of alpha and beta an activation takes from the lists. */
const kTakes: Readonly<Record<string, readonly [alpha: boolean, beta: boolean]>> = {
  affine: [true, true],
  leakyrelu: [true, false],
  thresholdedrelu: [true, false],
  scaledtanh: [true, true],
  hardsigmoid: [true, true],
  elu: [true, false],
}

/** Kind, alpha and beta of every activation, direction after direction. */
function activations(node: Node, l: Lowering, kind: keyof typeof kKinds, directions: number): number[][] {
  const each = kDefaults[kind].length
  const a = node.attributes.get('activations')
  const names = a?.type === 'strings' ? a.value : Array.from({ length: directions }, () => kDefaults[kind]).flat()
  if (names.length !== each * directions) l.unsupported(node, `${names.length} activations for ${directions} directions`)
  const list = (name: string): readonly number[] => {
    const given = node.attributes.get(name)
    return given?.type === 'floats' ? given.value : []
  }
  const [alphas, betas] = [[...list('activation_alpha')], [...list('activation_beta')]]
  return names.map((name) => {
    const key = name.toLowerCase()
    const known = kActivations[key]
    if (!known) return l.unsupported(node, `the activation ${name}`)
    const [takesAlpha, takesBeta] = kTakes[key] ?? [false, false]
    const alpha = takesAlpha ? alphas.shift() : undefined
    const beta = takesBeta ? betas.shift() : undefined
    return [known[0], alpha ?? known[1], beta ?? known[2]]
  })
}

function recurrent(kind: keyof typeof kKinds): Lower {
  return (node, l) => {
    const batchFirst = node.int('layout', 0) === 1
    const direction = node.string('direction', 'forward')
    const directions = direction === 'bidirectional' ? 2 : 1
    const series = batchFirst ? [1, 0, 2] : [0, 1, 2]
    const [xName, wName, rName, bName, lengthsName, hName, cName, pName] = node.inputs as readonly (string | undefined)[]
    const x = l.inOrder(l.lazy(xName as string, node), series, node)
    l.float(x, node)
    const [steps, batch] = [x.dims[batchFirst ? 1 : 0], x.dims[batchFirst ? 0 : 1]] as [number, number]
    const inner = x.dims[2] as number
    const gates = kGates[kind]
    const rDims = l.dims(rName as string, node)
    const wDims = l.dims(wName as string, node)
    const hidden = rDims[2] as number
    if (node.int('hidden_size', hidden) !== hidden || rDims[0] !== directions || rDims[1] !== gates * hidden || wDims[0] !== directions || wDims[1] !== gates * hidden || wDims[2] !== inner)
      l.unsupported(node, `weights [${wDims.join(', ')}] and [${rDims.join(', ')}] for ${directions} directions of ${inner} inputs`)
    const columns = gates * hidden

    /** Columns [from, from + n) of a matrix [directions][columns][k], transposed; packed where they are constants. */
    const matrix = (name: string, k: number, d: number, from: number, n: number, packed: boolean): Memory => {
      const constant = l.constant(name, node)
      if (packed && constant) {
        const at = (d * columns + from) * k
        return l.constants.gemm(`recurrent ${name} ${d} ${from}`, 1, k, n, 1, k, () => (constant.data as Float32Array).subarray(at, at + n * k))
      }
      const value = l.rowMajor(l.lazy(name, node), node)
      l.float(value, node)
      const memory = l.program.memory('float32', n * k)
      l.stridedCopy(value, [n * k], [1], (d * columns + from) * k, memory, [1], 0, node)
      return memory
    }
    const packed = l.constant(rName, node) !== undefined
    const packedW = l.constant(wName, node) !== undefined
    const kinds = activations(node, l, kind, directions)
    const each = kinds.length / directions
    const weight = (m: Memory, isPacked: boolean): Argument => (isPacked ? { packed: m } : m)
    const parts: Argument[] = []
    const rows = steps * batch
    for (let d = 0; d < directions; d++) {
      const xw = l.program.memory('float32', rows * columns)
      const w = matrix(wName as string, inner, d, 0, columns, packedW)
      const strides = packedW ? [1, 1, 0, 1] : [1, inner, 0, 0]
      l.program.step('gemm', node.label, rows, columns, inner, 1, inner, 1, 0, ...strides, 1, 0, 0, 0, x.memory, weight(w, packedW), null, null, xw)
      const own = kinds.slice(d * each, (d + 1) * each)
      while (own.length < 3) own.push([1, 0, 0])
      const first = kind === 'GRU' ? 2 * hidden : columns
      parts.push(direction === 'reverse' || d === 1 ? 1 : 0, ...own.flat(), xw, weight(matrix(rName as string, hidden, d, 0, first, packed), packed))
      if (kind === 'GRU') parts.push(weight(matrix(rName as string, hidden, d, first, hidden, packed), packed))
    }

    const given = (name: string | undefined, order: readonly number[], dims: readonly number[]): Memory | null => {
      if (!name) return null
      const v = l.lazy(name, node)
      if (v.type !== 'float32') l.float(v, node)
      if (sizeOf(v.dims) !== sizeOf(dims)) l.unsupported(node, `${name} of [${v.dims.join(', ')}]`)
      return l.inOrder(v, order, node).memory
    }
    const state = batchFirst ? [1, 0, 2] : [0, 1, 2]
    const lengths = lengthsName ? l.rowMajor(l.lazy(lengthsName, node), node) : undefined
    if (lengths && lengths.type !== 'int32') l.unsupported(node, `lengths of type ${lengths.type}`)
    const results: (Memory | null)[] = []
    const made: [string, Value][] = []
    node.outputs.slice(0, kind === 'LSTM' ? 3 : 2).forEach((name, i) => {
      if (!name || !(l.isWanted(name) || l.users(name).length > 0)) return void results.push(null)
      const dims = l.dims(name, node)
      const order = i === 0 ? (batchFirst ? [1, 2, 0, 3] : identity(4)) : state
      const out = l.make('float32', dims, order)
      results.push(out.memory)
      made.push([name, out])
    })
    while (results.length < 3) results.push(null)
    const clip = node.float('clip', 0)
    l.program.step(
      'recurrent',
      node.label,
      ...[kKinds[kind], steps, batch, hidden, directions],
      ...[node.int('input_forget', 0) ? 1 : 0, node.int('linear_before_reset', 0) ? 1 : 0, clip > 0 ? clip : Infinity, packed ? 1 : 0],
      ...parts,
      given(bName, [0, 1], [directions, 2 * columns]),
      given(kind === 'LSTM' ? pName : undefined, [0, 1], [directions, 3 * hidden]),
      lengths ? lengths.memory : null,
      given(hName, state, [directions, batch, hidden]),
      given(kind === 'LSTM' ? cName : undefined, state, [directions, batch, hidden]),
      ...results,
    )
    for (const [name, out] of made) l.define(name, out, node)
  }
}

export const recurrents: Readonly<Record<string, Lower>> = { RNN: recurrent('RNN'), GRU: recurrent('GRU'), LSTM: recurrent('LSTM') }
