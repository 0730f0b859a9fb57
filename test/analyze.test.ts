import { analyze, compress, evaluate, Model, Session, type Tensor } from '../lib'
import { attribute, float, floats, graph, int, modelOf, type Values } from './graphs'
import { Stream } from '../lib/analyze/histogram'
import { failure, inputFor, kSpecs, netOf, noise } from './nets'

const conv = (n = 2): Model =>
  modelOf(
    graph(
      [['x', 'float32', ['batch', 4, null, null]]],
      { w0: floats([8, 4, 3, 3], 1), b0: floats([8], 2), w1: floats([16, 8, 1, 1], 3), wd: floats([16, 1, 3, 3], 4), w2: floats([16, 10], 5) },
      [
        ['Conv', ['x', 'w0', 'b0'], ['a'], { pads: attribute.ints([1, 1, 1, 1]), strides: attribute.ints([n, n]) }],
        ['Relu', ['a'], ['b']],
        ['Conv', ['b', 'w1'], ['c']],
        ['Conv', ['c', 'wd'], ['d'], { group: attribute.int(16), pads: attribute.ints([1, 1, 1, 1]) }],
        ['GlobalAveragePool', ['d'], ['e']],
        ['Flatten', ['e'], ['f']],
        ['MatMul', ['f', 'w2'], ['y']],
      ],
      ['y'],
    ),
  )

const images = (count: number, side = 8): Values[] => Array.from({ length: count }, (_, i) => ({ x: floats([1, 4, side, side], 40 + i) }))
const outcome = (run: () => unknown): Promise<string> => failure(run).then((e) => `${e.code} ${e.parameter}`)

describe('multiplications', () => {
  test('of convolutions and products are those of the shapes given', async () => {
    const found = await analyze(conv(), { shapes: { x: [1, 4, 8, 8] } })
    // 4×4 places: 8·4·9, 16·8, 16·9 each, then 16·10.
    expect(found.layers.map((l) => l.macs)).toEqual([16 * 288, 16 * 128, 16 * 144, 160])
    expect(found.macs).toBe(16 * (288 + 128 + 144) + 160)
    expect(found.macsByType).toEqual({ float32: found.macs })
    expect(found.energy!.joules).toBeCloseTo(found.macs! * 4.6e-12 + Model.prototype.summary.call(conv()).weightBytes * 162.5e-12, 15)
    expect((await analyze(conv(), { shapes: { x: [3, 4, 8, 8] } })).macs).toBe(3 * found.macs!)
    expect((await analyze(conv(), { calibration: images(1, 16) })).shapes).toEqual({ x: [1, 4, 16, 16] })
  })

  test('that no shape tells are left out, and a note says so', async () => {
    const found = await analyze(conv())
    expect(found.macs).toBeUndefined()
    expect(found.notes.join()).toContain('shapes are not known')
  })

  test('count every op that has weights, and products of two activations', async () => {
    const model = netOf(kSpecs)
    const shapes = Object.fromEntries(kSpecs.map((s, i) => [`x${i}`, [...inputFor(s).dims]]))
    const found = await analyze(model, { shapes })
    const of = (w: string): number => found.layers.find((l) => l.weight === w)!.macs!
    expect(kSpecs.map((_, i) => of(`w${i}`))).toEqual([
      16 * 25 * 72, // Conv: 5×5 places
      24 * 9 * 25,
      8 * 25 * 108, // ConvTranspose: every input place
      5 * 64 * 33,
      3 * 5 * 24 * 20,
      20 * 48 * 5,
      3 * 32 * 40,
      3 * 40 * 32,
      0, // Gather
      4 * (64 * 8 + 64 * 16), // LSTM: 4 steps, both weights
      4 * (2 * 48 * 8 + 2 * 48 * 16),
    ])
    const square = modelOf(graph([['x', 'float32', [2, 5, 7]]], {}, [['Transpose', ['x'], ['t'], { perm: attribute.ints([0, 2, 1]) }], ['MatMul', ['x', 't'], ['y']]], ['y']))
    expect((await analyze(square)).macs).toBe(2 * 5 * 5 * 7)
  })

  test('of integers are told apart, and weights alone stay float work', async () => {
    const { model: weightsOnly } = await compress(conv(), { steps: [{ step: 'quantize', storage: 'qdq', layers: { minElements: 1 } }] })
    const shapes = { x: [1, 4, 8, 8] }
    const found = await analyze(weightsOnly, { shapes })
    expect(Object.keys(found.macsByType!)).toEqual(['float32'])
    expect(found.layers.filter((l) => l.storage === 'qdq').length).toBeGreaterThan(0)
    expect(found.macs).toBe((await analyze(conv(), { shapes })).macs)
    const integer = modelOf(graph([['x', 'uint8', [3, 8]]], { w: { type: 'int8', dims: [8, 4], data: new Int8Array(32).fill(3) } }, [['MatMulInteger', ['x', 'w'], ['y']]], [['y', 'int32', [3, 4]]]))
    expect((await analyze(integer)).macsByType).toEqual({ int8: 96 })
  })

  test.each(['session', 'onnxruntime'] as const)('with codes on both sides are those of integers, laid out for %s', async (target) => {
    const steps = [{ step: 'quantize', activations: 'static', target, minChannels: 1, layers: { minElements: 1 } }] as const
    const { model } = await compress(conv(), { steps }, { calibration: [{ x: floats([1, 4, 8, 8], 8) }] })
    const float = await analyze(conv(), { shapes: { x: [1, 4, 8, 8] } })
    const found = await analyze(model, { shapes: { x: [1, 4, 8, 8] } })
    // Weights of groups with more than one filter keep float inputs; so does the last product, of a single pixel.
    const coded = found.layers.filter((l) => l.op === 'Conv').slice(0, 2)
    expect(found.macs).toBe(float.macs)
    expect(found.macsByType!.int8).toBeGreaterThanOrEqual(coded.reduce((n, l) => n + l.macs!, 0))
    expect(found.energy!.compute).toBeLessThan(0.5 * float.energy!.compute)
  })
})

describe('weights', () => {
  test('are told in moments, histograms and clip ranges', async () => {
    const data = Float32Array.from({ length: 640 }, (_, i) => (i % 4 === 0 ? 0 : ((i % 64) - 30) / 10))
    const model = modelOf(graph([['x', 'float32', [1, 20]]], { w: { type: 'float32', dims: [20, 32], data } }, [['MatMul', ['x', 'w'], ['y']]], ['y']))
    const { values, mask } = (await analyze(model)).layers[0]!
    const mean = data.reduce((a, b) => a + b, 0) / 640
    expect(values.mean).toBeCloseTo(mean, 6)
    expect(values.std).toBeCloseTo(Math.sqrt(data.reduce((a, b) => a + (b - mean) ** 2, 0) / 640), 6)
    const zeros = data.filter((v) => v === 0).length
    expect(values.sparsity).toBe(zeros / 640)
    const { min, max, counts } = values.histogram
    expect([min, max]).toEqual([Math.min(...data), Math.max(...data)])
    expect(counts.reduce((a, b) => a + b, 0)).toBeCloseTo(640, 6)
    const step = (max - min) / counts.length
    // Every bin but for what the fine bins at its edges may share with the next one.
    const below = counts.slice(0, 20).reduce((a, b) => a + b, 0)
    expect(Math.abs(below - data.filter((v) => v < min + 20 * step).length)).toBeLessThan(25)
    expect(values.clips.minmax).toEqual([min, max])
    const [low, high] = values.clips.mse
    expect([low, high > 1 && high <= Math.max(-min, max)]).toEqual([-high, true])
    expect([mask!.rows, mask!.columns, mask!.cells.length, mask!.cell]).toEqual([20, 32, 640, [1, 1]])
    expect([...mask!.cells].map((c) => c === '0')).toEqual([...data].map((v) => v === 0))
  })

  test('one value far outside leaves the percentile and the least-error range near the rest', async () => {
    const data = noise(40_000, 9)
    data[123] = 50
    const model = modelOf(graph([['x', 'float32', [1, 200]]], { w: { type: 'float32', dims: [200, 200], data } }, [['MatMul', ['x', 'w'], ['y']]], ['y']))
    const { clips, histogram } = (await analyze(model)).layers[0]!.values
    expect(clips.minmax[1]).toBe(50)
    expect(clips.percentile[1]).toBeLessThan(1.1)
    expect(clips.mse[1]).toBeLessThan(10)
    expect(histogram.counts.reduce((a, b) => a + b, 0)).toBeCloseTo(40_000, 0)
  })

  test('have as much noise at each number of bits as rounding makes', async () => {
    const { layers } = await analyze(conv())
    const w0 = (conv().graph.initializers.get('w0')!.readSync().data as Float32Array)
    for (const bits of [2, 4, 8]) {
      const top = 2 ** (bits - 1) - 1
      let [signal, noisy] = [0, 0]
      for (let o = 0; o < 8; o++) {
        const row = w0.subarray(o * 36, o * 36 + 36)
        const scale = Math.fround(row.reduce((m, v) => Math.max(m, Math.abs(v)), 0) / top)
        for (const v of row) {
          signal += v * v
          noisy += (v - Math.max(-top, Math.min(top, Math.round(v / scale))) * scale) ** 2
        }
      }
      expect(layers[0]!.snrByBits[bits]).toBeCloseTo(10 * Math.log10(signal / noisy), 1)
    }
  })

  test('of low rank show it in their singular values', async () => {
    const [u, v] = [noise(64 * 3, 1), noise(3 * 40, 2)]
    const data = Float32Array.from({ length: 64 * 40 }, (_, i) => [0, 1, 2].reduce((s, k) => s + u[Math.floor(i / 40) * 3 + k]! * v[k * 40 + (i % 40)]!, 0))
    const model = modelOf(graph([['x', 'float32', [1, 64]]], { w: { type: 'float32', dims: [64, 40], data } }, [['MatMul', ['x', 'w'], ['y']]], ['y']))
    const { spectrum } = (await analyze(model)).layers[0]!
    expect(spectrum!.rank99).toBeLessThanOrEqual(3)
    expect(spectrum!.values[3]! / spectrum!.values[0]!).toBeLessThan(1e-5)
    expect([spectrum!.shape, spectrum!.computed, spectrum!.breakEven]).toEqual([[64, 40], 40, Math.floor(2560 / 104)])
    expect((await analyze(model, { spectra: false })).layers[0]!.spectrum).toBeUndefined()
  })

  test('may be codes, half floats, tied, in subgraphs, empty or all zero', async () => {
    const { model } = await compress(netOf(kSpecs), { steps: [{ step: 'quantize', bits: 4 }] })
    const found = await analyze(model)
    expect(found.layers.length).toBe(kSpecs.length + 2)
    for (const l of found.layers.filter((x) => x.storage)) expect([['int4', 'int8'].includes(l.type), l.snrByBits['8'] === null || l.snrByBits['8']! > 35]).toEqual([true, true])
    const half: Tensor = { type: 'float16', dims: [2, 2], data: Uint16Array.of(0x3c00, 0xc000, 0, 0x3800) }
    const body = graph([['i', 'int64', []], ['c', 'bool', []]], {}, [['Identity', ['c'], ['co']], ['MatMul', ['x', 'w'], ['o']]], [['co', 'bool', []], ['o', 'float32', null]])
    const tied = modelOf(
      graph(
        [['x', 'float32', [2, 3]], ['h', 'float16', [1, 2]]],
        { w: float([3, 3], 0, 0, 0, 0, 0, 0, 0, 0, 0), half, n: int(2), go: { type: 'bool', dims: [], data: Uint8Array.of(1) }, none: floats([3, 0]) },
        [['MatMul', ['x', 'w'], ['a']], ['MatMul', ['a', 'w'], ['b']], ['MatMul', ['h', 'half'], ['z']], ['MatMul', ['x', 'none'], ['e']], ['Loop', ['n', 'go'], ['l'], { body: attribute.graph(body) }]],
        ['b', ['z', 'float16', null], 'e', 'l'],
      ),
    )
    const { layers, notes } = await analyze(tied)
    expect(layers.map((l) => [l.weight, l.macs])).toEqual([['w', 18 * 3], ['half', 4], ['none', 0]])
    expect(layers[1]!.values.histogram).toMatchObject({ min: -2, max: 1 })
    expect([layers[0]!.values.sparsity, layers[0]!.snrByBits['2'], layers[2]!.values.elements]).toEqual([1, null, 0])
    expect(notes.join()).toContain('subgraphs')
    expect(JSON.stringify(layers)).not.toMatch(/NaN|Infinity/)
  })
})

describe('activations and sensitivity', () => {
  test('activations are counted over all inputs, whatever the source', async () => {
    const model = conv()
    const sets = images(5)
    const session = await Session.create(model)
    let [min, max, count] = [Infinity, -Infinity, 0]
    for (const inputs of sets) {
      const { c } = await session.run(inputs, { fetch: ['c'] })
      for (const v of c!.data as Float32Array) [min, max, count] = [Math.min(min, v), Math.max(max, v), count + 1]
    }
    session.dispose()
    const once = function* (): Generator<Values> {
      yield* sets
    }
    for (const calibration of [sets, once(), () => sets]) {
      const layer = (await analyze(model, { calibration, sensitivity: false })).layers[1]!
      expect([layer.output!.elements, layer.input!.histogram.min, layer.sensitivity]).toEqual([count, 0, undefined])
      expect(layer.output!.histogram.min).toBeCloseTo(min, 5)
      expect(layer.output!.histogram.max).toBeCloseTo(max, 5)
    }
  })

  test('counts that come piece by piece, each wider than the last, are those of all at once', () => {
    const pieces = [0.01, 1, 30, 2].map((scale, i) => noise(500, i + 1).map((v) => v * scale))
    const [whole, parts] = [new Stream(), new Stream()]
    whole.add(Float32Array.from(pieces.flatMap((p) => [...p])), 'x')
    for (const p of pieces) parts.add(p, 'x')
    const [a, b] = [whole.distribution(8, false), parts.distribution(8, false)]
    expect(b.histogram).toEqual(a.histogram)
    expect(b.clips).toEqual(a.clips)
    expect(b.std).toBeCloseTo(a.std, 9)
  })

  test('one layer at a time is changed, and what comes of it measured', async () => {
    const model = conv()
    const before = model.toBytes()
    const samples = images(6).map((inputs, i) => ({ inputs, target: i % 10 }))
    const asked: string[] = []
    const { layers, accuracy } = await analyze(model, {
      calibration: images(3),
      evaluate: (m, { phase }) => (asked.push(phase), evaluate(m, samples, 'top5')),
      sensitivity: { bits: [8, 3], sparsity: [0.5] },
    })
    expect(typeof accuracy).toBe('number')
    expect(asked.length).toBe(1 + 4 * 3)
    for (const l of layers) {
      const [eight, three, half] = l.sensitivity!
      expect([eight!.bits, three!.bits, half!.sparsity, typeof half!.accuracy]).toEqual([8, 3, 0.5, 'number'])
      expect(eight!.snr!).toBeGreaterThan(three!.snr! + 15)
    }
    expect(model.toBytes()).toEqual(before)
    // By hand: the last layer, half of its weights gone.
    const w = model.graph.initializers.get('w2')!.readSync().data as Float32Array
    const order = [...w.keys()].sort((a, b) => Math.abs(w[a]!) - Math.abs(w[b]!) || a - b)
    const cut = w.slice()
    for (const i of order.slice(0, 80)) cut[i] = 0
    const changed = model.clone()
    changed.graph.setInitializer('w2', { type: 'float32', dims: [16, 10], data: cut })
    const [s, t] = [await Session.create(model), await Session.create(changed)]
    let [signal, noisy] = [0, 0]
    for (const inputs of images(3)) {
      const [x, y] = [(await s.run(inputs)).y!.data as Float32Array, (await t.run(inputs)).y!.data as Float32Array]
      x.forEach((v, i) => ([signal, noisy] = [signal + v * v, noisy + (v - y[i]!) ** 2]))
    }
    s.dispose()
    t.dispose()
    expect(layers[3]!.sensitivity![2]!.snr).toBeCloseTo(10 * Math.log10(signal / noisy), 1)
  })

  test('the same model gives the same words', async () => {
    const options = { calibration: images(2), threads: 1 }
    expect(JSON.stringify(await analyze(conv(), options))).toBe(JSON.stringify(await analyze(conv(), options)))
  })
})

describe('bad input', () => {
  test('is refused by name', async () => {
    expect(await outcome(() => analyze(conv(), { shape: {} } as never))).toBe('ERR_RANGE options.shape')
    expect(await outcome(() => analyze(conv(), { shapes: { x: [1, 5, 8, 8] } }))).toBe('ERR_SHAPE options.shapes.x')
    expect(await outcome(() => analyze(conv(), { shapes: { z: [1] } }))).toBe('ERR_RANGE options.shapes.z')
    expect(await outcome(() => analyze(conv(), { calibration: [] }))).toBe('ERR_RANGE calibration')
    expect(await outcome(() => analyze(conv(), { calibration: [{ x: float([1, 4, 1, 1], 1, 2, 3, NaN) }] }))).toBe('ERR_RANGE calibration')
    expect(await outcome(() => analyze(conv(), { calibration: 3 as never }))).toBe('ERR_DTYPE options.calibration')
    expect(await outcome(() => analyze(conv(), { sensitivity: { bits: [9] } }))).toBe('ERR_RANGE options.sensitivity.bits[0]')
    expect(await outcome(() => analyze(conv(), { evaluate: (() => NaN) as never }))).toBe('ERR_RANGE evaluate')
    const broken = conv()
    broken.graph.setInitializer('w2', { type: 'float32', dims: [16, 10], data: new Float32Array(160).fill(NaN) })
    expect(await outcome(() => analyze(broken))).toBe('ERR_RANGE w2')
    const abort = new AbortController()
    const stopped = analyze(conv(), { calibration: images(2), signal: abort.signal, onProgress: ({ phase }) => phase === 'sensitivity' && abort.abort() })
    expect(await outcome(() => stopped)).toBe('ERR_ABORTED signal')
  })
})
