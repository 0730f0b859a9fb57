// Every kernel of cuda/*.cu against the package's functions on the CPU, over small odd shapes; and what its requests may cost.
// A check throws what differs, so that copies with a mistake can be held against the same checks.
import {
  applyMask,
  crossEntropy,
  dequantize,
  distill,
  gemm,
  gemmInt8,
  importance,
  mask,
  quantize,
  type Tensor,
  type TypedArray,
} from '../../../lib/index'
import { shapeOf } from '../../../lib/kernels/scheme'
import { bfloatBits, halfBits, narrow, ofBfloat, ofHalf } from './floats'
import { kFlags, Runner, type Int8Product, type Stem } from './launches'
import { laidSparse, multipliedSparse } from './sparse'

export type Check = (r: Runner, full: boolean) => void

const size = (dims: readonly number[]): number => dims.reduce((a, b) => a * b, 1)

/** Normal numbers with zeros and ties among them. */
export function normals(seed: number, n: number, spread = 1): Float32Array {
  let state = seed + 1
  const uniform = (): number => ((state = (state * 1103515245 + 12345) % 2 ** 31) + 0.5) / 2 ** 31
  return Float32Array.from({ length: n }, () => {
    const kind = uniform()
    if (kind < 0.1) return 0
    if (kind < 0.3) return Math.round(uniform() * 18 - 9) / 2
    return Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()) * spread
  })
}
const bytes = <T extends Int8Array | Uint8Array>(of: { new (n: number): T }, seed: number, n: number): T => {
  const out = new of(n)
  for (let i = 0; i < n; i++) out[i] = Math.imul(seed + i, 2654435761) >>> 24
  return out
}
const halves = (x: Float32Array): Uint16Array => Uint16Array.from(x, (v) => halfBits(narrow(v, 'f16', 'rn')))
const bfloats = (x: Float32Array): Uint16Array => Uint16Array.from(x, (v) => bfloatBits(narrow(v, 'bf16', 'rn')))

export function same(
  got: ArrayLike<number>,
  want: ArrayLike<number>,
  what: string,
  bound: (i: number) => number = () => 0,
): void {
  if (got.length !== want.length) throw new Error(`${what}: ${got.length} values, want ${want.length}`)
  for (let i = 0; i < want.length; i++) {
    const [g, w] = [got[i] as number, want[i] as number]
    if (Object.is(g, w)) continue
    if (!(Math.abs(g - w) <= bound(i)) || bound(i) === 0)
      throw new Error(`${what}: [${i}] is ${g}, want ${w}${bound(i) ? ` +- ${bound(i)}` : ''}`)
  }
}
const raw = (a: ArrayBufferView): Uint8Array => new Uint8Array(a.buffer, a.byteOffset, a.byteLength)

const quantized = (r: Runner, full: boolean): void => {
  const cases: [number[], Record<string, unknown>][] = [
    [[777], {}],
    [[7, 33], { axis: 0, symmetric: false }],
    [[3, 5, 17], { axis: 1, bits: 16 }],
    [[67, 13], { axis: -1, bits: 4, convention: 'torch' }],
    [[5, 70], { blockSize: 32, bits: 4, symmetric: false }],
    [[2, 21, 9], { axis: 1, blockSize: 4, bits: 2 }],
    [[1, 300], { blockSize: 7, bits: 3, powerOfTwo: true }],
    [[9, 31], { axis: 0, rounding: 'stochastic', seed: 77 }],
    [[4, 40], { axis: 0, rounding: 'toward-zero', bits: 16, symmetric: false }],
    ...(full
      ? ([
          [[5000], { bits: 4 }],
          [[200, 3], { axis: 1, symmetric: false }],
          [[1], { symmetric: false }],
          [[2, 64], { blockSize: 16, bits: 2, symmetric: false }],
          [[33, 65], { axis: 0, bits: 16, convention: 'torch' }],
        ] as [number[], Record<string, unknown>][])
      : []),
  ]
  cases.forEach(([dims, o], index) => {
    for (const kind of full ? [0, 1, 2] : [index % 3]) {
      const floats = normals(index, size(dims), index % 4 === 3 ? 1e-3 : 1)
      const data = kind === 0 ? floats : kind === 1 ? halves(floats) : bfloats(floats)
      const x = { type: ['float32', 'float16', 'bfloat16'][kind], dims, data } as unknown as Tensor
      const want = quantize(x as never, o as never)
      const shape = shapeOf(dims, o['axis'], o['blockSize'])
      const what = `quantize of [${dims}] kind ${kind} ${JSON.stringify(o)}`
      const got = r.quantize(data, kind, shape, o)
      same(got.scale, want.scale.data, `${what}: scale`)
      same(got.zero, raw(want.zeroPoint.data), `${what}: zero point`)
      same(got.q, raw(want.data as unknown as TypedArray), `${what}: codes`)
      if (got.flags) throw new Error(`${what}: flags ${got.flags}`)
      const width = Number(/\d+/.exec(want.type)?.[0])
      const back = r.dequantize(
        want.data as unknown as TypedArray,
        width,
        !want.type.startsWith('u'),
        shape,
        want.scale.data,
        want.zeroPoint.data,
        kind,
      )
      same(new Uint8Array(back), raw(dequantize(want, { type: x.type as 'float32' }).data), `${what}: values`)
      if (index % 2) continue
      // Scales that the caller gives.
      const scale = Float32Array.from({ length: shape.count }, (_, i) => 0.05 + i / 1000)
      const given = { ...o, scale: { type: 'float32', dims: shape.dims, data: scale } }
      const again = r.quantize(data, kind, shape, o, scale)
      same(
        again.q,
        raw(quantize(x as never, given as never).data as unknown as TypedArray),
        `${what}: codes of given scales`,
      )
    }
  })
  for (const [kind, dims, axis, bins] of [[0, [2, 3, 700], 1, 256], [1, [40, 5], -1, 256], [2, [3000], null, 256], [0, [50], null, 16384]] as const) {
    const floats = normals(bins + kind, size([...dims]), 1)
    const data = kind === 0 ? floats : kind === 1 ? halves(floats) : bfloats(floats)
    const shape = shapeOf(dims, axis, undefined)
    const factors = Float32Array.from({ length: shape.count }, (_, i) => bins / (i % 2 ? 16 : 32))
    const want = new Uint32Array(shape.count * bins)
    const read = kind === 0 ? floats : Float32Array.from(data as Uint16Array, kind === 1 ? ofHalf : ofBfloat)
    read.forEach((v, i) => {
      const channel = Math.floor(i / shape.inner) % shape.axis
      want[channel * bins + Math.floor(v * (factors[channel] as number)) + bins / 2]!++
    })
    const got = r.histogram(data, kind, shape, factors, bins)
    same(raw(got.counts), raw(want), `quantize: histogram of [${dims}] kind ${kind}`)
    if (got.flags) throw new Error(`quantize: histogram: flags ${got.flags}`)
  }
  if (!r.histogram(Float32Array.of(1, 9, 2), 0, shapeOf([3], null, null), Float32Array.of(64), 256).flags)
    throw new Error('quantize: a value outside of the histogram raises no flag')
  const bad = r.quantize(Float32Array.of(1, NaN, 2), 0, shapeOf([3], null, null), {})
  if (!(bad.flags & kFlags.nonfinite)) throw new Error('quantize: NaN raises no flag')
}

const selected = (r: Runner, full: boolean): void => {
  const criteria = ['l1', 'l2', 'square', 'linf', 'sensitivity', 'taylor'] as const
  const norms = { l1: 1, l2: 2, square: 3, linf: 4, sensitivity: 5, taylor: 6 }
  const shapes: [number, number, number][] = full ? [[6, 4, 9], [70, 5, 3], [3, 7, 45], [1, 2, 5000]] : [[6, 4, 9], [3, 5, 45]] // prettier-ignore
  for (const dims of shapes) {
    const w = normals(5, size(dims))
    const grad = normals(6, size(dims))
    const tensor = { type: 'float32', dims, data: w } as const
    for (const criterion of criteria) {
      const graded = criterion === 'sensitivity' || criterion === 'taylor'
      const g = graded ? { grad: { type: 'float32', dims, data: grad } as const } : {}
      const norm = norms[criterion]
      same(
        r.scores(norm, w, graded ? grad : undefined),
        importance(tensor, { criterion, ...g }).data as Float32Array,
        `scores ${criterion}`,
      )
      const want = importance(tensor, { criterion, axis: 1, ...g }).data as Float32Array
      const got = r.groups(norm, w, graded ? grad : undefined, ...dims)
      same(got, want, `groups ${criterion} of [${dims}]`, (i) => 2 ** -22 * Math.abs(want[i] as number))
    }
  }
  for (const n of full ? [1, 2, 255, 257, 4096, 4097, 9001] : [1, 257, 4099]) {
    // Many ties, and both zeros.
    const w = normals(n, n).map((v, i) => (i % 5 === 0 ? Math.round(v * 2) / 2 : i % 7 === 0 ? -0 : v))
    for (const sparsity of n > 300 && !full ? [0.7] : [0, 0.3, 0.7, 1]) {
      const want = mask({ type: 'float32', dims: [n], data: w }, { sparsity }).data as Uint8Array
      const keep = want.reduce((a, b) => a + b, 0)
      const got = r.largest(w, keep)
      same(got.mask, want, `mask of ${n}, ${keep} kept`)
      const sorted = [...w].sort((a, b) => b - a)
      if (keep && got.threshold !== sorted[keep - 1])
        throw new Error(`mask of ${n}: threshold ${got.threshold}, want ${sorted[keep - 1]}`)
      same(
        r.apply(w, want),
        applyMask({ type: 'float32', dims: [n], data: w }, { type: 'bool', dims: [n], data: want })
          .data as Float32Array,
        `apply of ${n}`,
      )
    }
  }
  for (const [outer, axis, inner, keep, m, pattern, along] of [
    [5, 12, 1, 2, 4, '2:4', 1],
    [1, 8, 9, 1, 4, '1:4', 1],
    [3, 16, 5, 3, 8, '3:8', 1],
  ] as const) {
    // prettier-ignore
    const w = normals(keep, outer * axis * inner)
    const want = mask({ type: 'float32', dims: [outer, axis, inner], data: w }, { pattern, axis: along })
      .data as Uint8Array
    same(r.nm(w, outer, axis, inner, keep, m), want, `${pattern} of [${outer}, ${axis}, ${inner}]`)
  }
}

const kReductions = ['mean', 'batchmean', 'sum', 'none'] as const

/** As test/cuda/check_distill.cpp bounds it: each term is a probability of float32 times a logarithm. */
function near(
  got: { loss: number[]; grad: number[]; flags: number },
  want: { loss: unknown; grad: Tensor },
  what: string,
  spread: number,
  t: number,
  samples: number,
): void {
  const far = 16 * spread * (1 / t + 1)
  const e = (20 + 8 * far) * 2 ** -24
  const grad = want.grad.data as Float32Array
  if (got.flags) throw new Error(`${what}: flags ${got.flags}`)
  same(got.grad, grad, `${what}: gradient`, (i) => e * (Math.abs(grad[i] as number) + 4 * (1 + t)))
  const loss = typeof want.loss === 'number' ? [want.loss] : [...((want.loss as Tensor).data as Float32Array)]
  same(got.loss, loss, `${what}: loss`, (i) => e * (Math.abs(loss[i] as number) + samples * (1 + far) * t * t * 4))
}

const logits = (
  seed: number,
  samples: number,
  classes: number,
  half: boolean,
): [Float32Array | Uint16Array, Tensor] => {
  const x = normals(seed, samples * classes, 3)
  const data = half ? bfloats(x) : x
  return [data, { type: half ? 'bfloat16' : 'float32', dims: [samples, classes], data }]
}

const distilled = (r: Runner, full: boolean): void => {
  const shapes: [number, number][] = full ? [[1, 1], [4, 2], [19, 31], [5, 33], [3, 300], [2, 1024], [3, 1031], [2, 2500]] : [[9, 10], [3, 33], [2, 1031]] // prettier-ignore
  shapes.forEach(([samples, classes], index) => {
    for (const reduction of full ? [0, 1, 2, 3] : index ? [index % 4] : [0, 3]) {
      const half = (index + reduction) % 3 === 0
      const [s, student] = logits(index, samples, classes, half)
      const [t, teacher] = logits(index + 50, samples, classes, (index + reduction) % 4 === 1)
      const labels = Int32Array.from({ length: samples }, (_, i) => (i % 5 === 3 ? -100 : (i * 7) % classes))
      const weights = Float32Array.from({ length: classes }, (_, i) => 0.5 + (i % 10) / 10)
      const name = kReductions[reduction] as 'mean'
      const what = `[${samples}, ${classes}] ${name}`
      const base = { samples, classes, reduction, student: s }
      if (name !== ('batchmean' as string)) {
        const options = { reduction: name, ignoreIndex: -100, labelSmoothing: 0.1, classWeights: weights }
        near(
          r.loss({ ...base, labels, ignore: -100, smoothing: 0.1, weights }),
          crossEntropy(student as never, labels, options as never),
          `cross entropy ${what}`,
          3,
          1,
          samples,
        )
      }
      near(
        r.loss({ ...base, teacher: t, temperature: 3, alpha: 1 }),
        distill.kl(student as never, teacher as never, { reduction: name, temperature: 3 }),
        `kl ${what}`,
        3,
        3,
        samples,
      )
      const mixed = { reduction: name, temperature: 2, labels, alpha: 0.3, ignoreIndex: -100 }
      near(
        r.loss({ ...base, teacher: t, labels, ignore: -100, temperature: 2, alpha: 0.3 }),
        distill.kl(student as never, teacher as never, mixed as never),
        `kl with labels ${what}`,
        3,
        2,
        samples,
      )
    }
  })
}

const diverged = (r: Runner, full: boolean): void => {
  const shapes: [number, number][] = full ? [[3, 1], [2, 2], [4, 31], [2, 257], [1, 700]] : [[3, 33], [1, 300]] // prettier-ignore
  shapes.forEach(([samples, classes], index) => {
    for (const reduction of full ? [0, 1, 2, 3] : [index * 3]) {
      const [s, student] = logits(index, samples, classes, false)
      const [t, teacher] = logits(index + 9, samples, classes, index % 2 === 1)
      const name = kReductions[reduction] as 'mean'
      const want = distill.js(student as never, teacher as never, { reduction: name, temperature: 2 })
      near(
        r.js({ samples, classes, student: s, teacher: t, reduction, temperature: 2 }),
        want,
        `js [${samples}, ${classes}] ${name}`,
        3,
        2,
        samples,
      )
    }
  })
}

const activations = [
  'none',
  'relu',
  'relu6',
  'hardswish',
  'sigmoid',
  'tanh',
  'silu',
  'gelu',
  'gelu_tanh',
  { clip: [-1, 0.5] },
] as const

const finished = (r: Runner, full: boolean): void => {
  const [m, n] = [7, 43]
  const x = normals(3, m * n, 4)
  const one = Float32Array.from({ length: n * n }, (_, i) => Number(i % (n + 1) === 0))
  for (const kind of [0, 1, 2])
    activations.forEach((activation, index) => {
      if (!full && kind && index % 3 !== kind) return
      const bias = index % 2 ? normals(9, n) : undefined
      const narrowed = bias && (kind === 0 ? bias : kind === 1 ? halves(bias) : bfloats(bias))
      const wide =
        narrowed && Float32Array.from(narrowed, (v) => (kind === 0 ? v : kind === 1 ? ofHalf(v) : ofBfloat(v)))
      const want = gemm(
        { type: 'float32', dims: [m, n], data: x },
        { type: 'float32', dims: [n, n], data: one },
        { activation: activation as never, ...(wide ? { bias: wide } : {}) },
      ).data as Float32Array
      const y = r.finish(x, n, kind, narrowed, activation)
      const got =
        kind === 0 ? new Float32Array(y) : Float32Array.from(new Uint16Array(y), kind === 1 ? ofHalf : ofBfloat)
      // Twice core/activation.h's bound, and half a unit of the type.
      const unit = kind === 0 ? 0 : kind === 1 ? 2 ** -11 : 2 ** -8
      same(
        got,
        want,
        `finish kind ${kind} ${JSON.stringify(activation)}`,
        (i) => Math.abs(want[i] as number) * (unit + 16 * 2 ** -23) + (kind === 1 ? 2 ** -25 : 2 ** -120),
      )
    })
}

const multiplied = (r: Runner, full: boolean): void => {
  const shapes: [number, number, number][] = full ? [[1, 1, 1], [5, 7, 19], [9, 33, 40], [16, 13, 67], [3, 300, 16], [2, 5, 600]] : [[1, 7, 19], [9, 5, 40]] // prettier-ignore
  let turn = 0
  for (const [m, n, k] of shapes)
    for (const outType of ['int32', 'float32', 'int8', 'uint8'] as const)
      for (const [aSigned, bSigned] of full
        ? [
            [true, true],
            [false, true],
            [true, false],
            [false, false],
          ]
        : [[turn % 2 > 0, turn % 3 > 0]]) {
        // prettier-ignore
        turn++
        const a = bytes<Int8Array | Uint8Array>(aSigned ? Int8Array : Uint8Array, turn, m * k)
        const b = bytes<Int8Array | Uint8Array>(bSigned ? Int8Array : Uint8Array, turn + 3, n * k)
        const transposed = turn % 2 > 0
        const exact = outType === 'int32'
        const bias =
          turn % 3 === 0 ? undefined : exact ? Int32Array.from({ length: n }, (_, i) => i * 5 - 9) : normals(turn, n)
        const scales = Float32Array.from({ length: n }, (_, i) => 0.01 + i / 100)
        const zeros = bytes<Int8Array | Uint8Array>(bSigned ? Int8Array : Uint8Array, turn + 9, n)
        const p: Int8Product = {
          a,
          b,
          m,
          n,
          k,
          transposed,
          outType,
          aZero: 3,
          bZero: turn % 4 === 1 ? zeros : bSigned ? -5 : 120,
          bias,
        }
        if (!exact)
          Object.assign(p, {
            aScale: 0.02,
            bScale: turn % 2 ? scales : 0.03,
            activation: activations[turn % activations.length],
          })
        if (outType === 'int8' || outType === 'uint8') Object.assign(p, { outScale: 0.1, outZero: 7 })
        const type = (x: unknown): 'int8' | 'uint8' => (x instanceof Uint8Array ? 'uint8' : 'int8')
        const options: Record<string, unknown> = {
          outType,
          transposeB: transposed,
          aZeroPoint: p.aZero,
          bZeroPoint: p.bZero,
        }
        for (const [key, value] of [
          ['bias', bias],
          ['aScale', p.aScale],
          ['bScale', p.bScale],
          ['activation', p.activation],
          ['outScale', p.outScale],
          ['outZeroPoint', p.outZero],
        ] as const)
          // prettier-ignore
          if (value !== undefined) options[key] = value
        const want = gemmInt8(
          { type: type(a), dims: [m, k], data: a },
          { type: type(b), dims: transposed ? [n, k] : [k, n], data: b },
          options as never,
        )
        const got = r.gemmInt8(p)
        const what = `gemmInt8 [${m}, ${n}, ${k}] ${outType} turn ${turn}`
        if (got.flags) throw new Error(`${what}: flags ${got.flags}`)
        same(new Uint8Array(got.y), raw(want.data as unknown as TypedArray), what)
      }
}

/** The values of every kernel of one file. */
export const values: Record<Stem, Check> = {
  quantize: quantized,
  select: selected,
  distill: distilled,
  divergence: diverged,
  gemm: finished,
  gemm_int8: multiplied,
  sparse: laidSparse,
  spmm: multipliedSparse,
}
