import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Model } from '../lib/model'
import {
  attribute, blob, cat, external, fixed32, fixed64, floats, graph, group, int, int64s, kType, message, model, node,
  packed, raw, tensor, value, varint, type Part,
} from './oracle/proto'

let folder: string
beforeEach(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-onnx-'))))
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }))

const equal = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0
const code = (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'no error',
    (e: { code?: string; name?: string }) => (e.name === 'WhittleError' ? String(e.code) : `not ours: ${String(e)}`),
  )

/** A model that uses every message and every kind of field, in unusual places, with unknown fields on every level. */
function everything(change: Record<string, Part | string> = {}): Part {
  const pick = (key: string, standard: Part): Part => (change[key] as Part | undefined) ?? standard
  const unknown = cat(int(500, 7), fixed32(501, 1), fixed64(502, 2), blob(503, 'kept'), group(504, int(1, 1), group(2, int(3, 4))))
  const inner = graph({
    nodes: [node('Constant', [], ['c'], { value: { tensor: floats('', [], [2]) } }), node('Add', ['y', 'c'], ['sum'])],
    outputs: [value('sum')],
    name: 'then',
  })
  const other = cat(graph({ nodes: [node('Identity', ['y'], ['same'])], outputs: [value('same')], name: 'else' }), unknown)
  const weight = cat(
    unknown, blob(12, 'doc'), pick('dims', int(1, 2)), pick('type', int(2, kType.float)), message(16, blob(1, 'k'), blob(2, 'v')),
    pick('data', blob(9, raw(Float32Array.of(1, 2)))), blob(8, 'w'), int(505, 1),
  )
  const first = cat(
    blob(4, 'Mul'), unknown, blob(2, 'y'), blob(1, 'x'), blob(6, 'doc of the node'), blob(1, 'w'),
    pick('attribute', new Uint8Array(0)), pick('name', blob(3, 'first')), message(9, blob(1, 'k'), blob(2, 'v')),
  )
  const many = cat(
    blob(4, 'Custom'), blob(7, 'my.domain'), blob(1, 'y'), blob(1, ''), blob(2, 'z'), blob(8, 'overload'),
    ...[
      cat(blob(1, 'f'), fixed32(2, NaN), int(20, 1)), cat(blob(1, 'i'), int(3, -1), int(20, 2)),
      cat(blob(1, 's'), blob(4, Uint8Array.of(255, 254)), int(20, 3)), attribute('t', { tensor: int64s('t', [1], [5]) }),
      cat(blob(1, 'fs'), blob(7, raw(Float32Array.of(1, 2))), fixed32(7, 3), int(20, 6)),
      cat(blob(1, 'is'), packed(8, [1, -2, 2n ** 63n - 1n]), int(8, 4), int(20, 7)),
      cat(blob(1, 'ss'), blob(9, 'a'), blob(9, 'b'), int(20, 8)), cat(blob(1, 'ts'), blob(10, floats('q', [1], [1])), int(20, 9)),
      cat(blob(1, 'gs'), blob(11, inner), int(20, 10)), cat(blob(1, 'tp'), message(14, message(1, int(1, 1))), int(20, 13)),
      cat(blob(1, 'sp'), message(22, blob(1, floats('sv', [1], [1])), blob(2, int64s('si', [1], [0])), int(3, 4)), int(20, 11)),
      cat(unknown, blob(1, 'old'), int(3, 300)),
    ].map((a) => blob(5, a)),
  )
  const branch = node('If', ['flag'], ['out'], { then_branch: { graph: inner }, else_branch: { graph: other } }, 'branch')
  const g = cat(
    blob(12, value('out')), message(14, blob(1, 'w'), message(2, blob(1, 'SCALE'), blob(2, 's'))), blob(5, weight), blob(1, first), unknown,
    blob(2, 'main'), blob(1, many), blob(10, 'doc of the graph'), pick('between', new Uint8Array(0)), blob(1, branch),
    blob(11, cat(value('x', kType.float, ['n', 2, null]), blob(3, 'doc'))), blob(11, value('flag', kType.bool, [])),
    blob(5, tensor({ name: 'strings', type: kType.string, dims: [2], data: [blob(6, 'a'), blob(6, Uint8Array.of(255))] })),
    blob(5, tensor({ name: 'later', type: 99, dims: [3], data: [blob(9, 'abcdef')] })),
    message(15, blob(1, floats('sparse', [1], [3])), blob(2, int64s('', [1], [2])), int(3, 9)),
    blob(13, value('y', kType.float, [2])), blob(13, value('y', kType.float, ['twice'])),
    message(13, blob(1, 'seq'), message(2, message(4, message(1, message(1, int(1, 1)))))),
    message(16, blob(1, 'a'), blob(2, 'b')),
  )
  // The length of the graph in more bytes than it needs, as some writers leave it.
  const length = varint(g.length)
  const padded = cat(length.map((b) => b | 128), Uint8Array.of(128, 0))
  const body = cat(blob(4, 'Relu'), blob(1, 'p'), blob(2, 'q'))
  return cat(
    message(8, int(2, 13)), unknown, blob(2, 'producer'), blob(3, '1.0'), int(1, 9), blob(4, 'dom'), int(5, 3), blob(6, 'doc of the model'),
    varint(7 * 8 + 2), change['raw'] === undefined ? padded : length, g, message(8, blob(1, 'my.domain'), int(2, 1)),
    message(14, blob(1, 'k'), blob(2, 'v')), message(20, message(1, blob(2, 'init')), message(2, blob(2, 'algorithm'))),
    message(25, blob(1, 'fn'), blob(10, 'my.domain'), blob(4, 'p'), blob(5, 'q'), blob(7, body), message(9, blob(1, ''), int(2, 13)), unknown),
    message(26, blob(1, 'device')), fixed32(900, 3),
  )
}

describe('what is not understood', () => {
  test('a model with every kind of field is written byte for byte', async () => {
    const source = everything()
    const m = await Model.load(source)
    expect(equal(m.toBytes(), source)).toBe(true)
    expect(equal(m.clone().toBytes(), source)).toBe(true)
    await m.save(path.join(folder, 'all.onnx'))
    expect(equal(fs.readFileSync(path.join(folder, 'all.onnx')), source)).toBe(true)
  })

  test('a renamed node changes that name and nothing else', async () => {
    const m = await Model.load(everything())
    m.nodes[0]!.name = 'renamed'
    expect(equal(m.toBytes(), everything({ raw: '', name: blob(3, 'renamed') }))).toBe(true)
  })

  test('a new attribute is added and nothing else changes', async () => {
    const m = await Model.load(everything())
    m.nodes[0]!.attributes.set('axis', { type: 'int', value: -3 })
    const body = cat(blob(1, 'axis'), int(3, -3), int(20, 2))
    const got = m.toBytes()
    expect((await Model.load(got)).nodes[0]!.int('axis', 0)).toBe(-3)
    expect(got.length).toBe(everything({ raw: '' }).length + blob(5, body).length + 0)
  })

  test('new weights take the place of the old ones in the same message', async () => {
    const m = await Model.load(everything())
    m.graph.setInitializer('w', { type: 'int8', dims: [3], data: Int8Array.of(1, 2, 3) })
    const want = everything({ raw: '', dims: int(1, 3), type: int(2, kType.int8), data: blob(9, Uint8Array.of(1, 2, 3)) })
    expect(equal(m.toBytes(), want)).toBe(true)
  })

  test('a node taken out and put back leaves the bytes as they were', async () => {
    const m = await Model.load(everything())
    const [first] = m.nodes
    m.graph.removeNode(first!)
    m.graph.addNode(first!, { before: m.nodes[0]! })
    expect(equal(m.toBytes(), everything())).toBe(true)
  })

  test('a change in a branch of an If leaves the other branch and the rest alone', async () => {
    const m = await Model.load(everything())
    const before = m.toBytes()
    const inner = m.nodes[2]!.subgraphs()[0]!
    inner.name = 'then2'
    const after = Buffer.from(m.toBytes())
    expect(after.includes(Buffer.from(blob(2, 'then2')))).toBe(true)
    // 1 byte for the longer name, and the padding of the graph's length, which is not kept in a message that changed.
    expect(after.length).toBe(before.length + 1 - 2)
    expect(after.includes(Buffer.from(everything().slice(-100)))).toBe(true)
  })

  test('attributes are read by kind', async () => {
    const n = (await Model.load(everything())).nodes[1]!
    expect(n.domain).toBe('my.domain')
    expect(n.float('f')).toBeNaN()
    expect(n.int('i', 0)).toBe(-1)
    expect(n.attributes.get('is')).toMatchObject({ type: 'ints', value: [1, -2, 2n ** 63n - 1n, 4] })
    expect(n.ints('is')).toEqual([1, -2, Number.MAX_SAFE_INTEGER, 4])
    expect(n.attributes.get('fs')).toMatchObject({ value: [1, 2, 3] })
    expect(n.attributes.get('ss')).toMatchObject({ value: ['a', 'b'] })
    expect(n.attributes.get('old')).toMatchObject({ type: 'int', value: 300 })
    expect(n.attributes.get('tp')).toMatchObject({ type: 'opaque' })
    expect(() => n.int('f')).toThrow(expect.objectContaining({ code: 'ERR_MODEL_FORMAT' }))
  })
})

describe('encodings of tensors', () => {
  const half = [0x3c00, 0xc000]
  const cases: [string, number, readonly number[], readonly Part[], ArrayLike<number | bigint>][] = [
    ['raw float32', kType.float, [2], [blob(9, raw(Float32Array.of(1.5, -2)))], [1.5, -2]],
    ['float_data packed', kType.float, [2], [blob(4, raw(Float32Array.of(1.5, -2)))], [1.5, -2]],
    ['float_data unpacked', kType.float, [2], [fixed32(4, 1.5), fixed32(4, -2)], [1.5, -2]],
    ['float_data in two pieces', kType.float, [3], [blob(4, raw(Float32Array.of(1, 2))), blob(4, raw(Float32Array.of(3)))], [1, 2, 3]],
    ['double_data', kType.double, [2], [blob(10, raw(Float64Array.of(1e300, -2)))], [1e300, -2]],
    ['int32_data', kType.int32, [3], [packed(5, [1, -2, 2147483647])], [1, -2, 2147483647]],
    ['int32_data unpacked', kType.int32, [2], [int(5, 1), int(5, -2)], [1, -2]],
    ['int32_data of int16', kType.int16, [2], [packed(5, [-300, 300])], [-300, 300]],
    ['int32_data of uint16', kType.uint16, [2], [packed(5, [65535, 300])], [65535, 300]],
    ['int32_data of int8', kType.int8, [2], [packed(5, [-128, 127])], [-128, 127]],
    ['int32_data of uint8', kType.uint8, [2], [packed(5, [255, 0])], [255, 0]],
    ['int32_data of bool', kType.bool, [2], [packed(5, [1, 0])], [1, 0]],
    ['int32_data of float16', kType.float16, [2], [packed(5, half)], half],
    ['int32_data of bfloat16', kType.bfloat16, [2], [packed(5, [0x3f80, 0xc000])], [0x3f80, 0xc000]],
    ['int32_data of int4', kType.int4, [3], [packed(5, [0x21, 0x0f])], [0x21, 0x0f]],
    ['int32_data of uint2', kType.uint2, [5], [packed(5, [0xe4, 0x01])], [0xe4, 0x01]],
    ['int64_data', kType.int64, [3], [packed(7, [-1, 2n ** 62n, 5])], [-1n, 2n ** 62n, 5n]],
    ['uint64_data', kType.uint64, [2], [packed(11, [2n ** 64n - 1n, 5])], [2n ** 64n - 1n, 5n]],
    ['uint64_data of uint32', kType.uint32, [2], [packed(11, [4294967295, 5])], [4294967295, 5]],
    ['raw uint4', kType.uint4, [3], [blob(9, Uint8Array.of(0x21, 0x0f))], [0x21, 0x0f]],
    ['nothing at all for no elements', kType.float, [0, 3], [], []],
    ['a scalar', kType.float, [], [blob(9, raw(Float32Array.of(3)))], [3]],
  ]
  test.each(cases)('%s is read, and written byte for byte', async (_title, type, dims, data, want) => {
    const source = model({ initializers: [tensor({ name: 'w', type, dims, data })] })
    const m = await Model.load(source)
    const w = m.initializers.get('w')!
    expect([...((await w.read()).data as Iterable<number | bigint>)]).toEqual(Array.from(want))
    expect((await w.read()).dims).toEqual(dims)
    const chunks: number[] = []
    for await (const c of w.chunks(3)) chunks.push(...c)
    const { data: all } = w.readSync()
    expect(chunks).toEqual([...new Uint8Array(all.buffer, all.byteOffset, all.byteLength)])
    expect(equal(m.toBytes(), source)).toBe(true)
    // Under another name the data stays as it lies.
    m.initializers.delete('w')
    m.graph.addInitializer(w.renamed('v'))
    const renamed = cat(dims.map((d) => int(1, d)), int(2, type), blob(8, 'v'), data)
    expect(equal(m.toBytes(), model({ initializers: [renamed] }))).toBe(true)
  })

  test('strings and 8-bit floats are carried but not read', async () => {
    const m = await Model.load(
      model({
        initializers: [
          tensor({ name: 's', type: kType.string, dims: [1], data: [blob(6, 'a')] }),
          tensor({ name: 'f8', type: kType.float8e4m3fn, dims: [2], data: [blob(9, Uint8Array.of(1, 2))] }),
        ],
      }),
    )
    expect(await code(m.initializers.get('s')!.read())).toBe('ERR_DTYPE')
    expect(await code(m.initializers.get('f8')!.read())).toBe('ERR_DTYPE')
  })
})

describe('hostile and broken input', () => {
  const wrong = (name: string, source: Part): [string, Part] => [name, source]
  const init = (t: Part): Part => model({ initializers: [t] })
  const deep = (depth: number): Part => {
    let g = graph({ outputs: [] })
    for (let i = 0; i < depth; i++) g = graph({ nodes: [node('If', [], ['o'], { then_branch: { graph: g } })] })
    return model(g)
  }
  let groups: Part = new Uint8Array(0)
  for (let i = 0; i < 200; i++) groups = group(7, groups)
  const x = value('x')
  test.each([
    wrong('an empty file', new Uint8Array(0)),
    wrong('text', new TextEncoder().encode('this is not a model at all')),
    wrong('a length beyond the end', cat(int(1, 8), varint(7 * 8 + 2), varint(1000), blob(2, 'g'))),
    wrong('a length of 2^62', cat(int(1, 8), varint(7 * 8 + 2), varint(2n ** 62n))),
    wrong('a length of 2^64-1', cat(int(1, 8), varint(7 * 8 + 2), varint(-1))),
    wrong('a varint of 11 bytes', cat(int(1, 8), Uint8Array.of(8), new Uint8Array(10).fill(255), Uint8Array.of(1))),
    wrong('a varint of 70 bits', cat(Uint8Array.of(8), new Uint8Array(9).fill(255), Uint8Array.of(127))),
    wrong('field number 0', cat(int(1, 8), Uint8Array.of(2, 0))),
    wrong('wire type 7', cat(int(1, 8), Uint8Array.of(15))),
    wrong('a group that ends without beginning', cat(int(1, 8), Uint8Array.of(7 * 8 + 4))),
    wrong('groups nested 200 deep', cat(model({}), groups)),
    wrong('graphs nested 33 deep', deep(33)),
    wrong('graphs nested 2000 deep', deep(2000)),
    wrong('no graph', cat(int(1, 8), message(8, int(2, 13)))),
    wrong('two graphs', cat(model({}), blob(7, graph({})))),
    wrong('no ir_version', cat(blob(7, graph({})), message(8, int(2, 13)))),
    wrong('no opset', cat(int(1, 8), blob(7, graph({})))),
    wrong('an opset of -1', model({}, -1)),
    wrong('two versions of an opset', cat(model({}), message(8, blob(1, 'ai.onnx'), int(2, 9)))),
    wrong('a name that is not UTF-8', model({ nodes: [cat(blob(4, 'Relu'), blob(3, Uint8Array.of(255)))] })),
    wrong('a node without an op', model({ nodes: [blob(1, 'x')], inputs: [x] })),
    wrong('an op_type of the wrong wire type', model({ nodes: [int(4, 3)] })),
    wrong('an attribute given twice', model({ nodes: [cat(node('Relu', [], ['y'], { a: { int: 1 } }), blob(5, attribute('a', { int: 2 })))] })),
    wrong('an attribute without its tensor', model({ nodes: [cat(node('Relu', [], ['y']), message(5, blob(1, 'a'), int(20, 4)))] })),
    wrong('a circle of two nodes', model({ nodes: [node('Relu', ['b'], ['a']), node('Relu', ['a'], ['b'])] })),
    wrong('a node that reads its own output', model({ nodes: [node('Relu', ['a'], ['a'])] })),
    wrong('a circle through a subgraph', model({ nodes: [node('If', [], ['a'], { t: { graph: graph({ nodes: [node('Relu', ['b'], ['c'])], outputs: [value('c')] }) } }), node('Relu', ['a'], ['b'])] })),
    wrong('two initializers of one name', model({ initializers: [floats('w', [1], [1]), floats('w', [1], [1])] })),
    wrong('an initializer without a name', model({ initializers: [floats('', [1], [1])] })),
    wrong('two nodes that make one value', model({ nodes: [node('Relu', ['x'], ['y']), node('Abs', ['x'], ['y'])], inputs: [x] })),
    wrong('a node that makes an input', model({ nodes: [node('Relu', [], ['x'])], inputs: [x] })),
    wrong('a node that makes an initializer', model({ nodes: [node('Relu', [], ['w'])], initializers: [floats('w', [1], [1])] })),
    wrong('two inputs of one name', model({ inputs: [x, x] })),
    wrong('a value that nobody makes', model({ nodes: [node('Relu', ['nobody'], ['y'])] })),
    wrong('an output that nobody makes', model({ outputs: [value('nobody')] })),
    wrong('a negative dimension', init(tensor({ name: 'w', type: kType.float, dims: [-1], data: [blob(9, 'abcd')] }))),
    wrong('dims that overflow', init(tensor({ name: 'w', type: kType.float, dims: [2 ** 40, 2 ** 40], data: [blob(9, 'abcd')] }))),
    wrong('a dimension of 2^62', init(tensor({ name: 'w', type: kType.float, dims: [2n ** 62n], data: [blob(9, 'abcd')] }))),
    wrong('raw data too short', init(tensor({ name: 'w', type: kType.float, dims: [2], data: [blob(9, 'abcd')] }))),
    wrong('raw data too long', init(tensor({ name: 'w', type: kType.int8, dims: [2], data: [blob(9, 'abcd')] }))),
    wrong('no data', init(tensor({ name: 'w', type: kType.float, dims: [2] }))),
    wrong('float_data too short', init(tensor({ name: 'w', type: kType.float, dims: [2], data: [fixed32(4, 1)] }))),
    wrong('int64_data much too short', init(tensor({ name: 'w', type: kType.int64, dims: [1e9], data: [packed(7, [1])] }))),
    wrong('a missing string', init(tensor({ name: 'w', type: kType.string, dims: [2], data: [blob(6, 'a')] }))),
    wrong('raw strings', init(tensor({ name: 'w', type: kType.string, dims: [1], data: [blob(9, 'a')] }))),
    wrong('65 dimensions', init(tensor({ name: 'w', type: kType.float, dims: new Array<number>(65).fill(1), data: [blob(9, 'abcd')] }))),
    wrong('a segment', init(cat(floats('w', [1], [1]), message(3, int(1, 0))))),
    wrong('external data without a folder', init(external('w', kType.float, [1], { location: 'w.bin' }))),
    wrong('a function defined twice', cat(model({}), message(25, blob(1, 'f')), message(25, blob(1, 'f')))),
  ])('%s is ERR_MODEL_FORMAT', async (_name, source) => {
    expect(await code(Model.load(source))).toBe('ERR_MODEL_FORMAT')
  })

  test('varints that do not add up are found when the tensor is read', async () => {
    const read = async (data: Part): Promise<string> => {
      const m = await Model.load(init(tensor({ name: 'w', type: kType.int32, dims: [3], data: [data] })))
      return code(m.initializers.get('w')!.read())
    }
    expect(await read(packed(5, [1, 2, 300]))).toBe('no error')
    expect(await read(packed(5, [1, 2, 3, 4]))).toBe('ERR_MODEL_FORMAT')
    expect(await read(packed(5, [1, 300, 300]).map((b, i) => (i === 6 ? b | 128 : b)))).toBe('ERR_MODEL_FORMAT')
    expect(await read(blob(5, Uint8Array.of(1, 2, 3, 255)))).toBe('ERR_MODEL_FORMAT')
  })

  test('graphs nested 32 deep are read', async () => {
    expect(await code(Model.load(deep(32)))).toBe('no error')
  })

  test('a file cut at any byte is an error, or the part that was whole', async () => {
    const source = everything()
    const outcomes = new Map<string, number>()
    for (let n = 0; n < source.length; n++) {
      const result = await code(Model.load(source.slice(0, n)))
      outcomes.set(result, (outcomes.get(result) ?? 0) + 1)
    }
    expect([...outcomes.keys()].sort()).toEqual(['ERR_MODEL_FORMAT', 'no error'])
    // Only cuts between the fields behind the graph leave a model.
    expect(outcomes.get('no error')).toBeLessThan(10)
  })

  test('other things than paths and bytes are refused', async () => {
    for (const input of [undefined, null, 3, {}, [], 'a\0b', path.join(folder, 'missing.onnx'), folder])
      expect(await code(Model.load(input as string))).toMatch(/^ERR_(DTYPE|IO)$/)
    expect(await code(Model.load(everything(), { nonsense: 1 } as never))).toBe('ERR_RANGE')
  })
})
