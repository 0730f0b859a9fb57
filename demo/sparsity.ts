import path from 'node:path'

import { compress, Model, Session, type PruneStep } from '../lib/index'
import { percent, table } from '../lib/report/format'
import { kHeight, kRecogniser, kRecogniserWidth, loadLines, modelFolder, recogniserInput, scoreRecogniser, type Runner } from './ocr'

/**
 * Accuracy of the text recogniser against its share of zeros, without training: OBS, each layer's share as a scan finds it. Arguments
 * are shares (default 0.3 0.4 0.5 0.6); a name among them is another criterion, such as sparsegpt.
 */
async function main(): Promise<void> {
  const given = process.argv.slice(2)
  const targets = given.map(Number).filter((n) => n > 0 && n < 1)
  const criterion = (given.find((a) => Number.isNaN(Number(a))) ?? 'obs') as NonNullable<PruneStep['criterion']>
  const lines = loadLines()
  const dims = [1, 3, kHeight, kRecogniserWidth]
  const calibration = lines.calibration.map((line) => ({ x: { type: 'float32', dims, data: recogniserInput(lines, line) } }))
  const original = await Model.load(path.join(modelFolder(), kRecogniser))
  const rows: string[][] = []
  const row = async (zeros: string, model: Model, seconds: string): Promise<void> => {
    const session = await Session.create(model)
    const output = session.outputs[0]!.name
    const run: Runner = async (x, shape) => (await session.run({ x: { type: 'float32', dims: shape, data: x } }))[output] as Awaited<ReturnType<Runner>>
    const { charAccuracy, exact } = await scoreRecogniser(run, lines)
    session.dispose()
    rows.push([zeros, percent(charAccuracy, 2), percent(exact, 1), seconds])
  }
  await row('none', original, '')
  for (const target of targets.length ? targets : [0.3, 0.4, 0.5, 0.6]) {
    const start = performance.now()
    const { model } = await compress(original, { steps: [{ step: 'prune', criterion, sparsity: 'auto', target }] }, { calibration })
    await row(percent(target, 0), model, `${((performance.now() - start) / 1000).toFixed(0)} s`)
  }
  console.log(table(['zeros', 'characters', 'lines', 'time'], rows))
}

main().catch((e: unknown) => {
  console.error(e)
  process.exitCode = 1
})
