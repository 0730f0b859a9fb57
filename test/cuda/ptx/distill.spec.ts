// The PTX of the newer losses, interpreted: decoupled and several teachers against the CPU, the sums over angles and attention
// maps against their definitions, and the requests of all of them. WHITTLE_NVCC names nvcc: npm run test:cuda.
import { distill } from '../../../lib/index'
import { struct, type Runner } from './launches'
import { expectBusy, expectNear, Files, full, kBlock, normals, points, schedules } from './support'

const files = new Files()
const open = (r: Runner, stem: string) => files.open(r, stem)

beforeAll(() => files.compile('distill_logits', 'distill_relation', 'distill_features', 'distill_linear'), 300000)

// As the host code of cuda/distill_logits.cu makes them; what labels_kernel and sum_kernel do is done here.
function losses(r: Runner, samples: number, classes: number, labels: Int32Array | undefined, alpha: number, soft: number, hard: number, columns: number, stem = 'distill_logits') {
  const { gpu, flags, launch } = open(r, stem)
  const size = samples * classes
  const [grad, shares] = [gpu.put(4 * size), gpu.put(8 * columns * samples)]
  const totals = gpu.put(Float64Array.of(hard, soft, classes))
  const list = (student: number, teacher: number) => struct(
    ['pointer', student], ['pointer', teacher], ['u8', 0], ['u8', 0], ['u32', samples], ['u32', classes],
    ['pointer', labels ? gpu.put(labels) : 0], ['pointer', 0], ['u8', 1], ['i32', -100], ['f64', 2], ['f64', alpha], ['f64', 0], ['i32', 2],
    ['pointer', grad], ['pointer', 0], ['pointer', totals], ['pointer', shares],
  ) // prettier-ignore
  const answer = () => {
    const all = new Float64Array(gpu.get(shares, 8 * columns * samples))
    const sums = Array.from({ length: columns }, (_, j) => all.slice(j * samples, (j + 1) * samples).reduce((a, b) => a + b, 0))
    return { flags: new Int32Array(gpu.get(flags, 4))[0], sums, grad: new Float32Array(gpu.get(grad, 4 * size)) }
  }
  return { gpu, flags, launch, list, answer, shares: () => new Float64Array(gpu.get(shares, 8 * columns * samples)).reduce((a, b) => a + b, 0) }
}

const shapes = [[9, 33], [1, 1031]] as const // prettier-ignore

test.each(shapes)('decoupled and several teachers, [%d, %d], are those of the CPU', (samples, classes) => {
  // A block a row is dear, and its barriers leave schedules little to choose.
  for (const schedule of classes > 1024 ? schedules.slice(-1) : schedules) {
    const r = files.runner(schedule)
    const tensor = (data: Float32Array) => ({ type: 'float32', dims: [samples, classes], data }) as const
    const [s, t, u] = [normals(1, samples * classes), normals(2, samples * classes), normals(3, samples * classes)]
    const labels = Int32Array.from({ length: samples }, (_, i) => (i === 1 ? -100 : (i * 7) % classes))
    const warp = classes <= 1024
    const grid = (rows: number) => (warp ? Math.ceil((rows * 32) / kBlock) : rows)
    const name = (kernel: string) => `${kernel}<${warp ? 32 : 256}>`
    {
      const { gpu, flags, launch, list, answer } = losses(r, samples, classes, labels, 1.5, 1, 1, 3)
      launch(name('dkd_kernel'), grid(samples), kBlock, list(gpu.put(s), gpu.put(t)), 3, flags)
      const want = distill.dkd(tensor(s), tensor(t), labels, { temperature: 2, alpha: 1.5, beta: 3, ignoreIndex: -100, reduction: 'sum' })
      const got = answer()
      expect(got.flags).toBe(0)
      expectNear(got.sums, [want.loss, want.target, want.nonTarget], 1e-5)
      expectNear(got.grad, want.grad.data, 1e-5)
    }
    {
      const { gpu, flags, launch, list, answer } = losses(r, samples, classes, labels, 0.4, 1, 1, 1)
      const [mix, voices] = [gpu.put(16), gpu.put(16 * 2 * samples)]
      const teachers = gpu.put(Float32Array.of(...t, ...u))
      const both = list(gpu.put(s), teachers)
      launch('mix_kernel', 1, kBlock, gpu.put(Float32Array.of(1, 3)), 2, mix, flags)
      launch(name('voices_kernel'), grid(2 * samples), kBlock, both, 2 * samples, mix, voices, flags)
      launch(name('mixture_kernel'), grid(samples), kBlock, both, 2, voices, flags)
      const options = { temperature: 2, alpha: 0.4, labels, ignoreIndex: -100, weights: Float32Array.of(1, 3), reduction: 'sum' } as const
      const want = distill.multiTeacher(tensor(s), [tensor(t), tensor(u)], options)
      const got = answer()
      expect(got.flags).toBe(0)
      expectNear(got.sums, [want.loss], 1e-5)
      expectNear(got.grad, want.grad.data, 1e-5)
    }
  }
})

test.each([19, 32])('sums over all angles of %d points are those of their definition', (n) => {
  const r = files.runner({ order: 'random', seed: 1 })
  const { gpu, launch } = open(r, 'distill_relation')
  const [s, t] = [points(4, n), points(5, n)]
  const delta = 0.4
  const [gs, gt, rs, rt] = [s.gram, t.gram, s.inverse, t.inverse].map((x) => gpu.put(x)) as [number, number, number, number]
  const [own, other] = [s, t].map(({ gram }) => gpu.put(Float64Array.from({ length: n }, (_, i) => gram[i * n + i] as number))) as [number, number]
  const tiles = Math.ceil(n / 16)
  const [pulls, parts, p] = [gpu.put(8 * n * n), gpu.put(8 * tiles * tiles), gpu.put(8 * n * n)]
  const list = struct(['pointer', gs], ['pointer', gt], ['pointer', own], ['pointer', other], ['pointer', rs], ['pointer', rt], ['pointer', n], ['f64', delta])
  launch('angles_kernel', tiles * tiles, kBlock, list, tiles, pulls, parts)
  launch('corners_kernel', tiles * tiles, kBlock, list, tiles, p)
  const want = { loss: 0, pulls: new Float64Array(n * n), corners: new Float64Array(n * n) }
  for (let i = 0; i < n; i++)
    for (let j = 0; j < n; j++)
      for (let k = 0; k < n; k++) {
        const cosine = ({ gram, inverse }: typeof s) =>
          ((gram[j * n + k] as number) - (gram[i * n + j] as number) - (gram[i * n + k] as number) + (gram[i * n + i] as number)) *
          (inverse[i * n + j] as number) * (inverse[i * n + k] as number) // prettier-ignore
        const [a, d] = [cosine(s), cosine(s) - cosine(t)]
        const h = Math.max(-delta, Math.min(delta, d))
        const [r_ij, r_ik] = [s.inverse[i * n + j] as number, s.inverse[i * n + k] as number]
        want.loss += h * (d - h / 2)
        want.pulls[j * n + i]! += r_ij * (r_ij * h * a - h * r_ik)
        want.corners[j * n + k]! += h * r_ij * r_ik
      }
  expectNear([new Float64Array(gpu.get(parts, 8 * tiles * tiles)).reduce((a, b) => a + b, 0)], [want.loss], 1e-12)
  expectNear(new Float64Array(gpu.get(pulls, 8 * n * n)), want.pulls, 1e-12)
  expectNear(new Float64Array(gpu.get(p, 8 * n * n)), want.corners, 1e-12)
  if (n % 16) return
  // A half warp reads a row of a tile and the other half another: 256 bytes, or one element for all.
  expectBusy(r, 'angles_kernel', 1)
  // what lies below the diagonal is written column by column
  expectBusy(r, 'corners_kernel', 1.4)
})

test('attention maps are the sums over channels, in whole sectors', () => {
  const r = files.runner()
  const { gpu, launch } = open(r, 'distill_features')
  const [samples, channels, n] = [2, 11, 64]
  const a = normals(6, samples * channels * n)
  const [q, g] = [gpu.put(4 * samples * n), gpu.put(4 * a.length)]
  const from = gpu.put(a)
  launch('map_kernel', samples * 2, kBlock, from, channels, n, 2, 3, q)
  const want = Float32Array.from({ length: samples * n }, (_, at) =>
    Array.from({ length: channels }, (_, c) => Math.abs(a[(Math.floor(at / n) * channels + c) * n + (at % n)] as number) ** 3).reduce((x, y) => x + y, 0),
  )
  expectNear(new Float32Array(gpu.get(q, 4 * samples * n)), want, 2 ** -23)
  launch('attend_kernel', Math.ceil(a.length / kBlock), kBlock, from, channels, n, a.length, 3, q, g)
  const slopes = a.map((x, i) => 3 * x * Math.abs(x) * (want[Math.floor(i / (channels * n)) * n + (i % n)] as number))
  expectNear(new Float32Array(gpu.get(g, 4 * a.length)), slopes, 2 ** -22)
  expectBusy(r, 'map_kernel', 1)
  expectBusy(r, 'attend_kernel', 1)
})

test('requests of decoupled and several teachers are as few as they may be', () => {
  const r = files.runner()
  for (const [samples, classes] of [[8, 64], [2, 2048]] as const) {
    const warp = classes <= 1024
    const labels = new Int32Array(samples).fill(5)
    const { gpu, flags, launch, list } = losses(r, samples, classes, labels, 1, 1, 1, 3)
    const both = list(gpu.put(normals(1, samples * classes)), gpu.put(normals(2, samples * classes)))
    const [grid, width] = [warp ? Math.ceil((samples * 32) / kBlock) : samples, warp ? 32 : 256]
    const [mix, voices] = [gpu.put(Float64Array.of(1)), gpu.put(16 * samples)]
    launch(`dkd_kernel<${width}>`, grid, kBlock, both, 3, flags)
    launch(`voices_kernel<${width}>`, grid, kBlock, both, samples, mix, voices, flags)
    launch(`mixture_kernel<${width}>`, grid, kBlock, both, 1, voices, flags)
    for (const kernel of ['dkd_kernel', 'voices_kernel', 'mixture_kernel']) expectBusy(r, `${kernel}<${width}>`, 1)
  }
})

/** Rows of n by f(row, column). */
const square = (n: number, f: (i: number, j: number) => number): Float64Array => Float64Array.from({ length: n * n }, (_, at) => f(Math.floor(at / n), at % n))
const total = (x: ArrayLike<number>, from = 0, to = x.length): number => Array.from(x).slice(from, to).reduce((a, b) => a + b, 0)
const clip = (x: number, delta: number): number => Math.max(-delta, Math.min(delta, x))

test.each(full ? [5, 70] : [5])('distances of %d points, their loss and its gradient are those of their definition', (n) => {
  const r = files.runner(schedules.at(-1))
  const { gpu, launch } = open(r, 'distill_relation')
  const delta = 0.4
  const sides = [points(4, n), points(5, n)].map(({ gram, inverse }) => {
    const [g, diagonal, sums] = [gpu.put(gram), gpu.put(4 * n * 2), gpu.put(16 * n)]
    launch('diagonal_kernel', Math.ceil(n / kBlock), kBlock, g, n, diagonal)
    launch('distances_kernel', n, kBlock, g, n, diagonal, sums)
    const d = inverse.map((x) => (x > 0 ? 1 / x : 0))
    expectNear(new Float64Array(gpu.get(g, 8 * n * n)), d, 1e-9)
    const got = new Float64Array(gpu.get(sums, 16 * n))
    expectNear([total(got, 0, n), total(got, n)], [total(d), n * (n - 1)], 1e-9)
    return { d, g, found: [total(d), n * (n - 1)] as const }
  }) as [{ d: Float64Array; g: number; found: readonly [number, number] }, { d: Float64Array; g: number; found: readonly [number, number] }]
  const [s, t] = sides
  const found = gpu.put(Float64Array.of(...s.found, ...t.found))
  const sums = gpu.put(16 * n)
  launch('huber_kernel', n, kBlock, s.g, t.g, n, found, delta, sums)
  const [fs, ft] = [s.found[1] / s.found[0], t.found[1] / t.found[0]]
  const h = square(n, (i, j) => clip((s.d[i * n + j] as number) * fs - (t.d[i * n + j] as number) * ft, delta))
  const loss = total(h.map((v, at) => v * ((s.d[at] as number) * fs - (t.d[at] as number) * ft - v / 2)))
  const drift = total(h.map((v, at) => v * (s.d[at] as number) * fs))
  const got = new Float64Array(gpu.get(sums, 16 * n))
  expectNear([total(got, 0, n), total(got, n)], [loss, drift], 1e-8)
  const m = gpu.put(4 * n * n)
  launch('pull_kernel', n, kBlock, s.g, t.g, n, found, gpu.put(Float64Array.of(loss, drift)), delta, m)
  const w = square(n, (i, j) => (i === j ? 0 : (((2 * fs) / (n * n)) * ((h[i * n + j] as number) - drift / s.found[1])) / (s.d[i * n + j] as number)))
  const want = square(n, (i, j) => (i === j ? total(w, i * n, i * n + n) : -(w[i * n + j] as number)))
  expectNear(new Float32Array(gpu.get(m, 4 * n * n)), want, 2 ** -23)
  for (const kernel of ['distances_kernel', 'huber_kernel', 'pull_kernel']) expectBusy(r, kernel, 1.2)
})

test('rows of what pulls at angles add up to 0', () => {
  const n = full ? 69 : 37
  const r = files.runner(schedules.at(-1))
  const { gpu, launch } = open(r, 'distill_relation')
  const [p, pulls] = [Float64Array.from(normals(7, n * n)), Float64Array.from(normals(8, n * n))]
  const m = gpu.put(4 * n * n)
  launch('corner_rows_kernel', n, kBlock, gpu.put(p), gpu.put(pulls), n, 0.25, m)
  const v = square(n, (i, j) => (i === j ? 0 : (p[i * n + j] as number) + (pulls[i * n + j] as number) + (pulls[j * n + i] as number)))
  const want = square(n, (i, j) => 0.25 * (i === j ? -total(v, i * n, i * n + n) : (v[i * n + j] as number)))
  expectNear(new Float32Array(gpu.get(m, 4 * n * n)), want, 2 ** -23)
})

test.each(full ? [7, 70] : [7])('similarity and correlation of %d samples are those of their definition', (n) => {
  const r = files.runner(schedules.at(-1))
  const { gpu, launch } = open(r, 'distill_relation')
  const [a, b] = [normals(9, n * n), normals(10, n * n)]
  const of = (x: Float32Array, i: number) => x.subarray(i * n, i * n + n)
  const dot = (x: ArrayLike<number>, y: ArrayLike<number>): number => Array.from(x).reduce((sum, v, i) => sum + v * (y[i] as number), 0)
  {
    const [gs, gt, losses] = [gpu.put(a), gpu.put(b), gpu.put(8 * n)]
    launch('gap_kernel', n, kBlock, gs, gt, n, losses)
    const want = { losses: [] as number[], slopes: [] as number[] }
    for (let i = 0; i < n; i++) {
      const [x, y] = [of(a, i), of(b, i)]
      const [nx, ny] = [Math.sqrt(dot(x, x)), Math.sqrt(dot(y, y))]
      const e = Array.from(x, (v, j) => v / nx - (y[j] as number) / ny)
      const along = dot(e, x) / nx
      want.losses.push(dot(e, e))
      // d/dx of |x/|x| - c|^2 is 2 (e - (e.u) u) / |x|, over n^2
      for (let j = 0; j < n; j++) want.slopes.push((2 / (n * n)) * (((e[j] as number) - (along * (x[j] as number)) / nx) / nx))
    }
    expectNear(new Float64Array(gpu.get(losses, 8 * n)), want.losses, 1e-12)
    expectNear(new Float32Array(gpu.get(gt, 4 * n * n)), want.slopes, 2 ** -23)
  }
  {
    const [u, inverse] = [gpu.put(4 * n * n), gpu.put(8 * n)]
    launch('unit_kernel', n, kBlock, gpu.put(a), n, u, inverse)
    const norms = Array.from({ length: n }, (_, i) => Math.sqrt(dot(of(a, i), of(a, i))))
    expectNear(new Float64Array(gpu.get(inverse, 8 * n)), norms.map((v) => 1 / v), 1e-12)
    const units = a.map((v, at) => v / (norms[Math.floor(at / n)] as number))
    expectNear(new Float32Array(gpu.get(u, 4 * n * n)), units, 2 ** -23)
    const g = gpu.put(b)
    launch('turn_kernel', n, kBlock, g, u, n, inverse)
    const along = norms.map((_, i) => dot(of(b, i), of(units, i)))
    expectNear(new Float32Array(gpu.get(g, 4 * n * n)), b.map((v, at) => (v - (along[Math.floor(at / n)] as number) * (units[at] as number)) / (norms[Math.floor(at / n)] as number)), 2 ** -20)
  }
  {
    const [order, gamma] = [2, 0.4]
    const factors = Array.from({ length: 16 }, (_, p) => (p < order ? (2 * gamma) / (p + 1) : 0))
    const [base, scale] = [Math.exp(-2 * gamma), 4 / (n * n)]
    const list = struct(...factors.map((f) => ['f64', f] as ['f64', number]), ['i32', order], ['f64', base], ['f64', scale])
    const [s, t] = [a.map((v) => v / 16), b.map((v) => v / 16)]
    const [gs, losses] = [gpu.put(s), gpu.put(8 * n)]
    launch('series_kernel', n, kBlock, gs, gpu.put(t), n, list, losses)
    const c = 2 * gamma
    const series = (x: number) => base * (1 + c * x + (c * x) ** 2 / 2)
    const d = s.map((v, i) => series(v) - series(t[i] as number))
    const exact = Float64Array.from(s, (v, i) => series(v) - series(t[i] as number))
    expectNear(new Float64Array(gpu.get(losses, 8 * n)), Array.from({ length: n }, (_, i) => dot(exact.subarray(i * n, i * n + n), exact.subarray(i * n, i * n + n))), 1e-10)
    expectNear(new Float32Array(gpu.get(gs, 4 * n * n)), d.map((v, i) => scale * v * base * (c + c * c * (s[i] as number))), 2 ** -22)
  }
})

test('hints and attention maps are compared as their definition says', () => {
  const r = files.runner(schedules.at(-1))
  const { gpu, launch } = open(r, 'distill_features')
  const n = 1531
  const [a, b] = [normals(11, n), normals(12, n)]
  const [g, out] = [gpu.put(4 * n), gpu.put(8 * 3)]
  launch('squared_kernel', 3, kBlock, gpu.put(a), gpu.put(b), n, 0.125, g, out)
  const d = Float64Array.from(a, (v, i) => v - (b[i] as number))
  expectNear([total(new Float64Array(gpu.get(out, 24)))], [total(d.map((v) => v * v))], 1e-12)
  expectNear(new Float32Array(gpu.get(g, 4 * n)), d.map((v) => v * 0.125), 2 ** -23)
  expectBusy(r, 'squared_kernel', 1)
  for (const mean of [true, false]) {
    const [samples, size] = [2, 601]
    const [x, y] = [normals(13, samples * size).map(Math.abs), normals(14, samples * size).map(Math.abs)]
    const [dx, dy, losses] = [gpu.put(x), gpu.put(y), gpu.put(8 * samples)]
    launch('compare_kernel', samples, kBlock, dx, dy, size, samples, Number(mean), losses)
    const want = { losses: [] as number[], slopes: [] as number[] }
    for (let i = 0; i < samples; i++) {
      const [p, q] = [x, y].map((v) => Array.from(v.subarray(i * size, i * size + size))) as [number[], number[]]
      const [np, nq] = [p, q].map((v) => Math.sqrt(total(v.map((w) => w * w)))) as [number, number]
      const e = p.map((v, j) => v / np - (q[j] as number) / nq)
      const [squares, along] = [total(e.map((v) => v * v)), total(e.map((v, j) => (v * (p[j] as number)) / np))]
      want.losses.push(mean ? squares / (samples * size) : Math.sqrt(squares) / samples)
      const f = mean ? 2 / (samples * size) : 1 / (Math.sqrt(squares) * samples)
      e.forEach((v, j) => want.slopes.push((f * (v - (along * (p[j] as number)) / np)) / np))
    }
    expectNear(new Float64Array(gpu.get(losses, 8 * samples)), want.losses, 1e-6)
    expectNear(new Float32Array(gpu.get(dy, 4 * samples * size)), want.slopes, 1e-6)
  }
})

test('statistics of logits that come in pieces, and their gradient, are those of the whole', () => {
  const [samples, classes] = [3, 700]
  const [temperature, alpha] = [2, 0.6]
  const [s, t] = [normals(15, samples * classes), normals(16, samples * classes)]
  const labels = Int32Array.of(5, -100, 650)
  for (const schedule of schedules) {
    const r = files.runner(schedule)
    const { gpu, flags, launch, list, shares } = losses(r, samples, classes, labels, alpha, 1, 1, 1, 'distill_linear')
    const whole = list(gpu.put(s), gpu.put(t))
    const states = gpu.put(104 * samples)
    const pieces = [[0, 433], [433, 267]].map(([at, m]) => {
      const part = (x: Float32Array) => Float32Array.from({ length: samples * (m as number) }, (_, i) => x[Math.floor(i / (m as number)) * classes + (at as number) + (i % (m as number))] as number)
      const own = gpu.put(part(s))
      return { at: at as number, m: m as number, own, piece: struct(['pointer', own], ['pointer', gpu.put(part(t))], ['u32', 0], ['u32', samples], ['u32', at as number], ['u32', m as number]) }
    })
    for (const { piece } of pieces) launch('take_kernel', samples, kBlock, whole, piece, states, flags)
    launch('settle_kernel', 1, kBlock, whole, 0, samples, states)
    for (const { piece, m } of pieces) launch('slope_kernel', Math.ceil((samples * m) / kBlock), kBlock, whole, piece, states)
    const want = { loss: 0, grad: new Float64Array(samples * classes) }
    for (const i of [0, 2]) {
      const row = (x: Float32Array) => Array.from(x.subarray(i * classes, (i + 1) * classes))
      const log = (x: number[], by: number) => {
        const most = Math.max(...x)
        const sum = Math.log(total(x.map((v) => Math.exp((v - most) / by))))
        return x.map((v) => (v - most) / by - sum)
      }
      const [ls, lt, one] = [log(row(s), temperature), log(row(t), temperature), log(row(s), 1)]
      const y = labels[i] as number
      want.loss += alpha * temperature ** 2 * total(lt.map((v, c) => Math.exp(v) * (v - (ls[c] as number)))) - (1 - alpha) * (one[y] as number)
      for (let c = 0; c < classes; c++)
        want.grad[i * classes + c] = alpha * temperature * (Math.exp(ls[c] as number) - Math.exp(lt[c] as number)) + (1 - alpha) * (Math.exp(one[c] as number) - Number(c === y))
    }
    expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(0)
    expectNear([shares()], [want.loss], 1e-5)
    for (const { at, m, own } of pieces)
      expectNear(new Float32Array(gpu.get(own, 4 * samples * m)), Float64Array.from({ length: samples * m }, (_, i) => want.grad[Math.floor(i / m) * classes + at + (i % m)] as number), 1e-5)
    expectBusy(r, 'take_kernel', 1.2)
    expectBusy(r, 'slope_kernel', 1.2)
  }
})

test('every kernel of these files that holds inline assembly has run', () => expect(files.missing()).toEqual([]))
