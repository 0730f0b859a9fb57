import { spawnSync } from 'node:child_process'
import path from 'node:path'
import { analyze, compress, quantizeDynamic, quantizeStatic, type Step } from '../lib'
import { attribute, floats, graph, modelOf, theirs, type Step as Op } from './graphs'

const x = ['x', 'float32', [1, 8, 6, 6]] as const
const constants = { w: floats([8, 16, 3, 3], 2), b: floats([32], 3), v: floats([16, 32, 1, 1], 4) }
// Sessions have no transposed convolution in groups.
const ops: readonly Op[] = [
  ['ConvTranspose', ['x', 'w', 'b'], ['a'], { group: attribute.int(2), pads: attribute.ints([1, 1, 1, 1]) }],
  ['Relu', ['a'], ['r']],
  ['Conv', ['r', 'v'], ['y']],
]
const model = () => modelOf(graph([x], constants, ops, ['y']))
const sets = [5, 6, 7].map((seed) => ({ x: floats([1, 8, 6, 6], seed) }))

const steps: readonly Step[] = [
  { step: 'quantize', activations: 'static' },
  { step: 'quantize', activations: 'static', target: 'onnxruntime', snr: 10 },
  { step: 'quantize', bits: 5, method: 'gptq', blockSize: 0 },
  { step: 'prune', structure: 'filter', sparsity: 0.1, criterion: 'thinet', reconstruct: true },
]

test.each(steps)('what sessions have no kernel for is calibrated on in onnxruntime-node: %j', async (step) => {
  const { model: made, report } = await compress(model(), { steps: [step] }, { calibration: sets })
  expect(report.steps[0]!.layers.some((l) => l.action === 'quantized' || l.action === 'pruned')).toBe(true)
  const [want, got] = [await theirs(model(), sets[0]!), await theirs(made, sets[0]!)]
  let [signal, noise] = [0, 0]
  for (const [i, v] of (want.y!.data as Float32Array).entries()) {
    signal += v * v
    noise += (v - Number(got.y!.data[i])) ** 2
  }
  expect(Math.sqrt(noise / signal)).toBeLessThan(0.2)
  expect(noise).toBeGreaterThan(0)
})

test('layers of such a model are told with their activations', async () => {
  const { layers } = await analyze(model(), { calibration: sets, sensitivity: { samples: 1 } })
  expect(layers.map((l) => [l.weight, l.output !== undefined, (l.sensitivity?.length ?? 0) > 0])).toEqual([
    ['w', true, true],
    ['v', true, true],
  ])
})

test('without onnxruntime-node the error names the node and what to install', () => {
  const script = `
    const { Module } = require('node:module')
    const resolve = Module._resolveFilename
    Module._resolveFilename = (name, ...rest) => {
      if (name === 'onnxruntime-node') throw Object.assign(new Error("Cannot find module 'onnxruntime-node'"), { code: 'MODULE_NOT_FOUND' })
      return resolve(name, ...rest)
    }
    const { compress } = require('./dist')
    compress(Buffer.from(process.argv[1], 'base64'), { steps: [{ step: 'quantize', activations: 'static' }] }, { calibration: [{ x: { type: 'float32', dims: [1, 8, 6, 6], data: new Float32Array(288) } }] })
      .catch((e) => console.log(e.name, e.code, e.parameter, e.message))`
  const { stdout } = spawnSync(process.execPath, ['-e', script, Buffer.from(model().toBytes()).toString('base64')], {
    cwd: path.join(__dirname, '..'),
    encoding: 'utf8',
  })
  expect(stdout).toMatch(
    /^WhittleError ERR_UNSUPPORTED_OP ConvTranspose0 .*groups is not supported yet; calibration would run it in onnxruntime-node \(npm install onnxruntime-node\)/,
  )
})

test('what is no model is refused by name', async () => {
  await expect(quantizeStatic('nowhere.onnx', sets)).rejects.toMatchObject({ code: 'ERR_IO' })
  await expect(quantizeStatic(7 as never, sets)).rejects.toMatchObject({ name: 'WhittleError' })
  expect(() => quantizeDynamic('model.onnx' as never)).toThrow(/^model: expected a Model/)
  expect((await quantizeStatic(model().toBytes(), sets)).graph.nodes.some((n) => n.opType === 'QuantizeLinear')).toBe(
    true,
  )
})
