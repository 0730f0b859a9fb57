import { attribute, Model, Session } from '../lib'
import { foldConstantNodes } from '../lib/model'
import { KeepBudget } from '../lib/compress/computed'
import { removeUnits } from '../lib/compress/structure/apply'
import { structureOf, type Group, type Structure } from '../lib/compress/structure/groups'
import { mobileNetV2, resNet50 } from './convnets'
import { bool, conv, dimsOf, expectSame, float, floats, graph, int, ints, modelOf, theirs, type Input, type Step, type Values } from './graphs'
import { zeroed } from './oracle/structured'
import { encoder, tokens } from './transformer'

const ofInts = (...v: number[]) => attribute.ints(v)
const image: Input = ['x', 'float32', [2, 3, 8, 8]]
const x = { x: floats([2, 3, 8, 8], 5) }

/** Removes about a third of every group's units, not the same places in each. */
function pruned(model: Model, which: (g: Group) => boolean = () => true): { small: Model; oracle: Model; structure: Structure } {
  const structure = structureOf(model)
  const removals = structure.groups
    .filter((g) => g.units > 1 && which(g))
    .map((group, k) => ({ group, units: Array.from({ length: group.units }, (_, i) => i).filter((i) => i % 3 === (k + 1) % Math.min(3, group.units)) }))
  const small = model.clone()
  expect(removeUnits(small, structure, removals, new KeepBudget())).toEqual(new Map())
  const columns = removals.flatMap(({ group, units }) =>
    group.members
      .filter((m) => m.role === 'input')
      .map((m) => ({ tensor: m.tensor, axis: m.axis, indices: units.flatMap((u) => Array.from(m.indices.slice(u * m.per, (u + 1) * m.per))) })),
  )
  return { small, oracle: zeroed(model, columns), structure }
}

/** What is left computes what the whole did with the readers of removed channels set to zero, in both runtimes. */
async function exact(model: Model, feeds: Values, which?: (g: Group) => boolean, runs = true): Promise<{ small: Model; groups: string[] }> {
  const { small, oracle, structure } = pruned(model, which)
  const want = await theirs(oracle, feeds)
  const got = await theirs(small, feeds)
  for (const name of Object.keys(want)) expectSame(got[name], want[name])
  if (runs) {
    const session = await Session.create(small, { threads: 1 })
    const ours = await session.run(feeds)
    session.dispose()
    for (const name of Object.keys(want)) expectSame(ours[name], want[name])
  }
  // Smaller than before, or nothing was tested.
  expect(small.summary().parameters).toBeLessThan(model.summary().parameters)
  return { small, groups: structure.groups.map((g) => `${g.kind} ${g.units}x${g.width}`) }
}

describe('channels that are coupled go together', () => {
  test('through normalization, activations, a residual addition and pooling', async () => {
    const model = modelOf(
      graph(
        [image],
        {
          w1: floats([12, 3, 3, 3], 1), b1: floats([12], 2), g: floats([12], 3), h: floats([12], 4), m: floats([12], 6), v: float([12], ...Array.from({ length: 12 }, (_, i) => 1 + i / 9)),
          w2: floats([12, 12, 3, 3], 7), slope: floats([12, 1, 1], 8), w3: floats([5, 12, 1, 1], 9), scale: floats([1, 12, 1, 1], 10), wf: floats([20, 6], 11), w4: floats([7, 12, 1, 1], 12), w5: floats([20, 7, 1, 1], 13),
        },
        [
          conv('x', 'w1', 'a', { pads: 1, bias: 'b1' }),
          ['BatchNormalization', ['a', 'g', 'h', 'm', 'v'], ['b']],
          ['Sigmoid', ['b'], ['c']],
          conv('c', 'w2', 'd', { pads: 1 }),
          ['PRelu', ['d', 'slope'], ['e']],
          ['Add', ['e', 'c'], ['f']],
          ['Mul', ['f', 'scale'], ['f2']],
          ['MaxPool', ['f2'], ['p'], { kernel_shape: ofInts(2, 2), strides: ofInts(2, 2) }],
          conv('p', 'w3', 'y1'),
          conv('p', 'w4', 'q'),
          ['Relu', ['q'], ['r']],
          conv('r', 'w5', 's'),
          ['GlobalAveragePool', ['s'], ['t']],
          ['Flatten', ['t'], ['u']],
          ['MatMul', ['u', 'wf'], ['y2']],
        ],
        ['y1', 'y2'],
      ),
    )
    const { small, groups } = await exact(model, x)
    expect(groups).toEqual(['filter 12x1', 'filter 7x1', 'filter 20x1'])
    // One residual stream: both convolutions lose the same four filters, the second one inputs as well.
    expect([dimsOf(small, 'w1'), dimsOf(small, 'w2'), dimsOf(small, 'slope'), dimsOf(small, 'v')]).toEqual([[8, 3, 3, 3], [8, 8, 3, 3], [8, 1, 1], [8]])
  })

  test('through depthwise, grouped and transposed convolutions', async () => {
    const model = modelOf(
      graph(
        [image],
        {
          w1: floats([12, 3, 1, 1], 1), dw: floats([24, 1, 3, 3], 2), db: floats([24], 3), gw: floats([12, 6, 3, 3], 4), tw: floats([12, 4, 2, 2], 5), tg: floats([8, 3, 2, 2], 6),
          w2: floats([8, 8, 1, 1], 7), tb: floats([8], 14), dt: floats([6, 2, 3, 3], 8), w3: floats([4, 12, 1, 1], 9), w4: floats([6, 6, 1, 1], 10),
        },
        [
          conv('x', 'w1', 'a'),
          ['Relu', ['a'], ['a1']],
          conv('a1', 'dw', 'b', { pads: 1, group: 12, bias: 'db' }),
          conv('b', 'gw', 'c', { pads: 1, group: 4 }),
          ['ConvTranspose', ['c', 'tw', 'tb'], ['d'], { strides: ofInts(2, 2), group: attribute.int(2) }],
          conv('d', 'w2', 'e'),
          ['ConvTranspose', ['e', 'tg'], ['f'], { group: attribute.int(2) }],
          conv('f', 'w4', 'g'),
          ['ConvTranspose', ['g', 'dt'], ['h'], { group: attribute.int(6) }],
          conv('h', 'w3', 'y'),
        ],
        ['y'],
      ),
    )
    // Sessions have no transposed convolution in groups.
    const { small } = await exact(model, x, undefined, false)
    // Depth multiplier 2, then four groups: places in a group go in all groups.
    expect(small.graph.nodes.filter((n) => n.opType === 'Conv').map((n) => n.int('group', 1))).toEqual([1, dimsOf(small, 'w1')![0], 4, 1, 1, 1])
    expect(dimsOf(small, 'dw')![0]).toBe(2 * dimsOf(small, 'w1')![0]!)
    expect(dimsOf(small, 'dt')).toEqual([4, 2, 3, 3])
  })

  test('through concatenation, split, slices, gather and padding, each part by itself', async () => {
    const model = modelOf(
      graph(
        [image],
        {
          w1: floats([6, 3, 1, 1], 1), w2: floats([9, 3, 1, 1], 2), w3: floats([10, 15, 3, 3], 3), w4: floats([3, 6, 1, 1], 4), w5: floats([3, 4, 1, 1], 5), pads: ints(0, 0, 1, 1, 0, 0, 1, 1),
          parts: ints(6, 4), s: ints(2), e: ints(2 ** 31), ax: ints(1), w6: floats([3, 4, 1, 1], 6), z: ints(0), two: ints(-2), w7: floats([3, 4, 1, 1], 6),
        },
        [
          conv('x', 'w1', 'a'),
          conv('x', 'w2', 'b'),
          ['Concat', ['a', 'b'], ['c'], { axis: attribute.int(1) }],
          ['Pad', ['c', 'pads'], ['c1']],
          conv('c1', 'w3', 'd'),
          ['Split', ['d', 'parts'], ['e1', 'e2'], { axis: attribute.int(1) }],
          conv('e1', 'w4', 'f'),
          conv('e2', 'w5', 'g'),
          ['Slice', ['e1', 's', 'e', 'ax'], ['h']],
          conv('h', 'w6', 'i'),
          ['Slice', ['e1', 'z', 'two', 'ax'], ['j']],
          conv('j', 'w7', 'k'),
          ['Sum', ['f', 'g', 'i', 'k'], ['y']],
        ],
        ['y'],
      ),
    )
    const { small, groups } = await exact(model, x)
    expect(groups.length).toBeGreaterThanOrEqual(4)
    expect(dimsOf(small, 'w3')!.slice(0, 2)).not.toEqual([10, 15])
  })

  test('equal parts of a split need not stay equal', async () => {
    for (const opset of [11, 13, 18]) {
      const model = modelOf(
        graph(
          [image],
          { w1: floats([12, 3, 1, 1], 1), w2: floats([5, 6, 1, 1], 2), w3: floats([5, 6, 1, 1], 3) },
          [
            conv('x', 'w1', 'a'),
            ['Split', ['a'], ['b', 'c'], { axis: attribute.int(1), ...(opset >= 18 ? { num_outputs: attribute.int(2) } : {}) }],
            conv('b', 'w2', 'd'),
            conv('c', 'w3', 'e'),
            ['Mul', ['d', 'e'], ['y']],
          ],
          ['y'],
        ),
        opset,
      )
      await exact(model, x, (g) => g.members.some((m) => m.tensor === 'w2'))
    }
  })

  test('through a squeeze-and-excitation gate with hard-swish taken apart', async () => {
    const model = modelOf(
      graph(
        [image],
        { w1: floats([16, 3, 3, 3], 1), s1: floats([4, 16, 1, 1], 2), b1: floats([4], 3), s2: floats([16, 4, 1, 1], 4), w2: floats([5, 16, 1, 1], 5), three: float([1], 3), lo: float([], 0), hi: float([], 6) },
        [
          conv('x', 'w1', 'a', { pads: 1 }),
          ['Add', ['a', 'three'], ['h1']],
          ['Clip', ['h1', 'lo', 'hi'], ['h2']],
          ['Mul', ['a', 'h2'], ['h3']],
          ['Div', ['h3', 'hi'], ['h']],
          ['GlobalAveragePool', ['h'], ['p']],
          conv('p', 's1', 'q', { bias: 'b1' }),
          ['Relu', ['q'], ['r']],
          conv('r', 's2', 's'),
          ['HardSigmoid', ['s'], ['t']],
          ['Mul', ['h', 't'], ['u']],
          conv('u', 'w2', 'y'),
        ],
        ['y'],
      ),
    )
    const { groups } = await exact(model, x)
    expect(groups).toEqual(['filter 16x1', 'filter 4x1'])
  })

  test('through reshapes: flattened maps, channels last, a shuffle, pixels out of channels, resizing', async () => {
    const model = modelOf(
      graph(
        [image],
        {
          w1: floats([8, 3, 1, 1], 1), w2: floats([12, 8, 3, 3], 2), to: ints(2, 2, 6, 8, 8), back: ints(0, 12, 8, 8), w3: floats([16, 12, 1, 1], 3), sizes: ints(2, 4, 8, 8), w4: floats([4, 4, 1, 1], 4),
          f1: floats([256, 10], 5), fb: floats([10], 6), f2: floats([10, 3], 7), flat: ints(2, -1), f3: floats([256, 4], 8), one: ints(1), f4: floats([3, 4], 9),
        },
        [
          conv('x', 'w1', 'a'),
          conv('a', 'w2', 'b', { pads: 1 }),
          ['Reshape', ['b', 'to'], ['c']],
          ['Transpose', ['c'], ['d'], { perm: ofInts(0, 2, 1, 3, 4) }],
          ['Reshape', ['d', 'back'], ['e']],
          conv('e', 'w3', 'f'),
          ['DepthToSpace', ['f'], ['g'], { blocksize: attribute.int(2) }],
          ['Resize', ['g', '', '', 'sizes'], ['h'], { mode: attribute.string('nearest') }],
          conv('h', 'w4', 'i'),
          ['Reshape', ['i', 'flat'], ['j']],
          ['Gemm', ['j', 'f1', 'fb'], ['k']],
          ['Relu', ['k'], ['k1']],
          ['MatMul', ['k1', 'f2'], ['y1']],
          ['Transpose', ['i'], ['l'], { perm: ofInts(0, 2, 3, 1) }],
          ['Flatten', ['l'], ['m']],
          ['Gemm', ['m', 'f3'], ['y2']],
        ],
        ['y1', 'y2'],
      ),
    )
    const { small, groups } = await exact(model, x)
    expect(groups).toContain('neuron 10x1')
    // Four channels of 64 pixels each, read in two orders.
    expect([dimsOf(small, 'w4')![0], dimsOf(small, 'f1')![0], dimsOf(small, 'f3')![0]]).toEqual([3, 192, 192])
  })

  test('into what a recurrent cell reads', async () => {
    const model = modelOf(
      graph(
        [['x', 'float32', [5, 2, 6]]],
        { w: floats([6, 9], 1), b: floats([9], 2), W: floats([1, 12, 9], 3), R: floats([1, 12, 4], 4) },
        [
          ['MatMul', ['x', 'w'], ['a']],
          ['Add', ['b', 'a'], ['c']],
          ['Tanh', ['c'], ['d']],
          ['GRU', ['d', 'W', 'R'], ['y'], { hidden_size: attribute.int(4) }],
        ],
        ['y'],
      ),
    )
    const { small } = await exact(model, { x: floats([5, 2, 6], 3) })
    expect(dimsOf(small, 'W')).toEqual([1, 12, 6])
  })
})

describe('attention heads', () => {
  const constants = { wqkv: floats([24, 72], 1), bqkv: floats([72], 2), wo: floats([24, 24], 3), five: ints(2, 5, 3, 6, 4), zero: int(0), one: int(1), two: int(2), back: ints(0, 0, 24), root: float([], 2) }
  const packed = modelOf(
    graph(
      [['x', 'float32', [2, 5, 24]]],
      constants,
      [
        ['MatMul', ['x', 'wqkv'], ['a']],
        ['Add', ['a', 'bqkv'], ['b']],
        ['Reshape', ['b', 'five'], ['c']],
        ['Transpose', ['c'], ['d'], { perm: ofInts(2, 0, 3, 1, 4) }],
        ['Gather', ['d', 'zero'], ['q']],
        ['Gather', ['d', 'one'], ['k']],
        ['Gather', ['d', 'two'], ['v']],
        ['Transpose', ['k'], ['kt'], { perm: ofInts(0, 1, 3, 2) }],
        ['MatMul', ['q', 'kt'], ['e']],
        ['Div', ['e', 'root'], ['f']],
        ['Softmax', ['f'], ['g']],
        ['MatMul', ['g', 'v'], ['h']],
        ['Transpose', ['h'], ['i'], { perm: ofInts(0, 2, 1, 3) }],
        ['Reshape', ['i', 'back'], ['j']],
        ['MatMul', ['j', 'wo'], ['o']],
        ['Add', ['x', 'o'], ['y']],
      ],
      ['y'],
    ),
  )

  test('go as a whole where one product makes queries, keys and values', async () => {
    const { small, groups } = await exact(packed, { x: floats([2, 5, 24], 7) })
    expect(groups).toEqual(['head 6x12'])
    expect([dimsOf(small, 'wqkv'), dimsOf(small, 'bqkv'), dimsOf(small, 'wo')]).toEqual([[24, 48], [48], [16, 24]])
  })

  test.each([14, 17, 20])('of an encoder with sizes that the graph computes, opset %i, go with their queries, keys and values', async (opset) => {
    const model = encoder({ layers: 2, hidden: 24, heads: 6, inner: 40, words: 50, opset, sdpa: opset > 14 })
    foldConstantNodes(model)
    const { small, groups } = await exact(model, tokens(2, 7, 50))
    expect(groups.filter((g) => g === 'head 6x4')).toHaveLength(2)
    expect(groups.filter((g) => g === 'neuron 40x1')).toHaveLength(2)
    expect(small.byteLength()).toBeLessThan(model.byteLength())
    // Another batch and length: nothing was fixed to the sizes that were guessed.
    const other = tokens(3, 11, 50)
    expect((await theirs(small, other)).last_hidden_state!.dims).toEqual([3, 11, 24])
  })
})

describe('networks', () => {
  test('ResNet-50 loses a third of its channels, its residual streams included', async () => {
    const model = resNet50({ image: 32, width: 4, classes: 10 })
    const { small } = await exact(model, { input: floats([1, 3, 32, 32], 2) })
    expect(small.summary().parameters).toBeLessThan(0.55 * model.summary().parameters)
  })

  test('MobileNetV2 does', async () => {
    const model = mobileNetV2({ image: 32, width: 4, classes: 10 })
    foldConstantNodes(model)
    await exact(model, { input: floats([1, 3, 32, 32], 2) })
  })
})

describe('what needs all channels keeps them', () => {
  const blocked = (constants: Values, steps: readonly Step[], outputs: string[], opset = 17, input = image) => structureOf(modelOf(graph([input], constants, steps, outputs), opset))
  const w = { w1: floats([6, 3, 1, 1], 1), w2: floats([4, 6, 1, 1], 2) }

  test.each<[string, Values, Step[], RegExp]>([
    ['a softmax over channels', {}, [['Softmax', ['a'], ['b'], { axis: attribute.int(1) }]], /Softmax/],
    ['a mean over channels', { ax: ints(1) }, [['ReduceMax', ['a', 'ax'], ['m']], ['Sub', ['a', 'm'], ['b']]], /ReduceMax/],
    ['response normalization', {}, [['LRN', ['a'], ['b'], { size: attribute.int(3) }]], /LRN/],
    ['channels put before them', { p: ints(0, 1, 0, 0, 0, -1, 0, 0) }, [['Pad', ['a', 'p'], ['b']]], /Pad/],
    ['their number in a formula', { i: int(1) }, [['Shape', ['a'], ['s']], ['Gather', ['s', 'i'], ['n']], ['Cast', ['n'], ['f'], { to: attribute.int(1) }], ['Div', ['a', 'f'], ['b']]], /Shape/],
    ['an op that nobody knows', {}, [['com.microsoft:FastGelu', ['a'], ['b']]], /FastGelu/],
    ['a reversed order', { s: ints(-1), e: ints(-100), x1: ints(1), st: ints(-1) }, [['Slice', ['a', 's', 'e', 'x1', 'st'], ['b']]], /Slice/],
  ])('%s', async (_, constants, steps, why) => {
    const { groups, kept } = blocked({ ...w, ...constants }, [conv('x', 'w1', 'a'), ...steps, conv('b', 'w2', 'y')], ['y'])
    expect(groups).toEqual([])
    expect(kept.get('w1')).toMatch(why)
    expect(kept.get('w2')).toMatch(why.source === 'FastGelu' ? /not known without running/ : /output of the model/)
  })

  test('shapes that nobody tells', () => {
    const { groups, kept } = blocked(w, [conv('x', 'w1', 'a'), ['Relu', ['a'], ['b']], conv('b', 'w2', 'y')], ['y'], 17, ['x', 'float32', null])
    expect([groups, [...kept.keys()]]).toEqual([[], ['w1', 'w2']])
    expect(kept.get('w1')).toMatch(/shapes at Conv Conv0 are not known/)
  })

  test('a branch that reads them, a layer normalization, sums between two activations', () => {
    const inner = graph([], { wi: floats([2, 6, 1, 1], 3) }, [conv('a', 'wi', 'z')], ['z'])
    inner.inputs = []
    const branch = blocked({ ...w, yes: bool(true) }, [conv('x', 'w1', 'a'), ['If', ['yes'], ['t'], { then_branch: attribute.graph(inner), else_branch: attribute.graph(inner.clone()) }], conv('a', 'w2', 'u')], ['t', 'u'])
    expect([branch.groups, branch.kept.get('w1')]).toEqual([[], expect.stringMatching(/^If/)])
    const rows: Input = ['x', 'float32', [2, 5, 6]]
    const norm = blocked({ a1: floats([6, 8], 1), g: floats([8], 2), a2: floats([8, 3], 3) }, [['MatMul', ['x', 'a1'], ['a']], ['LayerNormalization', ['a', 'g'], ['b']], ['MatMul', ['b', 'a2'], ['y']]], ['y'], 17, rows)
    expect([norm.groups, norm.kept.get('a1')]).toEqual([[], expect.stringMatching(/LayerNormalization/)])
    const product = blocked({ a1: floats([6, 8], 1), a2: floats([6, 8], 3) }, [['MatMul', ['x', 'a1'], ['a']], ['MatMul', ['x', 'a2'], ['b']], ['Transpose', ['b'], ['c'], { perm: ofInts(0, 2, 1) }], ['MatMul', ['a', 'c'], ['y']]], ['y'], 17, rows)
    expect([product.groups, product.kept.get('a1')]).toEqual([[], expect.stringMatching(/MatMul/)])
  })
})
