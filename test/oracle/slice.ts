/**
 * SliceGPT of one residual block by its definition, in plain double precision: mean subtraction moved into what writes the stream,
 * the normalization by root mean square, then principal components. Written apart from the library.
 */

export type Matrix = number[][]

/** x + relu(n(x) A + a) B + b, read by n(·) C; n normalizes, then scales by g and shifts by s. */
export interface Block {
  readonly g1: number[]
  readonly s1: number[]
  readonly a: Matrix
  readonly aBias: number[]
  readonly b: Matrix
  readonly bBias: number[]
  readonly g2: number[]
  readonly s2: number[]
  readonly c: Matrix
  readonly epsilon: number
}

const times = (x: number[], m: Matrix): number[] => m[0]!.map((_, j) => x.reduce((s, v, i) => s + v * m[i]![j]!, 0))
const plus = (x: number[], y: number[]): number[] => x.map((v, i) => v + y[i]!)
const centre = (x: number[]): number[] => x.map((v) => v - x.reduce((s, w) => s + w, 0) / x.length)
const transpose = (m: Matrix): Matrix => m[0]!.map((_, j) => m.map((row) => row[j]!))

/** Eigenvectors as rows, largest eigenvalue first, by Jacobi rotations. */
export function eigenvectors(symmetric: Matrix): Matrix {
  const a = symmetric.map((r) => [...r])
  const n = a.length
  const v: Matrix = a.map((_, i) => a.map((_, j) => (i === j ? 1 : 0)))
  for (let sweep = 0; sweep < 60; sweep++)
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (Math.abs(a[p]![q]!) < 1e-300) continue
        const theta = (a[q]![q]! - a[p]![p]!) / (2 * a[p]![q]!)
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.hypot(theta, 1))
        const c = 1 / Math.hypot(t, 1)
        const s = t * c
        for (let k = 0; k < n; k++)
          [a[k]![p], a[k]![q]] = [c * a[k]![p]! - s * a[k]![q]!, s * a[k]![p]! + c * a[k]![q]!]
        for (let k = 0; k < n; k++)
          [a[p]![k], a[q]![k]] = [c * a[p]![k]! - s * a[q]![k]!, s * a[p]![k]! + c * a[q]![k]!]
        for (let k = 0; k < n; k++)
          [v[k]![p], v[k]![q]] = [c * v[k]![p]! - s * v[k]![q]!, s * v[k]![p]! + c * v[k]![q]!]
      }
  const order = a.map((_, i) => i).sort((i, j) => a[j]![j]! - a[i]![i]!)
  return order.map((i) => v.map((row) => row[i]!))
}

/** What the block answers for each row of x, whole or with all but `components` directions of the stream deleted. */
export function sliced(block: Block, x: Matrix, calibration: Matrix, components: number): Matrix {
  const { g1, s1, a, aBias, b, bBias, g2, s2, c, epsilon } = block
  const n = g1.length
  const unit = (v: number[], length = n): number[] => {
    const scale = 1 / Math.sqrt(v.reduce((s, w) => s + w * w, 0) / length + epsilon)
    return v.map((w) => w * scale)
  }
  const relu = (v: number[]): number[] => v.map((w) => Math.max(0, w))
  const affine = (v: number[], g: number[], s: number[]): number[] => v.map((w, i) => w * g[i]! + s[i]!)
  // Whole, with a stream that never has a mean.
  const inner = (u: number[]): number[] => plus(times(relu(plus(times(affine(u, g1, s1), a), aBias)), b), bBias)
  const first = calibration.map((v) => unit(centre(v)))
  const second = calibration.map((v, i) => unit(centre(plus(v, inner(first[i]!)))))
  const all = [...first, ...second]
  const gram = g1.map((_, i) => g1.map((_, j) => all.reduce((s, v) => s + v[i]! * v[j]!, 0)))
  const basis = eigenvectors(gram).slice(0, components)
  const down = transpose(basis)
  const restore = (z: number[]): number[] => times(z, basis)
  // What deleting takes off on average is put back.
  const missing = (rows: Matrix): number[] => {
    const mean = rows[0]!.map((_, i) => rows.reduce((s, v) => s + v[i]!, 0) / rows.length)
    const kept = restore(times(mean, down))
    return mean.map((v, i) => v - kept[i]!)
  }
  const [lost1, lost2] = [missing(first), missing(second)]
  return x.map((v) => {
    const z = times(centre(v), down)
    const h = plus(times(relu(plus(times(affine(plus(restore(unit(z)), lost1), g1, s1), a), aBias)), b), bBias)
    const next = plus(z, times(centre(h), down))
    return times(affine(plus(restore(unit(next)), lost2), g2, s2), c)
  })
}
