// Integer products of family gemm: M x N x K, weights packed once, as a model's are. Against MatMulInteger and QLinearMatMul
// of onnxruntime and torch._int_mm; all sums are exact, so results must be equal. Then against ourselves: float32 output with an
// activation against int32, two threads against one, and how long a call keeps the event loop from a timer.
import { devices, gemm, gemmAsync, gemmInt8, gemmInt8Async, packInt8, type GemmInt8Options } from '../lib/index'
import { native } from '../lib/native'
import type { Bench } from './harness/bench'
import { close } from './harness/bench'
import type { Case, Prepared, Rival } from './harness/types'

interface Shape {
  readonly m: number
  readonly n: number
  readonly k: number
}

type Job = '' | 'f32' | 'q'

function modelOf(s: Shape, job: Job, signed: boolean, b: Int8Array, scales: Float32Array, bias: Float32Array) {
  const { m, n, k } = s
  const a = signed ? 'int8' : 'uint8'
  const weights = { b: { type: 'int8', dims: [k, n], data: b } } as const
  const scalar = (data: Float32Array) => ({ type: 'float32', dims: [], data }) as const
  const inputs = { a: { type: a, dims: [m, k] } } as const
  if (job === 'q')
    return {
      opset: 20,
      nodes: [{ op: 'QLinearMatMul', inputs: ['a', 'as', 'az', 'b', 'bs', 'bz', 'ys', 'yz'], outputs: ['y'] }],
      inputs,
      outputs: { y: { type: 'uint8', dims: [m, n] } as const },
      initializers: {
        ...weights,
        as: scalar(Float32Array.of(0.02)),
        az: { type: 'uint8', dims: [], data: Uint8Array.of(128) } as const,
        bs: { type: 'float32', dims: [n], data: scales } as const,
        bz: { type: 'int8', dims: [n], data: new Int8Array(n) } as const,
        ys: scalar(Float32Array.of(0.5)),
        yz: { type: 'uint8', dims: [], data: Uint8Array.of(120) } as const,
      },
    }
  const product = { op: 'MatMulInteger', inputs: ['a', 'b'], outputs: [job === 'f32' ? 'w' : 'y'] }
  if (job === '')
    return { opset: 20, nodes: [product], inputs, outputs: { y: { type: 'int32', dims: [m, n] } as const }, initializers: weights }
  return {
    opset: 20,
    nodes: [
      product,
      { op: 'Cast', inputs: ['w'], outputs: ['f'], attributes: { to: 1 } },
      { op: 'Mul', inputs: ['f', 's'], outputs: ['g'] },
      { op: 'Add', inputs: ['g', 'c'], outputs: ['h'] },
      { op: 'Relu', inputs: ['h'], outputs: ['y'] },
    ],
    inputs,
    outputs: { y: { type: 'float32', dims: [m, n] } as const },
    initializers: {
      ...weights,
      s: { type: 'float32', dims: [n], data: scales.map((x) => Math.fround(0.02) * x) } as const,
      c: { type: 'float32', dims: [n], data: bias } as const,
    },
  }
}

function peakOf(bench: Bench): string {
  const variant = devices().cpu.kernels.gemm_int8 ?? 'scalar'
  return bench.peaks[`s8_${variant}`] ? `s8_${variant}` : variant === 'avx512' ? 's8_avx512' : 's8_avx2'
}

/** Enough steps that waking a thread does not count. */
const kPeakSteps = 20000

/** A few rows: reading the weights, from the last cache or from memory. More: the variant's multiply-add, measured in turn with ours. */
function limits(bench: Bench, { m, n, k }: Shape): Pick<Prepared, 'bound' | 'limit'> {
  if (m <= 4 && n * k > 1e6) {
    const level = n * k > 24e6 ? 'dram_read' : 'l3_read'
    const rate = bench.peaks[level] as number
    return { bound: { name: `${level} ${((n * k) / 1e6).toFixed(1)} MB at ${rate.toFixed(1)} GB/s`, ms: (n * k) / rate / 1e6 } }
  }
  const done = bench.threads * native().gemmInt8Peak(1, 1) * kPeakSteps
  return {
    bound: bench.arithmetic(peakOf(bench), 2 * m * n * k),
    limit: { run: () => native().gemmInt8Peak(kPeakSteps, bench.threads), part: done / (2 * m * n * k) },
  }
}

function int8(s: Shape, signed: boolean, job: Job = ''): Case {
  return {
    case: `${signed ? 's8s8' : 'u8s8'}${job}_${s.m}x${s.n}x${s.k}`,
    prepare: async (bench): Promise<Prepared> => {
      const { m, n, k } = s
      const data = signed ? bench.int8(m * k) : bench.uint8(m * k)
      const a = { type: signed ? 'int8' : 'uint8', dims: [m, k], data } as const
      const b = bench.int8(k * n)
      const scales = bench.uniform(n, 0.001, 0.01)
      const bias = bench.normal(n)
      const packed = packInt8({ type: 'int8', dims: [k, n], data: b })
      const out = job === '' ? new Int32Array(m * n) : job === 'q' ? new Uint8Array(m * n) : new Float32Array(m * n)
      const options: GemmInt8Options =
        job === ''
          ? { out }
          : job === 'q'
            ? { out, outType: 'uint8', aZeroPoint: 128, aScale: 0.02, bScale: scales, outScale: 0.5, outZeroPoint: 120 }
            : { out, outType: 'float32', aScale: 0.02, bScale: scales, bias, activation: 'relu' }
      const model = modelOf(s, job, signed, b, scales, bias)
      const inputs = { a: { data, dims: [m, k] }, b: { data: b, dims: [k, n] } }
      const rivals: Promise<Rival>[] = [
        bench.onnx({ model, feeds: { a } }),
        bench.rival('onnxruntime', { inputs, model, op: "y = session.run(None, {'a': a})[0]", result: 'y' }),
      ]
      if (job === '') rivals.push(bench.onednn({ m, n, k, a: data, b }))
      // oneDNN inside torch: weights packed for unsigned rows; float32 sums, exact below 2^24.
      if (!signed && job !== 'q')
        rivals.push(
          bench.rival('torch', {
            inputs: { ...inputs, s: { data: scales, dims: [n] }, c: { data: bias, dims: [n] } },
            setup: `ta = torch.from_numpy(a)
tw = torch.ops.onednn.qlinear_prepack(torch.from_numpy(b).t().contiguous(), [${m}, ${k}])
tz = torch.zeros(${n}, dtype=torch.int32)
ts = ${job === '' ? `torch.ones(${n})` : 'torch.from_numpy(s)'}
tc = ${job === '' ? 'None' : 'torch.from_numpy(c)'}
run = torch.ops.onednn.qlinear_pointwise`,
            op: `ty = run(ta, ${job === '' ? '1.0' : '0.02'}, 0, tw, ts, tz, tc, 1.0, 0, torch.float32, '${job === '' ? 'none' : 'relu'}', [], '')`,
            result: 'ty.numpy()',
          }),
        )
      if (signed && job === '')
        rivals.push(
          bench.rival('torch', {
            inputs,
            setup: `ta = torch.from_numpy(a)\ntb = torch.from_numpy(b)\nty = torch.empty(${m}, ${n}, dtype=torch.int32)`,
            op: 'torch._int_mm(ta, tb, out=ty)',
            result: 'ty.numpy()',
          }),
        )
      // A tiny product is all call: its samples are too short for the engine to compile it on the way.
      if (m * n * k < 1e5) for (let i = 0; i < 30000; i++) gemmInt8(a, packed, options)
      return {
        ours: () => gemmInt8(a, packed, options),
        result: () => out,
        rivals: await Promise.all(rivals),
        // Exact, but for the order of float32 operations, which each library chooses.
        ...(job === '' ? {} : { check: job === 'q' ? close({ share: 1e-3, step: 1 }) : close({ atol: 1e-4, rtol: 1e-5 }) }),
        ...limits(bench, s),
        dispose: () => packed.dispose(),
      }
    },
  }
}

function operands(bench: Bench, { m, n, k }: Shape) {
  const a = { type: 'uint8', dims: [m, k], data: bench.uint8(m * k) } as const
  return { a, packed: packInt8({ type: 'int8', dims: [k, n], data: bench.int8(k * n) }) }
}

/** Scale, bias and activation: the rival is the same product with int32 output. */
function activated(s: Shape, activation: 'relu' | 'gelu' | 'silu'): Case {
  return {
    case: `u8s8${activation}_${s.m}x${s.n}x${s.k}`,
    prepare: (bench): Prepared => {
      const { a, packed } = operands(bench, s)
      const sums = new Int32Array(s.m * s.n)
      const out = new Float32Array(s.m * s.n)
      const bScale = bench.uniform(s.n, 0.001, 0.002)
      const options = { out, outType: 'float32', aScale: 0.02, bScale, bias: bench.normal(s.n), activation } as const
      const plain = { out: sums } as const
      return {
        ours: () => gemmInt8(a, packed, options),
        rivals: [{ name: 'ours-int32', run: () => gemmInt8(a, packed, plain) }],
        ...limits(bench, s),
        dispose: () => packed.dispose(),
      }
    },
  }
}

/** The run's threads: the rival is the same product on one. */
function scaling(s: Shape): Case {
  return {
    case: `u8s8threads_${s.m}x${s.n}x${s.k}`,
    prepare: (bench): Prepared => {
      const { a, packed } = operands(bench, s)
      const all = { out: new Int32Array(s.m * s.n) } as const
      const one = { out: new Int32Array(s.m * s.n), threads: 1 } as const
      return {
        ours: () => gemmInt8(a, packed, all),
        result: () => all.out,
        rivals: bench.threads === 1 ? [] : [{ name: 'ours-one-thread', run: () => gemmInt8(a, packed, one), result: () => one.out }],
        ...limits(bench, s),
        dispose: () => packed.dispose(),
      }
    },
  }
}

/** The longest that a timer of 1 ms was kept waiting while `work` ran, in ms. */
async function longestDelay(work: () => unknown): Promise<number> {
  let last = performance.now()
  let longest = 0
  const look = () => {
    const now = performance.now()
    longest = Math.max(longest, now - last - 1)
    last = now
  }
  const timer = setInterval(look, 1)
  await new Promise((done) => setTimeout(done, 3))
  await work()
  await new Promise((done) => setTimeout(done, 3))
  look()
  clearInterval(timer)
  return longest
}

/** How long the event loop stands still: the asynchronous call, and its synchronous twin as the rival. */
function overlap(name: string, s: Shape, make: (bench: Bench) => { readonly later: () => unknown; readonly now: () => unknown }): Case {
  return {
    case: `${name}delay_${s.m}x${s.n}x${s.k}`,
    prepare: (bench): Prepared => {
      const { later, now } = make(bench)
      return {
        ours: () => longestDelay(later),
        oursTimed: true,
        rivals: [{ name: 'ours-sync', run: () => longestDelay(now), selfTimed: true }],
      }
    },
  }
}

const kMany = 64

/** What a synchronous call on tiny operands costs beyond its product: a call of one, less the share of one in a call of many. */
function beyond(name: string, s: Shape, make: (bench: Bench, products: number) => () => unknown): Case {
  return {
    case: `${name}call_${s.m}x${s.n}x${s.k}`,
    prepare: (bench): Prepared => {
      const one = make(bench, 1)
      const many = make(bench, kMany + 1)
      const time = (run: () => unknown, repeats: number) => {
        const start = performance.now()
        for (let i = 0; i < repeats; i++) run()
        return (performance.now() - start) / repeats
      }
      // So often that the engine has compiled it.
      time(one, 30000)
      return {
        ours: () => {
          const call = time(one, 2000)
          return call - (time(many, 200) - call) / kMany
        },
        oursTimed: true,
        rivals: [],
        bound: { name: 'bar of 1.5 us', ms: 1.5e-3 },
      }
    },
  }
}

const big = { m: 1024, n: 1024, k: 1024 }
const tiny = { m: 8, n: 8, k: 8 }

const shapes: readonly Shape[] = [
  { m: 1, n: 4096, k: 4096 },
  { m: 16, n: 4096, k: 4096 },
  { m: 128, n: 768, k: 768 },
  { m: 128, n: 3072, k: 768 },
  { m: 512, n: 512, k: 512 },
  { m: 1024, n: 1024, k: 1024 },
  { m: 2048, n: 2048, k: 2048 },
  { m: 3136, n: 64, k: 576 },
]

const all: readonly Case[] = [
  ...shapes.map((s) => int8(s, false)),
  ...shapes.map((s) => int8(s, true)),
  int8({ m: 128, n: 768, k: 768 }, false, 'f32'),
  int8({ m: 128, n: 768, k: 768 }, false, 'q'),
  int8({ m: 8, n: 8, k: 8 }, false),
  ...(['relu', 'gelu', 'silu'] as const).map((x) => activated({ m: 128, n: 768, k: 768 }, x)),
  activated({ m: 128, n: 768, k: 3072 }, 'gelu'),
  scaling({ m: 128, n: 3072, k: 768 }),
  scaling(big),
  beyond('u8s8', tiny, (bench, products) => {
    const { packed } = operands(bench, tiny)
    const a = { type: 'uint8', dims: [products, 8, 8], data: bench.uint8(products * 64) } as const
    const out = new Int32Array(products * 64)
    return () => gemmInt8(a, packed, { out })
  }),
  beyond('f32', tiny, (bench, products) => {
    const a = { type: 'float32', dims: [products, 8, 8], data: bench.normal(products * 64) } as const
    const b = { type: 'float32', dims: [8, 8], data: bench.normal(64) } as const
    const out = new Float32Array(products * 64)
    return () => gemm(a, b, { out })
  }),
  overlap('u8s8async', big, (bench) => {
    const { a, packed } = operands(bench, big)
    const out = new Int32Array(big.m * big.n)
    return { later: () => gemmInt8Async(a, packed, { out }), now: () => gemmInt8(a, packed, { out }) }
  }),
  overlap('f32async', big, (bench) => {
    const a = { type: 'float32', dims: [big.m, big.k], data: bench.normal(big.m * big.k) } as const
    const b = { type: 'float32', dims: [big.k, big.n], data: bench.normal(big.k * big.n) } as const
    const out = new Float32Array(big.m * big.n)
    return { later: () => gemmAsync(a, b, { out }), now: () => gemm(a, b, { out }) }
  }),
]

// With --quick every shape once.
export const cases: readonly Case[] = all.map((c) => ({ ...c, full: !/^u8s8(f32|q)?_\d/.test(c.case) && !/^s8s8_128x768/.test(c.case) }))
