import {
  analyze, attribute, compress, evaluate, Initializer, parseReport, pruningSensitivity, quantizeDynamic, quantizeStatic, renderHtml, Session, ValueInfo,
  type Model, type Step, type Tensor,
} from '../lib' // prettier-ignore
import { fromBfloats, fromHalves, toBfloats, toHalves } from '../lib/model/half'
import { bool, conv, floats, graph, ints, modelOf, theirs, type Values } from './graphs'
import { rms } from './nets'
import { encoder, tokens } from './transformer'

/** Models that compute in 16 bits, as they are exported for GPUs. */

type Short = 'float16' | 'bfloat16'
const wide = (type: Short, data: Uint16Array): Float32Array => (type === 'float16' ? fromHalves(data) : fromBfloats(data))
const short = (type: Short, data: Float32Array): Uint16Array => (type === 'float16' ? toHalves(data) : toBfloats(data))
const rounded = (type: Short, t: Tensor): Tensor => ({ type: 'float32', dims: t.dims, data: wide(type, short(type, t.data as Float32Array)) as Float32Array<ArrayBuffer> })
const stored = (type: Short, t: Tensor): Tensor => ({ type, dims: t.dims, data: short(type, t.data as Float32Array) as Uint16Array<ArrayBuffer> })

/** The float32 model with its constants as 16 bits hold them, and the same model in those 16 bits throughout. */
function both(original: Model, type: Short = 'float16'): { float: Model; half: Model } {
  const [float, half] = [original.clone(), original.clone()]
  for (const [to, model] of [[rounded, float], [stored, half]] as const)
    for (const g of model.graph.graphs()) {
      const of = (t: Tensor): Tensor => to(type, { ...t, data: (t.data as Float32Array).map((v) => Math.max(-65504, Math.min(65504, v))) })
      for (const i of [...g.initializers.values()]) if (i.type === 'float32') g.setInitializer(i.name, of(i.readSync()))
      for (const node of g.nodes) {
        const value = node.attributes.get('value')
        if (value?.type === 'tensor' && value.value.type === 'float32') node.attributes.set('value', attribute.tensor(Initializer.from('', of(value.value.readSync()))))
        if (model === half && node.is('Cast') && node.int('to', 0) === 1) node.attributes.set('to', attribute.int(type === 'float16' ? 10 : 16))
      }
      if (model !== half) continue
      const turned = (v: ValueInfo): ValueInfo => (v.type === 'float32' ? new ValueInfo(v.name, type, v.dims) : v)
      g.inputs = g.inputs.map(turned)
      g.outputs = g.outputs.map(turned)
    }
  return { float, half }
}

/** Convolutions, batch normalization, a depthwise one, a residual addition, a Gemm, and a weight that is an output as well. */
const convNet = (): Model =>
  modelOf(
    graph([['x', 'float32', ['n', 8, 8, 8]]], {
      w1: floats([16, 8, 3, 3], 1), b1: floats([16], 2), g: floats([16], 3), s: floats([16], 4), m: floats([16], 5), v: { type: 'float32', dims: [16], data: (floats([16], 6).data as Float32Array).map((a) => a * a + 0.5) },
      w2: floats([16, 16, 1, 1], 7), w3: floats([16, 1, 3, 3], 8), w4: floats([16, 16, 1, 1], 9), b4: floats([16], 10), f: floats([24, 16], 11), fb: floats([24], 12), told: floats([70], 13),
    }, [
      conv('x', 'w1', 'c1', { pads: 1, bias: 'b1' }),
      ['BatchNormalization', ['c1', 'g', 's', 'm', 'v'], ['n1']],
      ['Relu', ['n1'], ['r1']],
      conv('r1', 'w2', 'c2'),
      ['Relu', ['c2'], ['r2']],
      conv('r2', 'w3', 'c3', { pads: 1, group: 16 }),
      ['Relu', ['c3'], ['r3']],
      conv('r3', 'w4', 'c4', { bias: 'b4' }),
      ['Add', ['c4', 'r1'], ['a']],
      ['GlobalAveragePool', ['a'], ['p']],
      ['Flatten', ['p'], ['q']],
      ['Gemm', ['q', 'f', 'fb'], ['y'], { transB: attribute.int(1) }],
    ], ['y', 'told']),
  ) // prettier-ignore
const textNet = (): Model => encoder({ layers: 1, hidden: 32, heads: 4, inner: 64, words: 60, opset: 17 })

const images = (type: Short): { float: Values[]; half: Values[] } => {
  const float = [1, 2, 3].map((i) => ({ x: rounded(type, floats([2, 8, 8, 8], 20 + i)) }))
  return { float, half: float.map(({ x }) => ({ x: stored(type, x) })) }
}
const texts = [tokens(2, 10, 60), tokens(1, 7, 60)] as Values[]

async function answers(model: Model, feeds: Values): Promise<Record<string, Tensor>> {
  const session = await Session.create(model, { threads: 1 })
  const found = await session.run(feeds)
  session.dispose()
  return found
}

/** How far two answers are apart, over their size; 16-bit answers are read. */
function apart(type: Short, got: Record<string, Tensor>, want: Record<string, Tensor>): number {
  let worst = 0
  for (const [name, w] of Object.entries(want)) {
    const g = got[name]!
    expect([name, g.dims]).toEqual([name, w.dims])
    const [a, b] = [w, g].map((t) => (t.type === 'float32' ? (t.data as Float32Array) : wide(type, new Uint16Array(t.data.buffer, t.data.byteOffset, t.data.length))))
    worst = Math.max(worst, rms(a!.map((v, i) => v - b![i]!)) / rms(a!))
  }
  return worst
}

const kImage: readonly Step[] = [
  { step: 'fold' },
  { step: 'equalize' },
  { step: 'prune', sparsity: 0.5 },
  { step: 'prune', sparsity: 0.5, criterion: 'sparsegpt' },
  { step: 'prune', structure: 'all', sparsity: 0.25, reconstruct: true },
  { step: 'factorize', ratio: 0.4 },
  { step: 'quantize' },
  { step: 'quantize', bits: 4, method: 'gptq' },
  { step: 'quantize', activations: 'static' },
  { step: 'codebook', bits: 4 },
  { step: 'repair', batchNorm: true },
]

test.each(kImage)('a convolutional net in float16 comes out as the float32 one does: %j', async (step) => {
  const { float, half } = both(convNet())
  const sets = images('float16')
  const [want, got] = [await compress(float, { steps: [step] }, { calibration: sets.float }), await compress(half, { steps: [step] }, { calibration: sets.half })]
  expect(got.report.steps[0]!.layers.map((l) => [l.weight, l.action])).toEqual(want.report.steps[0]!.layers.map((l) => [l.weight, l.action]))
  expect(got.model.graph.inputs.map((i) => i.type)).toEqual(['float16'])
  expect(got.model.graph.outputs.map((i) => i.type)).toEqual(['float16', 'float16'])
  expect(got.model.byteLength()).toBeLessThan(Math.min(want.model.byteLength(), half.byteLength() + 1500))
  const theirAnswer = await answers(want.model, sets.float[0]!)
  expect(apart('float16', await answers(got.model, sets.half[0]!), theirAnswer)).toBeLessThan(2e-3)
  // Steps that leave floats leave a model in float16.
  const floating = !['quantize', 'codebook'].includes(step.step)
  expect([...got.model.graph.initializers.values()].some((i) => i.type === 'float32')).toBe(!floating)
  expect(got.model.graph.nodes.some((n) => n.is('Cast'))).toBe(!floating)
  // What comes out is a model for others, too.
  expect(apart('float16', await theirs(got.model, sets.half[0]!), theirAnswer)).toBeLessThan(step.step === 'quantize' && 'activations' in step ? 0.05 : 5e-3)
})

const kText: readonly Step[] = [
  { step: 'fold' },
  { step: 'equalize', method: 'inputs' },
  { step: 'rotate' },
  { step: 'slice', sparsity: 0.25 },
  { step: 'prune', structure: 'neuron', sparsity: 0.25 },
  { step: 'quantize', activations: 'dynamic' },
  { step: 'dedupe' },
]

test.each(kText)('so does a transformer: %j', async (step) => {
  const { float, half } = both(textNet())
  const steps: Step[] = step.step === 'rotate' || step.step === 'slice' ? [{ step: 'fold' }, step] : [step]
  const [want, got] = [await compress(float, { steps }, { calibration: texts }), await compress(half, { steps }, { calibration: texts })]
  expect(got.report.steps.map((s) => s.layers.map((l) => [l.weight, l.action]))).toEqual(want.report.steps.map((s) => s.layers.map((l) => [l.weight, l.action])))
  expect(got.model.graph.outputs.map((i) => i.type)).toEqual(['float16', 'float16'])
  expect(apart('float16', await answers(got.model, texts[0]!), await answers(want.model, texts[0]!))).toBeLessThan(5e-3)
})

test('what no step turns into codes keeps its bits, what is spared too, and tensors of a few numbers lie behind no Cast', async () => {
  const { half } = both(convNet())
  const { model, report } = await compress(half, { steps: [{ step: 'quantize', layers: { exclude: ['w2'] } }], spared: ['w3'] })
  const { initializers } = model.graph
  for (const name of ['w2', 'w3']) expect(initializers.get(`${name}_half`)?.readSync()).toEqual(half.graph.initializers.get(name)?.readSync())
  expect([initializers.get('b1')?.type, initializers.get('told')?.type]).toEqual(['float32', 'float16'])
  // In the report as in the file.
  const size = (name: string): number => half.graph.initializers.get(name)!.byteLength
  const [one, other] = ['w1', 'w2'].map((name) => report.steps[0]!.layers.find((l) => l.weight === name))
  expect(one).toMatchObject({ action: 'quantized', bytesBefore: size('w1') })
  expect(one!.bytesAfter).toBeGreaterThan(size('w1') / 2)
  expect(other === undefined || other.bytesAfter === size('w2')).toBe(true)
})

test('a weight that outgrows float16, and one that would be lost below its normal numbers, stay float32', async () => {
  const gains = (value: number): Tensor => ({ type: 'float16', dims: [16], data: toHalves(new Float32Array(16).fill(value)) as Uint16Array<ArrayBuffer> })
  const w = floats([16, 16], 3)
  const chain = modelOf(graph([['x', 'float16', [2, 16]], ['s', 'float16', [2, 16]]], { g: gains(6e4), h: gains(6e-6), w: stored('float16', { ...w, data: (w.data as Float32Array).map((v) => 2 * v) }), v: stored('float16', { ...w, data: (w.data as Float32Array).map((v) => v / 8) }) }, [
    ['Mul', ['s', 'g'], ['a']], ['MatMul', ['a', 'w'], ['y']], ['Mul', ['x', 'h'], ['b']], ['MatMul', ['b', 'v'], ['z']],
  ], [['y', 'float16', [2, 16]], ['z', 'float16', [2, 16]]])) // prettier-ignore
  const { model } = await compress(chain, { steps: [{ step: 'fold' }] })
  expect(['w', 'v'].map((n) => model.graph.initializers.get(n)?.type)).toEqual(['float32', 'float32'])
  const small = (floats([2, 16], 5).data as Float32Array).map((v) => v / 1000) as Float32Array<ArrayBuffer>
  const x = { x: stored('float16', { type: 'float32', dims: [2, 16], data: small.map((v) => v * 2e6) }), s: stored('float16', { type: 'float32', dims: [2, 16], data: small }) }
  expect(apart('float16', await answers(model, x), await answers(chain, x))).toBeLessThan(2e-3)
})

test('a model comes back to float16 where its last step says so', async () => {
  const { half } = both(convNet())
  const sets = images('float16')
  const { model } = await compress(half, { steps: [{ step: 'fold' }, { step: 'prune', structure: 'all', sparsity: 0.25 }, { step: 'quantize', activations: 'float16', io: 'float16' }] })
  expect([...model.graph.initializers.values()].filter((i) => i.type === 'float32')).toEqual([])
  expect(model.byteLength()).toBeLessThan(half.byteLength())
  expect(apart('float16', await theirs(model, sets.half[0]!), await answers(model, sets.half[0]!))).toBeLessThan(1e-2)
})

test('models that our own step or others wrote in float16 take further steps', async () => {
  const { model: written } = await compress(textNet(), 'transformers.js-fp16')
  const steps: Step[] = [{ step: 'fold' }, { step: 'prune', structure: 'neuron', sparsity: 0.25 }, { step: 'quantize' }]
  const { model, report } = await compress(written, { steps }, { calibration: texts })
  expect(report.steps[2]!.layers.filter((l) => l.action === 'quantized').length).toBeGreaterThan(7)
  const { model: plain } = await compress(textNet(), { steps }, { calibration: texts })
  expect(apart('float16', await answers(model, texts[0]!), await answers(plain, texts[0]!))).toBeLessThan(2e-2)
})

test.each<Step>([{ step: 'fold' }, { step: 'quantize' }, { step: 'quantize', activations: 'static' }])('a model in bfloat16 as well: %j', async (step) => {
  const { float, half } = both(convNet(), 'bfloat16')
  const sets = images('bfloat16')
  const [want, got] = [await compress(float, { steps: [step] }, { calibration: sets.float }), await compress(half, { steps: [step] }, { calibration: sets.half })]
  expect(got.model.graph.inputs.map((i) => i.type)).toEqual(['bfloat16'])
  expect(got.report.steps[0]!.layers.map((l) => [l.weight, l.action])).toEqual(want.report.steps[0]!.layers.map((l) => [l.weight, l.action]))
  const [a, b] = [await answers(got.model, sets.half[0]!), await answers(want.model, sets.float[0]!)]
  expect(a['y']!.type).toBe('bfloat16')
  expect(apart('bfloat16', a, b)).toBeLessThan(1.5e-2)
})

test('branches are widened with the rest', async () => {
  const inner = (name: string, op: string, w: string): ReturnType<typeof graph> => {
    const g = graph([], { [w]: floats([24, 24], 4) }, [['MatMul', ['a', w], [`${name}m`]], [op, [`${name}m`], [name]]], [name])
    g.outputs = g.outputs.map((o) => new ValueInfo(o.name, 'float32', [3, 24]))
    return g
  }
  const original = modelOf(graph([['x', 'float32', [3, 24]], ['c', 'bool', []]], { w: floats([24, 24], 3) }, [
    ['MatMul', ['x', 'w'], ['a']],
    ['If', ['c'], ['b'], { then_branch: attribute.graph(inner('p', 'Neg', 'u')), else_branch: attribute.graph(inner('q', 'Relu', 'v')) }],
    ['Neg', ['b'], ['y']],
  ], ['y'])) // prettier-ignore
  const { float, half } = both(original)
  const step: Step = { step: 'quantize', layers: { minElements: 1 } }
  const [want, got] = [await compress(float, { steps: [step] }), await compress(half, { steps: [step] })]
  expect(got.report.steps[0]!.layers.map((l) => [l.weight, l.action])).toEqual(['w', 'u', 'v'].map((w) => [w, 'quantized']))
  const x = rounded('float16', floats([3, 24], 9))
  for (const c of [true, false])
    expect(apart('float16', await answers(got.model, { x: stored('float16', x), c: bool(c) }), await answers(want.model, { x, c: bool(c) }))).toBeLessThan(2e-3)
})

test('static and dynamic quantization and the sensitivity of pruning take such models too', async () => {
  const { float, half } = both(convNet())
  const sets = images('float16')
  const [want, got] = [await quantizeStatic(float, sets.float), await quantizeStatic(half, sets.half)]
  expect(apart('float16', await answers(got, sets.half[0]!), await answers(want, sets.float[0]!))).toBeLessThan(2e-3)
  const text = both(textNet())
  const dynamic = quantizeDynamic(text.half)
  expect(dynamic.graph.nodes.filter((n) => n.is('MatMulInteger')).length).toBeGreaterThan(4)
  expect(apart('float16', await answers(dynamic, texts[0]!), await answers(quantizeDynamic(text.float), texts[0]!))).toBeLessThan(5e-3)
  const of = { calibration: sets.half.slice(0, 1), ratios: [0.25] }
  const [a, b] = [await pruningSensitivity(half, of), await pruningSensitivity(float, { ...of, calibration: sets.float.slice(0, 1) })]
  expect(a.map((g) => [g.layer, g.units])).toEqual(b.map((g) => [g.layer, g.units]))
  for (const [i, g] of a.entries()) expect(g.points[0]!.snr).toBeCloseTo(b[i]!.points[0]!.snr!, 0)
})

test('analyze tells of weights as they lie in the file and what the model loses without them', async () => {
  const { float, half } = both(convNet())
  const sets = images('float16')
  const options = { sensitivity: { bits: [4], sparsity: [] as number[] } }
  const [want, got] = [await analyze(float, { calibration: sets.float, ...options }), await analyze(half, { calibration: sets.half, ...options })]
  expect(got.layers.map((l) => [l.weight, l.type, l.bytes, l.macs])).toEqual(want.layers.map((l) => [l.weight, 'float16', l.bytes / 2, l.macs]))
  expect(Object.keys(got.macsByType!)).toEqual(['float16'])
  for (const [i, l] of got.layers.entries()) {
    expect(l.snrByBits).toEqual(want.layers[i]!.snrByBits)
    expect(l.output?.std).toBeCloseTo(want.layers[i]!.output!.std, 6)
    expect(l.sensitivity![0]!.snr).toBeCloseTo(want.layers[i]!.sensitivity![0]!.snr!, 0)
  }
  const { report } = await compress(half, 'int8-weights')
  expect(renderHtml([...parseReport(JSON.stringify(report)), { title: 'net', analysis: got }]).includes('data-v="2304"')).toBe(true)
})

test('evaluate judges answers in float16, and limits hold', async () => {
  const { float, half } = both(convNet())
  const sets = images('float16')
  const samples = await Promise.all(sets.half.map(async (inputs, i) => ({ inputs, target: (await answers(float, sets.float[i]!))['y'] })))
  const judge = (model: Model) => evaluate(model, samples, { metric: 'cosine', output: 'y' })
  const { report } = await compress(half, 'int8-weights', { evaluate: judge, limits: { accuracyDrop: 0.01 } })
  expect(report.before.accuracy).toBeGreaterThan(0.9999)
  expect(report.after.accuracy).toBeGreaterThan(0.99)
  const shape = await compress(both(modelOf(graph([['i', 'int64', [2]]], { e: floats([40, 8], 1) }, [['Gather', ['e', 'i'], ['y']]], ['y']))).half, 'int8-weights')
  // A model that only moves what it stores.
  expect((await answers(shape.model, { i: ints(3, 4) }))['y']!.dims).toEqual([2, 8])
})

test('a Cast to the type that a value has goes, since it would be one of float16 to itself', async () => {
  // onnxruntime places casts around what it lacks in float16, and one of a type to itself between them is more than it bears.
  const made = modelOf(graph([['x', 'float32', [2, 32]]], { w: floats([32, 32], 3) }, [['MatMul', ['x', 'w'], ['h']], ['Cast', ['h'], ['c'], { to: attribute.int(1) }], ['Sqrt', ['c'], ['y']]], ['y']))
  const { model } = await compress(made, 'transformers.js-fp16')
  expect(model.graph.nodes.map((n) => n.opType)).toEqual(['Cast', 'MatMul', 'Sqrt', 'Cast'])
})
