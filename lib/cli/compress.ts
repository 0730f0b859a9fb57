import fs from 'node:fs'
import path from 'node:path'

import { compress } from '../compress/compress'
import type { Evaluate } from '../compress/gate'
import type { Progress } from '../compress/progress'
import {
  overrideRecipe,
  parseRecipe,
  presetFiles,
  presets,
  resolveRecipe,
  type AutoRecipe,
  type Overrides,
  type Preset,
  type Recipe,
} from '../compress/recipe'
import { analyze, measureLatency } from '../analyze'
import { Calibration, type CalibrationData, type Inputs } from '../compress/calibration'
import { Model } from '../model/model'
import { renderHtml } from '../report/html'
import { bytes, count, milliseconds, percent, short, table } from '../report/format'
import type { CompressReport, Measurement, ReportSection } from '../report/types'
import { writeFileWhole } from '../report/write'
import { exitCode, numberOf, onePath, parse, printable, usage, UsageError, type Command } from './args'
import { checkFolder, loadCalibration, loadEvaluate, readText } from './load'
import { ProgressBar } from './progress'

const kHelp = `Usage: whittle compress <in.onnx> -o <out.onnx> [options]

Makes a model smaller and writes it. The output appears when all is done and every limit is met, or not at all.

Options
  -o, --output <file>     where the result goes (needed); as a .whittle container, entropy-coded, if its name says so;
                          a folder with the presets for transformers.js, which name the file
      --preset <name>     ${presets.join(' | ')} (default int8-weights)
      --recipe <file>     a recipe in JSON or YAML instead of a preset
      --bits <n>          2 to 8 bits a weight
      --storage <kind>    folded: ops that onnxruntime evaluates once, at load (default)
                          qdq: DequantizeLinear, for tools that look for it
      --sparsity <share>  0 to 1: prune that share of each layer's weights by magnitude first
      --max-bytes <n>     limit on the size of the result
      --evaluate <file>   a JavaScript module whose default export judges a model: (model) => accuracy, or
                          { accuracy, latency }; for the limits accuracyDrop and latency of a recipe
      --calibration <from>  inputs for steps that need some: a JavaScript module whose default export is a list of inputs
                          by name (or a function that gives one), or a folder of .npy files, one a set; for models with
                          several inputs a folder of folders that hold <input>.npy
      --report <file>     also write a report (.html, or .json for whittle report), with what analyze says of both models
                          and, with --calibration, times in this engine and in onnxruntime-node where it is installed
      --sensitivity       in the report, what each layer alone can take; needs --calibration or --evaluate
      --json              the report as one JSON document on stdout
  -h, --help              this text

A recipe
  limits: { bytes: 3000000 }
  steps:
    - { step: prune, pattern: '2:4', layers: { ops: [MatMul] } }
    - { step: quantize, bits: 8, layers: { exclude: ['head*'] } }
`

const kOptions = {
  output: { type: 'string', short: 'o' },
  preset: { type: 'string' },
  recipe: { type: 'string' },
  bits: { type: 'string' },
  storage: { type: 'string' },
  sparsity: { type: 'string' },
  'max-bytes': { type: 'string' },
  evaluate: { type: 'string' },
  calibration: { type: 'string' },
  sensitivity: { type: 'boolean' },
  report: { type: 'string' },
  json: { type: 'boolean' },
} as const

/** @internal */
export const compressCommand: Command = {
  name: 'compress',
  summary: 'make a model smaller',
  help: kHelp,
  async run(args, terminal) {
    const { values, positionals } = parse(args, kOptions)
    const input = onePath(positionals, 'input file')
    if (!values.output) throw new UsageError('-o <file> is missing: where shall the result go?')
    const output = fileIn(onePath([values.output], 'output file'), values.preset)
    if (values.preset !== undefined && values.recipe !== undefined)
      throw new UsageError('--preset and --recipe: give one of them')
    const overrides: Overrides = {
      ...(values.bits === undefined ? {} : { bits: numberOf(values.bits, '--bits') }),
      ...(values.storage === undefined ? {} : { storage: values.storage as 'folded' }),
      ...(values.sparsity === undefined ? {} : { sparsity: numberOf(values.sparsity, '--sparsity') }),
    }
    const limits = values['max-bytes'] === undefined ? {} : { bytes: numberOf(values['max-bytes'], '--max-bytes') }
    const recipe = usage(() => {
      const base: Recipe | AutoRecipe | Preset =
        values.recipe === undefined
          ? ((values.preset ?? 'int8-weights') as Preset)
          : parseRecipe(readText(values.recipe, 'recipe'), values.recipe)
      resolveRecipe(base)
      const changed = overrideRecipe(base, overrides)
      resolveRecipe(changed)
      return changed
    })
    checkFolder(output, '-o')
    if (values.report !== undefined) {
      checkFolder(values.report, '--report')
      if ([input, output].some((file) => path.resolve(file) === path.resolve(values.report!)))
        throw new UsageError('--report: expected another file than the models')
      if (!/\.(html?|json)$/i.test(values.report)) throw new UsageError(`--report: expected a name that ends in .html or .json, got ${JSON.stringify(values.report)}`)
    }
    const evaluate = values.evaluate === undefined ? undefined : await loadEvaluate(values.evaluate)
    if (values.sensitivity && (!values.report || !(values.calibration ?? values.evaluate)))
      throw new UsageError('--sensitivity: needs --report, and --calibration or --evaluate to tell by')
    const bar = new ProgressBar(terminal)
    try {
      const calibration = values.calibration === undefined ? undefined : await calibrationFor(input, values.calibration)
      const { model, report } = await compress(input, recipe, {
        ...(evaluate ? { evaluate } : {}),
        ...(calibration ? { calibration } : {}),
        limits,
        ...(/\.whittle$/i.test(output) ? { container: 'whittle' as const } : {}),
        signal: terminal.signal,
        onProgress: ({ phase, done, total, detail }) => bar.update(phase, done, total, detail),
      })
      // The result may take the original's place.
      const original = values.report ? await Model.load(input) : undefined
      try {
        const tell = { signal: terminal.signal, onProgress: ({ phase, done, total, detail }: Progress) => bar.update(phase, done, total, detail) }
        // Before the output: it appears when all is done.
        const section =
          values.report && original
            ? await sectionOf(input, original, model, report, calibration, tell, values.sensitivity ? evaluate : undefined, values.sensitivity === true)
            : undefined
        const saved = await model.save(output, {
          signal: terminal.signal,
          onProgress: ({ bytes: done, total }) => bar.update('write', done, total, output),
        })
        if (section) writeFileWhole(values.report!, /\.json$/i.test(values.report!) ? `${JSON.stringify(section)}\n` : renderHtml([section]))
        bar.clear()
        terminal.out(
          values.json
            ? `${JSON.stringify({ ...report, files: saved.files }, null, 2)}\n`
            : describe(input, output, report),
        )
      } finally {
        original?.close()
        model.close()
      }
    } finally {
      bar.clear()
    }
    return exitCode.done
  },
}

/** The output; in a folder, the name by which the preset's readers know the file. */
function fileIn(output: string, preset: string | undefined): string {
  const name = presetFiles[preset as Preset]
  const isFolder = name !== undefined && (/[\\/]$/.test(output) || fs.statSync(output, { throwIfNoEntry: false })?.isDirectory())
  return isFolder ? path.join(output, name) : output
}

async function calibrationFor(input: string, given: string): Promise<CalibrationData> {
  const model = await Model.load(input)
  try {
    return await loadCalibration(given, model.inputs.filter((i) => !model.initializers.has(i.name)).map((i) => i.name))
  } finally {
    model.close()
  }
}

type Tell = { readonly signal: AbortSignal; readonly onProgress: (progress: Progress) => void }

/** The report with what can be said of both models. */
async function sectionOf(
  input: string,
  original: Model,
  model: Model,
  report: CompressReport,
  data: CalibrationData | undefined,
  tell: Tell,
  evaluate: Evaluate | undefined,
  sensitivity: boolean,
): Promise<ReportSection> {
  const calibration = data ? { calibration: data } : {}
  const analysis = await analyze(original, { ...tell, ...calibration, ...(evaluate ? { evaluate } : {}), sensitivity })
  const resultAnalysis = await analyze(model, { ...tell, ...calibration, sensitivity: false })
  const measurements = await times(original, model, report, data, tell)
  return { title: path.basename(input), report, analysis, resultAnalysis, ...(measurements ? { measurements } : {}) }
}

/** Times of both models, where it is known what to run them on. */
async function times(original: Model, model: Model, report: CompressReport, data: CalibrationData | undefined, tell: Tell): Promise<Measurement[] | undefined> {
  let inputs: Inputs | undefined
  if (data)
    for await (const first of Calibration.from(data).inputs()) {
      inputs = first
      break
    }
  if (!inputs) return undefined
  tell.onProgress({ phase: 'measure', done: 0, total: 1, detail: 'both models, run by run' })
  const accuracy = (figures: { accuracy?: number }): { accuracy?: number } => (figures.accuracy === undefined ? {} : { accuracy: figures.accuracy })
  return measureLatency(
    [
      { label: 'original', model: original, reference: true, ...accuracy(report.before) },
      { label: 'compressed', model, ...accuracy(report.after) },
    ],
    inputs,
    { signal: tell.signal },
  )
}

function describe(input: string, output: string, report: CompressReport): string {
  const { before, after } = report
  const rows = [
    ['size', bytes(before.bytes), bytes(after.bytes), `${(before.bytes / after.bytes).toFixed(2)} times smaller`],
  ]
  if (before.accuracy !== undefined && after.accuracy !== undefined) {
    const show = Math.abs(before.accuracy) <= 1 ? percent : short
    rows.push(['accuracy', show(before.accuracy), show(after.accuracy), ''])
  }
  if (before.latency !== undefined && after.latency !== undefined)
    rows.push([
      'latency',
      milliseconds(before.latency),
      milliseconds(after.latency),
      `${(after.latency / before.latency).toFixed(2)} × of the original`,
    ])
  const lines = [`${input} → ${output}`, '', table(['', 'before', 'after', ''], rows, [1, 2]), '']
  for (const step of report.steps) lines.push(`${step.summary} (${step.seconds.toFixed(2)} s)`)
  const kept = report.steps.flatMap((s) => s.layers.filter((l) => l.reason !== undefined))
  const kMost = 20
  if (kept.length) {
    lines.push('', 'Not as asked:')
    for (const l of kept.slice(0, kMost))
      lines.push(`  ${l.weight} (${l.op}, ${count(l.elements)} values) ${l.action}: ${l.reason}`)
    if (kept.length > kMost) lines.push(`  and ${kept.length - kMost} more: --json or --report lists all`)
  }
  for (const l of report.limits) lines.push(`Limit ${l.name}: ${short(l.actual)} of ${short(l.limit)}`)
  return lines.map(printable).join('\n') + '\n'
}
