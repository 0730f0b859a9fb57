import { gemm } from '../../kernels/gemm'

/** A map of rows, x to x M with M of [from, to], whose product with its transpose is a projection (the identity for a rotation). */
export interface Basis {
  readonly from: number
  readonly to: number
  /** x M for each row of [count, from], computed in double precision or by `gemm`. */
  apply(rows: Float32Array): Float32Array
  /** y Mᵀ for each row of [count, to]. */
  back(rows: Float32Array): Float32Array
}

/**
 * A randomized Hadamard matrix (QuaRot, Ashkboos 2024) of any size: signs by `seed`, times the Walsh-Hadamard matrix of the largest
 * power of two in n, Kronecker a Hartley matrix of the odd rest, whose entries are at most √2 times as large.
 *
 * With `fixMean`, times the Householder reflection that brings the image of (1, …, 1) back to it. Then the mean over channels is
 * what it was, and with it what a LayerNormalization takes off; entries differ from a Hadamard matrix's by O(log n / n).
 */
export function hadamard(n: number, seed: number, { fixMean = false }: { readonly fixMean?: boolean } = {}): Basis {
  let power = 1
  while (n % (2 * power) === 0) power *= 2
  const odd = n / power
  const table = Float64Array.from(
    { length: odd },
    (_, i) => (Math.cos((2 * Math.PI * i) / odd) + Math.sin((2 * Math.PI * i) / odd)) / Math.sqrt(odd),
  )
  const signs = Float64Array.from(
    { length: n },
    (_, i) => (hash(Math.imul(seed, 0x9e3779b1) + i) & 1 ? 1 : -1) / Math.sqrt(power),
  )
  const spare = new Float64Array(odd)

  /** x H, H symmetric but for the scale of the Walsh-Hadamard matrix, which the signs have. */
  function mix(x: Float64Array): void {
    for (let h = 1; h < power; h *= 2)
      for (let i = 0; i < power; i += 2 * h)
        for (let at = i * odd; at < (i + h) * odd; at++) {
          const [a, b] = [x[at]!, x[at + h * odd]!]
          x[at] = a + b
          x[at + h * odd] = a - b
        }
    if (odd === 1) return
    for (let at = 0; at < n; at += odd) {
      spare.fill(0)
      for (let i = 0; i < odd; i++)
        for (let j = 0, k = 0; j < odd; j++, k = (k + i) % odd) spare[j]! += x[at + i]! * table[k]!
      x.set(spare, at)
    }
  }

  const u = fixMean ? Float64Array.from(signs, (s) => s / Math.sqrt(n)) : undefined
  if (u) {
    mix(u)
    for (let i = 0; i < n; i++) u[i]! -= 1 / Math.sqrt(n)
    const size = Math.hypot(...u)
    // The image is (1, …, 1) already.
    const scale = size > 1e-9 ? Math.SQRT2 / size : 0
    for (let i = 0; i < n; i++) u[i]! *= scale
  }
  function reflect(x: Float64Array): void {
    if (!u) return
    let dot = 0
    for (let i = 0; i < n; i++) dot += x[i]! * u[i]!
    for (let i = 0; i < n; i++) x[i]! -= dot * u[i]!
  }

  function each(rows: Float32Array, turn: (x: Float64Array) => void): Float32Array {
    const out = new Float32Array(rows.length)
    const x = new Float64Array(n)
    for (let at = 0; at < rows.length; at += n) {
      for (let i = 0; i < n; i++) x[i] = rows[at + i]!
      turn(x)
      out.set(x, at)
    }
    return out
  }
  return {
    from: n,
    to: n,
    apply: (rows) =>
      each(rows, (x) => {
        for (let i = 0; i < n; i++) x[i]! *= signs[i]!
        mix(x)
        reflect(x)
      }),
    back: (rows) =>
      each(rows, (x) => {
        reflect(x)
        mix(x)
        for (let i = 0; i < n; i++) x[i]! *= signs[i]!
      }),
  }
}

/** The map that a matrix [from, to] is. */
export function dense(matrix: Float32Array, from: number, to: number): Basis {
  const m = { type: 'float32', dims: [from, to], data: matrix } as const
  const times = (rows: Float32Array, size: number, transposeB: boolean): Float32Array =>
    gemm({ type: 'float32', dims: [rows.length / size, size], data: rows }, m, { transposeB }).data as Float32Array
  return { from, to, apply: (rows) => times(rows, from, false), back: (rows) => times(rows, to, true) }
}

/** One map for each of `count` blocks of channels. */
export function blocks(basis: Basis, count: number): Basis {
  return {
    from: basis.from * count,
    to: basis.to * count,
    apply: (rows) => basis.apply(rows),
    back: (rows) => basis.back(rows),
  }
}

/** The map of the channels that `chosen` says, in blocks of the size of `basis`; others stay. */
export function some(basis: Basis, chosen: readonly boolean[]): Basis {
  const size = basis.from
  const n = size * chosen.length
  const each = (rows: Float32Array, f: (part: Float32Array) => Float32Array): Float32Array => {
    const out = rows.slice()
    for (let at = 0, b = 0; at < rows.length; at += size, b = (b + 1) % chosen.length)
      if (chosen[b]) out.set(f(rows.subarray(at, at + size)), at)
    return out
  }
  return {
    from: n,
    to: n,
    apply: (rows) => each(rows, (p) => basis.apply(p)),
    back: (rows) => each(rows, (p) => basis.back(p)),
  }
}

/** 32 well-mixed bits of a counter (the finisher of MurmurHash3). */
function hash(i: number): number {
  let x = (i + 0x9e3779b9) | 0
  x = Math.imul(x ^ (x >>> 16), 0x85ebca6b)
  x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35)
  return (x ^ (x >>> 16)) >>> 0
}
