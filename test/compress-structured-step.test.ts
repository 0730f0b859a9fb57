import { compress, pruningSensitivity, type GroupPoint, type Model, type Tensor } from '../lib'
import { toHalves } from '../lib/model/half'
import { conv, dimsOf, expectSame, float, floats, graph, modelOf, theirs, type Input, type Step, type Values } from './graphs'
import { failure } from './nets'

const image: Input = ['x', 'float32', [2, 3, 8, 8]]
const x = { x: floats([2, 3, 8, 8], 5) }

describe('the prune step with a structure', () => {
  const lively = (rows: number, columns: number, strong: readonly number[]): Tensor => {
    const t = floats([rows, columns, 1, 1], 3)
    return { ...t, data: (t.data as Float32Array).map((v, i) => v + (strong.includes(Math.floor(i / columns)) ? 9 : 0)) }
  }
  const two = modelOf(
    graph([image], { w1: lively(8, 3, [1, 2, 6, 7]), b1: floats([8], 9), w2: floats([8, 8, 3, 3], 4), w3: floats([4, 8, 1, 1], 5) }, [conv('x', 'w1', 'a', { bias: 'b1' }), ['Relu', ['a'], ['b']], conv('b', 'w2', 'c'), ['Relu', ['c'], ['d']], conv('d', 'w3', 'y')], ['y']),
  )
  const prune = (step: object, options = {}, model = two) => compress(model, { steps: [{ step: 'prune', structure: 'filter', sparsity: 0.5, ...step } as never] }, options)

  test('removes the filters of least norm and tells what became of each weight', async () => {
    const { model, report } = await prune({})
    const data = two.graph.initializers.get('w1')!.readSync().data as Float32Array
    const left = model.graph.initializers.get('w1')!.readSync().data as Float32Array
    expect(Array.from(left)).toEqual([1, 2, 6, 7].flatMap((i) => Array.from(data.slice(3 * i, 3 * i + 3))))
    expect(report.steps[0]!.layers.map((l) => [l.weight, l.action, l.dimsAfter, l.reason])).toEqual([
      ['w1', 'pruned', [4, 3, 1, 1], undefined],
      ['w2', 'pruned', [4, 4, 3, 3], undefined],
      ['w3', 'pruned', [4, 4, 1, 1], undefined],
    ])
    expect(report.steps[0]!.summary).toMatch(/Removed 8 of 16 filters \(l1, uniform\) from 3 weights/)
    expect(report.after.parameters).toBe(12 + 4 + 144 + 16)
    // What it replays by is complete, and does the same.
    const again = await compress(two, report.recipe as never)
    expect(Buffer.from(again.model.toBytes())).toEqual(Buffer.from(model.toBytes()))
    expect(Buffer.from((await prune({ criterion: 'random', seed: 3 })).model.toBytes())).toEqual(Buffer.from((await prune({ criterion: 'random', seed: 3 })).model.toBytes()))
  })

  test('takes minimum, multiples, scope and layers into account', async () => {
    const dims = async (step: object) => (await prune(step)).report.steps[0]!.layers.map((l) => (l.dimsAfter ?? l.dims).slice(0, 2))
    // Six would stay: eight do, the next multiple; the last layer is told as kept.
    expect(await dims({ sparsity: 0.3, roundTo: 4 })).toEqual([[4, 8]])
    expect(await dims({ sparsity: 0.6, roundTo: 4 })).toEqual([[4, 3], [4, 4], [4, 4]])
    expect(await dims({ sparsity: 0.9, minChannels: 3 })).toEqual([[3, 3], [3, 3], [4, 3]])
    expect(await dims({ layers: 'w2' })).toEqual([[4, 8], [4, 4]])
    expect(await dims({ layers: { exclude: ['w3'] } })).toEqual([[4, 3], [8, 4]])
    // The weak filters of the first layer go before any of the second's.
    expect((await dims({ sparsity: 0.25, scope: 'global' }))[0]).toEqual([4, 3])
    expect((await failure(() => prune({ layers: 'nothing' }))).message).toMatch(/no weight is called "nothing"/)
  })

  test('scores by norms, by the median filter, by the readers and by gamma', async () => {
    const rows = (values: readonly number[]): Tensor => float([values.length, 1, 1, 1], ...values)
    const net = (w1: Tensor, w2: Tensor, more: Values = {}, steps: Step[] = [['Relu', ['a'], ['b']]]) => modelOf(graph([['x', 'float32', [1, 1, 2, 2]]], { w1, w2, ...more }, [conv('x', 'w1', 'a'), ...steps, conv('b', 'w2', 'y')], ['y']))
    const left = async (step: object, model: Model) => Array.from((await prune({ sparsity: 0.25, ...step }, {}, model)).model.graph.initializers.get('w1')!.readSync().data as Float32Array)
    const plain = net(rows([1, -0.5, 3, 3.5]), float([1, 4, 1, 1], 5, 4, 3, 2))
    expect(await left({ criterion: 'l1' }, plain)).toEqual([1, 3, 3.5])
    expect(await left({ structure: 'channel', criterion: 'l2' }, plain)).toEqual([1, -0.5, 3])
    // Distances: 1 has 1.5 + 2 + 2.5 = 6, -0.5 has 9, 3 has 6, 3.5 has 7: the first of the two that are replaceable goes.
    expect(await left({ criterion: 'geometric-median' }, plain)).toEqual([-0.5, 3, 3.5])
    const bn = { g: float([4], 1, 2, -0.1, 3), h: float([4], 0, 0, 0, 0), m: float([4], 0, 0, 0, 0), v: float([4], 1, 1, 1, 1) }
    const scaled = net(rows([1, -0.5, 3, 3.5]), float([1, 4, 1, 1], 5, 4, 3, 2), bn, [['BatchNormalization', ['a', 'g', 'h', 'm', 'v'], ['b']]])
    expect(await left({ criterion: 'gamma' }, scaled)).toEqual([1, -0.5, 3.5])
    const { report } = await prune({ criterion: 'gamma' }, {}, plain)
    expect(report.steps[0]!.layers[0]).toMatchObject({ action: 'kept', reason: 'no batch normalization scales these channels' })
  })

  const inputsOf = (n: number) => Array.from({ length: n }, (_, i) => ({ x: floats([2, 3, 8, 8], 20 + i) }))

  test('scores by what channels compute on calibration inputs', async () => {
    // Channel c of four: relu of x times a factor, so that what each computes is known.
    const net = (factors: readonly number[], readers: readonly number[], shift: readonly number[] = [0, 0, 0, 0]) =>
      modelOf(
        graph([['x', 'float32', [1, 1, 2, 3]]], { w1: float([4, 1, 1, 1], ...factors), b1: float([4], ...shift), w2: float([1, 4, 1, 1], ...readers) }, [
          conv('x', 'w1', 'a', { bias: 'b1' }),
          ['Relu', ['a'], ['b']],
          conv('b', 'w2', 'y'),
        ], ['y']),
      )
    const calibration = [{ x: float([1, 1, 2, 3], 1, 2, -3, 2, 4, 5) }, { x: float([1, 1, 2, 3], 1, 3, 0.5, 2, -1, -1) }]
    const left = async (criterion: string, model: Model, sparsity = 0.25) =>
      Array.from((await prune({ criterion, sparsity }, { calibration }, model)).model.graph.initializers.get('w1')!.readSync().data as Float32Array)
    // The negative factor is zero wherever x is positive, nine times of twelve.
    expect(await left('apoz', net([0.1, -9, 1, 2], [1, 1, 1, 1]))).toEqual([0.1, -9, 1, 2].filter((f) => f !== -9).map(Math.fround))
    expect(await left('mean', net([0.1, -9, 1, 2], [1, 1, 1, 1]))).toEqual([-9, 1, 2])
    // Large, but nearly the same everywhere.
    expect(await left('variance', net([3, -9, 0.01, 2], [1, 1, 1, 1], [0, 0, 100, 0]))).toEqual([3, -9, 2])
    // Rank 1 in both maps: all entries alike. The others have rank 2.
    expect(await left('hrank', net([3, 5, 0, 2], [1, 1, 1, 1], [0.5, 0.25, 100, 0.125]))).toEqual([3, 5, 2])
    // What the reader weighs least adds least to its sum, however large it is.
    for (const criterion of ['thinet', 'lasso']) expect(await left(criterion, net([9, -3, 2, 1], [0.001, 1, 1, 1]))).toEqual([-3, 2, 1])
    // The second alone adds more than the third, but most of the first, which goes before it, it only cancels.
    expect(await left('thinet', net([1, 1.5, -2.6, 9], [1, -1, 1, 1]), 0.5)).toEqual([-2.6, 9].map(Math.fround))
    expect((await failure(() => prune({ criterion: 'apoz' }))).message).toMatch(/needs inputs to calibrate on/)
  })

  test('scores by the gradients of a loss', async () => {
    const model = modelOf(graph([['x', 'float32', [1, 2, 2, 2]]], { w1: float([3, 2, 1, 1], 1, 2, 3, 4, 5, 6), w2: float([1, 3, 1, 1], 1, 1, 1) }, [conv('x', 'w1', 'a'), ['Relu', ['a'], ['b']], conv('b', 'w2', 'y')], ['y']))
    const taylor = (g: readonly number[]) => prune({ criterion: 'taylor', sparsity: 0.34, gradients: { w1: float([3, 2, 1, 1], ...g) } }, {}, model)
    // Sums of g·w: 1 + 2, 6 - 6, 5 - 1: the second cancels.
    const { model: small, report } = await taylor([1, 1, 2, -1.5, 1, -1 / 6])
    expect(Array.from(small.graph.initializers.get('w1')!.readSync().data as Float32Array)).toEqual([1, 2, 5, 6])
    expect(JSON.stringify(report.recipe)).toContain('"gradients":{"names":["w1"]}')
    expect((await failure(() => prune({ criterion: 'taylor', gradients: { w1: float([3], 1, 2, 3) } }, {}, model))).message).toMatch(/gradients.w1: expected dims \[3, 2, 1, 1\]/)
    expect((await failure(() => prune({ criterion: 'taylor' }, {}, model))).message).toMatch(/gradients: expected gradients by weight name/)
  })

  test('merges as a search of all pairs in float64 does, of more units than are compared at a time', async () => {
    const [units, size] = [530, 20]
    const w1 = floats([units, size, 1, 1], 7)
    const w2 = floats([3, units, 1, 1], 8)
    const a = w1.data as Float32Array
    const b = w2.data as Float32Array
    // Far from the origin, so that distances are small beside the values; one pair nearly equal.
    for (let i = 0; i < a.length; i++) a[i]! += 3
    for (let k = 0; k < size; k++) a[520 * size + k] = a[7 * size + k]! + 1e-6
    const model = modelOf(graph([['x', 'float32', [1, size, 2, 2]]], { w1, w2 }, [conv('x', 'w1', 'h'), ['Relu', ['h'], ['r']], conv('r', 'w2', 'y')], ['y']))
    const left = new Set(Array.from({ length: units }, (_, i) => i))
    const sends = Array.from({ length: units }, (_, j) => [0, 1, 2].map((o) => b[o * units + j]!))
    for (let turn = 0; turn < 5; turn++) {
      let [best, from, into] = [Infinity, -1, -1]
      for (const j of left)
        for (const i of left) {
          if (i === j) continue
          let distance = 0
          for (let k = 0; k < size; k++) distance += (a[i * size + k]! - a[j * size + k]!) ** 2
          const saliency = distance * sends[j]!.reduce((s, v) => s + v * v, 0)
          if (saliency < best) [best, from, into] = [saliency, j, i]
        }
      left.delete(from)
      sends[into] = sends[into]!.map((v, o) => v + sends[from]![o]!)
    }
    const { model: merged } = await prune({ merge: true, sparsity: 5 / units }, {}, model)
    const kept = merged.graph.initializers.get('w1')!.readSync().data as Float32Array
    expect(Array.from(kept)).toEqual([...left].flatMap((i) => Array.from(a.slice(i * size, (i + 1) * size))))
    const sent = merged.graph.initializers.get('w2')!.readSync().data as Float32Array
    expect(Array.from(sent)).toEqual([0, 1, 2].flatMap((o) => [...left].map((i) => expect.closeTo(sends[i]![o]!, 4) as number)))
  })

  test('merges units that are alike: equal ones at no cost', async () => {
    const rows = [[1, 2, 3], [-1, 0.5, 2], [1, 2, 3], [0.3, -1, 1], [-1, 0.5, 2], [1, 2, 3]]
    const twins = modelOf(
      graph([image], { w1: float([6, 3, 1, 1], ...rows.flat()), b1: float([6], 1, 2, 1, 3, 2, 1), dw: float([6, 1, 1, 1], 2, 3, 2, 4, 3, 2), w2: floats([4, 6, 3, 3], 4) }, [
        conv('x', 'w1', 'a', { bias: 'b1' }),
        ['Relu', ['a'], ['b']],
        conv('b', 'dw', 'c', { group: 6 }),
        conv('c', 'w2', 'y'),
      ], ['y']),
    )
    const { model, report } = await prune({ merge: true }, {}, twins)
    expect(dimsOf(model, 'w2')).toEqual([4, 3, 3, 3])
    expectSame((await theirs(model, x)).y, (await theirs(twins, x)).y)
    expect(report.steps[0]!.summary).toMatch(/merged/)
    // Without it the same ratio costs.
    const without = (await theirs((await prune({}, {}, twins)).model, x)).y
    const whole = (await theirs(twins, x)).y
    expect((await failure(() => expectSame(without, whole))).message).toMatch(/element/)
    expect((await failure(() => prune({ merge: true, criterion: 'l2' }))).message).toMatch(/criterion: expected nothing beside merge/)
  })

  test('fits what reads removed channels anew: no linear change of it comes nearer', async () => {
    // The third and fourth channels are sums of others: what reads them can do without.
    const w1 = floats([4, 3, 1, 1], 3).data as Float32Array
    for (let k = 0; k < 3; k++) [w1[6 + k], w1[9 + k]] = [w1[k]! + w1[3 + k]!, (w1[k]! - w1[3 + k]!) / 2]
    const constants = { w1: { type: 'float32', dims: [4, 3, 1, 1], data: w1 } as Tensor, b1: floats([4], 9), w2: floats([5, 4, 3, 3], 4), b2: floats([5], 8), w3: floats([2, 5, 1, 1], 5) }
    const linear = modelOf(graph([image], constants, [conv('x', 'w1', 'a', { bias: 'b1' }), conv('a', 'w2', 'c', { bias: 'b2' }), ['Relu', ['c'], ['d']], conv('d', 'w3', 'y')], ['y']))
    const calibration = inputsOf(6)
    const step = { layers: 'w1', reconstruct: true, ridge: 0 }
    const { model } = await prune(step, { calibration }, linear)
    expect([dimsOf(model, 'w1'), dimsOf(model, 'w2')]).toEqual([[2, 3, 1, 1], [5, 2, 3, 3]])
    expectSame((await theirs(model, x)).y, (await theirs(linear, x)).y)
    // Deterministic, and a huge ridge leaves the weights that were cut.
    expect(Buffer.from((await prune(step, { calibration }, linear)).model.toBytes())).toEqual(Buffer.from(model.toBytes()))
    const held = (await prune({ ...step, ridge: 1e9 }, { calibration }, linear)).model.graph.initializers.get('w2')!.readSync()
    const plain = (await prune({ layers: 'w1' }, {}, linear)).model.graph.initializers.get('w2')!.readSync()
    expectSame(held, plain)
    expect((await failure(() => prune({ reconstruct: true }))).message).toMatch(/needs inputs to calibrate on/)
  })

  // The first layer has two filters that do nothing, the second has none: which to cut is plain.
  const lame = two.clone()
  {
    const t = two.graph.initializers.get('w1')!.readSync() as Tensor<Float32Array>
    const idle = (i: number): boolean => i === 0 || i === 3
    lame.graph.setInitializer('w1', { ...t, data: t.data.map((v, i) => (idle(Math.floor(i / 3)) ? v * 1e-4 : v)) })
    const b = two.graph.initializers.get('b1')!.readSync() as Tensor<Float32Array>
    lame.graph.setInitializer('b1', { ...b, data: b.data.map((_, i) => (idle(i) ? -1 : 0.5)) })
  }

  test('search: netadapt takes what costs least a saved multiplication, round by round, and stops at its limits', async () => {
    const calibration = inputsOf(3)
    const step = { search: 'netadapt', sparsity: 0.3, increment: 0.06 }
    const { model, report } = await prune(step, { calibration }, lame)
    const [first] = report.steps[0]!.layers
    // Both idle filters go first; then the cheaper of either layer's.
    expect(first!.dimsAfter![0]).toBeLessThanOrEqual(6)
    const w1 = model.graph.initializers.get('w1')!.readSync().data as Float32Array
    expect(Math.min(...Array.from(w1, Math.abs))).toBeGreaterThan(1e-3)
    expect(report.steps[0]!.summary).toMatch(/netadapt, [1-9]\d* rounds/)
    const share = Number(/\(([\d.]+) %\)\.$/.exec(report.steps[0]!.summary)![1])
    expect(share).toBeGreaterThanOrEqual(70)
    expect(share).toBeLessThan(80)
    expect(Buffer.from((await prune(step, { calibration }, lame)).model.toBytes())).toEqual(Buffer.from(model.toBytes()))
    // An accuracy that any further cut ruins ends it after the idle ones, exactly.
    const whole = (await theirs(lame, calibration[0]!)).y!.data as Float32Array
    const evaluate = async (m: Model): Promise<number> => {
      const y = (await theirs(m, calibration[0]!)).y!.data as Float32Array
      return -Math.max(...y.map((v, i) => Math.abs(v - whole[i]!)))
    }
    const limited = await prune({ ...step, sparsity: 0.9 }, { calibration, evaluate, limits: { accuracyDrop: 1e-3 } }, lame)
    expect([dimsOf(limited.model, 'w1'), dimsOf(limited.model, 'w2')]).toEqual([[6, 3, 1, 1], [8, 6, 3, 3]])
    // Layers behind that are fitted anew make up for part of it.
    const deeper = { ...step, sparsity: 0.6 }
    const cut = await prune(deeper, { calibration }, lame)
    const fitted = await prune({ ...deeper, reconstruct: true }, { calibration }, lame)
    const change = async (m: Model): Promise<number> => Math.hypot(...((await theirs(m, calibration[1]!)).y!.data as Float32Array).map((v, i) => v - second[i]!))
    const second = (await theirs(lame, calibration[1]!)).y!.data as Float32Array
    expect(await change(fitted.model)).toBeLessThan(await change(cut.model))
    expect((await failure(() => prune({ search: 'netadapt' }))).message).toMatch(/needs inputs to calibrate on/)
    expect((await failure(() => prune({ search: 'netadapt', merge: true }))).message).toMatch(/merge: expected nothing with search/)
  })

  test('pruningSensitivity tells what each group bears', async () => {
    const calibration = inputsOf(2)
    const groups = await pruningSensitivity(lame, { calibration, structure: 'filter', ratios: [0, 0.25, 0.75] })
    expect(groups.map((g) => [g.layer, g.kind, g.units, g.weights])).toEqual([
      ['Conv0', 'filter', 8, ['b1', 'w1', 'w2']],
      ['Conv2', 'filter', 8, ['w2', 'w3']],
    ])
    const [first, second] = groups.map((g) => g.points) as [GroupPoint[], GroupPoint[]]
    expect(first.map((p) => p.left)).toEqual([8, 6, 2])
    // Nothing removed, no noise; idle filters next to none; others plenty.
    expect([first[0]!.snr, second[0]!.snr]).toEqual([null, null])
    expect(first[1]!.snr ?? 300).toBeGreaterThan(60)
    expect(second[1]!.snr).toBeLessThan(40)
    expect(first[2]!.snr!).toBeLessThan(second[1]!.snr! + 20)
    expect(first[0]!.macs).toBe(1)
    expect(first[2]!.macs).toBeLessThan(first[1]!.macs)
    const judged = await pruningSensitivity(lame, { evaluate: (m) => m.summary().parameters, ratios: [0.5], layers: 'w1' })
    expect(judged.map((g) => g.points.map((p) => p.accuracy))).toEqual([[12 + 4 + 8 * 4 * 9 + 32]])
    expect((await failure(() => pruningSensitivity(lame, {}))).message).toMatch(/options.calibration: expected inputs to compare outputs on/)
    expect((await failure(() => pruningSensitivity(lame, { calibration, ratios: [2] }))).message).toMatch(/options.ratios\[0\]/)
  })

  test('refuses what it cannot do by name', async () => {
    const cases: [object, RegExp][] = [
      [{ structure: 'row' }, /steps\[0\]\.structure: expected one of 'filter'/],
      [{ sparsity: 1 }, /sparsity: expected a share below 1/],
      [{ sparsity: undefined }, /sparsity: expected a share from 0 to below 1/],
      [{ criterion: 'l3' }, /criterion: expected one of/],
      [{ roundTo: 0 }, /roundTo/],
      [{ patern: 1 }, /patern: unknown option/],
      [{ layers: [] }, /layers: expected at least one name/],
    ]
    for (const [step, message] of cases) expect((await failure(() => prune(step))).message).toMatch(message)
    const broken = two.clone()
    broken.graph.setInitializer('w1', { type: 'float32', dims: [8, 3, 1, 1], data: new Float32Array(24).fill(NaN) })
    expect((await failure(() => prune({}, {}, broken))).message).toMatch(/w1: expected finite weights/)
  })

  test('leaves what it does not merge in its own type', async () => {
    const bits = (dims: readonly number[]): Tensor => ({ type: 'float16', dims, data: toHalves(floats(dims, 7).data as Float32Array) })
    const halves = modelOf(graph([['x', 'float16', [1, 6]]], { w: bits([6, 8]), v: bits([8, 4]) }, [['MatMul', ['x', 'w'], ['h']], ['Relu', ['h'], ['r']], ['MatMul', ['r', 'v'], ['y']]], [['y', 'float16', [1, 4]]]))
    const { model } = await prune({ structure: 'neuron', criterion: 'random' }, {}, halves)
    expect(['w', 'v'].map((n) => [model.graph.initializers.get(n)!.type, dimsOf(model, n)])).toEqual([['float16', [6, 4]], ['float16', [4, 4]]])
  })

  test('leaves a model without such structure as it is, and says so', async () => {
    const { model, report } = await prune({ structure: 'head' })
    expect(Buffer.from(model.toBytes())).toEqual(Buffer.from(two.toBytes()))
    expect(report.steps[0]!.summary).toMatch(/^Removed 0 of 0 heads/)
  })
})
