import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import * as ort from 'onnxruntime-node'
import { attribute, compress, devices, Graph, Initializer, Model, Node, quantizeStatic, Session, ValueInfo, type Attribute, type Tensor } from '../lib'
import { noise } from './nets'

const { int, ints } = attribute
const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)
const floats = (dims: readonly number[], seed = 1): Tensor => ({ type: 'float32', dims, data: noise(size(dims), seed) })

/** [n, k, taps] weights of which blocks of r outputs x c inputs are kept with chance `keep`. */
function sparse(dims: readonly number[], r: number, c: number, keep: number, seed: number): Float32Array {
  const [n, k] = dims as [number, number]
  const taps = size(dims.slice(2))
  const values = noise(n * k * taps, seed)
  const chance = noise(n * k * taps, seed + 1)
  return values.map((v, i) => {
    const [o, j, t] = [Math.floor(i / (k * taps)), Math.floor(i / taps) % k, i % taps]
    const block = (Math.floor(o / r) * k + Math.floor(j / c)) * taps + t
    // The middle of a bell: about `keep` of the blocks lie within.
    return Math.abs(chance[block] as number) < keep * 0.75 ? v || 0.5 : 0
  })
}

type Step = readonly [op: string, inputs: readonly string[], outputs: readonly string[], attributes?: Record<string, Attribute>]

function net(inputs: Record<string, readonly (number | string)[]>, constants: Record<string, Tensor>, steps: readonly Step[], type = 'float32'): Model {
  const graph = new Graph('net')
  graph.inputs = Object.entries(inputs).map(([name, dims]) => new ValueInfo(name, 'float32', dims))
  for (const [name, t] of Object.entries(constants)) graph.addInitializer(Initializer.from(name, t))
  steps.forEach(([opType, from, to, attributes], i) => graph.addNode(new Node({ opType, name: `${opType}${i}`, inputs: from, outputs: to, ...(attributes && { attributes }) })))
  graph.outputs = [new ValueInfo('y', type as 'float32', null)]
  return new Model({ graph, opsets: [['', 17]], irVersion: 8 })
}

async function theirs(model: Model, feeds: Record<string, Tensor>): Promise<Tensor> {
  const session = await ort.InferenceSession.create(model.toBytes(), { logSeverityLevel: 3, graphOptimizationLevel: 'disabled', intraOpNumThreads: 1 })
  const given = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, new ort.Tensor('float32', t.data as Float32Array, t.dims)]))
  return (await session.run(given)).y as unknown as Tensor
}

function furthest(got: Tensor, want: Tensor): number {
  let most = 0
  let top = 1e-9
  for (let i = 0; i < want.data.length; i++) {
    most = Math.max(most, Math.abs(Number(got.data[i]) - Number(want.data[i])))
    top = Math.max(top, Math.abs(Number(want.data[i])))
  }
  return most / top
}

/** A tensor in few letters. */
function bits({ type, dims, data }: Tensor): string {
  const bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength)
  return `${type} ${dims.join(' ')} ${createHash('sha256').update(bytes).digest('hex')}`
}

/** Answers of every kernel that could compute `layer`, by name, with one thread and with two, which must agree. */
async function everyWay(model: Model, feeds: Record<string, Tensor>, layer: string, names: readonly string[]): Promise<Map<string, Tensor>> {
  const dims = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, t.dims]))
  const found = new Map<string, Tensor>()
  for (const name of names) {
    const [one, two] = await Promise.all([1, 2].map((threads) => Session.create(model, { threads, tune: { [layer]: name } })))
    expect((one as Session).plan(dims).choices[layer]).toBe(name)
    const y = (one as Session).runSync(feeds).y as Tensor
    expect(bits((await (two as Session).run(feeds)).y as Tensor)).toBe(bits(y))
    found.set(name, y)
    one?.dispose()
    two?.dispose()
  }
  return found
}

const kConv = (s: number, pads: readonly number[], more: Record<string, Attribute> = {}): Record<string, Attribute> => ({ strides: ints([s, s]), pads: ints(pads), ...more })

describe('float32 layers', () => {
  const w = (dims: readonly number[], r = 1, c = 1): Tensor => ({ type: 'float32', dims, data: sparse(dims, r, c, 0.2, size(dims) % 97) })
  const turned = (t: Tensor): Tensor => {
    const [n, k] = t.dims as [number, number]
    return { ...t, dims: [k, n], data: Float32Array.from({ length: n * k }, (_, i) => t.data[(i % n) * k + Math.floor(i / n)] as number) }
  }
  const b = (n: number): Tensor => floats([n], n)
  const cases: Record<string, [model: Model, feeds: Record<string, Tensor>, layer: string, names: readonly string[]]> = {
    'MatMul, bias, residual, Relu': [
      net({ x: ['b', 90], r: ['b', 70] }, { w: turned(w([70, 90])), b: b(70) }, [
        ['MatMul', ['x', 'w'], ['p']], ['Add', ['p', 'b'], ['q']], ['Add', ['r', 'q'], ['s']], ['Relu', ['s'], ['y']],
      ]), // prettier-ignore
      { x: floats([131, 90], 2), r: floats([131, 70], 3) }, 'p', ['dense', 'csr'],
    ], // prettier-ignore
    'MatMul of one row with a residual': [
      net({ x: ['b', 90], r: ['b', 70] }, { w: turned(w([70, 90], 4)), b: b(70) }, [
        ['MatMul', ['x', 'w'], ['p']], ['Add', ['p', 'b'], ['q']], ['Add', ['r', 'q'], ['y']],
      ]), // prettier-ignore
      { x: floats([1, 90], 2), r: floats([1, 70], 3) }, 'p', ['dense', 'csr', '4x1'],
    ], // prettier-ignore
    'Gemm with transB and scales, three rows': [
      net({ x: [3, 96] }, { w: w([64, 96], 4), b: b(64) }, [['Gemm', ['x', 'w', 'b'], ['y'], { transB: int(1), alpha: attribute.float(0.5), beta: attribute.float(2) }]]),
      { x: floats([3, 96], 2) }, 'y', ['dense', 'csr', '4x1'],
    ], // prettier-ignore
    'blocks of columns': [
      net({ x: [2, 50, 96] }, { w: turned(w([64, 96], 1, 16)) }, [['MatMul', ['x', 'w'], ['p']], ['Gelu', ['p'], ['y']]].map(([op, i, o]) => [op === 'Gelu' ? 'Tanh' : op, i, o] as Step)),
      { x: floats([2, 50, 96], 2) }, 'p', ['dense', 'csr', '1x4', '1x16'],
    ], // prettier-ignore
    'blocks of rows': [
      net({ x: [130, 60] }, { w: turned(w([64, 60], 16)) }, [['MatMul', ['x', 'w'], ['y']]]),
      { x: floats([130, 60], 2) }, 'y', ['dense', 'csr', '4x1', '8x1', '16x1'],
    ], // prettier-ignore
    'Conv 1x1 of a batch': [
      net({ x: [2, 40, 9, 11], r: [2, 33, 9, 11] }, { w: w([33, 40, 1, 1]), b: b(33) }, [
        ['Conv', ['x', 'w', 'b'], ['c']], ['Add', ['c', 'r'], ['s']], ['HardSwish', ['s'], ['y']],
      ]), // prettier-ignore
      { x: floats([2, 40, 9, 11], 2), r: floats([2, 33, 9, 11], 3) }, 'c', ['dense', 'csr'],
    ], // prettier-ignore
    'Conv 3x3 with padding': [
      net({ x: [1, 24, 17, 13] }, { w: w([20, 24, 3, 3]), b: b(20) }, [['Conv', ['x', 'w', 'b'], ['c'], kConv(1, [1, 1, 1, 1])], ['Relu', ['c'], ['y']]]),
      { x: floats([1, 24, 17, 13], 2) }, 'c', ['dense', 'rows', 'csr'],
    ], // prettier-ignore
    'Conv 5x3 of a batch, strides and uneven padding, two output pixels': [
      net({ x: [2, 24, 5, 4] }, { w: w([20, 24, 5, 3], 4), b: b(20) }, [['Conv', ['x', 'w', 'b'], ['y'], kConv(2, [0, 0, 1, 0])]]),
      { x: floats([2, 24, 5, 4], 2) }, 'y', ['dense', 'rows', 'csr', '4x1'],
    ], // prettier-ignore
    'Conv 3x3, dilated, as many pixels as fill the cache many times': [
      net({ x: [1, 16, 50, 50] }, { w: w([24, 16, 3, 3], 8), b: b(24) }, [['Conv', ['x', 'w', 'b'], ['y'], kConv(1, [2, 2, 2, 2], { dilations: ints([2, 2]) })]]),
      { x: floats([1, 16, 50, 50], 2) }, 'y', ['dense', 'csr', '4x1', '8x1'],
    ], // prettier-ignore
    'Conv of two dimensions in all, one pixel': [
      net({ x: [1, 64, 3, 3] }, { w: w([32, 64, 3, 3]), b: b(32) }, [['Conv', ['x', 'w', 'b'], ['y'], kConv(1, [0, 0, 0, 0])]]),
      { x: floats([1, 64, 3, 3], 2) }, 'y', ['dense', 'rows', 'csr'],
    ], // prettier-ignore
  }
  test.each(Object.entries(cases))('%s: every kernel agrees with onnxruntime', async (_, [model, feeds, layer, names]) => {
    const plain = model.clone()
    // onnxruntime 1.30 knows these from opset 14 on, and so do we.
    const want = await theirs(plain, feeds)
    for (const [name, y] of await everyWay(model, feeds, layer, names)) {
      expect(y.dims).toEqual([...want.dims])
      expect([name, furthest(y, want) < 2e-6]).toEqual([name, true])
    }
  })

  test('NaN and infinities of activations reach the result, those of weights leave a layer dense', async () => {
    const weights = w([40, 40])
    const model = net({ x: [20, 40] }, { w: turned(weights) }, [['MatMul', ['x', 'w'], ['y']]])
    const x = floats([20, 40], 4)
    x.data[7 * 40 + 3] = NaN
    const y = (await everyWay(model, { x }, 'y', ['csr'])).get('csr')?.data as Float32Array
    const touched = Array.from({ length: 40 }, (_, o) => weights.data[o * 40 + 3] !== 0)
    expect(touched.filter(Boolean).length).toBeGreaterThan(2)
    expect(Array.from(y.subarray(280, 320), Number.isNaN)).toEqual(touched)
    expect(y.subarray(0, 280).some(Number.isNaN)).toBe(false)
    weights.data[5] = Infinity
    const bad = net({ x: [20, 40] }, { w: turned(weights) }, [['MatMul', ['x', 'w'], ['y']]])
    await expect(Session.create(bad, { tune: { y: 'csr' } })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'options.tune.y' })
    expect((await Session.create(bad)).plan({ x: [20, 40] }).choices).toEqual({})
  })

  test('weights that are mostly zero take less memory, and two shapes share them', async () => {
    const model = net({ x: ['b', 256] }, { w: turned({ type: 'float32', dims: [256, 256], data: sparse([256, 256], 1, 1, 0.1, 5) }) }, [['MatMul', ['x', 'w'], ['y']]])
    const one = await Session.create(model, { tune: { y: 'csr' } })
    const bytes = one.plan({ x: [200, 256] }).weightBytes
    expect(bytes).toBeLessThan((256 * 256 * 4) / 4)
    expect(one.plan({ x: [300, 256] }).weightBytes).toBe(bytes)
  })
})

/** Codes in and out: x, weights [n, k, …], scales for each output. */
function coded(op: 'Conv' | 'MatMul', x: readonly number[], dims: readonly number[], block: readonly [number, number], type: 'int8' | 'uint8', attributes: Record<string, Attribute> = {}): Model {
  const [n, k] = dims as [number, number]
  let w = Int8Array.from(sparse(dims, block[0], block[1], 0.2, 11), (v) => (v === 0 ? 0 : Math.round(v * 127) || 1))
  if (op === 'MatMul') w = Int8Array.from({ length: n * k }, (_, i) => w[(i % n) * k + Math.floor(i / n)] as number)
  const graph = new Graph('net')
  const add = (opType: string, inputs: string[], output: string, more: Record<string, Attribute> = {}) => graph.addNode(new Node({ opType, name: `/${output}`, inputs, outputs: [output], attributes: more }))
  const put = (name: string, t: Tensor) => graph.addInitializer(Initializer.from(name, t))
  graph.inputs = [new ValueInfo('x', 'float32', x)]
  put('w', { type: 'int8', dims: op === 'MatMul' ? [k, n] : dims, data: w })
  put('ws', { type: 'float32', dims: [n], data: noise(n, 3).map((v) => 0.01 + Math.abs(v) / 50) })
  put('wz', { type: 'int8', dims: [n], data: new Int8Array(n) })
  put('s', { type: 'float32', dims: [], data: Float32Array.of(0.01) })
  put('z', { type, dims: [], data: type === 'int8' ? Int8Array.of(3) : Uint8Array.of(131) } as Tensor)
  put('t', { type: 'float32', dims: [], data: Float32Array.of(0.013) })
  put('b', { type: 'float32', dims: [n], data: noise(n, 9) })
  add('QuantizeLinear', ['x', 's', 'z'], 'xq')
  add('DequantizeLinear', ['xq', 's', 'z'], 'xd')
  add('DequantizeLinear', ['w', 'ws', 'wz'], 'wd', { axis: int(op === 'MatMul' ? 1 : 0) })
  add(op, op === 'Conv' ? ['xd', 'wd', 'b'] : ['xd', 'wd'], 'p', attributes)
  add('Relu', ['p'], 'r')
  add('QuantizeLinear', ['r', 't', 'z'], 'y')
  graph.outputs = [new ValueInfo('y', type, null)]
  return new Model({ graph, opsets: [['', 17]], irVersion: 8 })
}

const kCoded: readonly (readonly [model: () => Model, x: readonly number[], names: readonly string[]])[] = [
  [() => coded('MatMul', [70, 64], [48, 64], [1, 4], 'uint8'), [70, 64], ['dense', 'csr', '1x4']],
  [() => coded('MatMul', [1, 64], [48, 64], [4, 1], 'int8'), [1, 64], ['dense', 'csr', '4x1']],
  [() => coded('MatMul', [2, 33, 128], [64, 128], [32, 32], 'uint8'), [2, 33, 128], ['dense', 'csr', '1x4', '1x16', '4x1', '8x1', '16x1', '32x32']],
  [() => coded('Conv', [2, 40, 9, 7], [24, 40, 1, 1], [8, 1], 'int8'), [2, 40, 9, 7], ['dense', 'csr', '4x1', '8x1']],
  [() => coded('Conv', [1, 32, 11, 9], [24, 32, 3, 3], [1, 4], 'uint8', kConv(1, [1, 1, 1, 1])), [1, 32, 11, 9], ['dense', 'csr', '1x4']],
  [() => coded('Conv', [2, 32, 31, 33], [32, 32, 3, 3], [16, 1], 'int8', kConv(2, [1, 1, 1, 1])), [2, 32, 31, 33], ['dense', 'csr', '4x1', '8x1', '16x1']],
  [() => coded('Conv', [1, 32, 3, 3], [24, 32, 3, 3], [1, 4], 'uint8'), [1, 32, 3, 3], ['dense', 'csr', '1x4']],
  [() => coded('Conv', [1, 16, 60, 60], [24, 16, 3, 3], [1, 4], 'uint8', kConv(1, [1, 1, 1, 1])), [1, 16, 60, 60], ['dense', '1x4']],
]

describe('int8 layers', () => {
  test.each(kCoded)('every kernel gives the dense one’s bits (%#)', async (make, dims, names) => {
    const found = await everyWay(make(), { x: floats(dims, 5) }, 'p', names)
    const want = found.get('dense') as Tensor
    expect(new Set(want.data as Uint8Array).size).toBeGreaterThan(8)
    for (const name of names) expect([name, bits(found.get(name) as Tensor)]).toEqual([name, bits(want)])
  })

  test('two of four, and dynamic codes', async () => {
    const k = 64
    const n = 48
    const w = Int8Array.from(noise(k * n, 3), (v, i) => (Math.floor(i / n) % 4 < 2 ? Math.round(v * 100) || 1 : 0))
    const make = (rows: number, scaled: boolean): Model => {
      const graph = new Graph('net')
      graph.inputs = [new ValueInfo('x', 'float32', [rows, k])]
      graph.addInitializer(Initializer.from('w', { type: 'int8', dims: [k, n], data: w }))
      graph.addInitializer(Initializer.from('wz', { type: 'int8', dims: [], data: new Int8Array(1) }))
      graph.addNode(new Node({ opType: 'DynamicQuantizeLinear', inputs: ['x'], outputs: ['q', 's', 'z'] }))
      graph.addNode(new Node({ opType: 'MatMulInteger', inputs: ['q', 'w', 'z', 'wz'], outputs: ['p'] }))
      if (scaled) {
        // What quantizers write behind it, which becomes one step with the product.
        graph.addInitializer(Initializer.from('ws', { type: 'float32', dims: [n], data: noise(n, 8).map((v) => 0.02 + v / 99) }))
        graph.addInitializer(Initializer.from('b', { type: 'float32', dims: [n], data: noise(n, 7) }))
        graph.addNode(new Node({ opType: 'Cast', inputs: ['p'], outputs: ['f'], attributes: { to: int(1) } }))
        graph.addNode(new Node({ opType: 'Mul', inputs: ['s', 'ws'], outputs: ['t'] }))
        graph.addNode(new Node({ opType: 'Mul', inputs: ['f', 't'], outputs: ['m'] }))
        graph.addNode(new Node({ opType: 'Add', inputs: ['m', 'b'], outputs: ['y'] }))
      } else graph.addNode(new Node({ opType: 'Identity', inputs: ['p'], outputs: ['y'] }))
      graph.outputs = [new ValueInfo('y', scaled ? 'float32' : 'int32', null)]
      return new Model({ graph, opsets: [['', 17]], irVersion: 8 })
    }
    for (const [rows, scaled] of [[1, false], [70, false], [70, true]] as const) {
      const found = await everyWay(make(rows, scaled), { x: floats([rows, k], 5) }, 'p', ['dense', 'csr', '2:4'])
      for (const [name, y] of found) expect([name, bits(y)]).toEqual([name, bits(found.get('dense') as Tensor)])
    }
  })

  test('the same bits on every tier, whatever is chosen', () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-sparse-'))
    try {
      const files = kCoded.map(([make, dims, names], i) => {
        const file = path.join(folder, `${i}.onnx`)
        fs.writeFileSync(file, make().toBytes())
        return [file, dims, names]
      })
      const script = `
        const { Session, devices } = require('./dist')
        const data = new Float32Array(1 << 20).map((_, i) => Math.sin(i * 0.7) * 1.1)
        ;(async () => {
          const out = []
          for (const [file, dims, names] of JSON.parse(require('fs').readFileSync(0, 'utf8'))) for (const name of names) {
            const s = await Session.create(file, { tune: { p: name } })
            const y = s.runSync({ x: { type: 'float32', dims, data: data.slice(0, dims.reduce((a, b) => a * b, 1)) } }).y
            out.push(file.slice(-6) + require('crypto').createHash('sha256').update(y.data).digest('hex'))
          }
          console.log(JSON.stringify([devices().cpu.variant, out.filter((v, i) => out.indexOf(v) === i)]))
        })()`
      const found = devices().cpu.tiers.filter((one) => one.supported).map((tier) => {
        const r = spawnSync(process.execPath, ['-e', script], { cwd: path.join(__dirname, '..'), input: JSON.stringify(files), encoding: 'utf8', env: { ...process.env, WHITTLE_CPU: tier.name } })
        expect(r.stderr).toBe('')
        return JSON.parse(r.stdout) as [variant: string, answers: string[]]
      })
      expect(found.some(([variant]) => variant === 'scalar')).toBe(true)
      for (const [, answers] of found) expect(answers).toEqual(found[0]?.[1])
      // One answer a model, whichever kernel.
      expect(found[0]?.[1]).toHaveLength(kCoded.length)
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })
})

test('a convolution net pruned by blocks of input channels and then quantized keeps its zeros, and runs on them', async () => {
  const w = (dims: readonly number[], seed: number): Tensor => ({ type: 'float32', dims, data: noise(size(dims), seed) })
  const dense = net({ x: [1, 16, 20, 20] }, { v: w([64, 16, 3, 3], 3), w: w([64, 64, 3, 3], 4), u: w([32, 64, 1, 1], 5) }, [
    ['Conv', ['x', 'v'], ['a'], kConv(1, [1, 1, 1, 1])],
    ['Relu', ['a'], ['b']],
    ['Conv', ['b', 'w'], ['c'], kConv(1, [1, 1, 1, 1])],
    ['Relu', ['c'], ['d']],
    ['Conv', ['d', 'u'], ['y']],
  ])
  const x = floats([1, 16, 20, 20], 8)
  const { model } = await compress(dense, { steps: [{ step: 'prune', pattern: { block: [1, 4] }, along: 'inputs', sparsity: 0.85 }] })
  const int8 = await quantizeStatic(model, [{ x }])
  // Layers are named by their results.
  const name = int8.graph.nodes.filter((n) => n.is('Conv'))[1]?.outputs[0] as string
  const session = await Session.create(int8, { tune: { [name]: '1x4' } })
  const { weightBytes, choices } = session.plan({ x: x.dims })
  expect(choices[name]).toBe('1x4')
  expect(Object.keys(choices)).toHaveLength(3)
  const plain = await Session.create(int8, { tune: Object.fromEntries(Object.keys(choices).map((layer) => [layer, 'dense'])) })
  expect(weightBytes).toBeLessThan(plain.plan({ x: x.dims }).weightBytes)
  const y = session.runSync({ x }).y as Tensor
  expect(bits(plain.runSync({ x }).y as Tensor)).toBe(bits(y))
  expect(furthest(y, await theirs(int8, { x }))).toBeLessThan(0.02)
})
