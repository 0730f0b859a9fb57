import { bytes, count, milliseconds, percent, short } from './format'
import { big } from './layers'
import type { Analysis } from './analysis'
import { bars, escape, stacked, stems, type Bar, type Part } from './svg'
import type { CompressReport, LayerReport, Measurement, StepReport } from './types'

interface Tile {
  readonly label: string
  readonly value: string
  readonly note: string
}

/** The figures that count, large. */
export function tiles(report: CompressReport, measurements: readonly Measurement[], accuracyName: string, analysis?: Analysis, resultAnalysis?: Analysis): string {
  const { before, after } = report
  const list: Tile[] = [
    {
      label: 'size',
      value: bytes(after.bytes),
      note: `from ${bytes(before.bytes)}, ${(before.bytes / Math.max(after.bytes, 1)).toFixed(2)} times smaller`,
    },
  ]
  const reference = measurements.find((m) => m.reference)
  // Others may have been measured beside.
  const others = measurements.filter((m) => !m.reference)
  const result = others.find((m) => m.bytes === after.bytes) ?? others[0]
  const old = { accuracy: reference?.accuracy ?? before.accuracy, latency: reference?.latency ?? before.latency }
  const now = { accuracy: result?.accuracy ?? after.accuracy, latency: result?.latency ?? after.latency }
  if (now.accuracy !== undefined && old.accuracy !== undefined) {
    const drop = (old.accuracy - now.accuracy) * 100
    const change =
      Math.abs(drop) < 0.005 ? 'no change' : `${Math.abs(drop).toFixed(2)} points ${drop > 0 ? 'lost' : 'gained'}`
    list.push({ label: accuracyName, value: percent(now.accuracy), note: `from ${percent(old.accuracy)}, ${change}` })
  }
  if (now.latency !== undefined && old.latency !== undefined)
    list.push({
      label: 'median run',
      value: milliseconds(now.latency),
      note: `from ${milliseconds(old.latency)}, ${(now.latency / old.latency).toFixed(2)} × of it`,
    })
  const layers = report.steps.flatMap((s) => s.layers)
  const all = new Set(layers.map((l) => l.weight))
  const changed = new Set(layers.filter((l) => l.action !== 'kept').map((l) => l.weight)).size
  const spared = (report.blame ?? []).filter((b) => b.spared).length
  if (layers.length)
    list.push({
      label: 'weights changed',
      value: `${changed} of ${Math.max(all.size, analysis?.layers.length ?? 0)}`,
      note: `${count(before.parameters)} parameters${spared ? `, ${spared} weights spared for accuracy` : ' in the model'}`,
    })
  const macs = resultAnalysis?.macs ?? analysis?.macs
  if (macs !== undefined)
    list.push({
      label: 'multiplications',
      value: big(macs),
      note: analysis?.macs !== undefined && resultAnalysis?.macs !== undefined ? `from ${big(analysis.macs)} of one run${intShare(resultAnalysis)}` : 'of one run',
    })
  const [e, f] = [analysis?.energy, resultAnalysis?.energy]
  if (e && f) list.push({ label: 'energy, an estimate', value: joules(f.joules), note: `from ${joules(e.joules)} a run; 45 nm figures, weights from DRAM` })
  return tileList(list)
}

/** @internal Figures of a model that nothing was done to. */
export function analysisTiles(a: Analysis): string {
  const list: Tile[] = [
    { label: 'size', value: bytes(a.bytes), note: `${count(a.parameters)} parameters` },
    ...(a.accuracy === undefined ? [] : [{ label: 'accuracy', value: percent(a.accuracy), note: 'as it is' }]),
    ...(a.macs === undefined ? [] : [{ label: 'multiplications', value: big(a.macs), note: `of one run${intShare(a)}` }]),
    ...(a.energy ? [{ label: 'energy, an estimate', value: joules(a.energy.joules), note: 'a run; 45 nm figures, weights from DRAM' }] : []),
    { label: 'zeros', value: percent(a.sparsity, 1), note: `in ${count(a.layers.length)} weights` },
  ]
  return tileList(list)
}

const joules = (v: number): string => (v >= 1e-3 ? `${short(v * 1e3)} mJ` : `${short(v * 1e6)} µJ`)

function intShare({ macs, macsByType }: Analysis): string {
  const whole = (macsByType?.['int8'] ?? 0) + (macsByType?.['int4'] ?? 0)
  return whole > 0 && macs ? `, ${percent(whole / macs, 0)} in integers` : ''
}

function tileList(list: readonly Tile[]): string {
  return `<div class="tiles">${list
    .map(
      (t) =>
        `<div class="tile"><div class="k">${escape(t.label)}</div><div class="v">${escape(t.value)}</div><div class="n">${escape(t.note)}</div></div>`,
    )
    .join('')}</div>`
}

/** Every limit with what was reached. */
export function limits(report: CompressReport): string {
  if (report.limits.length === 0) return ''
  const share = Math.abs(report.before.accuracy ?? 1) <= 1
  const points = (v: number): string => `${(v * 100).toFixed(2).replace('-', '−')} points`
  const cells = report.limits.map((l) => {
    const show = l.name === 'bytes' ? bytes : l.name === 'latency' ? milliseconds : share ? points : short
    const name = { accuracyDrop: 'accuracy lost', bytes: 'size', latency: 'latency' }[l.name] ?? l.name
    return `<span class="limit ${l.met ? 'met' : 'missed'}">${l.met ? '✓' : '✗'} ${escape(name)} ${escape(show(l.actual))}, the limit is ${escape(show(l.limit))}</span>`
  })
  return `<p class="limits">${cells.join(' ')}</p>`
}

/** What was measured, row by row. */
export function measured(rows: readonly Measurement[], accuracyName: string): string {
  const referenceOf = (row: Measurement): Measurement => rows.find((r) => r.reference && r.runtime === row.runtime) ?? rows.find((r) => r.reference) ?? rows[0]!
  const runtimes = rows.some((r) => r.runtime !== undefined)
  const max = Math.max(...rows.map((r) => r.latency ?? 0), 1e-9)
  const body = rows.map((r) => {
    const reference = referenceOf(r)
    const times = r.latency !== undefined && reference.latency ? `${(r.latency / reference.latency).toFixed(2)} ×` : ''
    const meter =
      r.latency === undefined
        ? ''
        : `<svg class="meter" viewBox="0 0 200 12" preserveAspectRatio="none" aria-hidden="true"><rect class="${r === reference ? 'before' : 'after'}" width="${((r.latency / max) * 200).toFixed(1)}" height="12" rx="3"/></svg>`
    return (
      `<tr><td>${escape(r.label)}</td>${runtimes ? `<td>${escape(r.runtime ?? '')}</td>` : ''}<td class="num">${bytes(r.bytes)}</td>` +
      `<td class="num">${r.accuracy === undefined ? '' : percent(r.accuracy)}</td>` +
      `<td class="num">${r.latency === undefined ? '' : milliseconds(r.latency)}</td><td class="num">${times}</td><td>${meter}</td></tr>`
    )
  })
  return (
    '<div class="scroll" tabindex="0" role="region" aria-label="Measured"><table><thead><tr><th scope="col">model</th>' +
    `${runtimes ? '<th scope="col">runtime</th>' : ''}<th scope="col" class="num">size</th>` +
    `<th class="num">${escape(accuracyName)}</th><th class="num">median</th><th class="num">of the original</th><th></th></tr></thead>` +
    `<tbody>${body.join('')}</tbody></table></div>`
  )
}

/** What the file consisted of, and consists of: as `analyze` found it, else as the steps tell. */
export function composition(report: CompressReport, analysis?: Analysis, result?: Analysis): string {
  // The last step that touched a weight says what it is now; the first one says what it was.
  const first = new Map<string, LayerReport>()
  const last = new Map<string, LayerReport>()
  for (const step of report.steps)
    for (const l of step.layers) {
      if (!first.has(l.weight)) first.set(l.weight, l)
      last.set(l.weight, l)
    }
  const sum = <T>(list: Iterable<T>, pick: (l: T) => number): number => [...list].reduce((s, l) => s + pick(l), 0)
  const all = [...last.values()]
  const weightsBefore = analysis ? sum(analysis.layers, (l) => l.bytes) : sum(first.values(), (l) => l.bytesBefore)
  const [packed, kept] = [true, false].map((codes) =>
    result
      ? sum(result.layers, (l) => (Boolean(l.storage) === codes ? l.bytes : 0))
      : sum(all, (l) => ((l.action === 'quantized') === codes ? l.bytesAfter : 0)),
  ) as [number, number]
  const rest = (total: number, known: number): number => Math.max(total - known, 0)
  const parts = (list: readonly Part[]): Part[] => list.filter((p) => p.value > 0)
  const chart = stacked(
    [
      {
        label: 'before',
        parts: parts([
          { label: 'weights', value: weightsBefore, kind: 'old' },
          { label: 'graph and the rest', value: rest(report.before.bytes, weightsBefore), kind: 'rest' },
        ]),
      },
      {
        label: 'after',
        parts: parts([
          { label: 'quantized', value: packed, kind: 'packed' },
          { label: 'float weights', value: kept, kind: 'float' },
          { label: 'graph and the rest', value: rest(report.after.bytes, packed + kept), kind: 'rest' },
        ]),
      },
    ],
    bytes,
  )
  return framed(chart, 'What the file consists of')
}

/** A chart that scrolls where the page is narrow, by the keyboard too. */
export function framed(chart: string, label: string): string {
  return chart && `<div class="chart" tabindex="0" role="region" aria-label="${escape(label)}">${chart}</div>`
}

const kMostBars = 24

/** Which of the steps of its kind that have charts a step is, from 1; nothing where it is the only one. */
export function numberOf(steps: readonly StepReport[], at: number): number | undefined {
  const alike = steps.filter((s) => s.step === steps[at]!.step && s.layers.length > 0)
  return alike.length > 1 ? alike.indexOf(steps[at]!) + 1 : undefined
}

/** Charts of one step; `number` where there are several of its kind. */
export function stepCharts(layers: readonly LayerReport[], step: string, number: number | undefined, budget: number | undefined): string {
  const name = number === undefined ? step : `${step} ${number}`
  const largest = [...layers].sort((a, b) => b.bytesBefore - a.bytesBefore)
  const shown = largest.slice(0, kMostBars)
  const others = largest.slice(kMostBars)
  const items: Bar[] = shown.map((l) => ({
    label: l.name,
    before: l.bytesBefore,
    after: l.bytesAfter,
    note: l.action === 'kept' ? 'kept' : step === 'prune' ? percent(l.sparsity ?? 0, 1) : bytes(l.bytesAfter),
    tip: tip(l),
    kept: l.action === 'kept',
  }))
  if (others.length) {
    const total = (pick: (l: LayerReport) => number): number => others.reduce((s, l) => s + pick(l), 0)
    const after = total((l) => l.bytesAfter)
    items.push({
      label: `${others.length} smaller ones`,
      before: total((l) => l.bytesBefore),
      after,
      note: bytes(after),
      tip: `${others.length} weights, together`,
    })
  }
  const errors = layers.filter((l) => l.error !== undefined)
  return [
    `<h4>${escape(name[0]!.toUpperCase() + name.slice(1))}: bytes by weight</h4>`,
    '<p class="legend"><i class="before"></i>before <i class="after"></i>after <i class="kept"></i>kept as it was</p>',
    framed(bars(items, bytes), `Bytes by weight, ${name}`),
    errors.length
      ? `<h4>${escape(name[0]!.toUpperCase() + name.slice(1))}: relative error by weight</h4><p class="legend">‖w − ŵ‖ / ‖w‖, logarithmic; a weight over the budget stays float.</p>` +
        framed(
          stems(
            errors.map((l) => ({ label: l.name, value: l.error!, tip: tip(l), over: l.action === 'kept' })),
            budget,
          ),
          `Relative error by weight, ${name}`,
        )
      : '',
  ].join('')
}

function tip(l: LayerReport): string {
  const parts = [
    `${l.name} (${l.op}) ${l.dims.join(' × ')}`,
    `${l.action}${l.reason ? `: ${l.reason}` : ''}`,
    `${bytes(l.bytesBefore)} → ${bytes(l.bytesAfter)}`,
  ]
  if (l.error !== undefined) parts.push(`error ${percent(l.error)}`)
  if (l.sparsity !== undefined) parts.push(`zeros ${percent(l.sparsity, 1)}`)
  return parts.join('\n')
}

/** The error that a step allows. */
export function budgetOf({ recipe, steps }: CompressReport, at: number): number | undefined {
  const { step } = steps[at]!
  const [asked, done] = [recipe.steps.filter((s) => s.step === step), steps.filter((s) => s.step === step)]
  // What was backed off may have run in another number of steps.
  const own = asked.length === done.length ? asked[done.indexOf(steps[at]!)] : undefined
  return (own as { readonly maxError?: number } | undefined)?.maxError
}
