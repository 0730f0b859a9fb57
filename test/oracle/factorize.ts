/** Convolutions put together again, and best low-rank errors, in double precision and by definition. */

export interface Kernel {
  /** [outputs, inputs of a group, height, width] */
  readonly dims: readonly number[]
  readonly data: ArrayLike<number>
  readonly group: number
}

/** The one kernel, of one group, that a chain of convolutions amounts to: each output as a sum over paths. */
export function composed(chain: readonly Kernel[]): Float64Array {
  let [inputs, height, width] = [chain[0]!.dims[1]! * chain[0]!.group, 1, 1]
  let outputs = inputs
  // Begins as the identity.
  let kernel = new Float64Array(inputs * inputs)
  for (let i = 0; i < inputs; i++) kernel[i * inputs + i] = 1
  for (const { dims, data, group } of chain) {
    const [o, c, h, w] = dims as [number, number, number, number]
    const [nextHeight, nextWidth] = [height + h - 1, width + w - 1]
    const next = new Float64Array(o * inputs * nextHeight * nextWidth)
    for (let a = 0; a < o; a++)
      for (let b = 0; b < c; b++) {
        const through = Math.floor(a / (o / group)) * c + b
        for (let i = 0; i < inputs; i++)
          for (let y = 0; y < h; y++)
            for (let x = 0; x < w; x++)
              for (let v = 0; v < height; v++)
                for (let u = 0; u < width; u++)
                  next[((a * inputs + i) * nextHeight + y + v) * nextWidth + x + u]! +=
                    data[((a * c + b) * h + y) * w + x]! * kernel[((through * inputs + i) * height + v) * width + u]!
      }
    ;[kernel, outputs, height, width] = [next, o, nextHeight, nextWidth]
  }
  if (kernel.length !== outputs * inputs * height * width) throw new Error('a chain that does not fit')
  return kernel
}

/** ‖A − A_r‖ / ‖A‖ of the best approximation of rank r: one-sided Jacobi. */
export function bestError(a: ArrayLike<number>, rows: number, columns: number, rank: number): number {
  const m = Float64Array.from(a)
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0
    for (let p = 0; p < columns; p++)
      for (let q = p + 1; q < columns; q++) {
        let [x, y, z] = [0, 0, 0]
        for (let i = 0; i < rows; i++) {
          const [u, v] = [m[i * columns + p]!, m[i * columns + q]!]
          x += u * u
          y += v * v
          z += u * v
        }
        off = Math.max(off, Math.abs(z) / Math.sqrt(x * y || 1))
        if (Math.abs(z) < 1e-300) continue
        const t = (y - x) / (2 * z)
        const tan = (t < 0 ? -1 : 1) / (Math.abs(t) + Math.sqrt(1 + t * t))
        const cos = 1 / Math.sqrt(1 + tan * tan)
        const sin = cos * tan
        for (let i = 0; i < rows; i++) {
          const [u, v] = [m[i * columns + p]!, m[i * columns + q]!]
          m[i * columns + p] = cos * u - sin * v
          m[i * columns + q] = sin * u + cos * v
        }
      }
    if (off < 1e-12) break
  }
  const squares = Array.from({ length: columns }, (_, j) => {
    let s = 0
    for (let i = 0; i < rows; i++) s += m[i * columns + j]! ** 2
    return s
  }).sort((x, y) => y - x)
  const sum = (list: readonly number[]): number => list.reduce((x, y) => x + y, 0)
  return Math.sqrt(sum(squares.slice(rank)) / sum(squares))
}
