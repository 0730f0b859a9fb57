import { Session, type Tensor } from '../lib'
import { agree, attribute, float, floats, graph, ints, modelOf, sizeOf, type Input, type Step, type Values } from './graphs'

const { int, string: text } = attribute

/** Random indices from -size to size - 1. */
const picks = (dims: readonly number[], size: number, seed: number, type: 'int64' | 'int32' = 'int64'): Tensor => {
  const numbers = Array.from(floats(dims, seed).data as Float32Array, (v) => Math.min(size - 1, Math.floor(v * size)))
  return { type, dims, data: type === 'int64' ? BigInt64Array.from(numbers, BigInt) : Int32Array.from(numbers) }
}
const whole = (dims: readonly number[], seed: number): Tensor => ({ type: 'int32', dims, data: Int32Array.from(floats(dims, seed).data as Float32Array, (v) => Math.floor(v * 9)) })
const flags = (dims: readonly number[], seed: number): Tensor => ({ type: 'bool', dims, data: Uint8Array.from(floats(dims, seed).data as Float32Array, (v) => Number(v > 0)) })

/** One node over fed tensors; constants by name; the steps that its plan must have. */
async function check(steps: readonly Step[], feeds: Values, constants: Values, want: readonly string[], outputs: readonly string[] = ['y'], opset = 18): Promise<void> {
  const inputs = Object.entries(feeds).map(([name, t]): Input => [name, t.type, t.dims])
  const last = steps[steps.length - 1] as Step
  const type = last[0] === 'TopK' || feeds['x']?.type !== 'float32' ? feeds['x']?.type : 'float32'
  const model = modelOf(graph(inputs, constants, steps, outputs.map((o): Input => [o, o === 'i' ? 'int64' : (type as 'float32'), null])), opset)
  await agree(model, feeds)
  const session = await Session.create(model)
  expect(session.plan(Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, t.dims]))).steps.map((s) => s.op)).toEqual(want)
  session.dispose()
}

test.each([0, 1, 2, -1])('elements are gathered and scattered along axis %i', async (axis) => {
  const dims = [4, 5, 6]
  const at = [3, 4, 5].map((d, i) => (i === (axis + 3) % 3 ? d + 3 : d))
  const size = dims[(axis + 3) % 3] as number
  for (const [x, u] of [[floats(dims, 1), floats(at, 3)], [whole(dims, 1), whole(at, 3)], [flags(dims, 1), flags(at, 3)]] as const) {
    await check([['GatherElements', ['x', 'p'], ['y'], { axis: int(axis) }]], { x, p: picks(at, size, 2) }, {}, ['gather_elements'])
    if (x.type !== 'float32') continue
    for (const reduction of ['add', 'mul', 'max', 'min'])
      await check([['ScatterElements', ['x', 'p', 'u'], ['y'], { axis: int(axis), reduction: text(reduction) }]], { x, u, p: picks(at, size, 2, 'int32') }, {}, ['scatter_elements'])
  }
  // Where elements replace each other an index may come once only.
  const once: Tensor = { type: 'int64', dims: [2, 2, 2], data: BigInt64Array.from({ length: 8 }, (_, i) => BigInt(([(i >> 2) & 1, (i >> 1) & 1, i & 1][(axis + 3) % 3] as number) * 2 - 1)) }
  for (const [x, u] of [[floats(dims, 1), floats([2, 2, 2], 3)], [whole(dims, 1), whole([2, 2, 2], 3)]] as const)
    await check([['ScatterElements', ['x', 'p', 'u'], ['y'], { axis: int(axis) }]], { x, u, p: once }, {}, ['scatter_elements'])
})

test.each([0, 1, 2])('rows are gathered along axis %i', async (axis) => {
  const dims = [6, 5, 4]
  for (const type of ['int64', 'int32'] as const)
    for (const x of [floats(dims, 1), whole(dims, 1), flags(dims, 1), picks(dims, 9, 1)])
      await check([['Gather', ['x', 'p'], ['y'], { axis: int(axis) }]], { x, p: picks([3, 7], dims[axis] as number, 2, type) }, {}, ['gather'])
  // Several pieces of work for one row of indices, and one for several.
  for (const at of [[90, 200], [90, 2]]) await check([['Gather', ['x', 'p'], ['y'], { axis: int(axis) }]], { x: floats(dims, 1), p: picks(at, dims[axis] as number, 2) }, {}, ['gather'])
})

test.each([
  [[5, 4, 3], [7, 1], 0],
  [[5, 4, 3], [2, 3, 2], 0],
  [[5, 4, 3], [3], 0],
  [[5, 4, 3], [5, 2, 1], 1],
  [[2, 5, 4], [2, 5, 1], 2],
] as const)('slices of %j are gathered by indices of %j, %i axes of them batches', async (dims, at, batch) => {
  const x = floats(dims, 1)
  const p = picks(at, Math.min(...dims), 2)
  await check([['GatherND', ['x', 'p'], ['y'], { batch_dims: int(batch) }]], { x, p }, {}, ['gather_nd'])
  if (batch > 0) return
  const u = floats([...at.slice(0, -1), ...dims.slice(at[at.length - 1])], 3)
  for (const reduction of ['add', 'mul', 'max', 'min']) await check([['ScatterND', ['x', 'p', 'u'], ['y'], { reduction: text(reduction) }]], { x, p, u }, {}, ['scatter_nd'])
})

test('slices replace others', async () => {
  const p: Tensor = { type: 'int64', dims: [3, 1], data: BigInt64Array.of(4n, -5n, 2n) }
  await check([['ScatterND', ['x', 'p', 'u'], ['y']]], { x: floats([5, 3], 1), u: floats([3, 3], 2), p }, {}, ['scatter_nd'])
  await check([['ScatterND', ['x', 'p', 'u'], ['y']]], { x: flags([5, 3], 1), u: flags([3, 3], 2), p }, {}, ['scatter_nd'])
})

test('indices outside end a run, which names no wrong numbers', async () => {
  const x = floats([3, 4], 1)
  const far: Tensor = { type: 'int64', dims: [1, 1], data: BigInt64Array.of(4n) }
  const cases: readonly (readonly [Step, Values])[] = [
    [['GatherElements', ['x', 'p'], ['y']], { x, p: far }],
    [['ScatterElements', ['x', 'p', 'u'], ['y']], { x, p: far, u: floats([1, 1]) }],
    [['GatherND', ['x', 'p'], ['y']], { x, p: far }],
    [['ScatterND', ['x', 'p', 'u'], ['y']], { x, p: far, u: floats([1, 4]) }],
  ]
  for (const [step, feeds] of cases) {
    const inputs = Object.entries(feeds).map(([name, t]): Input => [name, t.type, t.dims])
    const session = await Session.create(modelOf(graph(inputs, {}, [step], ['y']), 18))
    await expect(session.run(feeds)).rejects.toMatchObject({ name: 'WhittleError' })
  }
  const bad = modelOf(graph([['x', 'float32', [3, 4]], ['p', 'int64', [2]]], {}, [['GatherElements', ['x', 'p'], ['y']]], ['y']), 18)
  await expect(Session.create(bad)).rejects.toMatchObject({ code: 'ERR_MODEL_FORMAT', parameter: 'GatherElements0' })
})

test.each([
  [[3, 40], -1, 5, 1],
  [[3, 40], -1, 40, 0],
  [[6, 7, 4], 1, 3, 1],
  [[6, 7, 4], 0, 6, 0],
  [[200], 0, 1, 1],
  [[4, 3], 1, 0, 1],
] as const)('the best of %j along axis %i', async (dims, axis, k, largest) => {
  // Many are equal: the earlier comes first.
  const x: Tensor = { type: 'float32', dims, data: (floats(dims, 1).data as Float32Array).map((v) => Math.round(v * 6)) }
  for (const t of [x, whole(dims, 2), { type: 'int64', dims, data: BigInt64Array.from({ length: sizeOf(dims) }, (_, i) => BigInt((i * 7) % 11)) } as Tensor])
    await check([['TopK', ['x', 'k'], ['v', 'i'], { axis: int(axis), largest: int(largest) }]], { x: t }, { k: ints(k) }, ['top_k'], ['v', 'i'])
})

test('a number that is no number is never among the best while there are others', async () => {
  const model = modelOf(graph([['x', 'float32', [1, 5]]], { k: ints(3) }, [['TopK', ['x', 'k'], ['v', 'i']]], [['i', 'int64', null]]), 18)
  const session = await Session.create(model)
  expect(session.runSync({ x: float([1, 5], NaN, 2, NaN, 7, -1) }).i?.data).toEqual(BigInt64Array.of(3n, 1n, 4n))
})

test('groups and instances are normalized natively, and what follows joins', async () => {
  const x = floats([2, 6, 3, 5], 1)
  const constants = { s: floats([6], 2), b: floats([6], 3) }
  await check([['InstanceNormalization', ['x', 's', 'b'], ['t'], { epsilon: attribute.float(1e-3) }], ['Relu', ['t'], ['y']]], { x }, constants, ['layer_norm', 'elementwise'])
  await check([['GroupNormalization', ['x', 's', 'b'], ['y'], { num_groups: int(3) }]], { x }, constants, ['layer_norm', 'elementwise'], ['y'], 21)
  await check([['InstanceNormalization', ['x', 's', 'b'], ['y']]], { x: floats([2, 6, 40], 1) }, constants, ['layer_norm', 'elementwise'])
  // Through channels-last memory.
  const conv: Step = ['Conv', ['x', 'w'], ['c'], { pads: attribute.ints([1, 1, 1, 1]) }]
  await check([conv, ['InstanceNormalization', ['c', 's', 'b'], ['y']]], { x }, { ...constants, w: floats([6, 6, 3, 3], 4) }, ['copy', 'conv', 'copy', 'layer_norm', 'elementwise'])
})

test.each([0, 2, -1])('triangles above and below diagonal %i', async (k) => {
  for (const upper of [0, 1])
    for (const x of [floats([2, 4, 5], 1), whole([4, 4], 1)])
      await check([['Trilu', ['x', 'k'], ['y'], { upper: int(upper) }]], { x }, { k: { type: 'int64', dims: [], data: BigInt64Array.of(BigInt(k)) } }, ['typed'])
})

test('boxes that overlap better ones are left out', async () => {
  const n = 60
  const centers = floats([n, 4], 3).data as Float32Array
  const data = Float32Array.from({ length: n * 4 }, (_, i) => {
    const [c, half] = [centers[(i >> 2) * 4 + (i & 1)] as number, 0.2 + Math.abs(centers[(i >> 2) * 4 + 2] as number) * 0.2]
    return i & 2 ? c + half : c - half
  })
  const feeds: Values = { b: { type: 'float32', dims: [1, n, 4], data }, s: floats([1, 2, n], 5) }
  for (const center of [0, 1]) {
    const constants: Values = { most: ints(9), far: float([1], 0.3), low: float([1], -0.4) }
    const model = modelOf(
      graph([['b', 'float32', [1, n, 4]], ['s', 'float32', [1, 2, n]]], constants, [['NonMaxSuppression', ['b', 's', 'most', 'far', 'low'], ['y'], { center_point_box: int(center) }]], [['y', 'int64', null]]),
      11,
    )
    await agree(model, feeds)
  }
})

test.each(['int64', 'int32', 'int8', 'uint8', 'uint64'] as const)('Clip of %s is part of the plan', async (type) => {
  const of = (...values: readonly number[]): Tensor => {
    const wide = type.endsWith('64')
    const make = { int64: BigInt64Array, uint64: BigUint64Array, int32: Int32Array, int8: Int8Array, uint8: Uint8Array }[type] as unknown as { from(v: readonly unknown[]): Tensor['data'] }
    return { type, dims: values.length === 1 ? [] : [values.length], data: make.from(wide ? values.map(BigInt) : values) }
  }
  const steps: Step[] = [['Clip', ['x', 'low', 'high'], ['a']], ['Clip', ['x', '', 'high'], ['b']], ['Clip', ['x', 'low'], ['c']], ['Clip', ['x', 'high', 'low'], ['d']], ['Clip', ['x'], ['e']]]
  const model = modelOf(graph([['x', type, ['n']]], { low: of(3), high: of(9) }, steps, ['a', 'b', 'c', 'd', 'e'].map((name) => [name, type, ['n']] as const)))
  const x = of(0, 1, 3, 5, 9, 10, 120)
  await agree(model, { x })
  const session = await Session.create(model)
  expect(session.plan({ x: x.dims }).steps.filter((s) => s.op === 'typed')).toHaveLength(6)
  session.dispose()
})
