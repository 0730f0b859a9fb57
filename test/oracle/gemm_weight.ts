// Products with compressed weights in plain JavaScript doubles, with the stated error bound.
import { activate } from './gemm'

export interface OracleWeights {
  readonly k: number
  readonly n: number
  /** value of (p, j), and what the bound multiplies |a| by: scale·(|code − middle| + |middle − zero|) */
  readonly value: (p: number, j: number) => number
  readonly size: (p: number, j: number) => number
  /** rows that share an exponent begin anew at every block; 0 for weights whose rows are multiplied as float32 */
  readonly block: number
}

export interface OracleResult {
  readonly y: Float64Array
  readonly bound: Float64Array
}

export function weightProduct(a: ArrayLike<number>, m: number, w: OracleWeights, bias?: ArrayLike<number>, activation?: unknown): OracleResult {
  const { k, n } = w
  const y = new Float64Array(m * n)
  const bound = new Float64Array(m * n)
  const value = new Float64Array(k * n)
  const sizes = new Float64Array(k * n)
  for (let p = 0, at = 0; p < k; p++)
    for (let j = 0; j < n; j++, at++) {
      value[at] = w.value(p, j)
      sizes[at] = w.size(p, j)
    }
  const u = 2 ** -24
  const gamma = ((k + 8) * u) / (1 - (k + 8) * u)
  for (let i = 0; i < m; i++) {
    const near = new Float64Array(k)
    for (let start = 0; w.block > 0 && start < k; start += w.block)
      for (let first = start; first < Math.min(start + w.block, k); first += 32) {
        const end = Math.min(first + 32, start + w.block, k)
        let most = 0
        for (let p = first; p < end; p++) most = Math.max(most, Math.abs(a[i * k + p]!))
        near.fill(most, first, end)
      }
    for (let j = 0; j < n; j++) {
      let sum = bias ? bias[j]! : 0
      let size = 0
      let shared = 0
      for (let p = 0; p < k; p++) {
        const x = a[i * k + p]!
        sum += x * value[p * n + j]!
        size += Math.abs(x) * sizes[p * n + j]!
        shared += near[p]! * sizes[p * n + j]!
      }
      const v = activate(sum, activation)
      y[i * n + j] = v
      bound[i * n + j] = 1.13 * (gamma * size + 2 * u * shared + u * Math.abs(bias ? bias[j]! : 0)) + 8 * 2 ** -23 * Math.abs(v) + 1e-36
    }
  }
  return { y, bound }
}

/** The first element that is off, or ''. */
export function firstWrong(got: ArrayLike<number>, want: OracleResult): string {
  if (got.length !== want.y.length) return `${got.length} elements, want ${want.y.length}`
  for (let i = 0; i < got.length; i++) {
    const [g, w] = [got[i]!, want.y[i]!]
    if (Number.isNaN(w) ? !Number.isNaN(g) : Number.isFinite(w) ? !(Math.abs(g - w) <= want.bound[i]!) : g !== w)
      return `element ${i}: ${g}, want ${w} within ${want.bound[i]}`
  }
  return ''
}

/** Nibble `i` of packed bytes, low half first; signed on demand. */
export function nibble(data: ArrayLike<number>, i: number, signed = false): number {
  const v = i % 2 ? data[(i - 1) / 2]! >> 4 : data[i / 2]! & 15
  return signed && v > 7 ? v - 16 : v
}

export function halfValue(h: number): number {
  const sign = h & 0x8000 ? -1 : 1
  const exponent = (h >> 10) & 31
  const fraction = (h & 1023) / 1024
  return exponent === 31 ? (fraction ? NaN : sign * Infinity) : exponent ? sign * (1 + fraction) * 2 ** (exponent - 15) : sign * fraction * 2 ** -14
}

export function bfloat16Value(bits: number): number {
  return new Float32Array(Uint32Array.of(bits << 16).buffer)[0]!
}

/** To nearest, ties to even, from the number itself. */
export function toBfloat16(x: number): number {
  if (x === 0 || !Number.isFinite(x)) return x
  const step = 2 ** (Math.max(-126, Math.floor(Math.log2(Math.abs(x)))) - 7)
  const q = x / step
  const low = Math.floor(q)
  const rest = q - low
  return (rest > 0.5 || (rest === 0.5 && low % 2 !== 0) ? low + 1 : low) * step
}
