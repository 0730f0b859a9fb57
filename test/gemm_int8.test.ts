import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { Worker } from 'node:worker_threads'
import { adopt, gemmInt8, gemmInt8Async, packInt8, packInt8Async, type GemmInt8Options, type PackedInt8 } from '../lib/index'
import { native } from '../lib/native'
import { fixtures } from './oracle/fixtures'
import { gemmInt8Oracle, type OracleInt8 } from './oracle/gemm_int8'

const dist = path.join(__dirname, '..', 'dist')

// SplitMix-like, so that failures repeat.
function random(seed: number): () => number {
  let s = seed >>> 0
  return () => {
    s = (s + 0x9e3779b9) >>> 0
    let z = s
    z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
    z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
    return ((z ^ (z >>> 16)) >>> 0) / 2 ** 32
  }
}

type Int8Type = 'int8' | 'uint8'
function bytes(type: Int8Type, count: number, next: () => number): Int8Array | Uint8Array {
  const corners = type === 'int8' ? [-128, 127, -1, 0] : [0, 255, 128, 127]
  const whole = next() < 0.3
  const data = type === 'int8' ? new Int8Array(count) : new Uint8Array(count)
  for (let i = 0; i < count; i++) data[i] = whole ? (corners[Math.floor(next() * 4)] as number) : Math.floor(next() * 256)
  return data
}
const tensor = (type: string, dims: number[], data: unknown) => ({ type, dims, data })

// jest compares long typed arrays very slowly.
const same = (x: ArrayBufferView, y: ArrayBufferView) =>
  Buffer.compare(Buffer.from(x.buffer, x.byteOffset, x.byteLength), Buffer.from(y.buffer, y.byteOffset, y.byteLength)) === 0

function code(f: () => unknown): string {
  try {
    f()
  } catch (e) {
    return `${(e as { code?: string }).code} ${(e as { parameter?: string }).parameter}`
  }
  return 'no error'
}

describe('fixtures', () => {
  test.each(fixtures('gemm', /^(s32_|u8_|s8_|f32_[us]8s8_)/).map((c) => [c.name, c] as const))('%s', (_, c) => {
    const p = c.parameters
    const options: Record<string, unknown> = { outType: p.outType, aZeroPoint: p.aZeroPoint }
    if (p.bZeroPoint !== undefined) options.bZeroPoint = p.bZeroPoint
    for (const role of ['bZeroPoint', 'bScale', 'bias']) if (c.has(role)) options[role] = c.tensor(role).data
    for (const role of ['aScale', 'outScale']) if (c.has(role)) options[role] = c.tensor(role).data[0]
    if (p.outZeroPoint !== undefined) options.outZeroPoint = p.outZeroPoint
    if (p.activation !== undefined) options.activation = p.activation
    const a = tensor(p.aType, c.tensor('a').dims, c.tensor('a').data)
    const b = tensor(p.bType, c.tensor('b').dims, c.tensor('b').data)
    const y = gemmInt8(a, b, options as GemmInt8Options)
    expect(y.dims).toEqual([p.m, p.n])
    c.check('y', y.data as Int32Array)
    const packed = packInt8(b)
    c.check('y', gemmInt8(a, packed, options as GemmInt8Options).data as Int32Array)
    packed.dispose()
  })
})

describe('against the oracle', () => {
  const next = random(20)
  const shapes = [[1, 1, 1], [7, 13, 29], [6, 64, 64], [13, 97, 31], [1, 200, 130], [65, 5, 3], [2, 3, 0], [3, 0, 4], [0, 4, 3]] as const
  const cases = shapes.flatMap(([m, n, k]) => (['int8', 'uint8'] as const).flatMap((at) => (['int8', 'uint8'] as const).map((bt) => [m, n, k, at, bt] as const)))
  test.each(cases)('%d x %d x %d, %s by %s: every output type', (m, n, k, at, bt) => {
    for (const outType of ['int32', 'float32', 'int8', 'uint8'] as const)
      for (const transposeB of [false, true]) {
        const a = bytes(at, m * k, next)
        const b = bytes(bt, k * n, next)
        const o: OracleInt8 = { m, n, k, a, b, transposeB, outType }
        const options: Record<string, unknown> = { outType, transposeB }
        options.aZeroPoint = o.aZero = at === 'int8' ? Math.floor(next() * 256) - 128 : Math.floor(next() * 256)
        if (next() < 0.5) options.bZeroPoint = o.bZero = bytes(bt, n, next)
        if (next() < 0.5) options.bias = o.biasInt = Int32Array.from({ length: n }, () => Math.floor((next() - 0.5) * 1e6))
        else if (outType !== 'int32') options.bias = o.biasFloat = Float32Array.from({ length: n }, () => next() - 0.5)
        if (outType !== 'int32') {
          options.aScale = o.aScale = 0.0123
          options.bScale = o.bScale = next() < 0.5 ? 0.031 : Float32Array.from({ length: n }, () => 0.001 + next() * 0.01)
          options.activation = o.activation = (['none', 'relu', 'relu6', { clip: [-1.5, 2.25] }] as const)[Math.floor(next() * 4)]!
        }
        if (outType === 'int8' || outType === 'uint8') {
          options.outScale = o.outScale = 0.27
          options.outZeroPoint = o.outZero = outType === 'int8' ? -7 : 201
        }
        const y = gemmInt8(tensor(at, [m, k], a), tensor(bt, transposeB ? [n, k] : [k, n], b), options as GemmInt8Options)
        expect(y.type).toBe(outType)
        expect(y.dims).toEqual([m, n])
        expect(Array.from(y.data as Int32Array, (v) => v + 0)).toEqual(gemmInt8Oracle(o).map((v) => v + 0))
      }
  })

  test.each(['hardswish', 'sigmoid', 'tanh', 'silu', 'gelu', 'gelu_tanh'] as const)('%s is as near to the exact value as documented', (activation) => {
    // One product by 1 gives every argument i / 1024 in turn.
    const count = 65536
    const data = Int8Array.of(1)
    const a = tensor('uint8', [1, 1], Uint8Array.of(1))
    const b = tensor('int8', [1, count], new Int8Array(count).fill(data[0]!))
    const bias = Int32Array.from({ length: count }, (_, i) => i - count / 2 - 1)
    const y = gemmInt8(a, b, { bias, aScale: 1 / 2048, outType: 'float32', activation }).data as Float32Array
    const want = gemmInt8Oracle({ m: 1, n: count, k: 1, a: [1], b: b.data as Int8Array, biasInt: bias, aScale: 1 / 2048, outType: 'float32', activation })
    let worst = 0
    let where = 0
    for (let i = 0; i < count; i++) {
      const x = ((bias[i] as number) + 1) / 2048
      const near = Math.min(2 * Math.abs(x), Math.max(1, Math.abs(x)))
      const slack = /silu|gelu/.test(activation) ? 2 * near : 6 * Math.abs(want[i] as number)
      const error = Math.abs((y[i] as number) - (want[i] as number)) / (slack * 2 ** -23 + 1e-37)
      if (!(error <= worst)) [worst, where] = [error, x]
    }
    expect({ where, worst, fits: worst <= 1 }).toEqual({ where, worst, fits: true })
  })

  test('batches broadcast and large inputs run on all threads alike', () => {
    const [m, n, k] = [5, 9, 33]
    const a = bytes('int8', 2 * 3 * m * k, next)
    const b = bytes('int8', 3 * k * n, next)
    const y = gemmInt8(tensor('int8', [2, 3, m, k], a), tensor('int8', [1, 3, k, n], b))
    expect(y.dims).toEqual([2, 3, m, n])
    for (let i = 0; i < 6; i++)
      expect(Array.from(y.data.subarray(i * m * n, (i + 1) * m * n) as Int32Array)).toEqual(
        gemmInt8Oracle({ m, n, k, a: a.subarray(i * m * k, (i + 1) * m * k), b: b.subarray((i % 3) * k * n, ((i % 3) + 1) * k * n) }),
      )
    const row = gemmInt8(tensor('int8', [k], a.subarray(0, k)), tensor('int8', [k, n], b.subarray(0, k * n)))
    expect(row.dims).toEqual([n])
    const large = tensor('uint8', [300, 500], bytes('uint8', 150000, next))
    const w = packInt8(tensor('int8', [500, 400], bytes('int8', 200000, next)))
    const one = gemmInt8(large, w, { threads: 1 }).data
    expect(same(gemmInt8(large, w, { threads: 2 }).data, one)).toBe(true)
    w.dispose()
  })
})

test('sums of the longest k are exact and one more is refused, saying how many fit', () => {
  const run = (k: number, aType: Int8Type, bType: Int8Type, a: number, b: number, options: GemmInt8Options = {}) =>
    gemmInt8(
      tensor(aType, [1, k], (aType === 'int8' ? new Int8Array(k) : new Uint8Array(k)).fill(a)),
      tensor(bType, [k, 1], (bType === 'int8' ? new Int8Array(k) : new Uint8Array(k)).fill(b)),
      options,
    ).data[0]
  expect(run(65536, 'uint8', 'int8', 255, -128)).toBe(65536 * 255 * -128)
  expect(run(65536, 'int8', 'int8', -128, -128)).toBe(65536 * 16384)
  expect(run(65793, 'uint8', 'int8', 255, -128)).toBe(65793 * 255 * -128)
  expect(run(131071, 'int8', 'int8', -128, -128)).toBe(131071 * 16384)
  expect(run(33025, 'uint8', 'uint8', 255, 255)).toBe(33025 * 65025)
  expect(() => run(65794, 'uint8', 'int8', 1, 1)).toThrow(/a: sums of 65794 products .* at most 65793 fit/)
  expect(() => run(131072, 'int8', 'int8', 1, 1)).toThrow(/at most 131071 fit/)
  expect(() => run(33026, 'uint8', 'uint8', 1, 1)).toThrow(/at most 33025 fit/)
  expect(() => run(65536, 'uint8', 'int8', 1, 1, { aZeroPoint: 0, bZeroPoint: -128 })).toThrow(/at most 33025 fit/)
  expect(() => run(65536, 'int8', 'int8', 1, 1, { bias: Int32Array.of(2 ** 31 - 1) })).toThrow(/^bias: sums of 65536/)
})

test('writes into out and refuses one that overlaps an input or has the wrong class or length', () => {
  const a = tensor('int8', [2, 2], Int8Array.of(1, 2, 3, 4))
  const b = tensor('int8', [2, 2], Int8Array.of(5, 6, 7, 8))
  const out = new Int32Array(4)
  expect(gemmInt8(a, b, { out }).data).toBe(out)
  expect(Array.from(out)).toEqual([19, 22, 43, 50])
  const shared = new Int8Array(8)
  const within = tensor('int8', [2, 2], shared.subarray(2, 6))
  expect(code(() => gemmInt8(within, b, { outType: 'int8', out: shared.subarray(0, 4) }))).toBe('ERR_RANGE out')
  expect(code(() => gemmInt8(a, b, { out: new Int32Array(3) }))).toBe('ERR_SHAPE out')
  expect(code(() => gemmInt8(a, b, { out: new Float32Array(4) }))).toBe('ERR_DTYPE out')
})

test('refuses what does not fit, naming the parameter', () => {
  const a = tensor('int8', [2, 3], new Int8Array(6))
  const b = tensor('int8', [3, 4], new Int8Array(12))
  const bad: [unknown, unknown, unknown, string][] = [
    [tensor('float32', [2, 3], new Float32Array(6)), b, {}, 'ERR_DTYPE a.type'],
    [tensor('int8', [2, 3], new Int8Array(5)), b, {}, 'ERR_SHAPE a'],
    [tensor('int8', [], new Int8Array(1)), b, {}, 'ERR_SHAPE a'],
    [tensor('int8', [2, 4], new Int8Array(8)), b, {}, 'ERR_SHAPE b'],
    [a, tensor('int8', [3], new Int8Array(3)), {}, 'ERR_SHAPE b'],
    [tensor('int8', [2, 2, 3], new Int8Array(12)), tensor('int8', [3, 3, 4], new Int8Array(36)), {}, 'ERR_SHAPE b'],
    [a, b, { transposeB: true }, 'ERR_SHAPE b'],
    [a, b, { aZeroPoint: 128 }, 'ERR_RANGE aZeroPoint'],
    [a, b, { aZeroPoint: 0.5 }, 'ERR_RANGE aZeroPoint'],
    [a, b, { bZeroPoint: new Uint8Array(4) }, 'ERR_DTYPE bZeroPoint'],
    [a, b, { bZeroPoint: new Int8Array(3) }, 'ERR_SHAPE bZeroPoint'],
    [a, b, { aScale: 0.5 }, 'ERR_RANGE aScale'],
    [a, b, { activation: 'relu' }, 'ERR_RANGE activation'],
    [a, b, { outType: 'float32', aScale: 0 }, 'ERR_RANGE aScale'],
    [a, b, { outType: 'float32', aScale: NaN }, 'ERR_RANGE aScale'],
    [a, b, { outType: 'float32', aScale: 1e300 }, 'ERR_RANGE aScale'],
    [a, b, { outType: 'float32', aScale: 1e30, bScale: 1e30 }, 'ERR_RANGE bScale'],
    [a, b, { outType: 'float32', bScale: Float32Array.of(1, 2, -1, 1) }, 'ERR_RANGE bScale'],
    [a, b, { outType: 'float32', bScale: new Float32Array(3) }, 'ERR_SHAPE bScale'],
    [a, b, { outType: 'float32', bias: Float32Array.of(1, NaN, 1, 1) }, 'ERR_RANGE bias'],
    [a, b, { outType: 'float32', bias: new Float32Array(3) }, 'ERR_SHAPE bias'],
    [a, b, { bias: new Float32Array(4) }, 'ERR_DTYPE bias'],
    [a, b, { outType: 'float32', outScale: 1 }, 'ERR_RANGE outScale'],
    [a, b, { outType: 'uint8', outZeroPoint: -1 }, 'ERR_RANGE outZeroPoint'],
    [a, b, { outType: 'int16' }, 'ERR_RANGE outType'],
    [a, b, { outtype: 'int8' }, 'ERR_RANGE options.outtype'],
    [a, b, { threads: 0 }, 'ERR_RANGE threads'],
    [a, null, {}, 'ERR_DTYPE b'],
    [a, {}, {}, 'ERR_HANDLE b'],
    [undefined, b, {}, 'ERR_DTYPE a'],
  ]
  for (const [x, y, o, want] of bad) expect([want, code(() => gemmInt8(x as never, y as never, o as never))]).toEqual([want, want])
  expect(code(() => packInt8(tensor('int8', [2, 3, 1], new Int8Array(6)) as never))).toBe('ERR_SHAPE w')
  expect(code(() => packInt8(tensor('float32', [2, 3], new Float32Array(6)) as never))).toBe('ERR_DTYPE w.type')
})

test('a result beyond 2³¹ elements is refused before memory is asked for', () => {
  const a = tensor('int8', [65536, 1], new Int8Array(65536))
  const b = tensor('int8', [1, 65536], new Int8Array(65536))
  expect(code(() => gemmInt8(a, b))).toBe('ERR_SHAPE out')
  const empty = (...dims: number[]) => tensor('int8', dims, new Int8Array(0))
  const n = 2 ** 31 - 1
  expect(code(() => gemmInt8(empty(n, 1, 1, 0), empty(1, n, 0, 1)))).toBe('ERR_SHAPE out')
  expect(code(() => packInt8(empty(0, 2 ** 53)))).toBe('ERR_SHAPE w.dims')
  // No result, however many empty products there are.
  expect(gemmInt8(empty(n, 1, 0, 0), empty(1, n, 0, 1)).dims).toEqual([n, n, 0, 1])
})

test('the async twins give the same and can be handed their own out', async () => {
  const next = random(5)
  for (const [m, n, k] of [[3, 5, 7], [130, 300, 513], [40, 1024, 1024]] as const) {
    const a = tensor('uint8', [m, k], bytes('uint8', m * k, next))
    const w = tensor('int8', [n, k], bytes('int8', k * n, next))
    const sync = packInt8(w, { transpose: true })
    const packed = await packInt8Async(w, { transpose: true })
    const want = gemmInt8(a, sync).data
    const out = new Int32Array(m * n)
    const [x, y] = await Promise.all([gemmInt8Async(a, packed, { out }), gemmInt8Async(a, w, { transposeB: true })])
    expect(x.data).toBe(out)
    expect(same(x.data, want)).toBe(true)
    expect(same(y.data, want)).toBe(true)
    sync.dispose()
    packed.dispose()
  }
  await expect(gemmInt8Async(tensor('int8', [1, 2], new Int8Array(2)), tensor('int8', [3, 1], new Int8Array(3)))).rejects.toMatchObject({ code: 'ERR_SHAPE' })
})

test('the event loop turns while an asynchronous product is computed', async () => {
  const a = tensor('uint8', [512, 1024], new Uint8Array(512 * 1024).fill(3))
  const b = tensor('int8', [1024, 1024], new Int8Array(1024 * 1024).fill(-2))
  let turns = 0
  // A product computed on this thread settles before the first turn, always; one beside it only where this thread was not
  // given the time to look.
  for (let i = 0; i < 20 && turns === 0; i++) {
    const turn = setImmediate(() => turns++)
    const y = await gemmInt8Async(a, b)
    clearImmediate(turn)
    expect(y.data[0]).toBe(-6144)
  }
  expect(turns).toBe(1)
})

describe('handles', () => {
  const a = tensor('int8', [1, 2], Int8Array.of(3, 4))
  const w = tensor('int8', [2, 1], Int8Array.of(10, 100))

  test('hold their numbers, report their size and let go of it', () => {
    const before = native().handleCount()
    const packed = packInt8(tensor('uint8', [100, 70], new Uint8Array(7000)))
    expect([packed.k, packed.n, packed.type, packed.disposed]).toEqual([100, 70, 'uint8', false])
    expect(packed.byteLength).toBeGreaterThanOrEqual(7000)
    expect(native().handleCount()).toBe(before + 1)
    packed.dispose()
    packed.dispose()
    expect([native().handleCount(), packed.disposed]).toEqual([before, true])
    expect(code(() => gemmInt8(tensor('int8', [1, 100], new Int8Array(100)), packed))).toBe('ERR_HANDLE b')
    expect(code(() => packed.share())).toBe('ERR_HANDLE PackedInt8')
  })

  test('are told from clones, tokens, other classes and forgeries', () => {
    const packed = packInt8(w)
    const clone = structuredClone({ ...packed })
    for (const fake of [structuredClone(packed), Object.create(Object.getPrototypeOf(packed)), packed.share(), [], {}, () => 1])
      expect(code(() => gemmInt8(a, fake as never))).toMatch(/^ERR_(HANDLE|DTYPE) b$/)
    expect(code(() => gemmInt8(a, clone as never))).toMatch(/ERR_(HANDLE|DTYPE) b/)
    const floats = tensor('float32', [1, packed.k], new Float32Array(packed.k))
    for (const fake of [structuredClone(packed), packed.share()]) expect(code(() => gemmInt8(floats, fake as never))).toBe('ERR_HANDLE b')
    const Class = packed.constructor as new (x: unknown) => unknown
    for (const fake of [{}, undefined, 1, packed]) expect(code(() => new Class(fake))).toMatch(/^ERR_HANDLE/)
    packed.dispose()
  })

  test('are adopted from their token as often as wanted, and not once gone', () => {
    const packed = packInt8(w)
    const token = structuredClone(packed.share())
    const again = adopt(token) as PackedInt8
    packed.dispose()
    expect(gemmInt8(a, again).data[0]).toBe(430)
    again.dispose()
    expect(code(() => adopt(token))).toBe('ERR_HANDLE token')
    expect(code(() => adopt({ ...token, process: '0'.repeat(32) }))).toBe('ERR_HANDLE token')
    for (const bad of [null, {}, { whittle: 'PackedInt8' }, { ...token, whittle: 'Session' }, { ...token, id: 1.5 }, { ...token, id: -1 }, 7])
      expect(code(() => adopt(bad as never))).toBe('ERR_HANDLE token')
  })

  test('disposed of in flight, they last until the call is done', async () => {
    const next = random(9)
    const big = tensor('int8', [64, 2048], bytes('int8', 64 * 2048, next))
    const weights = tensor('int8', [2048, 512], bytes('int8', 2048 * 512, next))
    const want = gemmInt8(big, weights).data
    const packed = packInt8(weights)
    const running = [1, 2, 3].map(() => gemmInt8Async(big, packed))
    packed.dispose()
    for (const r of await Promise.all(running)) expect(same(r.data, want)).toBe(true)
  })

  test('are shared by worker threads, and survive their end', async () => {
    const packed = packInt8(w)
    const script = `
      const { parentPort, workerData } = require('node:worker_threads')
      const { adopt, gemmInt8 } = require(${JSON.stringify(dist)})
      const packed = adopt(workerData)
      parentPort.postMessage(gemmInt8({ type: 'int8', dims: [1, 2], data: Int8Array.of(3, 4) }, packed).data[0])`
    const answers = await Promise.all(
      [1, 2, 3].map(() => new Promise((resolve, reject) => {
        const worker = new Worker(script, { eval: true, workerData: packed.share() })
        worker.on('error', reject)
        let answer: unknown
        worker.on('message', (v) => (answer = v))
        worker.on('exit', () => resolve(answer))
      })),
    )
    expect(answers).toEqual([430, 430, 430])
    expect(gemmInt8(a, packed).data[0]).toBe(430)
    packed.dispose()
  })

  test('are freed by the garbage collector', () => {
    const script = `
      const { packInt8 } = require(${JSON.stringify(dist)})
      const { native } = require(${JSON.stringify(path.join(dist, 'native.js'))})
      const w = { type: 'int8', dims: [1000, 1000], data: new Int8Array(1000000) }
      const before = native().handleExternalMemory()
      const one = packInt8(w)
      const external = native().handleExternalMemory() - before
      one.dispose()
      const after = native().handleExternalMemory() - before
      for (let i = 0; i < 50; i++) packInt8(w)
      global.gc()
      setImmediate(() => { global.gc(); setImmediate(() => console.log(native().handleCount(), external - after === one.byteLength)) })`
    const r = spawnSync(process.execPath, ['--expose-gc', '-e', script], { encoding: 'utf8' })
    expect(r.stderr + r.stdout.trim()).toBe('0 true')
  })
})

test('inputs of calls in flight may be transferred, resized and collected', () => {
  const script = `
    const { gemmInt8, gemmInt8Async } = require(${JSON.stringify(dist)})
    const make = (n, s) => Int8Array.from({ length: n }, (_, i) => (i * s) % 251 - 125)
    const main = async () => {
      for (const [m, k, n] of [[8, 64, 16], [600, 600, 500]]) {
        const want = gemmInt8({ type: 'int8', dims: [m, k], data: make(m * k, 7) }, { type: 'int8', dims: [k, n], data: make(k * n, 11) }).data
        const all = []
        for (let i = 0; i < 8; i++) {
          const a = make(m * k, 7), b = new Int8Array(new ArrayBuffer(k * n, { maxByteLength: 2 * k * n })), out = new Int32Array(m * n)
          b.set(make(k * n, 11))
          all.push(gemmInt8Async({ type: 'int8', dims: [m, k], data: a }, { type: 'int8', dims: [k, n], data: b }, i % 2 ? { out } : {}))
          try { structuredClone(a, { transfer: [a.buffer] }) } catch {}
          b.buffer.resize(1)
          global.gc()
        }
        for (const y of await Promise.all(all)) if (Buffer.compare(Buffer.from(y.data.buffer), Buffer.from(want.buffer))) throw new Error('differs')
      }
      console.log('ok')
    }
    main()`
  const r = spawnSync(process.execPath, ['--expose-gc', '-e', script], { encoding: 'utf8' })
  expect(r.stderr + r.stdout.trim()).toBe('ok')
})

test('every tier that this machine has answers the same bits', () => {
  const script = `
    const { gemmInt8, packInt8, devices } = require(${JSON.stringify(dist)})
    const crypto = require('node:crypto')
    const hash = crypto.createHash('sha256')
    let s = 1
    const next = () => (s = (Math.imul(s, 1664525) + 1013904223) >>> 0) >>> 24
    const fill = (x) => { for (let i = 0; i < x.length; i++) x[i] = next(); return x }
    for (const [m, n, k] of [[37, 150, 203], [1, 100, 1000], [16, 64, 64]])
      for (const outType of ['int32', 'float32', 'int8', 'uint8'])
        for (const activation of outType === 'int32' ? [undefined] : ['none', 'relu', 'gelu', 'gelu_tanh', 'silu', 'tanh', 'sigmoid', 'hardswish']) {
          const b = { type: 'int8', dims: [k, n], data: fill(new Int8Array(k * n)) }
          const options = { outType, bZeroPoint: 3, aZeroPoint: 119 }
          if (activation) Object.assign(options, { activation, aScale: 0.01, bScale: 0.003 })
          if (outType.endsWith('int8')) options.outScale = 0.11
          const y = gemmInt8({ type: 'uint8', dims: [m, k], data: fill(new Uint8Array(m * k)) }, packInt8(b), options).data
          hash.update(new Uint8Array(y.buffer))
        }
    console.log(devices().cpu.kernels.gemm_int8, hash.digest('hex'))`
  const answers = new Map<string, string>()
  for (const tier of native().systemInfo().tiers.filter((t) => t.supported)) {
    const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, WHITTLE_CPU: tier.name }, encoding: 'utf8' })
    const [variant, digest] = (r.stdout.trim() || r.stderr).split(' ')
    expect(variant).toBe(tier.name)
    answers.set(tier.name, digest as string)
  }
  expect(new Set(answers.values()).size).toBe(1)
})
