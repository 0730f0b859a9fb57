// The PTX of plans' steps in floats, interpreted: results against plain sums made here, and what the requests of the hot kernels
// may cost (32-byte sectors, passes over banks) over shapes that fill warps. Bytes are in net_int8.spec.ts.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import budgets from '../budgets.json'
import { active, struct, type Runner } from './launches'
import { compile } from './compile'
import { expectNear, Files, full, kBlock, normals, schedules } from './support'

const files = new Files()
beforeAll(() => files.compile('net_product', 'net_rows', 'net_each', 'net_recurrent'), 300000)

type Field = Parameters<typeof struct>[number]
const many = <T extends 'i32' | 'u32' | 'pointer'>(type: T, ...values: number[]): Field[] => values.map((v) => [type, v] as Field)
const wide = (...values: number[]): Field[] => many('pointer', ...values)
const blocks = (n: number, each = kBlock): number => Math.ceil(n / each)
const at = (x: ArrayLike<number>, i: number): number => x[i] as number
const floats = (data: ArrayBuffer): number[] => [...new Float32Array(data)]
const total = (n: number, f: (i: number) => number): number => Array.from({ length: n }, (_, i) => f(i)).reduce((a, b) => a + b, 0)

interface Window {
  n: number
  h: number
  w: number
  c: number
  oh: number
  ow: number
  kh: number
  kw: number
  stride: number
  pad: number
  groups: number
}
const imageOf = (g: Window): Uint8Array => struct(...many('i32', g.h, g.w, g.c, g.c / g.groups, g.oh, g.ow, g.kw, g.stride, g.stride, 1, 1, g.pad, g.pad))
/** The image's value under tap (ky, kx) of a result, 0 outside. */
const under = (x: ArrayLike<number>, g: Window, pixel: number, ky: number, kx: number, channel: number): number => {
  const [y, left] = [(Math.floor(pixel / g.ow) % g.oh) * g.stride - g.pad + ky, (pixel % g.ow) * g.stride - g.pad + kx]
  const image = Math.floor(pixel / g.ow / g.oh)
  return y >= 0 && y < g.h && left >= 0 && left < g.w ? at(x, ((image * g.h + y) * g.w + left) * g.c + channel) : 0
}

interface Product {
  m: number
  n: number
  k: number
  batch: number
  /** b lies along k */
  deep?: boolean
  /** a lies along m */
  turned?: boolean
  window?: Window
  residual?: boolean
  clip?: boolean
}

function product(r: Runner, p: Product): void {
  const { gpu, launch } = files.open(r, 'net_product')
  const { m, n, k, batch, window: g } = p
  const [a, b] = [normals(1, g ? g.n * g.h * g.w * g.c : batch * m * k), normals(2, batch * k * n)]
  const [bias, residual] = [normals(3, g ? batch * n : n), normals(4, batch * m * n)]
  const out = gpu.put(4 * batch * m * n)
  const columns = blocks(n, 64)
  const tiles = columns * blocks(m, 64)
  const per = (g?.c ?? 0) / batch
  const lines = g ? [0, 0, 1, k] : [...(p.turned ? [1, m] : [k, 1]), ...(p.deep ? [1, k] : [n, 1])]
  const activation = p.clip ? { clip: [-1, 1] } : undefined
  const name = `product_kernel<${g ? 1 : 0}>`
  launch(name, tiles * batch, 256,
    struct(...many('u32', m, n, k, columns, tiles), ...wide(gpu.put(a), gpu.put(b), ...lines, g ? per : m * k, k * n, g ? n : m * n),
      ['u8', g || !p.turned ? 1 : 0], ['u8', g || p.deep ? 1 : 0], ['pointer', 0], ['f32', g ? 1 : 0.5],
      ...wide(gpu.put(bias), g ? n : 0, p.residual ? gpu.put(residual) : 0, out, g ? batch * n : n), [active(activation), 4]),
    g ? imageOf(g) : new Uint8Array(52)) // prettier-ignore
  const want = new Float32Array(batch * m * n)
  for (let z = 0; z < batch; z++)
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        const left = (q: number): number => (g ? under(a, g, i, Math.floor(q / per / g.kw), Math.floor(q / per) % g.kw, z * per + (q % per)) : at(a, z * m * k + (p.turned ? q * m + i : i * k + q)))
        const right = (q: number): number => at(b, z * k * n + (g || p.deep ? j * k + q : q * n + j))
        const to = g ? i * batch * n + z * n + j : (z * m + i) * n + j
        const v = (g ? 1 : 0.5) * total(k, (q) => left(q) * right(q)) + (p.residual ? at(residual, to) : 0) + at(bias, g ? z * n + j : j)
        want[to] = p.clip ? Math.min(Math.max(v, -1), 1) : v
      }
  expectNear(floats(gpu.get(out, 4 * want.length)), want, 1e-5 * k)
}

const conv = (g: Omit<Window, 'oh' | 'ow'>, oc: number): Product => {
  const [oh, ow] = [g.h, g.w].map((s, i) => Math.floor((s + 2 * g.pad - (i ? g.kw : g.kh)) / g.stride) + 1) as [number, number]
  return { m: g.n * oh * ow, n: oc / g.groups, k: (g.kh * g.kw * g.c) / g.groups, batch: g.groups, window: { ...g, oh, ow } }
}

test.each<[string, Product]>([
  ['a batch, rows and columns', { m: 5, n: 70, k: 19, batch: 2, residual: true }],
  ['transposed', { m: 66, n: 3, k: 16, batch: 1, deep: true, turned: true, clip: true }],
  ['one sum', { m: 1, n: 9, k: 33, batch: 1, deep: true }],
  ['windows of strides', conv({ n: 2, h: 5, w: 7, c: 3, kh: 3, kw: 2, stride: 2, pad: 1, groups: 1 }, 5)],
  ['windows of groups', { ...conv({ n: 1, h: 6, w: 5, c: 8, kh: 3, kw: 3, stride: 1, pad: 1, groups: 2 }, 6), residual: true, clip: true }],
])('products of %s', (_, p) => {
  for (const schedule of schedules) product(files.runner(schedule), p)
})

function depthwise(r: Runner, g: Window): void {
  const { gpu, launch } = files.open(r, 'net_product')
  const [x, weight, bias] = [normals(1, g.n * g.h * g.w * g.c), normals(2, g.kh * g.kw * g.c), normals(3, g.c)]
  const size = g.n * g.oh * g.ow * g.c
  const out = gpu.put(4 * size)
  launch('depthwise_kernel', blocks(size), kBlock, gpu.put(x), gpu.put(weight), gpu.put(bias), imageOf({ ...g, groups: g.c }), g.kh, size, active(undefined), out)
  const want = Array.from({ length: size }, (_, i) => total(g.kh * g.kw, (t) => under(x, g, Math.floor(i / g.c), Math.floor(t / g.kw), t % g.kw, i % g.c) * at(weight, t * g.c + (i % g.c))) + at(bias, i % g.c))
  expectNear(floats(gpu.get(out, 4 * size)), want, 1e-5)
}

interface Attention {
  heads: number
  rows: number
  keys: number
  depth: number
  wide: number
  mask?: boolean
}

// q, k, v: [row][head][column] of one text, as projections leave them.
function attention(r: Runner, p: Attention): void {
  const kScale = 1 / 32
  const { gpu, launch } = files.open(r, 'net_rows')
  const { heads, rows, keys, depth } = p
  const [q, k, v] = [normals(1, rows * heads * depth), normals(2, keys * heads * depth), normals(3, keys * heads * p.wide)]
  const mask = Float32Array.from({ length: rows * keys }, (_, i) => (p.mask && i % 3 === 1 ? -Infinity : 0))
  const out = gpu.put(4 * rows * heads * p.wide)
  const parts = blocks(rows, 16)
  launch('attention_kernel', heads * parts, 128,
    struct(...wide(1, heads, rows, keys, depth, p.wide), ['f32', kScale], ...wide(gpu.put(q), 0, depth, heads * depth, 1), ...wide(gpu.put(k), 0, depth, 1, heads * depth),
      ...wide(gpu.put(v), 0, p.wide, heads * p.wide, 1), ...wide(p.mask ? gpu.put(mask) : 0, 0, 0, keys, 1), ...wide(out, 0, p.wide, heads * p.wide)),
    parts) // prettier-ignore
  const want = new Float32Array(rows * heads * p.wide)
  for (let h = 0; h < heads; h++)
    for (let i = 0; i < rows; i++) {
      const scores = Array.from({ length: keys }, (_, j) => kScale * total(depth, (d) => at(q, (i * heads + h) * depth + d) * at(k, (j * heads + h) * depth + d)) + at(mask, i * keys + j))
      const top = Math.max(...scores)
      const weights = scores.map((s) => Math.exp(s - top))
      const sum = weights.reduce((a, b) => a + b, 0)
      for (let c = 0; c < p.wide; c++) want[(i * heads + h) * p.wide + c] = total(keys, (j) => at(weights, j) * at(v, (j * heads + h) * p.wide + c)) / sum
    }
  expectNear(floats(gpu.get(out, 4 * want.length)), want, 2e-5)
}

function rowsOf(r: Runner, kernel: 'softmax' | 'layer', rows: number, n: number, other: boolean): void {
  const { gpu, launch } = files.open(r, 'net_rows')
  const [x, gamma, beta] = [normals(1, rows * n), normals(2, n), normals(3, n)]
  const out = gpu.put(4 * rows * n)
  const long = n >= 4096
  const grid = long ? rows : blocks(rows, 8)
  const name = `${kernel}_kernel<${long ? 1 : 0}>`
  const want = new Float32Array(rows * n)
  for (let i = 0; i < rows; i++) {
    const row = x.subarray(i * n, (i + 1) * n)
    const top = row.reduce((a, b) => Math.max(a, b))
    const sum = total(n, (j) => Math.exp(at(row, j) - top))
    const mean = other ? 0 : total(n, (j) => at(row, j)) / n
    const scale = 1 / Math.sqrt(total(n, (j) => (at(row, j) - mean) ** 2) / n + 1e-5)
    for (let j = 0; j < n; j++)
      want[i * n + j] = kernel === 'layer' ? (at(row, j) - mean) * scale * at(gamma, j) + at(beta, j) : other ? at(row, j) - top - Math.log(sum) : Math.exp(at(row, j) - top) / sum
  }
  if (kernel === 'softmax') launch(name, grid, kBlock, gpu.put(x), rows, n, Number(other), out)
  else launch(name, grid, kBlock, gpu.put(x), gpu.put(gamma), gpu.put(beta), rows, n, 1e-5, Number(!other), out)
  expectNear(floats(gpu.get(out, 4 * rows * n)), want, 3e-5)
}

const kElementwise = [...readFileSync(join(__dirname, '../../../core/elementwise.inc'), 'utf8').matchAll(/^WHITTLE_ELEMENTWISE\((\w+),/gm)].map((m) => m[1])

// clip(x * y, -2, 2) with y along the last axis, as codes where `codes`.
function program(r: Runner, rows: number, n: number, codes: boolean): void {
  const { gpu, launch } = files.open(r, 'net_each')
  const [x, y] = [normals(1, rows * n), normals(2, n)]
  const out = gpu.put((codes ? 1 : 4) * rows * n)
  const pad = (...values: number[]): Field[] => many('u32', ...values, ...new Array<number>(8 - values.length).fill(0))
  const plain = [['i32', 0], ['i32', 0], ['f32', 1]] as Field[]
  const step = (op: string, a: number, b: number, to: number, p: number, q: number): Field[] => [...many('i32', kElementwise.indexOf(op), a, b, to), ['f32', p], ['f32', q]]
  launch('program_kernel<0>', blocks(rows * n, 128), 128,
    struct(...many('i32', 2, 2, 2), ['u32', rows * n], ...pad(rows, n), ...pad(n, 1), ...pad(0, 1), ...Array.from({ length: 22 }, () => pad()).flat(),
      ...wide(gpu.put(x), gpu.put(y), ...new Array<number>(22).fill(0)), ...Array.from({ length: 24 }, () => plain).flat(), ['i32', codes ? 2 : 0], ['i32', codes ? 100 : 0], ['f32', 0.05],
      ...step('mul', 0, 1, 2, 0, 0), ...step('clip', 2, 2, 3, -2, 2), ...Array.from({ length: 62 }, () => step('add', 0, 0, 0, 0, 0)).flat(), ['pointer', out])) // prettier-ignore
  const want = Float32Array.from(x, (v, i) => Math.min(Math.max(Math.fround(v * at(y, i % n)), -2), 2))
  if (!codes) return expectNear(floats(gpu.get(out, 4 * rows * n)), want, 0)
  const code = (v: number): number => {
    const q = Math.fround(v / Math.fround(0.05))
    const even = Math.abs(q % 1) === 0.5 ? 2 * Math.round(q / 2) : Math.round(q)
    return even + 100
  }
  expect([...new Uint8Array(gpu.get(out, rows * n))]).toEqual([...want].map(code))
}

function copies(r: Runner, rows: number, n: number): void {
  const { gpu, launch } = files.open(r, 'net_each')
  const x = normals(1, rows * n)
  const out = gpu.put(4 * rows * n)
  const eight = (...values: number[]): Field[] => wide(...values, ...new Array<number>(8 - values.length).fill(0))
  const call = (from: number[]): Uint8Array => struct(['i32', 2], ...eight(rows, n), ...eight(...from), ...eight(n, 1), ['pointer', 4], ['u32', rows * n])
  launch('copy_kernel<j>', blocks(rows * n), kBlock, call([n, 1]), gpu.put(x), out)
  expectNear(floats(gpu.get(out, 4 * rows * n)), x, 0)
  const turned = files.open(files.runner(r.schedule), 'net_each')
  const to = turned.gpu.put(4 * rows * n)
  turned.launch('copy_kernel<j>', blocks(rows * n), kBlock, call([1, rows]), turned.gpu.put(x), to)
  expectNear(floats(turned.gpu.get(to, 4 * rows * n)), x.map((_, i) => at(x, (i % n) * rows + Math.floor(i / n))), 0)
}

function gather(r: Runner, n: number): void {
  const { gpu, flags, launch } = files.open(r, 'net_each')
  const x = normals(1, 10 * n)
  const index = Int32Array.of(3, -1, 0, 3)
  const out = gpu.put(4 * 4 * n)
  launch('gather_kernel<j>', blocks(4 * n), kBlock, gpu.put(x), gpu.put(index), 0, 10, n, 4, 4 * n, out, flags)
  expectNear(floats(gpu.get(out, 16 * n)), Float32Array.from({ length: 4 * n }, (_, i) => at(x, ((at(index, Math.floor(i / n)) + 10) % 10) * n + (i % n))), 0)
  expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(0)
}

function pool(r: Runner, g: Window, average: boolean): void {
  const { gpu, launch } = files.open(r, 'net_each')
  const x = normals(1, g.n * g.h * g.w * g.c)
  const size = g.n * g.oh * g.ow * g.c
  const out = gpu.put(4 * size)
  launch('pool_kernel', blocks(size), kBlock, struct(...wide(g.n, g.h, g.w, g.c, g.oh, g.ow, g.kh, g.kw, g.stride, g.stride, 1, 1, g.pad, g.pad, g.pad, g.pad), ['u8', Number(average)], ['u8', 0], ...wide(gpu.put(x), out)), size)
  const ones = new Float32Array(x.length).fill(1)
  const want = Array.from({ length: size }, (_, i) => {
    const [pixel, channel] = [Math.floor(i / g.c), i % g.c]
    const taps = Array.from({ length: g.kh * g.kw }, (_, t) => [Math.floor(t / g.kw), t % g.kw] as const).filter(([ky, kx]) => under(ones, g, pixel, ky, kx, channel))
    const values = taps.map(([ky, kx]) => under(x, g, pixel, ky, kx, channel))
    return average ? values.reduce((a, b) => a + b, 0) / values.length : Math.max(...values)
  })
  expectNear(floats(gpu.get(out, 4 * size)), want, 1e-6)
}

// An LSTM of one layer, activations by default.
function recurrent(r: Runner, batch: number, hidden: number, steps: number): void {
  const { gpu, flags, launch } = files.open(r, 'net_recurrent')
  const [xw, weight] = [normals(1, steps * batch * 4 * hidden), normals(2, 4 * hidden * hidden).map((v) => v / 8)]
  const [out, last, cell] = [gpu.put(4 * steps * batch * hidden), gpu.put(4 * batch * hidden), gpu.put(4 * batch * hidden)]
  const gate = (kind: number): Field[] => [['i32', kind], ['f32', 0], ['f32', 0]]
  launch('recurrent_kernel', batch, 256,
    struct(['i32', 2], ...wide(steps, batch, hidden), ['u8', 0], ['u8', 0], ['u8', 0], ['f32', Infinity], ...gate(2), ...gate(1), ...gate(1),
      ...wide(gpu.put(xw), gpu.put(weight), 0), ['u8', 0], ...wide(0, 0, 0, 0, 0, out, batch * hidden, last, cell), ...wide(1, hidden, 0, 0)),
    flags) // prettier-ignore
  const sigmoid = (v: number): number => 1 / (1 + Math.exp(-v))
  const [h, c] = [new Float64Array(batch * hidden), new Float64Array(batch * hidden)]
  const want: number[] = []
  for (let s = 0; s < steps; s++) {
    const before = h.slice()
    for (let b = 0; b < batch; b++)
      for (let j = 0; j < hidden; j++) {
        const [i, o, f, g] = [0, 1, 2, 3].map((at4) => at(xw, ((s * batch + b) * 4 + at4) * hidden + j) + total(hidden, (p) => at(before, b * hidden + p) * at(weight, (at4 * hidden + j) * hidden + p))) as [number, number, number, number]
        c[b * hidden + j] = sigmoid(f) * at(c, b * hidden + j) + sigmoid(i) * Math.tanh(g)
        h[b * hidden + j] = sigmoid(o) * Math.tanh(at(c, b * hidden + j))
      }
    want.push(...h)
  }
  expectNear(floats(gpu.get(out, 4 * want.length)), want, 2e-5)
  expectNear(floats(gpu.get(last, 4 * batch * hidden)), h, 2e-5)
  expectNear(floats(gpu.get(cell, 4 * batch * hidden)), c, 2e-5)
}

const small: Window = { n: 2, h: 5, w: 6, c: 3, oh: 3, ow: 3, kh: 3, kw: 3, stride: 2, pad: 1, groups: 1 }
test.each<[string, (r: Runner) => void]>([
  ['depthwise convolutions', (r) => depthwise(r, { ...small, groups: 3 })],
  ['attention', (r) => attention(r, { heads: 2, rows: 19, keys: 35, depth: 7, wide: 33, mask: true })],
  ['softmax of short rows', (r) => rowsOf(r, 'softmax', 9, 37, false)],
  ['logarithms of softmax', (r) => rowsOf(r, 'softmax', 2, 70, true)],
  ['softmax of a long row', (r) => rowsOf(r, 'softmax', 1, 4099, false)],
  ['layer normalization', (r) => rowsOf(r, 'layer', 9, 37, false)],
  ['root-mean-square normalization of a long row', (r) => rowsOf(r, 'layer', 1, 4097, true)],
  ['arithmetic', (r) => program(r, 3, 45, false)],
  ['arithmetic to codes', (r) => program(r, 2, 77, true)],
  ['copies and transposes', (r) => copies(r, 5, 61)],
  ['gathering', (r) => gather(r, 67)],
  ['pools', (r) => (pool(r, small, false), pool(r, small, true))],
  ['a recurrent layer', (r) => recurrent(r, 2, 37, 2)],
])('%s', (_, run) => {
  for (const schedule of schedules) run(files.runner(schedule))
})

/** At most so many times the least that the same bytes allow. */
const bounds: readonly { kernel: string; run: (r: Runner) => void; global: number; shared?: number; because?: string }[] = [
  { kernel: 'net_product/product_kernel<0>', run: (r) => product(r, { m: 64, n: 64, k: 32, batch: 1, residual: true }), global: 1, shared: 1.03, because: 'a row along k is put down as a column: two lanes a bank' },
  { kernel: 'net_product/product_kernel<1>', run: (r) => product(r, conv({ n: 1, h: 8, w: 8, c: 16, kh: 3, kw: 3, stride: 1, pad: 1, groups: 1 }, 64)), global: 1, shared: 1.06, because: 'likewise, of both sides' },
  { kernel: 'net_product/depthwise_kernel', run: (r) => depthwise(r, { n: 1, h: 6, w: 6, c: 64, oh: 6, ow: 6, kh: 3, kw: 3, stride: 1, pad: 1, groups: 64 }), global: 1 },
  { kernel: 'net_rows/attention_kernel', run: (r) => attention(r, { heads: 2, rows: 32, keys: 64, depth: 64, wide: 64 }), global: 1 },
  { kernel: 'net_rows/softmax_kernel<0>', run: (r) => rowsOf(r, 'softmax', 8, 128, false), global: 1 },
  { kernel: 'net_rows/softmax_kernel<1>', run: (r) => rowsOf(r, 'softmax', 1, 4096, false), global: 1 },
  { kernel: 'net_rows/layer_kernel<0>', run: (r) => rowsOf(r, 'layer', 8, 128, false), global: 1 },
  { kernel: 'net_rows/layer_kernel<1>', run: (r) => rowsOf(r, 'layer', 1, 4096, false), global: 1 },
  { kernel: 'net_each/program_kernel<0>', run: (r) => program(r, 4, 128, false), global: 1 },
  { kernel: 'net_each/copy_kernel<j>', run: (r) => copies(r, 8, 64), global: 1 },
  { kernel: 'net_each/pool_kernel', run: (r) => pool(r, { n: 1, h: 6, w: 6, c: 32, oh: 3, ow: 3, kh: 2, kw: 2, stride: 2, pad: 0, groups: 1 }, false), global: 1 },
  { kernel: 'net_each/gather_kernel<j>', run: (r) => gather(r, 64), global: 1 },
  { kernel: 'net_recurrent/recurrent_kernel', run: (r) => recurrent(r, 1, 64, 2), global: 1 },
]

function checkRequests(r: Runner, b: (typeof bounds)[number]): void {
  b.run(r)
  const name = b.kernel.split('/')[1] as string
  const got = (['global', 'shared'] as const).map((space) => ({ space, ...r.ledger.traffic(name, space) })).filter((t) => t.requests > 0)
  expect(got.map((t) => t.space)).toContain('global')
  if (process.env['WHITTLE_PTX_PRINT']) process.stdout.write(got.map((t) => `| ${b.kernel} | ${t.space} | ${t.requests} | ${(t.units / t.requests).toFixed(2)} | ${(t.units / t.ideal).toFixed(3)} |\n`).join(''))
  for (const t of got) {
    const most = t.space === 'global' ? b.global : (b.shared ?? 1)
    if (t.units / t.ideal > most) throw new Error(`${b.kernel}: ${t.units / t.ideal} times the least of ${t.space} memory, at most ${most}`)
  }
}

test.each(bounds.map((b) => [b.kernel, b] as const))('requests of %s are as few as they may be', (_, b) => checkRequests(files.runner(), b))

const edits = [
  ['rows of a tile on the same banks', { file: 'net_product.cu', find: 'kPitch = kTile + 4', replace: 'kPitch = kTile' }, 'net_product/product_kernel<1>', /times the least of shared/],
  ['keys on the same banks', { file: 'net_rows.cu', find: 'kKeyPitch = kHead + 1', replace: 'kKeyPitch = kHead' }, 'net_rows/attention_kernel', /times the least of shared/],
  ['columns of one row by one thread', { file: 'net_rows.cu', find: 'return {blockIdx.x, threadIdx.x, kBlock};', replace: 'return {blockIdx.x, threadIdx.x * 16, 1};' }, 'net_rows/softmax_kernel<1>', /times the least of global|want|race/],
] as const

if (full) test.each(edits)('a mistake is caught: %s', async (_, edit, kernel, says) => {
  const broken = new Files()
  broken.modules.set(edit.file.slice(0, -3), await compile(edit.file.slice(0, -3), edit))
  expect(() => checkRequests(broken.runner(), bounds.find((b) => b.kernel === kernel) as (typeof bounds)[number])).toThrow(says)
}, 300000)

test('every hot kernel of these files has a bound', () => {
  const hot = budgets.map((b) => b.kernel).filter((k) => /^net_(product|rows|each|recurrent)\//.test(k))
  expect(bounds.map((b) => b.kernel).sort()).toEqual(hot.sort())
})
