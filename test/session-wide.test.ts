import { Session, type Tensor } from '../lib'
import { attribute, graph, modelOf, theirs, type Input } from './graphs'

/** float64 and integers where kernels know float32 alone, against onnxruntime-node. */
const wide = (dims: readonly number[], seed: number): Tensor => ({
  type: 'float64',
  dims,
  data: Float64Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => 0.1 + Math.abs(Math.sin(seed * 7.3 + i * 1.7)) * 2.5),
})
const whole = (type: 'int32' | 'int64', dims: readonly number[], seed: number): Tensor => {
  const values = Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => ((i * 37 + seed * 11) % 19) - 9)
  return { type, dims, data: type === 'int64' ? BigInt64Array.from(values, BigInt) : Int32Array.from(values) }
}

async function same(op: string, feeds: Readonly<Record<string, Tensor>>, attributes = {}): Promise<void> {
  const inputs = Object.entries(feeds).map(([name, t]): Input => [name, t.type, t.dims])
  const of = modelOf(graph(inputs, {}, [[op, Object.keys(feeds), ['y'], attributes]], [['y', (inputs[0] as Input)[1], null]]))
  const session = await Session.create(of)
  const [got, want] = [(await session.run(feeds))['y'] as Tensor, (await theirs(of, feeds))['y'] as Tensor]
  session.dispose()
  expect([got.type, got.dims]).toEqual([want.type, want.dims])
  const values = Array.from(want.data as Iterable<number | bigint>, Number)
  Array.from(got.data as Iterable<number | bigint>, Number).forEach((v, i) => expect(Math.abs(v - (values[i] as number))).toBeLessThanOrEqual(1e-12 * Math.max(1, Math.abs(v))))
}

test.each(['Ceil', 'Floor', 'Round', 'Relu', 'Reciprocal', 'Sqrt', 'Exp', 'Log', 'Sigmoid', 'Sin', 'Cos', 'Tanh'])('%s of float64', (op) => same(op, { x: wide([3, 4], 1) }))
test.each([0, 1, -1])('Softmax and LogSoftmax of float64 along %d', async (axis) => {
  for (const op of ['Softmax', 'LogSoftmax']) await same(op, { x: wide([3, 4, 2], 2) }, { axis: attribute.int(axis) })
})
test('Relu of integers', () => same('Relu', { x: whole('int32', [3, 5], 1) }))
test.each([[[3, 4], [4, 5]], [[2, 1, 3, 4], [3, 4, 2]], [[4], [4, 5]], [[3, 4], [4]], [[4], [4]]])('MatMul of %j and %j', async (a, b) => {
  await same('MatMul', { a: wide(a, 1), b: wide(b, 2) })
  await same('MatMul', { a: whole('int64', a, 1), b: whole('int64', b, 2) })
  await same('MatMul', { a: whole('int32', a, 1), b: whole('int32', b, 2) })
}) // prettier-ignore
test('halves go to the even number', async () => {
  const of = modelOf(graph([['x', 'float64', [6]]], {}, [['Round', ['x'], ['y']]], [['y', 'float64', [6]]]))
  const session = await Session.create(of)
  const { y } = await session.run({ x: { type: 'float64', dims: [6], data: Float64Array.of(0.5, 1.5, 2.5, -0.5, -1.5, 2.4) } })
  expect(Array.from(y?.data as Float64Array, (v) => v + 0)).toEqual([0, 2, 2, 0, -2, 2])
  session.dispose()
})
test('sizes that do not fit', async () => {
  const of = modelOf(graph([['a', 'int64', [2, 3]], ['b', 'int64', [4, 2]]], {}, [['MatMul', ['a', 'b'], ['y']]], ['y']))
  await expect(Session.create(of).then((s) => s.run({ a: whole('int64', [2, 3], 1), b: whole('int64', [4, 2], 1) }))).rejects.toMatchObject({ name: 'WhittleError' })
})
