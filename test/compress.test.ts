import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'

import * as ort from 'onnxruntime-node'

import { compress, type Progress, type Recipe } from '../lib/compress'
import { attribute, Graph, Initializer, Model, Node, ValueInfo } from '../lib/model'
import { quantizedWeights, readQuantized } from '../lib/model/quantized'
import { weights } from '../lib/model/weights'
import { failure, kSpecs, netOf, noise, runNet, type Spec } from './nets'

const quantize = (more: object = {}): Recipe => ({ steps: [{ step: 'quantize', ...more }] })

/** round(x) half to even, in double precision. */
function nearestEven(x: number): number {
  const r = Math.round(x)
  return Math.abs(x % 1) === 0.5 && r % 2 !== 0 ? r - 1 : r
}

/** Symmetric quantization by its definition; `group` says which values share a scale. */
function expected(data: Float32Array, bits: number, group: (i: number) => number): Float32Array {
  const top = 2 ** (bits - 1) - 1
  const most: number[] = []
  data.forEach((v, i) => (most[group(i)] = Math.max(most[group(i)] ?? 0, Math.abs(v))))
  return data.map((v, i) => {
    const scale = Math.fround(most[group(i)]! / top) || 1
    return nearestEven(Math.fround(v / scale)) * scale + 0
  })
}

/** The output channel of each element, by op and dims alone. */
function channelOf({ op, dims, at = 1, attributes = {} }: Spec): (i: number) => number {
  const inner = (axis: number): number => dims.slice(axis + 1).reduce((a, b) => a * b, 1)
  const alongAxis =
    (axis: number) =>
    (i: number): number =>
      Math.floor(i / inner(axis)) % dims[axis]!
  switch (op) {
    case 'ConvTranspose':
      return alongAxis(1)
    case 'MatMul':
      return at === 0 ? alongAxis(dims.length - 2) : alongAxis(dims.length - 1)
    case 'Gemm':
      return alongAxis(attributes['transB'] ? 0 : 1)
    case 'LSTM':
    case 'GRU':
      return (i) => Math.floor(i / dims[2]!)
    default:
      return alongAxis(0)
  }
}

describe('quantize', () => {
  const original = netOf(kSpecs)

  test.each(['folded', 'qdq'] as const)(
    'int8, %s: a runtime computes the weights that the definition gives, bit for bit',
    async (storage) => {
      const { model, report } = await compress(original, quantize({ storage, layers: { minElements: 0 } }))
      const got = await runNet(model, kSpecs)
      kSpecs.forEach((spec, i) => {
        const data = original.initializers.get(`w${i}`)!.readSync().data as Float32Array
        expect(got[`w${i}`]).toEqual(expected(data, 8, channelOf(spec)))
      })
      expect(report.steps[0]!.layers.filter((l) => l.action === 'quantized').length).toBe(kSpecs.length + 2)
      expect(model.opset).toBe(13)
      expect(weights(model.graph)).toEqual([])
    },
  )

  test.each([
    ['folded', 4],
    ['qdq', 4],
    ['folded', 3],
    ['qdq', 2],
  ] as const)('%s, %i bits in blocks: a runtime computes what the reader reads', async (storage, bits) => {
    const { model, report } = await compress(
      original,
      quantize({ storage, bits, maxError: 1, layers: { minElements: 0 } }),
    )
    const got = await runNet(model, kSpecs)
    const read = quantizedWeights(model.graph)
    expect(read.length).toBe(kSpecs.length + 2)
    for (const weight of read) {
      const layer = report.steps[0]!.layers.find((l) => l.weight === weight.value)!
      const data = original.initializers.get(weight.value)!.readSync().data as Float32Array
      const values = readQuantized(weight)
      if (got[weight.value]) expect(got[weight.value]).toEqual(values)
      let difference = 0
      let norm = 0
      data.forEach((v, i) => {
        difference += (v - values[i]!) ** 2
        norm += v * v
      })
      expect(layer.error).toBeCloseTo(Math.sqrt(difference / norm), 6)
      expect(weight.storage).toBe(storage)
      // What no block from 8 on divides, and what has no single reduction, is int8 per channel, and says so.
      if (layer.reason) expect([layer.bits, weight.bits]).toEqual([8, 8])
      else {
        // The type int4 of qdq holds fewer bits too.
        expect([layer.bits, weight.bits]).toEqual([bits, storage === 'folded' ? bits : 4])
        expect(layer.bytesAfter).toBeLessThan(layer.bytesBefore / 3)
      }
    }
    const reasons = Object.fromEntries(report.steps[0]!.layers.map((l) => [l.weight, l.reason !== undefined]))
    expect(reasons).toMatchObject({ w0: false, w2: true, w3: false, w4: false, w5: false })
  })

  test('4-bit blocks share a scale along the reduction, in both orientations', async () => {
    const { model } = await compress(original, quantize({ bits: 4, maxError: 1 }))
    const got = await runNet(model, kSpecs)
    const of = (name: string): Float32Array => original.initializers.get(name)!.readSync().data as Float32Array
    // w3 is [64, 33]: blocks of 32 rows in each column. w6 is [40, 32] with transB: rows of 32.
    expect(got['w3']).toEqual(expected(of('w3'), 4, (i) => Math.floor(Math.floor(i / 33) / 32) * 33 + (i % 33)))
    expect(got['w6']).toEqual(expected(of('w6'), 4, (i) => Math.floor(i / 32)))
  })

  test('folded keeps the opset of an old file, qdq raises it as far as its op needs', async () => {
    const old = netOf([kSpecs[0]!, kSpecs[3]!], { opset: 9, irVersion: 4 })
    const folded = (await compress(old, 'int8-weights')).model
    const blocks = (await compress(old, 'int4-weights')).model
    const qdq = (await compress(old, quantize({ storage: 'qdq' }))).model
    const qdq4 = (await compress(old, quantize({ storage: 'qdq', bits: 4 }))).model
    expect([old, folded, blocks, qdq, qdq4].map((m) => m.opset)).toEqual([9, 9, 9, 13, 21])
    const specs = [kSpecs[0]!, kSpecs[3]!]
    const [f8, q8, f4, q4] = [
      await runNet(folded, specs),
      await runNet(qdq, specs),
      await runNet(blocks, specs),
      await runNet(qdq4, specs),
    ]
    for (const w of ['w0', 'w1']) expect([q8![w], q4![w]]).toEqual([f8![w], f4![w]])
    // Outputs come from other kernels of the runtime, in another order of sums.
    for (const y of ['y0', 'y1']) q8![y]!.forEach((v, i) => expect(Math.abs(v - f8![y]![i]!)).toBeLessThan(1e-4))
  })

  test('weights that are listed as inputs, as IR version 3 demands, become constants', async () => {
    const old = netOf(kSpecs.slice(0, 1), { opset: 8, irVersion: 3, listed: true })
    const { model } = await compress(old, 'int8-weights')
    expect(model.inputs.map((i) => i.name)).toEqual(['x0'])
    expect(model.irVersion).toBeGreaterThanOrEqual(4)
    const data = old.initializers.get('w0')!.readSync().data as Float32Array
    expect(readQuantized(quantizedWeights(model.graph)[0]!)).toEqual(expected(data, 8, channelOf(kSpecs[0]!)))
    await runNet(model, kSpecs.slice(0, 1))
  })

  test('weights in Constant nodes and in subgraphs are found', async () => {
    const branch = (name: string, seed: number): Graph => {
      const g = new Graph(name)
      g.addNode(
        new Node({
          opType: 'Constant',
          inputs: [],
          outputs: [`${name}_w`],
          attributes: {
            value: attribute.tensor(Initializer.from('', { type: 'float32', dims: [16, 20], data: noise(320, seed) })),
          },
        }),
      )
      g.addNode(new Node({ opType: 'MatMul', inputs: ['x', `${name}_w`], outputs: [`${name}_y`] }))
      g.addNode(new Node({ opType: 'MatMul', inputs: [`${name}_y`, 'shared'], outputs: [`${name}_z`] }))
      g.outputs = [new ValueInfo(`${name}_z`, 'float32', null)]
      return g
    }
    const graph = new Graph('main')
    graph.addInitializer(Initializer.from('shared', { type: 'float32', dims: [20, 24], data: noise(480, 9) }))
    graph.inputs = [new ValueInfo('x', 'float32', [2, 16]), new ValueInfo('c', 'bool', [])]
    graph.outputs = [new ValueInfo('y', 'float32', null)]
    graph.addNode(
      new Node({
        opType: 'If',
        inputs: ['c'],
        outputs: ['y'],
        attributes: { then_branch: attribute.graph(branch('t', 3)), else_branch: attribute.graph(branch('e', 4)) },
      }),
    )
    const made = new Model({ graph, opsets: [['', 13]], irVersion: 8 })
    const { model, report } = await compress(made.toBytes(), 'int8-weights')
    expect(report.steps[1]!.layers.map((l) => [l.weight, l.action])).toEqual([
      ['t_w', 'quantized'],
      ['shared', 'quantized'],
      ['e_w', 'quantized'],
    ])
    const run = async (m: Model): Promise<Float32Array> => {
      const s = await ort.InferenceSession.create(m.toBytes(), { logSeverityLevel: 3 })
      const x = new ort.Tensor('float32', noise(32, 2), [2, 16])
      const { y } = await s.run({ x, c: new ort.Tensor('bool', Uint8Array.of(1), []) })
      await s.release()
      return y!.data as Float32Array
    }
    const [a, b] = [await run(made), await run(model)]
    a.forEach((v, i) => expect(Math.abs(v - b[i]!)).toBeLessThan(0.05))
  })

  test('a weight over the error budget stays float and is named with its error', async () => {
    const data = noise(16 * 64)
    // One value towers over its channel: all others round to nothing.
    for (let c = 0; c < 16; c++) data[c * 64] = 300
    for (let i = 0; i < data.length; i++) if (i % 64) data[i]! *= 20
    const net = netOf([{ op: 'Gemm', dims: [16, 64], data, attributes: { transB: attribute.int(1) } }, kSpecs[3]!])
    const { model, report } = await compress(net, quantize({ maxError: 0.007 }))
    const [towering, plain] = report.steps[0]!.layers
    expect(towering).toMatchObject({ name: 'gemm0', weight: 'w0', action: 'kept' })
    expect(towering!.reason).toContain('relative error')
    expect(towering!.error).toBeGreaterThan(0.007)
    expect(plain).toMatchObject({ weight: 'w1', action: 'quantized' })
    expect(model.initializers.get('w0')!.type).toBe('float32')
    expect(report.steps[0]!.summary).toContain('1 stayed float')
  })

  test.each([NaN, Infinity, -Infinity])(
    'a weight with %d is an error that names it, or stays float if the recipe says so',
    async (bad) => {
      const data = noise(64 * 33)
      data[77] = bad
      const net = netOf([kSpecs[0]!, { op: 'MatMul', dims: [64, 33], data }])
      const error = await failure(() => compress(net, 'int8-weights'))
      expect(error).toMatchObject({ code: 'ERR_RANGE', parameter: 'w1' })
      expect(error.message).toContain('element 77')
      const { report } = await compress(net, quantize({ nonFinite: 'keep' }))
      expect(report.steps[0]!.layers.map((l) => l.action)).toEqual(['quantized', 'kept'])
    },
  )

  test('selectors choose, sizes below the threshold and weights without gain stay', async () => {
    const specs: Spec[] = [{ op: 'MatMul', dims: [2, 40] }, { op: 'MatMul', dims: [10, 20] }, kSpecs[3]!, kSpecs[0]!]
    const chosen = async (layers: unknown): Promise<string[]> => {
      const { report } = await compress(netOf(specs), quantize({ layers }))
      return report.steps[0]!.layers.filter((l) => l.action === 'quantized').map((l) => l.weight)
    }
    expect(await chosen(undefined)).toEqual(['w2', 'w3'])
    expect(await chosen({ minElements: 0 })).toEqual(['w1', 'w2', 'w3'])
    expect(await chosen({ ops: ['Conv'] })).toEqual(['w3'])
    expect(await chosen('matmul2')).toEqual(['w2'])
    expect(await chosen({ exclude: 'w2' })).toEqual(['w3'])
    expect(await failure(() => chosen('nobody'))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].layers' })
    expect(await failure(() => chosen(['w22']))).toMatchObject({ message: "recipe.steps[0].layers: no weight is called \"w22\", perhaps 'w2'" })
    expect(await failure(() => chosen({ ops: ['Convv'] }))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].layers.ops[0]' })
    // A choice of nothing is a mistake unless it is said to be none.
    for (const none of [{ ops: ['LSTM'] }, { exclude: '*' }, { minElements: 1e9 }, 'w1']) {
      expect(await failure(() => chosen(none))).toMatchObject({ code: 'ERR_RANGE', parameter: 'recipe.steps[0].layers', message: expect.stringMatching(/at least one of 4 weights, got .* fits none/) as unknown })
      expect(await chosen({ ...(typeof none === 'string' ? { include: none } : none), optional: true })).toEqual([])
    }
    expect(await chosen({ include: 'nobody', optional: true })).toEqual([])
    expect(await failure(() => compress(netOf(specs), 'balancd' as 'balanced'))).toMatchObject({ message: expect.stringContaining("perhaps 'balanced'") as unknown })
  })

  test('the model that goes in stays as it is, and what comes out can be compressed again without change', async () => {
    const before = original.toBytes()
    const { model } = await compress(original, 'int8-weights')
    expect(Buffer.compare(original.toBytes(), before)).toBe(0)
    const again = await compress(model, 'int8-weights')
    expect(again.report.steps[1]!.layers).toEqual([])
    expect(again.model.byteLength()).toBe(model.byteLength())
    // The table that unpacks 4-bit codes is read by Gather, but is no weight.
    const four = (await compress(original, 'int4-weights')).model
    expect(
      (await compress(four, 'int8-weights')).report.steps[1]!.layers.filter((l) => l.action === 'quantized'),
    ).toEqual([])
  })

  test('the report replays: its recipe gives the same bytes', async () => {
    const first = await compress(original, {
      steps: [
        { step: 'prune', sparsity: 0.3, scope: 'global' },
        { step: 'quantize', bits: 4 },
      ],
    })
    const second = await compress(original, JSON.parse(JSON.stringify(first.report.recipe)) as Recipe)
    expect(Buffer.compare(second.model.toBytes(), first.model.toBytes())).toBe(0)
  })

  test('empty tensors and models without weights pass', async () => {
    const net = netOf([{ op: 'MatMul', dims: [0, 4] }])
    const { report } = await compress(net, quantize({ layers: { minElements: 0 } }))
    expect(report.steps[0]!.layers[0]).toMatchObject({ action: 'kept' })
    expect((await compress(netOf([]), 'int8-weights')).report.steps[1]!.layers).toEqual([])
  })
})

describe('dedupe', () => {
  test('equal tensors are stored once, readers follow, outputs keep their names', async () => {
    const data = noise(64 * 33)
    const same: Spec = { op: 'MatMul', dims: [64, 33], data }
    const net = netOf([
      same,
      { ...same, data: data.slice() },
      { op: 'Gemm', dims: [64, 33], data: data.slice() },
      { op: 'MatMul', dims: [33, 64], data: data.slice() },
    ])
    net.graph.outputs = net.graph.outputs.filter((o) => o.name.startsWith('y'))
    const { model, report } = await compress(net, { steps: [{ step: 'dedupe' }] })
    expect([...model.initializers.keys()]).toEqual(['w0', 'w3'])
    expect(report.steps[0]!.layers.map((l) => [l.weight, l.action, l.reason])).toEqual([
      ['w1', 'shared', 'equal to w0'],
      ['w2', 'shared', 'equal to w0'],
    ])
    expect(report.after.bytes).toBeLessThan(report.before.bytes - 2 * 64 * 33 * 4)
    const specs = net.nodes.map((n, i): Spec => ({ op: n.opType, dims: i === 3 ? [33, 64] : [64, 33] }))
    expect(await runNet(model, specs)).toEqual(await runNet(net, specs))
  })

  test('a tensor that differs in its last value only is kept', async () => {
    const a = noise(8000)
    const b = a.slice()
    b[7999] = 5
    const net = netOf([
      { op: 'MatMul', dims: [80, 100], data: a },
      { op: 'MatMul', dims: [80, 100], data: b },
    ])
    net.graph.outputs = net.graph.outputs.filter((o) => o.name.startsWith('y'))
    const { model } = await compress(net, { steps: [{ step: 'dedupe' }] })
    expect([...model.initializers.keys()]).toEqual(['w0', 'w1'])
  })
})

describe('limits and evaluate', () => {
  const net = netOf([kSpecs[0]!, kSpecs[3]!])

  test('sizes are those of the files that are written', async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-'))
    try {
      const [a, b] = [path.join(folder, 'a.onnx'), path.join(folder, 'b.onnx')]
      await net.save(a)
      const { model, report } = await compress(a, 'int8-weights')
      await model.save(b)
      expect([report.model, report.before.bytes, report.after.bytes]).toEqual([
        'a',
        fs.statSync(a).size,
        fs.statSync(b).size,
      ])
      model.close()
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })

  test('each limit is judged by itself', async () => {
    const evaluate = (_: Model, { phase }: { phase: string }) =>
      phase === 'original' ? { accuracy: 0.9, latency: 10 } : { accuracy: 0.88, latency: 12 }
    const met = await compress(net, 'int8-weights', {
      evaluate,
      limits: { accuracyDrop: 0.02, bytes: 20000, latency: 12 },
    })
    expect(met.report.limits.map((l) => [l.name, l.met])).toEqual([
      ['accuracyDrop', true],
      ['bytes', true],
      ['latency', true],
    ])
    expect(met.report.before).toMatchObject({ accuracy: 0.9, latency: 10 })
    for (const [limits, parameter] of [
      [{ accuracyDrop: 0.019 }, 'limits.accuracyDrop'],
      [{ bytes: met.report.after.bytes - 1 }, 'limits.bytes'],
      [{ latency: 11.9 }, 'limits.latency'],
    ] as const)
      expect(await failure(() => compress(net, 'int8-weights', { evaluate, limits }))).toMatchObject({
        code: 'ERR_LIMIT',
        parameter,
      })
    const recipe: Recipe = { limits: { accuracyDrop: 0.01 }, steps: [{ step: 'quantize' }] }
    expect(await failure(() => compress(net, recipe, { evaluate }))).toMatchObject({ code: 'ERR_LIMIT' })
    await compress(net, recipe, { evaluate, limits: { accuracyDrop: 0.05 } })
  })

  test.each(['accuracyDrop', 'latency'])(
    'a limit on %s that nothing can measure is an error that names it',
    async (name) => {
      expect(await failure(() => compress(net, 'int8-weights', { limits: { [name]: 1 } }))).toMatchObject({
        code: 'ERR_RANGE',
        parameter: `limits.${name}`,
      })
    },
  )

  test('an answer of evaluate that is no number is refused', async () => {
    for (const answer of [NaN, 'good', null, undefined, { accuracy: '1' }, { latency: -1 }])
      expect(await failure(() => compress(net, 'int8-weights', { evaluate: () => answer as never }))).toMatchObject({
        code: 'ERR_RANGE',
        parameter: 'evaluate',
      })
    const onlyAccuracy = { evaluate: () => 0.9, limits: { latency: 5 } }
    expect((await failure(() => compress(net, 'int8-weights', onlyAccuracy))).message).toContain('a limit needs it')
  })

  test('what evaluate and onProgress throw comes through as it is', async () => {
    const mine = new TypeError('mine')
    const raise = (): never => {
      throw mine
    }
    expect(await failure(() => compress(net, 'int8-weights', { evaluate: raise }))).toBe(mine)
    expect(await failure(() => compress(net, 'int8-weights', { evaluate: () => Promise.reject(mine) }))).toBe(mine)
    expect(await failure(() => compress(net, 'int8-weights', { onProgress: raise }))).toBe(mine)
  })

  test('evaluate gets models of its own: what it does to them changes nothing', async () => {
    const plain = (await compress(net, 'int8-weights')).model.toBytes()
    const evaluate = (m: Model): number => {
      m.graph.setNodes([])
      m.graph.initializers.clear()
      return 1
    }
    expect(Buffer.compare((await compress(net, 'int8-weights', { evaluate })).model.toBytes(), plain)).toBe(0)
  })
})

describe('abort, progress and arguments', () => {
  const net = netOf(kSpecs)

  test('a signal that fired before, or fires at any event, ends the work with ERR_ABORTED', async () => {
    const events: Progress[] = []
    await compress(net, 'int8-weights', { onProgress: (p) => events.push(p) })
    expect(await failure(() => compress(net, 'int8-weights', { signal: AbortSignal.abort() }))).toMatchObject({
      code: 'ERR_ABORTED',
      parameter: 'signal',
    })
    for (let stop = 0; stop < events.length; stop++) {
      const controller = new AbortController()
      let seen = 0
      const run = compress(net, 'int8-weights', {
        signal: controller.signal,
        onProgress: () => {
          if (seen++ === stop) controller.abort(new Error('enough'))
        },
      })
      const error = await failure(() => run)
      expect(error).toMatchObject({ code: 'ERR_ABORTED', cause: { message: 'enough' } })
    }
  })

  test('progress names phases in order and never goes back', async () => {
    const events: Progress[] = []
    await compress(net, 'int8-weights', { onProgress: (p) => events.push(p), evaluate: () => 1 })
    const phases = events.map((e) => e.phase).filter((p, i, all) => p !== all[i - 1])
    expect(phases).toEqual(['load', 'evaluate', 'dedupe', 'quantize', 'evaluate'])
    events.forEach((e, i) => {
      expect(e.done).toBeLessThanOrEqual(e.total)
      if (events[i - 1]?.phase === e.phase) expect(e.done).toBeGreaterThanOrEqual(events[i - 1]!.done)
    })
    expect(events.filter((e) => e.phase === 'quantize').map((e) => e.detail)).toContain('conv0')
  })

  test.each([
    [undefined, 'ERR_DTYPE'],
    [7, 'ERR_DTYPE'],
    [null, 'ERR_DTYPE'],
    [{}, 'ERR_DTYPE'],
    ['/no/such/file.onnx', 'ERR_IO'],
    [new Uint8Array([1, 2, 3]), 'ERR_MODEL_FORMAT'],
  ])('%p is no model', async (input, code) => {
    expect(await failure(() => compress(input as never, 'int8-weights'))).toMatchObject({ name: 'WhittleError', code })
  })

  test.each([
    [{ evaluate: 1 }, 'options.evaluate'],
    [{ onProgress: 'x' }, 'options.onProgress'],
    [{ signal: {} }, 'options.signal'],
    [{ calibration: 5 }, 'options.calibration'],
    [{ limits: { bytes: -1 } }, 'limits.bytes'],
    [{ limit: {} }, 'options.limit'],
    [null, 'options'],
  ])('options %j are refused', async (options, parameter) => {
    expect(await failure(() => compress(net, 'int8-weights', options as never))).toMatchObject({
      name: 'WhittleError',
      parameter,
    })
  })
})
