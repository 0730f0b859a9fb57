import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { crc32 } from 'node:zlib'
import { attribute, compress, Initializer, Model, Session, WhittleError } from '../lib'
import { main } from '../lib/cli/main'
import { MemoryBytes } from '../lib/model/bytes'
import { decodeBlock, encodeBlock, shapeOf } from '../lib/model/whittle/block'
import { readIndex } from '../lib/model/whittle/container'
import { normalize, ransEncode } from '../lib/model/whittle/rans'
import type { ElementType } from '../lib'
import { bool, float, graph, int, ints, modelOf } from './graphs'
import { noise } from './nets'
import { entropyBits, ransWords } from './oracle/whittle'

/** Numbers in [0, 1). */
function chance(seed: number): () => number {
  let x = seed >>> 0 || 1
  return () => {
    x = (Math.imul(x, 1664525) + 1013904223) >>> 0
    return (x >>> 8) / 2 ** 24
  }
}

const bell = (next: () => number): number => next() + next() + next() + next() + next() + next() - 3

const equalBytes = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0

let folder: string
beforeAll(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-file-'))))
afterAll(() => fs.rmSync(folder, { recursive: true, force: true }))

function codeOf(error: unknown): string {
  if (!(error as object)) return 'nothing thrown'
  return (error as WhittleError).code ?? String(error)
}

function attempt(action: () => unknown): string {
  try {
    action()
    return 'ok'
  } catch (error) {
    return codeOf(error)
  }
}

/** Something of every kind that a file can hold. */
function zoo(): Model {
  const next = chance(7)
  const codes = Int8Array.from({ length: 96 * 64 }, (_, i) => Math.round(bell(next) * (6 + (i >> 6))))
  const sparse = Float32Array.from({ length: 6000 }, () => (next() < 0.8 ? 0 : bell(next)))
  const few = Float32Array.from({ length: 5000 }, () => Math.round(bell(next) * 4) / 8)
  const g = graph(
    [['x', 'float32', ['n', 64]]],
    {
      w: { type: 'float32', dims: [64, 96], data: noise(64 * 96, 3) },
      half: { type: 'float16', dims: [40, 40], data: Uint16Array.from({ length: 1600 }, () => next() * 65536) },
      codes: { type: 'int8', dims: [96, 64], data: codes },
      pairs: { type: 'int4', dims: [63, 33], data: Uint8Array.from({ length: 1040 }, () => next() * 256) },
      sparse: { type: 'float32', dims: [60, 100], data: sparse },
      few: { type: 'float32', dims: [5000], data: few },
      zeros: { type: 'float32', dims: [3000], data: new Float32Array(3000) },
      negative: { type: 'float32', dims: [2000], data: new Float32Array(2000).fill(-0) },
      long: { type: 'int64', dims: [300], data: BigInt64Array.from({ length: 300 }, (_, i) => BigInt(i * i - 9)) },
      double: { type: 'float64', dims: [200], data: Float64Array.from({ length: 200 }, () => bell(next)) },
      flags: { type: 'bool', dims: [2000], data: Uint8Array.from({ length: 2000 }, () => (next() < 0.1 ? 1 : 0)) },
      small: float([2], 1, 2),
      none: { type: 'float32', dims: [0], data: new Float32Array(0) },
      shape: ints(-1, 96),
      yes: bool(true),
    },
    [
      ['MatMul', ['x', 'w'], ['h']],
      ['Reshape', ['h', 'shape'], ['r']],
      [
        'Constant',
        [],
        ['k'],
        { value: attribute.tensor(Initializer.from('', { type: 'float32', dims: [96], data: noise(96, 5) })) },
      ],
      ['Add', ['r', 'k'], ['t']],
    ],
    ['y'],
  )
  const branch = (scale: number) =>
    graph(
      [],
      { s: { type: 'float32', dims: [96], data: noise(96, scale) }, i: int(0) },
      [['Mul', ['t', 's'], ['z']]],
      ['z'],
    )
  const model = modelOf(g)
  const holder = graph(
    [],
    {},
    [['If', ['yes'], ['y'], { then_branch: attribute.graph(branch(1)), else_branch: attribute.graph(branch(2)) }]],
    [],
  )
  const [choice] = holder.nodes
  holder.removeNode(choice!)
  g.addNode(choice!)
  return model
}

test('A container gives back the bytes of the ONNX file, whatever tensors it holds', async () => {
  const made = zoo()
  const bytes = made.toBytes()
  for (const model of [made, await Model.load(bytes)]) {
    const packed = await model.pack()
    expect(packed.length).toBeLessThan(0.75 * bytes.length)
    expect(packed.length).toBe(await model.packedLength())
    const back = await Model.load(packed)
    expect(equalBytes(back.toBytes(), bytes)).toBe(true)
    expect(back.fileBytes).toBe(packed.length)
    expect(Array.from((await back.initializers.get('sparse')!.read()).data as Float32Array)).toEqual(
      Array.from(made.initializers.get('sparse')!.readSync().data as Float32Array),
    )
    // Packed once more it is the same file.
    expect(equalBytes(await back.pack(), packed)).toBe(true)
  }
})

test('A .whittle file is saved whole, runs in Session as it is and unpacks to the same ONNX file', async () => {
  const model = zoo()
  const onnx = path.join(folder, 'zoo.onnx')
  const packed = path.join(folder, 'zoo.whittle')
  const told: number[] = []
  await model.save(onnx)
  const saved = await model.save(packed, { onProgress: ({ bytes, total }) => told.push(bytes / total) })
  expect(saved).toEqual({ bytes: fs.statSync(packed).size, files: [{ path: packed, bytes: saved.bytes }] })
  expect(told.at(-1)).toBe(1)

  const x = { x: { type: 'float32', dims: [3, 64], data: noise(192, 1) } } as const
  const session = await Session.create(packed)
  const want = await (await Session.create(onnx)).run(x)
  expect((await session.run(x)).y).toEqual(want.y)

  const out: string[] = []
  const terminal = {
    out: (t: string) => void out.push(t),
    err: (t: string) => void out.push(t),
    interactive: false,
    columns: 80,
    signal: new AbortController().signal,
  }
  const again = path.join(folder, 'again.onnx')
  expect(await main(['unpack', packed, '-o', again, '--json'], terminal)).toBe(0)
  expect((JSON.parse(out.join('')) as { after: { bytes: number } }).after.bytes).toBe(fs.statSync(onnx).size)
  expect(equalBytes(fs.readFileSync(again), fs.readFileSync(onnx))).toBe(true)
  expect(await main(['pack', onnx, '-o', path.join(folder, 'b.whittle')], terminal)).toBe(0)
  expect(equalBytes(fs.readFileSync(path.join(folder, 'b.whittle')), fs.readFileSync(packed))).toBe(true)
  expect(await main(['unpack', onnx, '-o', again], terminal)).toBe(1)
  expect(await main(['unpack', packed, '-o', packed], terminal)).toBe(2)
  expect(await main(['pack', onnx, '-o', again], terminal)).toBe(2)

  const changed = await Model.load(packed)
  changed.graph.setInitializer('small', float([2], 3, 4))
  await changed.save(packed)
  expect((await Model.load(packed)).initializers.get('small')!.readSync().data).toEqual(Float32Array.of(3, 4))
  await expect(changed.save(packed, { externalData: true })).rejects.toMatchObject({ code: 'ERR_RANGE' })
})

test('Saving that is aborted leaves the old file and nothing else', async () => {
  const target = path.join(folder, 'kept.whittle')
  fs.writeFileSync(target, 'old')
  const abort = new AbortController()
  const saving = zoo().save(target, { signal: abort.signal, onProgress: () => abort.abort() })
  await expect(saving).rejects.toMatchObject({ code: 'ERR_ABORTED' })
  expect(fs.readFileSync(target, 'utf8')).toBe('old')
  expect(fs.readdirSync(folder).filter((f) => f.endsWith('.tmp'))).toEqual([])
})

test('External data goes into the container once for tied tensors and comes back as one file or two', async () => {
  const w = { type: 'float32', dims: [64, 64], data: noise(4096, 2) } as const
  const source = Initializer.from('a', w).source
  const g = graph(
    [['x', 'float32', [1, 64]]],
    {},
    [
      ['MatMul', ['x', 'a'], ['h']],
      ['MatMul', ['h', 'b'], ['y']],
    ],
    ['y'],
  )
  for (const name of ['a', 'b']) g.addInitializer(new Initializer(name, 'float32', w.dims, source))
  const place = path.join(folder, 'external.onnx')
  await modelOf(g).save(place, { externalData: true })
  const model = await Model.load(place)
  const packed = await model.pack()
  expect(packed.length).toBeLessThan(w.data.byteLength)
  const back = await Model.load(packed)
  expect(equalBytes(back.toBytes(), model.toBytes())).toBe(true)
  const [one, two] = [path.join(folder, 'one.onnx'), path.join(folder, 'two.onnx')]
  await model.save(one, { externalData: { location: 'w.data' } })
  await back.save(two, { externalData: { location: 'v.data' } })
  expect(fs.statSync(path.join(folder, 'v.data')).size).toBeGreaterThanOrEqual(
    fs.statSync(path.join(folder, 'w.data')).size,
  )
  expect((await Model.load(two)).initializers.get('b')!.readSync().data).toEqual(w.data)
})

test('Blocks of every element type and kind of numbers come back bit for bit', () => {
  const types: ElementType[] = [
    'int8',
    'uint8',
    'int4',
    'float16',
    'bfloat16',
    'int16',
    'float32',
    'int32',
    'float64',
    'int64',
    'bool',
    'float8e5m2',
    'complex128',
  ]
  const next = chance(11)
  const kinds: Record<string, (i: number) => number> = {
    noise: () => next() * 256,
    constant: () => 37,
    bell: () => bell(next) * 12,
    rows: (i) => bell(next) * (2 + ((i >> 5) % 17)),
    zeros: () => (next() < 0.9 ? 0 : next() * 256),
    extremes: (i) => [0, 255, 127, 128][i % 4]!,
    rare: (i) => (i === 77 ? 255 : 0),
  }
  for (const type of types)
    for (const [kind, make] of Object.entries(kinds))
      for (const rows of [1, 3, 70, 300]) {
        const shape = shapeOf(type, [rows, 32])
        const bytes = Uint8Array.from({ length: rows * 32 * shape.width }, (_, i) => Math.round(make(i)) & 255)
        const coded = encodeBlock(bytes, shape)
        expect(coded.length).toBeLessThanOrEqual(bytes.length + 1)
        if (!equalBytes(decodeBlock(coded, shape, bytes.length, 'b'), bytes)) throw new Error(`${type} ${kind} ${rows}`)
      }
})

test('Coded sizes lie at the entropy, below it where rows or columns differ, and few values cost what they should', () => {
  const next = chance(5)
  const count = 1 << 17
  const flat = Int8Array.from({ length: count }, () => Math.max(-127, Math.min(127, Math.round(bell(next) * 30))))
  const size = (data: Int8Array, columns: number): number =>
    encodeBlock(new Uint8Array(data.buffer), shapeOf('int8', [data.length / columns, columns])).length
  expect(size(flat, 512)).toBeLessThan((entropyBits(flat) / 8) * 1.004 + 100)
  const scaled = Int8Array.from({ length: count }, (_, i) =>
    Math.round(bell(next) * (2 + ((i >> 9) % 16)) * (1 + (i % 8) / 2) * 0.8),
  )
  expect(size(scaled, 512)).toBeLessThan(0.95 * (entropyBits(scaled) / 8))
  const rare = Int8Array.from({ length: count }, () => (next() < 0.002 ? 1 : 0))
  expect(size(rare, 512)).toBeLessThan((entropyBits(rare) / 8) * 1.05 + 60)
  const palette = Float32Array.from({ length: count }, () => Math.fround(Math.exp(Math.round(bell(next) * 3))))
  const coded = encodeBlock(new Uint8Array(palette.buffer), shapeOf('float32', [count]))
  expect(coded.length).toBeLessThan((entropyBits(palette) / 8) * 1.004 + 200)
  const sparse = Float32Array.from({ length: count }, () => (next() < 0.9 ? 0 : next() - 0.5))
  const kept = sparse.filter((v) => v !== 0).length
  const places = entropyBits(sparse.map((v) => (v === 0 ? 0 : 1))) / 8
  expect(encodeBlock(new Uint8Array(sparse.buffer), shapeOf('float32', [count])).length).toBeLessThan(
    1.02 * places + 3.4 * kept,
  )
})

test('The entropy coder writes the words of rANS as it is defined', () => {
  const next = chance(3)
  const symbols = Uint8Array.from({ length: 500 }, () => Math.abs(Math.round(bell(next) * 2)))
  const freq = new Uint16Array(8)
  normalize([40, 30, 9, 1, 1, 0, 1e-9, 0], freq)
  expect(Array.from(freq).reduce((a, b) => a + b)).toBe(16384)
  expect([freq[5], freq[6]]).toEqual([0, 1])
  const coded = new Uint16Array(ransEncode(symbols, 8, freq).buffer)
  expect(Array.from(coded)).toEqual(ransWords(symbols, freq))
})

test('A damaged container is refused wherever it is damaged', async () => {
  const packed = await zoo().pack()
  const next = chance(17)
  const open = async (bytes: Uint8Array): Promise<string> => {
    try {
      ;(await Model.load(bytes)).toBytes()
      return 'ok'
    } catch (error) {
      return codeOf(error)
    }
  }
  const found = new Set<string>()
  for (let i = 0; i < 150; i++) {
    const bytes = packed.slice()
    const at = Math.floor(next() * bytes.length)
    bytes[at]! ^= 1 << Math.floor(next() * 8)
    // Three bytes after the version mean nothing yet.
    if (at < 9 || at > 11) found.add(await open(bytes))
    found.add(await open(packed.slice(0, Math.floor(next() * packed.length))))
  }
  found.add(await open(Uint8Array.of(...packed, 0)))
  expect([...found]).toEqual(['ERR_MODEL_FORMAT'])
})

test('Blocks made in bad faith, with checksums that fit, are refused or are numbers, and end', () => {
  const next = chance(23)
  const sources: [ElementType, Uint8Array][] = [
    ['int8', Uint8Array.from({ length: 6400 }, (_, i) => Math.round(bell(next) * (1 + (i >> 9))) & 255)],
    ['float32', new Uint8Array(Float32Array.from({ length: 1500 }, () => (next() < 0.7 ? 0 : bell(next))).buffer)],
    ['float32', new Uint8Array(Float32Array.from({ length: 1500 }, () => Math.round(bell(next))).buffer)],
    [
      'int4',
      Uint8Array.from({ length: 3000 }, () => (Math.round(bell(next)) & 15) | ((Math.round(bell(next)) & 15) << 4)),
    ],
    ['int64', Uint8Array.from({ length: 1600 }, (_, i) => (i % 8 < 2 ? next() * 40 : 0))],
  ]
  const found = new Set<string>()
  for (const [type, bytes] of sources) {
    const shape = shapeOf(type, [50, bytes.length / 50 / shapeOf(type, []).width])
    const coded = encodeBlock(bytes, shape)
    for (let i = 0; i < 300; i++) {
      const bad = coded.slice(0, i % 3 === 0 ? Math.floor(next() * coded.length) : coded.length)
      for (let n = i % 4; n >= 0; n--) bad[Math.floor(next() * Math.min(bad.length, i % 2 ? 40 : 1e9))] = next() * 256
      found.add(attempt(() => decodeBlock(bad, shape, bytes.length, 'bad')))
    }
  }
  expect([...found].sort()).toEqual(['ERR_MODEL_FORMAT', 'ok'])
  for (let i = 0; i < 1500; i++) {
    const bad = Uint8Array.from({ length: 1 + Math.floor(next() * 80) }, (_, k) =>
      k === 0 ? next() * 9 : next() * 256,
    )
    expect(['ERR_MODEL_FORMAT', 'ok']).toContain(attempt(() => decodeBlock(bad, { width: 4 }, 4096, 'bad')))
  }
})

test('An index that claims too much is refused before anything is allocated', async () => {
  const packed = await zoo().pack()
  const { streams } = readIndex(new MemoryBytes(packed))
  const end = streams.at(-1)!.chunks.at(-1)!
  const claim = (change: (view: DataView, index: number) => void): string => {
    const bytes = packed.slice()
    const footer = bytes.length - 24
    const view = new DataView(bytes.buffer)
    change(view, end.offset + end.length)
    view.setUint32(footer + 16, crc32(bytes.subarray(end.offset + end.length, footer)), true)
    return attempt(() => readIndex(new MemoryBytes(bytes)))
  }
  expect(claim(() => {})).toBe('ok')
  expect(claim((v) => v.setUint32(v.byteLength - 12, 0xffffffff, true))).toBe('ERR_MODEL_FORMAT')
  expect(claim((v) => v.setUint32(v.byteLength - 16, 0xffffff00, true))).toBe('ERR_MODEL_FORMAT')
  expect(claim((v) => v.setUint32(v.byteLength - 20, 1, true))).toBe('ERR_MODEL_FORMAT')
  for (let k = 0; k < 40; k++) expect(claim((v, index) => v.setUint8(index + k, 0xff - k))).not.toBe('nothing thrown')
  expect(claim((v) => v.setUint8(8, 2))).toBe('ERR_MODEL_FORMAT')
})

test('compress counts the bytes of a container where one is asked for', async () => {
  const recipe = { steps: [{ step: 'quantize', bits: 5 }] } as const
  const { model, report } = await compress(zoo(), recipe, { container: 'whittle' })
  const target = path.join(folder, 'small.whittle')
  const { bytes } = await model.save(target)
  expect(report.after.bytes).toBe(bytes)
  expect(bytes).toBeLessThan(0.7 * model.byteLength())
  expect(equalBytes((await Model.load(target)).toBytes(), model.toBytes())).toBe(true)
  const limits = { bytes: bytes + 10 }
  await compress(zoo(), recipe, { container: 'whittle', limits })
  await expect(compress(zoo(), recipe, { limits })).rejects.toMatchObject({ code: 'ERR_LIMIT' })
  await expect(compress(zoo(), recipe, { container: 'zip' as 'onnx' })).rejects.toMatchObject({ code: 'ERR_RANGE' })

  const onnx = path.join(folder, 'in.onnx')
  await zoo().save(onnx)
  const out: string[] = []
  const terminal = { out: (t: string) => void out.push(t), err: (t: string) => void out.push(t), interactive: false, columns: 80, signal: new AbortController().signal }
  expect(await main(['compress', onnx, '-o', target, '--bits', '5', '--json'], terminal)).toBe(0)
  expect((JSON.parse(out.join('')) as { after: { bytes: number } }).after.bytes).toBe(fs.statSync(target).size)
})
