import type { Analysis } from './analysis'
import { tradeoff, type TradePoint } from './charts'
import { layerPanels, layerTable, rowsOf, sensitivityCharts } from './layers'
import { analysisTiles, budgetOf, composition, framed, limits, measured, numberOf, stepCharts, tiles } from './overview'
import { kScript } from './script'
import { kStyle } from './style'
import { escape } from './svg'
import type { AnalysisSection, CompressReport, Measurement, ReportSection } from './types'

/**
 * A report as one HTML document: no file or address beside it, charts as SVG, light and dark by the reader's setting, all of
 * it there without its script, which sorts and filters tables. The same input gives the same bytes.
 *
 * @param sections outcomes of `compress`, with what `analyze` says of original and result where that is at hand; or an
 * analysis alone
 * @example
 * const { report } = await compress('model.onnx', 'int8-weights')
 * fs.writeFileSync('report.html', renderHtml([{ title: 'model.onnx', report }]))
 */
export function renderHtml(sections: readonly (ReportSection | AnalysisSection)[], title = 'Whittle report'): string {
  const first = sections[0]
  const version = first ? ('report' in first ? first.report.version : first.analysis.version) : ''
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">',
    `<title>${escape(title)}</title><style>${kStyle}</style></head><body><main>`,
    `<header><h1>${escape(title)}</h1><p class="sub">Made by whittle-ml ${escape(version)}. `,
    'Sizes: 1 MB = 10<sup>6</sup> bytes.</p></header>',
    sections.length > 1 ? `<nav aria-label="Models"><ul>${sections.map((s, i) => `<li><a href="#m${i}">${escape(s.title)}</a></li>`).join('')}</ul></nav>` : '',
    ...sections.map((s, i) => ('report' in s ? section(s, i) : analysisSection(s, i))),
    `</main><script>${kScript}</script></body></html>\n`,
  ].join('')
}

/** Parts of a section that hold something, with links to them. */
function parts(id: string, list: readonly (readonly [key: string, title: string, html: string])[]): string {
  const full = list.filter(([, , html]) => html)
  const links = full.length > 2 ? `<nav aria-label="Parts"><ul>${full.map(([key, title]) => `<li><a href="#${id}-${key}">${escape(title)}</a></li>`).join('')}</ul></nav>` : ''
  return links + full.map(([key, title, html]) => `<div class="part" id="${id}-${key}"><h3>${escape(title)}</h3>${html}</div>`).join('')
}

function section({ title, report, measurements, accuracyName, analysis, resultAnalysis }: ReportSection, index: number): string {
  const id = `m${index}`
  const name = accuracyName ?? 'accuracy'
  const rows = rowsOf(report, analysis, resultAnalysis)
  return [
    `<section id="${id}"><h2>${escape(title)}</h2>`,
    `<p class="sub">Recipe <code>${escape(report.recipe.name)}</code>: ${report.steps.map((s) => escape(s.summary)).join(' ')}</p>`,
    tiles(report, measurements ?? [], name, analysis, resultAnalysis),
    limits(report),
    parts(id, [
      ['measured', 'Measured', measurements?.length ? measured(measurements, name) : ''],
      ['curve', `${name[0]!.toUpperCase()}${name.slice(1)} against size`, curve(report, measurements ?? [])],
      ['file', 'What the file consists of', composition(report, analysis, resultAnalysis)],
      ['layers', `Layers (${rows.length})`, layerTable(rows)],
      ['charts', 'Layer by layer', layerPanels(rows)],
      ['sensitivity', 'Sensitivity', analysis ? sensitivityCharts(analysis) : ''],
      [
        'steps',
        'Steps',
        report.steps
          .map((s, i) => (s.layers.length > 0 ? stepCharts(s.layers, s.step, numberOf(report.steps, i), budgetOf(report, i)) : ''))
          .join(''),
      ],
    ]),
    notes(analysis),
    `<details><summary>Recipe, as it ran</summary><pre tabindex="0">${escape(JSON.stringify(report.recipe, null, 2))}</pre></details>`,
    '</section>',
  ].join('')
}

function analysisSection({ title, analysis }: AnalysisSection, index: number): string {
  const id = `m${index}`
  const rows = rowsOf(undefined, analysis, undefined)
  const sizes = Object.entries(analysis.shapes).map(([name, dims]) => `${name} ${dims ? `[${dims.map((d) => d ?? '?').join(', ')}]` : 'of any shape'}`)
  return [
    `<section id="${id}"><h2>${escape(title)}</h2>`,
    `<p class="sub">As it is; figures for ${escape(sizes.join(', '))}.</p>`,
    analysisTiles(analysis),
    parts(id, [
      ['layers', `Layers (${rows.length})`, layerTable(rows)],
      ['sensitivity', 'Sensitivity', sensitivityCharts(analysis)],
      ['charts', 'Layer by layer', layerPanels(rows)],
    ]),
    notes(analysis),
    '</section>',
  ].join('')
}

function notes(analysis: Analysis | undefined): string {
  return analysis?.notes.length ? `<ul class="notes">${analysis.notes.map((n) => `<li>${escape(n)}</li>`).join('')}</ul>` : ''
}

/** Accuracy against size: the original, what was tried on the way, the result, and what else was measured. */
function curve(report: CompressReport, measurements: readonly Measurement[]): string {
  const { before, after } = report
  const attempts = report.attempts ?? []
  const points: TradePoint[] = [
    ...attempts.map((a, i): TradePoint[] => {
      const spared = a.spared.length ? `${a.spared.length} layers spared` : a.steps ? a.steps.map((s) => s.step).join(', ') : 'no layer spared'
      return a.accuracy === undefined ? [] : [{ label: `try ${i + 1}: ${spared}`, bytes: a.bytes, accuracy: a.accuracy, kind: 'tried' }]
    }),
    ...[...new Map(measurements.map((m) => [m.bytes, m])).values()].map((m): TradePoint[] =>
      m.accuracy === undefined ? [] : [{ label: m.label, bytes: m.bytes, accuracy: m.accuracy, kind: m.reference ? 'original' : 'result' }],
    ),
  ].flat()
  const known = (kind: string): boolean => points.some((p) => p.kind === kind)
  if (before.accuracy !== undefined && !known('original')) points.push({ label: 'original', bytes: before.bytes, accuracy: before.accuracy, kind: 'original' })
  if (after.accuracy !== undefined && !known('result')) points.push({ label: 'result', bytes: after.bytes, accuracy: after.accuracy, kind: 'result' })
  if (points.length < 2) return ''
  const drop = report.limits.find((l) => l.name === 'accuracyDrop')
  const size = report.limits.find((l) => l.name === 'bytes')
  const least = drop && before.accuracy !== undefined ? before.accuracy - drop.limit : undefined
  const chart = tradeoff(points, { bytes: size?.limit, accuracy: least }, 'Accuracy against size')
  const lost = attempts.length > 1 ? `<p class="sub">${attempts.length} models were judged; the small circles were not taken.</p>` : ''
  return framed(chart, 'Accuracy against size') + lost
}
