import { Session, type Attribute, type Graph, type Tensor } from '../lib'
import { agree, attribute, bool, float, floats, graph, int, ints, modelOf } from './graphs'

const { int: i, ints: list, string, strings, floats: reals, float: real } = attribute
const x = float([2, 3], 1, 0, 3, 0, 5, 6)
const branch = (op: string, c: number): Attribute => attribute.graph(graph([], { c: float([1], c) }, [[op, ['x', 'c'], ['b']]], ['b']))

describe('shapes that depend on data', () => {
  test('NonZero and what follows it', async () => {
    const g = graph([['x', 'float32', ['a', 'b']]], {}, [['NonZero', ['x'], ['n']], ['Cast', ['n'], ['f'], { to: i(1) }], ['Neg', ['f'], ['y']]], ['y'])
    await agree(modelOf(g), { x }, { x: float([1, 4], 0, 0, 0, 1) }, { x: float([1, 2], 0, 0) })
  })

  test('a shape that is an input', async () => {
    const g = graph([['x', 'float32', ['a', 'b']], ['s', 'int64', [2]]], {}, [['Reshape', ['x', 's'], ['r']], ['Relu', ['r'], ['y']]], ['y'])
    await agree(modelOf(g), { x, s: ints(3, 2) }, { x, s: ints(-1, 1) }, { x, s: ints(3, 2) })
  })

  test('Range, Expand, Slice, Tile, ConstantOfShape by an input', async () => {
    const g = graph(
      [['n', 'int64', []]],
      { zero: int(0), one: int(1), axis: ints(0), five: float([1], 5) },
      [
        ['Range', ['zero', 'n', 'one'], ['r']],
        ['Cast', ['r'], ['f'], { to: i(1) }],
        ['Unsqueeze', ['n', 'axis'], ['shape']],
        ['Expand', ['five', 'shape'], ['e']],
        ['Add', ['f', 'e'], ['a']],
        ['Tile', ['a', 'shape'], ['t']],
        ['Slice', ['t', 'shape', 'end'], ['s']],
        ['ConstantOfShape', ['shape'], ['z']],
        ['Add', ['z', 'f'], ['y2']],
        ['Neg', ['s'], ['y']],
      ],
      ['y', 'y2'],
    )
    g.addInitializer((graph([], { end: ints(1000) }, [], []).initializers.get('end')) as never)
    await agree(modelOf(g), { n: int(3) }, { n: int(7) })
  })

  test('a shape computed from what the model finds', async () => {
    const steps = [
      ['ReduceMax', ['x'], ['top'], { keepdims: i(0) }],
      ['Cast', ['top'], ['c'], { to: i(7) }],
      ['Unsqueeze', ['c', 'axis'], ['s']],
      ['Concat', ['s', 'rest'], ['shape'], { axis: i(0) }],
      ['Reshape', ['x', 'shape'], ['r']],
      ['Relu', ['r'], ['y']],
    ] as const
    const g = graph([['x', 'float32', ['a', 'b']]], { rest: ints(-1), axis: ints(0) }, steps, ['y'])
    await agree(modelOf(g), { x }, { x: float([1, 4], 2, 0, 1, 0) })
  })

  test('inputs whose content does not matter share a plan', async () => {
    const g = graph([['i', 'int64', ['n']]], { table: floats([9, 2]) }, [['Gather', ['table', 'i'], ['y']]], ['y'])
    const session = await Session.create(modelOf(g))
    for (const k of [1, 2, 3]) expect(session.runSync({ i: ints(k, 0) }).y?.dims).toEqual([2, 2])
    expect(session.plan({ i: [2] }).steps.map((s) => s.op)).toEqual(['gather'])
  })
})

describe('control flow', () => {
  test('values on the way to a constant can be fetched beside an If whose branch is known', async () => {
    const scaled = (op: string): Attribute => attribute.graph(graph([], {}, [[op, ['x', 'v'], ['b']]], ['b']))
    const g = graph(
      [['x', 'float32', ['a']], ['k', 'int64', []]],
      { five: int(5), many: ints(20000), w: floats([300], 1), s: float([], 3) },
      [
        ['Neg', ['w'], ['c']],
        ['Mul', ['c', 's'], ['v']],
        ['Expand', ['five', 'many'], ['d']],
        ['Equal', ['k', 'five'], ['p']],
        ['If', ['p'], ['y'], { then_branch: scaled('Sub'), else_branch: scaled('Add') }],
      ],
      ['y'],
    )
    const session = await Session.create(modelOf(g))
    for (const k of [5, 4, 5]) {
      const got = await session.run({ x: floats([300], 2), k: int(k) }, { fetch: ['c', 'd', 'y'] })
      const [c, y] = [got['c']!.data as Float32Array, got['y']!.data as Float32Array]
      const [w, given] = [floats([300], 1).data as Float32Array, floats([300], 2).data as Float32Array]
      expect(got['d']!.dims).toEqual([20000])
      expect(c.every((v, at) => v === -w[at]!)).toBe(true)
      expect(y.every((v, at) => Math.abs(v - (given[at]! + (k === 5 ? 3 : -3) * w[at]!)) < 1e-5)).toBe(true)
    }
  })

  test('If by an input and by data, nested', async () => {
    const inner = graph([], { c: float([1], 7) }, [['If', ['q'], ['b'], { then_branch: branch('Mul', 2), else_branch: branch('Add', 3) }]], ['b'])
    const byInput = graph(
      [['x', 'float32', ['a']], ['k', 'int64', []]],
      { s: int(5), zero: int(0) },
      [
        ['Equal', ['k', 's'], ['p']],
        ['Less', ['k', 'zero'], ['q']],
        ['If', ['p'], ['r'], { then_branch: branch('Sub', 1), else_branch: attribute.graph(inner) }],
        ['Neg', ['r'], ['y']],
      ],
      ['y'],
    )
    const v = float([2], 1, 2)
    await agree(modelOf(byInput), { x: v, k: int(5) }, { x: v, k: int(-1) }, { x: v, k: int(1) })
    const byData = graph(
      [['x', 'float32', ['a']]],
      { h: float([], 1) },
      [
        ['ReduceSum', ['x'], ['sum'], { keepdims: i(0) }],
        ['Greater', ['sum', 'h'], ['p']],
        ['If', ['p'], ['r'], { then_branch: branch('Mul', 2), else_branch: branch('Add', 3) }],
        ['Neg', ['r'], ['y']],
      ],
      ['y'],
    )
    await agree(modelOf(byData), { x: v }, { x: float([2], -1, -2) })
  })

  test('Loop with a count, a condition and rows', async () => {
    const body = graph(
      [['i', 'int64', []], ['c', 'bool', []], ['v', 'float32', null]],
      {},
      [['Add', ['v', 'x'], ['next']], ['ReduceSum', ['next'], ['sum'], { keepdims: i(0) }], ['Less', ['sum', 'limit'], ['go']], ['Mul', ['next', 'next'], ['row']]],
      [['go', 'bool', []], 'next', 'row'],
    )
    const g = graph(
      [['x', 'float32', ['a']], ['n', 'int64', []]],
      { limit: float([], 20), yes: bool(true) },
      [['Loop', ['n', 'yes', 'x'], ['last', 'rows'], { body: attribute.graph(body) }], ['Neg', ['rows'], ['y']]],
      ['last', 'y'],
    )
    await agree(modelOf(g), { x: float([2], 1, 2), n: int(3) }, { x: float([2], 1, 2), n: int(30) })
  })

  test('Scan forward and backward', async () => {
    const body = graph([['s', 'float32', [2]], ['e', 'float32', [2]]], {}, [['Add', ['s', 'e'], ['t']], ['Mul', ['t', 'e'], ['r']]], [['t', 'float32', [2]], ['r', 'float32', [2]]])
    for (const back of [0, 1]) {
      const scan = { body: attribute.graph(body.clone()), num_scan_inputs: i(1), scan_input_directions: list([back]), scan_output_directions: list([1 - back]) }
      const g = graph([['x', 'float32', [3, 2]], ['a', 'float32', [2]]], {}, [['Scan', ['a', 'x'], ['last', 'y'], scan]], [['last', 'float32', [2]], ['y', 'float32', [3, 2]]])
      await agree(modelOf(g), { x: floats([3, 2]), a: float([2], 1, 1) })
    }
  })
})

describe('recurrent layers', () => {
  const [steps, batch, wide, hidden] = [5, 3, 4, 6]
  const gates = { LSTM: 4, GRU: 3, RNN: 1 } as const
  function layer(op: keyof typeof gates, attributes: Record<string, Attribute>, more: { directions?: number; all?: boolean; given?: boolean; lengths?: boolean }): Graph {
    const d = more.directions ?? 1
    const rows = gates[op] * hidden
    const constants: Record<string, Tensor> = { b: floats([d, 2 * rows], 4), h: floats([d, batch, hidden], 5), c: floats([d, batch, hidden], 6), p: floats([d, 3 * hidden], 7) }
    const weights = { w: floats([d, rows, wide], 2), r: floats([d, rows, hidden], 3) }
    if (more.lengths) constants.n = { type: 'int32', dims: [batch], data: Int32Array.of(5, 2, 4) }
    const inputs = ['x', 'w', 'r', 'b', more.lengths ? 'n' : '', ...(more.all ? ['h', ...(op === 'LSTM' ? ['c', 'p'] : [])] : [])]
    const outputs = ['y', 'last', ...(op === 'LSTM' ? ['cell'] : [])]
    const given = more.given ? (['w', 'r'] as const).map((k) => [k, 'float32', weights[k].dims] as const) : []
    return graph([['x', 'float32', [steps, batch, wide]], ...given], { ...constants, ...(more.given ? {} : weights) }, [[op, inputs, outputs, { hidden_size: i(hidden), ...attributes }]], outputs)
  }
  const feeds = { x: floats([steps, batch, wide]) }

  test.each(['LSTM', 'GRU', 'RNN'] as const)('%s: directions, initial states, lengths, clip, weights that are inputs', async (op) => {
    await agree(modelOf(layer(op, {}, {})), feeds)
    await agree(modelOf(layer(op, { direction: string('reverse') }, { all: true })), feeds)
    await agree(modelOf(layer(op, { direction: string('bidirectional'), clip: real(0.3) }, { all: true, directions: 2, lengths: true })), feeds)
    const weights = { w: floats([1, gates[op] * hidden, wide], 2), r: floats([1, gates[op] * hidden, hidden], 3) }
    await agree(modelOf(layer(op, {}, { given: true, all: true })), { ...feeds, ...weights })
  })

  test('other activations, coupled gates, the reset gate after the product', async () => {
    await agree(modelOf(layer('LSTM', { activations: strings(['HardSigmoid', 'Softsign', 'Tanh']), activation_alpha: reals([0.3]), activation_beta: reals([0.4]) }, {})), feeds)
    await agree(modelOf(layer('GRU', { linear_before_reset: i(1) }, { all: true })), feeds)
    await agree(modelOf(layer('RNN', { activations: strings(['Relu']) }, {})), feeds)
    await agree(modelOf(layer('RNN', { activations: strings(['Elu']), activation_alpha: reals([0.5]) }, {})), feeds)
  })
})
