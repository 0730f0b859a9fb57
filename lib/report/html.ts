import { bytes, count, milliseconds, percent, short } from './format'
import { bars, escape, stacked, stems, type Bar, type Part } from './svg'
import { kStyle } from './style'
import type { CompressReport, LayerReport, Measurement, ReportSection } from './types'

/**
 * A report as one HTML document: no script, no file or address beside it, charts as SVG, light and dark by the
 * reader's setting. The same input gives the same bytes.
 *
 * @example
 * const { report } = await compress('model.onnx', 'int8-weights')
 * fs.writeFileSync('report.html', renderHtml([{ title: 'model.onnx', report }]))
 */
export function renderHtml(sections: readonly ReportSection[], title = 'Whittle report'): string {
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
    `<title>${escape(title)}</title><style>${kStyle}</style></head><body><main>`,
    `<header><h1>${escape(title)}</h1><p class="sub">Made by whittle-ml ${escape(sections[0]?.report.version ?? '')}. `,
    'Sizes: 1 MB = 10<sup>6</sup> bytes.</p></header>',
    ...sections.map(section),
    '</main></body></html>\n',
  ].join('')
}

function section({ title, report, measurements, accuracyName }: ReportSection): string {
  return [
    `<section><h2>${escape(title)}</h2>`,
    `<p class="sub">Recipe <code>${escape(report.recipe.name)}</code>: ${report.steps.map((s) => escape(s.summary)).join(' ')}</p>`,
    tiles(report, measurements ?? [], accuracyName ?? 'accuracy'),
    limits(report),
    measurements?.length ? measured(measurements, accuracyName ?? 'accuracy') : '',
    '<h3>What the file consists of</h3>',
    composition(report),
    ...report.steps
      .filter((s) => s.layers.length > 0)
      .map((s) => stepCharts(s.layers, s.step, budgetOf(report, s.step))),
    `<details><summary>Recipe, as it ran</summary><pre>${escape(JSON.stringify(report.recipe, null, 2))}</pre></details>`,
    '</section>',
  ].join('')
}

interface Tile {
  readonly label: string
  readonly value: string
  readonly note: string
}

function tiles(report: CompressReport, measurements: readonly Measurement[], accuracyName: string): string {
  const { before, after } = report
  const list: Tile[] = [
    {
      label: 'size',
      value: bytes(after.bytes),
      note: `from ${bytes(before.bytes)}, ${(before.bytes / Math.max(after.bytes, 1)).toFixed(2)} times smaller`,
    },
  ]
  const reference = measurements.find((m) => m.reference)
  const result = measurements.find((m) => !m.reference)
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
  const changed = layers.filter((l) => l.action !== 'kept').length
  if (layers.length)
    list.push({
      label: 'weights changed',
      value: `${changed} of ${layers.length}`,
      note: `${count(before.parameters)} parameters in the model`,
    })
  return `<div class="tiles">${list
    .map(
      (t) =>
        `<div class="tile"><div class="k">${escape(t.label)}</div><div class="v">${escape(t.value)}</div><div class="n">${escape(t.note)}</div></div>`,
    )
    .join('')}</div>`
}

function limits(report: CompressReport): string {
  if (report.limits.length === 0) return ''
  const cells = report.limits.map((l) => {
    const show = l.name === 'bytes' ? bytes : l.name === 'latency' ? milliseconds : short
    return `<span class="limit ${l.met ? 'met' : 'missed'}">${escape(l.name)} ${escape(show(l.actual))} of ${escape(show(l.limit))}</span>`
  })
  return `<p class="limits">${cells.join(' ')}</p>`
}

function measured(rows: readonly Measurement[], accuracyName: string): string {
  const reference = rows.find((r) => r.reference) ?? rows[0]!
  const max = Math.max(...rows.map((r) => r.latency ?? 0), 1e-9)
  const body = rows.map((r) => {
    const times = r.latency !== undefined && reference.latency ? `${(r.latency / reference.latency).toFixed(2)} ×` : ''
    const meter =
      r.latency === undefined
        ? ''
        : `<svg class="meter" viewBox="0 0 200 12" preserveAspectRatio="none" aria-hidden="true"><rect class="${r === reference ? 'before' : 'after'}" width="${((r.latency / max) * 200).toFixed(1)}" height="12" rx="3"/></svg>`
    return (
      `<tr><td>${escape(r.label)}</td><td class="num">${bytes(r.bytes)}</td>` +
      `<td class="num">${r.accuracy === undefined ? '' : percent(r.accuracy)}</td>` +
      `<td class="num">${r.latency === undefined ? '' : milliseconds(r.latency)}</td><td class="num">${times}</td><td>${meter}</td></tr>`
    )
  })
  return (
    '<h3>Measured</h3><div class="scroll"><table><thead><tr><th>model</th><th class="num">size</th>' +
    `<th class="num">${escape(accuracyName)}</th><th class="num">median</th><th class="num">of float</th><th></th></tr></thead>` +
    `<tbody>${body.join('')}</tbody></table></div>`
  )
}

function composition(report: CompressReport): string {
  // The last step that touched a weight says what it is now; the first one says what it was.
  const first = new Map<string, LayerReport>()
  const last = new Map<string, LayerReport>()
  for (const step of report.steps)
    for (const l of step.layers) {
      if (!first.has(l.weight)) first.set(l.weight, l)
      last.set(l.weight, l)
    }
  const sum = (list: Iterable<LayerReport>, pick: (l: LayerReport) => number): number =>
    [...list].reduce((s, l) => s + pick(l), 0)
  const quantized = [...last.values()].filter((l) => l.action === 'quantized')
  const float = [...last.values()].filter((l) => l.action !== 'quantized')
  const weightsBefore = sum(first.values(), (l) => l.bytesBefore)
  const packed = sum(quantized, (l) => l.bytesAfter)
  const kept = sum(float, (l) => l.bytesAfter)
  const rest = (total: number, known: number): number => Math.max(total - known, 0)
  const parts = (list: readonly Part[]): Part[] => list.filter((p) => p.value > 0)
  return stacked(
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
}

const kMostBars = 24

function stepCharts(layers: readonly LayerReport[], step: string, budget: number | undefined): string {
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
    `<h3>${escape(step[0]!.toUpperCase() + step.slice(1))}: bytes by weight</h3>`,
    '<p class="legend"><i class="before"></i>before <i class="after"></i>after <i class="kept"></i>kept as it was</p>',
    bars(items, bytes),
    errors.length
      ? `<h3>${escape(step[0]!.toUpperCase() + step.slice(1))}: relative error by weight</h3><p class="legend">‖w − ŵ‖ / ‖w‖, logarithmic; a weight over the budget stays float.</p>` +
        stems(
          errors.map((l) => ({ label: l.name, value: l.error!, tip: tip(l), over: l.action === 'kept' })),
          budget,
        )
      : '',
    `<details><summary>All ${layers.length} weights</summary><div class="scroll"><table><thead><tr><th>layer</th><th>op</th><th>shape</th><th>action</th>`,
    '<th class="num">before</th><th class="num">after</th><th class="num">error</th><th class="num">zeros</th></tr></thead><tbody>',
    ...layers.map(
      (l) =>
        `<tr><td>${escape(l.name)}</td><td>${escape(l.op)}</td><td>${l.dims.join(' × ')}</td>` +
        `<td>${escape(l.action)}${l.bits ? `, ${l.bits} bits${l.blockSize ? ` in blocks of ${l.blockSize}` : ''}` : ''}${l.reason ? ` (${escape(l.reason)})` : ''}</td>` +
        `<td class="num">${bytes(l.bytesBefore)}</td><td class="num">${bytes(l.bytesAfter)}</td>` +
        `<td class="num">${l.error === undefined ? '' : percent(l.error)}</td><td class="num">${l.sparsity === undefined ? '' : percent(l.sparsity, 1)}</td></tr>`,
    ),
    '</tbody></table></div></details>',
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

function budgetOf(report: CompressReport, step: string): number | undefined {
  const found = report.recipe.steps.filter((s) => s.step === step) as { maxError?: number }[]
  return found.length === 1 ? found[0]!.maxError : undefined
}
