// The PTX that nvcc emits from cuda/*.cu, interpreted: values against the CPU, requests against their bounds, and copies with
// a mistake that must be caught. WHITTLE_NVCC names nvcc, WHITTLE_PTX_FULL=1 runs all shapes and schedules: npm run test:cuda.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { values } from './checks'
import { compile, objects } from './compile'
import { decode } from './instructions'
import { Runner, type Modules, type Stem } from './launches'
import { checkTraffic } from './traffic'
import mistakes from '../mistakes.json'

const full = process.env['WHITTLE_PTX_FULL'] === '1'
const stems = Object.keys(values) as Stem[]
let modules: Modules

beforeAll(async () => {
  // The largest two, and then the rest: as many compilers at a time as a small machine has cores.
  const first = await Promise.all([compile('quantize'), compile('distill')])
  const rest = await Promise.all(
    (['select', 'divergence', 'gemm', 'gemm_int8', 'sparse', 'spmm'] as const).map((s) => compile(s)),
  )
  modules = {
    quantize: first[0],
    distill: first[1],
    select: rest[0]!,
    divergence: rest[1]!,
    gemm: rest[2]!,
    gemm_int8: rest[3]!,
    sparse: rest[4]!,
    spmm: rest[5]!,
  }
}, 300000)

const ran = new Set<string>()
const keep = (r: Runner): void => r.ledger.kernels.forEach((_, k) => ran.add(k))

const schedules = full
  ? ([{}, { order: 'reversed', approximate: -1 }, { order: 'random', seed: 2, approximate: 1 }] as const)
  : ([{ order: 'random', seed: 1, approximate: 1 }] as const)

test.each(stems)(
  'every kernel of %s.cu has the values of the CPU',
  (stem) => {
    for (const schedule of schedules) {
      const r = new Runner(modules, schedule)
      values[stem](r, full)
      keep(r)
    }
  },
  300000,
)

test.each(stems)(
  'requests of the hot kernels of %s.cu are as few as they may be',
  (stem) => {
    const r = new Runner(modules)
    const costs = checkTraffic(stem, r)
    keep(r)
    if (process.env['WHITTLE_PTX_PRINT'])
      process.stdout.write(
        costs
          .map(
            (c) =>
              `| ${c.kernel} | ${c.space} | ${c.requests} | ${c.perRequest.toFixed(2)} | ${c.ratio.toFixed(2)} |\n`,
          )
          .join(''),
      )
  },
  60000,
)

/** Files whose specs hold them to the same: every kernel with inline assembly has run. */
const elsewhere = ['select_mask', 'quantize_train', 'distill_logits', 'distill_relation', 'distill_features', 'distill_linear', 'svd', 'net_int8']

test('every kernel is understood, and every one with inline assembly has run', async () => {
  const folder = join(__dirname, '..', '..', '..', 'cuda')
  const others = readdirSync(folder)
    .filter((f) => f.endsWith('.cu') && readFileSync(join(folder, f), 'utf8').includes('__global__'))
    .map((f) => f.slice(0, -3))
    .filter((f) => !stems.includes(f as Stem) && !elsewhere.includes(f))
  const kernelsOf = (all: readonly Modules[Stem][]) => all.flatMap((m) => [...m.kernels.values()])
  const mine = kernelsOf(Object.values(modules))
  const rest = full || objects ? kernelsOf(await Promise.all(others.map((f) => compile(f)))) : []
  for (const k of [...mine, ...rest]) expect(() => decode(k)).not.toThrow()
  expect([...mine, ...rest].filter((k) => k.assembly && !ran.has(k.name)).map((k) => k.name)).toEqual([])
  if (full) expect(mine.map((k) => k.name).filter((k) => !ran.has(k))).toEqual([])
}, 300000)

type Mistake = (typeof mistakes)[number] & { occurrence?: number; quick?: boolean }

const mine = (mistakes as Mistake[]).filter((m) => m.config === 'ptx' && (full || m.quick))

test.each(mine.map((m) => [m.what, m] as const))(
  'a mistake is caught: %s',
  async (_, m) => {
    const stem = m.family as Stem
    const edit = {
      file: m.file.includes('.') ? m.file : `${m.file}.cu`,
      find: m.find,
      replace: m.replace,
      ...(m.occurrence ? { occurrence: m.occurrence } : {}),
    }
    const broken = { ...modules, [stem]: await compile(stem, edit) }
    let said = 'nothing'
    try {
      values[stem](new Runner(broken, { order: 'random', seed: 1 }), false)
      checkTraffic(stem, new Runner(broken))
    } catch (e) {
      said = (e as Error).message
    }
    expect(said).toMatch(new RegExp(m.says))
  },
  120000,
)
