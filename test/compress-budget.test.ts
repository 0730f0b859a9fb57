import { compress, type Recipe } from '../lib/compress'
import { allot, type Shared } from '../lib/compress/factorize/budget'
import { floats, graph, modelOf } from './graphs'
import { failure } from './nets'

const numbersOf = ({ rows, columns }: Shared, given: number | 'whole'): number =>
  given === 'whole' ? rows * columns : given * (rows + columns)

/** Sum over layers of the share of the squared norm that is lost. */
function lossOf(layers: readonly Shared[], given: readonly (number | 'whole')[]): number {
  return layers.reduce((sum, { spectrum }, i) => {
    const squares = Array.from(spectrum, (s) => s * s)
    const all = squares.reduce((a, b) => a + b, 0)
    const kept = given[i] === 'whole' ? all : squares.slice(0, given[i] as number).reduce((a, b) => a + b, 0)
    return sum + (all > 0 ? (all - kept) / all : 0)
  }, 0)
}

/** The least loss of all ways to deal out a budget, by trying them. */
function leastLoss(layers: readonly Shared[], budget: number, given: (number | 'whole')[] = []): number {
  if (given.length === layers.length) return lossOf(layers, given)
  const layer = layers[given.length]!
  const most = Math.ceil((layer.rows * layer.columns) / (layer.rows + layer.columns)) - 1
  let best = Infinity
  const rest = layers.slice(given.length + 1).reduce((n, l) => n + l.rows + l.columns, 0)
  for (const one of [...Array.from({ length: Math.max(0, most) }, (_, i) => i + 1), 'whole' as const]) {
    const used = [...given, one].reduce<number>((n, g, i) => n + numbersOf(layers[i]!, g), 0)
    if (used + rest <= budget) best = Math.min(best, leastLoss(layers, budget, [...given, one]))
  }
  return best
}

const falling = (count: number, power: number): number[] => Array.from({ length: count }, (_, i) => (i + 1) ** -power)

test('a budget goes where it saves most, near the best of all ways', () => {
  const layers = [
    { rows: 12, columns: 12, spectrum: falling(12, 0.3) },
    { rows: 16, columns: 8, spectrum: falling(8, 2) },
    { rows: 10, columns: 20, spectrum: falling(10, 1) },
  ]
  const all = layers.reduce((n, l) => n + l.rows * l.columns, 0)
  for (const share of [0.3, 0.4, 0.5, 0.6, 0.75, 0.9]) {
    const given = allot(layers, share)
    expect(given.reduce<number>((n, g, i) => n + numbersOf(layers[i]!, g), 0)).toBeLessThanOrEqual(share * all)
    // One step of a layer is the most that greed can miss.
    expect(lossOf(layers, given)).toBeLessThanOrEqual(leastLoss(layers, share * all) + 0.12)
  }
  expect(allot(layers, 1)).toEqual(['whole', 'whole', 'whole'])
  expect(allot(layers, 0.01)).toEqual([1, 1, 1])
})

test('layers without anything, or too small to save by, are dealt with', () => {
  expect(
    allot(
      [
        { rows: 4, columns: 4, spectrum: [0, 0, 0, 0] },
        { rows: 1, columns: 9, spectrum: [3] },
      ],
      0.9,
    ),
  ).toEqual([1, 'whole'])
  expect(allot([], 0.5)).toEqual([])
})

function twoLayers() {
  const [plain, noise] = [floats([48, 48], 5), floats([48, 48], 6)]
  // Nearly rank 2.
  const data = (noise.data as Float32Array).map(
    (v, i) =>
      0.001 * v +
      Math.sin(Math.floor(i / 48)) * Math.cos(i % 48) +
      ((i % 48) - 20) * Math.cos(Math.floor(i / 48)) * 0.05,
  )
  return modelOf(
    graph(
      [['x', 'float32', [3, 48]]],
      { w1: plain, w2: { ...noise, data } },
      [
        ['MatMul', ['x', 'w1'], ['a']],
        ['Relu', ['a'], ['b']],
        ['MatMul', ['b', 'w2'], ['y']],
      ],
      ['y'],
    ),
  )
}

test('compress deals a budget out over layers: one that needs all keeps it', async () => {
  const { report } = await compress(twoLayers(), { steps: [{ step: 'factorize', budget: 0.6 }] })
  const [first, second] = report.steps[0]!.layers
  // The rest has so little that crumbs of the budget end there.
  expect(second!.ranks![0]).toBeGreaterThanOrEqual(2)
  expect(second!.ranks![0]).toBeLessThan(8)
  expect([first!.action, first!.reason]).toEqual(['kept', 'the budget leaves it whole'])
  expect(first!.bytesAfter + second!.bytesAfter).toBeLessThanOrEqual(0.6 * 2 * 48 * 48 * 4)
  const again = await compress(twoLayers(), report.recipe as Recipe)
  expect(again.report.steps[0]!.layers).toEqual(report.steps[0]!.layers)
})

test('a budget beside another rule, method or weighting is refused', async () => {
  for (const [budget, more] of [
    [0.5, { rank: 3 }],
    [0.5, { method: 'tucker' }],
    [0.5, { weighting: 'inputs' }],
    [0, {}],
    [1.5, {}],
  ] as const) {
    const { code, parameter } = await failure(() =>
      compress(twoLayers(), { steps: [{ step: 'factorize', budget, ...more }] }),
    )
    expect([code, parameter]).toEqual(['ERR_RANGE', 'recipe.steps[0].budget'])
  }
})
