// The benchmark's report: one HTML document with charts as SVG and nothing beside it.
import { escape } from '../../lib/report/svg'
import { kStyle } from '../../lib/report/style'
import type { Row } from './types'

/** A curve of a chart; kinds have one look each. */
export interface Line {
  readonly label: string
  readonly points: readonly (readonly [x: number, y: number])[]
  readonly kind: 'ours' | 'dense' | 'rival' | 'other'
}

const kExtra = [
  'svg .line{fill:none;stroke-width:2.5}',
  'svg .line.ours,.legend .ours{stroke:var(--accent);background:var(--accent)}',
  'svg .line.dense,.legend .dense{stroke:var(--keep);background:var(--keep);stroke-dasharray:7 4}',
  'svg .line.rival,.legend .rival{stroke:var(--bad);background:var(--bad)}',
  'svg .line.other,.legend .other{stroke:var(--rest);background:var(--rest)}',
  'svg circle.ours{fill:var(--accent)}svg circle.dense{fill:var(--keep)}svg circle.rival{fill:var(--bad)}svg circle.other{fill:var(--rest)}',
].join('')

const short = (v: number): string => String(Number(v.toPrecision(3)))

/** Curves over x, y logarithmic; `mark` draws an upright line there. */
export function lines(curves: readonly Line[], axes: { readonly x: string; readonly y: string; readonly mark?: number | null }): string {
  const shown = curves.filter((c) => c.points.length > 0)
  const all = shown.flatMap((c) => c.points)
  if (all.length === 0) return '<p class="sub">no points</p>'
  const [width, height, left, right, top, bottom] = [920, 300, 64, 24, 14, 40]
  const xs = [...new Set(all.map(([x]) => x))].sort((a, b) => a - b)
  const x0 = xs[0] as number
  const x1 = Math.max(xs[xs.length - 1] as number, x0 + 1)
  const values = all.map(([, y]) => Math.max(y, 1e-9))
  const low = Math.floor(Math.log10(Math.min(...values)))
  const high = Math.max(Math.ceil(Math.log10(Math.max(...values))), low + 1)
  const px = (x: number): string => (left + ((x - x0) / (x1 - x0)) * (width - left - right)).toFixed(1)
  const py = (y: number): string => (top + ((high - Math.log10(Math.max(y, 1e-9))) / (high - low)) * (height - top - bottom)).toFixed(1)
  const out: string[] = []
  for (let e = low; e <= high; e++)
    for (const m of e === high ? [1] : [1, 2, 5]) {
      const y = m * 10 ** e
      out.push(`<line class="grid${m === 1 ? '' : ' faint'}" x1="${left}" y1="${py(y)}" x2="${width - right}" y2="${py(y)}"/>`)
      out.push(`<text class="axis" x="${left - 8}" y="${Number(py(y)) + 4}" text-anchor="end">${short(y)}</text>`)
    }
  for (const x of xs) out.push(`<text class="axis" x="${px(x)}" y="${height - bottom + 18}" text-anchor="middle">${short(x)}</text>`)
  out.push(`<text class="axis" x="${width - right}" y="${height - 4}" text-anchor="end">${escape(axes.x)}</text>`)
  out.push(`<text class="axis" x="${left}" y="${height - 4}">${escape(axes.y)}, logarithmic</text>`)
  if (axes.mark !== undefined && axes.mark !== null && axes.mark >= x0 && axes.mark <= x1)
    out.push(`<line class="budget" x1="${px(axes.mark)}" y1="${top}" x2="${px(axes.mark)}" y2="${height - bottom}"/>`)
  for (const c of shown) {
    out.push(`<polyline class="line ${c.kind}" points="${c.points.map(([x, y]) => `${px(x)},${py(y)}`).join(' ')}"/>`)
    for (const [x, y] of c.points)
      out.push(`<circle class="${c.kind}" cx="${px(x)}" cy="${py(y)}" r="4"><title>${escape(`${c.label}, ${short(x)} ${axes.x}: ${short(y)} ${axes.y}`)}</title></circle>`)
  }
  const legend = shown.map((c) => `<i class="${c.kind}"></i>${escape(c.label)}`).join(' ')
  return `<p class="legend">${legend}</p><svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${escape(`${axes.y} over ${axes.x}`)}">${out.join('')}</svg>`
}

/** A table, the first column text, the others numbers. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cell = (tag: string) => (text: string, i: number) => `<${tag}${i > 0 ? ' class="num"' : ''}>${escape(text)}</${tag}>`
  return `<div class="scroll"><table><thead><tr>${head.map(cell('th')).join('')}</tr></thead><tbody>${rows
    .map((r) => `<tr>${r.map(cell('td')).join('')}</tr>`)
    .join('')}</tbody></table></div>`
}

export interface Section {
  readonly family: string
  readonly rows: readonly Row[]
  /** What the family itself has to show. */
  readonly html: string
}

/** The whole document. */
export function page(sections: readonly Section[], machine: readonly string[]): string {
  const number = (v: number | null): string => (v === null ? '–' : short(v))
  return [
    '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
    `<meta name="color-scheme" content="light dark"><title>Whittle benchmark</title><style>${kStyle}${kExtra}</style></head><body><main>`,
    `<header><h1>Whittle benchmark</h1>${machine.map((m) => `<p class="sub">${escape(m)}</p>`).join('')}</header>`,
    ...sections.map(
      (s) =>
        `<section><h2>${escape(s.family)}</h2>${s.html}<details><summary>All ${s.rows.length} rows</summary>${table(
          ['case', 'variant', 'threads', 'ours, ms', 'rival', 'rival, ms', 'rival / ours', 'share of bound', 'bound', 'note'],
          s.rows.map((r) => [
            r.case, r.variant, String(r.threads), number(r.ours_ms), r.rival ?? '–', number(r.rival_ms), number(r.ratio),
            r.share_of_bound === null ? '–' : `${(100 * r.share_of_bound).toFixed(0)} %`, r.bound ?? '–', r.why ?? '',
          ]),
        )}</details></section>`,
    ),
    '</main></body></html>\n',
  ].join('') // prettier-ignore
}
