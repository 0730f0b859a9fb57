import { compress, type Recipe, type Step } from '../lib/compress'
import { Tables } from '../lib/compress/passes/emit'
import type { Model } from '../lib/model'
import { quantizedWeights, readQuantized } from '../lib/model/quantized'
import { weights } from '../lib/model/weights'
import { Session } from '../lib/session'
import { inputFor, failure, kSpecs, netOf, noise, runNet, type Spec } from './nets'
import { additive4, bestOfTwoPlanes, binary, greedyResidual, leastError, nearest, normalFloat4, powersOfTwo, sums, ternary } from './oracle/lowbit'

// Weights here are too small for the tables that unpack their codes.
beforeAll(() => void (Tables.counted = false))
afterAll(() => void (Tables.counted = true))

type Quantize = Omit<Extract<Step, { step: 'quantize' }>, 'step'>
const quantize = (more: Quantize): Recipe => ({ steps: [{ step: 'quantize', maxError: 1, ...more }] })
const dataOf = (model: Model, name: string): Float32Array => model.initializers.get(name)!.readSync().data as Float32Array

/** Rows of 64 of an [n, 64] tensor. */
function rowsOf(data: Float32Array, size = 64): number[][] {
  return Array.from({ length: data.length / size }, (_, r) => Array.from(data.subarray(r * size, (r + 1) * size)))
}

const kGemm: Spec = { op: 'Gemm', dims: [48, 64], attributes: kSpecs[6]!.attributes! }
const small = netOf([kGemm])
const rows = rowsOf(dataOf(small, 'w0'))

function expectClose(got: Float32Array, want: readonly number[]): void {
  const most = Math.max(...want.map(Math.abs))
  const far = want.findIndex((v, i) => !(Math.abs(got[i]! - v) <= 1e-6 * most))
  if (far >= 0) throw new Error(`value ${far} is ${got[far]}, want ${want[far]}`)
}

const scaled = (levels: readonly number[]) => (row: readonly number[]) => {
  const most = Math.max(...row.map(Math.abs))
  return row.map((w) => most * nearest(levels, w / most))
}

describe('formats', () => {
  test.each([
    ['nf4', { format: 'nf4' }, scaled(normalFloat4()), 4],
    ['binary', { format: 'binary' }, binary, 1],
    ['ternary', { format: 'ternary' }, ternary, 2],
    ['powers of two', { format: 'pow2' }, scaled(powersOfTwo(4)), 4],
    ['powers of two in 3 bits', { format: 'pow2', bits: 3 }, scaled(powersOfTwo(3)), 8 / 2],
    ['sums of powers of two', { format: 'apot' }, scaled(additive4()), 4],
  ] as const)('%s: a runtime computes the weights that the definition gives', async (_, step, definition, bits) => {
    const { model, report } = await compress(small, quantize(step))
    const got = (await runNet(model, [kGemm]))['w0']!
    expectClose(got, rows.flatMap((row) => [...definition(row)]))
    const [weight] = quantizedWeights(model.graph)
    expect(readQuantized(weight!)).toEqual(got)
    const [layer] = report.steps[0]!.layers
    expect([layer!.bits, weight!.bits]).toEqual([bits, bits])
    expect(layer!.bytesAfter).toBe((48 * 64 * bits) / 8 + 48 * 4)
    expect(weights(model.graph)).toEqual([])
  })

  test('what Session computes of every format and every op is what onnxruntime does', async () => {
    const steps: Quantize[] = [
      { bits: 2 },
      { bits: 3 },
      { format: 'nf4' },
      { format: 'ternary', scale: 'pow2' },
      { format: 'apot', bits: 5 },
      { format: 'pow2', bits: 8 },
      { format: 'residual', bits: 4 },
      { format: 'float16' },
    ]
    const original = netOf(kSpecs)
    for (const step of steps) {
      const { model } = await compress(original, quantize({ ...step, layers: { minElements: 0 } }))
      const want = await runNet(model, kSpecs)
      const session = await Session.create(model.toBytes(), { threads: 1 })
      const feeds = Object.fromEntries(kSpecs.map((s, i) => [`x${i}`, inputFor(s)]))
      const got = await session.run(feeds as never)
      session.dispose()
      for (const [name, values] of Object.entries(want)) {
        const most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
        const data = got[name]!.data as Float32Array
        const far = values.findIndex((v, i) => !(Math.abs(data[i]! - v) <= 1e-5 * most))
        if (far >= 0) throw new Error(`${JSON.stringify(step)} ${name}: value ${far} is ${data[far]}, want ${values[far]}`)
      }
      for (const weight of quantizedWeights(model.graph))
        if (want[weight.value]) expect(readQuantized(weight)).toEqual(want[weight.value])
    }
  })

  test('two and three bits take two and three bits, whatever the sizes allow', async () => {
    const specs: Spec[] = [kGemm, { op: 'MatMul', dims: [18, 15] }, { op: 'MatMul', dims: [20, 17] }]
    const net = netOf(specs)
    const bitsOf = async (step: Quantize): Promise<number[]> => {
      const { model } = await compress(net, quantize({ blockSize: 0, ...step, layers: { minElements: 0 } }))
      await runNet(model, specs)
      return quantizedWeights(model.graph).map((w) => w.bits)
    }
    // 18 · 15 is a multiple of 3, 5 and 6, 20 · 17 of 4 and 5.
    expect(await bitsOf({ bits: 2 })).toEqual([2, 8 / 3, 2])
    expect(await bitsOf({ bits: 3 })).toEqual([3, 4, 4])
    expect(await bitsOf({ format: 'ternary' })).toEqual([2, 1.6, 1.6])
    expect(await bitsOf({ format: 'binary' })).toEqual([1, 8 / 6, 1.6])
  })

  test('float16 halves a weight, rounds to nearest even and leaves what it cannot hold', async () => {
    const data = noise(48 * 64)
    const ties = [1 + 2 ** -11, 1 + 3 * 2 ** -11, 65504, 2 ** -24, 2 ** -25, 3 * 2 ** -25, -(2 ** -14), 1e-9, 0]
    data.set(ties)
    const big = noise(48 * 64)
    big[5] = 65520
    const net = netOf([{ ...kGemm, data }, { ...kGemm, data: big }])
    const { model, report } = await compress(net, quantize({ format: 'float16' }))
    const { w0 } = await runNet(model, [kGemm, kGemm])
    expect(Array.from(w0!.subarray(0, ties.length))).toEqual([1, 1 + 2 ** -9, 65504, 2 ** -24, 0, 2 ** -23, -(2 ** -14), 0, 0])
    expect(data.findIndex((v, i) => !(Math.abs(w0![i]! - v) <= Math.max(Math.abs(v) * 2 ** -11, 2 ** -25)))).toBe(-1)
    expect(report.steps[0]!.layers).toMatchObject([{ bits: 16, bytesAfter: 48 * 64 * 2 }, { action: 'kept', reason: expect.stringContaining('65504') }])
  })

  test('scales that are powers of two are, and lose less than a neighbour would', async () => {
    const { model } = await compress(small, quantize({ bits: 6, scale: 'pow2' }))
    const [weight] = quantizedWeights(model.graph)
    const scales = weight!.scales.readSync().data as Float32Array
    expect([...scales].every((s) => Number.isInteger(Math.log2(s)))).toBe(true)
    const values = rowsOf(readQuantized(weight!))
    const error = (row: readonly number[], of: (w: number, i: number) => number): number => row.reduce((s, w, i) => s + (w - of(w, i)) ** 2, 0)
    rows.forEach((row, r) => {
      const own = error(row, (_, i) => values[r]![i]!)
      for (const other of [scales[r]! / 2, scales[r]! * 2])
        expect(own).toBeLessThanOrEqual(error(row, (w) => other * Math.max(-31, Math.min(31, Math.round(w / other)))) + 1e-12)
    })
  })
})

describe('residual', () => {
  /** Scales of each row, and the values that the file's own reader and onnxruntime see. */
  async function coded(data: Float32Array, dims: [number, number], bits: number): Promise<{ alpha: number[][]; values: number[][]; model: Model }> {
    const spec: Spec = { ...kGemm, dims, data }
    const { model, report } = await compress(netOf([spec]), quantize({ format: 'residual', bits, layers: { minElements: 0 } }))
    expect(report.steps[0]!.layers[0]).toMatchObject({ action: 'quantized', bits })
    const [weight] = quantizedWeights(model.graph)
    const read = readQuantized(weight!)
    expect(weight!.bits).toBe(bits)
    expect((await runNet(model, [spec]))['w0']).toEqual(read)
    const scales = weight!.scales.readSync().data as Float32Array
    const alpha = Array.from({ length: dims[0] }, (_, r) => Array.from({ length: bits }, (__, i) => scales[i * dims[0] + r]!))
    return { alpha, values: rowsOf(read, dims[1]), model }
  }

  test.each([1, 2, 3, 4])('%i binary codes: each weight is the nearest of all sums, scales are the least squares of their signs', async (bits) => {
    const { alpha, values, model } = await coded(dataOf(small, 'w0'), [48, 64], bits)
    let [total, greedy, off, steepest] = [0, 0, 0, 0]
    rows.forEach((row, r) => {
      const levels = sums(alpha[r]!)
      row.forEach((w, i) => {
        const own = values[r]![i]!
        off = Math.max(off, Math.min(...levels.map((v) => Math.abs(v - own))), Math.abs(w - own) - Math.abs(w - nearest(levels, w)))
      })
      total += row.reduce((s, w, i) => s + (w - values[r]![i]!) ** 2, 0)
      greedy += greedyResidual(row, bits)
      // With the signs that are there, no scale would be another: what is left is orthogonal to each plane, but for a last small turn.
      for (const a of alpha[r]!) {
        const rest = alpha[r]!.filter((v) => v !== a)
        const signs = values[r]!.map((v) => (Math.min(...sums(rest).map((s) => Math.abs(v - a - s))) < 1e-6 ? 1 : -1))
        const slope = row.reduce((s, w, i) => s + (w - values[r]![i]!) * signs[i]!, 0)
        const left = Math.sqrt(row.reduce((s, w, i) => s + (w - values[r]![i]!) ** 2, 0) * row.length)
        steepest = Math.max(steepest, Math.abs(slope) / left)
      }
    })
    expect(off).toBeLessThan(1e-6)
    expect(steepest).toBeLessThan(0.05)
    expect(total).toBeLessThan([1.000001, 0.95, 0.8, 0.8][bits - 1]! * greedy)
    if (bits === 1) values.forEach((row, r) => expectClose(Float32Array.from(row), binary(rows[r]!)))
    expect(model.initializers.get('w0_q')!.byteLength).toBe((48 * 64 * bits) / 8)
  })

  test('two codes of eight values are near the best of all 65536 pairs of signs', async () => {
    const data = noise(16 * 8, 9)
    const { values } = await coded(data, [16, 8], 2)
    let [own, best] = [0, 0]
    rowsOf(data, 8).forEach((row, r) => {
      own += row.reduce((s, w, i) => s + (w - values[r]![i]!) ** 2, 0)
      best += bestOfTwoPlanes(row)
    })
    expect(own).toBeLessThan(1.25 * best)
  })

  test('zeros, equal values and values far apart keep finite scales; blocks cut every op', async () => {
    const odd = noise(48 * 64)
    odd.fill(0, 0, 64)
    odd.fill(0.5, 64, 128)
    odd[130] = 1e30
    const { values } = await coded(odd, [48, 64], 3)
    expect(values[0]!.every((v) => v === 0)).toBe(true)
    expect(values[1]!.every((v) => Math.abs(v - 0.5) < 1e-7)).toBe(true)
    expect(values.flat().every(Number.isFinite)).toBe(true)
    const original = netOf(kSpecs)
    const { model } = await compress(original, quantize({ format: 'residual', bits: 4, blockSize: 16, layers: { minElements: 0 } }))
    for (const weight of quantizedWeights(model.graph)) {
      const want = dataOf(original, weight.value)
      const got = readQuantized(weight)
      expect(Math.sqrt(got.reduce((s, v, i) => s + (v - want[i]!) ** 2, 0) / want.reduce((s, v) => s + v * v, 0))).toBeLessThan(0.15)
    }
  })
})

describe('omse', () => {
  test.each([2, 3, 4, 6])('%i bits: no scale loses a thousandth less', async (bits) => {
    const data = noise(12 * 64, 3)
    for (let i = 0; i < data.length; i += 64) data[i]! *= 5
    const net = netOf([{ ...kGemm, dims: [12, 64], data }])
    const { model } = await compress(net, quantize({ bits, method: 'omse', blockSize: 64 }))
    const values = readQuantized(quantizedWeights(model.graph)[0]!)
    rowsOf(data).forEach((row, r) => {
      const error = row.reduce((s, w, i) => s + (w - values[r * 64 + i]!) ** 2, 0)
      expect(error).toBeLessThanOrEqual(1.001 * leastError(row, bits))
    })
  })
})

test.each([
  [{ format: 'nf5' }, 'format', "'nf4'"],
  [{ format: 'nf4', bits: 3 }, 'bits', '4'],
  [{ format: 'binary', bits: 2 }, 'bits', '1'],
  [{ format: 'ternary', storage: 'qdq' }, 'storage', 'folded'],
  [{ format: 'float16', method: 'omse' }, 'format', 'scales'],
  [{ format: 'residual', bits: 5 }, 'bits', '4'],
  [{ format: 'residual', scale: 'pow2' }, 'scale', 'least squares'],
  [{ method: 'omsee' }, 'method', "'omse'"],
  [{ scale: 'float32' }, 'scale', "'float'"],
] as const)('%j is refused', async (step, parameter, text) => {
  const error = await failure(() => compress(small, quantize(step as never)))
  expect(error).toMatchObject({ name: 'WhittleError', code: 'ERR_RANGE', parameter: `recipe.steps[0].${parameter}` })
  expect(error.message).toContain(text)
})
