import { compress, type Recipe } from '../lib/compress'
import type { Model } from '../lib/model'
import type { Tensor } from '../lib/tensor'
import { attribute, float, floats, graph, modelOf, theirs } from './graphs'
import { failure } from './nets'

const equalize = (more: object = {}): Recipe => ({ steps: [{ step: 'equalize', ...more }] })

/** Weights whose channels reach unequally far. */
function uneven(dims: readonly number[], axis: number, seed: number): Tensor {
  const t = floats(dims, seed)
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  return { ...t, data: (t.data as Float32Array).map((v, i) => v * 3 ** ((Math.floor(i / inner) % dims[axis]!) - 2)) }
}

async function expectSameNumbers(before: Model, after: Model, feeds: Record<string, Tensor>): Promise<void> {
  const [want, got] = [await theirs(before, feeds), await theirs(after, feeds)]
  for (const name of Object.keys(want)) {
    const [a, b] = [want[name]!.data as Float32Array, got[name]!.data as Float32Array]
    const most = a.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
    expect(most).toBeGreaterThan(0)
    a.forEach((v, i) => expect(Math.abs(v - b[i]!)).toBeLessThan(2e-5 * most))
  }
}

/** Largest magnitudes along an axis, by the definition. */
function reach(model: Model, name: string, axis: number): number[] {
  const { dims } = model.initializers.get(name)!
  const data = model.initializers.get(name)!.readSync().data as Float32Array
  const inner = dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  const most = new Array<number>(dims[axis]!).fill(0)
  data.forEach((v, i) => (most[Math.floor(i / inner) % dims[axis]!] = Math.max(most[Math.floor(i / inner) % dims[axis]!]!, Math.abs(v))))
  return most
}

describe('equalization across layers', () => {
  const net = (): Model =>
    modelOf(
      graph(
        [['x', 'float32', [1, 3, 9, 9]]],
        { a: uneven([6, 3, 3, 3], 0, 1), ab: floats([6], 2), d: uneven([6, 1, 3, 3], 0, 3), c: floats([5, 6, 1, 1], 4), p: floats([6, 1, 1], 6) },
        [
          ['Conv', ['x', 'a', 'ab'], ['h1'], { pads: attribute.ints([1, 1, 1, 1]) }],
          ['Relu', ['h1'], ['h2']],
          ['Conv', ['h2', 'd'], ['h3'], { group: attribute.int(6), pads: attribute.ints([1, 1, 1, 1]) }],
          ['PRelu', ['h3', 'p'], ['h4']],
          ['MaxPool', ['h4'], ['h5'], { kernel_shape: attribute.ints([2, 2]) }],
          ['Conv', ['h5', 'c'], ['y']],
        ],
        ['y'],
      ),
    )

  test('lets both weights reach equally far and changes no result', async () => {
    const { model, report } = await compress(net(), equalize())
    expect(report.steps[0]!.summary).toContain('2 pairs')
    const [first, deep, last] = [reach(model, 'a', 0), reach(model, 'd', 0), reach(model, 'c', 1)]
    for (let i = 0; i < 6; i++) {
      // A depthwise weight has one reach for its input and its output.
      expect(deep[i]! / first[i]!).toBeCloseTo(1, 1)
      expect(last[i]! / deep[i]!).toBeCloseTo(1, 1)
    }
    expect(reach(net(), 'a', 0)[5]! / reach(net(), 'a', 0)[0]!).toBeGreaterThan(20)
    await expectSameNumbers(net(), model, { x: floats([1, 3, 9, 9], 9) })
    // Scaled values are other values, under other names.
    expect(model.graph.producer('h1')).toBeUndefined()
    expect(model.graph.producer('y')).toBeDefined()
  })

  test('leaves pairs alone whose value is read elsewhere, goes through another function or belongs to a spared layer', async () => {
    const of = (steps: Parameters<typeof graph>[2], outputs: string[]): Model =>
      modelOf(graph([['x', 'float32', [2, 8]]], { a: uneven([8, 6], 1, 1), c: floats([6, 5], 2) }, steps, outputs))
    const fused = of([['MatMul', ['x', 'a'], ['h']], ['Relu', ['h'], ['r']], ['MatMul', ['r', 'c'], ['y']]], ['y'])
    const tanh = of([['MatMul', ['x', 'a'], ['h']], ['Tanh', ['h'], ['r']], ['MatMul', ['r', 'c'], ['y']]], ['y'])
    const seen = of([['MatMul', ['x', 'a'], ['h']], ['Relu', ['h'], ['r']], ['MatMul', ['r', 'c'], ['y']]], ['y', 'h'])
    for (const [model, pairs] of [[fused, 1], [tanh, 0], [seen, 0]] as const) {
      const { model: after, report } = await compress(model, equalize())
      expect(report.steps[0]!.summary).toContain(`${pairs} pairs`)
      await expectSameNumbers(model, after, { x: floats([2, 8], 5) })
    }
    const { report } = await compress(fused, { ...equalize(), spared: ['c'] })
    expect(report.steps[0]!.summary).toContain('0 pairs')
  })
})

describe('high biases', () => {
  const kBeta = [3, -1, 0.2, 5, 2, 0]
  const kGamma = [0.5, 1, 0.3, -0.75, 1, 2]
  const net = (more: { pads?: number; pool?: number } = {}): Model =>
    modelOf(
      graph(
        [['x', 'float32', [1, 3, 6, 6]]],
        { a: uneven([6, 3, 1, 1], 0, 1), g: float([6], ...kGamma), b: float([6], ...kBeta), m: floats([6], 2), v: float([6], 1, 2, 3, 4, 5, 6), c: floats([4, 6, 3, 3], 3), cb: floats([4], 4) },
        [
          ['Conv', ['x', 'a'], ['h1']],
          ['BatchNormalization', ['h1', 'g', 'b', 'm', 'v'], ['h2']],
          ['Relu', ['h2'], ['h3']],
          ['AveragePool', ['h3'], ['h4'], { kernel_shape: attribute.ints([2, 2]), pads: attribute.ints(new Array<number>(4).fill(more.pool ?? 0)), count_include_pad: attribute.int(1) }],
          ['Conv', ['h4', 'c', 'cb'], ['y'], { pads: attribute.ints(new Array<number>(4).fill(more.pads ?? 0)) }],
        ],
        ['y'],
      ),
    )
  const absorb = (from: string): Recipe => ({ steps: [{ step: 'fold' }, { step: 'equalize', absorb: from as 'batchNorm' }] })
  const values = (model: Model, name: string): Float32Array => model.initializers.get(name)!.readSync().data as Float32Array
  const small = { x: { ...floats([1, 3, 6, 6], 5), data: (floats([1, 3, 6, 6], 5).data as Float32Array).map((v) => 0.01 * v) } }

  test('go into the next layer as far as three deviations of the batch normalization reach, and change nothing above', async () => {
    const { model: folded } = await compress(net(), { steps: [{ step: 'fold' }] })
    const { model, report } = await compress(net(), absorb('batchNorm'))
    expect(report.steps[1]!.summary).toBe('Equalized 1 pairs of layers, channel by channel. Absorbed 2 high biases of 1 pairs.')
    const [conv, deep] = [model.nodes.find((n) => n.opType === 'Conv')!, folded.nodes.find((n) => n.opType === 'Conv')!]
    const [bias, was] = [values(model, conv.inputs[2]!), values(folded, deep.inputs[2]!)]
    kBeta.forEach((beta, i) => {
      const s = values(model, 'a')[3 * i]! / values(folded, 'a')[3 * i]!
      const c = Math.max(0, beta - 3 * Math.abs(kGamma[i]!))
      expect(bias[i]! / s).toBeCloseTo(was[i]! - c, 4)
    })
    // Of channels 0 and 3 all values must lie above 1.5 and 2.75 for this.
    const { m, v } = { m: values(net(), 'm'), v: [1, 2, 3, 4, 5, 6] }
    const exact = net()
    exact.graph.setInitializer('b', float([6], ...kBeta.map((b, i) => b + (m[i]! * kGamma[i]!) / Math.sqrt(v[i]! + 1e-5))))
    const { model: after } = await compress(exact, absorb('batchNorm'))
    await expectSameNumbers(exact, after, small)
    const far = { x: { ...small.x, data: (small.x.data as Float32Array).map((w) => 3e3 * w) } }
    const [a, b] = [(await theirs(exact, far))['y']!.data as Float32Array, (await theirs(after, far))['y']!.data as Float32Array]
    expect(Math.max(...a.map((w, i) => Math.abs(w - b[i]!)))).toBeGreaterThan(0.1)
  })

  test('are absorbed by what calibration inputs show, exactly for those', async () => {
    const calibration = [6, 7, 8].map((seed) => ({ x: floats([1, 3, 6, 6], seed) }))
    const { model, report } = await compress(net(), absorb('calibration'), { calibration })
    expect(report.steps[1]!.summary).toMatch(/Absorbed [1-6] high bias/)
    for (const feeds of calibration) await expectSameNumbers(net(), model, feeds)
  })

  test('stay before a layer that pads, a pooling that averages zeros in, and where nobody asks', async () => {
    for (const model of [net({ pads: 1 }), net({ pool: 1 })]) {
      const { report } = await compress(model, absorb('batchNorm'))
      expect(report.steps[1]!.summary).toContain('Absorbed 0 high biases')
    }
    const { report } = await compress(net(), absorb('none'))
    expect(report.steps[1]!.summary).toBe('Equalized 1 pairs of layers, channel by channel.')
    expect(await failure(() => compress(net(), absorb('calibration')))).toMatchObject({ code: 'ERR_RANGE', parameter: 'options.calibration' })
    expect(await failure(() => compress(net(), absorb('batchnorm')))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[1].absorb' })
    expect(await failure(() => compress(net(), equalize({ method: 'inputs', absorb: 'batchNorm' })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].absorb' })
  })
})

describe('SmoothQuant', () => {
  const net = (): Model =>
    modelOf(
      graph(
        [['x', 'float32', [1, 4, 8]]],
        { g: uneven([8], 0, 1), b: floats([8], 2), q: floats([8, 6], 3), k: floats([8, 6], 4) },
        [
          ['LayerNormalization', ['x', 'g', 'b'], ['n']],
          ['MatMul', ['n', 'q'], ['y']],
          ['MatMul', ['n', 'k'], ['z']],
        ],
        ['y', 'z'],
      ),
    )
  const calibration = [{ x: floats([1, 4, 8], 11) }, { x: floats([1, 4, 8], 12) }]

  test('divides channels by max|x|^alpha / max|w|^(1 - alpha), over all inputs and readers, and changes no result', async () => {
    const alpha = 0.7
    const { model, report } = await compress(net(), equalize({ method: 'inputs', alpha }), { calibration })
    expect(report.steps[0]!.summary).toContain('1 layer normalization')
    await expectSameNumbers(net(), model, { x: floats([1, 4, 8], 13) })
    const top = new Array<number>(8).fill(0)
    const [gain, shift] = ['g', 'b'].map((n) => net().initializers.get(n)!.readSync().data as Float32Array) as [Float32Array, Float32Array]
    for (const { x } of calibration)
      for (let row = 0; row < 4; row++) {
        const v = Array.from((x.data as Float32Array).subarray(8 * row, 8 * row + 8))
        const mean = v.reduce((s, a) => s + a, 0) / 8
        const deviation = Math.sqrt(v.reduce((s, a) => s + (a - mean) ** 2, 0) / 8 + 1e-5)
        v.forEach((a, j) => (top[j] = Math.max(top[j]!, Math.abs(((a - mean) / deviation) * gain[j]! + shift[j]!))))
      }
    const [q, k] = [reach(net(), 'q', 0), reach(net(), 'k', 0)]
    const scaled = model.initializers.get('g')!.readSync().data as Float32Array
    top.forEach((t, j) => {
      const s = t ** alpha / Math.max(q[j]!, k[j]!) ** (1 - alpha)
      expect(gain[j]! / scaled[j]! / s).toBeCloseTo(1, 4)
    })
  })

  test('leaves a convolution alone that reads the axis of words', async () => {
    const model = modelOf(graph([['x', 'float32', [1, 8, 8]]], { g: uneven([8], 0, 1), b: floats([8], 2), w: floats([5, 8, 1], 3) }, [['LayerNormalization', ['x', 'g', 'b'], ['n']], ['Conv', ['n', 'w'], ['y']]], ['y']))
    const { model: after } = await compress(model, equalize({ method: 'inputs' }), { calibration: [{ x: floats([1, 8, 8], 11) }] })
    await expectSameNumbers(model, after, { x: floats([1, 8, 8], 12) })
  })

  test('needs calibration inputs, and says which parameter is wrong', async () => {
    expect(await failure(() => compress(net(), equalize({ method: 'inputs' })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'options.calibration' })
    expect(await failure(() => compress(net(), equalize({ alpha: 2 })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].alpha' })
  })
})

describe('batch normalizations estimated anew', () => {
  const net = (): Model => {
    const positive = (seed: number): Tensor => ({ ...floats([4], seed), data: (floats([4], seed).data as Float32Array).map((v) => 0.5 + Math.abs(v)) })
    const norm = (x: string, k: string, y: string): Parameters<typeof graph>[2][number] => ['BatchNormalization', [x, `g${k}`, `b${k}`, `m${k}`, `v${k}`], [y]]
    const constants = Object.fromEntries(['1', '2'].flatMap((k, i) => [[`g${k}`, floats([4], 20 + i)], [`b${k}`, floats([4], 30 + i)], [`m${k}`, floats([4], 40 + i)], [`v${k}`, positive(50 + i)]]))
    return modelOf(
      graph(
        [['x', 'float32', [2, 3, 7, 7]]],
        { ...constants, a: floats([4, 3, 3, 3], 1), c: floats([4, 4, 1, 1], 2) },
        [['Conv', ['x', 'a'], ['h1']], norm('h1', '1', 'h2'), ['Relu', ['h2'], ['h3']], ['Conv', ['h3', 'c'], ['h4']], norm('h4', '2', 'y')],
        ['h2', 'y'],
      ),
    )
  }
  const calibration = [{ x: floats([2, 3, 7, 7], 61) }, { x: floats([2, 3, 7, 7], 62) }]

  test('give outputs with the mean and deviation that their scale and shift say, the second one behind the first', async () => {
    const { model, report } = await compress(net(), { steps: [{ step: 'repair', batchNorm: true, biases: false }] }, { calibration })
    expect(report.steps[0]!.summary).toBe('Estimated 2 batch normalizations anew.')
    for (const [name, k] of [['h2', '1'], ['y', '2']] as const) {
      const outputs = await Promise.all(calibration.map(async (feeds) => (await theirs(model, feeds))[name]!))
      for (let c = 0; c < 4; c++) {
        const values = outputs.flatMap(({ data, dims }) => {
          const plane = dims[2]! * dims[3]!
          return [0, 1].flatMap((n) => Array.from((data as Float32Array).subarray((n * 4 + c) * plane, (n * 4 + c + 1) * plane)))
        })
        const mean = values.reduce((s, v) => s + v, 0) / values.length
        const deviation = Math.sqrt(values.reduce((s, v) => s + (v - mean) ** 2, 0) / values.length)
        const of = (n: string): number => (model.initializers.get(n + k)!.readSync().data as Float32Array)[c]!
        expect(mean).toBeCloseTo(of('b'), 3)
        expect(deviation).toBeCloseTo(Math.abs(of('g')), 2)
      }
    }
  })

  test('are left alone unless asked for', async () => {
    const { model } = await compress(net(), { steps: [{ step: 'repair' }] }, { calibration })
    expect(model.initializers.get('m1')!.readSync().data).toEqual(net().initializers.get('m1')!.readSync().data)
  })
})
