import path from 'node:path'
import { attribute, compress, Graph, Initializer, Node, Session, ValueInfo, type Model, type Preset } from '../lib'
import { bool, float, floats, graph, ints, modelOf, theirs, type Step, type Values } from './graphs'

// Weights that nodes make from constants: exporters leave gates of an LSTM to be put in another order, and matrices to be transposed.
const hidden = 16
const gates = (from: string, to: string): Step[] => [
  ...[0, 1, 2].map((i): Step => ['Slice', [from, `at${i}`, `end${i}`, 'zero'], [`${to}_${i}`]]),
  ['Concat', [`${to}_1`, `${to}_0`, `${to}_2`], [`${to}_j`], { axis: attribute.int(0) }],
  ['Unsqueeze', [`${to}_j`, 'zero'], [to]],
]
const cut: Values = { zero: ints(0), at0: ints(0), at1: ints(hidden), at2: ints(2 * hidden), end0: ints(hidden), end1: ints(2 * hidden), end2: ints(4 * hidden) }

/** An LSTM in a branch; what it reads is made there, of constants around it or its own. */
function branch(name: string, last: string, own: Values = {}): Graph {
  const steps: Step[] = [...gates('w', `${name}_w`), ...gates(own.r ? 'r' : 'u', `${name}_r`), ['LSTM', ['x', `${name}_w`, `${name}_r`], [`${name}_y`], { hidden_size: attribute.int(hidden) }], [last, [`${name}_y`], [`${name}_o`]]]
  return graph([], own, steps, [`${name}_o`])
}
const inBranches = (): Model =>
  modelOf(
    graph(
      [['c', 'bool', []], ['x', 'float32', [3, 1, 24]]],
      { ...cut, w: floats([4 * hidden, 24], 3), u: floats([4 * hidden, hidden], 4) },
      [['If', ['c'], ['y'], { then_branch: attribute.graph(branch('then', 'Relu')), else_branch: attribute.graph(branch('else', 'Neg', { r: floats([4 * hidden, hidden], 5) })) }]],
      ['y'],
    ),
  ) // prettier-ignore

/** Both runtimes give the same, near to what the original gives. */
async function expectNear(made: Model, small: Model, feeds: Values, within: number): Promise<void> {
  const [want, got, other] = [await (await Session.create(made)).run(feeds), await (await Session.create(small)).run(feeds), await theirs(small, feeds)]
  const distance = (a: ArrayLike<number>, b: ArrayLike<number>): number => Math.hypot(...Array.from(a, (v, i) => v - b[i]!)) / Math.hypot(...Array.from(b))
  const [w, g, o] = [want.y!.data, got.y!.data, other.y!.data] as [Float32Array, Float32Array, Float32Array]
  expect(distance(g, w)).toBeLessThan(within)
  expect(distance(o, g)).toBeLessThan(1e-5)
}

test.each(['int8-weights', 'transformers.js', 'transformers.js-fp16'] as const)('%s reaches the weights of LSTMs in branches', async (preset) => {
  const made = inBranches()
  const { model, report } = await compress(made, preset)
  const layers = report.steps.at(-1)!.layers
  expect(layers.map((l) => [l.op, l.elements, l.action])).toEqual([1536, 1024, 1024].map((n) => ['LSTM', n, 'quantized']))
  for (const c of [true, false]) await expectNear(made, model, { c: bool(c), x: floats([3, 1, 24], 7) }, 0.02)
})

test('a transposed matrix is quantized; a preset for products sees it', async () => {
  const made = modelOf(graph([['x', 'float32', [2, 64]]], { w: floats([96, 64], 3) }, [['Transpose', ['w'], ['t'], { perm: attribute.ints([1, 0]) }], ['MatMul', ['x', 't'], ['y']]], ['y']))
  for (const preset of ['int8-weights', 'transformers.js-q4'] as const) {
    const { model, report } = await compress(made, preset)
    expect(report.steps.at(-1)!.layers.map((l) => [l.op, l.dims, l.action])).toEqual([['MatMul', [64, 96], 'quantized']])
    await expectNear(made, model, { x: floats([2, 64], 5) }, 0.15)
  }
  // What layers share by an Identity stays one tensor.
  const tied = modelOf(graph([['x', 'float32', [2, 64]]], { w: floats([64, 64], 3) }, [['Identity', ['w'], ['t']], ['MatMul', ['x', 'w'], ['h']], ['MatMul', ['h', 't'], ['y']]], ['y']))
  const both = await compress(tied, { steps: [{ step: 'quantize' }] })
  expect(both.report.steps[0]!.layers.map((l) => l.weight)).toEqual(['w'])
  expect(both.report.after.bytes).toBeLessThan(6000)
  await expectNear(tied, both.model, { x: floats([2, 64], 5) }, 0.02)
  // The recipe of a report, which names weights that were spared, means the same ones.
  const spared = await compress(made, { steps: [{ step: 'quantize' }], spared: ['t'] })
  expect(spared.report.steps[0]!.layers).toEqual([])
})

test('codes of a table that is the head too are stored once, and both runtimes multiply by them as before', async () => {
  const steps: Step[] = [['Gather', ['w', 'ids'], ['x']], ['Relu', ['x'], ['h']], ['Transpose', ['w'], ['t'], { perm: attribute.ints([1, 0]) }], ['MatMul', ['h', 't'], ['y']]]
  const made = modelOf(graph([['ids', 'int64', [5]]], { w: floats([96, 64], 3) }, steps, ['y']))
  const feeds = { ids: ints(3, 90, 0, 7, 41) }
  const kinds = async (model: Model): Promise<string[]> => (await Session.create(model)).plan({ ids: [5] }).steps.map((s) => s.op)
  for (const [steps, from, product] of [
    [[{ step: 'quantize' }], 'w', 'gemm_weight'],
    [[{ step: 'quantize', activations: 'dynamic' }, { step: 'quantize' }], 'w_q', 'gemm_dynamic'],
  ] as const) {
    const { model, report } = await compress(made, { steps })
    expect(report.after.bytes).toBeLessThan(0.35 * report.before.bytes)
    expect([...model.graph.initializers.values()].filter((i) => i.type === 'int8' && i.elementCount === 96 * 64).map((i) => i.name)).toEqual(['w_q'])
    expect(model.nodes.filter((n) => n.is('Transpose')).map((n) => n.inputs[0])).toEqual([from])
    await expectNear(made, model, feeds, 0.02)
    expect(await kinds(model)).toContain(product)
  }
  // Told apart, or with activations in codes, each has its own.
  for (const [recipe, calibration] of [
    [{ steps: [{ step: 'prune', sparsity: 0.5, layers: { ops: ['MatMul'] } }, { step: 'quantize' }] }, undefined],
    [{ steps: [{ step: 'quantize', activations: 'static' }] }, [feeds]],
  ] as const) {
    const { model } = await compress(made, recipe as never, calibration ? { calibration: calibration as never } : {})
    expect(model.nodes.some((n) => n.is('Transpose'))).toBe(false)
  }
})

test('a table that is turned to be the head too is stored once where no step told the two apart', async () => {
  const steps: Step[] = [['Gather', ['w', 'ids'], ['x']], ['Relu', ['x'], ['h']], ['Transpose', ['w'], ['t'], { perm: attribute.ints([1, 0]) }], ['MatMul', ['h', 't'], ['y']]]
  const made = modelOf(graph([['ids', 'int64', [5]]], { w: floats([96, 64], 3) }, steps, ['y']))
  const feeds = { ids: ints(3, 90, 0, 7, 41) }
  for (const [step, share, within] of [
    [{ step: 'dedupe' }, 1, 1e-6],
    [{ step: 'equalize' }, 1, 1e-6],
    [{ step: 'quantize', activations: 'float16' }, 0.55, 2e-3],
  ] as const) {
    const { model, report } = await compress(made, { steps: [step] })
    expect(report.after.bytes).toBeLessThanOrEqual(share * report.before.bytes)
    expect(model.nodes.filter((n) => n.is('Transpose')).map((n) => [...n.inputs, ...n.outputs])).toEqual([['w', 't']])
    await expectNear(made, model, feeds, within)
  }
  // Zeros in the head alone.
  const { model } = await compress(made, { steps: [{ step: 'prune', sparsity: 0.5 }] })
  expect(model.nodes.some((n) => n.is('Transpose'))).toBe(false)
  await expectNear(made, model, feeds, 0.6)
})

// Branches of an If that answer a weight: an initializer of theirs, a Constant, one around them by Identity, or another If's choice.
const answer = (node?: Node, own?: readonly [string, number]): Graph => {
  const g = new Graph('choice')
  if (node) g.addNode(node)
  else g.addInitializer(Initializer.from(own![0], floats([32, 32], own![1])))
  g.outputs = [new ValueInfo(node ? node.outputs[0]! : own![0], 'float32', [32, 32])]
  return g
}
const either = (to: string, a: Graph, b: Graph, by = 'c'): Node => new Node({ opType: 'If', inputs: [by], outputs: [to], attributes: { then_branch: attribute.graph(a), else_branch: attribute.graph(b) } })
const chosen = (): Model => {
  const constant = new Node({ opType: 'Constant', inputs: [], outputs: ['w2'], attributes: { value: attribute.tensor(Initializer.from('', floats([32, 32], 2))) } })
  const copy = new Node({ opType: 'Identity', inputs: ['w3'], outputs: ['w3c'] })
  const g = graph([['c', 'bool', []], ['d', 'bool', []], ['x', 'float32', [2, 32]]], { w3: floats([32, 32], 3) }, [['MatMul', ['x', 'w'], ['y'], {}]], ['y'])
  const inner = either('wi', answer(constant), answer(copy), 'd')
  g.addNode(either('w', answer(undefined, ['w1', 1]), answer(inner)), { before: g.nodes[0]! })
  return modelOf(g)
}

test.each([
  ['int8-weights', 0.02, 'quantized'],
  ['transformers.js-fp16', 0.002, 'quantized'],
  [{ steps: [{ step: 'quantize', bits: 4, storage: 'folded' }] }, 0.3, 'quantized'],
  [{ steps: [{ step: 'codebook', bits: 6 }] }, 0.1, 'quantized'],
  [{ steps: [{ step: 'prune', sparsity: 0.2 }, { step: 'quantize' }] }, 0.2, 'quantized'],
] as const)('%j reaches the constants that an If chooses between', async (recipe, within, action) => {
  const made = chosen()
  const { model, report } = await compress(made, recipe as Preset)
  expect(report.steps.at(-1)!.layers.map((l) => [l.weight, l.op, l.dims, l.action])).toEqual(['w1', 'w2', 'w3'].map((w) => [w, 'MatMul', [32, 32], action]))
  expect(report.after.bytes).toBeLessThan(0.75 * report.before.bytes)
  for (const [c, d] of [[true, true], [false, true], [false, false]] as const) await expectNear(made, model, { c: bool(c), d: bool(d), x: floats([2, 32], 5) }, within)
})

test('weights that a step cannot reach are named, with the reason', async () => {
  const computed = (): Graph => graph([], { k: float([1], 2) }, [['Add', ['w3', 'x0'], ['s']], ['Mul', ['s', 'k'], ['w2']]], ['w2'])
  const g = graph([['c', 'bool', []], ['x', 'float32', [2, 32]]], { w3: floats([32, 32], 3), x0: floats([32, 32], 4) }, [['MatMul', ['x', 'w'], ['y'], {}]], ['y'])
  g.addNode(either('w', computed(), computed()), { before: g.nodes[0]! })
  const made = modelOf(g)
  for (const preset of ['int8-weights', 'transformers.js-fp16'] as const) {
    const { model, report } = await compress(made, preset)
    expect(report.steps.at(-1)!.layers.map((l) => [l.name, l.weight, l.dims, l.action, l.reason])).toEqual([
      ['MatMul0', 'w', [32, 32], 'kept', 'the model computes it (Add, If, Mul) from constants, which stayed as they are'],
    ])
    await expectNear(made, model, { c: bool(true), x: floats([2, 32], 5) }, 0.01)
  }
  // What is quantized already is no such weight.
  const { model: once } = await compress(inBranches(), { steps: [{ step: 'quantize', storage: 'qdq' }] })
  const again = await compress(once, 'int8-weights')
  expect(again.report.steps.at(-1)!.layers).toEqual([])
})

test('Silero VAD with the preset int8-weights', async () => {
  const file = path.join(__dirname, '../node_modules/@ricky0123/vad-web/dist/silero_vad_v5.onnx')
  const { report } = await compress(file, 'int8-weights')
  expect(report.after.bytes).toBeLessThan(660e3)
  expect(report.steps.at(-1)!.layers.filter((l) => l.op === 'LSTM')).toHaveLength(4)
})
