import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { Initializer, Model } from '../lib/model'
import { blob, external, floats, kType, model, node, raw, tensor, value } from './oracle/proto'

let folder: string
beforeEach(() => (folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-onnx-'))))
afterEach(() => fs.rmSync(folder, { recursive: true, force: true }))

const equal = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0
const code = (p: Promise<unknown>): Promise<string> =>
  p.then(
    () => 'no error',
    (e: { code?: string; name?: string }) => (e.name === 'WhittleError' ? String(e.code) : `not ours: ${String(e)}`),
  )

describe('external data', () => {
  const weights = Float32Array.from({ length: 3000 }, (_, i) => i)
  const source = model({
    nodes: [node('Mul', ['x', 'a'], ['p']), node('Mul', ['p', 'b'], ['y']), node('Add', ['y', 'small'], ['z'])],
    initializers: [
      external('a', kType.float, [1000], { location: 'sub/w.bin', offset: '4000', length: '4000' }),
      external('b', kType.float, [1000], { location: 'sub/w.bin', offset: '4000' }),
      floats('small', [1], [7]),
    ],
    inputs: [value('x', kType.float, ['n'])],
    outputs: [value('z', kType.float, ['n'])],
  })
  let file: string
  beforeEach(() => {
    file = path.join(folder, 'm.onnx')
    fs.mkdirSync(path.join(folder, 'sub'))
    fs.writeFileSync(path.join(folder, 'sub', 'w.bin'), weights)
    fs.writeFileSync(file, source)
  })
  const values = async (m: Model, name: string): Promise<number[]> => [...((await m.initializers.get(name)!.read()).data as Float32Array)]
  const leftovers = (): string[] => fs.readdirSync(folder).filter((f) => f.includes('tmp'))

  test('it is read where it lies, and tied weights are one source', async () => {
    const m = await Model.load(file)
    expect(await values(m, 'a')).toEqual([...weights.subarray(1000, 2000)])
    expect(m.initializers.get('a')!.source).toBe(m.initializers.get('b')!.source)
    expect(m.initializers.get('a')!.source.kind).toBe('external')
    expect(m.summary().weightBytes).toBe(4004)
  })

  test('an unchanged model is saved byte for byte with its data files', async () => {
    const m = await Model.load(file)
    const to = path.join(folder, 'copy', 'n.onnx')
    fs.mkdirSync(path.dirname(to))
    const { files } = await m.save(to)
    expect(files.map((f) => f.path)).toEqual([to, path.join(folder, 'copy', 'sub', 'w.bin')])
    expect(equal(fs.readFileSync(to), source)).toBe(true)
    expect(equal(fs.readFileSync(path.join(folder, 'copy', 'sub', 'w.bin')), raw(weights))).toBe(true)
    const before = fs.statSync(path.join(folder, 'sub', 'w.bin')).ino
    await m.save(path.join(folder, 'other.onnx'))
    expect(fs.statSync(path.join(folder, 'sub', 'w.bin')).ino).toBe(before)
  })

  test('a changed model stays external, each source once, at offsets of whole pages', async () => {
    const m = await Model.load(file)
    m.graph.addInitializer(Initializer.from('c', { type: 'float32', dims: [500], data: weights.slice(0, 500) }))
    const to = path.join(folder, 'n.onnx')
    const { bytes, files } = await m.save(to)
    expect(files.map((f) => path.basename(f.path))).toEqual(['n.onnx', 'n.onnx.data'])
    expect(bytes).toBe(files[0]!.bytes + files[1]!.bytes)
    expect(files[1]!.bytes).toBe(4096 + 2000)
    const n = await Model.load(to)
    expect(n.initializers.get('a')!.source).toBe(n.initializers.get('b')!.source)
    expect(await values(n, 'b')).toEqual([...weights.subarray(1000, 2000)])
    expect(await values(n, 'c')).toEqual([...weights.subarray(0, 500)])
    expect(n.initializers.get('small')!.source.kind).toBe('file')
  })

  test('weights can be moved in and out, and onnxruntime agrees', async () => {
    const run = async (p: string | Uint8Array): Promise<number[]> => {
      const session = await InferenceSession.create(p as string)
      const x = new Tensor('float32', new Float32Array(1000).fill(2), [1000])
      return [...((await session.run({ x }))['z']!.data as Float32Array)]
    }
    const want = [...weights.subarray(1000, 2000)].map((w) => Math.fround(Math.fround(2 * w) * w) + 7)
    const inline = path.join(folder, 'inline.onnx')
    const m = await Model.load(file)
    expect(await run(file)).toEqual(want)
    expect(await run(m.toBytes())).toEqual(want)
    expect((await m.save(inline, { externalData: false })).files).toHaveLength(1)
    expect(await run(inline)).toEqual(want)
    const out = path.join(folder, 'out.onnx')
    const n = await Model.load(inline)
    const saved = await n.save(out, { externalData: { location: 'data.bin', threshold: 0, checksum: true } })
    expect(saved.files[1]!.path).toBe(path.join(folder, 'data.bin'))
    expect(await run(out)).toEqual(want)
    expect((await Model.load(out, { verifyChecksums: true })).initializers.get('small')!.source.kind).toBe('external')
    const fd = fs.openSync(path.join(folder, 'data.bin'), 'r+')
    fs.writeSync(fd, 'X', 2)
    fs.closeSync(fd)
    expect(await code(Model.load(out, { verifyChecksums: true }))).toBe('ERR_MODEL_FORMAT')
  })

  test('a model may be saved over itself, data file included', async () => {
    const own = path.join(folder, 'own.onnx')
    await (await Model.load(file)).save(own, { externalData: true })
    const m = await Model.load(own)
    const old = await values(m, 'a')
    m.graph.setInitializer('small', { type: 'float32', dims: [2000], data: weights.slice(0, 2000) })
    await m.save(own)
    // The old bytes stay readable for the model that came from them.
    expect(await values(m, 'a')).toEqual(old)
    const n = await Model.load(own)
    expect(await values(n, 'a')).toEqual(old)
    expect(await values(n, 'small')).toEqual([...weights.subarray(0, 2000)])
    expect(leftovers()).toEqual([])
  })

  test('a file that changed after it was opened is refused', async () => {
    const m = await Model.load(file)
    fs.writeFileSync(path.join(folder, 'sub', 'w.bin'), new Uint8Array(100))
    expect(await code(m.initializers.get('a')!.read())).toBe('ERR_IO')
    expect(await code(m.save(path.join(folder, 'out.onnx'), { externalData: false }))).toBe('ERR_IO')
    expect(fs.existsSync(path.join(folder, 'out.onnx'))).toBe(false)
    expect(leftovers()).toEqual([])
  })

  test.each(['/etc/passwd', '../w.bin', 'sub/../../w.bin', '..\\w.bin', 'C:\\w.bin', 'c:w.bin', '', 'a\0b', 'link', 'sub/up/w.bin'])(
    'a location of %j is refused',
    async (location) => {
      const outside = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-outside-'))
      fs.writeFileSync(path.join(outside, 'w.bin'), weights)
      fs.symlinkSync(path.join(outside, 'w.bin'), path.join(folder, 'link'))
      fs.symlinkSync(outside, path.join(folder, 'sub', 'up'))
      fs.writeFileSync(file, model({ initializers: [external('w', kType.float, [1], { location })] }))
      expect(await code(Model.load(file))).toBe('ERR_MODEL_FORMAT')
      fs.rmSync(outside, { recursive: true })
    },
  )

  test('ranges that do not fit their file are refused, and so are missing files', async () => {
    const load = (entries: Record<string, string>): Promise<string> => {
      fs.writeFileSync(file, model({ initializers: [external('w', kType.float, [1000], entries)] }))
      return code(Model.load(file))
    }
    expect(await load({ location: 'sub/w.bin' })).toBe('no error')
    for (const bad of [{ offset: '9000' }, { length: '3999' }, { offset: '-1' }, { offset: '1e3' }, { offset: '99999999999999999999' }])
      expect(await load({ location: 'sub/w.bin', ...bad } as Record<string, string>)).toBe('ERR_MODEL_FORMAT')
    expect(await load({ offset: '0' })).toBe('ERR_MODEL_FORMAT')
    expect(await load({ location: 'missing.bin' })).toBe('ERR_IO')
    expect(await load({ location: 'sub' })).toBe('ERR_IO')
  })
})

describe('saving that fails', () => {
  const big = model({ initializers: [tensor({ name: 'w', type: kType.int8, dims: [3e6], data: [blob(9, new Uint8Array(3e6).fill(5))] })] })

  test('places that cannot be written to are ERR_IO and stay as they are', async () => {
    const m = await Model.load(big)
    fs.mkdirSync(path.join(folder, 'dir.onnx'))
    fs.writeFileSync(path.join(folder, 'plain'), 'text')
    for (const target of ['dir.onnx', 'missing/out.onnx', 'plain/out.onnx'])
      expect(await code(m.save(path.join(folder, target)))).toBe('ERR_IO')
    expect(fs.readdirSync(folder).sort()).toEqual(['dir.onnx', 'plain'])
    if (process.platform !== 'win32') {
      expect(await code(m.save('/dev/null'))).toBe('ERR_IO')
      expect(fs.statSync('/dev/null').isCharacterDevice()).toBe(true)
      expect(await code(m.save('/proc/whittle.onnx'))).toBe('ERR_IO')
    }
    for (const target of ['', 'a\0b', 3, undefined]) expect(await code(m.save(target as string))).toBe('ERR_DTYPE')
  })

  test('a read-only target is ERR_IO and stays as it is', async () => {
    if (process.getuid?.() === 0 || process.platform === 'win32') {
      console.log('SKIP read-only target: the superuser may write everywhere')
      return
    }
    const target = path.join(folder, 'out.onnx')
    fs.writeFileSync(target, 'old', { mode: 0o444 })
    expect(await code((await Model.load(big)).save(target))).toBe('ERR_IO')
    expect(fs.readFileSync(target, 'utf8')).toBe('old')
  })

  test('a full disk is ERR_IO, the target stays as it is, and no temporary file is left', () => {
    if (process.platform === 'win32') {
      console.log('SKIP full disk: needs a shell with ulimit')
      return
    }
    const target = path.join(folder, 'out.onnx')
    fs.writeFileSync(target, 'old')
    fs.writeFileSync(path.join(folder, 'in.onnx'), big)
    const root = path.join(__dirname, '..')
    fs.writeFileSync(
      path.join(folder, 'save.cjs'),
      `require(${JSON.stringify(path.join(__dirname, 'oracle', 'register.cjs'))})
       const { Model } = require(${JSON.stringify(path.join(root, 'lib', 'model'))})
       Model.load('in.onnx').then((m) => { m.graph.name = 'changed'; return m.save('out.onnx') })
         .then(() => console.log('saved'), (e) => console.log(e.name, e.code, e.message))`,
    )
    // A limit on file size stands in for the disk's end: writes fail in the same place, with EFBIG for ENOSPC.
    const script = `trap '' XFSZ; ulimit -f 1024; exec '${process.execPath}' save.cjs`
    const { stdout, stderr } = spawnSync('bash', ['-c', script], { cwd: folder, encoding: 'utf8' })
    expect(stdout + stderr).toMatch(/^WhittleError ERR_IO/)
    expect(fs.readFileSync(target, 'utf8')).toBe('old')
    expect(fs.readdirSync(folder).sort()).toEqual(['in.onnx', 'out.onnx', 'save.cjs'])
  })

  test('an abort leaves everything as it was, before and in the middle', async () => {
    const target = path.join(folder, 'out.onnx')
    fs.writeFileSync(target, 'old')
    const m = await Model.load(big)
    m.graph.name = 'changed'
    expect(await code(m.save(target, { signal: AbortSignal.abort() }))).toBe('ERR_ABORTED')
    const stop = new AbortController()
    expect(await code(m.save(target, { signal: stop.signal, onProgress: () => stop.abort() }))).toBe('ERR_ABORTED')
    expect(await code(m.save(target, { signal: stop.signal, externalData: true }))).toBe('ERR_ABORTED')
    expect(fs.readFileSync(target, 'utf8')).toBe('old')
    expect(fs.readdirSync(folder)).toEqual(['out.onnx'])
  })

  test('a throwing progress callback leaves everything as it was', async () => {
    const target = path.join(folder, 'out.onnx')
    const m = await Model.load(big)
    const onProgress = (): never => {
      throw new Error('mine')
    }
    expect(await code(m.save(target, { onProgress }))).toBe('ERR_IO')
    expect(fs.readdirSync(folder)).toEqual([])
  })

  test('saving through a link replaces the file behind it and keeps its mode', async () => {
    const real = path.join(folder, 'real.onnx')
    const link = path.join(folder, 'link.onnx')
    fs.writeFileSync(real, 'old', { mode: 0o640 })
    fs.symlinkSync(real, link)
    await (await Model.load(big)).save(link)
    expect(fs.lstatSync(link).isSymbolicLink()).toBe(true)
    expect(equal(fs.readFileSync(real), big)).toBe(true)
    expect(fs.statSync(real).mode & 0o777).toBe(0o640)
  })

  test('a closed model says so', async () => {
    fs.writeFileSync(path.join(folder, 'in.onnx'), big)
    const m = await Model.load(path.join(folder, 'in.onnx'))
    m.close()
    m.close()
    expect(await code(m.initializers.get('w')!.read())).toBe('ERR_IO')
  })
})
