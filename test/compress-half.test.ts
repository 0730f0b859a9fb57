import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import * as ort from 'onnxruntime-node'

import { compress, type CompressOptions, type Recipe } from '../lib/compress'
import { Calibration } from '../lib/compress/calibration'
import { attribute, Graph, inferShapes, type Model } from '../lib/model'
import { fromHalf } from '../lib/model/half'
import { Session } from '../lib/session'
import { float, floats, graph, int, ints, modelOf, theirs, type Step, type Values } from './graphs'
import { failure, kSpecs, netOf, noise, rms, runNet } from './nets'
import { encoder, tokens } from './transformer'

/** Whole models in float16. */

const half = (more: object = {}): Recipe => ({ steps: [{ step: 'quantize', activations: 'float16', ...more }] })

/** The converted model in onnxruntime against the original one: the difference over the size of the answers. */
async function compare(original: Model, recipe: Recipe, feeds: Values, options: CompressOptions = {}) {
  const { model, report } = await compress(original, recipe, options)
  const [want, got] = [await theirs(original, feeds), await theirs(model, feeds)]
  let worst = 0
  for (const [name, t] of Object.entries(want)) {
    expect([got[name]!.type, got[name]!.dims]).toEqual([t.type, t.dims])
    if (t.type !== 'float32') {
      expect(got[name]!.data).toEqual(t.data)
      continue
    }
    const [a, b] = [t.data as Float32Array, got[name]!.data as Float32Array]
    worst = Math.max(worst, rms(a.map((v, i) => v - b[i]!)) / rms(a))
  }
  return { model, report, worst }
}

const types = (model: Model): Record<string, number> => {
  const all: Record<string, number> = {}
  for (const i of model.initializers.values()) all[i.type] = (all[i.type] ?? 0) + 1
  return all
}

test('Every op with weights computes in float16 between float32 inputs and outputs, half the bytes', async () => {
  const original = netOf(kSpecs, { listed: true })
  const { model, report } = await compress(original, half())
  const [want, got] = [await runNet(original, kSpecs), await runNet(model, kSpecs)]
  for (const name of Object.keys(want)) {
    const off = rms(want[name]!.map((v, i) => v - got[name]![i]!)) / rms(want[name]!)
    expect(off).toBeLessThan(2e-3)
    // Some rounding there must have been.
    expect(off).toBeGreaterThan(1e-6)
  }
  expect(model.byteLength()).toBeLessThan(0.6 * original.byteLength())
  expect(report.steps[0]!.layers.every((l) => l.action === 'quantized' && l.bits === 16 && l.bytesAfter === l.bytesBefore / 2)).toBe(true)
})

test('A transformer in float16 answers the same to within rounding, and its weights are all float16', async () => {
  const shape = { layers: 2, hidden: 64, heads: 4, inner: 128, words: 100, opset: 14 }
  const original = encoder(shape)
  const feeds = tokens(1, 12, 100) as Values
  const { model, worst } = await compare(original, half(), feeds)
  expect(worst).toBeLessThan(5e-3)
  expect(worst).toBeGreaterThan(1e-6)
  expect(Math.max(0, ...[...model.initializers.values()].filter((i) => i.type === 'float32').map((i) => i.elementCount))).toBe(0)
  expect(Buffer.compare((await compress(original, half())).model.toBytes(), model.toBytes())).toBe(0)
})

/** TopK, Resize, Min, Max, Range, CumSum and Cast between ops that take float16, several readers a value, an output that is read on. */
function mixed(opset = 17): Model {
  return modelOf(
    graph(
      [['x', 'float32', [1, 4, 6, 6]]],
      { w: floats([8, 4, 3, 3], 2), scales: float([4], 1, 1, 2, 2), k: ints(3), low: float([], -0.5), axis: int(1), eps: float([], 1e-12), far: float([], -3e38), b: floats([8], 4) },
      [
        ['Conv', ['x', 'w', 'b'], ['c'], { pads: attribute.ints([1, 1, 1, 1]) }],
        ['Relu', ['c'], ['r']],
        ['Resize', ['r', '', 'scales'], ['up'], { mode: attribute.string('nearest') }],
        ['Max', ['c', 'low'], ['m']],
        ['CumSum', ['m', 'axis'], ['s']],
        ['TopK', ['s', 'k'], ['top', 'at']],
        ['Cast', ['at'], ['atf'], { to: attribute.int(1) }],
        ['Add', ['top', 'atf'], ['sum']],
        ['Shape', ['up'], ['size']],
        ['Sub', ['c', 'c'], ['zero']],
        ['Add', ['zero', 'eps'], ['tiny']],
        ['Div', ['zero', 'tiny'], ['nought']],
        ['Greater', ['c', 'low'], ['above']],
        ['Where', ['above', 'c', 'far'], ['masked']],
        ['Softmax', ['masked'], ['p'], { axis: attribute.int(-1) }],
        ['Add', ['r', 'nought'], ['y']],
      ],
      ['c', 'up', 'sum', ['size', 'int64', [4]], 'p', 'y'],
    ),
    opset,
  )
}

test('Ops without float16 stay in float32 between casts; epsilons do not vanish, masks do not overflow', async () => {
  const feeds = { x: { type: 'float32' as const, dims: [1, 4, 6, 6], data: noise(144, 3) } }
  const { model, report, worst } = await compare(mixed(), half(), feeds)
  expect(worst).toBeLessThan(5e-3)
  expect(report.steps[0]!.summary).toMatch(/stayed in float32 \(.*1 Resize.*\)/)
  expect(report.steps[0]!.summary).toContain('1 constants have values beyond 65504')
  const read = (name: string): number => fromHalf(model.initializers.get(name)!.readSync().data[0] as number)
  expect(read('eps')).toBe(2 ** -24)
  expect(read('far')).toBe(-32752)
  const kept = await compare(mixed(), half({ outOfRange: 'keep' }), feeds)
  expect(kept.worst).toBeLessThan(5e-3)
  expect(kept.model.initializers.get('far')!.type).toBe('float32')
  for (const name of ['Relu', 'Conv']) {
    const more = await compare(mixed(), half({ float32Ops: [name] }), feeds)
    expect(more.worst).toBeLessThan(5e-3)
    expect(more.report.steps[0]!.summary).toContain(`1 ${name}`)
  }
})

test('With io float16 inputs and outputs are float16 too', async () => {
  const { model } = await compress(mixed(), half({ io: 'float16' }))
  expect(model.inputs.map((i) => i.type)).toEqual(['float16'])
  expect(model.outputs.map((o) => o.type)).toEqual(['float16', 'float16', 'float16', 'int64', 'float16', 'float16'])
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 3 })
  const data = Uint16Array.from(noise(144, 3), (v) => (v < 0 ? 0xb800 : 0x3800))
  const out = await session.run({ x: new ort.Tensor('float16', data, [1, 4, 6, 6]) })
  await session.release()
  const want = await theirs(mixed(), { x: { type: 'float32', dims: [1, 4, 6, 6], data: noise(144, 3).map((v) => (v < 0 ? -0.5 : 0.5)) } })
  const got = Float32Array.from(out['c']!.data as Uint16Array, fromHalf)
  const c = want['c']!.data as Float32Array
  expect(rms(c.map((v, i) => v - got[i]!)) / rms(c)).toBeLessThan(5e-3)
})

test('With calibration inputs, nodes whose values leave float16 stay in float32', async () => {
  const original = modelOf(
    graph(
      [['x', 'float32', [null, 16]]],
      { w: floats([16, 24], 2), big: float([], 3000), v: floats([24, 8], 5) },
      [['MatMul', ['x', 'w'], ['h']], ['Mul', ['h', 'big'], ['l']], ['Mul', ['l', 'big'], ['q']], ['Div', ['q', 'big'], ['d']], ['Div', ['d', 'big'], ['e']], ['MatMul', ['e', 'v'], ['y']]],
      ['y'],
    ),
  )
  const feeds = { x: { type: 'float32' as const, dims: [4, 16], data: noise(64, 3) } }
  const types = async (options: CompressOptions): Promise<(string | undefined)[]> => {
    const { model } = await compress(original, half(), options)
    const shapes = inferShapes(model.graph, model.opsets)
    return ['h', 'l', 'q', 'd', 'e'].map((v) => shapes.get(v, model.graph)?.type)
  }
  expect(await types({})).toEqual(['float16', 'float16', 'float16', 'float16', 'float16'])
  expect(await types({ calibration: [feeds] })).toEqual(['float16', 'float16', 'float32', 'float32', 'float16'])
  const { worst, report } = await compare(original, half(), feeds, { calibration: [feeds] })
  expect(worst).toBeLessThan(5e-3)
  expect(report.steps[0]!.summary).toContain('2 nodes stayed in float32 (1 Mul, 1 Div; 2 of them for values beyond 65504)')
})

test('What a tied table is turned to is as large as the table: no run makes it, and its readers stay in float32 where it leaves float16', async () => {
  const stayed: (string | undefined)[] = []
  for (const most of [1, 1e5]) {
    const data = noise(20 * 16, 8)
    data[37] = most
    const original = modelOf(
      graph(
        [['i', 'int64', [null]]],
        { table: { type: 'float32', dims: [20, 16], data } },
        [['Gather', ['table', 'i'], ['e']], ['Sigmoid', ['e'], ['s']], ['Transpose', ['table'], ['t'], { perm: attribute.ints([1, 0]) }], ['MatMul', ['s', 't'], ['m']], ['Softmax', ['m'], ['y']]],
        // An output stays where it is made.
        ['y', 't'],
      ),
    )
    // Rows that the inputs do not ask for.
    const calibration = [{ i: { type: 'int64' as const, dims: [2], data: BigInt64Array.of(0n, 1n) } }]
    const fetched = jest.spyOn(Calibration.prototype, 'each')
    const { report } = await compress(original, half(), { calibration })
    expect(fetched.mock.calls.flatMap(([, names]) => names)).not.toContain('t')
    fetched.mockRestore()
    stayed.push(/ nodes stayed in float32 \((.*?);/.exec(report.steps[0]!.summary)?.[1])
  }
  expect(stayed).toEqual([undefined, '1 Transpose, 1 MatMul'])
})

test('Graphs within nodes stay in float32, what they read from outside is cast, their weights are stored in float16', async () => {
  const make = (): Model => {
    const body = (name: string, op: string): Graph => {
      const g = graph([], { [`w_${name}`]: floats([16, 16], 7) }, [['MatMul', ['h', `w_${name}`], [`m_${name}`]], [op, [`m_${name}`, 'b'], [`o_${name}`]]], [[`o_${name}`, 'float32', [null, 16]]])
      return g
    }
    return modelOf(
      graph(
        [['x', 'float32', [4, 16]], ['c', 'bool', []]],
        { w: floats([16, 16], 2), b: floats([16], 3) },
        [
          ['MatMul', ['x', 'w'], ['h']],
          ['If', ['c'], ['t'], { then_branch: { type: 'graph', value: body('then', 'Add') }, else_branch: { type: 'graph', value: body('else', 'Sub') } }],
          ['Add', ['t', 'b'], ['y']],
        ],
        [['y', 'float32', [4, 16]]],
      ),
    )
  }
  for (const c of [0, 1]) {
    const feeds: Values = { x: { type: 'float32', dims: [4, 16], data: noise(64, 3) }, c: { type: 'bool', dims: [], data: Uint8Array.of(c) } }
    const { model, worst, report } = await compare(make(), half(), feeds)
    expect(worst).toBeLessThan(5e-3)
    expect(types(model)).toEqual({ float16: 2 })
    expect(report.steps[0]!.layers.map((l) => l.action)).toEqual(['quantized', 'quantized', 'quantized'])
  }
})

test('Weights that are spared or not chosen stay, with the nodes that read them; old files that list weights as inputs too', async () => {
  const recipe = { ...half(), spared: ['w1'] }
  const original = netOf(kSpecs.slice(0, 4), { listed: true, irVersion: 3, opset: 9 })
  const { model } = await compress(original, recipe)
  const left = [...model.initializers.values()].filter((i) => i.type === 'float32').map((i) => i.name)
  expect(left).toEqual(['w1'])
  expect(Buffer.compare(Buffer.from(model.initializers.get('w1')!.readSync().data.buffer), Buffer.from(original.initializers.get('w1')!.readSync().data.buffer))).toBe(0)
  const [want, got] = [await runNet(original, kSpecs.slice(0, 4)), await runNet(model, kSpecs.slice(0, 4))]
  for (const [name, v] of Object.entries(want)) expect(rms(v.map((a, i) => a - got[name]![i]!)) / rms(v)).toBeLessThan(2e-3)
  const some = await compress(netOf(kSpecs), half({ layers: { ops: ['MatMul'] } }))
  expect(some.report.steps[0]!.layers.length).toBe(3)
  await runNet(some.model, kSpecs)
})

test.each([
  [{ format: 'nf4' }, 'format', "'float16'"],
  [{ bits: 8 }, 'bits', 'io'],
  [{ io: 'float' }, 'io', "'float32'"],
  [{ outOfRange: 'error' }, 'outOfRange', "'clip'"],
  [{ float32Ops: 'Relu' }, 'float32Ops', 'array'],
] as const)('%j is refused', async (step, parameter, text) => {
  const error = await failure(() => compress(mixed(), half(step)))
  expect(error).toMatchObject({ name: 'WhittleError' })
  expect(error.message).toContain(`recipe.steps[0]`)
  expect(error.message).toContain(text)
  expect(error.message).toContain(parameter)
})

/** Whether onnxruntime takes files with every optimization: a child tells, as it may end the process instead. */
function loads(...models: readonly Model[]): void {
  const folder = mkdtempSync(join(tmpdir(), 'whittle-half-'))
  try {
    const files = models.map((_, i) => join(folder, `${i}.onnx`))
    models.forEach((m, i) => writeFileSync(files[i]!, m.toBytes()))
    const script = `const o = require('onnxruntime-node'); (async () => { for (const f of process.argv.slice(1)) await o.InferenceSession.create(f, { graphOptimizationLevel: 'all', logSeverityLevel: 4 }) })()`
    const child = spawnSync(process.execPath, ['-e', script, ...files], { encoding: 'utf8', cwd: __dirname })
    expect([child.status, child.signal, child.stderr]).toEqual([0, null, ''])
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

test('Transposes that bring the second axis to the front of a product are kept from an optimizer of onnxruntime that ends the process', async () => {
  const perm = (...axes: number[]) => ({ perm: attribute.ints(axes) })
  const net = (dims: readonly number[], w: readonly number[], steps: readonly Step[], opset = 17) =>
    [modelOf(graph([['x', 'float32', dims.map((_, i) => `d${i}`)]], { w: floats(w, 3), v: floats([1, 36, 8], 1), r: floats([1, 36, 12], 2), one: ints(1) }, steps, ['y']), opset), { x: floats(dims, 4) }] as const
  const turned: Step = ['Transpose', ['x'], ['t'], perm(1, 0, 2)]
  const nets = [
    // What PyTorch's attention becomes: its output is read by Shape too.
    net([2, 5, 8], [8, 6], [turned, ['MatMul', ['t', 'w'], ['y']], ['Shape', ['t'], ['s']]]),
    net([2, 5, 8], [8, 6], [turned, ['MatMul', ['t', 'w'], ['y']]], 11),
    net([2, 5, 8], [2, 6], [['Transpose', ['x'], ['t'], perm(1, 2, 0)], ['MatMul', ['t', 'w'], ['y']]]),
    net([2, 5, 8], [6, 2], [turned, ['MatMul', ['w', 't'], ['y']]]),
    net([2, 3, 5, 8], [8, 6], [['Transpose', ['x'], ['t'], perm(1, 2, 0, 3)], ['MatMul', ['t', 'w'], ['y']]]),
    net([2, 5, 8], [3, 1, 8, 6], [turned, ['MatMul', ['t', 'w'], ['y']]]),
    net([2, 5, 8], [12, 6], [
      turned,
      ['GRU', ['t', 'v', 'r'], ['s'], { hidden_size: attribute.int(12), linear_before_reset: attribute.int(1) }],
      ['Squeeze', ['s', 'one'], ['q']],
      ['Transpose', ['q'], ['u'], perm(1, 0, 2)],
      ['MatMul', ['u', 'w'], ['y']],
    ]),
  ]
  const made = await Promise.all(nets.map(async ([m]) => (await compress(m, half())).model))
  loads(...made)
  for (const [original, feeds] of nets) {
    const { model, worst } = await compare(original, half(), feeds)
    expect(worst).toBeLessThan(2e-3)
    expect(types(model).float32 ?? 0).toBe(0)
    // Half the weights of the float file, and Session reads it alike.
    const [want, session] = [await theirs(original, feeds), await Session.create(model)]
    const [a, b] = [want['y']!.data as Float32Array, (await session.run(feeds))['y']!.data as Float32Array]
    session.dispose()
    expect(rms(a.map((v, i) => v - b[i]!)) / rms(a)).toBeLessThan(2e-3)
  }
})
