import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { Session, type Model } from '../lib'
import { attribute, bool, expectSame, floats, graph, ints, modelOf, theirs, type Step, type Values } from './graphs'

const { int } = attribute
const fallback = { fallback: 'onnxruntime', threads: 1 } as const

/** What plan() tells of onnxruntime. */
function parts(session: Session, feeds: Values): readonly string[] {
  return session.plan(feeds).steps.flatMap((s) => (s.op === 'onnxruntime' ? [s.node] : []))
}

async function agree(model: Model, feeds: Values, want: readonly string[]): Promise<Session> {
  const session = await Session.create(model, fallback)
  const expected = await theirs(model, feeds)
  for (let turn = 0; turn < 2; turn++) {
    const got = await session.run(feeds)
    for (const [name, t] of Object.entries(expected)) expectSame(got[name], t)
  }
  expect([...parts(session, feeds)].sort()).toEqual([...want].sort())
  return session
}

const x = ['x', 'float32', [4, 4]] as const
const feeds = { x: floats([4, 4], 1) }

/** MatMul, then two of onnxruntime's own ops in a row, then native ones, then another of its own. */
const mixed: readonly Step[] = [
  ['MatMul', ['x', 'w'], ['a']],
  ['com.microsoft:BiasGelu', ['a', 'b'], ['c']],
  ['com.microsoft:Inverse', ['c'], ['d']],
  ['Add', ['d', 'a'], ['e']],
  ['Relu', ['e'], ['f']],
  ['com.microsoft:CDist', ['f', 'x'], ['g'], { metric: attribute.string('euclidean') }],
  ['MatMul', ['g', 'w'], ['y']],
]
const constants = { w: floats([4, 4], 2), b: floats([4], 3) }

test('without the option an op that sessions lack is refused by name and node', async () => {
  await expect(Session.create(modelOf(graph([x], constants, mixed, ['y'])))).rejects.toMatchObject({
    code: 'ERR_UNSUPPORTED_OP',
    parameter: 'BiasGelu1',
    message: expect.stringContaining('com.microsoft.BiasGelu') as string,
  })
})

test('what sessions lack runs in onnxruntime, neighbours as one part', async () => {
  const model = modelOf(graph([x], constants, mixed, ['y', 'd']))
  const session = await agree(model, feeds, ['BiasGelu1 + Inverse2', 'CDist5'])
  expect(session.plan(feeds).steps[0]).toMatchObject({ op: 'gemm', node: 'MatMul0' })
  // Values that are not inside of a part can be had; those before it without waiting.
  const some = await session.run(feeds, { fetch: ['f', 'a'] })
  expect(some['f']?.dims).toEqual([4, 4])
  expect(session.runSync(feeds, { fetch: ['a'] }).a?.dims).toEqual([4, 4])
  await expect(session.run(feeds, { fetch: ['c'] })).rejects.toMatchObject({ code: 'ERR_RANGE' })
})

test('runSync is an error by name where onnxruntime would be needed', async () => {
  const session = await Session.create(modelOf(graph([x], constants, mixed, ['y'])), fallback)
  expect(() => session.runSync(feeds)).toThrow(expect.objectContaining({ code: 'ERR_UNSUPPORTED_OP', parameter: 'BiasGelu1 + Inverse2', message: expect.stringContaining('use run') as string }))
})

test('nothing native lies inside of a part', async () => {
  // The way round through Neg must not be closed into the part.
  const steps: readonly Step[] = [
    ['com.microsoft:Inverse', ['x'], ['a']],
    ['Neg', ['a'], ['b']],
    ['com.microsoft:CDist', ['a', 'b'], ['y'], { metric: attribute.string('euclidean') }],
  ]
  await agree(modelOf(graph([x], {}, steps, ['y'])), feeds, ['Inverse0', 'CDist2'])
})

test('optionals stay inside of a part', async () => {
  const steps: readonly Step[] = [
    ['Relu', ['x'], ['r']],
    ['Optional', ['r'], ['s']],
    ['OptionalGetElement', ['s'], ['t']],
    ['Sigmoid', ['t'], ['y']],
  ]
  await agree(modelOf(graph([x], {}, steps, ['y'])), feeds, ['Optional1 + OptionalGetElement2'])
})

test('a branch and a loop with such an op go there whole', async () => {
  const inverse = graph([], {}, [['com.microsoft:BiasGelu', ['r', 'b'], ['i']]], ['i'])
  const same = graph([], {}, [['Identity', ['r'], ['i']]], ['i'])
  const body = graph(
    [['t', 'int64', []], ['go', 'bool', []], ['v', 'float32', [4, 4]]],
    {},
    [['com.microsoft:BiasGelu', ['v', 'b'], ['n']], ['Identity', ['go'], ['again']]],
    [['again', 'bool', []], ['n', 'float32', [4, 4]]],
  )
  const steps: readonly Step[] = [
    ['Softplus', ['x'], ['r']],
    ['If', ['p'], ['h'], { then_branch: attribute.graph(inverse), else_branch: attribute.graph(same) }],
    ['Tanh', ['h'], ['k']],
    ['Loop', ['three', 'p', 'k'], ['y'], { body: attribute.graph(body) }],
  ]
  const model = modelOf(graph([x, ['p', 'bool', []]], { three: ints(3), b: floats([4], 3) }, steps, ['y']))
  for (const p of [true, false]) await agree(model, { ...feeds, p: bool(p) }, ['If1', 'Loop3'])
})

test('a form that only planning finds unsupported goes there too', async () => {
  // A kernel for Gemm there is, but none for float64.
  const steps: readonly Step[] = [
    ['Cast', ['x'], ['d'], { to: int(11) }],
    ['Gemm', ['d', 'd'], ['m']],
    ['Cast', ['m'], ['y'], { to: int(1) }],
  ]
  const model = modelOf(graph([['x', 'float32', ['n', 'n']]], {}, steps, ['y']))
  await agree(model, feeds, ['Gemm1'])
  await agree(model, { x: floats([3, 3], 4) }, ['Gemm1'])
  const refused = await Session.create(model)
  await expect(refused.run(feeds)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_OP', parameter: 'Gemm1' })
})

test('a node whose form is too old to be carried over goes there', async () => {
  const body = graph([['s', 'float32', [4]], ['v', 'float32', [4]]], {}, [['Add', ['s', 'v'], ['t']], ['Identity', ['t'], ['o']]], [['t', 'float32', [4]], ['o', 'float32', [4]]])
  const steps: readonly Step[] = [
    ['Relu', ['x'], ['r']],
    ['Unsqueeze', ['r'], ['u'], { axes: attribute.ints([0]) }],
    ['Scan', ['', 'first', 'u'], ['last', 'y'], { body: attribute.graph(body), num_scan_inputs: int(1) }],
  ]
  const model = modelOf(graph([x], { first: floats([1, 4], 5) }, steps, ['y']), 8)
  await agree(model, feeds, ['Scan2'])
  await expect(Session.create(model)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_OP', parameter: 'Scan2' })
})

test('what onnxruntime refuses too, and bad options, are errors', async () => {
  const odd = modelOf(graph([x], {}, [['com.microsoft:NoSuchOp', ['x'], ['y']]], ['y']))
  await expect(Session.create(odd, fallback)).rejects.toMatchObject({ name: 'WhittleError', code: 'ERR_UNSUPPORTED_OP', parameter: 'NoSuchOp0' })
  await expect(Session.create(odd, { fallback: 'other' as 'onnxruntime' })).rejects.toMatchObject({ code: 'ERR_RANGE', parameter: 'options.fallback' })
  const never = modelOf(graph([x, ['z', 'float32', ['n', 'm']]], {}, [['com.microsoft:CDist', ['x', 'z'], ['y'], { metric: attribute.string('euclidean') }]], ['y']))
  const session = await Session.create(never, fallback)
  await expect(session.run({ ...feeds, z: floats([2, 3]) })).rejects.toMatchObject({ name: 'WhittleError', parameter: 'CDist0' })
  const good = { ...feeds, z: floats([2, 4]) }
  expectSame((await session.run(good)).y, (await theirs(never, good)).y)
})

test('runs at once, profiles, and the end of a session', async () => {
  const model = modelOf(graph([x], constants, mixed, ['y']))
  const session = await Session.create(model, { ...fallback, profile: true })
  const all = [1, 2, 3, 4].map((seed) => ({ x: floats([4, 4], seed) }))
  const results = await Promise.all(all.map((f) => session.run(f)))
  for (const [i, f] of all.entries()) expectSame(results[i]?.y, (await theirs(model, f)).y)
  expect(session.profile().steps.filter((s) => s.op === 'onnxruntime').map((s) => [s.node, s.runs])).toEqual([['BiasGelu1 + Inverse2', 4], ['CDist5', 4]])
  const late = session.run(feeds).catch((error: unknown) => error as { name: string })
  session.dispose()
  expect(await late).toMatchObject({ name: 'WhittleError', code: 'ERR_HANDLE' })
  await expect(session.run(feeds)).rejects.toMatchObject({ code: 'ERR_HANDLE' })
})

test('without onnxruntime-node the option is an error that says what to install', () => {
  const script = `
    const { Module } = require('node:module')
    const resolve = Module._resolveFilename
    Module._resolveFilename = (name, ...rest) => {
      if (name === 'onnxruntime-node') throw Object.assign(new Error("Cannot find module 'onnxruntime-node'"), { code: 'MODULE_NOT_FOUND' })
      return resolve(name, ...rest)
    }
    const { Graph, Model, Node, Session, ValueInfo } = require('./dist')
    const graph = new Graph('g')
    graph.inputs = [new ValueInfo('x', 'float32', [2])]
    graph.addNode(new Node({ opType: 'Relu', inputs: ['x'], outputs: ['y'] }))
    graph.outputs = [new ValueInfo('y', 'float32', null)]
    const model = new Model({ graph, opsets: [['', 17]], irVersion: 8 })
    Session.create(model).then((s) => console.log(s.outputs.length))
    Session.create(model, { fallback: 'onnxruntime' }).catch((e) => console.log(e.name, e.code, e.message))`
  const { stdout, stderr } = spawnSync(process.execPath, ['-e', script], { cwd: path.join(__dirname, '..'), encoding: 'utf8' })
  expect(stderr).toBe('')
  expect(stdout.trim().split('\n').sort()).toEqual(['1', expect.stringMatching(/^WhittleError ERR_DEVICE options\.fallback: .*npm install onnxruntime-node$/)])
})
