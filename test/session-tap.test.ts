import { Session, type Tensor } from '../lib'
import { attribute, expectSame, float, floats, graph, ints, modelOf, theirs, type Values } from './graphs'

const copyOf = ({ type, dims, data }: Tensor): Tensor => ({ type, dims: [...dims], data: data.slice() })

/** Convolution, normalization, activation, a residual and a head: much of it fuses; `m` is a constant times a shape. */
function net(): ReturnType<typeof graph> {
  const four = (seed: number): Tensor => ({ ...floats([4], seed), data: (floats([4], seed).data as Float32Array).map(Math.abs) })
  return graph(
    [['x', 'float32', [2, 3, 6, 5]]],
    { w: floats([4, 3, 3, 3], 2), v: floats([4, 3, 1, 1], 3), g: four(4), b: four(5), m: four(6), s: four(7), h: floats([120, 7], 8), half: float([], 0.5), one: float([], 1), root: float([], Math.SQRT2), shape: ints(2, -1) },
    [
      ['Conv', ['x', 'w'], ['c'], { pads: attribute.ints([1, 1, 1, 1]) }],
      ['BatchNormalization', ['c', 'g', 'b', 'm', 's'], ['n']],
      ['Relu', ['n'], ['r']],
      ['Conv', ['x', 'v'], ['side']],
      ['Add', ['r', 'side'], ['sum']],
      ['Reshape', ['sum', 'shape'], ['flat']],
      ['MatMul', ['flat', 'h'], ['p']],
      ['Div', ['p', 'root'], ['e0']],
      ['Erf', ['e0'], ['e1']],
      ['Add', ['e1', 'one'], ['e2']],
      ['Mul', ['p', 'e2'], ['e3']],
      ['Mul', ['e3', 'half'], ['gelu']],
      ['Transpose', ['gelu'], ['turned']],
      ['Softmax', ['turned'], ['y']],
    ],
    ['y'],
  )
}
const feeds: Values = { x: floats([2, 3, 6, 5]) }
const whole = ['c', 'n', 'r', 'side', 'sum', 'flat', 'p', 'gelu', 'turned']
const inside = ['e0', 'e1', 'e2', 'e3']

/** What onnxruntime finds for every value. */
async function truth(make: () => ReturnType<typeof graph>, names: readonly string[], given: Values): Promise<Record<string, Tensor>> {
  const g = make()
  g.outputs = graph([], {}, [], [...new Set(['y', ...names])]).outputs
  return theirs(modelOf(g), given)
}

test.each([[whole], [[...whole, ...inside]]])('taps of %j see what onnxruntime finds, in both kinds of run', async (names) => {
  const want = await truth(net, names, feeds)
  const session = await Session.create(modelOf(net()), { threads: 2 })
  const plain = session.runSync(feeds)
  let seen: Record<string, Tensor> = {}
  const end = session.tap(names, (view, name) => void (seen[name] = copyOf(view)))
  for (const run of [() => session.run(feeds), () => Promise.resolve(session.runSync(feeds))]) {
    seen = {}
    const got = await run()
    expectSame(got['y'], plain['y'] as Tensor)
    expect(Object.keys(seen).sort()).toEqual([...names].sort())
    for (const name of names) expectSame(seen[name], want[name])
  }
  end()
  seen = {}
  await session.run(feeds)
  expect(seen).toEqual({})
})

test('inputs, outputs and constants can be tapped, by several functions', async () => {
  const session = await Session.create(modelOf(net()))
  const seen: string[] = []
  const same = (_: Tensor, name: string): void => void seen.push(name)
  session.tap('x', same)
  session.tap(['y', 'w', 'y'], same)
  const end = session.tap('y', same)
  let y: Tensor | undefined
  session.tap('y', (view) => void (y = copyOf(view)))
  const got = await session.run(feeds)
  expect(seen.sort()).toEqual(['w', 'x', 'y', 'y'])
  expectSame(y, got['y'])
  end()
  end()
  seen.length = 0
  session.runSync(feeds)
  expect(seen.sort()).toEqual(['w', 'x', 'y'])
})

test('memory of a tapped value is used again: a view that is kept does not keep it', async () => {
  const steps = Array.from({ length: 12 }, (_, i) => ['MatMul', [i ? `t${i - 1}` : 'x', 'w'], [i === 11 ? 'y' : `t${i}`]] as const)
  const session = await Session.create(modelOf(graph([['x', 'float32', [8, 64]]], { w: floats([64, 64], 2) }, steps, ['y'])))
  const buffers = new Set<unknown>()
  const places = new Set<number>()
  session.tap(steps.slice(0, -1).map((s) => s[2][0] as string), (view) => {
    buffers.add(view.data.buffer)
    places.add(view.data.byteOffset)
  })
  session.runSync({ x: floats([8, 64]) })
  expect(buffers.size).toBe(1)
  expect(places.size).toBe(2)
})

test('graphs that are cut by data, and values that only a tap asks for', async () => {
  const make = (): ReturnType<typeof graph> =>
    graph(
      [['x', 'float32', ['a', 'b']]],
      {},
      [['Relu', ['x'], ['r']], ['Exp', ['r'], ['lonely']], ['NonZero', ['r'], ['n']], ['Cast', ['n'], ['f'], { to: attribute.int(1) }], ['Neg', ['f'], ['y']], ['Abs', ['f'], ['z']]],
      ['y'],
    )
  const x = float([2, 3], 1, -1, 3, 0, 5, 6)
  const names = ['lonely', 'f', 'z']
  const want = await truth(make, names, { x })
  const session = await Session.create(modelOf(make()))
  const seen: Record<string, Tensor> = {}
  session.tap([...names, 'n'], (view, name) => void (seen[name] = copyOf(view)))
  for (const run of [() => session.run({ x }), () => Promise.resolve(session.runSync({ x }))]) {
    for (const name of Object.keys(seen)) delete seen[name]
    await run()
    for (const name of names) expectSame(seen[name], want[name])
    expect(seen['n']?.dims).toEqual([2, 4])
  }
})

test('a run waits for a promise; what a function throws ends the run, and the next one is whole', async () => {
  const session = await Session.create(modelOf(net()), { profile: true })
  const log: string[] = []
  const end = session.tap(['sum', 'p'], async (view, name) => {
    const before = copyOf(view)
    await new Promise((resolve) => setTimeout(resolve, 2))
    expectSame(view, before)
    log.push(name)
  })
  const y = (await Promise.all([session.run(feeds), session.run(feeds)]))[1]?.['y']
  expect(log.sort()).toEqual(['p', 'p', 'sum', 'sum'])
  expect(session.profile().runs).toBe(2)
  expect(() => session.runSync(feeds)).toThrow(expect.objectContaining({ code: 'ERR_DTYPE', parameter: 'view' }))
  end()
  const mine = new Error('mine')
  const stop = session.tap('sum', () => {
    throw mine
  })
  await expect(session.run(feeds)).rejects.toBe(mine)
  expect(() => session.runSync(feeds)).toThrow(mine)
  stop()
  expectSame(session.runSync(feeds)['y'], y)
})

test('an abort or dispose between two parts ends the run; a plan that was pushed out meanwhile is still there', async () => {
  const session = await Session.create(modelOf(graph([['x', 'float32', ['n', 4]]], { w: floats([4, 4]) }, [['MatMul', ['x', 'w'], ['t']], ['Softmax', ['t'], ['y']]], ['y'])))
  const stop = new AbortController()
  const end = session.tap('t', () => stop.abort())
  await expect(session.run({ x: floats([2, 4]) }, { signal: stop.signal })).rejects.toMatchObject({ code: 'ERR_ABORTED' })
  end()
  let inside = false
  const many = session.tap('t', () => {
    if (inside) return
    inside = true
    for (let n = 3; n < 25; n++) session.runSync({ x: floats([n, 4]) })
  })
  const got = await session.run({ x: floats([2, 4]) })
  many()
  expectSame(got['y'], session.runSync({ x: floats([2, 4]) })['y'])
  session.tap('t', () => session.dispose())
  await expect(session.run({ x: floats([2, 4]) })).rejects.toMatchObject({ code: 'ERR_HANDLE' })
})

test.each<[unknown, unknown, string, string]>([
  ['nothing', () => 0, 'ERR_RANGE', 'name'],
  [[], () => 0, 'ERR_DTYPE', 'name'],
  ['', () => 0, 'ERR_RANGE', 'name'],
  [[3], () => 0, 'ERR_RANGE', 'name'],
  [null, () => 0, 'ERR_DTYPE', 'name'],
  ['y', undefined, 'ERR_DTYPE', 'view'],
])('tap(%j, %p) is refused', async (name, view, code, parameter) => {
  const session = await Session.create(modelOf(net()))
  expect(() => session.tap(name as string, view as () => void)).toThrow(expect.objectContaining({ code, parameter }))
  session.dispose()
  expect(() => session.tap('y', () => 0)).toThrow(expect.objectContaining({ code: 'ERR_HANDLE' }))
})

test('a fetch after a whole run does not take weights that the whole run folded more into', async () => {
  const session = await Session.create(modelOf(net()))
  const want = await truth(net, whole, feeds)
  session.runSync(feeds)
  for (const name of whole) expectSame(session.runSync(feeds, { fetch: [name] })[name], want[name])
  expectSame(session.runSync(feeds)['y'], want['y'])
})
