import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { Initializer, SafeTensors, saveSafeTensors } from '../lib/model'
import type { Tensor } from '../lib/tensor'
import { kMemoryTypes } from './oracle/types'

let folder: string
beforeEach(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-st-'))))
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }))

const code = (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'no error',
    (e: { code?: string; name?: string }) => (e.name === 'WhittleError' ? String(e.code) : `not ours: ${String(e)}`),
  )

function file(header: unknown, data = new Uint8Array(0), length?: bigint): Uint8Array {
  const text = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(length ?? BigInt(text.length))
  return new Uint8Array(Buffer.concat([size, text, data]))
}

const bytes = ({ data }: Tensor): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
const f32 = (shape: unknown, offsets: unknown): Record<string, unknown> => ({ dtype: 'F32', shape, data_offsets: offsets })

test('every type is written and read back, wide types first, data aligned', async () => {
  const target = path.join(folder, 'all.safetensors')
  const tensors = kMemoryTypes.map(([type, data]) => Initializer.from(type, { type, dims: [data.length], data }))
  const { bytes } = await saveSafeTensors(target, tensors, { metadata: { format: 'pt', 'Ωmega "q"': 'ünï' } })
  expect(fs.statSync(target).size).toBe(bytes)
  const raw = fs.readFileSync(target)
  expect(Number(raw.readBigUInt64LE(0)) % 8).toBe(0)
  const back = await SafeTensors.load(target)
  expect(Object.fromEntries(back.metadata)).toEqual({ format: 'pt', 'Ωmega "q"': 'ünï' })
  expect([...back.tensors.keys()].sort()).toEqual(kMemoryTypes.map(([t]) => t).sort())
  for (const [type, data] of kMemoryTypes) {
    const t = await back.tensors.get(type)!.read()
    expect(t).toEqual({ type, dims: [data.length], data })
  }
  back.close()
  expect(await code(back.tensors.get('int8')!.read())).toBe('ERR_IO')
})

test('scalars, empty tensors and an empty file are fine', async () => {
  const target = path.join(folder, 'few.safetensors')
  await saveSafeTensors(target, [
    Initializer.from('scalar', { type: 'float32', dims: [], data: Float32Array.of(3) }),
    Initializer.from('empty', { type: 'float32', dims: [0, 4], data: new Float32Array(0) }),
  ])
  const back = await SafeTensors.load(fs.readFileSync(target))
  expect((await back.tensors.get('scalar')!.read()).dims).toEqual([])
  expect((await back.tensors.get('empty')!.read()).dims).toEqual([0, 4])
  await saveSafeTensors(target, [])
  expect((await SafeTensors.load(target)).tensors.size).toBe(0)
})

test('the fixtures, written by the reference implementation, are read', async () => {
  const folderOf = path.join(__dirname, 'fixtures')
  const names = fs.readdirSync(folderOf, { recursive: true }).map(String).filter((f) => f.endsWith('.safetensors'))
  expect(names.length).toBeGreaterThan(0)
  for (const name of names) {
    const f = await SafeTensors.load(path.join(folderOf, name))
    for (const t of f.tensors.values()) expect((await t.read()).data.length).toBe(t.elementCount)
    const copy = path.join(folder, 'copy.safetensors')
    await saveSafeTensors(copy, f.tensors.values())
    const g = await SafeTensors.load(copy)
    for (const [key, t] of f.tensors) {
      const [a, b] = [await g.tensors.get(key)!.read(), await t.read()]
      expect([key, a.type, a.dims]).toEqual([key, b.type, b.dims])
      expect(Buffer.compare(bytes(a), bytes(b))).toBe(0)
    }
  }
})

test.each<[string, Uint8Array]>([
  ['nothing', new Uint8Array(0)],
  ['half a length', new Uint8Array(5)],
  ['a header beyond the end', file({}, undefined, 1000n)],
  ['a header of 2^63', file({}, undefined, 2n ** 63n)],
  ['no JSON', file('{"a":')],
  ['an array', file([])],
  ['null', file('null')],
  ['text that is not UTF-8', file('{"\xff":1}').map((b) => (b === 0xc3 ? 0xff : b))],
  ['an entry that is no object', file({ a: 3 })],
  ['a type that does not exist', file({ a: { dtype: 'F31', shape: [1], data_offsets: [0, 4] } }, new Uint8Array(4))],
  ['a type out of the prototype', file({ a: { dtype: 'constructor', shape: [1], data_offsets: [0, 4] } }, new Uint8Array(4))],
  ['a missing shape', file({ a: { dtype: 'F32', data_offsets: [0, 4] } }, new Uint8Array(4))],
  ['a negative size', file({ a: f32([-1], [0, 4]) }, new Uint8Array(4))],
  ['a fractional size', file({ a: f32([0.5], [0, 2]) }, new Uint8Array(2))],
  ['sizes that overflow', file({ a: f32([2 ** 40, 2 ** 40], [0, 4]) }, new Uint8Array(4))],
  ['offsets beyond the end', file({ a: f32([1], [4, 8]) }, new Uint8Array(4))],
  ['offsets the wrong way round', file({ a: f32([0], [4, 0]) }, new Uint8Array(4))],
  ['one offset', file({ a: f32([1], [0]) }, new Uint8Array(4))],
  ['a range of the wrong size', file({ a: f32([1], [0, 8]) }, new Uint8Array(8))],
  ['tensors that overlap', file({ a: f32([1], [0, 4]), b: f32([1], [0, 4]) }, new Uint8Array(4))],
  ['a gap', file({ a: f32([1], [0, 4]), b: f32([1], [8, 12]) }, new Uint8Array(12))],
  ['bytes that belong to nobody', file({ a: f32([1], [0, 4]) }, new Uint8Array(5))],
  ['metadata that is no string', file({ __metadata__: { a: 3 } })],
])('%s is ERR_MODEL_FORMAT', async (_name, bytes) => {
  expect(await code(SafeTensors.load(bytes))).toBe('ERR_MODEL_FORMAT')
})

test('a name like __proto__ is a name', async () => {
  const f = await SafeTensors.load(file('{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', new Uint8Array(4)))
  expect([...f.tensors.keys()]).toEqual(['__proto__'])
})

test('what cannot be written is refused and the target stays as it is', async () => {
  const target = path.join(folder, 'out.safetensors')
  fs.writeFileSync(target, 'old')
  const one = Initializer.from('a', { type: 'int8', dims: [2], data: Int8Array.of(1, 2) })
  const nibbles = Initializer.from('n', { type: 'int4', dims: [2], data: Uint8Array.of(1) })
  expect(await code(saveSafeTensors(target, [nibbles]))).toBe('ERR_DTYPE')
  expect(await code(saveSafeTensors(target, [one, one]))).toBe('ERR_RANGE')
  expect(await code(saveSafeTensors(target, [one.renamed('__metadata__')]))).toBe('ERR_RANGE')
  expect(await code(saveSafeTensors(target, [one], { metadata: { a: 3 as unknown as string } }))).toBe('ERR_DTYPE')
  expect(await code(saveSafeTensors(target, [one], { signal: AbortSignal.abort() }))).toBe('ERR_ABORTED')
  expect(await code(saveSafeTensors(path.join(folder, 'no', 'out'), [one]))).toBe('ERR_IO')
  expect(await code(SafeTensors.load(path.join(folder, 'missing')))).toBe('ERR_IO')
  expect(await code(SafeTensors.load(3 as unknown as string))).toBe('ERR_DTYPE')
  expect(fs.readdirSync(folder)).toEqual(['out.safetensors'])
  expect(fs.readFileSync(target, 'utf8')).toBe('old')
})
