import path from 'node:path'

import { analyze } from '../analyze'
import { Model } from '../model/model'
import type { Analysis } from '../report/analysis'
import { bytes, count, elide, percent, table } from '../report/format'
import { renderHtml } from '../report/html'
import { big } from '../report/layers'
import { writeFileWhole } from '../report/write'
import { exitCode, numberOf, onePath, parse, printable, UsageError, type Command } from './args'
import { dimsOf, pairs } from './feeds'
import { checkFolder, loadCalibration, loadEvaluate } from './load'
import { ProgressBar } from './progress'

const kHelp = `Usage: whittle analyze <model.onnx> [options]

Says what each layer of a model holds and how much it can take, without changing anything: multiplications, bytes, zeros,
error by bits, singular values; with calibration inputs also activations and the sensitivity of each layer.

Options
  -o, --output <file>       write the page (.html) or the data (.json) as well
      --calibration <from>  inputs to run on: a JavaScript module whose default export is a list of inputs by name (or a
                            function that gives one), or a folder of .npy files, one a set; for models with several
                            inputs a folder of folders that hold <input>.npy
      --evaluate <file>     a JavaScript module whose default export judges a model: (model) => accuracy
      --shape NAME=1x3x48x320  dims of an input that leaves some open; repeat for each
      --samples <n>         sets of inputs that sensitivity is measured on; default 4
      --no-sensitivity      do not change layers one at a time (what takes longest)
      --no-spectra          no singular values
      --threads <n>         threads of the runs
      --json                one JSON document on stdout
  -h, --help                this text
`

const kOptions = {
  output: { type: 'string', short: 'o' },
  calibration: { type: 'string' },
  evaluate: { type: 'string' },
  shape: { type: 'string', multiple: true },
  samples: { type: 'string' },
  'no-sensitivity': { type: 'boolean' },
  'no-spectra': { type: 'boolean' },
  threads: { type: 'string' },
  json: { type: 'boolean' },
} as const

/** @internal */
export const analyzeCommand: Command = {
  name: 'analyze',
  summary: 'say how much each layer can take',
  help: kHelp,
  async run(args, terminal) {
    const { values, positionals } = parse(args, kOptions)
    const input = onePath(positionals, 'model file')
    const output = values.output === undefined ? undefined : onePath([values.output], 'output file')
    if (output && !/\.(html?|json)$/i.test(output)) throw new UsageError(`-o: expected a name that ends in .html or .json, got ${JSON.stringify(output)}`)
    if (output) checkFolder(output, '-o')
    const whole = (text: string | undefined, flag: string, most: number): number | undefined => {
      if (text === undefined) return undefined
      const n = numberOf(text, flag)
      if (!Number.isInteger(n) || n < 1 || n > most) throw new UsageError(`${flag}: expected an integer from 1 to ${most}, got ${text}`)
      return n
    }
    const threads = whole(values.threads, '--threads', 256)
    const samples = whole(values.samples, '--samples', 1e6)
    const shapes = Object.fromEntries([...pairs(values.shape, '--shape')].map(([name, text]) => [name, dimsOf(text, name)]))
    const evaluate = values.evaluate === undefined ? undefined : await loadEvaluate(values.evaluate)
    const model = await Model.load(input)
    const bar = new ProgressBar(terminal)
    try {
      const names = model.inputs.filter((i) => !model.initializers.has(i.name)).map((i) => i.name)
      const wrong = Object.keys(shapes).find((name) => !names.includes(name))
      if (wrong !== undefined) throw new UsageError(`--shape: the model has no input ${JSON.stringify(wrong)}; it has ${names.join(', ')}`)
      const calibration = values.calibration === undefined ? undefined : await loadCalibration(values.calibration, names)
      const found = {
        ...(await analyze(model, {
          ...(calibration ? { calibration } : {}),
          ...(evaluate ? { evaluate } : {}),
          ...(threads ? { threads } : {}),
          shapes,
          spectra: !values['no-spectra'],
          sensitivity: values['no-sensitivity'] || !(calibration ?? evaluate) ? false : { ...(samples ? { samples } : {}) },
          signal: terminal.signal,
          onProgress: ({ phase, done, total, detail }) => bar.update(phase, done, total, detail),
        })),
        model: path.parse(input).name,
      }
      if (output) writeFileWhole(output, /\.json$/i.test(output) ? `${JSON.stringify(found)}\n` : renderHtml([{ title: path.basename(input), analysis: found }], 'Whittle analysis'))
      bar.clear()
      terminal.out(values.json ? `${JSON.stringify(found, null, 2)}\n` : describe(input, found))
      return exitCode.done
    } finally {
      bar.clear()
      model.close()
    }
  },
}

function describe(input: string, a: Analysis): string {
  const sizes = Object.entries(a.shapes).map(([name, dims]) => `${name} [${dims?.map((d) => d ?? '?').join(', ') ?? 'any shape'}]`)
  const lines = [
    `${input}: ${bytes(a.bytes)}, ${count(a.parameters)} parameters${a.macs === undefined ? '' : `, ${big(a.macs)} multiplications for ${sizes.join(', ')}`}, ${percent(a.sparsity, 1)} zeros`,
    ...(a.energy ? [`energy  ${(a.energy.joules * 1e3).toPrecision(3)} mJ a run, an estimate from 45 nm figures`] : []),
    ...(a.accuracy === undefined ? [] : [`accuracy ${a.accuracy}`]),
  ]
  if (a.layers.length) {
    const decibels = (v: number | null | undefined): string => (v === undefined ? '' : v === null ? '∞' : v.toFixed(1))
    const sensitive = a.layers.some((l) => l.sensitivity)
    const changes = a.layers.find((l) => l.sensitivity)?.sensitivity ?? []
    const head = ['layer', 'op', 'shape', 'bytes', 'MACs', 'zeros', '8 bits', '4 bits', '90 %']
    const rows = a.layers.map((l) => [
      elide(printable(l.name), 30),
      l.op,
      l.dims.join('×'),
      bytes(l.bytes),
      l.macs === undefined ? '-' : big(l.macs),
      percent(l.values.sparsity, 1),
      decibels(l.snrByBits['8']),
      decibels(l.snrByBits['4']),
      l.spectrum ? (l.spectrum.rank90 === null ? `>${l.spectrum.computed}` : `${l.spectrum.rank90}/${Math.min(...l.spectrum.shape)}`) : '-',
      ...(sensitive ? changes.map((_, i) => (l.sensitivity?.[i] ? (l.sensitivity[i].accuracy === undefined ? decibels(l.sensitivity[i].snr) : percent(l.sensitivity[i].accuracy)) : '-')) : []),
    ])
    const more = sensitive ? changes.map((c) => (c.change === 'quantize' ? `→${c.bits} bits` : `→${percent(c.sparsity ?? 0, 0)} cut`)) : []
    lines.push('', table([...head, ...more], rows, [3, 4, 5, 6, 7, 8, ...more.map((_, i) => 9 + i)]))
    lines.push('', 'bits: signal-to-noise ratio in dB of the weight; 90 %: singular values that hold so much of the energy' + (sensitive ? '; →: of the outputs (or accuracy) with that layer alone changed' : ''))
  }
  for (const note of a.notes) lines.push(`note: ${note}`)
  return lines.map(printable).join('\n') + '\n'
}
