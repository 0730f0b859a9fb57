import * as ort from 'onnxruntime-node'

import { attribute, Graph, Initializer, Model, Node, ValueInfo, type Attribute } from '../lib/model'

/** Small models made by hand, for tests of passes. */

/** Reproducible numbers in [−1, 1), roughly bell-shaped. */
export function noise(n: number, seed = 1): Float32Array {
  let state = seed >>> 0 || 1
  const next = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  }
  return Float32Array.from({ length: n }, () => (next() + next() + next()) / 3)
}

export interface Spec {
  readonly op: string
  readonly dims: readonly number[]
  readonly data?: Float32Array
  readonly attributes?: Record<string, Attribute>
  /** which input of the node the weight is */
  readonly at?: number
}

const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)

/**
 * A model with one node for each spec, each with its own input `x0`, `x1` … and output. The weights `w0`, `w1` … are
 * outputs too, so that a runtime tells what it computes them to be.
 */
export function netOf(
  specs: readonly Spec[],
  options: { opset?: number; irVersion?: number; listed?: boolean } = {},
): Model {
  const graph = new Graph('net')
  const inputs: ValueInfo[] = []
  const outputs: ValueInfo[] = []
  specs.forEach(({ op, dims, data, attributes = {}, at = 1 }, i) => {
    const w = `w${i}`
    graph.addInitializer(Initializer.from(w, { type: 'float32', dims, data: data ?? noise(size(dims), i + 1) }))
    const x = `x${i}`
    const isIndex = op === 'Gather'
    inputs.push(new ValueInfo(x, isIndex ? 'int64' : 'float32', null))
    if (options.listed) inputs.push(new ValueInfo(w, 'float32', dims))
    const recurrent = op === 'LSTM' || op === 'GRU'
    const names = isIndex || at === 0 ? [w, x] : recurrent ? [x, w, `r${i}`] : [x, w]
    if (recurrent) {
      const hidden = dims[1]! / (op === 'LSTM' ? 4 : 3)
      graph.addInitializer(
        Initializer.from(`r${i}`, {
          type: 'float32',
          dims: [dims[0]!, dims[1]!, hidden],
          data: noise(dims[0]! * dims[1]! * hidden, 77),
        }),
      )
    }
    graph.addNode(
      new Node({ opType: op, name: `${op.toLowerCase()}${i}`, inputs: names, outputs: [`y${i}`], attributes }),
    )
    outputs.push(new ValueInfo(`y${i}`, 'float32', null))
    if (!options.listed) outputs.push(new ValueInfo(w, 'float32', dims))
  })
  graph.inputs = inputs
  graph.outputs = outputs
  return new Model({ graph, opsets: [['', options.opset ?? 13]], irVersion: options.irVersion ?? 8 })
}

/** Every op that has weights, in both orientations, with sizes that blocks of 32, 16 and 8 divide, or nothing does. */
export const kSpecs: readonly Spec[] = [
  { op: 'Conv', dims: [16, 8, 3, 3] },
  { op: 'Conv', dims: [24, 1, 5, 5], attributes: { group: attribute.int(24) } },
  { op: 'ConvTranspose', dims: [8, 12, 3, 3] },
  { op: 'MatMul', dims: [64, 33] },
  { op: 'MatMul', dims: [3, 24, 20] },
  { op: 'MatMul', dims: [20, 48], at: 0 },
  { op: 'Gemm', dims: [40, 32], attributes: { transB: attribute.int(1) } },
  { op: 'Gemm', dims: [40, 32] },
  { op: 'Gather', dims: [50, 16] },
  { op: 'LSTM', dims: [1, 64, 8], attributes: { hidden_size: attribute.int(16) } },
  {
    op: 'GRU',
    dims: [2, 48, 8],
    attributes: { hidden_size: attribute.int(16), direction: attribute.string('bidirectional') },
  },
]

/** An input that suits a spec. */
export function inputFor({ op, dims, at = 1, attributes = {} }: Spec, seed = 5): ort.Tensor {
  const of = (d: number[]): ort.Tensor => new ort.Tensor('float32', noise(size(d), seed), d)
  const group = Number((attributes['group'] as { value?: number } | undefined)?.value ?? 1)
  switch (op) {
    case 'Conv':
      return of([1, dims[1]! * group, 7, 7])
    case 'ConvTranspose':
      return of([1, dims[0]!, 5, 5])
    case 'MatMul':
      return at === 0 ? of([dims.at(-1)!, 5]) : of([...dims.slice(0, -2), 5, dims.at(-2)!])
    case 'Gemm':
      return attributes['transB'] ? of([3, dims[1]!]) : of([3, dims[0]!])
    case 'Gather':
      return new ort.Tensor('int64', BigInt64Array.of(3n, 49n, 0n), [3])
    default:
      return of([4, 1, dims[2]!])
  }
}

/** All outputs of a model on the inputs of its specs. */
export async function runNet(model: Model, specs: readonly Spec[]): Promise<Record<string, Float32Array>> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 3 })
  const feeds = Object.fromEntries(specs.map((s, i) => [`x${i}`, inputFor(s)]))
  const results = await session.run(feeds)
  await session.release()
  return Object.fromEntries(Object.entries(results).map(([name, t]) => [name, t.data as Float32Array]))
}

/** Root of the mean square. */
export const rms = (v: ArrayLike<number>): number => Math.sqrt(Array.from(v).reduce((s, x) => s + x * x, 0) / v.length)

/** What a call throws; an error if it does not. */
export const failure = async (run: () => unknown): Promise<Error & { code?: string; parameter?: string }> => {
  try {
    await run()
  } catch (error) {
    return error as Error
  }
  throw new Error('expected a refusal')
}
