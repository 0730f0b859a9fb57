/** Sums of products of signs, [m, n], by the definition; the sign of 0 is +1. */
export function signSums(a: ArrayLike<number>, w: ArrayLike<number>, m: number, k: number, n: number): number[] {
  const sign = (x: number): number => (x < 0 ? -1 : 1)
  const out: number[] = []
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++) {
      let sum = 0
      for (let p = 0; p < k; p++) sum += sign(a[i * k + p] as number) * sign(w[p * n + j] as number)
      out.push(sum)
    }
  return out
}

/** Mean size of `count` numbers that lie `step` apart from `at` on. */
export function meanSize(x: ArrayLike<number>, at: number, step: number, count: number): number {
  let sum = 0
  for (let p = 0; p < count; p++) sum += Math.abs(x[at + p * step] as number)
  return count > 0 ? sum / count : 0
}
