// Codebooks by their definitions: look at every centroid, add every member. Slow on purpose.

const { abs, sqrt } = Math

/** The nearest centroid, of two equally near the lower one. */
export function nearest(x: number, centroids: ArrayLike<number>): number {
  let best = 0
  for (let j = 1; j < centroids.length; j++)
    if (abs(x - (centroids[j] as number)) < abs(x - (centroids[best] as number))) best = j
  return best
}

export function distance(x: ArrayLike<number>, centroids: ArrayLike<number>, indices: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += ((x[i] as number) - (centroids[indices[i] as number] as number)) ** 2
  return sqrt(sum)
}

/** Means of the members; clusters without any keep their centroid. */
export function means(x: ArrayLike<number>, centroids: ArrayLike<number>, indices: ArrayLike<number>): number[] {
  const sums = Array.from(centroids, () => 0)
  const counts = Array.from(centroids, () => 0)
  for (let i = 0; i < x.length; i++) {
    const at = indices[i] as number
    sums[at] = (sums[at] as number) + (x[i] as number)
    counts[at] = (counts[at] as number) + 1
  }
  return sums.map((s, j) => (counts[j] ? s / (counts[j] as number) : (centroids[j] as number)))
}

/** Lloyd's algorithm until nothing changes, over plain scans; centroids in double precision. */
export function lloyd(x: ArrayLike<number>, start: readonly number[], iterations = 10_000): number[] {
  let centroids = [...start].sort((a, b) => a - b)
  for (let t = 0; t < iterations; t++) {
    const indices = Array.from(x, (v) => nearest(v, centroids))
    const next = means(x, centroids, indices)
    if (next.every((c, j) => c === centroids[j])) break
    centroids = next
  }
  return centroids
}

/** The least squared error of all partitions of sorted numbers into k runs, by dynamic programming. */
export function optimum(x: ArrayLike<number>, k: number): number {
  const s = Array.from(x).sort((a, b) => a - b)
  const cost = (from: number, to: number): number => {
    const part = s.slice(from, to)
    const mean = part.reduce((a, b) => a + b, 0) / part.length
    return part.reduce((a, b) => a + (b - mean) ** 2, 0)
  }
  let best = s.map((_, i) => cost(0, i + 1))
  for (let c = 1; c < k; c++)
    best = best.map((_, i) => {
      let least = best[i] as number
      for (let j = 0; j < i; j++) least = Math.min(least, (best[j] as number) + cost(j + 1, i + 1))
      return least
    })
  return sqrt(best[s.length - 1] as number)
}
