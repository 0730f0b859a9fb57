// Matrix products in plain JavaScript doubles.

function erfc(x: number): number {
  // Laplace's continued fraction from 2.5 up, the Taylor series below; good to 1e-13.
  const z = Math.abs(x)
  let value: number
  if (z < 2.5) {
    let term = z
    let sum = z
    for (let n = 1; n < 120; n++) {
      term *= (-z * z) / n
      sum += term / (2 * n + 1)
    }
    value = 1 - (2 / Math.sqrt(Math.PI)) * sum
  } else {
    let f = 0
    for (let n = 80; n >= 1; n--) f = n / 2 / (z + f)
    value = Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + f)
  }
  return x < 0 ? 2 - value : value
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

export function activate(x: number, activation: unknown = 'none'): number {
  if (typeof activation === 'object') {
    const [lo, hi] = (activation as { clip: [number, number] }).clip
    return Math.min(hi, Math.max(lo, x))
  }
  switch (activation) {
    case 'none':
      return x
    case 'relu':
      return Math.max(0, x)
    case 'relu6':
      return Math.min(6, Math.max(0, x))
    case 'hardswish':
      return (x * Math.min(6, Math.max(0, x + 3))) / 6
    case 'sigmoid':
      return sigmoid(x)
    case 'tanh':
      return Math.tanh(x)
    case 'silu':
      return x * sigmoid(x)
    case 'gelu':
      return (x / 2) * erfc(-x / Math.SQRT2)
    case 'gelu_tanh':
      return (x / 2) * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
  }
  throw new Error(`no activation ${String(activation)}`)
}

export interface OracleProduct {
  /** the exact results, and what the error bound multiplies: |alpha| Σ|a||b| + |beta c| + |bias| */
  readonly y: Float64Array
  readonly size: Float64Array
}

interface OracleOptions {
  readonly transposeA?: boolean
  readonly transposeB?: boolean
  readonly alpha?: number
  readonly beta?: number
  /** element (i, j) of c */
  readonly c?: (i: number, j: number) => number
  readonly bias?: ArrayLike<number>
  readonly activation?: unknown
}

/** One [M, K] × [K, N] product of contiguous operands. */
export function product(a: ArrayLike<number>, b: ArrayLike<number>, m: number, n: number, k: number, o: OracleOptions = {}): OracleProduct {
  const y = new Float64Array(m * n)
  const size = new Float64Array(m * n)
  const alpha = o.alpha ?? 1
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0
      let absolute = 0
      for (let p = 0; p < k; p++) {
        const t = (a[o.transposeA ? p * m + i : i * k + p] as number) * (b[o.transposeB ? j * k + p : p * n + j] as number)
        sum += t
        absolute += Math.abs(t)
      }
      sum *= alpha
      absolute *= Math.abs(alpha)
      const beta = o.beta ?? (o.c ? 1 : 0)
      if (o.c && beta !== 0) {
        sum += beta * o.c(i, j)
        absolute += Math.abs(beta * o.c(i, j))
      }
      if (o.bias) {
        sum += o.bias[j] as number
        absolute += Math.abs(o.bias[j] as number)
      }
      y[i * n + j] = activate(sum, o.activation)
      size[i * n + j] = absolute
    }
  return { y, size }
}

/** The stated bound for an element with `size` and an inner dimension of k; every activation has a slope ≤ 1.13. */
export function bound(size: number, k: number, y: number): number {
  const u = (k + 4) * 2 ** -24
  return (1.13 * u * size) / (1 - u) + 8 * 2 ** -23 * Math.abs(y) + 1e-37
}
