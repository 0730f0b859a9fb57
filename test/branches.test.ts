import { compress, Session, type Attribute, type Model } from '../lib'
import { agree, attribute, expectSame, floats, graph, modelOf, theirs, type Step, type Values } from './graphs'

const list = (...v: readonly number[]): Attribute => attribute.ints([...v])

interface Block {
  readonly steps: readonly Step[]
  readonly constants: Values
  readonly channels: number
  readonly sizes: readonly number[]
  /** convolutions and additions that are left */
  readonly left: readonly [convolutions: number, additions: number]
  readonly outputs?: readonly string[]
}

const positive = (n: number): Values[string] => ({ type: 'float32', dims: [n], data: (floats([n], 9).data as Float32Array).map((v) => 0.5 + v * v) })
const norm = (n: number): Values => ({ gamma: floats([n], 5), beta: floats([n], 6), mean: floats([n], 7), variance: positive(n) })
const kNorm = ['gamma', 'beta', 'mean', 'variance']
const pads = (n: number, rank = 2): { pads: Attribute } => ({ pads: list(...new Array<number>(2 * rank).fill(n)) })

const blocks: Readonly<Record<string, Block>> = {
  'RepVGG: 3x3, 1x1 and a normalization': {
    steps: [
      ['Conv', ['x', 'w', 'b'], ['c'], pads(1)], ['Conv', ['x', 'v'], ['d']], ['BatchNormalization', ['x', ...kNorm], ['n']],
      ['Add', ['c', 'd'], ['s']], ['Add', ['n', 's'], ['t']], ['Relu', ['t'], ['y']],
    ],
    constants: { w: floats([6, 6, 3, 3], 1), b: floats([6], 2), v: floats([6, 6, 1, 1], 3), ...norm(6) },
    channels: 6, sizes: [7, 8], left: [1, 0],
  },
  'depthwise with strides and a constant between': {
    steps: [
      ['Conv', ['x', 'v', 'b'], ['d'], { group: attribute.int(5), strides: list(2, 2) }], ['Conv', ['x', 'w'], ['c'], { ...pads(1), group: attribute.int(5), strides: list(2, 2) }],
      ['Add', ['d', 'k'], ['s']], ['Add', ['s', 'c'], ['t']], ['Sigmoid', ['t'], ['y']],
    ],
    constants: { w: floats([5, 1, 3, 3], 1), b: floats([5], 2), v: floats([5, 1, 1, 1], 3), k: floats([], 4) },
    channels: 5, sizes: [7, 8], left: [1, 1],
  },
  'groups, dilations, padding that differs, another addend': {
    steps: [
      ['Conv', ['x', 'w'], ['c'], { pads: list(2, 2, 2, 2), dilations: list(2, 2), group: attribute.int(2) }], ['Conv', ['x', 'v'], ['d'], { pads: list(0, 2, 0, 0), dilations: list(1, 2), group: attribute.int(2) }],
      ['BatchNormalization', ['x', ...kNorm], ['n']], ['Add', ['c', 'x'], ['s']], ['Add', ['n', 'd'], ['t']], ['Add', ['s', 't'], ['y']],
    ],
    constants: { w: floats([6, 3, 3, 3], 1), v: floats([6, 3, 1, 2], 3), ...norm(6) },
    channels: 6, sizes: [7, 8], left: [1, 1],
  },
  'three axes': {
    steps: [['Conv', ['x', 'w'], ['c'], pads(1, 3)], ['Conv', ['x', 'v', 'b'], ['d'], { pads: list(1, 0, 0, 1, 0, 0) }], ['Add', ['d', 'c'], ['y']]],
    constants: { w: floats([4, 3, 3, 3, 3], 1), v: floats([4, 3, 3, 1, 1], 3), b: floats([4], 2) },
    channels: 3, sizes: [3, 5, 6], left: [1, 0],
  },
  'no kernel has room for both': {
    steps: [['Conv', ['x', 'w'], ['c'], { pads: list(1, 0, 1, 0) }], ['Conv', ['x', 'v'], ['d'], { pads: list(0, 1, 0, 1) }], ['Add', ['d', 'c'], ['y']]],
    constants: { w: floats([4, 3, 3, 1], 1), v: floats([4, 3, 1, 3], 3) },
    channels: 3, sizes: [5, 6], left: [2, 1],
  },
  'sums that spread over a map': {
    steps: [['Conv', ['x', 'w'], ['c']], ['Conv', ['x', 'v'], ['d']], ['Add', ['c', 'd'], ['y']]],
    constants: { w: floats([4, 3, 1, 1], 1), v: floats([4, 3, 5, 6], 3) },
    channels: 3, sizes: [5, 6], left: [2, 1],
  },
  'strides that differ, a result that is asked for, one that is read twice': {
    steps: [
      ['Conv', ['x', 'w'], ['c'], pads(1)], ['Conv', ['x', 'v'], ['d']], ['Conv', ['x', 'u'], ['e']], ['Conv', ['x', 't'], ['f'], { strides: list(6, 6) }],
      ['Add', ['c', 'd'], ['p']], ['Add', ['p', 'e'], ['q']], ['Add', ['q', 'f'], ['r']], ['Mul', ['r', 'e'], ['y']],
    ],
    constants: { w: floats([4, 3, 3, 3], 1), v: floats([4, 3, 1, 1], 3), u: floats([4, 3, 1, 1], 4), t: floats([4, 3, 1, 1], 5) },
    channels: 3, sizes: [5, 6], left: [4, 3], outputs: ['y', 'd'],
  },
}

const count = (model: Model, op: string): number => model.graph.nodes.filter((n) => n.is(op)).length

test.each(Object.entries(blocks))('sums of convolutions, %s', async (_, { steps, constants, channels, sizes, left, outputs }) => {
  const model = modelOf(graph([['x', 'float32', ['n', channels, ...sizes]]], constants, steps, outputs ?? ['y']))
  const feeds = [1, 2].map((n) => ({ x: floats([n, channels, ...sizes], n) }))
  await agree(model, ...feeds)
  const folded = (await compress(model, { steps: [{ step: 'fold' }] })).model
  for (const f of feeds) expectSame((await theirs(folded, f))['y'], (await theirs(model, f))['y'])
  // A constant addend is a bias after that.
  const constant = steps.some(([, names]) => names.includes('k')) ? 1 : 0
  expect([count(folded, 'Conv'), count(folded, 'Add')]).toEqual([left[0], left[1] - constant])
  const session = await Session.create(model)
  const made = session.plan({ x: [1, channels, ...sizes] }).steps.filter((s) => s.op.startsWith('conv'))
  expect(made).toHaveLength(left[0])
  session.dispose()
})

test('values of branches can be fetched all the same', async () => {
  const { steps, constants } = blocks['RepVGG: 3x3, 1x1 and a normalization'] as Block
  const session = await Session.create(modelOf(graph([['x', 'float32', ['n', 6, 7, 8]]], constants, steps, ['y'])))
  const x = floats([1, 6, 7, 8])
  const { d, s } = await session.run({ x }, { fetch: ['d', 's'] })
  const want = await theirs(modelOf(graph([['x', 'float32', ['n', 6, 7, 8]]], constants, steps.slice(0, 4), ['d', 's'])), { x })
  expectSame(d, want['d'])
  expectSame(s, want['s'])
  session.dispose()
})
