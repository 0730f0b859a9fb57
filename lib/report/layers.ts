import type { Analysis, LayerAnalysis, SensitivityPoint } from './analysis'
import { byBits, histogram, lines, mask, spectrum, type Series } from './charts'
import { bytes, count, percent, short } from './format'
import { escape } from './svg'
import type { CompressReport, LayerBlame, LayerReport } from './types'

/** One weight with all that a report knows of it. */
export interface Row {
  readonly index: number
  readonly name: string
  readonly op: string
  readonly weight: string
  readonly dims: readonly number[]
  /** Where channels were removed. */
  readonly dimsAfter: readonly number[] | undefined
  /** In words: what every step did. Empty without steps. */
  readonly action: string
  readonly kept: boolean
  readonly bytesBefore: number
  readonly bytesAfter: number | undefined
  readonly error: number | undefined
  readonly sparsity: number | undefined
  readonly macs: number | undefined
  readonly blame: LayerBlame | undefined
  readonly before: LayerAnalysis | undefined
  readonly after: LayerAnalysis | undefined
}

/** The weights of all steps, of the analyses too where there are any, in the order of the network. */
export function rowsOf(report: CompressReport | undefined, analysis: Analysis | undefined, result: Analysis | undefined): Row[] {
  const seen = new Map<string, LayerReport[]>()
  for (const step of report?.steps ?? []) for (const l of step.layers) seen.set(l.weight, [...(seen.get(l.weight) ?? []), l])
  const blames = new Map((report?.blame ?? []).map((b) => [b.weight, b]))
  const analysed = new Map((analysis?.layers ?? []).map((l) => [l.weight, l]))
  // A quantized weight goes by another name; its node keeps its own.
  const results = new Map((result?.layers ?? []).flatMap((l) => [[l.name, l], [l.weight, l]] as const))
  const names = [...new Set([...analysed.keys(), ...seen.keys()])]
  return names.map((weight, index) => {
    const all = seen.get(weight) ?? []
    const [first, last] = [all[0], all.at(-1)]
    const before = analysed.get(weight)
    const name = first?.name ?? before!.name
    const pick = <K extends 'error' | 'sparsity'>(key: K): number | undefined => all.filter((l) => l[key] !== undefined).at(-1)?.[key]
    return {
      index,
      name,
      op: first?.op ?? before!.op,
      weight,
      dims: first?.dims ?? before!.dims,
      dimsAfter: all.filter((l) => l.dimsAfter).at(-1)?.dimsAfter,
      action: [...new Set(all.map(actionOf))].join('; '),
      kept: all.length > 0 && all.every((l) => l.action === 'kept'),
      bytesBefore: first?.bytesBefore ?? before!.bytes,
      bytesAfter: last?.bytesAfter,
      error: pick('error'),
      sparsity: pick('sparsity') ?? before?.values.sparsity,
      macs: before?.macs,
      blame: blames.get(weight),
      before,
      after: results.get(weight) ?? results.get(name),
    }
  })
}

function actionOf(l: LayerReport): string {
  const bits = l.bits ? ` to ${l.bits} bits${l.blockSize ? ` in blocks of ${l.blockSize}` : ''}` : ''
  return `${l.action}${bits}${l.reason ? ` (${l.reason})` : ''}`
}

/** One column: what is shown, and what is sorted by (`undefined`: by the text; `null`: unknown, always last). */
interface Column {
  readonly head: string
  readonly hint?: string
  readonly right?: boolean
  readonly cell: (r: Row) => string
  readonly value?: (r: Row) => number | null | undefined
}

/** The table of all layers. Columns that no layer fills are left out. */
export function layerTable(rows: readonly Row[]): string {
  if (rows.length === 0) return ''
  const has = (pick: (r: Row) => unknown): boolean => rows.some((r) => pick(r) !== undefined && pick(r) !== '')
  const columns: (Column | false)[] = [
    { head: '#', right: true, cell: (r) => String(r.index + 1), value: (r) => r.index },
    { head: 'layer', cell: (r) => escape(r.name) },
    { head: 'op', cell: (r) => escape(r.op) },
    { head: 'shape', cell: (r) => `<span>${r.dims.join(' × ')}</span>${r.dimsAfter ? ` <i>→ ${r.dimsAfter.join(' × ')}</i>` : ''}`, value: (r) => r.dims.reduce((a, b) => a * b, 1) },
    has((r) => r.action) && { head: 'done', cell: (r) => `${r.blame?.spared ? '<b class="spared">spared</b> ' : r.action ? '' : '<i>as it was</i>'}${escape(r.action)}` },
    has((r) => r.macs) && { head: 'MACs', right: true, cell: (r) => (r.macs === undefined ? '' : big(r.macs)), value: (r) => r.macs },
    { head: has((r) => r.bytesAfter) ? 'before' : 'bytes', right: true, cell: (r) => bytes(r.bytesBefore), value: (r) => r.bytesBefore },
    has((r) => r.bytesAfter) && {
      head: 'after',
      right: true,
      cell: (r) => (r.bytesAfter === undefined ? '' : `${bytes(r.bytesAfter)}${meter(r.bytesBefore, r.bytesAfter)}`),
      value: (r) => r.bytesAfter,
    },
    has((r) => r.error) && { head: 'error', hint: '‖w − ŵ‖ / ‖w‖', right: true, cell: (r) => (r.error === undefined ? '' : percent(r.error)), value: (r) => r.error },
    has((r) => r.blame) && {
      head: 'SNR',
      hint: 'signal-to-noise ratio of the layer’s output, and in brackets of what the layer itself adds',
      right: true,
      cell: (r) => (r.blame ? `${decibels(r.blame.snr)}${r.blame.ownSnr !== r.blame.snr ? ` <i>(${decibels(r.blame.ownSnr)})</i>` : ''}` : ''),
      value: (r) => (r.blame ? (r.blame.ownSnr ?? 1e9) : undefined),
    },
    has((r) => r.blame?.accuracyCost) && {
      head: 'cost',
      hint: 'accuracy regained by sparing the layer, in points',
      right: true,
      cell: (r) => (r.blame?.accuracyCost === undefined ? '' : (r.blame.accuracyCost * 100).toFixed(2)),
      value: (r) => r.blame?.accuracyCost,
    },
    has((r) => r.sparsity) && { head: 'zeros', right: true, cell: (r) => (r.sparsity === undefined ? '' : percent(r.sparsity, 1)), value: (r) => r.sparsity },
  ]
  const shown = columns.filter((c): c is Column => Boolean(c))
  const head = shown.map((c) => `<th scope="col"${c.right ? ' class="num"' : ''}${c.hint ? ` title="${escape(c.hint)}"` : ''}>${escape(c.head)}</th>`)
  const body = rows.map((r) => {
    const cells = shown.map((c) => {
      const sort = c.value ? ` data-v="${c.value(r) ?? ''}"` : ''
      const kind = c.right ? ' class="num"' : c.head === 'done' ? ' class="done"' : ''
      return `<td${kind}${sort}>${c.cell(r)}</td>`
    })
    return `<tr${r.blame?.spared || r.kept ? ' class="keptRow"' : ''}>${cells.join('')}</tr>`
  })
  return `<div class="scroll" tabindex="0" role="region" aria-label="All layers"><table class="sortable"><thead><tr>${head.join('')}</tr></thead><tbody>${body.join('')}</tbody></table></div>`
}

/** What is left of the bytes. */
function meter(before: number, after: number): string {
  const most = Math.max(before, after, 1)
  const w = (v: number): string => String(Math.round((v / most) * 600) / 10)
  return `<svg class="mini" viewBox="0 0 60 8" preserveAspectRatio="none" aria-hidden="true"><rect class="before" width="${w(before)}" height="8" rx="2"/><rect class="after" width="${w(after)}" height="8" rx="2"/></svg>`
}

/** 702.5 M: multiplications are told in millions and thousands. */
export function big(v: number): string {
  return v >= 1e9 ? `${(v / 1e9).toFixed(2)} G` : v >= 1e6 ? `${(v / 1e6).toFixed(v >= 1e8 ? 0 : 1)} M` : v >= 1e3 ? `${(v / 1e3).toFixed(0)} k` : String(v)
}

const decibels = (v: number | null): string => (v === null ? '∞' : `${v.toFixed(1)} dB`)

/** Layers whose charts are drawn: those to blame first, then the largest. */
const kMostPanels = 48

/** Charts of each layer, folded. */
export function layerPanels(rows: readonly Row[]): string {
  const known = rows.filter((r) => r.before ?? r.after)
  if (known.length === 0) return ''
  const chosen = new Set([...known].sort((a, b) => b.bytesBefore - a.bytesBefore).slice(0, kMostPanels))
  for (const r of known) if (r.blame?.spared && chosen.size < 2 * kMostPanels) chosen.add(r)
  const left = known.length - chosen.size
  const largest = [...chosen].reduce((a, b) => (b.bytesBefore > a.bytesBefore ? b : a))
  return [
    '<p class="legend"><i class="hist"></i>before <i class="outline"></i>after <i class="dashed"></i>99.99 % of values <i class="solid"></i>range of least square error. Counts are logarithmic.</p>',
    ...known.filter((r) => chosen.has(r)).map((r) => panel(r, r === largest)),
    left ? `<p class="sub">The charts of ${count(left)} smaller layers are in the JSON.</p>` : '',
  ].join('')
}

function panel(r: Row, open: boolean): string {
  const known = r.before ?? r.after!
  const after = r.before ? r.after : undefined
  const { values, snrByBits } = known
  const cards: [string, string, string][] = [
    ['weights', histogram(values.histogram, values.clips, 'Histogram of weights', after?.values.histogram), `σ ${short(values.std)}, ${rangeOf(values.clips.minmax)}; least error at ${values.clips.mseBits} bits ${rangeOf(values.clips.mse)}`],
  ]
  for (const [label, d, o] of [['input', known.input, after?.input], ['output', known.output, after?.output]] as const)
    if (d && d.histogram.counts.length) cards.push([label, histogram(d.histogram, d.clips, `Histogram of the ${label}`, o?.histogram), `${rangeOf(d.clips.minmax)}, 99.99 % in ${rangeOf(d.clips.percentile)}${d.sparsity > 0.005 ? `, ${percent(d.sparsity, 0)} zeros` : ''}`])
  if (known.spectrum) {
    const s = known.spectrum
    const rank = s.rank90 === null ? `more than ${s.computed}` : String(s.rank90)
    cards.push(['singular values', spectrum(s, 'Singular values over the largest'), `${s.shape.join(' × ')}; 90 % of the energy in ${rank}, factors pay below ${s.breakEven}`])
  }
  const bits = byBits(snrByBits, 'Signal-to-noise ratio by bits')
  if (bits) cards.push(['error by bits', bits, 'signal-to-noise ratio in dB of the weight at 2 to 8 bits'])
  const picture = r.after?.mask ?? r.before?.mask
  if (picture && /[0-8]/.test(picture.cells)) cards.push(['zeros', mask(picture, 'Where weights are not zero'), `${picture.rows * picture.columns} cells of ${picture.cell.join(' × ')} weights; the stronger the colour, the fewer zeros`])
  if (known.sensitivity?.length) cards.push(['alone', table(known.sensitivity), 'the model with this layer alone changed'])
  return (
    `<details class="layer"${open ? ' open' : ''}><summary><b>${escape(r.name)}</b> ${escape(r.op)} ${r.dims.join(' × ')}${r.macs ? `, ${big(r.macs)} MACs` : ''}</summary>` +
    `<div class="cards">${cards.map(([label, chart, note]) => `<figure><figcaption>${escape(label)}</figcaption>${chart}<p>${escape(note)}</p></figure>`).join('')}</div></details>`
  )
}

const rangeOf = ([a, b]: readonly [number, number]): string => `${short(a)} … ${short(b)}`

const changeOf = (p: SensitivityPoint): string => (p.change === 'quantize' ? `${p.bits} bits` : `${percent(p.sparsity ?? 0, 0)} pruned`)

function table(points: readonly SensitivityPoint[]): string {
  const rows = points.map((p) => `<tr><td>${changeOf(p)}</td><td class="num">${p.snr === undefined ? '' : decibels(p.snr)}</td><td class="num">${p.accuracy === undefined ? '' : percent(p.accuracy)}</td></tr>`)
  return `<table><tbody>${rows.join('')}</tbody></table>`
}

/** Curves over the layers: what the outputs, or the accuracy, lose when one layer alone is changed. */
export function sensitivityCharts(analysis: Analysis): string {
  const layers = analysis.layers.filter((l) => l.sensitivity?.length)
  if (layers.length === 0) return ''
  const changes = [...new Set(layers.flatMap((l) => l.sensitivity!.map(changeOf)))]
  const names = layers.map((l) => l.name)
  const series = (pick: (p: SensitivityPoint) => number | undefined): Series[] =>
    changes.map((label) => ({
      label,
      values: layers.map((l) => {
        const found = l.sensitivity!.find((p) => changeOf(p) === label)
        return found && pick(found)
      }),
    }))
  const legend = `<p class="legend">${changes.map((c, i) => `<i class="curve s${i % 5}"></i>${escape(c)} `).join('')}</p>`
  const noise = lines(series((p) => p.snr ?? undefined), names, (v) => `${short(v)} dB`, 'Signal-to-noise ratio of the outputs, one layer changed at a time')
  const base = analysis.accuracy
  const loss = base === undefined ? '' : lines(series((p) => (p.accuracy === undefined ? undefined : base - p.accuracy)), names, (v) => `${short(v * 100)} points`, 'Accuracy lost, one layer changed at a time')
  return [
    '<p class="sub">One layer changed at a time, the rest as it is.</p>',
    legend,
    noise ? `<p class="sub">Signal-to-noise ratio of the model’s outputs: the lower, the more the layer hurts.</p><div class="chart" tabindex="0" role="region" aria-label="Sensitivity of outputs">${noise}</div>` : '',
    loss ? `<p class="sub">Accuracy lost, of ${percent(base!)}.</p><div class="chart" tabindex="0" role="region" aria-label="Sensitivity of accuracy">${loss}</div>` : '',
  ].join('')
}
