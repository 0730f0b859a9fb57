import { compress, type Recipe } from '../lib/compress'
import { quantizedWeights, readQuantized } from '../lib/model/quantized'
import { weights } from '../lib/model/weights'
import { decodeBlock, encodeBlock, shapeOf } from '../lib/model/whittle/block'
import { agree, graph, modelOf } from './graphs'
import { failure, kSpecs, netOf, noise, runNet } from './nets'
import { entropyBits } from './oracle/whittle'

const share = (more: object = {}): Recipe => ({ steps: [{ step: 'codebook', maxError: 1, ...more }] })
const all = { minElements: 0 }

/** Squared error of each value against the nearest of `table`, in double precision. */
const squares = (values: Float32Array, table: readonly number[], weight: (i: number) => number = () => 1): number =>
  values.reduce((sum, v, i) => sum + weight(i) * table.reduce((least, c) => Math.min(least, (v - c) ** 2), Infinity), 0)

test.each([
  [8, 'linear'],
  [5, 'k-means++'],
  [3, 'linear'],
  [1, 'density'],
] as const)('%i bits, %s: a runtime sees each weight as the nearest of a few values, which are the means of their members', async (bits, init) => {
  const original = netOf(kSpecs)
  const { model, report } = await compress(original, share({ bits, init, layers: all }))
  expect(weights(model.graph)).toEqual([])
  const got = await runNet(model, kSpecs)
  const read = new Map(quantizedWeights(model.graph).map((w) => [w.value, w]))
  let shared = 0
  kSpecs.forEach((_, i) => {
    const values = original.initializers.get(`w${i}`)!.readSync().data as Float32Array
    const back = got[`w${i}`]!
    const done = report.steps[0]!.layers.find((l) => l.weight === `w${i}`)!
    if (done.action === 'kept') return expect(done.reason).toBe('indices and table would not be smaller')
    shared++
    expect(readQuantized(read.get(`w${i}`)!)).toEqual(back)
    const table = [...new Set(back)]
    expect(table.length).toBeLessThanOrEqual(2 ** bits)
    const members = new Map<number, number[]>()
    let farther = 0
    values.forEach((v, k) => {
      for (const c of table) farther = Math.max(farther, Math.abs(v - back[k]!) - Math.abs(v - c))
      const list = members.get(back[k]!)
      if (list) list.push(v)
      else members.set(back[k]!, [v])
    })
    expect(farther).toBeLessThan(1e-7)
    const range = Math.max(...values) - Math.min(...values)
    for (const [c, m] of members) expect(Math.abs(m.reduce((a, b) => a + b) / m.length - c)).toBeLessThan(range * 2e-3)
    expect(done.error).toBeCloseTo(Math.sqrt(squares(values, table) / values.reduce((a, v) => a + v * v, 0)), 5)
  })
  expect(shared).toBeGreaterThan(2)
})

/** Two products, whose first input has features of very different size. */
function pair(zeros = 0) {
  const w = noise(64 * 48, 4).map((v, i) => (i % 10 < zeros ? 0 : i < 8 * 48 ? 2 + v / 2 : v))
  return modelOf(
    graph(
      [['x', 'float32', [null, 64]]],
      { w: { type: 'float32', dims: [64, 48], data: w }, v: { type: 'float32', dims: [48, 40], data: noise(48 * 40, 5) } },
      [['MatMul', ['x', 'w'], ['h']], ['Relu', ['h'], ['r']], ['MatMul', ['r', 'v'], ['y']]],
      ['y'],
    ),
  )
}

const input = (i: number) => ({ type: 'float32' as const, dims: [4, 64], data: noise(256, 90 + i).map((v, k) => v * (k % 64 < 8 ? 10 : 0.1)) })

test('Session and onnxruntime agree on shared weights, a byte or several indices to a byte', async () => {
  for (const bits of [1, 2, 3, 4, 6]) {
    const { model } = await compress(pair(), share({ bits, layers: all }))
    await agree(model, { x: input(0) })
  }
})

test('Zeros stay zeros where there are some, unless they need not', async () => {
  for (const [zeros, kept] of [
    ['keep', true],
    ['any', false],
  ] as const) {
    const { model } = await compress(pair(5), share({ bits: 3, zeros, layers: { include: ['w'] } }))
    const original = pair(5).initializers.get('w')!.readSync().data as Float32Array
    const back = readQuantized(quantizedWeights(model.graph)[0]!)
    expect(original.every((v, i) => v !== 0 || Object.is(back[i], 0))).toBe(kept)
  }
})

test('Values that are few already are kept exactly', async () => {
  const original = pair()
  const few = noise(64 * 48, 4).map((v) => Math.round(v * 4) / 4)
  original.graph.setInitializer('w', { type: 'float32', dims: [64, 48], data: few })
  const { model, report } = await compress(original, share({ bits: 5, layers: { include: ['w'] } }))
  expect(readQuantized(quantizedWeights(model.graph)[0]!)).toEqual(few.map((v) => v + 0))
  expect(report.steps[0]!.layers[0]!.error).toBe(0)
})

test('Weighed by inputs, the values that meet large inputs are kept better', async () => {
  const calibration = [0, 1, 2].map((i) => ({ x: input(i) }))
  const tables = await Promise.all(
    (['none', 'inputs'] as const).map(async (weighting) => {
      const { model } = await compress(pair(), share({ bits: 3, weighting, layers: { include: ['w'] } }), { calibration })
      return [...new Set(readQuantized(quantizedWeights(model.graph)[0]!))]
    }),
  )
  const values = pair().initializers.get('w')!.readSync().data as Float32Array
  const power = Array.from({ length: 64 }, (_, k) => calibration.reduce((s, c) => s + [0, 1, 2, 3].reduce((t, r) => t + c.x.data[r * 64 + k]! ** 2, 0), 0))
  const byInputs = (table: readonly number[]): number => squares(values, table, (i) => power[Math.floor(i / 48)]!)
  expect(byInputs(tables[1]!)).toBeLessThan(0.97 * byInputs(tables[0]!))
  expect(squares(values, tables[1]!)).toBeGreaterThan(squares(values, tables[0]!))
})

test('The same step gives the same bytes, and a container holds indices at their entropy', async () => {
  const [a, b] = [await compress(pair(), share({ bits: 4, init: 'k-means++', layers: all })), await compress(pair(), share({ bits: 4, init: 'k-means++', layers: all }))]
  expect(Buffer.compare(a.model.toBytes(), b.model.toBytes())).toBe(0)
  const other = await compress(pair(), share({ bits: 4, init: 'k-means++', seed: 9, layers: all }))
  expect(Buffer.compare(a.model.toBytes(), other.model.toBytes())).not.toBe(0)
  const indices = Uint8Array.from(noise(1 << 15, 3), (v) => Math.max(0, Math.min(15, Math.round(7.5 + 3 * v * v * v))))
  const packed = Uint8Array.from({ length: indices.length / 2 }, (_, i) => indices[2 * i]! | (indices[2 * i + 1]! << 4))
  const shape = shapeOf('uint8', [64, 256])
  const coded = encodeBlock(packed, shape)
  expect(coded.length).toBeLessThan((entropyBits(indices) / 8) * 1.005 + 40)
  expect(decodeBlock(coded, shape, packed.length, 'x')).toEqual(packed)
})

test('Weights that are not numbers, steps that are misspelt and missing calibration are refused by name', async () => {
  const bad = pair()
  const data = noise(64 * 48, 4)
  data[7] = NaN
  bad.graph.setInitializer('w', { type: 'float32', dims: [64, 48], data })
  expect(await failure(() => compress(bad, share({ layers: all })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'w' })
  const { report } = await compress(bad, share({ nonFinite: 'keep', layers: all }))
  expect(report.steps[0]!.layers.map((l) => [l.weight, l.action])).toEqual([['w', 'kept'], ['v', 'quantized']])
  for (const step of [{ bits: 9 }, { bits: 0 }, { init: 'best' }, { weighting: 'hessian' }, { bit: 4 }, { zeros: true }, { seed: -1 }])
    expect(await failure(() => compress(pair(), share(step)))).toMatchObject({ code: 'ERR_RANGE' })
  expect(await failure(() => compress(pair(), share({ weighting: 'inputs' })))).toMatchObject({ code: 'ERR_RANGE' })
  const kept = await compress(pair(), { steps: [{ step: 'codebook', bits: 1, maxError: 0.01, layers: all }] })
  expect(kept.report.steps[0]!.layers.every((l) => l.action === 'kept' && l.error! > 0.01)).toBe(true)
})
