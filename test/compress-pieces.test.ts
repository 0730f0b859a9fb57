import { compress, type CalibrationData, type Recipe } from '../lib/compress'
import type { Model } from '../lib/model'
import { quantizedWeights, readQuantized } from '../lib/model/quantized'
import { weights } from '../lib/model/weights'
import { agree, graph, modelOf } from './graphs'
import { failure, kSpecs, netOf, noise, runNet } from './nets'
import { outputError } from './oracle/lowbit'
import { nearestOf, rowsAlongSums, type Rows } from './oracle/pieces'

/** Codebooks of pieces, and with scales of channels. */

const share = (more: object = {}): Recipe => ({ steps: [{ step: 'codebook', maxError: 1, layers: { minElements: 0 }, ...more }] })
const dataOf = (model: Model, name: string): Float32Array => model.initializers.get(name)!.readSync().data as Float32Array
const squared = (a: Float32Array, b: Float32Array): number => a.reduce((sum, v, i) => sum + (v - b[i]!) ** 2, 0)

/** Products of which both inputs hang together, and whose first input has features of very different size. */
const [kIn, kOut] = [64, 48]
function pair(data = noise(kIn * kOut, 4)): Model {
  return modelOf(
    graph(
      [['x', 'float32', [null, kIn]]],
      { w: { type: 'float32', dims: [kIn, kOut], data }, v: { type: 'float32', dims: [kOut, 40], data: noise(kOut * 40, 5) } },
      [['MatMul', ['x', 'w'], ['h']], ['Relu', ['h'], ['r']], ['MatMul', ['r', 'v'], ['y']]],
      ['y'],
    ),
  )
}

const sets = [1, 2, 3, 4].map((seed) => {
  const mix = noise(160 * 3, seed)
  const base = noise(3 * kIn, 50)
  return noise(160 * kIn, 90 + seed).map((v, k) => (0.15 * v + [0, 1, 2].reduce((s, j) => s + 2 * mix[Math.floor(k / kIn) * 3 + j]! * base[j * kIn + (k % kIn)]!, 0)) * (k % kIn < 8 ? 10 : 1))
})
const calibration: CalibrationData = sets.map((data) => ({ x: { type: 'float32', dims: [160, kIn], data } }))
const readOf = (model: Model, name: string): Float32Array => readQuantized(quantizedWeights(model.graph).find((w) => w.value === name)!)

describe('pieces', () => {
  test.each([
    [8, 4, 'none'],
    [3, 2, 'none'],
    [4, 8, 'channel'],
  ] as const)('%i bits a piece of %i values, scale %s: of every op a runtime sees pieces that are the nearest of a few', async (bits, subvector, scale) => {
    const original = netOf(kSpecs)
    const { model, report } = await compress(original, share({ bits, subvector, scale }))
    const got = await runNet(model, kSpecs)
    let shared = 0
    kSpecs.forEach((spec, i) => {
      const done = report.steps[0]!.layers.find((l) => l.weight === `w${i}`)!
      if (done.action === 'kept') return expect(done.reason).toMatch(/would not be smaller|divides/)
      shared++
      const back = readOf(model, `w${i}`)
      expect(back).toEqual(got[`w${i}`])
      const size = Math.round(bits / done.bits!)
      const values = dataOf(original, `w${i}`)
      const [before, after]: [Rows, Rows] = [rowsAlongSums(spec, values), rowsAlongSums(spec, back)]
      expect(before.length % size).toBe(0)
      expect(size).toBeLessThanOrEqual(subvector)
      // Pieces of a row over its scale are a few vectors; each weight's piece is at the nearest of those that its row could take.
      const scales = quantizedWeights(model.graph).find((w) => w.value === `w${i}`)!.scales.readSync().data as Float32Array
      const by = (channel: number): number => (scale === 'none' ? 1 : scales[channel]!)
      const book: number[][] = []
      for (const row of after.rows)
        for (let at = 0; at < row.values.length; at += size) {
          const piece = row.values.slice(at, at + size).map((v) => v / by(row.channel))
          if (!(nearestOf(book, piece) < 1e-8)) book.push(piece)
        }
      expect(book.length).toBeLessThanOrEqual(2 ** bits)
      let worst = 0
      before.rows.forEach((row, r) => {
        const unit = by(row.channel)
        for (let at = 0; at < row.values.length; at += size) {
          const piece = row.values.slice(at, at + size)
          const own = after.rows[r]!.values.slice(at, at + size)
          const error = piece.reduce((s, v, j) => s + (v - own[j]!) ** 2, 0)
          const best = nearestOf(book, piece.map((v) => v / unit)) * unit * unit
          worst = Math.max(worst, error - best)
        }
      })
      expect(worst).toBeLessThan(1e-5)
      expect(done.error).toBeCloseTo(Math.sqrt(squared(back, values) / values.reduce((s, v) => s + v * v, 0)), 4)
    })
    expect(shared).toBeGreaterThan(4)
    expect(weights(model.graph).length).toBe(report.steps[0]!.layers.filter((l) => l.action === 'kept').length)
  })

  test('Session and onnxruntime agree, and the same step gives the same bytes', async () => {
    for (const step of [{ subvector: 4, bits: 5 }, { subvector: 8, bits: 4, scale: 'channel' }, { bits: 4, scale: 'channel' }, { bits: 7, scale: 'channel' }]) {
      const [a, b] = [await compress(pair(), share(step)), await compress(pair(), share(step))]
      expect(quantizedWeights(a.model.graph).length).toBe(2)
      await agree(a.model, { x: { type: 'float32', dims: [4, kIn], data: noise(4 * kIn, 7) } })
      expect(Buffer.compare(a.model.toBytes(), b.model.toBytes())).toBe(0)
    }
    const [a, b] = [await compress(pair(), share({ subvector: 4, bits: 5 })), await compress(pair(), share({ subvector: 4, bits: 5, seed: 3 }))]
    expect(Buffer.compare(a.model.toBytes(), b.model.toBytes())).not.toBe(0)
  })

  test('Pieces that hang together lose far less than single values of as many bits', async () => {
    const few = noise(40 * 8, 6)
    const which = noise((kIn * kOut) / 8, 8).map((v) => Math.abs(Math.round(v * 1000)) % 40)
    const own = noise(kIn * kOut, 9)
    // Along the sums: consecutive rows of a column.
    const data = own.map((v, i) => few[which[Math.floor(Math.floor(i / kOut) / 8) * kOut + (i % kOut)]! * 8 + (Math.floor(i / kOut) % 8)]! + 0.01 * v)
    const lost = async (step: object): Promise<number> => squared(readOf((await compress(pair(data), share(step))).model, 'w'), data)
    expect(await lost({ subvector: 8, bits: 8 })).toBeLessThan(0.05 * (await lost({ bits: 1 })))
    const exact = few.length ? data.map((_, i) => few[which[Math.floor(Math.floor(i / kOut) / 8) * kOut + (i % kOut)]! * 8 + (Math.floor(i / kOut) % 8)]!) : data
    expect(readOf((await compress(pair(exact), share({ subvector: 8 }))).model, 'w')).toEqual(exact.map((v) => v + 0))
    // Numbers whose squares float32 does not hold.
    const huge = data.map((v) => v * 1e25)
    expect(Math.sqrt(squared(readOf((await compress(pair(huge), share({ subvector: 8 }))).model, 'w'), huge))).toBeLessThan(0.2 * Math.sqrt(huge.reduce((s, v) => s + v * v, 0)))
  })

  test('Weighed by inputs, what meets large inputs is kept better', async () => {
    const data = dataOf(pair(), 'w')
    const power = Array.from({ length: kIn }, (_, k) => sets.reduce((s, x) => s + x.reduce((t, v, i) => (i % kIn === k ? t + v * v : t), 0), 0))
    const lost = async (weighting: string): Promise<number> => {
      const back = readOf((await compress(pair(), share({ subvector: 4, bits: 6, weighting }), { calibration })).model, 'w')
      return back.reduce((s, v, i) => s + power[Math.floor(i / kOut)]! * (v - data[i]!) ** 2, 0)
    }
    expect(await lost('inputs')).toBeLessThan(0.8 * (await lost('none')))
  })
})

/** The scale of a channel, as the file holds it. */
function scaleOf(model: Model, name: string, channel: number): number {
  return (quantizedWeights(model.graph).find((w) => w.value === name)!.scales.readSync().data as Float32Array)[channel]!
}

describe('scales of channels', () => {
  const uneven = noise(kIn * kOut, 4).map((v, i) => v * 2 ** ((i % kOut) / 4 - 6))

  test.each([3, 5, 8])('%i bits: each weight is the nearest shared value times its channel’s scale, and small channels keep their shape', async (bits) => {
    const { model } = await compress(pair(uneven), share({ bits, scale: 'channel' }))
    const back = readOf(model, 'w')
    const scales = Array.from({ length: kOut }, (_, c) => scaleOf(model, 'w', c))
    const table: number[] = []
    for (const v of [...back].map((b, i) => b / scales[i % kOut]!).sort((a, b) => a - b)) if (!(v - table.at(-1)! < 1e-5)) table.push(v)
    expect(table.length).toBeLessThanOrEqual(2 ** bits)
    let worst = 0
    uneven.forEach((v, i) => {
      const s = scales[i % kOut]!
      worst = Math.max(worst, (Math.abs(v - back[i]!) - Math.min(...table.map((t) => Math.abs(v - t * s)))) / s)
    })
    expect(worst).toBeLessThan(1e-4)
    const shares = (got: Float32Array): number[] =>
      Array.from({ length: kOut }, (_, c) => {
        const of = (a: Float32Array): number[] => Array.from({ length: kIn }, (__, k) => a[k * kOut + c]!)
        const [w, g] = [of(uneven), of(got)]
        return w.reduce((s, v, k) => s + (v - g[k]!) ** 2, 0) / w.reduce((s, v) => s + v * v, 0)
      })
    const plain = readOf((await compress(pair(uneven), share({ bits }))).model, 'w')
    expect(Math.max(...shares(back))).toBeLessThan(0.2 * Math.max(...shares(plain)))
  })

  test.each(['none', 'channel'] as const)('scale %s: values that begin with the best of a histogram are never worse than those that begin elsewhere', async (scale) => {
    // Many small values and a few large ones.
    const data = uneven.map((v, i) => v * (i % 11 === 0 ? 8 : 1))
    const lost = async (init?: string): Promise<number> => {
      const { model } = await compress(pair(data), share({ bits: 4, scale, ...(init ? { init } : {}) }))
      return squared(readOf(model, 'w').map((v, i) => v / (scale === 'none' ? 1 : 2 ** ((i % kOut) / 4 - 6))), data.map((v, i) => v / (scale === 'none' ? 1 : 2 ** ((i % kOut) / 4 - 6))))
    }
    const best = await lost('histogram')
    if (scale === 'channel') expect(await lost()).toBe(best)
    for (const init of ['linear', 'density', 'k-means++']) expect(best).toBeLessThan((scale === 'none' ? 1.01 : 1.1) * (await lost(init)))
    expect(best).toBeLessThan(0.95 * (await lost('linear')))
  })

  test('of every op, and several indices to a byte', async () => {
    const { model } = await compress(netOf(kSpecs), share({ bits: 4, scale: 'channel' }))
    const got = await runNet(model, kSpecs)
    for (const weight of quantizedWeights(model.graph)) if (got[weight.value]) expect(readQuantized(weight)).toEqual(got[weight.value])
    expect(quantizedWeights(model.graph).length).toBeGreaterThan(3)
  })
})

describe('shared values chosen by what the inputs are', () => {
  test.each([
    ['gptq', 'channel'],
    ['adaround', 'channel'],
    ['gptq', 'none'],
  ] as const)('%s, scale %s: outputs move far less than with the nearest values', async (method, scale) => {
    const data = dataOf(pair(), 'w').map((v, i) => (i % 7 === 0 ? 0 : v))
    const make = async (step: object) => compress(pair(data), share({ bits: 3, scale, ...step }), { calibration })
    const [own, nearest] = [await make({ method }), await make({})]
    const [a, b] = [own, nearest].map(({ model }) => outputError(data, readOf(model, 'w'), sets, kIn, kOut))
    expect(a).toBeLessThan(0.4 * b!)
    expect(own.report.steps[0]!.layers[0]!.outputError).toBeCloseTo(a!, 4)
    expect([...readOf(own.model, 'w')].every((v, i) => (data[i] === 0 ? v === 0 : true))).toBe(true)
    expect(Buffer.compare((await make({ method })).model.toBytes(), own.model.toBytes())).toBe(0)
  })
})

test.each([
  [{ subvector: 0 }, 'subvector', '1'],
  [{ subvector: 4, init: 'linear' }, 'init', 'k-means++'],
  [{ subvector: 4, zeros: 'keep' }, 'zeros', "'any'"],
  [{ subvector: 4, method: 'gptq' }, 'method', "'nearest'"],
  [{ scale: 'row' }, 'scale', "'channel'"],
  [{ method: 'gptqq' }, 'method', "'gptq'"],
] as const)('%j is refused', async (step, parameter, text) => {
  const error = await failure(() => compress(pair(), share(step)))
  expect(error).toMatchObject({ name: 'WhittleError', code: 'ERR_RANGE', parameter: `recipe.steps[0].${parameter}` })
  expect(error.message).toContain(text)
})

test('Calibration is asked for by name', async () => {
  expect(await failure(() => compress(pair(), share({ method: 'gptq' })))).toMatchObject({ code: 'ERR_RANGE', parameter: 'options.calibration' })
})
