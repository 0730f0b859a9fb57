// The PTX that nvcc emits from cuda/*.cu, interpreted: values against the CPU, requests against their bounds, and copies with
// a mistake that must be caught. WHITTLE_NVCC names nvcc, WHITTLE_PTX_FULL=1 runs all shapes and schedules: npm run test:cuda.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { values } from './checks'
import { compile } from './compile'
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

test('every kernel is understood, and every one with inline assembly has run', async () => {
  const folder = join(__dirname, '..', '..', '..', 'cuda')
  const files = readdirSync(folder).filter((f) => f.endsWith('.cu'))
  const texts = files.map((f) => [f.slice(0, -3), readFileSync(join(folder, f), 'utf8')] as const)
  const others = texts.filter(([f, text]) => !stems.includes(f as Stem) && /\basm\b/.test(text)).map(([f]) => f)
  // Of files without assembly of their own the kernels are decoded only: what theirs hold is the header's, the halves of a
  // double that a warp exchanges.
  const plain = full ? texts.filter(([f, text]) => !stems.includes(f as Stem) && !others.includes(f) && text.includes('__global__')).map(([f]) => f) : []
  const kernelsOf = (all: readonly Modules[Stem][]) => all.flatMap((m) => [...m.kernels.values()])
  const held = kernelsOf([...Object.values(modules), ...(await Promise.all(others.map((f) => compile(f))))])
  for (const k of [...held, ...kernelsOf(await Promise.all(plain.map((f) => compile(f))))]) expect(() => decode(k)).not.toThrow()
  expect(held.filter((k) => k.assembly && !ran.has(k.name)).map((k) => k.name)).toEqual([])
  if (full)
    expect(
      Object.values(modules)
        .flatMap((m) => [...m.kernels.keys()])
        .filter((k) => !ran.has(k)),
    ).toEqual([])
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
