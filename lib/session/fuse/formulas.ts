import { attribute, inferShapes, type Graph, type Model, type Node } from '../../model'
import { Rewrite } from '../../model/rewrite'
import type { Dim } from '../../model/types'

/** floats of the largest matrix that a Fourier transform becomes */
const kMostWaves = 1 << 22

/** Ops that ONNX defines by others, as these, which kernels know: normalizations of float32 and Fourier transforms of known size. */
export function expandFormulas(model: Model): void {
  const { graph } = model
  const isOne = (n: Node): boolean => n.is() && Object.hasOwn(kFormulas, n.opType)
  if (!graph.nodes.some(isOne)) return
  const shapes = inferShapes(graph, model.opsets)
  for (const node of graph.nodes.filter(isOne)) {
    const known = shapes.get(node.inputs[0] as string, graph)
    if (known?.type !== 'float32' || !known.dims || node.outputs.slice(1).some((o) => o && (graph.isOutput(o) || graph.users(o).length > 0))) continue
    const formula = kFormulas[node.opType]?.(node, graph, known.dims, model.opsets.get('') ?? 1)
    if (!formula) continue
    const to = new Rewrite(graph, node)
    to.answer(formula(to))
  }
}

/** Writes the nodes and answers what the last one makes. */
type Formula = (w: Rewrite) => string

const scalar = (w: Rewrite, value: number): string => w.floats([], Float32Array.of(value))

function place(axis: number, rank: number): number | undefined {
  return axis >= -rank && axis < rank ? (axis + rank) % rank : undefined
}

/** One number that an input holds. */
function given(graph: Graph, name: string | undefined): number | undefined {
  const c = name && !graph.isInput(name) ? graph.constant(name) : undefined
  return c?.elementCount === 1 ? Number(c.readSync().data[0]) : undefined
}

type Maker = (node: Node, graph: Graph, dims: readonly Dim[], opset: number) => Formula | undefined

const meanVariance: Maker = (node, _, dims) => {
  const axes = node.ints('axes', [0, 2, 3]).map((a) => place(a, dims.length))
  if (axes.some((a) => a === undefined)) return undefined
  const [x] = node.inputs as [string]
  return (w) => {
    const over = w.ints(...(axes as number[]))
    const centered = w.add('Sub', [x, w.add('ReduceMean', [x, over])])
    const deviation = w.add('Sqrt', [w.add('ReduceMean', [w.add('Mul', [centered, centered]), over])])
    return w.add('Div', [centered, w.add('Add', [deviation, scalar(w, 1e-9)])])
  }
}

/** What has no length stays 0. */
const lpNormalization: Maker = (node, _, dims) => {
  const axis = place(node.int('axis', -1), dims.length)
  const p = node.int('p', 2)
  if (axis === undefined || (p !== 1 && p !== 2)) return undefined
  const [x] = node.inputs as [string]
  return (w) => {
    const length = w.add(`ReduceL${p}`, [x, w.ints(axis)])
    return w.add('Div', [x, w.add('Where', [w.add('Equal', [length, scalar(w, 0)]), scalar(w, 1), length])])
  }
}

/** Sums of squares of neighbouring channels are a product with a banded matrix. */
const lrn: Maker = (node, _, dims) => {
  const channels = dims[1]
  const size = node.int('size', 1)
  if (typeof channels !== 'number' || dims.length < 3 || size < 1) return undefined
  const [x] = node.inputs as [string]
  const share = node.float('alpha', 1e-4) / size
  return (w) => {
    const band = new Float32Array(channels * channels)
    for (let c = 0; c < channels; c++)
      for (let i = Math.max(0, c - Math.floor((size - 1) / 2)); i <= Math.min(channels - 1, c + Math.ceil((size - 1) / 2)); i++) band[c * channels + i] = share
    const weight = w.floats([channels, channels, ...dims.slice(2).map(() => 1)], band)
    const sums = w.add('Conv', [w.add('Mul', [x, x]), weight, w.floats([channels], new Float32Array(channels).fill(node.float('bias', 1)))])
    return w.add('Div', [x, w.add('Pow', [sums, scalar(w, node.float('beta', 0.75))])])
  }
}

/** With computed scales (as styles are handed on) the normalization has none, and they follow it. */
const instanceNormalization: Maker = (node, graph, dims) => {
  const [x, scale, bias] = node.inputs as [string, string, string]
  const channels = dims[1]
  if ((graph.constant(scale) && graph.constant(bias)) || typeof channels !== 'number' || dims.length < 3) return undefined
  return (w) => {
    const ones = w.floats([channels], new Float32Array(channels).fill(1))
    const plain = w.add('InstanceNormalization', [x, ones, w.floats([channels], new Float32Array(channels))], { epsilon: attribute.float(node.float('epsilon', 1e-5)) })
    const inner = w.ints(...dims.slice(2).map((_, i) => i + 1))
    return w.add('Add', [w.add('Mul', [plain, w.add('Unsqueeze', [scale, inner])]), w.add('Unsqueeze', [bias, inner])])
  }
}

/**
 * A BatchNormalization that takes mean and variance of what it is given (`training_mode`), and whose running statistics nobody reads. Exporters
 * write standardized weights so, and a formula of constants is computed once.
 */
const batchNormalization: Maker = (node, _, dims) => {
  if (node.int('training_mode', 0) !== 1 || dims.length < 2) return undefined
  const [x, scale, bias] = node.inputs as [string, string, string]
  return (w) => {
    const axes = w.ints(...dims.map((__, i) => i).filter((i) => i !== 1))
    const inner = dims.length > 2 ? w.ints(...dims.slice(2).map((__, i) => i + 1)) : undefined
    const perChannel = (name: string): string => (inner ? w.add('Unsqueeze', [name, inner]) : name)
    const centered = w.add('Sub', [x, w.add('ReduceMean', [x, axes])])
    const variance = w.add('ReduceMean', [w.add('Mul', [centered, centered]), axes])
    const deviation = w.add('Sqrt', [w.add('Add', [variance, scalar(w, node.float('epsilon', 1e-5))])])
    return w.add('Add', [w.add('Mul', [w.add('Div', [centered, deviation]), perChannel(scale)]), perChannel(bias)])
  }
}

/** Waves of `n` samples, [bins][real, imaginary][samples], each sample times its factor. */
function waves(n: number, bins: number, sign: number, factor: (t: number) => number): Float32Array {
  const out = new Float32Array(bins * 2 * n)
  for (let f = 0; f < bins; f++)
    for (let t = 0; t < n; t++) {
      const angle = (sign * 2 * Math.PI * ((f * t) % n)) / n
      out[f * 2 * n + t] = Math.cos(angle) * factor(t)
      out[(f * 2 + 1) * n + t] = Math.sin(angle) * factor(t)
    }
  return out
}

/** Pieces of a signal against windowed waves: a convolution whose stride is their distance. */
const stft: Maker = (node, graph, dims) => {
  const [signal, hop, window, length] = node.inputs as [string, string, string | undefined, string | undefined]
  const factors = window ? graph.constant(window) : undefined
  const step = given(graph, hop)
  const size = length ? given(graph, length) : factors?.dims[0]
  const bins = size === undefined ? 0 : node.int('onesided', 1) ? Math.floor(size / 2) + 1 : size
  const real = dims.length === 2 || (dims.length === 3 && dims[2] === 1)
  if (!real || !step || !size || (window && (factors?.type !== 'float32' || factors.elementCount !== size)) || size * bins * 2 > kMostWaves) return undefined
  if (typeof dims[1] === 'number' && dims[1] < size) return undefined
  return (w) => {
    const of = factors?.readSync().data as Float32Array | undefined
    const weight = w.floats([bins * 2, 1, size], waves(size, bins, -1, (t) => of?.[t] ?? 1))
    const rows = dims.length === 3 ? w.add('Transpose', [signal], { perm: attribute.ints([0, 2, 1]) }) : w.add('Unsqueeze', [signal, w.ints(1)])
    const spectra = w.add('Conv', [rows, weight], { strides: attribute.ints([step]) })
    return w.add('Reshape', [w.add('Transpose', [spectra], { perm: attribute.ints([0, 2, 1]) }), w.ints(0, 0, bins, 2)])
  }
}

/** A Fourier transform of known size: a product with a matrix of waves. */
const dft: Maker = (node, graph, dims, opset) => {
  const rank = dims.length
  const [x, many, along] = node.inputs as [string, string | undefined, string | undefined]
  const at = opset < 20 ? node.int('axis', 1) : along ? given(graph, along) : -2
  const axis = at === undefined ? undefined : place(at, rank)
  const parts = dims[rank - 1]
  const n = axis === undefined ? undefined : dims[axis]
  if (axis === undefined || axis === rank - 1 || (parts !== 1 && parts !== 2) || typeof n !== 'number' || n < 1 || (many && given(graph, many) !== n)) return undefined
  const inverse = node.int('inverse', 0) !== 0
  const bins = node.int('onesided', 0) ? Math.floor(n / 2) + 1 : n
  if (parts * n * bins * 2 > kMostWaves) return undefined
  const own = waves(n, bins, inverse ? 1 : -1, () => (inverse ? 1 / n : 1))
  // Rows: sample by sample, real and imaginary part; columns: bin by bin, the same.
  const matrix = new Float32Array(n * parts * bins * 2)
  for (let t = 0; t < n; t++)
    for (let f = 0; f < bins; f++) {
      const [c, s] = [own[f * 2 * n + t] as number, own[(f * 2 + 1) * n + t] as number]
      const at = (t * parts * bins + f) * 2
      matrix[at] = c
      matrix[at + 1] = s
      if (parts === 2) {
        matrix[at + 2 * bins] = -s
        matrix[at + 2 * bins + 1] = c
      }
    }
  const others = dims.map((_, i) => i).filter((i) => i !== axis && i !== rank - 1)
  return (w) => {
    const turned = w.add('Transpose', [x], { perm: attribute.ints([...others, axis, rank - 1]) })
    const rows = w.add('Reshape', [turned, w.ints(...others.map(() => 0), n * parts)])
    const spectra = w.add('Reshape', [w.add('MatMul', [rows, w.floats([n * parts, bins * 2], matrix)]), w.ints(...others.map(() => 0), bins, 2)])
    const back = dims.map((_, i) => (i === rank - 1 ? rank - 1 : i === axis ? rank - 2 : others.indexOf(i)))
    return w.add('Transpose', [spectra], { perm: attribute.ints(back) })
  }
}

const kFormulas: Readonly<Record<string, Maker>> = {
  MeanVarianceNormalization: meanVariance,
  LpNormalization: lpNormalization,
  LRN: lrn,
  InstanceNormalization: instanceNormalization,
  BatchNormalization: batchNormalization,
  STFT: stft,
  DFT: dft,
}
