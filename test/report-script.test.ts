import { renderHtml } from '../lib/report'
import type { CompressReport, LayerReport } from '../lib/report/types'
import { documentOf, type Element } from './dom'

const names = ['conv1', 'conv10', 'conv2', 'fc', ...Array.from({ length: 12 }, (_, i) => `block.${i}`)]
const layers = names.map((name, i): LayerReport => ({
  name,
  op: name === 'fc' ? 'Gemm' : 'Conv',
  weight: `w${i}`,
  dims: [16, i + 1],
  elements: 16 * (i + 1),
  bytesBefore: 100 * ((7 * i) % 16) + 400,
  bytesAfter: 100,
  // One layer has no error: it is last whichever way the column is sorted.
  ...(name === 'conv2'
    ? { action: 'kept', reason: 'too coarse' }
    : { action: 'quantized', bits: 8, error: ((5 * i) % 16) / 100 }),
}))
const report: CompressReport = {
  version: '0.1.0',
  model: 'net',
  recipe: { name: 'r', limits: {}, steps: [{ step: 'quantize' }] },
  before: { bytes: 1e6, parameters: 1e5 },
  after: { bytes: 3e5, parameters: 1e5 },
  steps: [{ step: 'quantize', summary: 'Quantized.', seconds: 0.1, layers }],
  limits: [],
  blame: [],
  attempts: [],
  seconds: 0.2,
}

const html = renderHtml([{ title: 'net', report }])
const opened = () => {
  const { document, window } = documentOf(html)
  const table = document.querySelectorAll('table.sortable')[0]!
  const heads = table.tHead!.rows[0]!.cells
  const column = (name: string): number => heads.findIndex((h) => h.textContent === name)
  return {
    document,
    window,
    heads,
    click: (name: string) => heads[column(name)]!.querySelectorAll('button')[0]!.dispatch('click'),
    /** What a column shows from top to bottom. */
    shown: (name: string) =>
      table.tBodies[0]!.rows.filter((r) => !r.hidden).map((r) => r.cells[column(name)]!.textContent),
    sorted: () => heads.map((h) => [h.textContent, h.getAttribute('aria-sort')]).filter(([, how]) => how !== 'none'),
  }
}

const numbers = (texts: readonly string[]): number[] => texts.filter((t) => t !== '').map((t) => parseFloat(t))

test('heads become buttons that keep their words, in the order of the network at first', () => {
  const { heads, sorted, shown } = opened()
  expect(heads.map((h) => h.textContent)).toEqual(['#', 'layer', 'op', 'shape', 'done', 'before', 'after', 'error'])
  for (const h of heads) expect(h.children.map((c) => [c.tag, c.type])).toEqual([['button', 'button']])
  expect(sorted()).toEqual([['#', 'ascending']])
  expect(shown('layer')).toEqual(names)
})

test('numbers sort from the largest at the first click, the other way at the second, what is unknown last', () => {
  const { click, shown, sorted } = opened()
  click('error')
  const down = shown('error')
  expect(down.at(-1)).toBe('')
  expect(numbers(down)).toEqual([...numbers(down)].sort((a, b) => b - a))
  expect(sorted()).toEqual([['error', 'descending']])
  click('error')
  const up = shown('error')
  expect(up.at(-1)).toBe('')
  expect(numbers(up)).toEqual(numbers(down).reverse())
  expect(sorted()).toEqual([['error', 'ascending']])
  // Bytes are told in units: the numbers behind them count.
  click('before')
  expect(shown('before')[0]).toBe('1.9 kB')
  expect(shown('before').at(-1)).toBe('400 B')
})

test('words sort by the alphabet, numbers in them as numbers', () => {
  const { click, shown, sorted } = opened()
  click('layer')
  expect(shown('layer').slice(0, 3)).toEqual(['block.0', 'block.1', 'block.2'])
  expect(shown('layer').slice(-4)).toEqual(['conv1', 'conv2', 'conv10', 'fc'])
  expect(sorted()).toEqual([['layer', 'ascending']])
  click('#')
  expect(shown('layer')).toEqual(names)
})

test('a field shows the rows that have every word, sorted or not', () => {
  const { document, click, shown } = opened()
  const [label] = document.querySelectorAll('label.filter') as [Element]
  const [field] = label.querySelectorAll('input') as [Element]
  expect(label.parent!.childNodes.indexOf(label)).toBe(
    label.parent!.childNodes.findIndex((c) => c.matches('div.scroll')) - 1,
  )
  const type = (text: string): void => {
    field.value = text
    field.dispatch('input')
  }
  type('CONV1 8 bits')
  expect(shown('layer')).toEqual(['conv1', 'conv10'])
  click('error')
  expect(shown('layer')).toEqual(['conv10', 'conv1'])
  type('too coarse')
  expect(shown('layer')).toEqual(['conv2'])
  type('nothing like this')
  expect(shown('layer')).toEqual([])
  type(' ')
  expect(shown('layer')).toHaveLength(names.length)
})

test('a short table has no field, and prints with every layer open', () => {
  const few = documentOf(
    renderHtml([
      { title: 'net', report: { ...report, steps: [{ ...report.steps[0]!, layers: layers.slice(0, 12) }] } },
    ]),
  )
  expect(few.document.querySelectorAll('label.filter')).toEqual([])
  const { document, window } = opened()
  const details = document.querySelectorAll('details')
  const before = details.map((d) => d.open)
  window.dispatch('beforeprint')
  for (const d of details) if (d.matches('.layer')) expect(d.open).toBe(true)
  window.dispatch('afterprint')
  expect(details.map((d) => d.open)).toEqual(before)
})
