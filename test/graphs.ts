import * as ort from 'onnxruntime-node'
import { attribute, Graph, Initializer, Model, Node, Session, ValueInfo, type Attribute, type Dim, type ElementType, type Tensor } from '../lib'
import { noise } from './nets'

/** Graphs in a few words, and their comparison with onnxruntime-node. */

export type Values = Readonly<Record<string, Tensor>>
export type Step = readonly [op: string, inputs: readonly string[], outputs: readonly string[], attributes?: Record<string, Attribute>]
export type Input = readonly [name: string, type: ElementType, dims: readonly Dim[] | null]

export const sizeOf = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)
export const floats = (dims: readonly number[], seed = 1): Tensor => ({ type: 'float32', dims, data: noise(sizeOf(dims), seed) })
export const float = (dims: readonly number[], ...values: number[]): Tensor => ({ type: 'float32', dims, data: Float32Array.from(values) })
export const ints = (...values: number[]): Tensor => ({ type: 'int64', dims: [values.length], data: BigInt64Array.from(values, BigInt) })
export const int = (value: number): Tensor => ({ type: 'int64', dims: [], data: BigInt64Array.of(BigInt(value)) })
export const bool = (value: boolean): Tensor => ({ type: 'bool', dims: [], data: Uint8Array.of(Number(value)) })

export function graph(inputs: readonly Input[], constants: Values, steps: readonly Step[], outputs: readonly (string | Input)[]): Graph {
  const g = new Graph('g')
  g.inputs = inputs.map(([name, type, dims]) => new ValueInfo(name, type, dims))
  for (const [name, t] of Object.entries(constants)) g.addInitializer(Initializer.from(name, t))
  steps.forEach(([op, names, outs, attributes], i) => {
    const [opType, domain] = op.split(':').reverse() as [string, string?]
    g.addNode(new Node({ opType, domain: domain ?? '', name: `${opType}${i}`, inputs: names, outputs: outs, ...(attributes && { attributes }) }))
  })
  g.outputs = outputs.map((o) => (typeof o === 'string' ? new ValueInfo(o, 'float32', null) : new ValueInfo(...o)))
  return g
}

export function modelOf(g: Graph, opset = 17): Model {
  return new Model({ graph: g, opsets: [['', opset], ['com.microsoft', 1]], irVersion: opset > 20 ? 10 : 8 })
}

export async function theirs(model: Model, feeds: Values, options: ort.InferenceSession.SessionOptions = {}): Promise<Record<string, Tensor>> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 4, intraOpNumThreads: 1, ...options })
  const given = Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, new ort.Tensor(t.type as 'float32', t.data as Float32Array, t.dims)]))
  return (await session.run(given)) as unknown as Record<string, Tensor>
}

/** Every element within 1e-4 of the largest magnitude. */
export function expectSame(got: Tensor | undefined, want: Tensor | undefined): void {
  expect([got?.type, got?.dims]).toEqual([want?.type, [...(want?.dims ?? [])]])
  let top = 1e-30
  for (const v of want?.data ?? []) if (Number.isFinite(Number(v))) top = Math.max(top, Math.abs(Number(v)))
  const far = Array.from((want?.data ?? []) as Iterable<number | bigint>).findIndex((v, i) => {
    const [a, b] = [Number(got?.data[i]), Number(v)]
    return !(a === b || Math.abs(a - b) <= 1e-4 * top || (Number.isNaN(a) && Number.isNaN(b)))
  })
  if (far >= 0) throw new Error(`element ${far} is ${got?.data[far]}, want ${want?.data[far]}`)
}

/** Runs one session on all feeds, both ways. */
export function agree(model: Model, ...all: readonly Values[]): Promise<void> {
  return agreeWith({}, model, ...all)
}

/** The same, with options of onnxruntime's. */
export async function agreeWith(options: ort.InferenceSession.SessionOptions, model: Model, ...all: readonly Values[]): Promise<void> {
  const session = await Session.create(model, { threads: 2 })
  for (const feeds of all) {
    const want = await theirs(model, feeds, options)
    const [a, b] = [await session.run(feeds), session.runSync(feeds)]
    for (const [name, t] of Object.entries(want)) {
      expectSame(a[name], t)
      expectSame(b[name], t)
    }
  }
  session.dispose()
}

export { attribute }

/** A convolution of two dimensions, by default without padding. */
export const conv = (x: string, w: string, y: string, o: { pads?: number; group?: number; bias?: string; strides?: number; dilations?: number } = {}): Step => [
  'Conv',
  o.bias ? [x, w, o.bias] : [x, w],
  [y],
  { pads: attribute.ints(Array.from({ length: 4 }, () => o.pads ?? 0)), group: attribute.int(o.group ?? 1), strides: attribute.ints([o.strides ?? 1, o.strides ?? 1]), dilations: attribute.ints([o.dilations ?? 1, o.dilations ?? 1]) },
]

export const dimsOf = (model: Model, name: string): readonly number[] | undefined => model.graph.initializers.get(name)?.dims
