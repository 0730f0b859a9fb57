// Singular value decomposition by one-sided Jacobi rotations in plain double precision, and measures of a decomposition.

/** A dense matrix, one array a row. */
export type Matrix = number[][]

export function matrix(data: ArrayLike<number>, rows: number, cols: number, offset = 0): Matrix {
  return Array.from({ length: rows }, (_, i) => Array.from({ length: cols }, (_, j) => Number(data[offset + i * cols + j])))
}

export function transpose(a: Matrix): Matrix {
  return (a[0] as number[]).map((_, j) => a.map((row) => row[j] as number))
}

const dot = (x: number[], y: number[]): number => x.reduce((s, v, i) => s + v * (y[i] as number), 0)

export function multiply(a: Matrix, b: Matrix): Matrix {
  const columns = transpose(b)
  return a.map((row) => columns.map((c) => dot(row, c)))
}

/** Singular values, descending, min(rows, cols) of them. */
export function singularValues(a: Matrix): number[] {
  // Rows of the wide form are turned until they are orthogonal; their norms are the singular values.
  const rows = (a.length <= (a[0] as number[]).length ? a : transpose(a)).map((r) => [...r])
  for (let sweep = 0; sweep < 60; sweep++) {
    let turned = false
    for (let p = 0; p < rows.length; p++)
      for (let q = p + 1; q < rows.length; q++) {
        const [x, y] = [rows[p] as number[], rows[q] as number[]]
        const [xx, yy, xy] = [dot(x, x), dot(y, y), dot(x, y)]
        if (Math.abs(xy) <= 1e-15 * Math.sqrt(xx * yy) || xx === 0 || yy === 0) continue
        turned = true
        const angle = 0.5 * Math.atan2(2 * xy, xx - yy)
        const [c, s] = [Math.cos(angle), Math.sin(angle)]
        for (let i = 0; i < x.length; i++) {
          const [u, v] = [x[i] as number, y[i] as number]
          x[i] = c * u + s * v
          y[i] = c * v - s * u
        }
      }
    if (!turned) break
  }
  return rows.map((r) => Math.sqrt(dot(r, r))).sort((x, y) => y - x)
}

/** Best possible error by rank: sqrt of the sum of the squares past it. */
export function bestErrors(values: readonly number[]): number[] {
  return [...values, 0].map((_, r) => Math.sqrt(values.slice(r).reduce((s, v) => s + v * v, 0)))
}

/** Largest element of |UᵀU − I|. */
export function orthogonality(u: Matrix): number {
  const columns = transpose(u)
  return Math.max(...columns.flatMap((x, i) => columns.map((y, j) => Math.abs(dot(x, y) - (i === j ? 1 : 0)))))
}

/** ‖A − U·diag(s)·Vᵀ‖, Frobenius. */
export function residual(a: Matrix, u: Matrix, s: readonly number[], v: Matrix): number {
  const scaled = u.map((row) => row.map((x, i) => x * (s[i] as number)))
  const product = multiply(scaled, transpose(v))
  return Math.hypot(...a.map((row, i) => Math.hypot(...row.map((x, j) => x - ((product[i] as number[])[j] as number)))))
}

/** Σ|a|² and so on of all elements. */
export function norm(a: Matrix): number {
  return Math.hypot(...a.map((row) => Math.hypot(...row)))
}
