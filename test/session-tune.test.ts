import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { compress, devices, Session, type Choices, type Model, type Tensor } from '../lib'
import { floats, graph, modelOf, type Step } from './graphs'
import { encoder, tokens } from './transformer'

const feeds = tokens(1, 16, 50)
const dims = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, t.dims]))
let folder: string
let model: Model
/** by name, where nobody else looks */
let layers: Choices
const before = { ...process.env }

beforeAll(async () => {
  folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-tune-'))
  process.env.WHITTLE_CACHE = path.join(folder, 'cache')
  const dense = encoder({ layers: 1, hidden: 64, heads: 4, inner: 128, words: 50, opset: 17 })
  model = (await compress(dense, { steps: [{ step: 'prune', sparsity: 0.9 }] })).model
  layers = (await Session.create(model)).plan(dims).choices
})
afterAll(() => {
  process.env = before
  fs.rmSync(folder, { recursive: true, force: true })
})

async function run(options: Parameters<typeof Session.create>[1]): Promise<{ y: Tensor; choices: Choices; session: Session }> {
  const session = await Session.create(model, options)
  const y = session.runSync(feeds).last_hidden_state as Tensor
  return { y, choices: session.plan(dims).choices, session }
}

const files = (): string[] => (fs.existsSync(path.join(folder, 'cache')) ? fs.readdirSync(path.join(folder, 'cache')) : [])

describe('tune', () => {
  test('every product of pruned weights is a choice, and the model of costs always makes the same', async () => {
    expect(Object.keys(layers)).toHaveLength(7)
    expect((await run({})).choices).toEqual(layers)
    expect((await run({ tune: 'model' })).choices).toEqual(layers)
    expect(files()).toEqual([])
  })

  test('a plan, or its choices, given back is what runs, to the bit', async () => {
    const [first, second] = Object.keys(layers) as [string, string]
    const mixed = { ...layers, [first]: 'csr', [second]: 'dense' }
    const one = await run({ tune: mixed })
    expect(one.choices).toEqual(mixed)
    const steps = one.session.plan(dims).steps
    expect(steps.filter((s) => s.choice === 'csr').length).toBeGreaterThan(0)
    for (const tune of [one.session.plan(dims), one.choices, JSON.parse(JSON.stringify(one.session.plan(dims)))]) {
      const two = await run({ tune })
      expect(two.session.plan(dims)).toEqual(one.session.plan(dims))
      expect(two.y).toEqual(one.y)
    }
  })

  test('layers that are not named go by the model of costs', async () => {
    const [first] = Object.keys(layers) as [string]
    expect((await run({ tune: { [first]: 'csr' } })).choices).toEqual({ ...layers, [first]: 'csr' })
  })

  const bad: [what: string, tune: unknown, code: string, parameter: string][] = [
    ['another word', 'fast', 'ERR_RANGE', 'options.tune'],
    ['a number', 3, 'ERR_DTYPE', 'options.tune'],
    ['null', null, 'ERR_DTYPE', 'options.tune'],
    ['a list', ['dense'], 'ERR_DTYPE', 'options.tune'],
    ['choices that are a list', { choices: [] }, 'ERR_DTYPE', 'options.tune.choices'],
    ['a choice that is a number', { a: 1 }, 'ERR_DTYPE', 'options.tune.a'],
    ['a kernel that nobody knows', { a: 'sparse' }, 'ERR_RANGE', 'options.tune.a'],
    ['a layer that the model lacks', { nowhere: 'dense' }, 'ERR_RANGE', 'options.tune.nowhere'],
  ]
  test.each(bad)('%s is refused', async (_, tune, code, parameter) => {
    await expect(Session.create(model, { tune: tune as never })).rejects.toMatchObject({ name: 'WhittleError', code, parameter })
  })

  test('a kernel that the layer does not have is refused by the layer’s name', async () => {
    const [first] = Object.keys(layers) as [string]
    const session = await Session.create(model, { tune: { [first]: '32x32' } })
    expect(() => session.plan(dims)).toThrow(expect.objectContaining({ code: 'ERR_RANGE', parameter: `options.tune.${first}` }))
  })
})

describe('measured choices', () => {
  test('agree with the rest, lie in a file, and are what the next session uses', async () => {
    const one = await run({ tune: 'measure', threads: 1 })
    expect(Object.keys(one.choices)).toEqual(Object.keys(layers))
    const exact = await run({ tune: one.choices, threads: 1 })
    expect(exact.y).toEqual(one.y)
    const [file, ...others] = files() as [string]
    expect(others).toEqual([])
    // What the file says is believed: another choice shows.
    const at = path.join(folder, 'cache', file)
    const saved = JSON.parse(fs.readFileSync(at, 'utf8')) as { layers: [string, string][] }
    for (const l of saved.layers) l[1] = l[1] === 'csr' ? 'dense' : 'csr'
    fs.writeFileSync(at, JSON.stringify(saved))
    const turned = (await run({ tune: 'measure', threads: 1 })).choices
    for (const name of Object.keys(layers)) expect(turned[name]).toBe(one.choices[name] === 'csr' ? 'dense' : 'csr')
    // Of other threads it says nothing: they have a file of their own.
    await run({ tune: 'measure', threads: 2 })
    expect(files()).toHaveLength(2)
  })

  const broken: Record<string, (file: string) => void> = {
    'is empty': (f) => fs.writeFileSync(f, ''),
    'ends early': (f) => fs.writeFileSync(f, fs.readFileSync(f, 'utf8').slice(0, -9)),
    'is noise': (f) => fs.writeFileSync(f, Buffer.from([0, 1, 2, 255, 254])),
    'is null': (f) => fs.writeFileSync(f, 'null'),
    'holds other things': (f) => fs.writeFileSync(f, JSON.stringify({ ...JSON.parse(fs.readFileSync(f, 'utf8')), layers: { a: 1 } })),
    'names kernels that a layer lacks': (f) => fs.writeFileSync(f, fs.readFileSync(f, 'utf8').replace(/"(dense|csr)"/g, '"7x7"')),
    'is of another machine': (f) => fs.writeFileSync(f, JSON.stringify({ ...JSON.parse(fs.readFileSync(f, 'utf8')), key: 'other' })),
    'is a folder': (f) => {
      fs.rmSync(f)
      fs.mkdirSync(f)
    },
  }
  test.each(Object.keys(broken))('a file that %s is no error, and is replaced where that can be', async (what) => {
    process.env.WHITTLE_CACHE = path.join(folder, what)
    const good = await run({ tune: 'measure', threads: 1 })
    const file = path.join(folder, what, fs.readdirSync(path.join(folder, what))[0] as string)
    broken[what]?.(file)
    const again = await run({ tune: 'measure', threads: 1 })
    expect(Object.keys(again.choices)).toEqual(Object.keys(good.choices))
    if (fs.statSync(file).isFile()) expect(JSON.parse(fs.readFileSync(file, 'utf8'))).toMatchObject({ layers: expect.arrayContaining([expect.arrayContaining([expect.stringMatching(/^(dense|csr)$/)])]) })
    // Nothing half written stays behind.
    expect(fs.readdirSync(path.join(folder, what))).toHaveLength(1)
  })

  test('a folder that cannot be made is no error', async () => {
    fs.writeFileSync(path.join(folder, 'file'), '')
    process.env.WHITTLE_CACHE = path.join(folder, 'file', 'in')
    expect(Object.keys((await run({ tune: 'measure' })).choices)).toHaveLength(7)
  })

  test('lie under XDG_CACHE_HOME, else in the home folder, where WHITTLE_CACHE does not say otherwise', async () => {
    delete process.env.WHITTLE_CACHE
    process.env.XDG_CACHE_HOME = path.join(folder, 'xdg')
    await run({ tune: 'measure', threads: 1 })
    expect(fs.readdirSync(path.join(folder, 'xdg', 'whittle'))).toHaveLength(1)
    // jest's copy of the environment does not reach os.homedir().
    const script = `
      const { Session } = require('./dist')
      Session.create(process.argv[1], { tune: 'measure', threads: 1 }).then((s) => s.plan(JSON.parse(process.argv[2])))`
    const file = path.join(folder, 'model.onnx')
    fs.writeFileSync(file, model.toBytes())
    const env: NodeJS.ProcessEnv = { ...process.env, HOME: folder }
    delete env.XDG_CACHE_HOME
    const r = spawnSync(process.execPath, ['-e', script, file, JSON.stringify(dims)], { cwd: path.join(__dirname, '..'), env, encoding: 'utf8' })
    expect(r.stderr).toBe('')
    if (process.platform !== 'win32') expect(fs.readdirSync(path.join(folder, '.cache', 'whittle'))).toHaveLength(1)
  })
})

test('a plan names the variant of each step and the bytes that it goes over', async () => {
  const steps: Step[] = [['MatMul', ['x', 'w'], ['a']], ['Relu', ['a'], ['b']], ['Transpose', ['b'], ['y']]]
  const session = await Session.create(modelOf(graph([['x', 'float32', [4, 32]]], { w: floats([32, 48]) }, steps, ['y'])))
  const [product, turn] = session.plan({ x: [4, 32] }).steps
  const { kernels } = devices().cpu
  expect(product).toMatchObject({ op: 'gemm', variant: kernels['gemm'], bytes: { values: 4 * (4 * 32 + 4 * 48) } })
  expect(product?.bytes?.weights).toBeGreaterThanOrEqual(4 * 32 * 48)
  expect(turn).toMatchObject({ op: 'copy', bytes: { weights: 0, values: 2 * 4 * 4 * 48 } })
  expect(turn?.variant).toBeUndefined()
  session.dispose()
})
