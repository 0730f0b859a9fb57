import { spawnSync } from 'node:child_process'
import fs from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { devices, Session, type Model } from '../lib'
import { mobileNetV2, resNet50 } from './convnets'
import { agree, expectSame, floats, theirs } from './graphs'

// Large enough for convolutions by tiles and for pairs of them.
const image = 128
const models: Record<string, Model> = {
  'ResNet-50': resNet50({ image, width: 8, classes: 10 }),
  MobileNetV2: mobileNetV2({ image, width: 16, classes: 10 }),
}

describe('image classifiers with batch normalization of its own', () => {
  test.each(Object.entries(models))('%s agrees with onnxruntime, one image and three', async (name, model) => {
    await agree(model, { input: floats([1, 3, image, image]) }, { input: floats([3, 3, image, image], 2) })
    const session = await Session.create(model)
    const { steps: all, choices } = session.plan({ input: [3, 3, image, image] })
    const steps = all.map((s) => s.op)
    // Normalization, activations and residuals are part of the convolutions.
    expect(steps).not.toContain('elementwise')
    if (name === 'MobileNetV2') expect(steps).toContain('conv_pair')
    else expect(Object.values(choices)).toContain('tiles')
    session.dispose()
  })

  test.each(['tiles', 'tiles2'])('3 x 3 windows by %s give the same', async (way) => {
    const model = models['ResNet-50'] as Model
    const input = floats([2, 3, image, image], 4)
    const plan = await Session.create(model)
    const { choices } = plan.plan({ input: input.dims })
    plan.dispose()
    const tune = Object.fromEntries(Object.entries(choices).map(([layer, choice]) => [layer, choice.startsWith('tiles') ? way : choice]))
    expect(Object.values(tune)).toContain(way)
    const session = await Session.create(model, { tune })
    expectSame(session.runSync({ input }).output as never, (await theirs(model, { input })).output)
    session.dispose()
  })

  test('every tier that this CPU has agrees with onnxruntime', async () => {
    const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-images-'))
    const script = `const { Session } = require(${JSON.stringify(path.join(__dirname, '..', 'dist'))});
      const { files, dims, data } = JSON.parse(require('node:fs').readFileSync(0, 'utf8'));
      (async () => {
        const answers = []
        for (const file of files) for (const threads of [1, 2]) {
          const s = await Session.create(file, { threads });
          answers.push(Array.from(s.runSync({ input: { type: 'float32', dims, data: Float32Array.from(data) } }).output.data));
        }
        console.log(JSON.stringify(answers))
      })()`
    try {
      const all = Object.values(models)
      const files = all.map((_, i) => path.join(folder, `${i}.onnx`))
      for (const [i, model] of all.entries()) await model.save(files[i] as string)
      const input = floats([2, 3, image, image], 5)
      const want = await Promise.all(all.map(async (model) => (await theirs(model, { input })).output))
      const given = JSON.stringify({ files, dims: input.dims, data: Array.from(input.data as Float32Array) })
      for (const tier of devices().cpu.tiers.filter((one) => one.supported && /^(scalar|avx2|avx512|neon)$/.test(one.name))) {
        const r = spawnSync(process.execPath, ['-e', script], { input: given, encoding: 'utf8', env: { ...process.env, WHITTLE_CPU: tier.name } })
        expect(r.stderr).toBe('')
        const answers = JSON.parse(r.stdout) as number[][]
        expect(answers).toHaveLength(4)
        answers.forEach((data, i) => expectSame({ type: 'float32', dims: [2, 10], data: Float32Array.from(data) }, want[i >> 1]))
      }
    } finally {
      fs.rmSync(folder, { recursive: true })
    }
  })
})
