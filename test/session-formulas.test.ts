import { Session } from '../lib'
import { agree, attribute, float, floats, graph, ints, modelOf, type Step } from './graphs'

const constants = {
  half: float([], 0.5), two: float([], 2), one: float([], 1), three: float([], 3), root2: float([], Math.SQRT2),
  c: float([], 0.044715), s: float([], Math.sqrt(2 / Math.PI)), w: floats([24, 40], 3), v: floats([40, 8], 4),
} // prettier-ignore

const cubes: Readonly<Record<string, readonly Step[]>> = {
  'a power': [['Pow', ['x', 'three'], ['cube']]],
  'a product of a power': [['Pow', ['x', 'two'], ['sq']], ['Mul', ['sq', 'x'], ['cube']]],
  'products': [['Mul', ['x', 'x'], ['sq']], ['Mul', ['x', 'sq'], ['cube']]],
}

const tanh = (more: readonly Step[]): Step[] => [
  ...more,
  ['Mul', ['cube', 'c'], ['term']],
  ['Add', ['x', 'term'], ['sum']],
  ['Mul', ['s', 'sum'], ['scaled']],
  ['Tanh', ['scaled'], ['t']],
  ['Add', ['t', 'one'], ['phi']],
]
const erf: Step[] = [['Div', ['x', 'root2'], ['d']], ['Erf', ['d'], ['e']], ['Add', ['one', 'e'], ['phi']]]

const ends: Readonly<Record<string, readonly Step[]>> = {
  '(x / 2) s': [['Mul', ['x', 'half'], ['h']], ['Mul', ['h', 'phi'], ['g']]],
  'x (s / 2)': [['Div', ['phi', 'two'], ['h']], ['Mul', ['x', 'h'], ['g']]],
  '(x s) / 2': [['Mul', ['phi', 'x'], ['h']], ['Mul', ['half', 'h'], ['g']]],
}

const formulas = [...Object.entries(cubes).map(([name, steps]) => [`tanh, its cube ${name}`, tanh(steps)] as const), ['erf', erf] as const]

describe.each(formulas)('GELU written with %s', (_, inner) => {
  test.each(Object.entries(ends))('%s is part of the product before it', async (_, end) => {
    const steps: Step[] = [['MatMul', ['a', 'w'], ['x']], ...inner, ...end, ['MatMul', ['g', 'v'], ['y']]]
    const model = modelOf(graph([['a', 'float32', ['n', 24]]], constants, steps, ['y']))
    await agree(model, { a: floats([5, 24]) }, { a: floats([1, 24], 2) })
    const session = await Session.create(model)
    expect(session.plan({ a: [5, 24] }).steps.map((s) => s.op)).toEqual(['gemm', 'gemm'])
    session.dispose()
  })
})

test('what only looks like GELU stays what it is', async () => {
  const x = floats([3, 40])
  const near = (name: string, value: number): Promise<void> =>
    agree(modelOf(graph([['x', 'float32', [3, 40]]], { ...constants, [name]: float([], value) }, [...tanh(cubes['products'] ?? []), ...(ends['(x s) / 2'] ?? []), ['Neg', ['g'], ['y']]], ['y'])), { x })
  for (const [name, value] of [['c', 0.05], ['s', 0.8], ['one', 1.5], ['half', 0.25]] as const) await near(name, value)
})

test.each([3, 4, -0.5, -2, 2, 0.5, -1, 1, 5])('Pow by %s', async (exponent) => {
  const steps: Step[] = [['Abs', ['x'], ['a']], ['Add', ['a', 'least'], ['b']], ['Pow', ['b', 'e'], ['y']]]
  await agree(modelOf(graph([['x', 'float32', ['n', 7]]], { e: float([1], exponent), least: float([], 0.2) }, steps, ['y'])), { x: floats([9, 7]) })
})

test('a cube keeps the sign', async () => {
  await agree(modelOf(graph([['x', 'float32', ['n']]], { e: float([], 3) }, [['Pow', ['x', 'e'], ['y']]], ['y'])), { x: float([5], -2, -0.5, 0, 1, 3) })
})

const kindSoftmax: Step[] = [
  ['Softmax', ['masked'], ['p'], { axis: attribute.int(-1) }],
  ['IsNaN', ['p'], ['blind']],
  ['Where', ['blind', 'zero', 'p'], ['weights']],
]
const float32 = { to: attribute.int(1) }
const castSoftmax: Step[] = [
  ['Cast', ['masked'], ['wide0'], float32],
  ['Softmax', ['wide0'], ['p'], { axis: attribute.int(-1) }],
  ['Cast', ['p'], ['p1'], float32],
  ['Cast', ['p1'], ['weights'], float32],
]

/** softmax(q k + mask) v as torch's exporters write it: keys turned as three axes, and NaN of the softmax made zero, or Casts that change nothing. */
function torchAttention(open: boolean, casts: boolean): ReturnType<typeof graph> {
  const shape: Step[] = open
    ? [
        ['Shape', ['q'], ['b'], { start: attribute.int(0), end: attribute.int(1) }],
        ['Shape', ['q'], ['s'], { start: attribute.int(2), end: attribute.int(3) }],
        ['Concat', ['any', 's', 'wide'], ['three'], { axis: attribute.int(0) }],
        ['Concat', ['b', 'heads', 'wide', 's'], ['four'], { axis: attribute.int(0) }],
      ]
    : []
  return graph(
    ['q', 'k', 'v'].map((name) => [name, 'float32', open ? ['batch', 3, 'sequence', 8] : [2, 3, 5, 8]] as const).concat([['mask', 'float32', open ? ['batch', 1, 'sequence', 'sequence'] : [2, 1, 5, 5]]] as never),
    { root: float([], 8 ** -0.25), zero: float([], 0), any: ints(-1), wide: ints(8), heads: ints(3), ...(open ? {} : { three: ints(-1, 5, 8), four: ints(2, 3, 8, 5) }) },
    [
      ...shape,
      ['Reshape', ['k', 'three'], ['k3']],
      ['Transpose', ['k3'], ['t3'], { perm: attribute.ints([0, 2, 1]) }],
      ['Reshape', ['t3', 'four'], ['t4']],
      ['Mul', ['q', 'root'], ['qs']],
      ['Mul', ['t4', 'root'], ['ks']],
      ['MatMul', ['qs', 'ks'], ['scores']],
      ['Add', ['scores', 'mask'], ['masked']],
      ...(casts ? castSoftmax : kindSoftmax),
      ['MatMul', ['weights', 'v'], ['y']],
    ],
    ['y'],
  )
}

test.each([[false, false], [true, false], [true, true]])("attention as torch's exporters write it is one step (open sizes: %s, Casts: %s)", async (open, casts) => {
  const model = modelOf(torchAttention(open, casts), 18)
  const mask = float([2, 1, 5, 5], ...Array.from({ length: 50 }, (_, i) => (i % 4 === 1 || (i >= 10 && i < 15) ? -Infinity : 0)))
  const feeds = { q: floats([2, 3, 5, 8], 1), k: floats([2, 3, 5, 8], 2), v: floats([2, 3, 5, 8], 3), mask }
  const session = await Session.create(model)
  const { steps } = session.plan({ q: [2, 3, 5, 8], k: [2, 3, 5, 8], v: [2, 3, 5, 8], mask: [2, 1, 5, 5] })
  expect(steps.map((s) => s.op)).toContain('attention')
  expect(steps.length).toBeLessThanOrEqual(2)
  // A row that sees nothing.
  const y = session.runSync(feeds).y?.data as Float32Array
  expect(Array.from(y.subarray(2 * 8, 3 * 8))).toEqual(new Array(8).fill(casts ? NaN : 0))
  session.dispose()
  await agree(model, feeds)
})
