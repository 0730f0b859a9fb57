import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { compress, Session, type Model, type Tensor } from '../lib'
import { agree, agreeWith, attribute, expectSame, floats, graph, ints, modelOf, sizeOf, theirs, type Step, type Values } from './graphs'
import { noise } from './nets'

const { int } = attribute

/** onnxruntime's optimizer would quantize activations too. */
const kAsWritten = { graphOptimizationLevel: 'disabled' } as const

/** Random codes of a type; two to a byte where it has 4 bits. */
function codes(type: 'int8' | 'uint8' | 'int4' | 'uint4', dims: readonly number[], seed: number): Tensor {
  const n = type.endsWith('4') ? Math.ceil(sizeOf(dims) / 2) : sizeOf(dims)
  const bytes = Uint8Array.from(noise(n, seed), (v) => Math.floor((v + 1) * 128) & 255)
  return { type, dims, data: type === 'int8' ? new Int8Array(bytes.buffer) : bytes }
}

const scales = (dims: readonly number[], seed: number): Tensor => ({ type: 'float32', dims, data: noise(sizeOf(dims), seed).map((v) => 0.01 + 0.005 * v) })

const ops = async (model: Model, feeds: Values): Promise<readonly string[]> => {
  const session = await Session.create(model)
  const found = session.plan(Object.fromEntries(Object.entries(feeds).map(([k, t]) => [k, t]))).steps.map((s) => s.op)
  session.dispose()
  return found
}

/** [bits, block, K, N, zero points] */
const blocks: readonly (readonly [bits: 4 | 8, block: number, k: number, n: number, zeros: boolean])[] = [
  [4, 32, 96, 40, false],
  [4, 16, 70, 33, true],
  [8, 32, 96, 40, false],
  [8, 64, 100, 17, true],
]

test.each(blocks)('MatMulNBits of %i bits in blocks of %i runs on packed kernels', async (bits, block, k, n, zeros) => {
  const count = Math.ceil(k / block)
  const constants: Record<string, Tensor> = {
    w: codes('uint8', [n, count, (block * bits) / 8], 1),
    s: scales([n * count], 2),
    b: floats([n], 3),
    ...(zeros && { z: codes('uint8', [n * Math.ceil((count * bits) / 8)], 4) }),
  }
  const attributes = { K: int(k), N: int(n), bits: int(bits), block_size: int(block) }
  const steps: Step[] = [
    ['com.microsoft:MatMulNBits', ['x', 'w', 's', ...(zeros ? ['z'] : [])], ['t'], attributes],
    ['Add', ['t', 'b'], ['u']],
    ['Relu', ['u'], ['y']],
  ]
  const model = modelOf(graph([['x', 'float32', ['r', 'm', k]]], constants, steps, ['y']))
  const feeds = { x: floats([2, 3, k], 5) }
  await agree(model, feeds, { x: floats([1, 1, k], 6) }, { x: floats([2, 40, k], 7) })
  expect(await ops(model, feeds)).toEqual(['gemm_weight'])
})

/** [type, dims of the codes, axis, block size or 0 for none, dims of the scales, zero points, op] */
type Form = readonly [type: 'int8' | 'uint8' | 'int4' | 'uint4', dims: readonly number[], axis: number, block: number, list: readonly number[], zeros: boolean, op: string]
const forms: Record<string, Form> = {
  'int8, one scale': ['int8', [48, 24], 0, 0, [], true, 'MatMul'],
  'int8, a scale a column': ['int8', [48, 24], 1, 0, [24], false, 'MatMul'],
  'uint8, a scale a column': ['uint8', [48, 24], -1, 0, [24], true, 'MatMul'],
  'uint8 without zero points': ['uint8', [48, 24], 1, 0, [24], false, 'MatMul'],
  'int4 in blocks': ['int4', [64, 24], 0, 16, [4, 24], false, 'MatMul'],
  'uint4 in blocks': ['uint4', [64, 24], 0, 32, [2, 24], true, 'MatMul'],
  'int8, a row of Gemm': ['int8', [24, 48], 0, 0, [24], false, 'Gemm'],
  'int4 in blocks of rows of Gemm': ['int4', [24, 64], 1, 16, [24, 4], true, 'Gemm'],
  'uint8 transposed': ['uint8', [24, 48], 0, 0, [24], true, 'Transpose'],
}

test.each(Object.entries(forms))('a weight-only %s runs on packed kernels', async (_, [type, dims, axis, block, list, zeros, op]) => {
  const constants = { q: codes(type, dims, 1), s: scales(list, 2), ...(zeros && { z: codes(type, list, 3) }), c: floats([24], 4) }
  const dequantize: Step = ['DequantizeLinear', ['q', 's', ...(zeros ? ['z'] : [])], ['w'], { axis: int(axis), ...(block && { block_size: int(block) }) }]
  const product: readonly Step[] =
    op === 'Gemm'
      ? [['Gemm', ['x', 'w', 'c'], ['t'], { transB: int(1) }]]
      : op === 'Transpose'
        ? [['Transpose', ['w'], ['v'], { perm: attribute.ints([1, 0]) }], ['MatMul', ['x', 'v'], ['t']]]
        : [['MatMul', ['x', 'w'], ['t']]]
  const k = op === 'MatMul' ? (dims[0] as number) : (dims[1] as number)
  const model = modelOf(graph([['x', 'float32', ['m', k]]], constants, [dequantize, ...product, ['Mul', ['t', 'c'], ['u']], ['Sigmoid', ['u'], ['y']]], ['y']), 21)
  await agreeWith(kAsWritten, model, { x: floats([5, k], 5) }, { x: floats([1, k], 6) }, { x: floats([90, k], 7) })
  expect(await ops(model, { x: floats([5, k], 5) })).toEqual(['gemm_weight'])
})

test('sums of weight-only products keep the bound that core/gemm_weight.h states', async () => {
  const [m, k, n, block] = [3, 256, 24, 32]
  const q = codes('uint4', [k, n], 1)
  const [s, z, x] = [scales([k / block, n], 2), codes('uint4', [k / block, n], 3), floats([m, k], 4)]
  const step: Step = ['DequantizeLinear', ['q', 's', 'z'], ['w'], { axis: int(0), block_size: int(block) }]
  const model = modelOf(graph([['x', 'float32', [m, k]]], { q, s, z }, [step, ['MatMul', ['x', 'w'], ['y']]], ['y']), 21)
  const session = await Session.create(model)
  const got = session.runSync({ x }).y?.data as Float32Array
  const nibble = (t: Tensor, i: number): number => ((t.data[i >> 1] as number) >> ((i & 1) * 4)) & 15
  const u = 2 ** -24
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let [sum, size, spread] = [0, 0, 0]
      for (let p = 0; p < k; p++) {
        const b = Math.floor(p / block) * n + j
        const [scale, zero, a] = [s.data[b] as number, nibble(z, b), x.data[i * k + p] as number]
        const code = nibble(q, p * n + j)
        const top = Math.max(...(x.data.subarray(i * k + p - (p % 32), i * k + p - (p % 32) + 32) as Float32Array).map(Math.abs))
        sum += a * scale * (code - zero)
        size += Math.abs(a) * scale * (Math.abs(code - 8) + Math.abs(8 - zero))
        spread += top * scale * (Math.abs(code - 8) + Math.abs(8 - zero))
      }
      const bound = (((k + 8) * u) / (1 - (k + 8) * u)) * size + 2 * u * spread
      expect(Math.abs((got[i * n + j] as number) - sum)).toBeLessThanOrEqual(bound)
    }
})

const tables: Record<string, Form> = {
  'int8 rows': ['int8', [50, 24], 0, 0, [50], false, ''],
  'uint8 rows with zero points': ['uint8', [50, 24], 0, 0, [50], true, ''],
  'int8 columns': ['int8', [50, 24], 1, 0, [24], true, ''],
  'one scale': ['uint8', [50, 24], 0, 0, [], true, ''],
  'int4 in blocks of a row': ['int4', [50, 40], 1, 16, [50, 3], true, ''],
  'uint4 in blocks of rows': ['uint4', [50, 24], 0, 16, [4, 24], true, ''],
}

test.each(Object.entries(tables))('a table of %s makes only the rows floats that are asked for', async (_, [type, dims, axis, block, list, zeros]) => {
  const constants = { q: codes(type, dims, 1), s: scales(list, 2), ...(zeros && { z: codes(type, list, 3) }) }
  const model = modelOf(
    graph(
      [['i', 'int64', ['n', 3]]],
      constants,
      [
        ['DequantizeLinear', ['q', 's', ...(zeros ? ['z'] : [])], ['w'], { axis: int(axis), ...(block && { block_size: int(block) }) }],
        ['Gather', ['w', 'i'], ['y']],
      ],
      ['y'],
    ),
    21,
  )
  const i: Tensor = { type: 'int64', dims: [2, 3], data: BigInt64Array.of(0n, 49n, -1n, 17n, 18n, -50n) }
  await agree(model, { i })
  expect(await ops(model, { i })).toEqual(['gather_codes'])
  const session = await Session.create(model)
  expect(() => session.runSync({ i: { ...i, data: BigInt64Array.of(0n, 50n, 0n, 0n, 0n, 0n) } })).toThrow(expect.objectContaining({ name: 'WhittleError' }))
})

test('GatherBlockQuantized and the names of onnxruntime are understood', async () => {
  const constants = { q: codes('uint8', [50, 16], 1), s: scales([50, 2], 2), z: codes('uint8', [50, 1], 3) }
  for (const zeros of [[], ['z']]) {
    const model = modelOf(
      graph(
        [['i', 'int64', ['n']]],
        constants,
        [['com.microsoft:GatherBlockQuantized', ['q', 'i', 's', ...zeros], ['y'], { block_size: int(16), gather_axis: int(0), quantize_axis: int(1), bits: int(4) }]],
        ['y'],
      ),
      21,
    )
    await agree(model, { i: ints(3, 0, 49) })
    expect(await ops(model, { i: ints(3, 0, 49) })).toEqual(['gather_codes'])
  }
})

test('a loop takes codes from outside', async () => {
  const body = graph(
    [['t', 'int64', []], ['go', 'bool', []], ['v', 'float32', [2, 16]]],
    {},
    [['MatMul', ['v', 'w'], ['m']], ['Tanh', ['m'], ['next']], ['Identity', ['go'], ['again']]],
    [['again', 'bool', []], ['next', 'float32', [2, 16]]],
  )
  const model = modelOf(
    graph(
      [['x', 'float32', [2, 16]]],
      { q: codes('int8', [16, 16], 1), s: scales([16], 2), n: { type: 'int64', dims: [], data: BigInt64Array.of(3n) }, yes: { type: 'bool', dims: [], data: Uint8Array.of(1) } },
      [
        ['DequantizeLinear', ['q', 's'], ['w'], { axis: int(1) }],
        ['Loop', ['n', 'yes', 'x'], ['y'], { body: attribute.graph(body) }],
      ],
      ['y'],
    ),
  )
  await agreeWith(kAsWritten, model, { x: floats([2, 16], 3) })
})

test('bad MatMulNBits are errors that name the node', async () => {
  const make = (more: Record<string, ReturnType<typeof int>>, w = [8, 2, 16]): Model =>
    modelOf(
      graph([['x', 'float32', [1, 64]]], { w: codes('uint8', w, 1), s: scales([16], 2) }, [['com.microsoft:MatMulNBits', ['x', 'w', 's'], ['y'], { K: int(64), N: int(8), bits: int(4), block_size: int(32), ...more }]], ['y']),
    )
  await expect(Session.create(make({}))).resolves.toBeInstanceOf(Session)
  for (const model of [make({ bits: int(3) }), make({ K: int(63) }), make({ N: int(9) }), make({ block_size: int(16) }), make({}, [8, 1, 16])])
    await expect(Session.create(model)).rejects.toMatchObject({ name: 'WhittleError', parameter: 'MatMulNBits0' })
})

/** An embedding, a projection and a head, with weights that compress takes. */
function encoder(): Model {
  const constants = { e: floats([200, 64], 1), w: floats([64, 96], 2), b: floats([96], 3), h: floats([96, 40], 4), k: floats([8, 1, 3, 3], 5) }
  const steps: Step[] = [
    ['Gather', ['e', 'i'], ['a']],
    ['MatMul', ['a', 'w'], ['c']],
    ['Add', ['c', 'b'], ['d']],
    ['Gelu', ['d'], ['f']],
    ['MatMul', ['f', 'h'], ['g']],
    ['Unsqueeze', ['g', 'one'], ['u']],
    ['Conv', ['u', 'k'], ['y'], { pads: attribute.ints([1, 1, 1, 1]) }],
  ]
  return modelOf(graph([['i', 'int64', [2, 7]]], { ...constants, one: ints(1) }, steps, ['y']), 20)
}

const written: readonly (readonly [name: string, recipe: Parameters<typeof compress>[1], gather: string])[] = [
  ['int8-weights', 'int8-weights', 'gather_codes'],
  ['int4-weights', 'int4-weights', 'gather_codes'],
  ['int8 in blocks', { steps: [{ step: 'quantize', bits: 8, blockSize: 16 }] }, 'gather_codes'],
  ['int8 as DequantizeLinear', { steps: [{ step: 'quantize', bits: 8, storage: 'qdq' }] }, 'gather_codes'],
  ['int4 as DequantizeLinear', { steps: [{ step: 'quantize', bits: 4, storage: 'qdq', blockSize: 32 }] }, 'gather_codes'],
]

test.each(written)('what compress writes runs on packed kernels: %s', async (_, recipe, gather) => {
  const { model } = await compress(encoder(), recipe)
  const i: Tensor = { type: 'int64', dims: [2, 7], data: BigInt64Array.from({ length: 14 }, (__, k) => BigInt((k * 37) % 200)) }
  const found = await ops(model, { i })
  expect(found.filter((o) => o !== 'copy')).toEqual([gather, 'gemm_weight', 'gemm_weight', 'conv_planes'])
  const session = await Session.create(model)
  expectSame((await session.run({ i })).y, (await theirs(model, { i }, kAsWritten)).y)
  // Every value has its name still, and the same content.
  const middle = await session.run({ i }, { fetch: ['w', 'y'] })
  expect(middle['w']?.dims).toEqual([64, 96])
})

test('a weight-only model never holds its weights as floats', () => {
  const child = spawnSync(process.execPath, ['--expose-gc', path.join(__dirname, 'children/weights.cjs')], { encoding: 'utf8' })
  expect(child.stderr).toBe('')
  const { codeBytes, floatBytes, weightBytes, created, ran } = JSON.parse(child.stdout) as Record<string, number>
  expect(weightBytes).toBeLessThan(1.2 * codeBytes!)
  // The file, its packed form, and what V8 has of its own: less than the floats alone would take.
  expect(Math.max(created!, ran!)).toBeLessThan(0.8 * floatBytes!)
})
