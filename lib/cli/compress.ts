import fs from 'node:fs'
import path from 'node:path'
import { pathToFileURL } from 'node:url'

import { compress } from '../compress/compress'
import type { Evaluate } from '../compress/gate'
import {
  overrideRecipe,
  parseRecipe,
  presets,
  resolveRecipe,
  type Overrides,
  type Preset,
  type Recipe,
} from '../compress/recipe'
import { WhittleError } from '../errors'
import { renderHtml } from '../report/html'
import { bytes, count, milliseconds, percent, short, table } from '../report/format'
import type { CompressReport } from '../report/types'
import { writeFileWhole } from '../report/write'
import { exitCode, numberOf, onePath, parse, printable, usage, UsageError, type Command } from './args'
import { ProgressBar } from './progress'

const kHelp = `Usage: whittle compress <in.onnx> -o <out.onnx> [options]

Makes a model smaller and writes it. The output appears when all is done and every limit is met, or not at all.

Options
  -o, --output <file>     where the result goes (needed)
      --preset <name>     ${presets.join(' | ')} (default int8-weights)
      --recipe <file>     a recipe in JSON or YAML instead of a preset
      --bits <n>          2 to 8 bits a weight
      --storage <kind>    folded: ops that onnxruntime evaluates once, at load (default)
                          qdq: DequantizeLinear, for tools that look for it
      --sparsity <share>  0 to 1: prune that share of each layer's weights by magnitude first
      --max-bytes <n>     limit on the size of the result
      --evaluate <file>   a JavaScript module whose default export judges a model: (model) => accuracy, or
                          { accuracy, latency }; for the limits accuracyDrop and latency of a recipe
      --report <file>     also write an HTML report
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
    const output = onePath([values.output], 'output file')
    if (values.preset !== undefined && values.recipe !== undefined)
      throw new UsageError('--preset and --recipe: give one of them')
    const overrides: Overrides = {
      ...(values.bits === undefined ? {} : { bits: numberOf(values.bits, '--bits') }),
      ...(values.storage === undefined ? {} : { storage: values.storage as 'folded' }),
      ...(values.sparsity === undefined ? {} : { sparsity: numberOf(values.sparsity, '--sparsity') }),
    }
    const limits = values['max-bytes'] === undefined ? {} : { bytes: numberOf(values['max-bytes'], '--max-bytes') }
    const recipe = usage(() => {
      const base: Recipe | Preset =
        values.recipe === undefined
          ? ((values.preset ?? 'int8-weights') as Preset)
          : parseRecipe(readText(values.recipe), values.recipe)
      resolveRecipe(base)
      const changed = overrideRecipe(base, overrides)
      resolveRecipe(changed)
      return changed
    })
    const evaluate = values.evaluate === undefined ? undefined : await loadEvaluate(values.evaluate)
    const bar = new ProgressBar(terminal)
    try {
      const { model, report } = await compress(input, recipe, {
        ...(evaluate ? { evaluate } : {}),
        limits,
        signal: terminal.signal,
        onProgress: ({ phase, done, total, detail }) => bar.update(phase, done, total, detail),
      })
      try {
        const saved = await model.save(output, {
          signal: terminal.signal,
          onProgress: ({ bytes: done, total }) => bar.update('write', done, total, output),
        })
        if (values.report) writeFileWhole(values.report, renderHtml([{ title: path.basename(input), report }]))
        bar.clear()
        terminal.out(
          values.json
            ? `${JSON.stringify({ ...report, files: saved.files }, null, 2)}\n`
            : describe(input, output, report),
        )
      } finally {
        model.close()
      }
    } finally {
      bar.clear()
    }
    return exitCode.done
  },
}

function readText(file: string): string {
  try {
    return fs.readFileSync(file, 'utf8')
  } catch (cause) {
    throw new WhittleError('ERR_IO', 'recipe', `recipe: cannot read ${file}: ${(cause as Error).message}`, { cause })
  }
}

async function loadEvaluate(file: string): Promise<Evaluate> {
  let loaded: { default?: unknown }
  if (!fs.existsSync(file)) throw new UsageError(`--evaluate: there is no file ${file}`)
  try {
    loaded = (await import(pathToFileURL(path.resolve(file)).href)) as { default?: unknown }
  } catch (cause) {
    throw new WhittleError('ERR_IO', 'evaluate', `evaluate: cannot load ${file}: ${(cause as Error).message}`, {
      cause,
    })
  }
  // A CommonJS module's exports are the default export.
  const found = loaded.default
  const evaluate = typeof found === 'function' ? found : (found as { default?: unknown } | undefined)?.default
  if (typeof evaluate !== 'function')
    throw new UsageError(`--evaluate: the default export of ${file} is not a function`)
  return evaluate as Evaluate
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
