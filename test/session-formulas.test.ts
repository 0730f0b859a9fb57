import { Session } from '../lib'
import { agree, float, floats, graph, modelOf, type Step } from './graphs'

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
