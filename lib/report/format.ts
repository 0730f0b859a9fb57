/** Thousands separated by commas: 10822323 → `10,822,323`. */
export function count(n: number): string {
  return Math.round(n)
    .toString()
    .replace(/\B(?=(\d{3})+$)/g, ',')
}

/** Bytes with a decimal unit, 1 MB = 10⁶ bytes: `0.58 MB`, `12.3 kB`, `812 B`. */
export function bytes(n: number): string {
  if (n >= 1e9) return `${(n / 1e9).toFixed(2)} GB`
  if (n >= 1e5) return `${(n / 1e6).toFixed(2)} MB`
  if (n >= 1e3) return `${(n / 1e3).toFixed(1)} kB`
  return `${n} B`
}

/** A share as a percentage: 0.973184 → `97.32 %`. */
export function percent(share: number, digits = 2): string {
  return `${(share * 100).toFixed(digits)} %`
}

/** Three significant digits without an exponent where that is readable: `0.00612`, `12.3`, `1.2e-7`. */
export function short(n: number): string {
  if (n === 0) return '0'
  const size = Math.abs(n)
  if (size < 1e-4 || size >= 1e7) return n.toExponential(1)
  return String(Number(n.toPrecision(3)))
}

/** Milliseconds: `12.3 ms`, `0.905 ms`. */
export function milliseconds(ms: number): string {
  return `${ms >= 100 ? ms.toFixed(0) : ms >= 10 ? ms.toFixed(1) : ms >= 1 ? ms.toFixed(2) : ms.toFixed(3)} ms`
}

/** Cuts in the middle, so that both ends of a long name stay readable. */
export function elide(text: string, width: number): string {
  if (text.length <= width) return text
  const keep = width - 1
  return `${text.slice(0, Math.ceil(keep / 2))}…${text.slice(text.length - Math.floor(keep / 2))}`
}

/** Plain-text table; columns are as wide as their widest cell, numbers to the right. */
export function table(
  head: readonly string[],
  rows: readonly (readonly string[])[],
  right: readonly number[] = [],
): string {
  const widths = head.map((h, i) => Math.max(...[h, ...rows.map((r) => r[i] ?? '')].map((cell) => [...cell].length)))
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, i) => {
        const pad = ' '.repeat(widths[i]! - [...cell].length)
        return right.includes(i) ? pad + cell : cell + pad
      })
      .join('  ')
      .trimEnd()
  return [line(head), widths.map((w) => '─'.repeat(w)).join('  '), ...rows.map(line)].join('\n')
}
