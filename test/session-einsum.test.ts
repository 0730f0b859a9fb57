import { compress, Session } from '../lib'
import { agree, attribute, floats, graph, modelOf, type Input, type Step, type Values } from './graphs'

const equation = (text: string): Record<string, ReturnType<typeof attribute.string>> => ({ equation: attribute.string(text) })
const kSizes: Readonly<Record<string, number>> = { a: 2, b: 3, c: 4, d: 5, h: 2, i: 6, j: 7, k: 3, q: 5 }

/** A model of one Einsum, whose operands are inputs with the sizes of their letters; `...` is two axes. */
function model(text: string, symbolic: boolean): { readonly of: ReturnType<typeof modelOf>; readonly feeds: Values } {
  const terms = (text.split('->')[0] as string).replace(/ /g, '').split(',')
  const sizes = terms.map((t) => t.split('...').flatMap((piece, i) => [...(i > 0 ? [3, 2] : []), ...[...piece].map((c) => kSizes[c] as number)]))
  const inputs = terms.map((_, i): Input => [`x${i}`, 'float32', (sizes[i] as number[]).map((n, k) => (symbolic ? `n${i}_${k}` : n))])
  const step: Step = ['Einsum', inputs.map(([name]) => name), ['y'], equation(text)]
  return { of: modelOf(graph(inputs, {}, [step], ['y'])), feeds: Object.fromEntries(sizes.map((dims, i) => [`x${i}`, floats(dims, i + 1)])) }
}

const products = [
  'ij,jk->ik', 'ij,kj->ki', 'bij,bjk->bik', 'bhqd,bhkd->bhqk', 'bhqk,bhkd->bqhd', 'bqhd,bkhd->bhqk', 'bhqc,hkc->bhqk', 'bqc,bchj->bqhj', 'bchj,bqc->bqhj',
  'i,j->ij', 'i,i->', 'ij,ij->', 'ij,j->i', 'j,ij->i', 'abc,abc->abc', 'abc,cb->a', 'abcd,cdj->abj', 'abcd,cdij->baji', 'ab,cd->dbca', 'abc,bd->ad', 'aij,bjc->ic',
  'abi,icd->abcd', 'ij->ji', 'ij->i', 'ij->', 'ab,bc,cd->ad', 'ab,bc,cd->da', 'abc,abd,abi->cdi', 'a,b,c->cab',
  '...ij,...jk->...ik', '...i,ij->...j', 'i...,i...->...', 'b...,b->b...', 'ij,jk', 'ba,c',
] // prettier-ignore

describe.each(products)('Einsum %s', (text) => {
  test('agrees, and runs on kernels', async () => {
    const { of, feeds } = model(text, false)
    await agree(of, feeds)
    const session = await Session.create(of, { threads: 1 })
    const { steps } = session.plan(Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, t.dims])))
    expect(steps).not.toHaveLength(0)
    session.dispose()
  })

  test('agrees where sizes are known at a run only', async () => {
    const { of, feeds } = model(text, true)
    await agree(of, feeds)
  })
})

test.each(['ii->i', 'iij,j->i'])('%s, which is no product of matrices, agrees', async (text) => {
  const x = text.startsWith('iij') ? [6, 6, 7] : [6, 6]
  const two = text.includes(',')
  const inputs: Input[] = [['x', 'float32', x], ...(two ? [['z', 'float32', [7]] as Input] : [])]
  await agree(modelOf(graph(inputs, {}, [['Einsum', inputs.map(([n]) => n), ['y'], equation(text)]], ['y'])), { x: floats(x), ...(two ? { z: floats([7], 2) } : {}) })
})

test('axes of size 1 repeat', async () => {
  const inputs: Input[] = [['x', 'float32', [1, 4, 5]], ['z', 'float32', [3, 5, 2]]]
  await agree(modelOf(graph(inputs, {}, [['Einsum', ['x', 'z'], ['y'], equation('bij,bjk->bik')]], ['y'])), { x: floats([1, 4, 5]), z: floats([3, 5, 2], 2) })
})

test('a layer of Keras is a product with packed weights, and compress takes it as one', async () => {
  const steps: Step[] = [['Einsum', ['x', 'w'], ['p'], equation('abc,cde->abde')], ['Add', ['p', 'bias'], ['s']], ['Einsum', ['s', 'v'], ['y'], equation('abde,dec->abc')]]
  const of = modelOf(graph([['x', 'float32', ['n', 'm', 32]]], { w: floats([32, 4, 8]), v: floats([4, 8, 32], 2), bias: floats([4, 8], 3) }, steps, ['y']))
  const feeds = { x: floats([2, 5, 32], 4) }
  await agree(of, feeds)
  const session = await Session.create(of, { threads: 1 })
  expect(session.plan({ x: [2, 5, 32] }).weightBytes).toBeGreaterThan(2 * 32 * 32 * 4 - 1)
  session.dispose()
  const { model: small } = await compress(of, { steps: [{ step: 'fold' }, { step: 'quantize', bits: 8 }] }, {})
  expect(small.toBytes().length).toBeLessThan(0.6 * of.toBytes().length)
  await agree(small, feeds)
})

test('attention written with Einsum is one step', async () => {
  const steps: Step[] = [
    ['Einsum', ['q', 'k'], ['s'], equation('aecd,abcd->acbe')], ['Softmax', ['s'], ['p'], { axis: attribute.int(-1) }], ['Einsum', ['p', 'v'], ['y'], equation('acbe,aecd->abcd')],
  ] // prettier-ignore
  const dims = ['n', 'm', 4, 8]
  const of = modelOf(graph([['q', 'float32', dims], ['k', 'float32', dims], ['v', 'float32', dims]], {}, steps, ['y']))
  const feeds = { q: floats([2, 6, 4, 8]), k: floats([2, 6, 4, 8], 2), v: floats([2, 6, 4, 8], 3) }
  await agree(of, feeds)
  const session = await Session.create(of, { threads: 1 })
  expect(session.plan({ q: [2, 6, 4, 8], k: [2, 6, 4, 8], v: [2, 6, 4, 8] }).steps.map((s) => s.op)).toContain('attention')
  session.dispose()
})

test.each([
  ['ij,jk->ik', [[2, 3], [4, 5]]],
  ['ij->ijk', [[2, 3]]],
  ['ij,j', [[2, 3]]],
  ['i2->i', [[2, 3]]],
] as const)('%s of %j is refused by name', async (text, dims) => {
  const inputs = dims.map((d, i): Input => [`x${i}`, 'float32', d])
  const run = async (): Promise<void> => {
    const session = await Session.create(modelOf(graph(inputs, {}, [['Einsum', inputs.map(([n]) => n), ['y'], equation(text)]], ['y'])))
    await session.run(Object.fromEntries(dims.map((d, i) => [`x${i}`, floats(d)])))
  }
  await expect(run()).rejects.toMatchObject({ name: 'WhittleError', message: expect.stringMatching(/Einsum/) as string })
})
