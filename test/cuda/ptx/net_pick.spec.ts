// The PTX of gathering, scattering, running sums and top k in plans, interpreted: results against plain loops, bit by bit, and what
// requests may cost (32-byte sectors, passes over banks) over shapes that fill warps.
import budgets from '../budgets.json'
import { compile } from './compile'
import { struct, type Runner } from './launches'
import { Files, full, kBlock, normals, schedules } from './support'

const files = new Files()
beforeAll(() => files.compile('net_pick'), 300000)

type Field = Parameters<typeof struct>[number]
const wide = (...values: number[]): Field[] => values.map((v) => ['pointer', v] as Field)
const eight = (...values: number[]): Field[] => wide(...values, ...new Array<number>(8 - values.length).fill(0))
const small = (...values: number[]): Field[] => values.map((v) => ['i32', v] as Field)
const blocks = (n: number): number => Math.ceil(n / kBlock)
const at = (x: ArrayLike<number>, i: number): number => x[i] as number
const kAdd = 1

const floats = (r: ArrayBuffer): number[] => [...new Float32Array(r)]

// Along axis 1 of [outer][axis][inner]; index(o, a, i) may count from the end.
interface Elements {
  outer: number
  axis: number
  count: number
  inner: number
  index: (o: number, a: number, i: number) => number
}

const indices = (e: Elements): Int32Array =>
  Int32Array.from({ length: e.outer * e.count * e.inner }, (_, t) => e.index(Math.floor(t / e.inner / e.count), Math.floor(t / e.inner) % e.count, t % e.inner))
const placeOf = (e: Elements, t: number, index: number): number => (Math.floor(t / e.inner / e.count) * e.axis + ((index + e.axis) % e.axis)) * e.inner + (t % e.inner)

function elements(r: Runner, e: Elements, scatter: boolean): void {
  const { gpu, flags, launch } = files.open(r, 'net_pick')
  const x = normals(1, e.outer * e.axis * e.inner)
  const index = indices(e)
  const updates = normals(2, index.length)
  const out = scatter ? gpu.put(x) : gpu.put(4 * index.length)
  const call = struct(...small(3, 1), ...eight(e.outer, e.axis, e.inner), ...eight(e.outer, e.count, e.inner), ['i32', 4], ['u8', 0], ['i32', scatter ? kAdd : 0],
    ...wide(gpu.put(x), gpu.put(index), scatter ? gpu.put(updates) : 0, out)) // prettier-ignore
  if (scatter) launch('scatter_elements_kernel<j>', blocks(e.outer * e.inner), kBlock, call, e.outer * e.inner, e.inner, flags)
  else launch('gather_elements_kernel<j>', blocks(index.length), kBlock, call, index.length, flags)
  const want = scatter ? x.slice() : Float32Array.from(index, (i, t) => at(x, placeOf(e, t, i)))
  // Updates of a line follow each other.
  if (scatter) for (const [t, i] of index.entries()) want[placeOf(e, t, i)] = Math.fround(at(want, placeOf(e, t, i)) + at(updates, t))
  expect(floats(gpu.get(out, 4 * want.length))).toEqual([...want])
  expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(0)
}

// Slices of `words` floats of a matrix of `lines`, by one coordinate.
function slices(r: Runner, lines: number, words: number, named: readonly number[], scatter: boolean): void {
  const { gpu, flags, launch } = files.open(r, 'net_pick')
  const x = normals(3, lines * words)
  const index = Int32Array.from(named)
  const updates = normals(4, index.length * words)
  const out = scatter ? gpu.put(x) : gpu.put(4 * index.length * words)
  const call = struct(...wide(index.length, 1, 4 * words), ...eight(lines), ...wide(index.length), ['u8', 0], ['i32', scatter ? kAdd : 0],
    ...wide(gpu.put(x), gpu.put(index), scatter ? gpu.put(updates) : 0, out)) // prettier-ignore
  const size = index.length * words
  const parts = Math.min(index.length, 256)
  if (scatter) launch('scatter_slices_kernel<j>', blocks(words * parts), kBlock, call, words, parts, flags)
  else launch('gather_slices_kernel<j>', blocks(size), kBlock, call, words, lines * words, size, flags)
  const from = (row: number, w: number): number => ((at(index, row) + lines) % lines) * words + w
  const want = scatter ? x.slice() : Float32Array.from({ length: size }, (_, i) => at(x, from(Math.floor(i / words), i % words)))
  if (scatter) for (let i = 0; i < size; i++) want[from(Math.floor(i / words), i % words)] = Math.fround(at(want, from(Math.floor(i / words), i % words)) + at(updates, i))
  expect(floats(gpu.get(out, 4 * want.length))).toEqual([...want])
  expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(0)
}

function cumulate(r: Runner, outer: number, n: number, inner: number, exclusive: boolean, reverse: boolean): void {
  const { gpu, launch } = files.open(r, 'net_pick')
  const x = normals(5, outer * n * inner)
  const out = gpu.put(4 * x.length)
  launch('cumulate_kernel', blocks(outer * inner), kBlock, outer * inner, n, inner, Number(exclusive), Number(reverse), gpu.put(x), out)
  const want = new Float32Array(x.length)
  for (let line = 0; line < outer * inner; line++) {
    let sum = 0
    for (let i = 0; i < n; i++) {
      const place = (Math.floor(line / inner) * n + (reverse ? n - 1 - i : i)) * inner + (line % inner)
      const next = Math.fround(sum + at(x, place))
      want[place] = exclusive ? sum : next
      sum = next
    }
  }
  expect(floats(gpu.get(out, 4 * want.length))).toEqual([...want])
}

// With ties, and NaN last.
function topK(r: Runner, lines: number, n: number, k: number, largest: boolean): void {
  const { gpu, launch } = files.open(r, 'net_pick')
  const x = normals(6, lines * n).map((v, i) => (i % 11 === 3 ? NaN : i % 2 ? Math.round(v) : v))
  const [values, index] = [gpu.put(4 * lines * k), gpu.put(8 * lines * k)]
  launch('top_k_kernel<f>', lines, kBlock, struct(...wide(lines, n, 1, k), ['i32', 0], ['u8', Number(largest)], ...wide(gpu.put(x), values, index)))
  const key = (v: number): number => (Number.isNaN(v) ? Infinity : largest ? -v : v)
  const want = Array.from({ length: lines }, (_, l) =>
    Array.from({ length: n }, (_, i) => i).sort((a, b) => (key(at(x, l * n + a)) === key(at(x, l * n + b)) ? a - b : key(at(x, l * n + a)) < key(at(x, l * n + b)) ? -1 : 1)).slice(0, k),
  )
  expect([...new BigInt64Array(gpu.get(index, 8 * lines * k))].map(Number)).toEqual(want.flat())
  expect(floats(gpu.get(values, 4 * lines * k))).toEqual(want.flatMap((list, l) => list.map((i) => at(x, l * n + i))))
}

const spread: Elements = { outer: 2, axis: 5, count: 4, inner: 9, index: (o, a, i) => ((o + a * 3 + i) % 5) - (i % 2 ? 5 : 0) }
const named = [3, -1, 0, 3, 5, 3, -7]

test.each<[string, (r: Runner) => void]>([
  ['gathering elements', (r) => elements(r, spread, false)],
  ['scattering elements that meet', (r) => elements(r, { ...spread, index: (_, a) => (a % 2 ? 3 : -2) }, true)],
  ['gathering slices', (r) => slices(r, 7, 37, named, false)],
  ['scattering slices that meet', (r) => slices(r, 7, 37, named, true)],
  ['running sums', (r) => (cumulate(r, 3, 7, 1, false, true), cumulate(r, 2, 5, 9, true, false))],
  ['the k best', (r) => (topK(r, 2, 70, 9, true), topK(r, 1, 300, 5, false))],
])('%s', (_, run) => {
  for (const schedule of schedules) run(files.runner(schedule))
})

/** At most so many times the least that the same bytes allow. */
const bounds: readonly { kernel: string; run: (r: Runner) => void; global: number; shared?: number }[] = [
  // A row of places is named by the same index: what models gather by.
  { kernel: 'gather_elements_kernel<j>', run: (r) => elements(r, { outer: 2, axis: 8, count: 4, inner: 64, index: (_, a) => 7 - a }, false), global: 1 },
  { kernel: 'scatter_elements_kernel<j>', run: (r) => elements(r, { outer: 2, axis: 8, count: 4, inner: 128, index: (_, a) => a }, true), global: 1 },
  { kernel: 'gather_slices_kernel<j>', run: (r) => slices(r, 8, 64, [7, 0, 3, 3], false), global: 1 },
  { kernel: 'scatter_slices_kernel<j>', run: (r) => slices(r, 8, 64, [7, 0, 3, 4], true), global: 1 },
  { kernel: 'cumulate_kernel', run: (r) => cumulate(r, 2, 4, 128, false, false), global: 1 },
  { kernel: 'top_k_kernel<f>', run: (r) => topK(r, 1, 512, 3, true), global: 1 },
]

function checkRequests(r: Runner, b: (typeof bounds)[number]): void {
  b.run(r)
  for (const space of ['global', 'shared'] as const) {
    const t = r.ledger.traffic(b.kernel, space)
    if (space === 'global') expect(t.requests).toBeGreaterThan(0)
    if (process.env['WHITTLE_PTX_PRINT'] && t.requests > 0) process.stdout.write(`| ${b.kernel} | ${space} | ${(t.units / t.requests).toFixed(2)} | ${(t.units / t.ideal).toFixed(3)} |\n`)
    const most = space === 'global' ? b.global : (b.shared ?? 1)
    if (t.requests > 0 && t.units / t.ideal > most) throw new Error(`${b.kernel}: ${t.units / t.ideal} times the least of ${space} memory, at most ${most}`)
  }
}

test.each(bounds.map((b) => [b.kernel, b] as const))('requests of %s are as few as they may be', (_, b) => checkRequests(files.runner(), b))

test('every hot kernel of this file has a bound', () => {
  const hot = budgets.map((b) => b.kernel).filter((k) => k.startsWith('net_pick/'))
  expect(bounds.map((b) => `net_pick/${b.kernel}`).sort()).toEqual(hot.sort())
})

const edits = [
  ['lines dealt to threads across memory', { find: 'const uint32_t base = line / inner * n * inner + line % inner;', replace: 'const uint32_t turned = line % 16 * (lines / 16) + line / 16, base = turned / inner * n * inner + turned % inner;' }, 'cumulate_kernel', /times the least of global/],
  ['a line read in pieces', { find: 'for (uint32_t i = t; i < n; i += kBlock) {', replace: 'for (uint32_t i = t * (n / kBlock); i < (t + 1) * (n / kBlock); i++) {' }, 'top_k_kernel<f>', /times the least of global/],
  ['no barrier before the best is read', { find: '    __syncthreads();\n    last = values[0];', replace: '    last = values[0];' }, 'top_k_kernel<f>', /race|toEqual/],
] as const

if (full) test.each(edits)('a mistake is caught: %s', async (_, edit, kernel, says) => {
  const sound = files.modules.get('net_pick') as never
  files.modules.set('net_pick', await compile('net_pick', { file: 'net_pick.cu', ...edit }))
  try {
    expect(() => checkRequests(files.runner(), bounds.find((b) => b.kernel === kernel) as (typeof bounds)[number])).toThrow(says)
  } finally {
    files.modules.set('net_pick', sound)
  }
}, 300000)
