import { compress, type Recipe } from '../lib/compress'
import { attribute } from '../lib/model'
import { quantizedWeights, readQuantized } from '../lib/model/quantized'
import { failure, netOf, noise, type Spec } from './nets'

describe('prune', () => {
  const specs: Spec[] = [
    { op: 'Conv', dims: [16, 8, 3, 3] },
    { op: 'MatMul', dims: [64, 36] },
    { op: 'Gemm', dims: [40, 32], attributes: { transB: attribute.int(1) } },
  ]
  const net = netOf(specs)
  const before = (name: string): Float32Array => net.initializers.get(name)!.readSync().data as Float32Array
  const pruned = async (step: object): Promise<Record<string, Float32Array>> => {
    const { model } = await compress(net, { steps: [{ step: 'prune', ...step } as Recipe['steps'][number]] })
    return Object.fromEntries(
      ['w0', 'w1', 'w2'].map((w) => [w, model.initializers.get(w)!.readSync().data as Float32Array]),
    )
  }
  const zeros = (data: ArrayLike<number>): number => Array.from(data).filter((v) => v === 0).length
  /** [outputs][reduction] of a weight. */
  const rows = (name: string, data: Float32Array): number[][] => {
    const { dims, op } = specs[Number(name[1])]!
    if (op === 'MatMul')
      return Array.from({ length: dims[1]! }, (_, j) =>
        Array.from({ length: dims[0]! }, (_, i) => data[i * dims[1]! + j]!),
      )
    const width = data.length / dims[0]!
    return Array.from({ length: dims[0]! }, (_, i) => Array.from(data.subarray(i * width, (i + 1) * width)))
  }
  const keptAsTheyWere = (after: Record<string, Float32Array>): void => {
    for (const [name, data] of Object.entries(after)) {
      const old = before(name)
      expect(data.findIndex((v, i) => v !== 0 && v !== old[i])).toBe(-1)
    }
  }

  test('up to a threshold: what is as small goes, in every layer; the report says the same again', async () => {
    const median = Array.from(before('w0'), Math.abs).sort((a, b) => a - b)[500]!
    const after = await pruned({ threshold: median })
    keptAsTheyWere(after)
    for (const [name, data] of Object.entries(after)) expect(Array.from(data, (v) => v === 0)).toEqual(Array.from(before(name), (v) => Math.abs(v) <= median))
    const blocks = await pruned({ threshold: 4 * median, pattern: { block: [1, 4] } })
    for (const row of rows('w2', blocks['w2']!)) for (let i = 0; i < row.length; i += 4) expect(new Set(row.slice(i, i + 4).map((v) => v === 0)).size).toBe(1)
    const { report } = await compress(net, { steps: [{ step: 'prune', threshold: median }] })
    expect(report.recipe.steps[0]).toMatchObject({ threshold: median, scope: 'global' })
    expect(await pruned(report.recipe.steps[0]!)).toEqual(after)
    for (const [step, parameter] of [
      [{ threshold: -1 }, 'threshold'],
      [{ threshold: 1, sparsity: 0.5 }, 'sparsity'],
      [{ threshold: 1, scope: 'balanced' }, 'scope'],
      [{ threshold: 1, pattern: '2:4' }, 'pattern'],
      [{ threshold: 1, criterion: 'obs' }, 'threshold'],
    ] as const)
      expect(await failure(() => pruned(step))).toMatchObject({ name: 'WhittleError', parameter: `recipe.steps[0].${parameter}` })
  })

  test('unstructured, uniform: the smallest go, the ratio in each layer', async () => {
    const after = await pruned({ sparsity: 0.6 })
    keptAsTheyWere(after)
    for (const [name, data] of Object.entries(after)) {
      expect(zeros(data)).toBe(Math.round(0.6 * data.length))
      const kept = Math.min(
        ...Array.from(data)
          .filter((v) => v !== 0)
          .map(Math.abs),
      )
      const gone = Math.max(
        ...Array.from(before(name))
          .filter((_, i) => data[i] === 0)
          .map(Math.abs),
      )
      expect(gone).toBeLessThanOrEqual(kept)
    }
  })

  test('unstructured, global: one threshold for all layers', async () => {
    const after = await pruned({ sparsity: 0.5, scope: 'global' })
    const all = ['w0', 'w1', 'w2'].flatMap((w) => Array.from(before(w), Math.abs)).sort((a, b) => a - b)
    expect(zeros(Object.values(after).flatMap((d) => Array.from(d)))).toBe(all.length / 2)
    const limit = all[all.length / 2]!
    for (const [name, data] of Object.entries(after)) {
      const old = before(name)
      expect(data.findIndex((v, i) => (v !== 0) !== Math.abs(old[i]!) >= limit)).toBe(-1)
    }
  })

  test('unstructured, balanced: as many zeros in each output', async () => {
    const after = await pruned({ sparsity: 0.25, scope: 'balanced' })
    keptAsTheyWere(after)
    for (const [name, data] of Object.entries(after)) {
      const table = rows(name, data)
      expect(table.map(zeros)).toEqual(table.map((r) => r.length / 4))
    }
  })

  test('along input channels: blocks and n:m of a convolution do not mix its taps', async () => {
    const after = await pruned({ pattern: { block: [1, 4] }, sparsity: 0.5, along: 'inputs' })
    keptAsTheyWere(after)
    // [16][8][9]: channels 0 to 3 and 4 to 7 of each tap go together, the weaker half of all.
    const sums: [number, boolean][] = []
    const old = before('w0')
    for (let o = 0; o < 16; o++)
      for (let t = 0; t < 9; t++)
        for (const c of [0, 4]) {
          const at = [0, 1, 2, 3].map((i) => (o * 8 + c + i) * 9 + t)
          const kept = at.map((i) => after.w0![i] !== 0)
          expect(new Set(kept).size).toBe(1)
          sums.push([at.reduce((s, i) => s + Math.abs(old[i]!), 0), kept[0]!])
        }
    expect(sums.filter(([, kept]) => kept)).toHaveLength(sums.length / 2)
    expect(Math.min(...sums.filter(([, k]) => k).map(([s]) => s))).toBeGreaterThanOrEqual(Math.max(...sums.filter(([, k]) => !k).map(([s]) => s)))
    // Where there are no taps it is the reduction.
    expect((await pruned({ pattern: { block: [1, 4] }, sparsity: 0.5 })).w2).toEqual(after.w2)

    const half = (await pruned({ pattern: '2:4', along: 'inputs' })).w0!
    for (let o = 0; o < 16; o++)
      for (let t = 0; t < 9; t++)
        for (const c of [0, 4]) expect([0, 1, 2, 3].filter((i) => half[(o * 8 + c + i) * 9 + t] !== 0)).toHaveLength(2)
  })

  test('2:4 keeps the two largest of four along the reduction', async () => {
    const after = await pruned({ pattern: '2:4' })
    for (const [name, data] of Object.entries(after)) {
      const old = rows(name, before(name))
      rows(name, data).forEach((row, r) => {
        for (let i = 0; i < row.length; i += 4) {
          const best = old[r]!.slice(i, i + 4)
            .map(Math.abs)
            .sort((a, b) => b - a)
          expect(
            row
              .slice(i, i + 4)
              .map(Math.abs)
              .sort((a, b) => b - a),
          ).toEqual([best[0], best[1], 0, 0])
        }
      })
    }
  })

  test.each(['uniform', 'global', 'balanced'] as const)('blocks of 4 outputs × 2, %s, go as a whole', async (scope) => {
    const after = await pruned({ pattern: { block: [4, 2] }, sparsity: 0.5, scope })
    keptAsTheyWere(after)
    let gone = 0
    let total = 0
    for (const [name, data] of Object.entries(after)) {
      const table = rows(name, data)
      for (let r = 0; r < table.length; r += 4) {
        let inRow = 0
        for (let c = 0; c < table[0]!.length; c += 2) {
          const n = zeros(table.slice(r, r + 4).flatMap((row) => row.slice(c, c + 2)))
          expect([0, 8]).toContain(n)
          inRow += n / 8
        }
        if (scope === 'balanced') expect(inRow).toBe(table[0]!.length / 4)
        gone += inRow
      }
      if (scope === 'uniform') expect(zeros(data)).toBe(data.length / 2)
      total += data.length / 8
    }
    // A tie at the threshold may fall either way for blocks.
    expect(Math.abs(gone - total / 2)).toBeLessThanOrEqual(1)
  })

  test.each(['uniform', 'global'] as const)('channels, %s: whole outputs of least norm become zero', async (scope) => {
    const after = await pruned({ pattern: 'channel', sparsity: 0.25, scope, criterion: 'l2' })
    keptAsTheyWere(after)
    for (const [name, data] of Object.entries(after)) {
      const table = rows(name, data)
      const norms = rows(name, before(name)).map((r) => Math.hypot(...r))
      const dead = table.map((r) => zeros(r) === r.length)
      table.forEach((r, i) => expect(zeros(r)).toBe(dead[i] ? r.length : 0))
      if (scope === 'uniform') expect(dead.filter(Boolean).length).toBe(table.length / 4)
      const weakestKept = Math.min(...norms.filter((_, i) => !dead[i]))
      norms.forEach((n, i) => dead[i] && expect(n).toBeLessThanOrEqual(weakestKept * (1 + 1e-6)))
    }
  })

  test('a pattern that does not divide a layer leaves it, with the reason', async () => {
    const { report } = await compress(net, { steps: [{ step: 'prune', pattern: '1:5' }] })
    expect(report.steps[0]!.layers.map((l) => [l.weight, l.action])).toEqual([
      ['w0', 'kept'],
      ['w1', 'kept'],
      ['w2', 'kept'],
    ])
    expect(report.steps[0]!.layers[0]!.reason).toContain('5 does not divide its reduction of 72')
    const blocks = await compress(net, { steps: [{ step: 'prune', pattern: { block: [5, 1] }, sparsity: 0.5 }] })
    expect(blocks.report.steps[0]!.layers.map((l) => l.action)).toEqual(['kept', 'kept', 'pruned'])
  })

  test('zeros survive quantization', async () => {
    const { model, report } = await compress(net, { steps: [{ step: 'prune', sparsity: 0.7 }, { step: 'quantize' }] })
    for (const w of quantizedWeights(model.graph)) {
      const values = readQuantized(w)
      expect(zeros(values)).toBeGreaterThanOrEqual(Math.round(0.7 * values.length))
    }
    for (const l of report.steps[1]!.layers) expect(l.sparsity).toBeGreaterThanOrEqual(0.69)
  })

  test('a NaN is an error that names the weight, whatever the scope', async () => {
    const data = noise(64 * 36)
    data[5] = NaN
    const bad = netOf([specs[0]!, { op: 'MatMul', dims: [64, 36], data }])
    for (const scope of ['uniform', 'global', 'balanced'] as const)
      expect(await failure(() => compress(bad, { steps: [{ step: 'prune', sparsity: 0.5, scope }] }))).toMatchObject({
        code: 'ERR_RANGE',
        parameter: 'w1',
      })
  })
})
