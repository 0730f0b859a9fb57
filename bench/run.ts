import * as fs from 'node:fs'
import * as path from 'node:path'
import { availableParallelism, cpus } from 'node:os'
import { parseArgs } from 'node:util'
import { devices, setThreads, WhittleError } from '../lib/index'
import { Bench, equal } from './harness/bench'
import { interleave, median, sample, sideOf, warm, type Side } from './harness/measure'
import { page, type Section } from './harness/html'
import type { Case, FamilyReport, Prepared, Rival, Row } from './harness/types'

const kUsage = 'usage: npm run bench -- [family ...] [--json] [--quick] [--threads 1,2] [--case TEXT] [--html FILE]'
const kQuickMs = 50_000
const kQuickRivalMs = 200
const kQuickCaseMs = 5000

interface Options {
  readonly quick: boolean
  readonly json: boolean
  readonly only: string | undefined
}

/** Every bench/<stem>.ts but this one. */
function stems(): string[] {
  return fs
    .readdirSync(__dirname)
    .filter((f) => f.endsWith('.js') && f !== 'run.js')
    .map((f) => f.slice(0, -3))
    .sort()
}

/** A family is a file, with those beside it named <family>_<what>. */
function familyOf(stem: string, all: readonly string[]): string {
  return all.find((s) => stem.startsWith(`${s}_`)) ?? stem
}

function say(text: string): void {
  process.stderr.write(text + '\n')
}

async function runCase(
  family: string,
  stem: string,
  c: Case,
  bench: Bench,
  options: Options,
  deadline: number,
): Promise<{ rows: Row[]; wrong: boolean }> {
  bench.seed(`${family}/${c.case}`)
  const prepared: Prepared = await c.prepare(bench)
  const rivals = await Promise.all(prepared.rivals)
  const { cpu } = devices()
  const base = { family, case: c.case, variant: cpu.kernels[stem] ?? cpu.variant, threads: bench.threads }
  const ours = sideOf({ run: prepared.ours, selfTimed: prepared.oursTimed ?? false })
  await warm(ours)
  let wrong = false
  const whys = new Map<Rival, string>()
  const sides = new Map<Rival, Side>()
  for (const rival of rivals) {
    if (rival.why !== undefined) {
      whys.set(rival, rival.why)
      continue
    }
    const side = sideOf(rival)
    try {
      const first = await sample(side)
      const difference = await compare(prepared, rival)
      if (difference) {
        whys.set(rival, `results differ: ${difference}`)
        wrong = true
        continue
      }
      if (options.quick && (first > kQuickRivalMs || Date.now() + 11 * first > deadline)) {
        // The first run is cold: a second one decides.
        const again = first < 10 * kQuickRivalMs && Date.now() + 2 * first < deadline ? await sample(side) : first
        if (again > kQuickRivalMs || Date.now() + 11 * again > deadline) {
          whys.set(rival, `dropped by --quick: about ${again.toFixed(0)} ms a run`)
          continue
        }
      }
      await warm(side)
      sides.set(rival, side)
    } catch (e) {
      whys.set(rival, (e as Error).message)
    }
  }
  const all = [ours, ...sides.values()]
  const limiter = prepared.limit ? sideOf(prepared.limit) : undefined
  if (limiter) {
    await warm(limiter)
    all.push(limiter)
  }
  const round = all.reduce((sum, s) => sum + median([s.first]) * s.repeats, 0)
  // 15 samples a side at least; more where they are cheap. Less of them with --quick.
  const count = options.quick ? 9 : Math.max(15, Math.min(101, Math.floor(3000 / Math.max(round, 1))))
  await interleave(all, count, bench.threads > 1 && all.length > 1 ? 2 : 0)
  const oursMs = median(ours.samples)
  const bound =
    limiter && prepared.limit && prepared.bound
      ? { name: `${prepared.bound.name}, in turn`, ms: median(limiter.samples) / prepared.limit.part }
      : prepared.bound
  const limit = {
    bound: bound?.name ?? null,
    share_of_bound: bound && Number.isFinite(bound.ms) ? round4(bound.ms / oursMs) : null,
  }
  const rows: Row[] = []
  for (const rival of rivals) {
    const side = sides.get(rival)
    const ms = side ? median(side.samples) : null
    const why = whys.get(rival) ?? rival.incomparable
    rows.push({
      ...base,
      ours_ms: round4(oursMs),
      rival: rival.name,
      rival_ms: ms === null ? null : round4(ms),
      ratio: ms === null ? null : round4(ms / oursMs),
      ...limit,
      ...(why === undefined ? {} : { why }),
    })
    await rival.dispose?.()
  }
  if (rows.length === 0)
    rows.push({ ...base, ours_ms: round4(oursMs), rival: null, rival_ms: null, ratio: null, ...limit })
  await prepared.dispose?.()
  ;(globalThis as { gc?: () => void }).gc?.()
  return { rows, wrong }
}

async function compare(prepared: Prepared, rival: Rival): Promise<string | null> {
  if (rival.incomparable !== undefined || !rival.result || !prepared.result) return null
  return (prepared.check ?? equal)(prepared.result(), await rival.result(), rival.name)
}

function round4(x: number): number {
  return Number(x.toPrecision(4))
}

function print(row: Row): void {
  const cell = (v: string | number | null, width: number) => (v === null ? '-' : String(v)).padStart(width)
  const share = row.share_of_bound === null ? '' : `  ${(100 * row.share_of_bound).toFixed(0)} % of ${row.bound}`
  console.log(
    `${row.case.padEnd(34)} ${row.variant.padEnd(11)} ${row.threads}T ${cell(row.ours_ms, 9)} ms  ${(row.rival ?? '').padEnd(17)}` +
      `${cell(row.rival_ms, 9)} ms  ${row.ratio === null ? '      -' : `${row.ratio.toFixed(2).padStart(7)}x`}${share}${row.why ? `  (${row.why})` : ''}`,
  )
}

async function main(): Promise<number> {
  let parsed
  try {
    parsed = parseArgs({
      allowPositionals: true,
      options: {
        json: { type: 'boolean' },
        quick: { type: 'boolean' },
        threads: { type: 'string' },
        case: { type: 'string' },
        html: { type: 'string' },
      },
    })
  } catch (e) {
    say(`bench: ${(e as Error).message}\n${kUsage}`)
    return 2
  }
  const files = stems()
  const families = [...new Set(files.map((f) => familyOf(f, files)))]
  const known = [...new Set([...families, ...files])]
  const wanted = parsed.positionals.length ? parsed.positionals : families
  const unknown = wanted.find((f) => !known.includes(f))
  const cores = Math.min(availableParallelism(), devices().cpu.availableThreads)
  const counts = (parsed.values.threads ?? (cores > 1 ? `1,${cores}` : '1')).split(',').map(Number)
  if (unknown !== undefined || counts.some((n) => !Number.isInteger(n) || n < 1 || n > 256)) {
    say(
      unknown !== undefined
        ? `bench: no family ${unknown}; there are: ${known.join(' ')}`
        : `bench: --threads takes numbers from 1 to 256`,
    )
    say(kUsage)
    return 2
  }
  const options: Options = {
    quick: parsed.values.quick ?? false,
    json: parsed.values.json ?? false,
    only: parsed.values.case,
  }
  const rows: Row[] = []
  const sections: Section[] = []
  const machine = new Set<string>()
  let wrong = false
  for (const name of wanted) {
    // A file's own name runs that file alone.
    const family = familyOf(name, files)
    // A time budget is the family's: --quick must end whatever the other families did.
    const started = Date.now()
    const mine: { stem: string; c: Case }[] = []
    const reports: ((rows: readonly Row[]) => FamilyReport)[] = []
    const own: Row[] = []
    for (const stem of files.filter((f) => (family === name ? familyOf(f, files) === family : f === name))) {
      const module = (await import(path.join(__dirname, `${stem}.js`))) as {
        cases: readonly Case[]
        report?: (rows: readonly Row[]) => FamilyReport
      }
      if (module.report) reports.push(module.report)
      for (const c of module.cases)
        if (options.only === undefined ? !(options.quick && c.full) : c.case.includes(options.only)) mine.push({ stem, c })
    }
    const total = mine.length * counts.length
    let done = 0
    for (const threads of counts) {
      if (options.quick && Date.now() > started + kQuickMs * 0.8) {
        say(`bench: no time left for ${family} on ${threads} threads: --threads ${threads} measures them`)
        continue
      }
      setThreads(threads)
      const bench = new Bench(threads, options.quick)
      if (parsed.values.html !== undefined) {
        const versions = Object.entries(await bench.versions()).map(([k, x]) => `${k} ${x}`)
        machine.add(`${cpus()[0]?.model ?? 'unknown CPU'}, ${cores} threads; ${versions.join(', ')}`)
      }
      if (!options.json) {
        const v = await bench.versions()
        console.log(
          `${family}, ${threads} thread${threads > 1 ? 's' : ''}: ${Object.entries(v)
            .map(([k, x]) => `${k} ${x}`)
            .join(', ')}`,
        )
        console.log(
          `limits: ${Object.entries(bench.peaks)
            .filter(([k]) => k !== 'threads')
            .map(([k, x]) => `${k} ${x}`)
            .join(', ')}`,
        )
      }
      try {
        for (const { stem, c } of mine) {
          const left = started + kQuickMs * 0.85 - Date.now()
          if (options.quick && left <= 0) {
            say(`bench: no time left for ${family} ${c.case}, ${threads} thread${threads > 1 ? 's' : ''}`)
            continue
          }
          // A share of what is left, and enough for the first case that starts a rival's process.
          const share = Math.min(left, Math.max(kQuickCaseMs, left / (total - done)))
          const deadline = options.quick ? Date.now() + share : Infinity
          const r = await runCase(family, stem, c, bench, options, deadline)
          done++
          wrong ||= r.wrong
          rows.push(...r.rows)
          own.push(...r.rows)
          if (!options.json) for (const row of r.rows) print(row)
          for (const row of r.rows)
            if (row.why?.startsWith('results differ'))
              say(`bench: ${family} ${row.case} against ${row.rival}: ${row.why}`)
        }
      } finally {
        await bench.close()
      }
    }
    const said = reports.map((f) => f(own))
    if (!options.json) for (const r of said) for (const line of r.text) console.log(line)
    sections.push({ family, rows: own, html: said.map((r) => r.html).join('') })
  }
  if (parsed.values.html !== undefined) fs.writeFileSync(parsed.values.html, page(sections, [...machine]))
  if (options.json) console.log(JSON.stringify(rows, null, 1))
  return wrong ? 1 : 0
}

main().then(
  (code) => (process.exitCode = code),
  (e: unknown) => {
    say(e instanceof WhittleError ? `bench: ${e.code}: ${e.message}` : String((e as Error).stack ?? e))
    process.exitCode = 1
  },
)
