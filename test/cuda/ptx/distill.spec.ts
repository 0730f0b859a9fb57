// The PTX of the newer losses, interpreted: decoupled and several teachers against the CPU, the sums over angles and attention
// maps against their definitions, and the requests of all of them. WHITTLE_NVCC names nvcc: npm run test:cuda.
import { distill } from '../../../lib/index'
import { compile } from './compile'
import { Runner, struct, type Modules } from './launches'

const kBlock = 256
let modules: Modules

beforeAll(async () => {
  const [logits, relation] = await Promise.all([compile('distill_logits'), compile('distill_relation')])
  modules = { distill_logits: logits, distill_relation: relation, distill_features: await compile('distill_features') } as never
}, 300000)

function normals(seed: number, n: number): Float32Array {
  let state = seed
  const uniform = () => ((state = (state * 1103515245 + 12345) % 2 ** 31) + 0.5) / 2 ** 31
  return Float32Array.from({ length: n }, () => 3 * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()))
}

const open = (r: Runner, stem: string) => r['open'](stem as never)

/** Cells of the ledger: sectors (or bank passes) over the least. */
function expectBusy(r: Runner, kernel: string, global: number, shared = 1): void {
  for (const [space, bound] of [['global', global], ['shared', shared]] as const) {
    const t = r.ledger.traffic(kernel, space)
    if (t.requests > 0) expect([kernel, space, t.units / t.ideal <= bound, t.units / t.ideal]).toEqual([kernel, space, true, expect.anything()])
  }
}

function expectNear(got: ArrayLike<number>, want: ArrayLike<number>, bound: number): void {
  expect(got.length).toBe(want.length)
  for (let i = 0; i < want.length; i++) expect(Math.abs((got[i] as number) - (want[i] as number))).toBeLessThanOrEqual(bound * Math.max(1, Math.abs(want[i] as number)))
}

// As the host code of cuda/distill_logits.cu makes them; what labels_kernel and sum_kernel do is done here.
function losses(r: Runner, samples: number, classes: number, labels: Int32Array | undefined, alpha: number, soft: number, hard: number, columns: number) {
  const { gpu, flags, launch } = open(r, 'distill_logits')
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
  return { gpu, flags, launch, list, answer }
}

const shapes = [[9, 33], [1, 1031]] as const // prettier-ignore
const schedules = process.env['WHITTLE_PTX_FULL'] === '1' ? ([{}, { order: 'reversed', approximate: -1 }, { order: 'random', seed: 3, approximate: 1 }] as const) : ([{ order: 'random', seed: 3, approximate: 1 }] as const)

test.each(shapes)('decoupled and several teachers, [%d, %d], are those of the CPU', (samples, classes) => {
  // A block a row is dear, and its barriers leave schedules little to choose.
  for (const schedule of classes > 1024 ? schedules.slice(-1) : schedules) {
    const r = new Runner(modules, schedule)
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

/** Gram matrix and inverse distances of points on a line of three dimensions. */
function points(seed: number, n: number): { gram: Float64Array; inverse: Float64Array } {
  const x = normals(seed, 3 * n)
  const gram = Float64Array.from({ length: n * n }, (_, at) => [0, 1, 2].reduce((sum, d) => sum + (x[3 * Math.floor(at / n) + d] as number) * (x[3 * (at % n) + d] as number), 0))
  const g = (i: number, j: number) => gram[i * n + j] as number
  const inverse = Float64Array.from({ length: n * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n]
    return i === j ? 0 : 1 / Math.sqrt(g(i, i) + g(j, j) - 2 * g(i, j))
  })
  return { gram, inverse }
}

test.each([19, 32])('sums over all angles of %d points are those of their definition', (n) => {
  const r = new Runner(modules, { order: 'random', seed: 1 })
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
  const r = new Runner(modules)
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
  const r = new Runner(modules)
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
