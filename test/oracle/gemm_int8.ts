// Integer products in plain JavaScript: sums in float64 (exact below 2^53), each operation of the epilogue rounded to
// float32 by itself. Transcendental activations in float64.

export interface OracleInt8 {
  m: number
  n: number
  k: number
  a: ArrayLike<number>
  b: ArrayLike<number>
  transposeB?: boolean
  aZero?: number
  bZero?: number | ArrayLike<number>
  aScale?: number
  bScale?: number | ArrayLike<number>
  biasInt?: ArrayLike<number>
  biasFloat?: ArrayLike<number>
  activation?: string | { clip: readonly [number, number] }
  outType?: string
  outScale?: number
  outZero?: number
}

const at = (x: number | ArrayLike<number> | undefined, j: number, otherwise: number): number =>
  x === undefined ? otherwise : typeof x === 'number' ? x : (x[x.length === 1 ? 0 : j] as number)

// The complementary error function: a power series near 0, a continued fraction further out.
function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x)
  if (x < 2.5) {
    let term = x
    let sum = x
    for (let i = 1; i < 200; i++) {
      term *= (-x * x) / i
      sum += term / (2 * i + 1)
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum
  }
  let f = 0
  for (let i = 120; i > 0; i--) f = i / 2 / (x + f)
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + f)
}

export function activate(x: number, kind: string | { clip: readonly [number, number] }): number {
  if (typeof kind !== 'string') return Math.min(Math.max(x, kind.clip[0]), kind.clip[1])
  switch (kind) {
    case 'none': return x
    case 'relu': return Math.max(x, 0)
    case 'relu6': return Math.min(Math.max(x, 0), 6)
    case 'hardswish': return (x * Math.min(Math.max(x + 3, 0), 6)) / 6
    case 'sigmoid': return 1 / (1 + Math.exp(-x))
    case 'tanh': return Math.tanh(x)
    case 'silu': return x / (1 + Math.exp(-x))
    case 'gelu': return 0.5 * x * erfc(-x / Math.SQRT2)
    case 'gelu_tanh': return x / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))
    default: throw new Error(`oracle: no activation ${kind}`)
  }
}

export function roundHalfEven(x: number): number {
  const low = Math.floor(x)
  const rest = x - low
  return rest < 0.5 ? low : rest > 0.5 ? low + 1 : low % 2 === 0 ? low : low + 1
}

export function gemmInt8Oracle(o: OracleInt8): number[] {
  const out: number[] = []
  const f = Math.fround
  for (let i = 0; i < o.m; i++)
    for (let j = 0; j < o.n; j++) {
      let sum = at(o.biasInt, j, 0)
      for (let p = 0; p < o.k; p++) {
        const b = o.b[o.transposeB ? j * o.k + p : p * o.n + j] as number
        sum += ((o.a[i * o.k + p] as number) - (o.aZero ?? 0)) * (b - at(o.bZero, j, 0))
      }
      if ((o.outType ?? 'int32') === 'int32') {
        out.push(sum)
        continue
      }
      const scaled = f(f(sum) * f(f(o.aScale ?? 1) * f(at(o.bScale, j, 1))))
      const y = f(activate(o.biasFloat ? f(scaled + f(at(o.biasFloat, j, 0))) : scaled, o.activation ?? 'none'))
      if (o.outType === 'float32') {
        out.push(y)
        continue
      }
      const q = roundHalfEven(f(y / f(o.outScale ?? 1))) + (o.outZero ?? 0)
      out.push(o.outType === 'int8' ? Math.min(Math.max(q, -128), 127) : Math.min(Math.max(q, 0), 255))
    }
  return out
}
