import * as ort from 'onnxruntime-node'
import path from 'node:path'

import { attribute, compress, Model, Node, type Tensor } from '../lib'
import { modelFolder } from '../demo/ocr'
import { expectSame, float, floats, graph, ints, modelOf, theirs, type Input, type Step, type Values } from './graphs'
import { fixtures, type FixtureCase } from './oracle/fixtures'
import { noise } from './nets'

const fold = { step: 'fold' } as const

async function folded(model: Model, step: object = fold): Promise<Model> {
  return (await compress(model, { steps: [step as typeof fold] })).model
}

const opsOf = (model: Model): string[] => model.graph.nodes.map((n) => n.opType)

/** The folded model, which must compute what the model does. */
async function same(model: Model, feeds: Values, step: object = fold): Promise<Model> {
  const small = await folded(model, step)
  const [want, got] = [await theirs(model, feeds), await theirs(small, feeds)]
  for (const name of Object.keys(want)) expectSame(got[name], want[name])
  return small
}

const chain = (constants: Values, steps: readonly Step[], dims: readonly (number | string)[] = [1, 4, 6, 6], opset = 13): Model =>
  modelOf(graph([['x', 'float32', dims] as Input], constants, steps, [steps.at(-1)![2][0]!]), opset)

const conv = (w: string, from: string, to: string, pads = 0, group = 1, b?: string): Step => [
  'Conv',
  b ? [from, w, b] : [from, w],
  [to],
  { pads: attribute.ints([pads, pads, pads, pads]), group: attribute.int(group) },
]

describe('batch normalization', () => {
  test.each(fixtures('fold').map((c) => [c.name, c] as const))('of the fixture %s goes into the layer before it', async (_, c: FixtureCase) => {
    const t = (role: string): Tensor => {
      const found = c.tensor(role)
      return { type: 'float32', dims: found.dims, data: found.data as Float32Array }
    }
    const constants: Record<string, Tensor> = {}
    for (const role of ['w', 'bias', 'gamma', 'beta', 'mean', 'var']) if (c.has(role)) constants[role] = t(role)
    const { layer, padding = 0, stride = 1, groups = 1, eps } = c.parameters as Record<string, number> & { layer: string }
    const names = ['x', 'w', ...(c.has('bias') ? ['bias'] : [])]
    const op = { conv2d: 'Conv', conv_transpose2d: 'ConvTranspose', linear: 'Gemm' }[layer]!
    const attributes =
      op === 'Gemm'
        ? { transB: attribute.int(1) }
        : { pads: attribute.ints([padding, padding, padding, padding]), strides: attribute.ints([stride, stride]), group: attribute.int(groups) }
    const steps: Step[] = [
      [op, names, ['h'], attributes],
      ['BatchNormalization', ['h', 'gamma', 'beta', 'mean', 'var'], ['y'], { epsilon: attribute.float(eps!) }],
    ]
    const small = await folded(chain(constants, steps, t('x').dims))
    expect(opsOf(small)).toEqual([op])
    const node = small.graph.nodes[0]!
    c.check('foldedW', small.graph.constant(node.inputs[1]!)!.readSync().data as Float32Array)
    c.check('foldedBias', small.graph.constant(node.inputs[2]!)!.readSync().data as Float32Array)
    c.check('y', (await theirs(small, { x: t('x') })).y!.data as Float32Array)
  })

  const bn = { g: float([4], 1.5, -0.5, 0, 2), b: floats([4], 3), m: floats([4], 4), v: float([4], 0.5, 1, 2, 0.1) }
  const step: Step = ['BatchNormalization', ['x', 'g', 'b', 'm', 'v'], ['n'], {}]
  const weights = { w: floats([5, 4, 3, 3], 9) }

  test('goes into the convolution behind it where nothing is padded, and stays where zeros are', async () => {
    const x = floats([1, 4, 6, 6], 2)
    expect(opsOf(await same(chain({ ...bn, ...weights }, [step, conv('w', 'n', 'y')]), { x }))).toEqual(['Conv'])
    expect(opsOf(await same(chain({ ...bn, ...weights }, [step, conv('w', 'n', 'y', 1)]), { x }))).toEqual(['BatchNormalization', 'Conv'])
  })

  test('stays where its input is read by others, and where it is in training', async () => {
    const shared = modelOf(
      graph([['x', 'float32', [1, 4, 6, 6]]], { ...bn, w: floats([4, 4, 1, 1], 9) }, [conv('w', 'x', 'h'), ['BatchNormalization', ['h', 'g', 'b', 'm', 'v'], ['y'], {}], ['Relu', ['h'], ['z']]], ['y', 'z']),
      13,
    )
    expect(opsOf(await same(shared, { x: floats([1, 4, 6, 6], 2) }))).toContain('BatchNormalization')
    const training = modelOf(
      graph([['x', 'float32', [1, 4, 6, 6]]], { ...bn, w: floats([4, 4, 1, 1], 9) }, [conv('w', 'x', 'h'), ['BatchNormalization', ['h', 'g', 'b', 'm', 'v'], ['y', 'p', 'q'], { training_mode: attribute.int(1) }]], ['y']),
      15,
    )
    expect(opsOf(await folded(training))).toContain('BatchNormalization')
  })

  test('behind a weight that two layers share stays, and the weight is as it was', async () => {
    const w = floats([4, 4, 1, 1], 9)
    const model = modelOf(
      graph([['x', 'float32', [1, 4, 6, 6]]], { ...bn, w }, [conv('w', 'x', 'h'), ['BatchNormalization', ['h', 'g', 'b', 'm', 'v'], ['n'], {}], conv('w', 'n', 'y')], ['y']),
      13,
    )
    const small = await same(model, { x: floats([1, 4, 6, 6], 2) })
    expect(opsOf(small)).toEqual(['Conv', 'BatchNormalization', 'Conv'])
    expect(small.graph.constant('w')!.readSync().data).toEqual(w.data)
  })
})

describe('scales and shifts', () => {
  const x = floats([2, 4, 6, 6], 2)
  const constants: Values = {
    w: floats([6, 2, 3, 3], 1),
    b: floats([6], 2),
    s: floats([6, 1, 1], 3),
    t: floats([1, 6, 1, 1], 4),
    two: float([], 2),
    half: float([1], 0.5),
    d: float([6, 1, 1], 1, 2, -3, 4, 5, 6),
    c: floats([4, 1, 1], 5),
    e: floats([4, 1, 1], 6),
  }

  test('behind a grouped convolution become part of it, whichever side the constant stands', async () => {
    const steps: Step[] = [
      conv('w', 'x', 'h', 1, 2, 'b'),
      ['Mul', ['s', 'h'], ['a1']],
      ['Add', ['a1', 't'], ['a2']],
      ['Sub', ['two', 'a2'], ['a3']],
      ['Div', ['a3', 'd'], ['a4']],
      ['Sub', ['a4', 'half'], ['y']],
    ]
    expect(opsOf(await same(chain(constants, steps, [2, 4, 6, 6]), { x }))).toEqual(['Conv'])
  })

  test('before one become part of it where nothing is padded; past padding goes the scale alone', async () => {
    const before: Step[] = [['Relu', ['x'], ['r']], ['Mul', ['r', 'c'], ['m']], ['Add', ['m', 'e'], ['a']]]
    expect(opsOf(await same(chain(constants, [...before, conv('w', 'a', 'y', 0, 2)], [2, 4, 6, 6]), { x }))).toEqual(['Relu', 'Conv'])
    expect(opsOf(await same(chain(constants, [...before, conv('w', 'a', 'y', 1, 2)], [2, 4, 6, 6]), { x }))).toEqual(['Relu', 'Add', 'Conv'])
  })

  test('that widen what they meet stay', async () => {
    // One channel times four is four.
    const wide = chain({ ...constants, v: floats([3, 4, 1, 1], 8) }, [['Mul', ['x', 'c'], ['m']], conv('v', 'm', 'y')], [2, 1, 6, 6])
    expect(opsOf(await same(wide, { x: floats([2, 1, 6, 6], 3) }))).toEqual(['Mul', 'Conv'])
    const pixels = chain({ ...constants, p: floats([1, 1, 6, 6], 8), v: floats([3, 4, 1, 1], 8) }, [conv('v', 'x', 'h'), ['Mul', ['h', 'p'], ['y']]], [2, 4, 6, 6])
    expect(opsOf(await same(pixels, { x }))).toEqual(['Conv', 'Mul'])
  })

  test('around products and transposed convolutions', async () => {
    const m = { w: floats([8, 5], 1), b: floats([5], 2), s: floats([5], 3), t: floats([5], 4), c: floats([8], 5), two: float([], 2) }
    const behind: Step[] = [['MatMul', ['x', 'w'], ['h']], ['Mul', ['h', 's'], ['a']], ['Add', ['a', 'b'], ['e']], ['Div', ['e', 'two'], ['f']], ['Add', ['f', 't'], ['y']]]
    expect(opsOf(await same(chain(m, behind, [2, 3, 8]), { x: floats([2, 3, 8], 7) }))).toEqual(['MatMul', 'Add'])
    const before: Step[] = [['Mul', ['x', 'c'], ['a']], ['MatMul', ['a', 'w'], ['y']]]
    expect(opsOf(await same(chain(m, before, [2, 3, 8]), { x: floats([2, 3, 8], 7) }))).toEqual(['MatMul'])
    const t = { w: floats([4, 3, 2, 2], 1), s: floats([6, 1, 1], 3), c: floats([4, 1, 1], 5) }
    const up: Step[] = [['Mul', ['x', 'c'], ['a']], ['ConvTranspose', ['a', 'w'], ['h'], { group: attribute.int(2) }], ['Mul', ['h', 's'], ['y']]]
    expect(opsOf(await same(chain(t, up, [2, 4, 6, 6]), { x }))).toEqual(['ConvTranspose'])
  })

  test('keep the names of outputs', async () => {
    const model = modelOf(graph([['x', 'float32', [1, 4, 6, 6]]], { w: floats([4, 4, 1, 1]), c: floats([4, 1, 1]) }, [conv('w', 'x', 'h'), ['Mul', ['h', 'c'], ['y']], ['Relu', ['y'], ['z']]], ['h', 'z']), 13)
    const small = await same(model, { x: floats([1, 4, 6, 6]) })
    expect(small.outputs.map((o) => o.name)).toEqual(['h', 'z'])
    expect(opsOf(small)).toEqual(['Conv', 'Mul', 'Relu'])
  })
})

describe('formulas', () => {
  const x = { type: 'float32', dims: [2, 3, 8], data: noise(48, 3).map((v) => 8 * v) } as const
  const hard: Step[] = [['Add', ['x', 'three'], ['a']], ['Clip', ['a', 'zero', 'six'], ['c']], ['Mul', ['x', 'c'], ['m']], ['Div', ['m', 'six'], ['y']]]
  const scalars = { three: float([], 3), zero: float([], 0), six: float([], 6) }

  test('of hard swish become two ops, or one at opset 14', async () => {
    const small = await same(chain(scalars, hard, [2, 3, 8], 11), { x })
    expect([opsOf(small), small.opset]).toEqual([['HardSigmoid', 'Mul'], 11])
    const one = await same(chain(scalars, hard, [2, 3, 8], 11), { x }, { step: 'fold', hardSwish: 'HardSwish' })
    expect([opsOf(one), one.opset]).toEqual([['HardSwish'], 14])
    const capped = await same(chain(scalars, hard, [2, 3, 8], 11), { x }, { step: 'fold', hardSwish: 'HardSwish', opset: 13 })
    expect([opsOf(capped), capped.opset]).toEqual([['HardSigmoid', 'Mul'], 11])
  })

  test('that only look alike stay', async () => {
    const other = chain({ ...scalars, six: float([], 5) }, hard, [2, 3, 8], 11)
    expect(opsOf(await same(other, { x }))).toEqual(['Add', 'Clip', 'Mul', 'Div'])
  })

  test('of layer normalization become one op at opset 17, of GELU at 20', async () => {
    const steps: Step[] = [
      ['ReduceMean', ['x'], ['mean'], { axes: attribute.ints([-1]) }],
      ['Sub', ['x', 'mean'], ['d']],
      ['Pow', ['d', 'two'], ['q']],
      ['ReduceMean', ['q'], ['v'], { axes: attribute.ints([-1]) }],
      ['Add', ['v', 'eps'], ['e']],
      ['Sqrt', ['e'], ['r']],
      ['Div', ['d', 'r'], ['n']],
      ['Mul', ['n', 'g'], ['s']],
      ['Add', ['s', 'b'], ['l']],
      ['Div', ['l', 'root'], ['z']],
      ['Erf', ['z'], ['f']],
      ['Add', ['f', 'one'], ['h']],
      ['Mul', ['l', 'h'], ['m']],
      ['Mul', ['m', 'half'], ['y']],
    ]
    const c = { two: float([], 2), eps: float([], 1e-5), g: floats([8], 4), b: floats([8], 5), root: float([], Math.SQRT2), one: float([], 1), half: float([], 0.5) }
    const low = await same(chain(c, steps, [2, 3, 8], 11), { x })
    expect([opsOf(low)[0], low.opset, opsOf(low).includes('Erf')]).toEqual(['LayerNormalization', 17, true])
    const high = await same(chain(c, steps, [2, 3, 8], 11), { x }, { step: 'fold', opset: 20 })
    expect([opsOf(high), high.opset]).toEqual([['LayerNormalization', 'Gelu'], 20])
  })
})

describe('constants and what does nothing', () => {
  test('are computed once and taken out, shapes of known values among them', async () => {
    const steps: Step[] = [
      ['Identity', ['x'], ['i']],
      ['Dropout', ['i'], ['o']],
      ['Shape', ['w'], ['s']],
      ['Gather', ['s', 'zero'], ['n'], { axis: attribute.int(0) }],
      ['Unsqueeze', ['n', 'axis'], ['k']],
      ['Concat', ['minus', 'k'], ['shape'], { axis: attribute.int(0) }],
      ['Transpose', ['w'], ['wt'], { perm: attribute.ints([1, 0]) }],
      ['Transpose', ['wt'], ['wtt'], { perm: attribute.ints([1, 0]) }],
      ['MatMul', ['o', 'wtt'], ['m']],
      ['Reshape', ['m', 'first'], ['r']],
      ['Reshape', ['r', 'shape'], ['q']],
      ['Cast', ['q'], ['c'], { to: attribute.int(1) }],
      ['Mul', ['c', 'unit'], ['y']],
    ]
    const c = { w: floats([8, 8]), zero: { type: 'int64', dims: [], data: BigInt64Array.of(0n) } as Tensor, axis: ints(0), minus: ints(-1), first: ints(2, -1), unit: float([1], 1) }
    const small = await same(chain(c, steps, ['n', 8]), { x: floats([4, 8]) })
    expect(opsOf(small)).toEqual(['MatMul', 'Reshape'])
    expect([...small.graph.initializers.keys()].length).toBe(2)
  })

  test('stay where a caller may replace the constant, and where weights are stored as codes', async () => {
    const model = chain({ a: floats([8], 1), b: floats([8], 2) }, [['Add', ['a', 'b'], ['c']], ['Mul', ['x', 'c'], ['y']]], [2, 8])
    model.graph.inputs = [...model.graph.inputs, model.graph.inputs[0]!.renamed('a')]
    expect(opsOf(await folded(model))).toEqual(['Add', 'Mul'])
    const { model: weights } = await compress(chain({ w: floats([64, 64]) }, [['MatMul', ['x', 'w'], ['y']]], [2, 64]), 'int8-weights')
    const again = await folded(weights)
    expect(opsOf(again)).toEqual(opsOf(weights))
  })

  test('up to the node that makes an output, of a branch or of the model', async () => {
    const branch = (k: number) => graph([], {}, [['Neg', ['w'], [`p${k}`]], ['Exp', [`p${k}`], [`q${k}`]], ['Sqrt', [`q${k}`], [`r${k}`]]], [`r${k}`])
    const g = graph([['c', 'bool', []]], { w: floats([4, 3], 5) }, [['Abs', ['w'], ['a']], ['Neg', ['a'], ['z']]], ['y', 'z'])
    g.addNode(new Node({ opType: 'If', name: 'if', inputs: ['c'], outputs: ['y'], attributes: { then_branch: attribute.graph(branch(1)), else_branch: attribute.graph(branch(2)) } }))
    for (const c of [0, 1]) {
      const small = await same(modelOf(g, 13), { c: { type: 'bool', dims: [], data: Uint8Array.of(c) } })
      expect(opsOf(small).sort()).toEqual(['If', 'Neg'])
      expect(small.graph.nodes.flatMap((n) => n.subgraphs()).map((b) => b.nodes.map((n) => n.opType))).toEqual([['Sqrt'], ['Sqrt']])
    }
  })

  test('in the branches of an If as well', async () => {
    const branch = (k: number) => {
      const g = graph([], { w: floats([4, 4, 1, 1], k), s: floats([4, 1, 1], k + 1) }, [conv('w', 'x', 'h'), ['Mul', ['h', 's'], ['r']]], ['r'])
      for (const node of g.nodes) node.outputs = node.outputs.map((o) => `${o}${k}`)
      g.nodes[1]!.setInput(0, `h${k}`)
      g.outputs = g.outputs.map((o) => o.renamed(`r${k}`))
      return g
    }
    const g = graph([['x', 'float32', [1, 4, 3, 3]], ['c', 'bool', []]], {}, [], ['y'])
    g.addNode(new Node({ opType: 'If', name: 'if', inputs: ['c'], outputs: ['y'], attributes: { then_branch: attribute.graph(branch(1)), else_branch: attribute.graph(branch(5)) } }))
    const x = floats([1, 4, 3, 3], 9)
    for (const c of [0, 1]) {
      const small = await same(modelOf(g, 13), { x, c: { type: 'bool', dims: [], data: Uint8Array.of(c) } })
      expect(small.graph.nodes[0]!.subgraphs().map((b) => b.nodes.map((n) => n.opType))).toEqual([['Conv'], ['Conv']])
    }
  })
})

test('the angle classifier becomes two thirds of its nodes and answers the same in onnxruntime', async () => {
  const model = await Model.load(path.join(modelFolder(), 'ch_ppocr_mobile_v2.0_cls_infer.onnx'))
  const { model: small, report } = await compress(model, { steps: [fold] })
  expect(opsOf(small)).not.toContain('BatchNormalization')
  expect(opsOf(small)).not.toContain('Clip')
  expect(report.steps[0]!.summary).toMatch(/^Folded 221 nodes to 1[0-4]\d:/)
  const x = new ort.Tensor('float32', noise(3 * 48 * 192, 3), [1, 3, 48, 192])
  const answers: Float32Array[] = []
  for (const m of [model, small]) {
    const session = await ort.InferenceSession.create(m.toBytes(), { logSeverityLevel: 3, intraOpNumThreads: 1 })
    answers.push((await session.run({ x }))[session.outputNames[0]!]!.data as Float32Array)
    await session.release()
  }
  answers[0]!.forEach((v, i) => expect(Math.abs(v - answers[1]![i]!)).toBeLessThan(1e-5))
  expect(Buffer.from(small.toBytes()).equals(Buffer.from((await folded(model)).toBytes()))).toBe(true)
})

test('a misspelt field is named', async () => {
  const model = chain({ w: floats([8, 8]) }, [['MatMul', ['x', 'w'], ['y']]], [2, 8])
  await expect(folded(model, { step: 'fold', hardswish: 'HardSwish' })).rejects.toMatchObject({ code: 'ERR_RANGE' })
  await expect(folded(model, { step: 'fold', opset: 99 })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].opset' })
})
