import { renderHtml } from '../lib/report'
import { bytes, count, elide, milliseconds, percent, short, table } from '../lib/report/format'
import { bars, escape, niceStep, stems } from '../lib/report/svg'
import { histogram, lines, mask, tradeoff } from '../lib/report/charts'
import { rowsOf } from '../lib/report/layers'
import type { Analysis, LayerAnalysis } from '../lib/report'
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
  for (const [, close, name, self] of html.replace(/<script>[^]*?<\/script>/, '').matchAll(/<(\/?)([a-zA-Z][a-zA-Z0-9]*)[^>]*?(\/?)>/g)) {
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
    expect(html).not.toMatch(/<script [^>]|<link|<img|<iframe|@import|https?:|src=|href="[^#]|url\(/i)
    expect(html.match(/<script>/g)).toHaveLength(1)
    expect(html).toContain('prefers-color-scheme:dark')
  })

  test('tells charts of two steps of a kind apart, and each by its own budget', () => {
    const one = report(layers.slice(0, 3))
    const [step, asked] = [one.steps[0]!, one.recipe.steps[0]!]
    const twice = { ...one, recipe: { ...one.recipe, steps: [asked, { ...asked, maxError: 0.5 }] }, steps: [step, { ...step }] } as CompressReport
    const labels = [...renderHtml([{ title: 'a', report: twice }]).matchAll(/aria-label="((?:Bytes|Relative error) by weight[^"]*)"/g)].map((m) => m[1]!)
    expect(labels.length).toBeGreaterThanOrEqual(4)
    expect(new Set(labels).size).toBe(labels.length)
    expect(labels).toContain(`Bytes by weight, ${step.step} 2`)
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

  test('shows large what was measured of the reported model, whatever was measured beside it', () => {
    const r = report(layers)
    const measurements = [
      { label: 'float', bytes: 1e6, accuracy: 0.97, latency: 10, reference: true },
      { label: 'another', bytes: r.after.bytes + 1, accuracy: 0.9, latency: 20 },
      { label: 'this', bytes: r.after.bytes, accuracy: 0.96, latency: 5 },
    ]
    const large = renderHtml([{ title: 'a', report: r, measurements }]).split('class="tiles"')[1]!.split('</div></div></div>')[0]!
    for (const text of ['96.00 %', '1.00 points lost', '0.50 × of it']) expect(large).toContain(text)
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
    expect(shown).not.toContain('<script>alert')
    expect(shown).not.toContain('<svg onload')
    expect(shown).not.toContain('\u0000')
    wellFormed(shown)
  })

  test('holds for no layers, one layer, errors of zero and values of nothing', () => {
    for (const some of [[], [layer(0)], [layer(0, { error: 0, bytesBefore: 0, bytesAfter: 0 })]]) {
      const text = renderHtml([{ title: 't', report: report(some) }])
      wellFormed(text)
      expect(text.replace(/<script>[^]*<\/script>/, '')).not.toMatch(/NaN|Infinity|undefined/)
    }
  })
})

const counted = (min: number, max: number) => ({
  elements: 64,
  mean: 0,
  std: 0.5,
  sparsity: 0.25,
  histogram: { min, max, counts: Array.from({ length: 64 }, (_, i) => (i * 7) % 13) },
  clips: { minmax: [min, max] as const, percentile: [min * 0.9, max * 0.9] as const, mse: [min * 0.5, max * 0.5] as const, mseBits: 4 },
})

const analysed = (i: number, more: Partial<LayerAnalysis> = {}): LayerAnalysis => ({
  name: `conv${i}`,
  op: 'Conv',
  weight: `w${i}`,
  type: 'float32',
  dims: [16, 8, 3, 3],
  elements: 1152,
  bytes: 4608,
  macs: 1e6 * (i + 1),
  values: counted(-1, 1),
  snrByBits: { 2: 3, 4: 18, 8: 44 },
  spectrum: { shape: [16, 72], at: [0, 1, 2], values: [3, 1, 0.1], computed: 3, rank90: 2, rank99: 3, breakEven: 13 },
  mask: { rows: 2, columns: 3, cells: '019900', cell: [8, 24] },
  input: counted(0, 6),
  output: counted(-3, 2),
  sensitivity: [
    { change: 'quantize', bits: 8, snr: 40 + i, accuracy: 0.97 },
    { change: 'prune', sparsity: 0.5, snr: i === 2 ? null : 20, accuracy: 0.9 },
  ],
  ...more,
})

const analysis = (count: number, more: Partial<Analysis> = {}): Analysis => ({
  version: '0.1.0',
  model: 'net',
  bytes: 1_000_000,
  parameters: 250_000,
  macs: 702_469_440,
  macsByType: { float32: 702_469_440 },
  energy: { joules: 0.005, compute: 0.003, memory: 0.002, estimate: true },
  sparsity: 0.01,
  shapes: { x: [1, 3, 48, 320] },
  accuracy: 0.97,
  layers: Array.from({ length: count }, (_, i) => analysed(i)),
  notes: ['Something was left out.'],
  ...more,
})

describe('a report with analysis, blame and attempts', () => {
  const full: CompressReport = {
    ...report([layer(0), layer(1), layer(2, { action: 'kept', reason: 'spared' })]),
    blame: [
      { layer: 'conv1', weight: 'w1', snr: 12.34, ownSnr: 15.5, spared: false },
      { layer: 'conv2', weight: 'w2', snr: 9.1, ownSnr: null, spared: true, accuracyCost: 0.0123 },
    ],
    attempts: [
      { spared: [], bytes: 250_000, accuracy: 0.95 },
      { spared: ['w2'], bytes: 260_000, accuracy: 0.968 },
    ],
    limits: [{ name: 'accuracyDrop', limit: 0.01, actual: 0.002, met: true }, { name: 'bytes', limit: 300_000, actual: 260_000, met: true }],
  }
  const section = { title: 'net.onnx', report: full, analysis: analysis(4), resultAnalysis: analysis(4, { macsByType: { int8: 351_234_720, float32: 351_234_720 } }) }
  const html = renderHtml([section, { title: 'alone', analysis: analysis(60) }])
  const bare = html.replace(/<script>[^]*<\/script>/, '')

  test('shows who is to blame, what was tried and what each layer holds', () => {
    wellFormed(html)
    for (const text of ['12.3 dB', '<i>(15.5 dB)</i>', '<i>(∞)</i>', '>1.23<', 'spared</b>', 'try 1: no layer spared', 'limit 96.00 %', 'limit 0.30 MB', '702 M', '50 % in integers', '5 mJ', 'Something was left out.', 'of 97.00 %', 'x [1, 3, 48, 320]'])
      expect(bare).toContain(text)
    expect(bare).not.toMatch(/NaN|Infinity|undefined/)
  })

  test('every part can be reached by its link and every wide one by the keyboard', () => {
    const ids = [...html.matchAll(/ id="([^"]+)"/g)].map((m) => m[1])
    expect(new Set(ids).size).toBe(ids.length)
    const links = [...html.matchAll(/href="#([^"]+)"/g)].map((m) => m[1]!)
    expect(links.length).toBeGreaterThan(10)
    for (const link of links) expect(ids).toContain(link)
    for (const m of html.matchAll(/<div class="(scroll|chart)"[^>]*>/g)) expect(m[0]).toMatch(/tabindex="0" role="region" aria-label="[^"]+"/)
    for (const m of html.matchAll(/<svg [^>]*>/g)) expect(m[0]).toMatch(/aria-label="[^"]+"|aria-hidden="true"/)
  })

  test('cells hold the numbers that they are sorted by, and nothing where nothing is known', () => {
    const [table] = bare.match(/<table class="sortable">[^]*?<\/table>/)!
    const heads = [...table.matchAll(/<th [^>]*>([^<]*)</g)].map((m) => m[1]!)
    expect(heads).toEqual(['#', 'layer', 'op', 'shape', 'done', 'MACs', 'before', 'after', 'error', 'SNR', 'cost', 'zeros'])
    const rows = [...table.matchAll(/<tr[^>]*>(<td[^]*?)<\/tr>/g)].map((m) => [...m[1]!.matchAll(/<td([^>]*)>/g)].map((c) => /data-v="([^"]*)"/.exec(c[1]!)?.[1]))
    expect(rows.map((r) => r[5])).toEqual(['1000000', '2000000', '3000000', '4000000'])
    expect(rows.map((r) => r[9])).toEqual(['', '15.5', '1000000000', ''])
    expect(rows.map((r) => r[10])).toEqual(['', '', '0.0123', ''])
  })

  test('names in an analysis are text as well', () => {
    const hostile = '</title><script>alert(2)</script>"'
    const page = renderHtml([{ title: 't', analysis: analysis(1, { layers: [analysed(0, { name: hostile, op: hostile, weight: hostile })], notes: [hostile], shapes: { [hostile]: null } }) }])
    expect(page).not.toContain('<script>alert')
    wellFormed(page)
  })

  test('layers of steps and of both analyses become one row each, by weight and else by name', () => {
    const found = rowsOf(report([layer(0), layer(0, { action: 'pruned' })]), analysis(2), analysis(0, { layers: [analysed(0, { weight: 'w0_q', bytes: 7 })] }))
    expect(found.map((r) => [r.weight, r.action, r.after?.bytes, r.bytesAfter])).toEqual([['w0', 'quantized to 8 bits; pruned to 8 bits', 7, 1216], ['w1', '', undefined, undefined]])
  })
})

describe('charts and text', () => {
  test('bars of a histogram are as tall as the logarithm of their counts', () => {
    const svg = histogram({ min: -1, max: 1, counts: [0, 1, 99, 0] }, undefined, 't')
    const heights = [...svg.matchAll(/v-([\d.]+)h/g)].map((m) => Number(m[1]))
    expect(heights.length).toBe(2)
    expect(heights[0]! / heights[1]!).toBeCloseTo(Math.log(2) / Math.log(100), 2)
  })

  test('cells of a picture of zeros lie where the zeros are not', () => {
    const svg = mask({ rows: 2, columns: 3, cells: '019900', cell: [1, 1] }, 't')
    expect([...svg.matchAll(/fill-opacity="([\d.]+)" d="([^"]+)"/g)].map((m) => [m[1], m[2]])).toEqual([['0.11', 'M1 0h1v1H1z'], ['1', 'M2 0h1v1H2zM0 1h1v1H0z']])
  })

  test('a larger model stands further right, a better one higher', () => {
    const svg = tradeoff([{ label: 'a', bytes: 10, accuracy: 0.9, kind: 'original' }, { label: 'b', bytes: 5, accuracy: 0.8, kind: 'result' }], {}, 't')
    const [a, b] = ['original', 'result'].map((kind) => new RegExp(`trade ${kind}" cx="([\\d.]+)" cy="([\\d.]+)"`).exec(svg)!.slice(1).map(Number))
    expect(a![0]! > b![0]! && a![1]! < b![1]!).toBe(true)
  })

  test('a line is broken where a value is missing', () => {
    expect(lines([{ label: 's', values: [1, undefined, 2, 3] }], ['a', 'b', 'c', 'd'], String, 't').match(/ d="([^"]+)"/)![1]).toMatch(/^M[^ML]+M[^ML]+L[^ML]+$/)
  })

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
