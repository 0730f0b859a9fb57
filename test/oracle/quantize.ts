// Uniform affine quantization in plain JavaScript, by the definition and one element at a time.

export interface Geometry {
  readonly dims: readonly number[]
  readonly axis: number | null
  readonly blockSize: number | null
}

/** Index of the group of each element. */
export function groups({ dims, axis, blockSize }: Geometry): { of: Int32Array; count: number } {
  const n = dims.reduce((a, b) => a * b, 1)
  const of = new Int32Array(n)
  if (axis === null) return { of, count: 1 }
  const at = axis < 0 ? axis + dims.length : axis
  const inner = dims.slice(at + 1).reduce((a, b) => a * b, 1)
  const length = dims[at]!
  const blocks = blockSize ? Math.ceil(length / blockSize) : 0
  for (let i = 0; i < n; i++) {
    const a = Math.floor(i / inner) % length
    const outer = Math.floor(i / inner / length)
    of[i] = blockSize ? (outer * blocks + Math.floor(a / blockSize)) * inner + (i % inner) : a
  }
  return { of, count: blockSize ? (n / (length || 1)) * blocks : length }
}

export function roundHalfEven(v: number): number {
  const f = Math.floor(v)
  const d = v - f
  return d < 0.5 ? f : d > 0.5 ? f + 1 : f % 2 === 0 ? f : f + 1
}

/** Codes for given scales and zero points. */
export function codes(
  x: ArrayLike<number>,
  group: ArrayLike<number>,
  scale: ArrayLike<number>,
  zero: ArrayLike<number>,
  qmin: number,
  qmax: number,
  round: (v: number) => number = roundHalfEven,
): number[] {
  const q: number[] = []
  for (let i = 0; i < x.length; i++) {
    const g = group[i]!
    q.push(Math.min(qmax, Math.max(qmin, round(Math.fround(x[i]! / scale[g]!)) + zero[g]!)))
  }
  return q
}

/** Scale and zero point of each group by the default convention. */
export function parameters(
  x: ArrayLike<number>,
  group: ArrayLike<number>,
  count: number,
  bits: number,
  symmetric: boolean,
  signed: boolean,
): { scale: Float32Array; zero: Int32Array; qmin: number; qmax: number } {
  const scale = new Float32Array(count)
  const zero = new Int32Array(count)
  const middle = signed ? 0 : 2 ** (bits - 1)
  const reach = 2 ** (bits - 1) - 1
  const qmin = symmetric ? middle - reach : signed ? -(2 ** (bits - 1)) : 0
  const qmax = symmetric ? middle + reach : qmin + 2 ** bits - 1
  const lo = new Float64Array(count)
  const hi = new Float64Array(count)
  for (let i = 0; i < x.length; i++) {
    const g = group[i]!
    lo[g] = Math.min(lo[g]!, x[i]!)
    hi[g] = Math.max(hi[g]!, x[i]!)
  }
  for (let g = 0; g < count; g++) {
    const most = Math.max(-lo[g]!, hi[g]!)
    scale[g] = most === 0 ? 1 : symmetric ? most / reach : Math.fround(hi[g]! - lo[g]!) / (qmax - qmin)
    zero[g] = symmetric
      ? middle
      : most === 0
        ? 0
        : Math.min(qmax, Math.max(qmin, qmin - roundHalfEven((lo[g]! * (qmax - qmin)) / (hi[g]! - lo[g]!))))
  }
  return { scale, zero, qmin, qmax }
}

/** One code an entry from packed bytes. */
export function unpack(data: ArrayLike<number>, type: string, count: number): number[] {
  const bits = Number(/\d+/.exec(type)![0])
  if (bits >= 8) return Array.from(data).slice(0, count)
  const out: number[] = []
  for (let i = 0; i < count; i++) {
    const each = 8 / bits
    const v = Math.floor(data[Math.floor(i / each)]! / 2 ** (bits * (i % each))) % 2 ** bits
    out.push(type.startsWith('u') || v < 2 ** (bits - 1) ? v : v - 2 ** bits)
  }
  return out
}
