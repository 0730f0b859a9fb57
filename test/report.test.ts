import { renderHtml } from '../lib/report'
import { bytes, count, elide, milliseconds, percent, short, table } from '../lib/report/format'
import { bars, escape, niceStep, stems } from '../lib/report/svg'
import type { CompressReport, LayerReport } from '../lib/report/types'

const layer = (i: number, more: Partial<LayerReport> = {}): LayerReport => ({
  name: `conv${i}`,
  op: 'Conv',
  weight: `w${i}`,
  dims: [16, 8, 3, 3],
  elements: 1152,
  action: 'quantized',
  bits: 8,
  bytesBefore: 4608 * (i + 1),
  bytesAfter: 1216 * (i + 1),
  error: 0.005 + i * 0.001,
  sparsity: 0.01,
  ...more,
})

const report = (layers: LayerReport[]): CompressReport => ({
  version: '0.1.0',
  model: 'net',
  recipe: { name: 'int8-weights', limits: {}, steps: [{ step: 'quantize', maxError: 0.03 } as { step: string }] },
  before: { bytes: 1_000_000, parameters: 250_000, accuracy: 0.97, latency: 10 },
  after: { bytes: 260_000, parameters: 250_100, accuracy: 0.968, latency: 10.1 },
  steps: [{ step: 'quantize', summary: 'Quantized.', seconds: 0.1, layers }],
  limits: [{ name: 'bytes', limit: 300_000, actual: 260_000, met: true }],
  blame: [],
  attempts: [],
  seconds: 0.2,
})

/** Every tag that is opened is closed in its turn. */
function wellFormed(html: string): void {
  const empty = new Set(['meta'])
  const open: string[] = []
  for (const [, close, name, self] of html.matchAll(/<(\/?)([a-zA-Z][a-zA-Z0-9]*)[^>]*?(\/?)>/g)) {
    if (close) expect(open.pop()).toBe(name)
    else if (!self && !empty.has(name!)) open.push(name!)
  }
  expect(open).toEqual([])
}

describe('the HTML report', () => {
  const layers = Array.from({ length: 40 }, (_, i) => layer(i))
  layers[3] = layer(3, {
    action: 'kept',
    reason: 'its relative error 4.00 % is over 3.00 %',
    error: 0.04,
    bytesAfter: layers[3]!.bytesBefore,
  })
  const html = renderHtml([
    {
      title: 'net.onnx',
      report: report(layers),
      measurements: [
        { label: 'float', bytes: 1e6, accuracy: 0.97, latency: 10, reference: true },
        { label: 'int8', bytes: 2.6e5, accuracy: 0.968, latency: 10.1 },
      ],
    },
  ])

  test('is one document that needs nothing beside it', () => {
    expect(html.startsWith('<!doctype html>')).toBe(true)
    wellFormed(html)
    expect(html).not.toMatch(/<script|<link|<img|<iframe|@import|https?:|src=|href=|url\(/i)
    expect(html).toContain('prefers-color-scheme:dark')
  })

  test('shows figures, every weight and the reason why one was kept', () => {
    for (const text of [
      '0.26 MB',
      '3.85 times smaller',
      '0.20 points lost',
      '1.01 ×',
      '16 smaller ones',
      'over 3.00 %',
      'budget 3 %',
    ])
      expect(html).toContain(text)
    for (const l of layers) expect(html).toContain(`<td>${l.name}</td>`)
  })

  test('is the same for the same input', () => {
    expect(renderHtml([{ title: 'a', report: report(layers) }])).toBe(
      renderHtml([{ title: 'a', report: report(layers) }]),
    )
  })

  test('takes names out of a model for text, never for markup', () => {
    const hostile = '"><script>alert(1)</script>&\u0000\'<svg onload=x>'
    const shown = renderHtml(
      [
        {
          title: hostile,
          report: report([layer(0, { name: hostile, op: hostile, weight: hostile, reason: hostile })]),
        },
      ],
      hostile,
    )
    expect(shown).not.toContain('<script')
    expect(shown).not.toContain('<svg onload')
    expect(shown).not.toContain('\u0000')
    wellFormed(shown)
  })

  test('holds for no layers, one layer, errors of zero and values of nothing', () => {
    for (const some of [[], [layer(0)], [layer(0, { error: 0, bytesBefore: 0, bytesAfter: 0 })]]) {
      const text = renderHtml([{ title: 't', report: report(some) }])
      wellFormed(text)
      expect(text).not.toMatch(/NaN|Infinity|undefined/)
    }
  })
})

describe('charts and text', () => {
  test('axes take round steps', () => {
    expect([niceStep(10, 5), niceStep(11, 5), niceStep(0.3, 5), niceStep(7.9e6, 5)]).toEqual([2, 2.5, 0.1, 2e6])
  })

  test('a bar is as long as its value', () => {
    const svg = bars([{ label: 'a', before: 100, after: 25, note: '', tip: '' }], String)
    const widths = [...svg.matchAll(/<rect class="(before|after)"[^>]* width="([\d.]+)"/g)].map((m) => Number(m[2]))
    expect(widths[1]! / widths[0]!).toBeCloseTo(0.25, 3)
  })

  test('a stem over the budget stands above the line', () => {
    const svg = stems(
      [
        { label: 'a', value: 0.001, tip: '' },
        { label: 'b', value: 0.1, tip: '', over: true },
      ],
      0.03,
    )
    const heights = [...svg.matchAll(/<circle [^>]*cy="([\d.]+)"/g)].map((m) => Number(m[1]))
    const line = Number(/class="budget" [^>]*y1="([\d.]+)"/.exec(svg)![1])
    expect(heights[1]!).toBeLessThan(line)
    expect(heights[0]!).toBeGreaterThan(line)
  })

  test('numbers read well', () => {
    expect([bytes(812), bytes(12_300), bytes(578_966), bytes(10_822_323), bytes(3e9)]).toEqual([
      '812 B',
      '12.3 kB',
      '0.58 MB',
      '10.82 MB',
      '3.00 GB',
    ])
    expect([count(0), count(999), count(10822323)]).toEqual(['0', '999', '10,822,323'])
    expect([short(0), short(0.00612), short(1.2e-7), short(123456), short(-0.5)]).toEqual([
      '0',
      '0.00612',
      '1.2e-7',
      '123000',
      '-0.5',
    ])
    expect([percent(0.973184), percent(1, 0), milliseconds(0.9051), milliseconds(12.34), milliseconds(1234)]).toEqual([
      '97.32 %',
      '100 %',
      '0.905 ms',
      '12.3 ms',
      '1234 ms',
    ])
    expect(elide('abcdefghij', 5)).toBe('ab…ij')
    expect(elide('abc', 5)).toBe('abc')
    expect(escape('<a href="x">\'&')).toBe('&lt;a href=&quot;x&quot;&gt;&#39;&amp;')
  })

  test('tables line up, wide characters counted once', () => {
    expect(
      table(
        ['a', 'n'],
        [
          ['x×y', '1'],
          ['z', '100'],
        ],
        [1],
      ),
    ).toBe('a      n\n───  ───\nx×y    1\nz    100')
  })
})
