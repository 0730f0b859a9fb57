// The losses of test/distill.test.ts written out from their definitions in double precision: no gradients (those come
// from finite differences), no shortcuts, no shared code with lib/ or core/.

export type Rows = number[][]

export function rows(data: ArrayLike<number>, count: number): Rows {
  const size = data.length / count
  return Array.from({ length: count }, (_, i) => Array.from({ length: size }, (_, j) => data[i * size + j] as number))
}

export function logSoftmax(x: readonly number[], temperature = 1): number[] {
  const max = Math.max(...x)
  const shifted = x.map((v) => (v - max) / temperature)
  const log = Math.log(shifted.reduce((s, v) => s + Math.exp(v), 0))
  return shifted.map((v) => v - log)
}

const sum = (x: readonly number[]): number => x.reduce((a, b) => a + b, 0)
const dot = (x: readonly number[], y: readonly number[]): number => sum(x.map((v, i) => v * (y[i] as number)))

function divergence(logP: readonly number[], logQ: readonly number[]): number[] {
  return logP.map((p, i) => (p === -Infinity || Math.exp(p) === 0 ? 0 : Math.exp(p) * (p - (logQ[i] as number))))
}

export interface Hard {
  labels: ArrayLike<number>
  smoothing?: number
  weights?: ArrayLike<number>
  ignore?: number
}

/** w_y-weighted cross-entropy of each sample, 0 where ignored. */
export function crossEntropies(logits: Rows, h: Hard): number[] {
  const e = h.smoothing ?? 0
  return logits.map((x, i) => {
    const y = h.labels[i] as number
    if (y === h.ignore) return 0
    const logP = logSoftmax(x)
    const w = (c: number): number => (h.weights ? (h.weights[c] as number) : 1)
    const spread = sum(logP.map((l, c) => -w(c) * l)) / x.length
    return (1 - e) * w(y) * -(logP[y] as number) + e * spread
  })
}

/** Sum of the labels' weights over the samples that count. */
export function hardCount(samples: number, h: Hard): number {
  let total = 0
  for (let i = 0; i < samples; i++) {
    const y = h.labels[i] as number
    if (y !== h.ignore) total += h.weights ? (h.weights[y] as number) : 1
  }
  return total
}

/** T²·KL terms, [samples][classes]. */
export function klTerms(student: Rows, teacher: Rows, t: number): Rows {
  return student.map((s, i) => divergence(logSoftmax(teacher[i] as number[], t), logSoftmax(s, t)).map((v) => t * t * v))
}

export function js(student: Rows, teacher: Rows, t: number): number[] {
  return student.map((s, i) => {
    const logP = logSoftmax(teacher[i] as number[], t)
    const logQ = logSoftmax(s, t)
    const logM = logP.map((p, c) => Math.log((Math.exp(p) + Math.exp(logQ[c] as number)) / 2))
    return 0.5 * sum(divergence(logP, logM)) + 0.5 * sum(divergence(logQ, logM))
  })
}

/** [target, nonTarget] with T², per sample. */
export function dkd(student: Rows, teacher: Rows, labels: ArrayLike<number>, t: number): [number, number][] {
  return student.map((s, i) => {
    const y = labels[i] as number
    const binary = (x: readonly number[]): number[] => {
      const log = logSoftmax(x, t)
      return [log[y] as number, Math.log(sum(log.filter((_, c) => c !== y).map(Math.exp)))]
    }
    const others = (x: readonly number[]): number[] => logSoftmax(x.filter((_, c) => c !== y), t)
    const row = teacher[i] as number[]
    return [t * t * sum(divergence(binary(row), binary(s))), t * t * sum(divergence(others(row), others(s)))]
  })
}

export function multiTeacherTerms(student: Rows, teachers: readonly Rows[], weights: readonly number[], t: number): Rows {
  const total = sum(weights)
  return student.map((s, i) => {
    const each = teachers.map((rows) => logSoftmax(rows[i] as number[], t).map(Math.exp))
    const p = s.map((_, c) => sum(each.map((one, k) => ((weights[k] as number) / total) * (one[c] as number))))
    return divergence(p.map(Math.log), logSoftmax(s, t)).map((v) => t * t * v)
  })
}

export function meanSquare(a: readonly number[], b: readonly number[]): number {
  return sum(a.map((v, i) => (v - (b[i] as number)) ** 2)) / a.length
}

/** [batch][channels][positions] through [outputs][channels]. */
export function project(x: ArrayLike<number>, batch: number, channels: number, w: Rows): number[] {
  const positions = x.length / batch / channels
  const out: number[] = []
  for (let b = 0; b < batch; b++)
    for (const row of w)
      for (let p = 0; p < positions; p++) out.push(sum(row.map((f, c) => f * (x[(b * channels + c) * positions + p] as number))))
  return out
}

export function attention(student: Rows, teacher: Rows, positions: number, p: number, form: 'norm' | 'mean'): number {
  const map = (row: readonly number[]): number[] => {
    const q = Array.from({ length: positions }, (_, i) => sum(row.filter((_, j) => j % positions === i).map((v) => Math.abs(v) ** p)))
    const norm = Math.sqrt(dot(q, q))
    return q.map((v) => (norm > 0 ? v / norm : 0))
  }
  const gaps = student.map((s, i) => {
    const t = map(teacher[i] as number[])
    const d = map(s).map((v, j) => v - (t[j] as number))
    return form === 'norm' ? Math.sqrt(dot(d, d)) : dot(d, d) / positions
  })
  return sum(gaps) / gaps.length
}

const huber = (d: number, delta: number): number => (Math.abs(d) <= delta ? (d * d) / 2 : delta * (Math.abs(d) - delta / 2))

export function relationDistance(student: Rows, teacher: Rows, delta = 1): number {
  const normalized = (x: Rows): number[] => {
    const d = x.flatMap((a) => x.map((b) => Math.sqrt(sum(a.map((v, i) => (v - (b[i] as number)) ** 2)))))
    const positive = d.filter((v) => v > 0)
    const mean = positive.length ? sum(positive) / positive.length : 1
    return d.map((v) => v / mean)
  }
  const t = normalized(teacher)
  return sum(normalized(student).map((v, i) => huber(v - (t[i] as number), delta))) / t.length
}

export function relationAngle(student: Rows, teacher: Rows, delta = 1): number {
  const cosines = (x: Rows): number[] =>
    x.flatMap((a) => {
      const e = x.map((b) => {
        const d = b.map((v, i) => v - (a[i] as number))
        const norm = Math.sqrt(dot(d, d))
        return d.map((v) => (norm > 0 ? v / norm : 0))
      })
      return e.flatMap((u) => e.map((v) => dot(u, v)))
    })
  const t = cosines(teacher)
  return sum(cosines(student).map((v, i) => huber(v - (t[i] as number), delta))) / t.length
}

export function similarity(student: Rows, teacher: Rows): number {
  const normalized = (x: Rows): number[] =>
    x.flatMap((a) => {
      const g = x.map((b) => dot(a, b))
      const norm = Math.sqrt(dot(g, g))
      return g.map((v) => (norm > 0 ? v / norm : 0))
    })
  const t = normalized(teacher)
  return sum(normalized(student).map((v, i) => (v - (t[i] as number)) ** 2)) / t.length
}

export function correlation(student: Rows, teacher: Rows, gamma: number, order: number): number {
  const kernel = (x: Rows): number[] => {
    const unit = x.map((a) => {
      const norm = Math.sqrt(dot(a, a))
      return a.map((v) => (norm > 0 ? v / norm : 0))
    })
    return unit.flatMap((a) =>
      unit.map((b) => {
        let value = 0
        let term = 1
        for (let p = 0; p <= order; p++) {
          value += term
          term *= (2 * gamma * dot(a, b)) / (p + 1)
        }
        return Math.exp(-2 * gamma) * value
      }),
    )
  }
  const t = kernel(teacher)
  return sum(kernel(student).map((v, i) => (v - (t[i] as number)) ** 2)) / t.length
}

/** Central differences of a loss of a flat array. */
export function differences(x: ArrayLike<number>, loss: (x: number[]) => number, step = 1e-5): number[] {
  const at = Array.from(x)
  return at.map((v, i) => {
    at[i] = v + step
    const up = loss(at)
    at[i] = v - step
    const down = loss(at)
    at[i] = v
    return (up - down) / (2 * step)
  })
}
