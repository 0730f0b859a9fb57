import { attribute, compress, Model, pruningSensitivity, Session, type GroupPoint, type Tensor } from '../lib'
import { foldConstantNodes } from '../lib/model'
import { KeepBudget } from '../lib/compress/computed'
import { removeUnits } from '../lib/compress/structure/apply'
import { structureOf, type Group, type Structure } from '../lib/compress/structure/groups'
import { mobileNetV2, resNet50 } from './convnets'
import { bool, expectSame, float, floats, graph, int, ints, modelOf, theirs, type Input, type Step, type Values } from './graphs'
import { failure } from './nets'
import { zeroed } from './oracle/structured'
import { encoder, tokens } from './transformer'

const ofInts = (...v: number[]) => attribute.ints(v)
const conv = (x: string, w: string, y: string, o: { pads?: number; group?: number; bias?: string; strides?: number } = {}): Step => [
  'Conv',
  o.bias ? [x, w, o.bias] : [x, w],
  [y],
  { pads: ofInts(...Array.from({ length: 4 }, () => o.pads ?? 0)), group: attribute.int(o.group ?? 1), strides: ofInts(o.strides ?? 1, o.strides ?? 1) },
]
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

const dimsOf = (model: Model, name: string): readonly number[] | undefined => model.graph.initializers.get(name)?.dims

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

describe('the prune step with a structure', () => {
  const lively = (rows: number, columns: number, strong: readonly number[]): Tensor => {
    const t = floats([rows, columns, 1, 1], 3)
    return { ...t, data: (t.data as Float32Array).map((v, i) => v + (strong.includes(Math.floor(i / columns)) ? 9 : 0)) }
  }
  const two = modelOf(
    graph([image], { w1: lively(8, 3, [1, 2, 6, 7]), b1: floats([8], 9), w2: floats([8, 8, 3, 3], 4), w3: floats([4, 8, 1, 1], 5) }, [conv('x', 'w1', 'a', { bias: 'b1' }), ['Relu', ['a'], ['b']], conv('b', 'w2', 'c'), ['Relu', ['c'], ['d']], conv('d', 'w3', 'y')], ['y']),
  )
  const prune = (step: object, options = {}, model = two) => compress(model, { steps: [{ step: 'prune', structure: 'filter', sparsity: 0.5, ...step } as never] }, options)

  test('removes the filters of least norm and tells what became of each weight', async () => {
    const { model, report } = await prune({})
    const data = two.graph.initializers.get('w1')!.readSync().data as Float32Array
    const left = model.graph.initializers.get('w1')!.readSync().data as Float32Array
    expect(Array.from(left)).toEqual([1, 2, 6, 7].flatMap((i) => Array.from(data.slice(3 * i, 3 * i + 3))))
    expect(report.steps[0]!.layers.map((l) => [l.weight, l.action, l.dimsAfter, l.reason])).toEqual([
      ['w1', 'pruned', [4, 3, 1, 1], undefined],
      ['w2', 'pruned', [4, 4, 3, 3], undefined],
      ['w3', 'pruned', [4, 4, 1, 1], undefined],
    ])
    expect(report.steps[0]!.summary).toMatch(/Removed 8 of 16 filters \(l1, uniform\) from 3 weights/)
    expect(report.after.parameters).toBe(12 + 4 + 144 + 16)
    // What it replays by is complete, and does the same.
    const again = await compress(two, report.recipe as never)
    expect(Buffer.from(again.model.toBytes())).toEqual(Buffer.from(model.toBytes()))
    expect(Buffer.from((await prune({ criterion: 'random', seed: 3 })).model.toBytes())).toEqual(Buffer.from((await prune({ criterion: 'random', seed: 3 })).model.toBytes()))
  })

  test('takes minimum, multiples, scope and layers into account', async () => {
    const dims = async (step: object) => (await prune(step)).report.steps[0]!.layers.map((l) => (l.dimsAfter ?? l.dims).slice(0, 2))
    // Six would stay: eight do, the next multiple; the last layer is told as kept.
    expect(await dims({ sparsity: 0.3, roundTo: 4 })).toEqual([[4, 8]])
    expect(await dims({ sparsity: 0.6, roundTo: 4 })).toEqual([[4, 3], [4, 4], [4, 4]])
    expect(await dims({ sparsity: 0.9, minChannels: 3 })).toEqual([[3, 3], [3, 3], [4, 3]])
    expect(await dims({ layers: 'w2' })).toEqual([[4, 8], [4, 4]])
    expect(await dims({ layers: { exclude: ['w3'] } })).toEqual([[4, 3], [8, 4]])
    // The weak filters of the first layer go before any of the second's.
    expect((await dims({ sparsity: 0.25, scope: 'global' }))[0]).toEqual([4, 3])
    expect((await failure(() => prune({ layers: 'nothing' }))).message).toMatch(/no weight is called "nothing"/)
  })

  test('scores by norms, by the median filter, by the readers and by gamma', async () => {
    const rows = (values: readonly number[]): Tensor => float([values.length, 1, 1, 1], ...values)
    const net = (w1: Tensor, w2: Tensor, more: Values = {}, steps: Step[] = [['Relu', ['a'], ['b']]]) => modelOf(graph([['x', 'float32', [1, 1, 2, 2]]], { w1, w2, ...more }, [conv('x', 'w1', 'a'), ...steps, conv('b', 'w2', 'y')], ['y']))
    const left = async (step: object, model: Model) => Array.from((await prune({ sparsity: 0.25, ...step }, {}, model)).model.graph.initializers.get('w1')!.readSync().data as Float32Array)
    const plain = net(rows([1, -0.5, 3, 3.5]), float([1, 4, 1, 1], 5, 4, 3, 2))
    expect(await left({ criterion: 'l1' }, plain)).toEqual([1, 3, 3.5])
    expect(await left({ structure: 'channel', criterion: 'l2' }, plain)).toEqual([1, -0.5, 3])
    // Distances: 1 has 1.5 + 2 + 2.5 = 6, -0.5 has 9, 3 has 6, 3.5 has 7: the first of the two that are replaceable goes.
    expect(await left({ criterion: 'geometric-median' }, plain)).toEqual([-0.5, 3, 3.5])
    const bn = { g: float([4], 1, 2, -0.1, 3), h: float([4], 0, 0, 0, 0), m: float([4], 0, 0, 0, 0), v: float([4], 1, 1, 1, 1) }
    const scaled = net(rows([1, -0.5, 3, 3.5]), float([1, 4, 1, 1], 5, 4, 3, 2), bn, [['BatchNormalization', ['a', 'g', 'h', 'm', 'v'], ['b']]])
    expect(await left({ criterion: 'gamma' }, scaled)).toEqual([1, -0.5, 3.5])
    const { report } = await prune({ criterion: 'gamma' }, {}, plain)
    expect(report.steps[0]!.layers[0]).toMatchObject({ action: 'kept', reason: 'no batch normalization scales these channels' })
  })

  const inputsOf = (n: number) => Array.from({ length: n }, (_, i) => ({ x: floats([2, 3, 8, 8], 20 + i) }))

  test('scores by what channels compute on calibration inputs', async () => {
    // Channel c of four: relu of x times a factor, so that what each computes is known.
    const net = (factors: readonly number[], readers: readonly number[], shift: readonly number[] = [0, 0, 0, 0]) =>
      modelOf(
        graph([['x', 'float32', [1, 1, 2, 3]]], { w1: float([4, 1, 1, 1], ...factors), b1: float([4], ...shift), w2: float([1, 4, 1, 1], ...readers) }, [
          conv('x', 'w1', 'a', { bias: 'b1' }),
          ['Relu', ['a'], ['b']],
          conv('b', 'w2', 'y'),
        ], ['y']),
      )
    const calibration = [{ x: float([1, 1, 2, 3], 1, 2, -3, 2, 4, 5) }, { x: float([1, 1, 2, 3], 1, 3, 0.5, 2, -1, -1) }]
    const left = async (criterion: string, model: Model, sparsity = 0.25) =>
      Array.from((await prune({ criterion, sparsity }, { calibration }, model)).model.graph.initializers.get('w1')!.readSync().data as Float32Array)
    // The negative factor is zero wherever x is positive, nine times of twelve.
    expect(await left('apoz', net([0.1, -9, 1, 2], [1, 1, 1, 1]))).toEqual([0.1, -9, 1, 2].filter((f) => f !== -9).map(Math.fround))
    expect(await left('mean', net([0.1, -9, 1, 2], [1, 1, 1, 1]))).toEqual([-9, 1, 2])
    // Large, but nearly the same everywhere.
    expect(await left('variance', net([3, -9, 0.01, 2], [1, 1, 1, 1], [0, 0, 100, 0]))).toEqual([3, -9, 2])
    // Rank 1 in both maps: all entries alike. The others have rank 2.
    expect(await left('hrank', net([3, 5, 0, 2], [1, 1, 1, 1], [0.5, 0.25, 100, 0.125]))).toEqual([3, 5, 2])
    // What the reader weighs least adds least to its sum, however large it is.
    for (const criterion of ['thinet', 'lasso']) expect(await left(criterion, net([9, -3, 2, 1], [0.001, 1, 1, 1]))).toEqual([-3, 2, 1])
    // The second alone adds more than the third, but most of the first, which goes before it, it only cancels.
    expect(await left('thinet', net([1, 1.5, -2.6, 9], [1, -1, 1, 1]), 0.5)).toEqual([-2.6, 9].map(Math.fround))
    expect((await failure(() => prune({ criterion: 'apoz' }))).message).toMatch(/needs inputs to calibrate on/)
  })

  test('scores by the gradients of a loss', async () => {
    const model = modelOf(graph([['x', 'float32', [1, 2, 2, 2]]], { w1: float([3, 2, 1, 1], 1, 2, 3, 4, 5, 6), w2: float([1, 3, 1, 1], 1, 1, 1) }, [conv('x', 'w1', 'a'), ['Relu', ['a'], ['b']], conv('b', 'w2', 'y')], ['y']))
    const taylor = (g: readonly number[]) => prune({ criterion: 'taylor', sparsity: 0.34, gradients: { w1: float([3, 2, 1, 1], ...g) } }, {}, model)
    // Sums of g·w: 1 + 2, 6 - 6, 5 - 1: the second cancels.
    const { model: small, report } = await taylor([1, 1, 2, -1.5, 1, -1 / 6])
    expect(Array.from(small.graph.initializers.get('w1')!.readSync().data as Float32Array)).toEqual([1, 2, 5, 6])
    expect(JSON.stringify(report.recipe)).toContain('"gradients":{"names":["w1"]}')
    expect((await failure(() => prune({ criterion: 'taylor', gradients: { w1: float([3], 1, 2, 3) } }, {}, model))).message).toMatch(/gradients.w1: expected dims \[3, 2, 1, 1\]/)
    expect((await failure(() => prune({ criterion: 'taylor' }, {}, model))).message).toMatch(/gradients: expected gradients by weight name/)
  })

  test('merges units that are alike: equal ones at no cost', async () => {
    const rows = [[1, 2, 3], [-1, 0.5, 2], [1, 2, 3], [0.3, -1, 1], [-1, 0.5, 2], [1, 2, 3]]
    const twins = modelOf(
      graph([image], { w1: float([6, 3, 1, 1], ...rows.flat()), b1: float([6], 1, 2, 1, 3, 2, 1), dw: float([6, 1, 1, 1], 2, 3, 2, 4, 3, 2), w2: floats([4, 6, 3, 3], 4) }, [
        conv('x', 'w1', 'a', { bias: 'b1' }),
        ['Relu', ['a'], ['b']],
        conv('b', 'dw', 'c', { group: 6 }),
        conv('c', 'w2', 'y'),
      ], ['y']),
    )
    const { model, report } = await prune({ merge: true }, {}, twins)
    expect(dimsOf(model, 'w2')).toEqual([4, 3, 3, 3])
    expectSame((await theirs(model, x)).y, (await theirs(twins, x)).y)
    expect(report.steps[0]!.summary).toMatch(/merged/)
    // Without it the same ratio costs.
    const without = (await theirs((await prune({}, {}, twins)).model, x)).y
    const whole = (await theirs(twins, x)).y
    expect((await failure(() => expectSame(without, whole))).message).toMatch(/element/)
    expect((await failure(() => prune({ merge: true, criterion: 'l2' }))).message).toMatch(/criterion: expected nothing beside merge/)
  })

  test('fits what reads removed channels anew: no linear change of it comes nearer', async () => {
    // The third and fourth channels are sums of others: what reads them can do without.
    const w1 = floats([4, 3, 1, 1], 3).data as Float32Array
    for (let k = 0; k < 3; k++) [w1[6 + k], w1[9 + k]] = [w1[k]! + w1[3 + k]!, (w1[k]! - w1[3 + k]!) / 2]
    const constants = { w1: { type: 'float32', dims: [4, 3, 1, 1], data: w1 } as Tensor, b1: floats([4], 9), w2: floats([5, 4, 3, 3], 4), b2: floats([5], 8), w3: floats([2, 5, 1, 1], 5) }
    const linear = modelOf(graph([image], constants, [conv('x', 'w1', 'a', { bias: 'b1' }), conv('a', 'w2', 'c', { bias: 'b2' }), ['Relu', ['c'], ['d']], conv('d', 'w3', 'y')], ['y']))
    const calibration = inputsOf(6)
    const step = { layers: 'w1', reconstruct: true, ridge: 0 }
    const { model } = await prune(step, { calibration }, linear)
    expect([dimsOf(model, 'w1'), dimsOf(model, 'w2')]).toEqual([[2, 3, 1, 1], [5, 2, 3, 3]])
    expectSame((await theirs(model, x)).y, (await theirs(linear, x)).y)
    // Deterministic, and a huge ridge leaves the weights that were cut.
    expect(Buffer.from((await prune(step, { calibration }, linear)).model.toBytes())).toEqual(Buffer.from(model.toBytes()))
    const held = (await prune({ ...step, ridge: 1e9 }, { calibration }, linear)).model.graph.initializers.get('w2')!.readSync()
    const plain = (await prune({ layers: 'w1' }, {}, linear)).model.graph.initializers.get('w2')!.readSync()
    expectSame(held, plain)
    expect((await failure(() => prune({ reconstruct: true }))).message).toMatch(/needs inputs to calibrate on/)
  })

  // The first layer has two filters that do nothing, the second has none: which to cut is plain.
  const lame = two.clone()
  {
    const t = two.graph.initializers.get('w1')!.readSync() as Tensor<Float32Array>
    const idle = (i: number): boolean => i === 0 || i === 3
    lame.graph.setInitializer('w1', { ...t, data: t.data.map((v, i) => (idle(Math.floor(i / 3)) ? v * 1e-4 : v)) })
    const b = two.graph.initializers.get('b1')!.readSync() as Tensor<Float32Array>
    lame.graph.setInitializer('b1', { ...b, data: b.data.map((_, i) => (idle(i) ? -1 : 0.5)) })
  }

  test('search: netadapt takes what costs least a saved multiplication, round by round, and stops at its limits', async () => {
    const calibration = inputsOf(3)
    const step = { search: 'netadapt', sparsity: 0.3, increment: 0.06 }
    const { model, report } = await prune(step, { calibration }, lame)
    const [first] = report.steps[0]!.layers
    // Both idle filters go first; then the cheaper of either layer's.
    expect(first!.dimsAfter![0]).toBeLessThanOrEqual(6)
    const w1 = model.graph.initializers.get('w1')!.readSync().data as Float32Array
    expect(Math.min(...Array.from(w1, Math.abs))).toBeGreaterThan(1e-3)
    expect(report.steps[0]!.summary).toMatch(/netadapt, [1-9]\d* rounds/)
    const share = Number(/\(([\d.]+) %\)\.$/.exec(report.steps[0]!.summary)![1])
    expect(share).toBeGreaterThanOrEqual(70)
    expect(share).toBeLessThan(80)
    expect(Buffer.from((await prune(step, { calibration }, lame)).model.toBytes())).toEqual(Buffer.from(model.toBytes()))
    // An accuracy that any further cut ruins ends it after the idle ones, exactly.
    const whole = (await theirs(lame, calibration[0]!)).y!.data as Float32Array
    const evaluate = async (m: Model): Promise<number> => {
      const y = (await theirs(m, calibration[0]!)).y!.data as Float32Array
      return -Math.max(...y.map((v, i) => Math.abs(v - whole[i]!)))
    }
    const limited = await prune({ ...step, sparsity: 0.9 }, { calibration, evaluate, limits: { accuracyDrop: 1e-3 } }, lame)
    expect([dimsOf(limited.model, 'w1'), dimsOf(limited.model, 'w2')]).toEqual([[6, 3, 1, 1], [8, 6, 3, 3]])
    // Layers behind that are fitted anew make up for part of it.
    const deeper = { ...step, sparsity: 0.6 }
    const cut = await prune(deeper, { calibration }, lame)
    const fitted = await prune({ ...deeper, reconstruct: true }, { calibration }, lame)
    const change = async (m: Model): Promise<number> => Math.hypot(...((await theirs(m, calibration[1]!)).y!.data as Float32Array).map((v, i) => v - second[i]!))
    const second = (await theirs(lame, calibration[1]!)).y!.data as Float32Array
    expect(await change(fitted.model)).toBeLessThan(await change(cut.model))
    expect((await failure(() => prune({ search: 'netadapt' }))).message).toMatch(/needs inputs to calibrate on/)
    expect((await failure(() => prune({ search: 'netadapt', merge: true }))).message).toMatch(/merge: expected nothing with search/)
  })

  test('pruningSensitivity tells what each group bears', async () => {
    const calibration = inputsOf(2)
    const groups = await pruningSensitivity(lame, { calibration, structure: 'filter', ratios: [0, 0.25, 0.75] })
    expect(groups.map((g) => [g.layer, g.kind, g.units, g.weights])).toEqual([
      ['Conv0', 'filter', 8, ['b1', 'w1', 'w2']],
      ['Conv2', 'filter', 8, ['w2', 'w3']],
    ])
    const [first, second] = groups.map((g) => g.points) as [GroupPoint[], GroupPoint[]]
    expect(first.map((p) => p.left)).toEqual([8, 6, 2])
    // Nothing removed, no noise; idle filters next to none; others plenty.
    expect([first[0]!.snr, second[0]!.snr]).toEqual([null, null])
    expect(first[1]!.snr ?? 300).toBeGreaterThan(60)
    expect(second[1]!.snr).toBeLessThan(40)
    expect(first[2]!.snr!).toBeLessThan(second[1]!.snr! + 20)
    expect(first[0]!.macs).toBe(1)
    expect(first[2]!.macs).toBeLessThan(first[1]!.macs)
    const judged = await pruningSensitivity(lame, { evaluate: (m) => m.summary().parameters, ratios: [0.5], layers: 'w1' })
    expect(judged.map((g) => g.points.map((p) => p.accuracy))).toEqual([[12 + 4 + 8 * 4 * 9 + 32]])
    expect((await failure(() => pruningSensitivity(lame, {}))).message).toMatch(/options.calibration: expected inputs to compare outputs on/)
    expect((await failure(() => pruningSensitivity(lame, { calibration, ratios: [2] }))).message).toMatch(/options.ratios\[0\]/)
  })

  test('refuses what it cannot do by name', async () => {
    const cases: [object, RegExp][] = [
      [{ structure: 'row' }, /steps\[0\]\.structure: expected one of 'filter'/],
      [{ sparsity: 1 }, /sparsity: expected a share below 1/],
      [{ sparsity: undefined }, /sparsity: expected a share from 0 to below 1/],
      [{ criterion: 'l3' }, /criterion: expected one of/],
      [{ roundTo: 0 }, /roundTo/],
      [{ patern: 1 }, /patern: unknown option/],
      [{ layers: [] }, /layers: expected at least one name/],
    ]
    for (const [step, message] of cases) expect((await failure(() => prune(step))).message).toMatch(message)
    const broken = two.clone()
    broken.graph.setInitializer('w1', { type: 'float32', dims: [8, 3, 1, 1], data: new Float32Array(24).fill(NaN) })
    expect((await failure(() => prune({}, {}, broken))).message).toMatch(/w1: expected finite weights/)
  })

  test('leaves a model without such structure as it is, and says so', async () => {
    const { model, report } = await prune({ structure: 'head' })
    expect(Buffer.from(model.toBytes())).toEqual(Buffer.from(two.toBytes()))
    expect(report.steps[0]!.summary).toMatch(/^Removed 0 of 0 heads/)
  })
})
