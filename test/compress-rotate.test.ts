import { compress, Session, type Model, type Recipe, type Tensor } from '../lib'
import { hadamard } from '../lib/compress/rotate/basis'
import { attribute, floats, graph, ints, modelOf, theirs, type Step } from './graphs'
import { failure } from './nets'
import { encoder, preNorm, tokens } from './transformer'

const rotate = (more: object = {}): Recipe => ({ steps: [{ step: 'rotate', ...more }] })
const ids = (seed: number): Record<string, Tensor> => ({ ids: tokens(2, 5 + seed, 50).input_ids! })
const shape = { layers: 1, hidden: 48, heads: 4, inner: 40, words: 50 }

/** Largest difference of two models' outputs, by the larger magnitude; the second one runs in Session and in onnxruntime. */
async function difference(before: Model, after: Model, feeds: Record<string, Tensor>): Promise<number> {
  const want = await theirs(before, feeds)
  const session = await Session.create(after, { threads: 1 })
  const mine = await session.run(feeds)
  session.dispose()
  let far = 0
  for (const got of [mine, await theirs(after, feeds)])
    for (const [name, { data }] of Object.entries(want)) {
      const [a, b] = [data as Float32Array, got[name]!.data as Float32Array]
      const most = a.reduce((m, v) => Math.max(m, Math.abs(v)), 0)
      expect([b.length, most > 0.01]).toEqual([a.length, true])
      a.forEach((v, i) => (far = Math.max(far, Math.abs(v - b[i]!) / most)))
    }
  return far
}

describe('randomized Hadamard matrices', () => {
  test.each([2, 6, 35, 64, 96])(
    'of size %i are orthogonal, of even entries, and keep a mean where they are asked to',
    (n) => {
      for (const fixMean of [false, true]) {
        const basis = hadamard(n, 3, { fixMean })
        const unit = Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0))
        const q = basis.apply(unit)
        const back = basis.back(q)
        const most = { entry: 0, product: 0, sum: 0, back: 0 }
        for (let i = 0; i < n; i++) {
          let sum = 0
          for (let j = 0; j < n; j++) {
            let dot = 0
            for (let k = 0; k < n; k++) dot += q[i * n + k]! * q[j * n + k]!
            sum += q[i * n + j]!
            most.product = Math.max(most.product, Math.abs(dot - unit[i * n + j]!))
            most.entry = Math.max(most.entry, Math.abs(q[i * n + j]!) * Math.sqrt(n))
            most.back = Math.max(most.back, Math.abs(back[i * n + j]! - unit[i * n + j]!))
          }
          most.sum = Math.max(most.sum, Math.abs(sum - 1))
        }
        expect(most.product).toBeLessThan(1e-6)
        expect(most.back).toBeLessThan(1e-6)
        expect(most.entry).toBeLessThan(fixMean ? 3.5 : 1.4143)
        if (fixMean) expect(most.sum).toBeLessThan(1e-6)
        if (n > 6) expect(hadamard(n, 4, { fixMean }).apply(unit)).not.toEqual(q)
      }
    },
  )
})

describe('rotation', () => {
  test.each([
    ['by one product each', undefined],
    ['as GPT-2 makes them', 'split'],
    ['as vision transformers make them', 'gather'],
  ] as const)(
    'turns stream and heads of blocks with queries %s, adds no product and changes no result',
    async (_how, qkv) => {
      const model = preNorm({ ...shape, ...(qkv ? { qkv } : {}), outliers: [3, 17] })
      const { model: after, report } = await compress(model, rotate())
      const n = report.steps[0]!.layers.length
      expect(report.steps[0]!.summary).toBe(
        `Rotated ${n} of ${n} weights, in residual streams: 1, values of attentions: 1, chains of products: 0.`,
      )
      expect(report.steps[0]!.layers.every((l) => l.action === 'rotated' && l.bytesAfter === l.bytesBefore)).toBe(true)
      // The last product had no bias to take the shift before it.
      expect(after.nodes.map((x) => x.opType)).toEqual(
        model.nodes.flatMap((x) => (x.opType === 'Identity' ? ['Add', 'Identity'] : [x.opType])),
      )
      expect(await difference(model, after, ids(1))).toBeLessThan(1e-4)
      // What stood out does no more, and what normalized has no scale of its own.
      const table = (m: Model): Float32Array =>
        m.initializers.get(m.nodes.find((x) => x.opType === 'Gather')!.inputs[0]!)!.readSync().data as Float32Array
      const crest = (x: Float32Array): number =>
        x.reduce((m, v) => Math.max(m, Math.abs(v)), 0) / Math.sqrt(x.reduce((s, v) => s + v * v, 0) / x.length)
      expect(crest(table(after))).toBeLessThan(0.8 * crest(table(model)))
      for (const x of after.nodes)
        if (x.opType === 'LayerNormalization')
          expect(new Set(after.initializers.get(x.inputs[1]!)!.readSync().data as Float32Array)).toEqual(new Set([1]))
    },
  )

  test('lowers the error of int4 weights and of static int8 where channels stand out', async () => {
    const model = preNorm({ ...shape, hidden: 64, outliers: [3, 17], factor: 10 })
    const feeds = ids(4)
    const error = async (...steps: object[]): Promise<number> => {
      const { model: small } = await compress(model, { steps } as unknown as Recipe, {
        calibration: [1, 2, 3].map(ids),
      })
      const [a, b] = [
        (await theirs(model, feeds))['y']!.data as Float32Array,
        (await theirs(small, feeds))['y']!.data as Float32Array,
      ]
      return Math.sqrt(a.reduce((s, v, i) => s + (v - b[i]!) ** 2, 0) / a.reduce((s, v) => s + v * v, 0))
    }
    for (const quantize of [{ bits: 4, blockSize: 32 }, { activations: 'static' }]) {
      const step = { step: 'quantize', layers: { minElements: 1 }, ...quantize }
      const [plain, turned] = [await error(step), await error({ step: 'rotate' }, step)]
      expect(plain).toBeGreaterThan(0.05)
      expect(turned).toBeLessThan(0.5 * plain)
    }
  })

  test('turns heads only where normalizations lie behind sums, and says of every other weight why not', async () => {
    const model = encoder({ layers: 1, hidden: 32, heads: 4, inner: 48, words: 50, opset: 17 })
    const { model: after, report } = await compress(model, rotate())
    expect(report.steps[0]!.summary).toContain('residual streams: 0, values of attentions: 1, chains of products: 0')
    const { layers } = report.steps[0]!
    expect(layers.filter((l) => l.action === 'rotated')).toHaveLength(2)
    for (const l of layers) if (l.action !== 'rotated') expect(l.reason).toMatch(/reads|writes|output|scaled/)
    expect(await difference(model, after, tokens(2, 6, 50))).toBeLessThan(1e-4)
  })

  test('turns a stream through normalizations that have one scale for all channels', async () => {
    const same = { type: 'float32', dims: [8], data: new Float32Array(8).fill(0.7) } as const
    const steps: Step[] = [
      ['MatMul', ['x', 'a'], ['h']],
      ['LayerNormalization', ['h', 'g', 'b'], ['n']],
      ['MatMul', ['n', 'c'], ['m']],
      ['Relu', ['m'], ['r']],
      ['MatMul', ['r', 'd'], ['s']],
      ['Add', ['n', 's'], ['t']],
      ['LayerNormalization', ['t', 'g', 'b'], ['u']],
      ['MatMul', ['u', 'e'], ['y']],
    ]
    const of = (g: Tensor): Model =>
      modelOf(
        graph(
          [['x', 'float32', [2, 3, 6]]],
          {
            a: floats([6, 8], 1),
            g,
            b: floats([8], 2),
            c: floats([8, 5], 3),
            d: floats([5, 8], 4),
            e: floats([8, 4], 5),
          },
          steps,
          ['y'],
        ),
      )
    const { model, report } = await compress(of(same), rotate())
    expect(report.steps[0]!.layers.map((l) => l.action)).toEqual(['rotated', 'rotated', 'rotated', 'rotated'])
    expect(await difference(of(same), model, { x: floats([2, 3, 6], 9) })).toBeLessThan(1e-4)
    const uneven = of(floats([8], 7))
    const { report: other } = await compress(uneven, rotate())
    expect(other.steps[0]!.layers.filter((l) => l.action === 'rotated').map((l) => l.weight)).toEqual([])
  })

  test('turns a stream that a convolution of patches begins, with a token joined on', async () => {
    const size = 24
    const steps: Step[] = [
      ['Conv', ['x', 'patch', 'pb'], ['p1'], { strides: attribute.ints([4, 4]) }],
      ['Reshape', ['p1', 'flat'], ['p2']],
      ['Transpose', ['p2'], ['p3'], { perm: attribute.ints([0, 2, 1]) }],
      ['Expand', ['cls', 'one'], ['c']],
      ['Concat', ['c', 'p3'], ['p4'], { axis: attribute.int(1) }],
      ['Add', ['p4', 'pos'], ['h']],
      ['LayerNormalization', ['h', 'g', 'b'], ['n']],
      ['MatMul', ['n', 'w1'], ['m1']],
      ['Add', ['m1', 'b1'], ['m2']],
      ['Erf', ['m2'], ['m3']],
      ['MatMul', ['m3', 'w2'], ['m4']],
      ['Mul', ['m4', 'half'], ['m5']],
      ['Sub', ['h', 'm5'], ['h2']],
      ['LayerNormalization', ['h2', 'g', 'b'], ['n2']],
      ['Gather', ['n2', 'first'], ['token'], { axis: attribute.int(1) }],
      ['Gemm', ['token', 'head', 'hb'], ['y'], { transB: attribute.int(1) }],
    ]
    const constants = {
      patch: floats([size, 3, 4, 4], 1), pb: floats([size], 2), flat: ints(1, size, 4), cls: floats([1, 1, size], 3), one: ints(1, 1, 1), pos: floats([1, 5, size], 4),
      g: floats([size], 5), b: floats([size], 6), w1: floats([size, 20], 7), b1: floats([20], 8), w2: floats([20, size], 9), half: { type: 'float32', dims: [], data: Float32Array.of(0.5) } as const,
      first: { type: 'int64', dims: [], data: BigInt64Array.of(0n) } as const, head: floats([6, size], 10), hb: floats([6], 11),
    } // prettier-ignore
    const model = modelOf(graph([['x', 'float32', [1, 3, 8, 8]]], constants, steps, ['y']))
    const { model: after, report } = await compress(model, rotate({ seed: 5 }))
    expect(report.steps[0]!.summary).toContain('Rotated 4 of 4 weights')
    expect(after.nodes.map((n) => n.opType)).toEqual(steps.map(([op]) => op))
    expect(await difference(model, after, { x: floats([1, 3, 8, 8], 12) })).toBeLessThan(1e-4)
  })

  test('begins and ends a stream where its channels lie last, between functions of images', async () => {
    const size = 6
    const constants = {
      k: floats([size, 3, 1, 1], 1), flat: ints(0, size, 8), image: ints(0, size, 2, 4), g: floats([size], 2), b: floats([size], 3), w1: floats([size, 3 * size], 4), w2: floats([size, size], 5), g2: floats([size], 6),
      heads: ints(0, 8, 3, 2, 3), rows: ints(0, 8, size), zero: ints(0), one: ints(1), two: ints(2), three: ints(3), k2: floats([4, size, 1, 1], 7),
    } // prettier-ignore
    const part = (i: number, from: string, to: string): Step[] => [
      ['Slice', ['all', from, to, 'zero'], [`s${i}`]],
      ['Squeeze', [`s${i}`, 'zero'], [`p${i}`]],
    ]
    const steps: Step[] = [
      ['Conv', ['x', 'k'], ['c']],
      ['Sigmoid', ['c'], ['c1']],
      ['Mul', ['c', 'c1'], ['c2']],
      ['Reshape', ['c2', 'flat'], ['f']],
      ['Transpose', ['f'], ['h'], { perm: attribute.ints([0, 2, 1]) }],
      ['LayerNormalization', ['h', 'g', 'b'], ['n']],
      ['MatMul', ['n', 'w1'], ['m']],
      ['Reshape', ['m', 'heads'], ['r']],
      ['Transpose', ['r'], ['all'], { perm: attribute.ints([2, 0, 3, 1, 4]) }],
      ...part(0, 'zero', 'one'),
      ...part(1, 'one', 'two'),
      ...part(2, 'two', 'three'),
      ['Transpose', ['p1'], ['keys'], { perm: attribute.ints([0, 1, 3, 2]) }],
      ['MatMul', ['p0', 'keys'], ['scores']],
      ['Softmax', ['scores'], ['weights']],
      ['MatMul', ['weights', 'p2'], ['mixed']],
      ['Transpose', ['mixed'], ['t'], { perm: attribute.ints([0, 2, 1, 3]) }],
      ['Reshape', ['t', 'rows'], ['joined']],
      ['MatMul', ['joined', 'w2'], ['o']],
      ['Add', ['h', 'o'], ['h2']],
      ['LayerNormalization', ['h2', 'g2'], ['n2']],
      ['Transpose', ['n2'], ['t2'], { perm: attribute.ints([0, 2, 1]) }],
      ['Reshape', ['t2', 'image'], ['i']],
      ['Conv', ['i', 'k2'], ['y']],
    ]
    const model = modelOf(graph([['x', 'float32', [1, 3, 2, 4]]], constants, steps, ['y']))
    const feeds = { x: floats([1, 3, 2, 4], 9) }
    for (const [products, summary] of [
      [false, 'streams: 0, values of attentions: 1'],
      [true, 'streams: 1, values of attentions: 1'],
    ] as const) {
      const { model: after, report } = await compress(model, rotate({ products }))
      expect(report.steps[0]!.summary).toContain(summary)
      expect(await difference(model, after, feeds)).toBeLessThan(1e-4)
    }
  })

  test('turns what lies between products with nothing but sums and selections, and leaves what a function or an output reads', async () => {
    const of = (steps: Step[], outputs = ['y']): Model =>
      modelOf(
        graph(
          [['x', 'float32', [2, 4, 6]]],
          { a: floats([6, 10], 1), b: floats([10], 2), c: floats([10, 5], 3) },
          steps,
          outputs,
        ),
      )
    const linear: Step[] = [
      ['MatMul', ['x', 'a'], ['h']],
      ['Add', ['h', 'b'], ['h2']],
      ['MatMul', ['h2', 'c'], ['y']],
    ]
    for (const [model, chains] of [
      [of(linear), 1],
      [of(linear, ['y', 'h2']), 0],
      [of([linear[0]!, linear[1]!, ['Tanh', ['h2'], ['t']], ['MatMul', ['t', 'c'], ['y']]]), 0],
    ] as const) {
      const { model: after, report } = await compress(model, rotate())
      expect(report.steps[0]!.summary).toContain(`chains of products: ${chains}`)
      expect(await difference(model, after, { x: floats([2, 4, 6], 5) })).toBeLessThan(1e-4)
      const same = (name: string): boolean =>
        Buffer.from(model.initializers.get(name)!.readSync().data.buffer).equals(
          Buffer.from(after.initializers.get(name)!.readSync().data.buffer),
        )
      expect([same('a'), same('c')]).toEqual([chains === 0, chains === 0])
    }
  })

  test('puts products at outputs and spared weights where it may, and keeps those weights', async () => {
    const model = preNorm({ ...shape, bare: true })
    const words = model.nodes.find((n) => n.opType === 'Gather')!.inputs[0]!
    const inner = [...model.initializers.values()].find((w) => w.dims.length === 2 && w.dims[0] === 40)!.name
    const refused = await compress(model, rotate({ sites: ['stream'] }))
    expect(refused.report.steps[0]!.layers.every((l) => l.action === 'kept')).toBe(true)
    expect(refused.report.steps[0]!.layers[0]!.reason).toBe('y is an output of the model')
    const { model: after, report } = await compress(model, { ...rotate({ products: true }), spared: [words, inner] })
    expect(report.steps[0]!.layers.filter((l) => l.action === 'kept').map((l) => l.weight)).toEqual(
      expect.arrayContaining([words, inner]),
    )
    for (const name of [words, inner])
      expect(after.initializers.get(name)!.readSync().data).toEqual(model.initializers.get(name)!.readSync().data)
    expect(after.nodes.length).toBe(model.nodes.length + 4)
    expect(await difference(model, after, ids(2))).toBeLessThan(1e-4)
  })

  test('refuses weights that are not finite, by name', async () => {
    for (const at of [0, 3]) {
      const model = preNorm(shape)
      const name = [...model.initializers.values()].filter((w) => w.dims.length === 2)[at]!.name
      const { dims } = model.initializers.get(name)!
      const data = model.initializers.get(name)!.readSync().data as Float32Array
      data[5] = NaN
      model.graph.setInitializer(name, { type: 'float32', dims, data })
      expect(await failure(() => compress(model, rotate()))).toMatchObject({ code: 'ERR_RANGE', parameter: name })
    }
  })

  test('gives the same bytes for a seed, others for another, and names what is wrong in a step', async () => {
    const bytes = async (seed: number): Promise<Uint8Array> =>
      (await compress(preNorm(shape), rotate({ seed }))).model.toBytes()
    const [a, b, c] = [await bytes(7), await bytes(7), await bytes(8)]
    expect([Buffer.from(a).equals(b), Buffer.from(a).equals(c)]).toEqual([true, false])
    expect(await failure(() => compress(preNorm(shape), rotate({ seed: -1 })))).toMatchObject({
      code: 'ERR_RANGE',
      parameter: 'recipe.steps[0].seed',
    })
    expect(await failure(() => compress(preNorm(shape), rotate({ sites: [] })))).toMatchObject({
      code: 'ERR_DTYPE',
      parameter: 'recipe.steps[0].sites',
    })
    expect(await failure(() => compress(preNorm(shape), rotate({ sites: ['streams'] })))).toMatchObject({
      code: 'ERR_RANGE',
      parameter: 'recipe.steps[0].sites[0]',
    })
    expect(await failure(() => compress(preNorm(shape), rotate({ product: true })))).toMatchObject({
      code: 'ERR_RANGE',
      parameter: 'recipe.steps[0].product',
    })
  })
})
