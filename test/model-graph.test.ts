import { attribute, checkGraph, contentHash, foldConstantNodes, Graph, Initializer, Model, Node, ValueInfo } from '../lib/model'
import { blob, cat, floats, graph, int, kType, model, node, tensor, value, type Part } from './oracle/proto'

const f32 = (name: string, ...values: number[]): Initializer =>
  Initializer.from(name, { type: 'float32', dims: [values.length], data: Float32Array.from(values) })
const op = (opType: string, inputs: string[], outputs: string[]): Node => new Node({ opType, inputs, outputs, name: `${opType}_${outputs[0]}` })

/** x → a → b, and a branch that reads a and w from outside and hides v. */
function sample(): { g: Graph; inner: Graph; a: Node; b: Node; branch: Node } {
  const inner = new Graph('inner')
  inner.setNodes([op('Add', ['a', 'w'], ['s']), op('Mul', ['s', 'v'], ['t'])])
  inner.addInitializer(f32('v', 9))
  inner.outputs = [new ValueInfo('t', 'float32', null)]
  const g = new Graph('g')
  g.inputs = [new ValueInfo('x', 'float32', ['n']), new ValueInfo('c', 'bool', [])]
  g.outputs = [new ValueInfo('b', 'float32', null), new ValueInfo('o', 'float32', null)]
  g.addInitializer(f32('w', 1))
  g.addInitializer(f32('v', 2))
  const a = g.addNode(op('Add', ['x', 'w'], ['a']))
  const b = g.addNode(op('Mul', ['a', 'v'], ['b']))
  const branch = g.addNode(new Node({ opType: 'If', inputs: ['c'], outputs: ['o'], attributes: { then_branch: attribute.graph(inner) } }))
  return { g, inner, a, b, branch }
}
const wrong = (f: () => unknown, code = 'ERR_RANGE'): void =>
  expect(f).toThrow(expect.objectContaining({ name: 'WhittleError', code }))

test('makers and readers are found, through subgraphs too', () => {
  const { g, inner, a, b, branch } = sample()
  expect(g.producer('a')).toBe(a)
  expect(g.producer('x')).toBeUndefined()
  expect(g.users('a')).toEqual([b, branch])
  expect(g.users('w')).toEqual([a, branch])
  expect(g.users('v')).toEqual([b])
  expect(inner.constant('w')!.readSync().data[0]).toBe(1)
  expect(inner.constant('v')!.readSync().data[0]).toBe(9)
  expect(inner.constant('a')).toBeUndefined()
  expect(inner.root).toBe(g)
})

test('uses are replaced in branches, but not where the name is hidden', () => {
  const { g, inner, a, b } = sample()
  g.addInitializer(f32('n', 3))
  expect(g.replaceUses('v', 'n')).toBe(1)
  expect(inner.nodes[1]!.inputs).toEqual(['s', 'v'])
  expect(g.replaceUses('w', 'n', { in: [a] })).toBe(1)
  expect(g.users('w')).toHaveLength(1)
  expect(g.replaceUses('a', 'n')).toBe(2)
  expect([b.inputs, inner.nodes[0]!.inputs]).toEqual([['n', 'n'], ['n', 'w']])
  expect(g.outputs.map((o) => o.name)).toEqual(['b', 'o'])
})

test('a branch that hands out a value from outside follows when that is replaced', () => {
  const { g, inner } = sample()
  inner.outputs = [new ValueInfo('a', 'float32', null)]
  g.addInitializer(f32('n', 3))
  g.replaceUses('a', 'n')
  expect(inner.outputs[0]!.name).toBe('n')
})

test('a long dead chain goes in one go, what something else reads and what is not among stays', () => {
  const chain = (): { g: Graph; nodes: Node[] } => {
    const g = new Graph('chain')
    g.inputs = [new ValueInfo('v0', 'float32', [1])]
    const nodes = Array.from({ length: 50 }, (_, i) => new Node({ opType: 'Relu', inputs: [`v${i}`], outputs: [`v${i + 1}`] }))
    g.setNodes(nodes)
    g.outputs = [new ValueInfo('v9', 'float32', [1])]
    return { g, nodes }
  }
  const all = chain()
  const set = jest.spyOn(all.g, 'setNodes')
  expect(all.g.removeDeadNodes()).toEqual(all.nodes.slice(9).reverse())
  expect(set).toHaveBeenCalledTimes(1)
  expect(all.g.nodes).toEqual(all.nodes.slice(0, 9))
  const some = chain()
  expect(some.g.removeDeadNodes(new Set(some.nodes.slice(30)))).toHaveLength(20)
  expect(some.g.nodes).toHaveLength(30)
})

test('what nobody reads is dropped, what a branch reads stays', () => {
  const { g, b } = sample()
  g.addInitializer(f32('unused', 3))
  expect(g.removeDeadInitializers()).toEqual(['unused'])
  g.outputs = g.outputs.filter((o) => o.name !== 'b')
  expect(g.removeDeadNodes()).toEqual([b])
  expect(g.removeDeadInitializers()).toEqual(['v'])
})

test('new names are new in the whole model', () => {
  const { g, inner } = sample()
  expect(g.uniqueName('t')).toBe('t_1')
  expect(inner.uniqueName('t')).toBe('t_2')
  expect(inner.uniqueName('x')).toBe('x_1')
  expect(g.uniqueName('fresh')).toBe('fresh')
  expect(g.uniqueName('fresh')).toBe('fresh_1')
})

test('a clone is edited without the original noticing', () => {
  const { g } = sample()
  const copy = g.clone()
  copy.nodes[2]!.subgraphs()[0]!.nodes[0]!.opType = 'Sub'
  copy.setInitializer('w', f32('other', 5, 6))
  copy.removeNode(copy.nodes[1]!)
  expect(g.nodes).toHaveLength(3)
  expect(g.nodes[2]!.subgraphs()[0]!.nodes[0]!.opType).toBe('Add')
  expect(g.initializers.get('w')!.dims).toEqual([1])
  expect(copy.nodes[1]!.subgraphs()[0]!.parent).toBe(copy)
})

test('nodes are sorted as near to their order as can be, and circles are named', () => {
  const { g, a, b, branch } = sample()
  g.setNodes([branch, b, a])
  expect(g.topologicalOrder()).toEqual([a, branch, b])
  g.sort()
  expect(g.nodes).toEqual([a, branch, b])
  a.setInput(0, 'b')
  wrong(() => g.sort(), 'ERR_MODEL_FORMAT')
  expect(() => checkGraph(g)).toThrow(/Add_a|Mul_b/)
})

test('a chain of 20000 nodes is sorted without running out of stack', () => {
  const g = new Graph()
  g.inputs = [new ValueInfo('v0', 'float32', null)]
  g.setNodes(Array.from({ length: 20000 }, (_, i) => op('Relu', [`v${i}`], [`v${i + 1}`])).reverse())
  expect(g.topologicalOrder()[0]!.inputs).toEqual(['v0'])
})

test('edits that would break the graph are refused', () => {
  const { g, a } = sample()
  wrong(() => g.addNode(op('Relu', ['x'], ['a'])))
  wrong(() => g.addNode(a))
  wrong(() => g.addInitializer(f32('x', 1)))
  wrong(() => g.addInitializer(f32('w', 1)))
  wrong(() => g.setInitializer('nobody', f32('w', 1)))
  wrong(() => g.initializers.set('p', f32('q', 1)))
  wrong(() => g.removeNode(op('Relu', [], [])))
  wrong(() => g.addNode(op('Relu', [], ['r']), { before: op('Relu', [], []) }))
  wrong(() => Initializer.from('t', { type: 'float32', dims: [3], data: new Float32Array(2) }), 'ERR_SHAPE')
  expect(() => (a.inputs as string[]).push('x')).toThrow(/not extensible/)
})

test('nodes may be added while a loop goes over them', () => {
  const { g } = sample()
  for (const n of g.nodes) g.addNode(op('Identity', [n.outputs[0]!], [g.uniqueName('copy')]), { before: n })
  expect(g.nodes).toHaveLength(6)
})

test('new weights bring their annotations up to date', () => {
  const { g } = sample()
  g.valueInfo.set('w', new ValueInfo('w', 'float32', [1]))
  g.setInitializer('w', { type: 'int8', dims: [2, 2], data: new Int8Array(4) })
  expect(g.valueInfo.get('w')).toMatchObject({ type: 'int8', dims: [2, 2] })
})

test('a model that was made is written as onnx reads it', async () => {
  const { g } = sample()
  const m = new Model({ graph: g, opsets: [['', 13]], irVersion: 8, metadata: [['k', 'v']] })
  const back = await Model.load(m.toBytes())
  expect(back.summary()).toEqual(m.summary())
  expect(back.graph.users('w')).toHaveLength(2)
  expect(back.metadata.get('k')).toBe('v')
  expect(back.inputs[0]!.dims).toEqual(['n'])
})

describe('Constant nodes', () => {
  const branch = graph({
    nodes: [node('Constant', [], ['k'], { value: { tensor: floats('', [1], [4]) } }), node('Add', ['x', 'k'], ['t'])],
    outputs: [value('t')],
  })
  const direct = graph({ nodes: [node('Constant', [], ['u'], { value_float: { float: 5 } })], outputs: [value('u')] })
  const kinds: Part[] = [
    node('Constant', [], ['tensor'], { value: { tensor: tensor({ name: 'old', type: kType.float, dims: [1], data: [blob(4, new Uint8Array(Float32Array.of(7).buffer)), blob(12, 'doc')] }) } }),
    node('Constant', [], ['float'], { value_float: { float: 1.5 } }),
    node('Constant', [], ['floats'], { value_floats: { floats: [1, 2] } }),
    node('Constant', [], ['int'], { value_int: { int: -(2n ** 62n) } }),
    node('Constant', [], ['ints'], { value_ints: { ints: [1, 2, 3] } }),
    node('Constant', [], ['text'], { value_string: { string: 's' } }),
    node('Constant', [], ['strings'], { value: { tensor: tensor({ type: kType.string, dims: [1], data: [blob(6, 'a')] }) } }),
    node('Constant', [], ['out'], { value_float: { float: 3 } }),
    node('If', ['c'], ['o'], { then_branch: { graph: branch }, else_branch: { graph: direct } }),
  ]
  const source = model({ nodes: kinds, inputs: [value('x', kType.float, [1]), value('c', kType.bool, [])], outputs: [value('out'), value('o')] }, 13, 3)

  test('become initializers of every kind, in branches too, and stay where they must', async () => {
    const m = await Model.load(source)
    expect(foldConstantNodes(m)).toBe(6)
    expect(m.irVersion).toBe(4)
    const read = (name: string): unknown => {
      const { type, dims, data } = m.initializers.get(name)!.readSync()
      return [type, dims, ...(data as Iterable<unknown>)]
    }
    expect(read('tensor')).toEqual(['float32', [1], 7])
    expect(read('float')).toEqual(['float32', [], 1.5])
    expect(read('floats')).toEqual(['float32', [2], 1, 2])
    expect(read('int')).toEqual(['int64', [], -(2n ** 62n)])
    expect(read('ints')).toEqual(['int64', [3], 1n, 2n, 3n])
    expect(m.nodes.map((n) => n.outputs[0])).toEqual(['text', 'strings', 'out', 'o'])
    expect(m.graph.graphs().map((g) => g.initializers.size)).toEqual([5, 1, 0])
    m.check()
    // The data keeps its encoding, and what else the tensor's message held.
    const renamed = cat(int(1, 1), int(2, kType.float), blob(8, 'tensor'), blob(4, new Uint8Array(Float32Array.of(7).buffer)), blob(12, 'doc'))
    expect(Buffer.from(m.toBytes()).includes(Buffer.from(blob(5, renamed)))).toBe(true)
    expect(foldConstantNodes(await Model.load(m.toBytes()))).toBe(0)
  })

  test('a model without any is left alone', async () => {
    const plain = model({ nodes: [node('Relu', ['x'], ['y'])], inputs: [value('x')] }, 9, 3)
    const m = await Model.load(plain)
    expect(foldConstantNodes(m)).toBe(0)
    expect(m.irVersion).toBe(3)
    expect(Buffer.compare(m.toBytes(), plain)).toBe(0)
  })

  test('one with two values, or none, is ERR_MODEL_FORMAT', async () => {
    for (const attributes of [{}, { value_int: { int: 1 }, value_float: { float: 1 } }]) {
      const m = await Model.load(model({ nodes: [node('Constant', [], ['k'], attributes)] }))
      wrong(() => foldConstantNodes(m), 'ERR_MODEL_FORMAT')
    }
  })
})

test('equal content has one digest, whatever its encoding; other dims or types have another', async () => {
  const m = await Model.load(
    model({
      initializers: [
        floats('a', [2], [1, 2]),
        tensor({ name: 'b', type: kType.float, dims: [2], data: [blob(4, new Uint8Array(Float32Array.of(1, 2).buffer))] }),
        floats('c', [1, 2], [1, 2]),
        floats('d', [2], [1, 3]),
        tensor({ name: 'e', type: kType.int32, dims: [2], data: [blob(9, new Uint8Array(Float32Array.of(1, 2).buffer))] }),
      ],
    }),
  )
  const hashes = await Promise.all([...m.initializers.values()].map((t) => contentHash(t)))
  expect(hashes[0]).toBe(hashes[1])
  expect(new Set(hashes).size).toBe(4)
})
