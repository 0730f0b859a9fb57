import { elide } from './format'

/** Text for HTML and SVG; names come from model files and may hold anything. */
export function escape(text: string): string {
  // Control characters are not allowed in either, whatever their escape.
  const clean = text.replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, '\ufffd')
  return clean
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/>/g, '&gt;')
    .replace(/"/g, '&quot;')
    .replace(/'/g, '&#39;')
}

/** Coordinates with two decimals: the rest cannot be seen. */
export const n = (x: number): string => String(Math.round(x * 100) / 100)

/** A round step that divides [0, max] into at most `parts`. */
export function niceStep(max: number, parts: number): number {
  const raw = max / parts
  const magnitude = 10 ** Math.floor(Math.log10(raw))
  for (const m of [1, 2, 2.5, 5, 10]) if (m * magnitude >= raw * (1 - 1e-9)) return m * magnitude
  return 10 * magnitude
}

export interface Bar {
  readonly label: string
  readonly before: number
  readonly after: number
  /** Shown at the end of the bar. */
  readonly note: string
  readonly tip: string
  /** Left as it was: drawn in the colour of what came in. */
  readonly kept?: boolean
}

/** Horizontal bars, the old value as a pale bar behind the new one. */
export function bars(items: readonly Bar[], format: (x: number) => string): string {
  const width = 920
  const left = 250
  const right = 130
  const row = 24
  const top = 6
  const height = top + items.length * row + 24
  const max = Math.max(...items.map((i) => Math.max(i.before, i.after)), 1e-12)
  const step = niceStep(max, 5)
  const end = max * 1.02
  const x = (v: number): number => left + (v / end) * (width - left - right)
  const out: string[] = []
  for (let v = 0; v <= end; v += step) {
    out.push(`<line class="grid" x1="${n(x(v))}" y1="${top}" x2="${n(x(v))}" y2="${height - 20}"/>`)
    out.push(`<text class="axis" x="${n(x(v))}" y="${height - 5}" text-anchor="middle">${escape(format(v))}</text>`)
  }
  items.forEach((item, i) => {
    const y = top + i * row
    const end = Math.max(item.before, item.after)
    out.push(
      `<g><title>${escape(item.tip)}</title>`,
      `<text class="label" x="${left - 10}" y="${n(y + 16)}" text-anchor="end">${escape(elide(item.label, 36))}</text>`,
      `<rect class="before" x="${left}" y="${n(y + 4)}" width="${n(Math.max(x(item.before) - left, 1))}" height="16" rx="3"/>`,
      `<rect class="${item.kept ? 'kept' : 'after'}" x="${left}" y="${n(y + 4)}" width="${n(Math.max(x(item.after) - left, 1))}" height="16" rx="3"/>`,
      `<text class="note" x="${n(x(end) + 8)}" y="${n(y + 16)}">${escape(item.note)}</text></g>`,
    )
  })
  return frame(width, height, out, 'Bars: before and after')
}

export interface Dot {
  readonly label: string
  readonly value: number
  readonly tip: string
  readonly over?: boolean
}

/** One stem a layer, in the order of the network, on a logarithmic axis, with the budget as a dashed line. */
export function stems(items: readonly Dot[], budget: number | undefined): string {
  const width = 920
  const height = 260
  const left = 64
  const right = 16
  const top = 18
  const bottom = 30
  const positive = [...items.map((i) => i.value), ...(budget ? [budget] : [])].filter((v) => v > 0)
  const low = Math.floor(Math.log10(Math.min(...positive, 1) * 0.8))
  const high = Math.max(Math.ceil(Math.log10(Math.max(...positive, 1e-9) * 1.05)), low + 1)
  const y = (v: number): number =>
    top + ((high - Math.max(Math.log10(Math.max(v, 1e-300)), low)) / (high - low)) * (height - top - bottom)
  const x = (i: number): number =>
    left + 14 + (items.length < 2 ? 0 : (i / (items.length - 1)) * (width - left - right - 28))
  const out: string[] = []
  for (let e = low; e <= high; e++)
    for (const m of e === high ? [1] : [1, 2, 5]) {
      const at = y(m * 10 ** e)
      out.push(
        `<line class="grid${m === 1 ? '' : ' faint'}" x1="${left}" y1="${n(at)}" x2="${width - right}" y2="${n(at)}"/>`,
      )
      if (m === 1 || high - low <= 2)
        out.push(`<text class="axis" x="${left - 8}" y="${n(at + 4)}" text-anchor="end">${ratio(m * 10 ** e)}</text>`)
    }
  const radius = items.length > 150 ? 2 : items.length > 60 ? 3 : 4
  items.forEach((item, i) => {
    const kind = item.over ? 'over' : 'dot'
    out.push(
      `<g><title>${escape(item.tip)}</title><line class="stem ${kind}" x1="${n(x(i))}" y1="${n(y(item.value))}" x2="${n(x(i))}" y2="${height - bottom}"/>`,
      `<circle class="${kind}" cx="${n(x(i))}" cy="${n(y(item.value))}" r="${radius}"/></g>`,
    )
  })
  if (budget) {
    const at = y(budget)
    out.push(`<line class="budget" x1="${left}" y1="${n(at)}" x2="${width - right}" y2="${n(at)}"/>`)
    out.push(
      `<text class="budgetText" x="${width - right}" y="${n(at - 6)}" text-anchor="end">budget ${ratio(budget)}</text>`,
    )
  }
  out.push(`<text class="axis" x="${left}" y="${height - 8}">first layer</text>`)
  out.push(`<text class="axis" x="${width - right}" y="${height - 8}" text-anchor="end">last layer</text>`)
  return frame(width, height, out, 'Relative error of each layer')
}

function ratio(v: number): string {
  return v >= 0.001 ? `${Number((v * 100).toPrecision(2))} %` : v.toExponential(0)
}

export interface Part {
  readonly label: string
  readonly value: number
  readonly kind: string
}

/** Two stacked bars of one scale: what the file consists of, before and after. */
export function stacked(
  rows: readonly { readonly label: string; readonly parts: readonly Part[] }[],
  format: (x: number) => string,
): string {
  const width = 920
  const left = 90
  const right = 100
  const row = 46
  const height = rows.length * row + 4
  const total = (parts: readonly Part[]): number => parts.reduce((sum, p) => sum + p.value, 0)
  const max = Math.max(...rows.map((r) => total(r.parts)), 1)
  const out: string[] = []
  rows.forEach((r, i) => {
    const y = i * row + 6
    let x = left
    out.push(`<text class="label" x="${left - 12}" y="${y + 22}" text-anchor="end">${escape(r.label)}</text>`)
    for (const part of r.parts) {
      const w = (part.value / max) * (width - left - right)
      if (w <= 0) continue
      out.push(
        `<rect class="part ${part.kind}" x="${n(x)}" y="${y}" width="${n(Math.max(w - 1, 0.6))}" height="34" rx="3"><title>${escape(`${part.label}: ${format(part.value)}`)}</title></rect>`,
      )
      if (w > 120)
        out.push(
          `<text class="onPart ${part.kind}" x="${n(x + 10)}" y="${y + 22}">${escape(`${part.label} ${format(part.value)}`)}</text>`,
        )
      x += w
    }
    out.push(`<text class="note strong" x="${n(x + 10)}" y="${y + 22}">${escape(format(total(r.parts)))}</text>`)
  })
  return frame(width, height, out, 'What the file consists of')
}

/** A chart with its name for those who cannot see it. */
export function frame(width: number, height: number, body: readonly string[], title: string): string {
  return `<svg viewBox="0 0 ${n(width)} ${n(height)}" role="img" aria-label="${escape(title)}">${body.join('')}</svg>`
}
