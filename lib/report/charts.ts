import type { ClipRanges, HistogramData, LayerAnalysis, MaskPicture, Spectrum } from './analysis'
import { bytes as showBytes, percent, short } from './format'
import { escape, frame, n, niceStep } from './svg'

/** Small charts of one layer, and charts of several series. Everything is drawn in the page's own colours. */

const kWidth = 300
const kHeight = 150
const kLeft = 8
const kRight = 8
const kTop = 10
const kBottom = 24

interface Area {
  readonly x: (v: number) => number
  readonly y: (v: number) => number
}

/** Bars of counts (logarithmic, or what is rare would not show), clip ranges as lines; `over` is drawn as an outline. */
export function histogram(data: HistogramData, clips: ClipRanges | undefined, title: string, over?: HistogramData): string {
  const { min, max } = data
  const span = max - min || 1
  const x = (v: number): number => kLeft + ((v - min) / span) * (kWidth - kLeft - kRight)
  const base = kHeight - kBottom
  const height = (counts: readonly number[]): ((c: number) => number) => {
    const top = Math.log1p(Math.max(...counts, 1))
    return (c) => (Math.log1p(c) / top) * (base - kTop)
  }
  const out: string[] = []
  const tall = height(data.counts)
  const step = (kWidth - kLeft - kRight) / Math.max(data.counts.length, 1)
  let bars = ''
  data.counts.forEach((c, i) => {
    const h = tall(c)
    if (h > 0) bars += `M${n(kLeft + i * step)} ${n(base)}v${n(-h)}h${n(Math.max(step - 0.6, 0.4))}v${n(h)}z`
  })
  if (bars) out.push(`<path class="hist" d="${bars}"/>`)
  if (over && over.counts.length > 1) {
    const line = height(over.counts)
    const each = (over.max - over.min) / over.counts.length
    const points = over.counts
      .map((c, i) => [over.min + (i + 0.5) * each, c] as const)
      .filter(([v]) => v >= min && v <= max)
      .map(([v, c]) => `${n(x(v))} ${n(base - line(c))}`)
    if (points.length > 1) out.push(`<path class="outline" d="M${points.join('L')}"/>`)
  }
  out.push(`<line class="axisLine" x1="${kLeft}" y1="${base}" x2="${kWidth - kRight}" y2="${base}"/>`)
  if (clips && max > min)
    for (const [kind, [low, high]] of [['percentile', clips.percentile], ['mse', clips.mse]] as const)
      for (const v of [low, high])
        if (v > min && v < max) out.push(`<line class="clip ${kind}" x1="${n(x(v))}" y1="${kTop - 4}" x2="${n(x(v))}" y2="${base}"/>`)
  const text = (v: number, anchor: string): string => `<text class="axis" x="${n(x(v))}" y="${kHeight - 8}" text-anchor="${anchor}">${escape(short(v))}</text>`
  out.push(text(min, 'start'))
  if (max > min) {
    out.push(text(max, 'end'))
    const zero = x(0)
    if (min < 0 && max > 0 && zero > 70 && zero < kWidth - 70) out.push(text(0, 'middle'))
  }
  return frame(kWidth, kHeight, out, title)
}

/** Singular values over the largest, logarithmic, with the ranks that hold 90 and 99 % and the one where factors stop paying. */
export function spectrum(s: Spectrum, title: string): string {
  const first = s.values[0] || 1
  const last = Math.max(s.computed - 1, 1)
  const low = Math.max(Math.floor(Math.log10(Math.max(Math.min(...s.values.filter((v) => v > 0)) / first, 1e-7))), -7)
  const { x, y } = area((v) => v / last, (v) => 1 - Math.max(Math.log10(Math.max(v / first, 1e-300)), low) / Math.min(low, -1))
  const out: string[] = grid(y, [1, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7].filter((v) => v >= 10 ** low).map((v) => [v * first, v === 1 ? '1' : v.toExponential(0)]))
  const marks = [[s.rank90, '90 %'], [s.rank99, '99 %'], [s.breakEven < s.computed ? s.breakEven : null, 'even']] as const
  let before = -100
  for (const [rank, label] of [...marks].sort((a, b) => (a[0] ?? 0) - (b[0] ?? 0))) {
    if (rank === null) continue
    const at = x(Math.min(rank - 1, last))
    const even = label === 'even'
    out.push(`<line class="clip ${even ? 'mse' : 'percentile'}" x1="${n(at)}" y1="${kTop}" x2="${n(at)}" y2="${kHeight - kBottom}"/>`)
    if (at - before > 34) out.push(`<text class="axis" x="${n(Math.min(Math.max(at, 40), kWidth - 18))}" y="${kHeight - 8}" text-anchor="middle">${label}</text>`)
    if (at - before > 34) before = at
  }
  out.push(`<path class="curve s0" d="M${s.at.map((i, k) => `${n(x(i))} ${n(y(s.values[k]!))}`).join('L')}"/>`)
  return frame(kWidth, kHeight, out, title)
}

function area(across: (v: number) => number, up: (v: number) => number, left = 34): Area {
  return {
    x: (v) => left + across(v) * (kWidth - left - kRight),
    y: (v) => kHeight - kBottom - up(v) * (kHeight - kTop - kBottom),
  }
}

function grid(y: (v: number) => number, lines: readonly (readonly [number, string])[]): string[] {
  return lines.flatMap(([v, label], i) => [
    `<line class="grid" x1="34" y1="${n(y(v))}" x2="${kWidth - kRight}" y2="${n(y(v))}"/>`,
    lines.length < 5 || i % 2 === 0 ? `<text class="axis" x="29" y="${n(y(v) + 4)}" text-anchor="end">${escape(label)}</text>` : '',
  ])
}

/** Signal-to-noise ratio of a weight by bits. */
export function byBits(snr: LayerAnalysis['snrByBits'], title: string): string {
  const points = Object.entries(snr).flatMap(([bits, db]): [number, number][] => (db === null ? [] : [[Number(bits), db]]))
  if (points.length < 2) return ''
  const top = Math.max(Math.ceil(Math.max(...points.map(([, db]) => db)) / 10) * 10, 10)
  const low = Math.min(0, Math.floor(Math.min(...points.map(([, db]) => db)) / 10) * 10)
  const { x, y } = area((v) => (v - 2) / 6, (v) => (v - low) / (top - low))
  const step = niceStep(top - low, 4)
  const lines: [number, string][] = []
  for (let v = Math.ceil(low / step) * step; v <= top; v += step) lines.push([v, String(v)])
  const out = grid(y, lines)
  for (const [bits] of points) out.push(`<text class="axis" x="${n(x(bits))}" y="${kHeight - 8}" text-anchor="middle">${bits}</text>`)
  out.push(`<path class="curve s0" d="M${points.map(([b, db]) => `${n(x(b))} ${n(y(db))}`).join('L')}"/>`)
  for (const [b, db] of points) out.push(`<circle class="dot" cx="${n(x(b))}" cy="${n(y(db))}" r="3"><title>${b} bits: ${db} dB</title></circle>`)
  return frame(kWidth, kHeight, out, title)
}

/** Which weights are not zero: the fuller a cell, the stronger its colour. */
export function mask(m: MaskPicture, title: string): string {
  const side = Math.min(260 / m.columns, 140 / m.rows, 12)
  const [width, height] = [m.columns * side, m.rows * side]
  const paths = new Map<string, string>()
  for (let r = 0; r < m.rows; r++)
    for (let c = 0; c < m.columns; ) {
      const level = m.cells[r * m.columns + c]!
      let end = c + 1
      while (end < m.columns && m.cells[r * m.columns + end] === level) end++
      if (level !== '0') paths.set(level, `${paths.get(level) ?? ''}M${c} ${r}h${end - c}v1H${c}z`)
      c = end
    }
  const drawn = [...paths].map(([level, d]) => `<path class="cell" fill-opacity="${n(Number(level) / 9)}" d="${d}"/>`)
  return `<svg class="mask" viewBox="0 0 ${m.columns} ${m.rows}" style="width:${n(width)}px;height:${n(height)}px" shape-rendering="crispEdges" role="img" aria-label="${escape(title)}"><rect class="empty" width="${m.columns}" height="${m.rows}"/>${drawn.join('')}</svg>`
}

/** One line of {@link lines}: a value for each place, `undefined` where there is none. */
export interface Series {
  readonly label: string
  readonly values: readonly (number | undefined)[]
}

/** Several series over the layers, in the order of the network. */
export function lines(series: readonly Series[], names: readonly string[], format: (v: number) => string, title: string): string {
  const [width, height, left, right, top, bottom] = [920, 280, 64, 16, 14, 30]
  const all = series.flatMap((s) => s.values.filter((v): v is number => v !== undefined))
  if (all.length === 0) return ''
  const [least, most] = [Math.min(...all, 0), Math.max(...all)]
  const step = niceStep(Math.max(most - least, 1e-9), 5)
  const [low, high] = [Math.floor(least / step + 1e-9) * step, Math.ceil(most / step - 1e-9) * step || step]
  const x = (i: number): number => left + 10 + (names.length < 2 ? 0 : (i / (names.length - 1)) * (width - left - right - 20))
  const y = (v: number): number => height - bottom - ((v - low) / (high - low || 1)) * (height - top - bottom)
  const out: string[] = []
  for (let v = low; v <= high + step / 2; v += step) {
    out.push(`<line class="grid" x1="${left}" y1="${n(y(v))}" x2="${width - right}" y2="${n(y(v))}"/>`)
    out.push(`<text class="axis" x="${left - 8}" y="${n(y(v) + 4)}" text-anchor="end">${escape(format(v))}</text>`)
  }
  series.forEach((s, k) => {
    let path = ''
    s.values.forEach((v, i) => {
      if (v !== undefined) path += `${path && s.values[i - 1] !== undefined ? 'L' : 'M'}${n(x(i))} ${n(y(v))}`
    })
    out.push(`<path class="curve s${k % 5}" d="${path}"/>`)
    s.values.forEach((v, i) => {
      if (v !== undefined)
        out.push(`<circle class="point s${k % 5}" cx="${n(x(i))}" cy="${n(y(v))}" r="${names.length > 80 ? 2 : 3}"><title>${escape(`${names[i]!}\n${s.label}: ${format(v)}`)}</title></circle>`)
    })
  })
  out.push(`<text class="axis" x="${left}" y="${height - 8}">first layer</text><text class="axis" x="${width - right}" y="${height - 8}" text-anchor="end">last layer</text>`)
  return frame(width, height, out, title)
}

/** One model of {@link tradeoff}. */
export interface TradePoint {
  readonly label: string
  readonly bytes: number
  readonly accuracy: number
  readonly kind: 'original' | 'result' | 'tried'
}

/** Accuracy against size; limits as dashed lines. */
export function tradeoff(points: readonly TradePoint[], limits: { readonly bytes?: number | undefined; readonly accuracy?: number | undefined }, title: string): string {
  const [width, height, left, right, top, bottom] = [920, 320, 74, 24, 18, 34]
  const sizes = [...points.map((p) => p.bytes), ...(limits.bytes === undefined ? [] : [limits.bytes])]
  const most = Math.max(...sizes, 1) * 1.06
  const accuracies = [...points.map((p) => p.accuracy), ...(limits.accuracy === undefined ? [] : [limits.accuracy])]
  const [least, best] = [Math.min(...accuracies), Math.max(...accuracies)]
  const room = Math.max((best - least) * 0.15, 0.001 * Math.max(Math.abs(best), 1e-9))
  const [low, high] = [least - room, best + room]
  const asShare = best <= 1 && least >= -1
  const show = (v: number): string => (asShare ? percent(v) : short(v))
  const tick = (v: number): string => (asShare ? `${Number((v * 100).toPrecision(4))} %` : short(v))
  const x = (v: number): number => left + (v / most) * (width - left - right)
  const y = (v: number): number => height - bottom - ((v - low) / (high - low)) * (height - top - bottom)
  const out: string[] = []
  const [across, up] = [niceStep(most, 6), niceStep(high - low, 5)]
  for (let v = 0; v <= most; v += across)
    out.push(`<line class="grid" x1="${n(x(v))}" y1="${top}" x2="${n(x(v))}" y2="${height - bottom}"/><text class="axis" x="${n(x(v))}" y="${height - 12}" text-anchor="middle">${escape(showBytes(v))}</text>`)
  for (let v = Math.ceil(low / up) * up; v <= high; v += up)
    out.push(`<line class="grid" x1="${left}" y1="${n(y(v))}" x2="${width - right}" y2="${n(y(v))}"/><text class="axis" x="${left - 8}" y="${n(y(v) + 4)}" text-anchor="end">${escape(tick(Number(v.toPrecision(9))))}</text>`)
  if (limits.bytes !== undefined)
    out.push(`<line class="budget" x1="${n(x(limits.bytes))}" y1="${top}" x2="${n(x(limits.bytes))}" y2="${height - bottom}"/><text class="budgetText" x="${n(x(limits.bytes) + 6)}" y="${height - bottom - 8}">limit ${escape(showBytes(limits.bytes))}</text>`)
  if (limits.accuracy !== undefined)
    out.push(`<line class="budget" x1="${left}" y1="${n(y(limits.accuracy))}" x2="${width - right}" y2="${n(y(limits.accuracy))}"/><text class="budgetText" x="${left + 6}" y="${n(y(limits.accuracy) - 6)}">limit ${escape(show(limits.accuracy))}</text>`)
  const tried = points.filter((p) => p.kind !== 'original').sort((a, b) => a.bytes - b.bytes)
  if (tried.length > 1) out.push(`<path class="trail" d="M${tried.map((p) => `${n(x(p.bytes))} ${n(y(p.accuracy))}`).join('L')}"/>`)
  for (const p of [...points].sort((a, b) => order(a) - order(b))) {
    const [cx, cy] = [x(p.bytes), y(p.accuracy)]
    out.push(`<g><title>${escape(`${p.label}\n${showBytes(p.bytes)}, ${show(p.accuracy)}`)}</title><circle class="trade ${p.kind}" cx="${n(cx)}" cy="${n(cy)}" r="${p.kind === 'tried' ? 4.5 : 7}"/>`)
    if (p.kind !== 'tried') {
      const toLeft = cx > width * 0.6
      out.push(`<text class="label" x="${n(cx + (toLeft ? -12 : 12))}" y="${n(cy + (cy < top + 20 ? 18 : -8))}" text-anchor="${toLeft ? 'end' : 'start'}">${escape(p.label)}</text>`)
    }
    out.push('</g>')
  }
  return frame(width, height, out, title)
}

const order = (p: TradePoint): number => ['tried', 'original', 'result'].indexOf(p.kind)
