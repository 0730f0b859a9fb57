import { attribute, compress, Initializer, Session, type Model, type Tensor } from '../lib'
import { foldConstantNodes } from '../lib/model'
import { KeepBudget } from '../lib/compress/computed'
import { removeUnits } from '../lib/compress/structure/apply'
import { structureOf } from '../lib/compress/structure/groups'
import { expectSame, floats, graph, int, ints, modelOf, theirs, type Step, type Values } from './graphs'
import { zeroed } from './oracle/structured'

/** Attention as PyTorch exports it with batch and length left open: sizes are read off values and computed with. */

const [hidden, heads, depth] = [24, 6, 4]
const ofInts = (...v: number[]) => attribute.ints(v)
const weights: Values = {
  wq: floats([hidden, hidden], 1), wk: floats([hidden, hidden], 2), wv: floats([hidden, hidden], 3), wo: floats([hidden, hidden], 4), wqkv: floats([hidden, 3 * hidden], 5),
  bq: floats([hidden], 6), zero: int(0), one: int(1), two: int(2), h: int(heads), root: { type: 'float32', dims: [], data: Float32Array.of(2) }, at0: ints(0), at1: ints(1), at2: ints(2), rest: ints(-1), hs: ints(heads), ds: ints(depth), far: ints(2 ** 40), three: ints(3),
} // prettier-ignore
/** Size `axis` of x as a scalar, and as a list of one. */
const size = (of: string, axis: 'zero' | 'one' | 'two', as: string): Step[] => [['Shape', [of], [`${as}_s`]], ['Gather', [`${as}_s`, axis], [as]], ['Unsqueeze', [as, 'at0'], [`${as}_l`]]]
const concat = (parts: string[], y: string): Step => ['Concat', parts, [y], { axis: attribute.int(0) }]
const products: Step[] = [['MatMul', ['x', 'wq'], ['q0']], ['Add', ['bq', 'q0'], ['q']], ['MatMul', ['x', 'wk'], ['k']], ['MatMul', ['x', 'wv'], ['v']]]
const split = (list: string): Step[] => ['q', 'k', 'v'].flatMap((n): Step[] => [['Reshape', [n, list], [`${n}4`]], ['Transpose', [`${n}4`], [`${n}h`], { perm: n === 'k' ? ofInts(0, 2, 3, 1) : ofInts(0, 2, 1, 3) }]])
const mixed: Step[] = [['MatMul', ['qh', 'kh'], ['e']], ['Div', ['e', 'root'], ['f']], ['Softmax', ['f'], ['g'], { axis: attribute.int(-1) }], ['MatMul', ['g', 'vh'], ['m']], ['Transpose', ['m'], ['n'], { perm: ofInts(0, 2, 1, 3) }]]
const out: Step[] = [['MatMul', ['j', 'wo'], ['o']], ['Add', ['x', 'o'], ['y']]]

/** `x.view(b, t, heads, c // heads)`, `y.view(b, t, c)`: the width of the residual stream is what the heads are put together to. */
const computed: Step[] = [
  ...size('x', 'zero', 'b'), ...size('x', 'one', 't'), ...size('x', 'two', 'c'), ...products,
  ['Div', ['c', 'h'], ['d']], ['Unsqueeze', ['d', 'at0'], ['d_l']],
  concat(['b_l', 't_l', 'hs', 'd_l'], 'list'), ...split('list'), ...mixed, concat(['b_l', 't_l', 'c_l'], 'back'), ['Reshape', ['n', 'back'], ['j']], ...out,
] // prettier-ignore
/** `(*q.shape[:-1], -1, depth)` and `reshape(*x.shape[:-1], -1)`. */
const left: Step[] = [
  ['Shape', ['x'], ['s']], ['Slice', ['s', 'at0', 'rest'], ['lead']], ...products,
  concat(['lead', 'rest', 'ds'], 'list'), ...split('list'), ...mixed, concat(['lead', 'rest'], 'back'), ['Reshape', ['n', 'back'], ['j']], ...out,
] // prettier-ignore
/** Batch and heads as one axis: their product is a target of reshapes. */
const merged: Step[] = [
  ...size('x', 'zero', 'b'), ...size('x', 'one', 't'), ...products, concat(['b_l', 't_l', 'hs', 'ds'], 'list'), ...split('list'),
  ['Mul', ['b', 'h'], ['bh']], ['Reshape', ['bh', 'rest'], ['bh_l']], concat(['bh_l', 't_l', 'ds'], 'flat'), concat(['bh_l', 'ds', 't_l'], 'flatk'), concat(['b_l', 'hs', 't_l', 'ds'], 'apart'),
  ['Reshape', ['qh', 'flat'], ['q3']], ['Reshape', ['kh', 'flatk'], ['k3']], ['Reshape', ['vh', 'flat'], ['v3']],
  ['MatMul', ['q3', 'k3'], ['e']], ['Softmax', ['e'], ['g'], { axis: attribute.int(-1) }], ['MatMul', ['g', 'v3'], ['m3']],
  ['Reshape', ['m3', 'apart'], ['m']], ['Transpose', ['m'], ['n'], { perm: ofInts(0, 2, 1, 3) }], concat(['b_l', 't_l', 'rest'], 'back'), ['Reshape', ['n', 'back'], ['j']], ...out,
] // prettier-ignore
/** A mask brought to the size of the scores, behind the exporter's guard against −1, as `expand_as` is written. */
const masked: Step[] = [
  ...size('x', 'zero', 'b'), ...products, concat(['b_l', 'rest', 'hs', 'ds'], 'list'), ...split('list'),
  ['MatMul', ['qh', 'kh'], ['e']], ['Shape', ['e'], ['es']], ['Shape', ['es'], ['ess']],
  ['ConstantOfShape', ['ess'], ['ones'], { value: attribute.tensor(Initializer.from('', ints(1))) }],
  ['Mul', ['ones', 'rest'], ['minus']], ['Equal', ['es', 'minus'], ['open']], ['Where', ['open', 'ones', 'es'], ['sized']],
  ['ReduceSum', ['x', 'at2'], ['rows'], { keepdims: attribute.int(0) }], ['Unsqueeze', ['rows', 'inner'], ['row4']], ['Expand', ['row4', 'sized'], ['mask']],
  ['Add', ['e', 'mask'], ['f']], ['Softmax', ['f'], ['g'], { axis: attribute.int(-1) }], ['MatMul', ['g', 'vh'], ['m']], ['Transpose', ['m'], ['n'], { perm: ofInts(0, 2, 1, 3) }],
  concat(['b_l', 'rest', 'width'], 'back'), ['Reshape', ['n', 'back'], ['j']], ...out,
] // prettier-ignore
/** One product for all three, `reshape(b, n, 3, heads, c // heads).permute(2, 0, 3, 1, 4)`. */
const packed: Step[] = [
  ...size('x', 'zero', 'b'), ...size('x', 'one', 't'), ...size('x', 'two', 'c'), ['MatMul', ['x', 'wqkv'], ['a']], ['Div', ['c', 'h'], ['d']], ['Unsqueeze', ['d', 'at0'], ['d_l']],
  concat(['b_l', 't_l', 'three', 'hs', 'd_l'], 'list'), ['Reshape', ['a', 'list'], ['a5']], ['Transpose', ['a5'], ['a3'], { perm: ofInts(2, 0, 3, 1, 4) }],
  ['Gather', ['a3', 'zero'], ['qh']], ['Gather', ['a3', 'one'], ['kt']], ['Gather', ['a3', 'two'], ['vh']], ['Transpose', ['kt'], ['kh'], { perm: ofInts(0, 1, 3, 2) }],
  ...mixed, concat(['b_l', 't_l', 'c_l'], 'back'), ['Reshape', ['n', 'back'], ['j']], ...out,
] // prettier-ignore

/** `nn.MultiheadAttention` on [length, batch, width]: batch and heads are regrouped into one axis, and apart again, on either side. */
const regrouped: Step[] = [
  ...size('x', 'zero', 't'), ...size('x', 'one', 'b'), ...products, ['Mul', ['b', 'h'], ['bh']], ['Unsqueeze', ['bh', 'at0'], ['bh_l']], concat(['t_l', 'bh_l', 'ds'], 'list'),
  ...['q', 'k', 'v'].flatMap((n): Step[] => [['Reshape', [n, 'list'], [`${n}3`]], ['Transpose', [`${n}3`], [`${n}h`], { perm: n === 'k' ? ofInts(1, 2, 0) : ofInts(1, 0, 2) }]]),
  concat(['b_l', 'hs', 't_l', 'ds'], 'apart'), concat(['rest', 't_l', 'ds'], 'flat'),
  ['Reshape', ['qh', 'apart'], ['q4']], ['Reshape', ['q4', 'flat'], ['q5']],
  ['MatMul', ['q5', 'kh'], ['e']], ['Div', ['e', 'root'], ['f']], ['Softmax', ['f'], ['g'], { axis: attribute.int(-1) }], ['MatMul', ['g', 'vh'], ['m']], ['Transpose', ['m'], ['n'], { perm: ofInts(1, 0, 2) }],
  concat(['t_l', 'b_l', 'width'], 'back'), ['Reshape', ['n', 'back'], ['j']], ...out,
] // prettier-ignore

/** Two layers in a row with the same weights, as exports of layers that were copied and not yet trained share them. */
const tied = (steps: readonly Step[]): Step[] =>
  ['x', 'x2'].flatMap((from, i) => {
    const known = new Set([...Object.keys(weights), 'inner', 'width'])
    const named = (n: string): string => (n === 'x' ? from : n === 'y' ? ['x2', 'y'][i]! : known.has(n) ? n : `${n}_${i}`)
    return steps.map(([op, inputs, outputs, attributes]): Step => [op, inputs.map(named), outputs.map(named), ...(attributes ? [attributes] : [])] as unknown as Step)
  })

const netOf = (steps: readonly Step[], opset = 17): Model => {
  const model = modelOf(graph([['x', 'float32', ['batch', 'length', hidden]]], { ...weights, inner: ints(1, 2), width: ints(hidden) }, steps, ['y']), opset)
  model.graph.removeDeadInitializers()
  return model
}
const feeds = [[2, 5], [1, 1], [3, 9]].map(([b, t]): { x: Tensor } => ({ x: floats([b!, t!, hidden], 7 + b!) }))

test.each<[string, readonly Step[], string]>([
  ['computed from the width of the stream', computed, 'head 6x4'],
  ['left to the reshape', left, 'head 6x4'],
  ['merged with the batch', merged, 'head 6x4'],
  ['compared with a mask of their size', masked, 'head 6x4'],
  ['packed with queries, keys and values', packed, 'head 6x12'],
  ['regrouped with a batch that comes second', regrouped, 'head 6x4'],
  ['packed, in two layers with the same weights,', tied(packed), 'head 6x12'],
])('heads whose number is %s can go, and what is left is right for every batch and length', async (_, steps, want) => {
  for (const opset of [14, 20]) {
    const model = netOf(steps, opset)
    foldConstantNodes(model)
    const structure = structureOf(model)
    expect(structure.groups.map((g) => `${g.kind} ${g.units}x${g.width}`)).toEqual([want])
    const group = structure.groups[0]!
    const units = [1, 4]
    const small = model.clone()
    expect(removeUnits(small, structure, [{ group, units }], new KeepBudget())).toEqual(new Map())
    expect(small.summary().parameters).toBeLessThan(0.75 * model.summary().parameters)
    const oracle = zeroed(model, group.members.filter((m) => m.role === 'input').map((m) => ({ tensor: m.tensor, axis: m.axis, indices: units.flatMap((u) => Array.from(m.indices.slice(u * m.per, (u + 1) * m.per))) })))
    const session = await Session.create(small, { threads: 1 })
    for (const feed of feeds) {
      const { y } = await theirs(oracle, feed)
      expectSame((await theirs(small, feed))['y'], y)
      expectSame((await session.run(feed))['y'], y)
    }
    session.dispose()
  }
})

test('the prune step takes them out, once for each target size, and again out of what it made', async () => {
  const step = { step: 'prune', structure: 'head', criterion: 'l2', sparsity: 0.34 } as const
  const { model } = await compress(netOf(merged), { steps: [step] })
  expect(model.graph.initializers.get('wo')!.dims).toEqual([16, hidden])
  const { model: again } = await compress(model, { steps: [{ ...step, sparsity: 0.5 }] })
  expect(again.graph.initializers.get('wo')!.dims).toEqual([8, hidden])
  const session = await Session.create(again)
  for (const feed of feeds) expectSame((await session.run(feed))['y'], (await theirs(again, feed))['y'])
})

test('a length that the exporter wrote into an open model is found, so that its heads can go', async () => {
  // torch takes that of the keys from the example that it is shown.
  const written = regrouped.map((s): Step => (s[0] === 'Concat' && s[2][0] === 'list' ? concat(['eleven', 'bh_l', 'ds'], 'list') : s))
  const model = modelOf(graph([['x', 'float32', ['length', 'batch', hidden]]], { ...weights, width: ints(hidden), eleven: ints(11) }, written, ['y']))
  const { model: small } = await compress(model, { steps: [{ step: 'prune', structure: 'head', sparsity: 0.5 }] })
  expect(small.graph.initializers.get('wo')!.dims).toEqual([12, hidden])
  const x = floats([11, 2, hidden], 3)
  expectSame((await (await Session.create(small)).run({ x })).y, (await theirs(small, { x })).y)
})
