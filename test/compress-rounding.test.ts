import { compress, type CalibrationData, type Recipe, type Step } from '../lib/compress'
import { Tables } from '../lib/compress/passes/emit'
import { allocate, allocateFew, type Candidate } from '../lib/compress/mixed'
import { adaround } from '../lib/compress/rounding/adaround'
import { kLambdas, metricOf, prox } from '../lib/compress/rounding/prox'
import type { Model } from '../lib/model'
import { quantizedWeights, readCodes, readQuantized } from '../lib/model/quantized'
import { floats, graph, modelOf } from './graphs'
import { failure, kSpecs, netOf, noise, runNet } from './nets'
import { bestRounding, entropy, outputError, proximalPath } from './oracle/lowbit'

// Weights here are too small for the tables that unpack their codes.
beforeAll(() => void (Tables.counted = false))
afterAll(() => void (Tables.counted = true))

type Quantize = Omit<Extract<Step, { step: 'quantize' }>, 'step'>
const quantize = (more: Quantize): Recipe => ({ steps: [{ step: 'quantize', ...more }] })

/** Inputs that hang together, as activations do: a mean, and few directions that matter. */
function inputs(rows: number, size: number, seed: number): Float32Array {
  const base = noise(4 * size, seed)
  const mix = noise(rows * 4, seed + 1)
  const own = noise(rows * size, seed + 2)
  return own.map((v, i) => 0.2 * v + 0.5 + [0, 1, 2, 3].reduce((s, k) => s + 3 * mix[Math.floor(i / size) * 4 + k]! * base[k * size + (i % size)]!, 0))
}

const kRows = 40
const [kIn, kOut] = [48, 32]

/** A product, a grouped convolution and an embedding. */
function net(): Model {
  return modelOf(
    graph(
      [['x', 'float32', [kRows, kIn]], ['image', 'float32', [1, 8, 6, 10]], ['ids', 'int64', [3]]],
      {
        w: floats([kIn, kOut], 3),
        c: floats([16, 4, 3, 3], 4),
        e: floats([40, 16], 5),
      },
      [
        ['MatMul', ['x', 'w'], ['y']],
        ['Conv', ['image', 'c'], ['z'], { group: { type: 'int', value: 2 } }],
        ['Gather', ['e', 'ids'], ['v']],
      ],
      ['y', 'z', 'v'],
    ),
  )
}

const calibration: CalibrationData = [1, 2, 3].map((seed) => ({
  x: { type: 'float32', dims: [kRows, kIn], data: inputs(kRows, kIn, 10 * seed) },
  image: { type: 'float32', dims: [1, 8, 6, 10], data: inputs(48, 10, 100 * seed) },
  ids: { type: 'int64', dims: [3], data: BigInt64Array.of(1n, 2n, 30n) },
}))

describe('rounding by what the inputs are', () => {
  test.each([
    ['gptq', { bits: 4 }],
    ['adaround', { bits: 4 }],
    ['gptq', { bits: 3, blockSize: 0 }],
    ['adaround', { bits: 3, blockSize: 0 }],
    ['gptq', { coding: 'entropy', bits: 3 }],
  ] as const)('%s, %j: outputs move far less than by nearest rounding, and as far as the report says', async (method, step) => {
    const made = net()
    const { model, report } = await compress(made, quantize({ ...step, method }), { calibration })
    const plain = await compress(made, quantize({ ...step, maxError: 1, method: step.bits === 3 && !('coding' in step) ? 'omse' : 'nearest' }))
    const sets = (calibration as { x: { data: Float32Array } }[]).map((s) => s.x.data)
    const of = (m: Model): Float32Array => readQuantized(quantizedWeights(m.graph).find((w) => w.value === 'w')!)
    const w = made.initializers.get('w')!.readSync().data as Float32Array
    const [own, nearest] = [model, plain.model].map((m) => outputError(w, of(m), sets, kIn, kOut))
    expect(own).toBeLessThan(0.36 * nearest!)
    const layers = Object.fromEntries(report.steps[0]!.layers.map((l) => [l.weight, l]))
    expect(layers['w']!.outputError).toBeCloseTo(own!, 5)
    expect(layers['c']!.outputError).toBeGreaterThan(0)
    expect(layers['e']!.outputError).toBeUndefined()
    expect(layers['e']!.reason).toContain('rounded to nearest')
    // The same again.
    expect(Buffer.compare((await compress(made, quantize({ ...step, method }), { calibration })).model.toBytes(), model.toBytes())).toBe(0)
  })

  test.each([
    ['gptq', { format: 'nf4', blockSize: 16 }, 0.35],
    ['adaround', { format: 'nf4', blockSize: 16 }, 0.35],
    ['gptq', { format: 'pow2', bits: 3 }, 0.5],
    ['adaround', { format: 'apot', bits: 4 }, 0.35],
    ['gptq', { format: 'ternary' }, 0.6],
    ['adaround', { format: 'ternary' }, 0.6],
    ['gptq', { format: 'binary' }, 0.8],
    ['adaround', { format: 'residual', bits: 2 }, 0.6],
    ['gptq', { format: 'residual', bits: 3 }, 0.4],
  ] as const)('%s, %j: levels of another kind, chosen so that outputs move less', async (method, step, share) => {
    const made = net()
    const { model, report } = await compress(made, quantize({ ...step, method }), { calibration })
    const plain = await compress(made, quantize({ ...step, method: 'omse' }))
    const sets = (calibration as { x: { data: Float32Array } }[]).map((s) => s.x.data)
    const of = (m: Model): Float32Array => readQuantized(quantizedWeights(m.graph).find((w) => w.value === 'w')!)
    const w = made.initializers.get('w')!.readSync().data as Float32Array
    const [own, nearest] = [model, plain.model].map((m) => outputError(w, of(m), sets, kIn, kOut))
    expect(own).toBeLessThan(share * nearest!)
    expect(report.steps[0]!.layers.find((l) => l.weight === 'w')!.outputError).toBeCloseTo(own!, 5)
    // The same levels in both: scales are found from the weights alone.
    const [ours, theirs] = [model, plain.model].map((m) => new Set(of(m)))
    expect([...ours!].filter((v) => !theirs!.has(v)).length).toBeLessThan(0.35 * ours!.size)
    expect(Buffer.compare((await compress(made, quantize({ ...step, method }), { calibration })).model.toBytes(), model.toBytes())).toBe(0)
  })

  test('adaptive rounding comes near to the best of all 1024 roundings of a row', () => {
    const [rows, size] = [12, 10]
    const w = noise(rows * size, 7)
    const x = inputs(200, size, 8)
    const h = new Float64Array(size * size)
    for (let n = 0; n < 200; n++)
      for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) h[i * size + j]! += x[n * size + i]! * x[n * size + j]!
    const scale = new Float32Array(rows).fill(0.25)
    const { codes, error } = adaround(w, rows, size, h, { bits: 4, blockSize: 0, scale })
    let sum = 0
    let best = 0
    let nearest = 0
    for (let r = 0; r < rows; r++) {
      const row = Array.from(w.subarray(r * size, (r + 1) * size))
      const found = bestRounding(row, h, 0.25, Array.from(codes.subarray(r * size, (r + 1) * size)))
      // Each weight goes down or up, no further.
      row.forEach((v, i) => expect(Math.abs(codes[r * size + i]! - v / 0.25)).toBeLessThan(1))
      sum += found.given
      best += found.best
      nearest += found.nearest
    }
    expect(error).toBeCloseTo(sum, 3)
    expect(sum).toBeLessThan(2.5 * best)
    expect(sum).toBeLessThan(0.4 * nearest)
  })
})

describe('ProxQuant', () => {
  const [rows, size] = [24, 12]
  const w = noise(rows * size, 7)
  const levels = [-0.9, -0.4, -0.15, 0, 0.1, 0.3, 0.8]
  const h = new Float64Array(size * size)
  const x = inputs(300, size, 8)
  for (let n = 0; n < 300; n++)
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) h[i * size + j]! += x[n * size + i]! * x[n * size + j]!
  const errorOf = (row: readonly number[], got: readonly number[]): number => {
    let sum = 0
    for (let i = 0; i < size; i++) for (let j = 0; j < size; j++) sum += (got[i]! - row[i]!) * h[i * size + j]! * (got[j]! - row[j]!)
    return sum
  }
  const run = (lambda: number) => prox(w, rows, size, metricOf(h, size), { blockSize: 0, levels: () => Float64Array.from(levels), lambda })
  const nearestOf = (v: number): number => levels.reduce((best, l) => (Math.abs(v - l) < Math.abs(v - best) ? l : best))
  const rowOf = (r: number): number[] => Array.from(w.subarray(r * size, (r + 1) * size))

  test.each([1 / 8, 1 / 2])('λ %d: the path of the definition, in double precision', (lambda) => {
    let trace = 0
    for (let k = 0; k < size; k++) trace += h[k * size + k]!
    const scaled = Array.from({ length: size }, (_, i) => Array.from({ length: size }, (__, j) => (h[i * size + j]! * size) / trace + (i === j ? 0.01 : 0)))
    const { codes, error } = run(lambda)
    let [own, want, plain] = [0, 0, 0]
    for (let r = 0; r < rows; r++) {
      const row = rowOf(r)
      const near = errorOf(row, row.map(nearestOf))
      own += errorOf(row, Array.from(codes.subarray(r * size, (r + 1) * size), (c) => levels[c]!))
      want += Math.min(near, errorOf(row, proximalPath(row, scaled, levels, lambda, 100)))
      plain += near
    }
    expect(error / own).toBeCloseTo(1, 3)
    expect(Math.abs(own - want)).toBeLessThan(0.03 * want)
    expect(own).toBeLessThan(0.75 * plain)
  })

  test('without strength every value goes to the nearest level', () => {
    expect(Array.from(run(0).codes, (c) => Math.fround(levels[c]!))).toEqual(Array.from(w, (v) => Math.fround(nearestOf(v))))
  })

  test.each([
    [{ bits: 4 }, 0.6],
    [{ format: 'nf4', blockSize: 16 }, 0.6],
    [{ format: 'residual', bits: 2 }, 0.9],
  ] as const)('%j: outputs move less than by nearest rounding, by a λ that folds chose', async (step, share) => {
    const made = net()
    const { model, report } = await compress(made, quantize({ ...step, method: 'prox' }), { calibration })
    const plain = await compress(made, quantize({ ...step, maxError: 1, method: 'omse' }))
    const sets = (calibration as { x: { data: Float32Array } }[]).map((s) => s.x.data)
    const of = (m: Model): Float32Array => readQuantized(quantizedWeights(m.graph).find((q) => q.value === 'w')!)
    const values = made.initializers.get('w')!.readSync().data as Float32Array
    const [own, nearest] = [model, plain.model].map((m) => outputError(values, of(m), sets, kIn, kOut))
    expect(own).toBeLessThan(share * nearest!)
    const layers = Object.fromEntries(report.steps[0]!.layers.map((l) => [l.weight, l]))
    expect(layers['w']!.outputError).toBeCloseTo(own!, 4)
    expect(kLambdas).toContain(Number(/λ (\S+) by/.exec(layers['w']!.reason!)![1]))
    expect(layers['e']!.reason).toContain('rounded to nearest')
    if ('bits' in step) expect(Buffer.compare((await compress(made, quantize({ ...step, method: 'prox' }), { calibration })).model.toBytes(), model.toBytes())).toBe(0)
  })

  test('one set of inputs leaves none to choose λ on', async () => {
    const one = (calibration as object[]).slice(0, 1) as unknown as CalibrationData
    expect(await failure(() => compress(net(), quantize({ method: 'prox' }), { calibration: one }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'calibration' })
  })
})

describe('codes for entropy coding', () => {
  test.each([2.5, 4.5])('%d bits on average, one step a weight, small weights finer', async (bits) => {
    const specs = [kSpecs[3]!, { op: 'MatMul', dims: [128, 96] }, kSpecs[1]!]
    const { model, report } = await compress(netOf(specs), quantize({ coding: 'entropy', bits }))
    await runNet(model, specs)
    const read = quantizedWeights(model.graph)
    const [small, large, depthwise] = read
    const own = read.map((w) => entropy(Array.from(readCodes(w))))
    const sizes = [64 * 33, 128 * 96]
    expect((own[0]! * sizes[0]! + own[1]! * sizes[1]!) / (sizes[0]! + sizes[1]!)).toBeCloseTo(bits, 1)
    expect([small!.scales.dims, large!.scales.dims, depthwise!.scales.elementCount]).toEqual([[], [], 24])
    expect(own[0]!).toBeGreaterThan(own[1]! + 0.2)
    report.steps[0]!.layers.forEach((l, i) => expect(l.bits).toBeCloseTo(i === 2 ? 8 : own[i]!, 2))
    expect(await model.packedLength()).toBeLessThan(0.75 * model.byteLength())
  })

  test('a channel beyond 127 steps has a scale of its own', async () => {
    const data = noise(128 * 96)
    for (let i = 0; i < 128; i++) data[i * 96 + 5]! *= 300
    const specs = [{ op: 'MatMul', dims: [128, 96], data }]
    const { model } = await compress(netOf(specs), quantize({ coding: 'entropy', bits: 5 }))
    const [weight] = quantizedWeights(model.graph)
    const scales = Array.from(weight!.scales.readSync().data as Float32Array)
    expect(scales.length).toBe(96)
    expect(new Set(scales).size).toBe(2)
    expect(scales[5]! * 127).toBeCloseTo(data.reduce((m, v) => Math.max(m, Math.abs(v)), 0), 3)
    expect((await runNet(model, specs))['w0']).toEqual(readQuantized(weight!))
  })
})

test('calibration is asked for where it is needed', async () => {
  for (const method of ['gptq', 'adaround'] as const)
    expect(await failure(() => compress(net(), quantize({ method })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'options.calibration' })
  await compress(net(), quantize({ method: 'omse' }))
})

test.each([
  [{ method: 'gptq', format: 'float16' }, 'format', 'scales'],
  [{ coding: 'entropy', format: 'binary' }, 'format', "'int'"],
  [{ coding: 'entropy', blockSize: 32 }, 'coding', "'fixed'"],
  [{ coding: 'entropy', bits: 0.5 }, 'bits', '1'],
  [{ coding: 'huffman' }, 'coding', "'entropy'"],
  [{ bits: 4.5 }, 'bits', '2'],
  [{ bits: 8, averageBits: 5 }, 'averageBits', 'auto'],
  [{ bits: 'auto', averageBits: 5, bytes: 5 }, 'bytes', 'averageBits'],
  [{ bits: 'auto', format: 'pow2' }, 'bits', 'integer'],
] as const)('%j is refused', async (step, parameter, text) => {
  const error = await failure(() => compress(net(), quantize(step as never), { calibration }))
  expect(error).toMatchObject({ name: 'WhittleError', parameter: `recipe.steps[0].${parameter}` })
  expect(error.message).toContain(text)
})

describe('mixed bits', () => {
  const bitsOf = async (step: Quantize, given?: CalibrationData): Promise<[string, number | undefined, number][]> => {
    const { report } = await compress(net(), quantize({ bits: 'auto', ...step }), given ? { calibration: given } : {})
    return report.steps[0]!.layers.map((l) => [l.weight, l.bits, l.bytesAfter])
  }
  const total = (layers: readonly [string, number | undefined, number][]): number => layers.reduce((n, l) => n + l[2], 0)

  test('bytes and average bits are kept, and used up as far as steps allow', async () => {
    const elements = 48 * 32 + 16 * 36 + 40 * 16
    for (const averageBits of [3.8, 5, 6.5]) {
      const layers = await bitsOf({ averageBits }, calibration)
      expect(total(layers)).toBeLessThanOrEqual((averageBits * elements) / 8)
      expect(total(await bitsOf({ bytes: Math.floor((averageBits * elements) / 8) }, calibration))).toBe(total(layers))
      expect(new Set(layers.map((l) => l[1])).size).toBeGreaterThan(averageBits === 3.8 ? 0 : 1)
    }
    expect(await failure(() => bitsOf({ averageBits: 1.5 }))).toMatchObject({ code: 'ERR_LIMIT', parameter: 'averageBits' })
    expect(await failure(() => bitsOf({ bytes: 100 }))).toMatchObject({ code: 'ERR_LIMIT', parameter: 'bytes' })
  })

  test('the choice is the best there is, by every combination of bits', () => {
    const layers = [3, 1, 7, 2].map((importance, i) =>
      [2, 3, 4, 8].map((bits) => ({ bits, bytes: bits * (i + 1) * 8, saved: (32 - bits) * (i + 1) * 8, error: importance * 4 ** -bits })),
    )
    const errorOf = (bits: readonly number[]): number => bits.reduce((s, b, i) => s + layers[i]!.find((c) => c.bits === b)!.error, 0)
    const bytesOf = (bits: readonly number[]): number => bits.reduce((s, b, i) => s + b * (i + 1) * 8, 0)
    const all = layers.reduce<number[][]>((lists) => lists.flatMap((l) => [2, 3, 4, 8].map((b) => [...l, b])), [[]])
    for (const budget of [200, 260, 400, 640]) {
      const bits = allocate(layers, budget)!
      const best = all.filter((b) => bytesOf(b) <= budget).sort((a, b) => errorOf(a) - errorOf(b))[0]!
      expect(bytesOf(bits)).toBeLessThanOrEqual(budget)
      // Greedy choices miss the best by less than what one more step of one layer would bring.
      expect(errorOf(bits)).toBeLessThanOrEqual(4 * errorOf(best))
    }
    expect(allocate(layers, 640)).toEqual([8, 8, 8, 8])
    expect(allocate(layers, 159)).toBeUndefined()
  })

  test('tables that unpack few bits count where they take more than they save', () => {
    const layers = (table: number): Candidate[][] =>
      [3, 1, 7, 2].map((importance) =>
        [2, 3, 4, 8].map((bits) => ({ bits, bytes: bits * 100, saved: (32 - bits) * 100, error: importance * 4 ** -bits, ...(bits < 8 ? { table: table * bits } : {}) })),
      )
    expect(allocateFew(layers(0), 1600)).toEqual(allocate(layers(0), 1600))
    expect(allocate(layers(0), 1700)).toEqual([4, 4, 4, 4])
    // A table of 2000 bytes beside 1600 of codes: 8 bits everywhere take 3200.
    expect(allocateFew(layers(500), 1700)).toEqual([8, 8, 8, 8])
    expect(allocateFew(layers(100), 1700)).toEqual([4, 4, 4, 4])
    expect(allocateFew(layers(1), 400)).toBeUndefined()
  })

  test('of a file of a few kilobytes codes are no larger than the floats, and what is asked for takes a byte where a table would not pay', async () => {
    Tables.counted = true
    const small = (): Model => netOf([{ op: 'MatMul', dims: [24, 24], data: noise(576, 3) }])
    for (const step of [{ bits: 4 }, { bits: 2 }, { format: 'nf4' }, { bits: 'auto', averageBits: 8.5 }] as const) {
      const { report } = await compress(small(), quantize(step))
      expect(report.after.bytes).toBeLessThan(report.before.bytes)
      expect(report.steps[0]!.layers[0]).toMatchObject({ action: 'quantized', bits: 8, ...(step.bits === 'auto' ? {} : { reason: expect.stringContaining('table') as string }) })
    }
    Tables.counted = false
  })

  test('with method gptq codes follow the chosen bits, and come again as they were', async () => {
    const recipe = quantize({ bits: 'auto', averageBits: 5, method: 'gptq' })
    const [a, b] = [await compress(net(), recipe, { calibration }), await compress(net(), recipe, { calibration })]
    expect(Buffer.compare(a.model.toBytes(), b.model.toBytes())).toBe(0)
    const [w] = a.report.steps[0]!.layers
    expect(w!.outputError).toBeGreaterThan(0)
    expect(quantizedWeights(a.model.graph).map((q) => q.bits)).toEqual(a.report.steps[0]!.layers.map((l) => l.bits))
  })
})
