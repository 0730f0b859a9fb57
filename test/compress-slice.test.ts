import { compress, Session, type Model, type Recipe, type Tensor } from '../lib'
import { attribute, float, floats, graph, ints, modelOf, theirs, type Step } from './graphs'
import { failure } from './nets'
import { eigenvectors, sliced, type Matrix } from './oracle/slice'
import { encoder, preNorm, tokens } from './transformer'

const slice = (more: object = {}): Recipe => ({ steps: [{ step: 'slice', ...more }] })
const ids = (seed: number): Record<string, Tensor> => ({ ids: tokens(2, 6 + seed, 50).input_ids! })
const calibration = [1, 2, 3].map(ids)
const shape = { layers: 1, hidden: 32, heads: 4, inner: 40, words: 50 }

const data = (t: Tensor | undefined): Float32Array => t!.data as Float32Array
const valuesOf = (model: Model, name: string): Float32Array => data(model.initializers.get(name)!.readSync())
function matrix(values: ArrayLike<number>, columns: number): Matrix {
  return Array.from({ length: values.length / columns }, (_, i) =>
    Array.from({ length: columns }, (_, j) => values[i * columns + j]!),
  )
}

/** ‖a − b‖ / ‖a‖ of the outputs; the second model runs in Session and in onnxruntime, which must agree. */
async function error(before: Model, after: Model, feeds: Record<string, Tensor>): Promise<number> {
  const [want, got] = [data((await theirs(before, feeds))['y']), data((await theirs(after, feeds))['y'])]
  const session = await Session.create(after, { threads: 1 })
  const mine = data((await session.run(feeds))['y'])
  session.dispose()
  const apart = (a: Float32Array, b: Float32Array): number =>
    Math.sqrt(a.reduce((s, v, i) => s + (v - b[i]!) ** 2, 0) / a.reduce((s, v) => s + v * v, 0))
  expect(apart(got, mine)).toBeLessThan(1e-5)
  return apart(want, mine)
}

describe('SliceGPT', () => {
  test('gives the function that the definition says, components, mean and biases', async () => {
    const n = 10
    const inputs = { x: [1, 12, n], c1: [1, 20, n], c2: [1, 15, n] }
    const uneven = (name: keyof typeof inputs, seed: number): Tensor => ({
      ...floats(inputs[name], seed),
      data: data(floats(inputs[name], seed)).map((v, i) => (v + 0.2) * 1.5 ** -(i % n)),
    })
    const constants = {
      embed: floats([n, n], 1),
      g1: floats([n], 2),
      s1: floats([n], 3),
      a: floats([n, 14], 4),
      ab: floats([14], 5),
      b: floats([14, n], 6),
      bb: floats([n], 7),
      g2: floats([n], 8),
      s2: floats([n], 9),
      c: floats([n, 6], 10),
    }
    const norm = { epsilon: attribute.float(0.01) }
    const model = modelOf(
      graph(
        [['x', 'float32', [1, 'words', n]]],
        constants,
        [
          ['MatMul', ['x', 'embed'], ['h']],
          ['LayerNormalization', ['h', 'g1', 's1'], ['n1'], norm],
          ['MatMul', ['n1', 'a'], ['m1']],
          ['Add', ['m1', 'ab'], ['m2']],
          ['Relu', ['m2'], ['r']],
          ['MatMul', ['r', 'b'], ['m3']],
          ['Add', ['bb', 'm3'], ['m4']],
          ['Add', ['h', 'm4'], ['h2']],
          ['LayerNormalization', ['h2', 'g2', 's2'], ['n2'], norm],
          ['MatMul', ['n2', 'c'], ['y']],
        ],
        ['y'],
      ),
    )
    const sets = [uneven('c1', 21), uneven('c2', 22)]
    const embedded = (t: Tensor): Matrix =>
      matrix(data(t), n).map((row) =>
        matrix(data(constants.embed), n)[0]!.map((_, j) =>
          row.reduce((s, v, i) => s + v * data(constants.embed)[i * n + j]!, 0),
        ),
      )
    const list = (t: Tensor): number[] => Array.from(data(t))
    const block = {
      g1: list(constants.g1),
      s1: list(constants.s1),
      a: matrix(data(constants.a), 14),
      aBias: list(constants.ab),
      b: matrix(data(constants.b), n),
      bBias: list(constants.bb),
      g2: list(constants.g2),
      s2: list(constants.s2),
      c: matrix(data(constants.c), 6),
      epsilon: Math.fround(0.01),
    }
    const x = uneven('x', 23)
    // One channel is for the mean that is not there.
    for (const channels of [10, 7, 4]) {
      const { model: after, report } = await compress(model, slice({ sparsity: 1 - channels / n, roundTo: 1 }), {
        calibration: sets.map((s) => ({ x: s })),
      })
      expect(report.steps[0]!.layers.map((l) => l.dimsAfter)).toEqual([
        [n, channels],
        [channels, 14],
        [14, channels],
        [channels, 6],
      ])
      const want = sliced(block, embedded(x), sets.flatMap(embedded), channels - 1).flat()
      const got = data((await theirs(after, { x }))['y'])
      const most = Math.max(...want.map(Math.abs))
      expect(Math.max(...want.map((v, i) => Math.abs(v - got[i]!))) / most).toBeLessThan(1e-4)
    }
  })

  test.each([
    ['by one product each', undefined],
    ['as GPT-2 makes them', 'split'],
    ['as vision transformers make them', 'gather'],
  ] as const)(
    'narrows a transformer with queries %s, whose stream lies in fewer dimensions, and hardly changes it',
    async (_how, qkv) => {
      const model = preNorm({ ...shape, ...(qkv ? { qkv } : {}), rank: 12 })
      const { model: after, report } = await compress(model, slice({ sparsity: 0.5 }), { calibration })
      expect(report.steps[0]!.summary).toContain('Sliced 32 to 16')
      expect(report.steps[0]!.layers.every((l) => l.action === 'pruned' && l.bytesAfter === l.bytesBefore / 2)).toBe(
        true,
      )
      expect(after.nodes.filter((x) => x.opType === 'MatMul')).toHaveLength(
        model.nodes.filter((x) => x.opType === 'MatMul').length,
      )
      expect(await error(model, after, ids(5))).toBeLessThan(0.02)
      // All dimensions but the mean: the same function.
      const { model: whole } = await compress(model, slice({ sparsity: 0 }), { calibration })
      expect(await error(model, whole, ids(5))).toBeLessThan(1e-5)
    },
  )

  test('is as narrow as an energy allows, and loses less where it is wider', async () => {
    const model = preNorm({ ...shape, layers: 1 })
    const run = async (more: object): Promise<readonly [number, number]> => {
      const { model: after, report } = await compress(model, slice(more), { calibration })
      return [await error(model, after, ids(5)), report.steps[0]!.layers[0]!.dimsAfter![1]!]
    }
    const [small, large] = [await run({ energy: 0.9, roundTo: 1 }), await run({ energy: 0.999, roundTo: 1 })]
    expect(small[1]).toBeLessThan(large[1])
    expect(large[0]).toBeLessThan(small[0])
    expect((await run({ energy: 0.9, roundTo: 8 }))[1] % 8).toBe(0)
  })

  test('leaves normalizations behind the sum alone, and says why', async () => {
    const model = encoder({ layers: 1, hidden: 32, heads: 4, inner: 48, words: 50, opset: 17 })
    const { model: after, report } = await compress(model, slice(), { calibration: [tokens(2, 6, 50)] })
    expect(report.steps[0]!.summary).toMatch(/^Sliced nothing: Add .* reads .*, scaled by channel/)
    expect(after.nodes.length).toBe(model.nodes.filter((x) => x.opType !== 'Constant').length)
  })

  test('puts a product at an output and at a spared weight where that pays, and refuses where it may not or does not', async () => {
    const model = preNorm({ ...shape, rank: 12, bare: true })
    const words = model.nodes.find((x) => x.opType === 'Gather')!.inputs[0]!
    const { model: after, report } = await compress(
      model,
      { ...slice({ sparsity: 0.5 }), spared: [words] },
      { calibration },
    )
    expect(report.steps[0]!.layers.find((l) => l.weight === words)).toMatchObject({
      action: 'kept',
      reason: 'it is spared',
    })
    expect(valuesOf(after, words)).toEqual(valuesOf(model, words))
    expect(await error(model, after, ids(5))).toBeLessThan(0.02)
    for (const [more, reason] of [
      [{ products: false }, 'y is an output of the model'],
      [{ sparsity: 0 }, 'outweigh'],
    ] as const) {
      const { report: other } = await compress(model, slice(more), { calibration })
      expect(other.steps[0]!.summary).toMatch(`Sliced nothing`)
      expect(other.steps[0]!.layers[0]!.reason).toContain(reason)
    }
  })

  test('puts principal components between products and 1×1 convolutions where asked to', async () => {
    const steps: Step[] = [
      ['Conv', ['x', 'a', 'ab'], ['h']],
      ['Conv', ['h', 'b'], ['y']],
    ]
    const model = modelOf(
      graph(
        [['x', 'float32', [1, 5, 6, 6]]],
        { a: floats([9, 5, 1, 1], 1), ab: float([9], 1, 2, 3, 4, 5, 6, 7, 8, 9), b: floats([4, 9, 1, 1], 2) },
        steps,
        ['y'],
      ),
    )
    const sets = [3, 4].map((seed) => ({ x: floats([1, 5, 6, 6], seed) }))
    const { model: kept } = await compress(model, slice(), { calibration: sets })
    expect(kept.initializers.get('a')!.dims).toEqual([9, 5, 1, 1])
    // Five inputs and a bias: six components hold all, five and the mean nearly so.
    const { model: after } = await compress(model, slice({ sites: ['chain'], sparsity: 1 - 6 / 9, roundTo: 1 }), {
      calibration: sets,
    })
    expect([after.initializers.get('a')!.dims, after.initializers.get('b')!.dims]).toEqual([
      [6, 5, 1, 1],
      [4, 6, 1, 1],
    ])
    expect(await error(model, after, { x: floats([1, 5, 6, 6], 5) })).toBeLessThan(1e-5)
    // The first component is the eigenvector of Σ h hᵀ.
    const { model: one } = await compress(model, slice({ sites: ['chain'], sparsity: 1 - 1 / 9, roundTo: 1 }), {
      calibration: sets,
    })
    const [a, b] = [matrix(valuesOf(model, 'a'), 5), valuesOf(model, 'ab')]
    const hidden = sets.flatMap(({ x }) =>
      Array.from({ length: 36 }, (_, p) =>
        a.map((row, o) => row.reduce((s, w, i) => s + w * data(x)[i * 36 + p]!, b[o]!)),
      ),
    )
    const [top] = eigenvectors(a.map((_, i) => a.map((_, j) => hidden.reduce((s, h) => s + h[i]! * h[j]!, 0))))
    const wanted = top!.reduce((s, v, i) => s + v * b[i]!, 0)
    const bias = valuesOf(one, one.nodes[0]!.inputs[2]!)[0]!
    expect(Math.abs(bias)).toBeCloseTo(Math.abs(wanted), 3)
  })

  test('follows sizes that an exporter computes, of patches and of a token joined on', async () => {
    const size = 16
    const int = (value: number): Tensor => ({ type: 'int64', dims: [], data: BigInt64Array.of(BigInt(value)) })
    const constants = {
      patch: floats([size, 3, 4, 4], 1), pb: floats([size], 2), cls: floats([1, 1, size], 3), pos: floats([1, 5, size], 4), g: floats([size], 5), b: floats([size], 6), w1: floats([size, 20], 7), w2: floats([20, size], 8),
      head: floats([size, 6], 9), zero: int(0), at: ints(0), two: ints(2), minus: ints(-1), minus1: ints(-1), ones: ints(1, 1, 1), less: ints(-1, -1, -1),
    } // prettier-ignore
    const steps: Step[] = [
      ['Conv', ['x', 'patch', 'pb'], ['p1'], { strides: attribute.ints([4, 4]) }],
      ['Shape', ['p1'], ['s1']],
      ['Slice', ['s1', 'at', 'two', 'at'], ['s2']],
      ['Concat', ['s2', 'minus'], ['s3'], { axis: attribute.int(0) }],
      ['Reshape', ['p1', 's3'], ['p2']],
      ['Transpose', ['p2'], ['p3'], { perm: attribute.ints([0, 2, 1]) }],
      ['Shape', ['p3'], ['t1']],
      ['Gather', ['t1', 'zero'], ['t2']],
      ['Unsqueeze', ['t2', 'at'], ['t3']],
      ['Concat', ['t3', 'minus', 'minus1'], ['t4'], { axis: attribute.int(0) }],
      ['Equal', ['t4', 'less'], ['t5']],
      ['Where', ['t5', 'ones', 't4'], ['t6']],
      ['Expand', ['cls', 't6'], ['c']],
      ['Concat', ['c', 'p3'], ['p4'], { axis: attribute.int(1) }],
      ['Add', ['p4', 'pos'], ['h']],
      ['LayerNormalization', ['h', 'g', 'b'], ['n']],
      ['MatMul', ['n', 'w1'], ['m1']],
      ['Relu', ['m1'], ['m2']],
      ['MatMul', ['m2', 'w2'], ['m3']],
      ['Add', ['h', 'm3'], ['h2']],
      ['LayerNormalization', ['h2', 'g', 'b'], ['n2']],
      ['MatMul', ['n2', 'head'], ['y']],
    ]
    const model = modelOf(graph([['x', 'float32', ['batch', 3, 8, 8]]], constants, steps, ['y']))
    const sets = [1, 2, 3].map((seed) => ({ x: floats([2, 3, 8, 8], 20 + seed) }))
    for (const [sparsity, most] of [
      [0, 1e-5],
      [0.25, 0.5],
    ] as const) {
      const { model: after, report } = await compress(model, slice({ sparsity, roundTo: 4 }), { calibration: sets })
      expect(report.steps[0]!.layers.map((l) => l.action)).toEqual(['pruned', 'pruned', 'pruned', 'pruned'])
      expect(after.initializers.get('patch')!.dims[0]).toBe(size * (1 - sparsity))
      expect(await error(model, after, { x: floats([3, 3, 8, 8], 9) })).toBeLessThan(most)
    }
  })

  test('refuses a stream whose width is computed, and names what is wrong in a step', async () => {
    const sizes: Step[] = [
      ['MatMul', ['x', 'a'], ['h']],
      ['Shape', ['h'], ['shape']],
      ['Gather', ['shape', 'last'], ['width']],
      ['Cast', ['width'], ['float'], { to: attribute.int(1) }],
      ['LayerNormalization', ['h', 'g'], ['n']],
      ['MatMul', ['n', 'c'], ['m']],
      ['Mul', ['m', 'float'], ['y']],
    ]
    const model = modelOf(
      graph(
        [['x', 'float32', [2, 6]]],
        { a: floats([6, 8], 1), g: floats([8], 2), c: floats([8, 3], 3), last: { ...ints(-1), dims: [] } },
        sizes,
        ['y'],
      ),
    )
    const { report } = await compress(model, slice({ roundTo: 1 }), { calibration: [{ x: floats([2, 6], 4) }] })
    expect(report.steps[0]!.summary).toContain('reads how many channels there are')
    const wrong = (more: object): Promise<Error> => failure(() => compress(model, slice(more), { calibration }))
    expect(await failure(() => compress(model, slice()))).toMatchObject({
      code: 'ERR_RANGE',
      parameter: 'options.calibration',
    })
    expect(await wrong({ sparsity: 1 })).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].sparsity' })
    expect(await wrong({ sparsity: 0.5, energy: 0.5 })).toMatchObject({
      code: 'ERR_RANGE',
      parameter: 'recipe.steps[0].energy',
    })
    expect(await wrong({ energy: 0 })).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].energy' })
    expect(await wrong({ sites: 'stream' })).toMatchObject({ code: 'ERR_DTYPE', parameter: 'recipe.steps[0].sites' })
  })
})
