import { gptq } from '../lib/compress/second/gptq'
import { inverseFactor } from '../lib/compress/second/linear'
import { inverseDiagonal, refit } from '../lib/compress/second/obs'
import { sparsegpt } from '../lib/compress/second/sparsegpt'
import { noise } from './nets'
import { damped, inverse, leastOf, matrixOf, plainGptq, plainNearest, plainRefit, plainSparse, traceError } from './oracle/second'

/** Second moments of correlated inputs, some much larger than others, and one that is always 0. */
function hessianOf(n: number, vectors: number, seed = 7): Float64Array {
  const raw = noise(n * vectors, seed)
  const x = raw.map((v, i) => (i % n === 5 ? 0 : (v + 0.8 * (raw[i - 1] ?? 0) + 0.3 * raw[Math.floor(i / n) * n]!) * (i % 11 === 0 ? 6 : 1)))
  const h = new Float64Array(n * n)
  for (let r = 0; r < vectors; r++)
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) h[i * n + j]! += x[r * n + i]! * x[r * n + j]!
  return h
}

const rows = 16
const n = 140
const w = noise(rows * n, 3)
const h = hessianOf(n, 200)
const H = matrixOf(h, n, n)
const W = matrixOf(w, rows, n)

const valuesOf = ({ codes, scale }: { codes: Int8Array; scale: Float32Array }, size = n): number[][] => {
  const blocks = scale.length / rows
  return matrixOf(Float32Array.from(codes, (c, i) => c * scale[Math.floor(i / n) * blocks + Math.floor((i % n) / size)]!), rows, n)
}

test('the factor of the inverse is the inverse, for sizes around the blocks', () => {
  for (const size of [1, 2, 63, 66, 131]) {
    const own = hessianOf(size, 2 * size + 3)
    const { factor, lambda } = inverseFactor(own, size, 0.01)
    const want = inverse(matrixOf(own, size, size).map((row, i) => row.map((v, j) => (i === j ? v + lambda : v))))
    let worst = 0
    for (let i = 0; i < size; i++)
      for (let j = 0; j < size; j++) {
        let got = 0
        for (let k = 0; k <= Math.min(i, j); k++) got += factor[k * size + i]! * factor[k * size + j]!
        worst = Math.max(worst, Math.abs(got - want[i]![j]!) / Math.sqrt(want[i]![i]! * want[j]![j]!))
        if (j < i && factor[i * size + j] !== 0) throw new Error('not triangular')
      }
    expect(worst).toBeLessThan(1e-10)
    inverseDiagonal(factor, size).forEach((v, i) => expect(v / want[i]![i]!).toBeCloseTo(1, 8))
  }
})

test('large factors, whose products are taken in float32, are off by no more than moments are', () => {
  const size = 1100
  const scale = (i: number): number => (i % 13 ? 1 : 20)
  const own = Float64Array.from({ length: size * size }, (_, p) => {
    const [i, j] = [Math.floor(p / size), p % size]
    return scale(i) * scale(j) * (Math.exp(-Math.abs(i - j) / 40) + 2 + (i === j ? 0.05 : 0))
  })
  const { factor, lambda } = inverseFactor(own, size, 0.001)
  for (let i = 0; i < size; i++) own[i * size + i]! += lambda
  // U (H + λI) Uᵀ must be I: here some of its rows.
  let worst = 0
  for (let i = 7; i < size; i += 273) {
    const row = new Float64Array(size)
    for (let k = i; k < size; k++) for (let j = 0; j < size; j++) row[j]! += factor[i * size + k]! * own[k * size + j]!
    for (let m = 0; m < size; m++) {
      let got = 0
      for (let j = m; j < size; j++) got += row[j]! * factor[m * size + j]!
      worst = Math.max(worst, Math.abs(got - (i === m ? 1 : 0)))
    }
  }
  expect(worst).toBeLessThan(1e-3)
})

test('a matrix that is not positive definite gets more damping, and one of zeros has a factor', () => {
  const { lambda } = inverseFactor(Float64Array.of(1, 2.5, 2.5, 1), 2, 0.01)
  expect(lambda).toBe(10)
  expect([...inverseFactor(new Float64Array(4), 2, 0.01).factor]).toEqual([10, 0, 0, 10])
})

test.each([
  [2, 0, false], [3, 0, true], [4, 0, false], [4, 32, false], [4, 40, true], [3, 16, true], [4, 130, false], [8, 0, false],
] as const)('GPTQ to %i bits in blocks of %i (ordered: %s) errs as the plain one does, and less than the nearest codes', (bits, blockSize, order) => {
  const got = gptq(w, rows, n, h, { bits, blockSize, order })
  const size = blockSize || n
  const want = traceError(W, plainGptq(W, H, bits, size, order), H)
  const own = traceError(W, valuesOf(got, size), H)
  expect(Math.abs(own / want - 1)).toBeLessThan(0.01)
  expect(Math.abs(got.error / own - 1)).toBeLessThan(1e-3)
  expect(own).toBeLessThan(0.8 * traceError(W, plainNearest(W, bits, size), H))
  const top = 2 ** (bits - 1) - 1
  expect(got.codes.every((c) => Math.abs(c) <= top)).toBe(true)
  expect(got.relative).toBeCloseTo(got.error / traceError(W, W.map((row) => row.map(() => 0)), H), 6)
})

test('GPTQ clips for the least square error where asked, keeps zeros, takes given scales, and leaves its inputs alone', () => {
  const before = [w.slice(), h.slice()]
  const plain = gptq(w, rows, n, h, { bits: 3 })
  const clipped = gptq(w, rows, n, h, { bits: 3, range: 'omse' })
  expect(clipped.error).toBeLessThan(plain.error)
  expect(clipped.scale.every((s, i) => s <= plain.scale[i]!)).toBe(true)
  expect(gptq(w, rows, n, h, { bits: 3, scale: clipped.scale })).toEqual(clipped)
  const holes = w.map((v, i) => (i % 3 ? v : 0))
  expect(gptq(holes, rows, n, h, { bits: 4 }).codes.every((c, i) => i % 3 !== 0 || c === 0)).toBe(true)
  expect(gptq(holes, rows, n, h, { bits: 4, keepZeros: false }).codes.some((c, i) => i % 3 === 0 && c !== 0)).toBe(true)
  expect([w, h]).toEqual(before)
  expect(gptq(new Float32Array(6), 2, 3, new Float64Array(9), { bits: 4 })).toEqual({ codes: new Int8Array(6), scale: Float32Array.of(1, 1), error: 0, relative: 0 })
})

const zerosOf = (values: Float32Array): number => values.reduce((s, v) => s + (v === 0 ? 1 : 0), 0)

test.each([[0.5], [0.3], [0.9]])('SparseGPT at %f errs as the plain one does, and less than the smallest weights', (sparsity) => {
  const { weights, error } = sparsegpt(w, rows, n, h, { pattern: 'unstructured', sparsity })
  const want = traceError(W, plainSparse(W, H, 128, (scores) => leastOf(scores, sparsity)), H)
  const own = traceError(W, matrixOf(weights, rows, n), H)
  expect(Math.abs(own / want - 1)).toBeLessThan(0.01)
  expect(Math.abs(error / own - 1)).toBeLessThan(1e-3)
  expect(zerosOf(weights)).toBe(Math.round(sparsity * rows * n))
  const least = leastOf(W.map((row) => row.map(Math.abs)), sparsity)
  expect(own).toBeLessThan(0.95 * traceError(W, W.map((row, r) => row.map((v, c) => (least[r]![c] ? 0 : v))), H))
})

test('SparseGPT of two in four, of blocks along outputs and inputs, and balanced rows errs as the plain one does', () => {
  const close = (got: ReturnType<typeof sparsegpt>, want: number[][]): void => {
    const own = traceError(W, matrixOf(got.weights, rows, n), H)
    expect(Math.abs(own / traceError(W, want, H) - 1)).toBeLessThan(0.01)
  }
  const half = sparsegpt(w, rows, n, h, { pattern: { n: 2, m: 4 }, sparsity: 0.5 })
  close(half, plainSparse(W, H, 4, (scores) => scores.map((row) => leastOf([row], 0.5)[0]!)))
  for (let i = 0; i < rows * n; i += 4) expect(zerosOf(half.weights.subarray(i, i + 4))).toBe(2)
  for (const [r, c] of [[1, 4], [8, 1], [2, 2]] as const) {
    const stretch = Math.floor(128 / c) * c
    const blocks = (scores: number[][]): boolean[][] => {
      const sums = Array.from({ length: rows / r }, (_, i) => Array.from({ length: scores[0]!.length / c }, (_, j) => {
        let s = 0
        for (let y = 0; y < r; y++) for (let x = 0; x < c; x++) s += scores[i * r + y]![j * c + x]!
        return s
      }))
      const gone = leastOf(sums, 0.5)
      return scores.map((row, i) => row.map((_, j) => gone[Math.floor(i / r)]![Math.floor(j / c)]!))
    }
    close(sparsegpt(w, rows, n, h, { pattern: { block: [r, c] }, sparsity: 0.5 }), plainSparse(W, H, stretch, blocks))
  }
  const even = sparsegpt(w, rows, n, h, { pattern: 'unstructured', sparsity: 0.25, balanced: true })
  close(even, plainSparse(W, H, 128, (scores) => scores.map((row) => leastOf([row], 0.25)[0]!)))
  for (let r = 0; r < rows; r++) expect(zerosOf(even.weights.subarray(r * n, (r + 1) * n))).toBe(35)
})

test('the weights that stay are fitted as the normal equations say: exactly for short rows, nearly for long ones', () => {
  const kept = Uint8Array.from(w, (v) => (Math.abs(v) > 0.2 ? 1 : 0))
  const want = W.map((row, r) => plainRefit(row, row.map((_, c) => kept[r * n + c] === 1), damped(H, 0.01)))
  const least = traceError(W, want, damped(H, 0.01))
  for (const copies of [1, 5]) {
    // More rows are more than the exact solution is taken for.
    const many = new Float32Array(copies * w.length)
    const mask = new Uint8Array(copies * w.length)
    for (let i = 0; i < copies; i++) {
      many.set(w, i * w.length)
      mask.set(kept, i * w.length)
    }
    const got = refit(many, mask, copies * rows, n, h).subarray((copies - 1) * w.length)
    expect(got.every((v, i) => kept[i] === 1 || v === 0)).toBe(true)
    expect(traceError(W, matrixOf(got, rows, n), damped(H, 0.01)) / least).toBeLessThan(copies > 1 ? 1.01 : 1.00001)
    if (copies === 1) got.forEach((v, i) => expect(Math.abs(v - want[Math.floor(i / n)]![i % n]!)).toBeLessThan(1e-4))
  }
})
