import { compress, type Inputs, type Recipe } from '../lib/compress'
import { Calibration } from '../lib/compress/calibration'
import { Run } from '../lib/compress/progress'
import type { Model } from '../lib/model'
import type { Tensor } from '../lib/tensor'
import { floats, graph, modelOf, sizeOf, theirs } from './graphs'
import { failure, noise } from './nets'

/** Four products of 32 x 32 with a nonlinearity between them. */
function chain(): Model {
  const weights = Object.fromEntries([1, 2, 3, 4].map((i) => [`w${i}`, floats([32, 32], i)]))
  return modelOf(
    graph(
      [['x', 'float32', [4, 32]]],
      weights,
      [
        ['MatMul', ['x', 'w1'], ['a1']],
        ['Tanh', ['a1'], ['t1']],
        ['MatMul', ['t1', 'w2'], ['a2']],
        ['Tanh', ['a2'], ['t2']],
        ['MatMul', ['t2', 'w3'], ['a3']],
        ['Tanh', ['a3'], ['t3']],
        ['MatMul', ['t3', 'w4'], ['y']],
      ],
      ['y'],
    ),
  )
}

const x = (seed: number): Tensor => floats([4, 32], seed)
const sets: Inputs[] = [{ x: x(11) }, { x: x(12) }]
const half: Recipe = { steps: [{ step: 'prune', sparsity: 0.5, layers: { minElements: 0 } }] }

/** Names of the weights that have zeros. */
function cut(model: Model): string[] {
  return [...model.initializers.values()].filter((i) => (i.readSync().data as Float32Array).includes(0)).map((i) => i.name)
}

describe('the gate', () => {
  test('spares as few layers as the limit on accuracy needs, worst first, and says what each cost', async () => {
    // Accuracy falls with each pruned layer but two, so that two must be spared.
    const { model, report } = await compress(chain(), half, {
      calibration: sets,
      evaluate: (m) => 1 - 0.1 * Math.max(0, cut(m).length - 2) - 0.001 * cut(m).length,
      limits: { accuracyDrop: 0.05 },
    })
    const worst = report.blame.map((b) => b.weight)
    expect(worst.slice().sort()).toEqual(['w1', 'w2', 'w3', 'w4'])
    expect(cut(model).sort()).toEqual(worst.slice(2).sort())
    expect(report.attempts.map((a) => a.spared.length)).toEqual([0, 1, 2])
    expect(report.attempts[2]!.spared).toEqual(worst.slice(0, 2))
    expect(report.blame.map((b) => b.spared)).toEqual([true, true, false, false])
    expect(report.blame[0]!.accuracyCost).toBeCloseTo(0.101, 9)
    expect(report.blame[2]).not.toHaveProperty('accuracyCost')
    expect(report.after.accuracy).toBeCloseTo(0.998, 9)
    // The resolved recipe holds the choice: without a judge it gives the same bytes.
    expect(report.recipe).toHaveProperty('spared', worst.slice(0, 2))
    const again = await compress(chain(), { ...(report.recipe as Recipe), limits: {} })
    expect(Buffer.compare(again.model.toBytes(), model.toBytes())).toBe(0)
    const unknown = await failure(() => compress(chain(), { ...half, spared: ['w9'] }))
    expect(unknown).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.spared[0]' })
  })

  test('bisects once enough layers are spared', async () => {
    const { report, model } = await compress(chain(), half, {
      evaluate: (m) => (cut(m).length > 1 ? 0.5 : 1),
      limits: { accuracyDrop: 0.1 },
    })
    expect(report.attempts.map((a) => a.spared.length)).toEqual([0, 1, 2, 4, 3])
    expect(cut(model)).toHaveLength(1)
  })

  test('blames by the noise that a layer adds, counted by hand', async () => {
    const only = { steps: [{ ...half.steps[0]!, layers: { include: ['w2'], minElements: 0 } }] } as Recipe
    const original = chain()
    const { model, report } = await compress(original, only, { calibration: sets })
    expect(report.attempts).toEqual([])
    expect(report.blame).toHaveLength(1)
    let signal = 0
    let noise = 0
    const [w1, before, after] = [original.initializers.get('w1')!, original.initializers.get('w2')!, model.initializers.get('w2')!].map(
      (i) => i.readSync().data as Float32Array,
    ) as [Float32Array, Float32Array, Float32Array]
    const times = (a: ArrayLike<number>, w: Float32Array): number[] =>
      Array.from({ length: 4 * 32 }, (_, at) => {
        let sum = 0
        for (let k = 0; k < 32; k++) sum += a[(at >> 5) * 32 + k]! * w[k * 32 + (at & 31)]!
        return sum
      })
    for (const { x: input } of sets) {
      const hidden = times((input as Tensor).data as Float32Array, w1).map(Math.tanh)
      const [y, z] = [times(hidden, before), times(hidden, after)]
      y.forEach((v, i) => {
        signal += v * v
        noise += (v - z[i]!) ** 2
      })
    }
    expect(report.blame[0]!.snr).toBeCloseTo(10 * Math.log10(signal / noise), 3)
    expect(report.blame[0]!.ownSnr).toBeCloseTo(report.blame[0]!.snr!, 9)
  })

  test('blames a layer that took a normalization in by the noise behind that', async () => {
    const positive = { ...floats([8], 5), data: Float32Array.from({ length: 8 }, (_, i) => 0.5 + i / 4) }
    const constants = { w: floats([8, 8, 1, 1], 1), g: floats([8], 2), b: floats([8], 3), m: floats([8], 4), v: positive, u: floats([8, 8, 1, 1], 6) }
    const net = graph([['x', 'float32', [1, 8, 6, 6]]], constants, [
      ['Conv', ['x', 'w'], ['c']],
      ['BatchNormalization', ['c', 'g', 'b', 'm', 'v'], ['n']],
      ['Relu', ['n'], ['r']],
      ['Conv', ['r', 'u'], ['y']],
    ], ['n', 'y']) // prettier-ignore
    const inputs = [1, 2].map((seed) => ({ x: floats([1, 8, 6, 6], seed + 10) }))
    const recipe: Recipe = { steps: [{ step: 'fold' }, { step: 'quantize', bits: 3, blockSize: 0, maxError: 1, layers: { include: ['w'], minElements: 0 } }] }
    const { model, report } = await compress(modelOf(net), recipe, { calibration: inputs })
    let [signal, noise] = [0, 0]
    for (const set of inputs) {
      const [y, z] = [(await theirs(modelOf(net), set))['n']!.data as Float32Array, (await theirs(model, set))['n']!.data as Float32Array]
      y.forEach((v, i) => {
        signal += v * v
        noise += (v - z[i]!) ** 2
      })
    }
    expect(report.blame.map((b) => b.weight)).toEqual(['w'])
    expect(report.blame[0]!.snr).toBeCloseTo(10 * Math.log10(signal / noise), 2)
  })

  test('gives up with what was reached, and with a model that grows beyond its bytes', async () => {
    const never = await failure(() => 
      compress(chain(), half, { evaluate: (_m, { phase }) => Number(phase === 'original'), limits: { accuracyDrop: 0 } }),
    )
    expect(never.code).toBe('ERR_LIMIT')
    expect(never.message).toContain('with 4 of 4 layers left as they were')
    const small: Recipe = { steps: [{ step: 'quantize', bits: 4, maxError: 1, layers: { minElements: 0 } }] }
    const { report } = await compress(chain(), small)
    const tight = await failure(() =>
      compress(chain(), small, { evaluate: (m) => (m.initializers.has('w1') ? 1 : 0), limits: { accuracyDrop: 0, bytes: report.after.bytes + 100 } }),
    )
    expect(tight).toMatchObject({ code: 'ERR_LIMIT', parameter: 'limits.bytes' })
  })
})

describe('calibration inputs', () => {
  const run = new Run()
  const seen = async (c: Calibration, names = ['a1']): Promise<number[]> => {
    const found: number[] = []
    await c.each(chain(), names, run, (values) => found.push((values.get(names[0]!)!.data as Float32Array)[0]!))
    return found
  }

  test('of an array, a generator, a stream or a function are read again and again', async () => {
    async function* stream(): AsyncGenerator<Inputs> {
      // One buffer for all sets, as readers of files do.
      const data = new Float32Array(sizeOf([4, 32]))
      for (const s of sets) {
        data.set((s['x'] as Tensor).data as Float32Array)
        yield Promise.resolve({ x: { type: 'float32', dims: [4, 32], data } })
      }
    }
    const want = await seen(Calibration.from(sets))
    expect(want).toHaveLength(2)
    for (const source of [sets.values(), stream(), stream, () => sets]) {
      const c = Calibration.from(source)
      expect(await seen(c)).toEqual(want)
      expect(await seen(c)).toEqual(want)
    }
    expect(await seen(Calibration.from([{ x: (sets[0]!['x'] as Tensor).data as Float32Array }]), ['x'])).toEqual([
      ((sets[0]!['x'] as Tensor).data as Float32Array)[0],
    ])
  })

  test.each([
    ['nothing', [], 'ERR_RANGE', 'none'],
    ['NaN', [{ x: { type: 'float32', dims: [4, 32], data: new Float32Array(128).fill(NaN) } }], 'ERR_RANGE', 'element 0 of "x" in set 0'],
    ['what are no inputs', [7], 'ERR_DTYPE', 'inputs by name'],
    ['inputs without a name that the model needs', [{}], 'ERR_RANGE', 'x'],
  ] as const)('that are %s are refused', async (_what, given, code, text) => {
    const error = await failure(() => seen(Calibration.from(given as unknown as Inputs[]), ['x']))
    expect(error.code).toBe(code)
    expect(error.message).toContain(text)
  })

  test('that the model does not take are told by their place', async () => {
    const good = { x: { type: 'float32', dims: [4, 32], data: noise(128, 3) } }
    for (const [bad, text] of [
      [{ x: { type: 'float32', dims: [4, 32], data: new Float32Array(5) } }, 'calibration[1].x: dims [4, 32] need 128 elements of data, got 5'],
      [{ x: { type: 'int32', dims: [4, 32], data: new Int32Array(128) } }, 'calibration[1].x.type: expected float32'],
      [{ ...good, z: good.x }, "calibration[1].z: expected one of the model's inputs"],
    ] as const)
      for (const data of [[good, bad], () => Promise.resolve([good, bad]), [good, bad].values()])
        expect(await failure(() => compress(chain(), { steps: [{ step: 'quantize', activations: 'static' }] }, { calibration: data as unknown as Inputs[] }))).toMatchObject({
          name: 'WhittleError',
          parameter: text.split(':')[0],
          message: expect.stringContaining(text) as unknown,
        })
  })

  test('that are no iterable, or missing where a step needs them, are refused before any work', async () => {
    const wrong = { calibration: 5 as unknown as Inputs[] }
    expect(await failure(() => compress(chain(), half, wrong))).toMatchObject({ code: 'ERR_DTYPE', parameter: 'options.calibration' })
  })
})

test('a misspelt key or step of a recipe is named with the one that was meant', async () => {
  const of = (step: object): Recipe => ({ steps: [step] }) as unknown as Recipe
  expect((await failure(() => compress(chain(), of({ step: 'prune', sparsty: 0.5 })))).message).toContain("sparsty: unknown option, perhaps 'sparsity'")
  expect((await failure(() => compress(chain(), of({ step: 'qantize' })))).message).toContain("perhaps 'quantize'")
  expect((await failure(() => compress(chain(), of({ step: 'prune', sparsity: 0.5, scope: 'golbal' })))).message).toContain("perhaps 'global'")
  // Keys of the step's other forms are known too.
  for (const [step, text] of [
    [{ step: 'quantize', activation: 'static' }, "activation: unknown option, perhaps 'activations'; known are activations, step, format"],
    [{ step: 'quantize', activations: 'static', percentil: 99 }, "percentil: unknown option, perhaps 'percentile'; known are"],
    [{ step: 'quantize', target: 'onnxruntime' }, "target: expected nothing, except with activations: 'static'; known are"],
    [{ step: 'quantize', activations: 'dynamic', bits: 4 }, "bits: expected nothing, except with activations: 'none' or with activations: 'static'; known are"],
    [{ step: 'prune', structur: 'filter', sparsity: 0.5 }, "structur: unknown option, perhaps 'structure'"],
    [{ step: 'prune', structure: 'filter', sparsity: 0.5, pattern: '2:4' }, 'pattern: expected nothing, except without structure; known are step, structure'],
    [{ step: 'factorize', rank: 'vbfm' }, `rank: expected an integer, or 'vbmf', got "vbfm"`],
    [{ step: 'quantize', bits: 'aut' }, `bits: expected a number, or 'auto', got "aut"`],
  ] as const)
    expect(await failure(() => compress(chain(), of(step)))).toMatchObject({ parameter: `recipe.steps[0].${text.split(':')[0]}`, message: expect.stringContaining(`recipe.steps[0].${text}`) as unknown })
})
