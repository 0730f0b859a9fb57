import { foldConstantNodes } from '../model/fold'
import { Model } from '../model/model'
import { bytes, count, elide, percent, short, table } from '../report/format'
import { inspectModel, type Inspection, type InspectedValue } from '../report/inspect'
import { exitCode, onePath, parse, printable, type Command } from './args'

const kHelp = `Usage: whittle inspect <model.onnx> [--stats] [--json]

Says what a model holds: inputs, outputs, opset, ops, and every weight with its shape, bytes, share of zeros and range.
Zeros and ranges of weights above 512 kB are taken from evenly spaced samples (marked ~), and beyond 32 MB in all none
are read (marked -), so that a model of gigabytes takes less than a second.

Options
      --stats   read every value: exact zeros and ranges, however long it takes
      --json    one JSON document on stdout
  -h, --help    this text
`

/** @internal */
export const inspect: Command = {
  name: 'inspect',
  summary: 'say what a model holds',
  help: kHelp,
  async run(args, terminal) {
    const { values, positionals } = parse(args, { json: { type: 'boolean' }, stats: { type: 'boolean' } })
    const path = onePath(positionals, 'model file')
    const model = await Model.load(path)
    try {
      // Weights in Constant nodes are weights too; what is printed of nodes and ops is the file as it is.
      const view = model.clone()
      foldConstantNodes(view)
      const asIs = model.summary()
      const found = {
        ...inspectModel(view, { stats: values.stats === true }),
        bytes: model.byteLength(),
        nodes: asIs.nodes,
        ops: asIs.ops,
        parameters: asIs.parameters,
        weightBytes: asIs.weightBytes,
      }
      terminal.out(values.json ? `${JSON.stringify({ file: path, ...found }, null, 2)}\n` : describe(path, found))
      return exitCode.done
    } finally {
      model.close()
    }
  },
}

function describe(path: string, i: Inspection): string {
  const domains = Object.entries(i.opsets).filter(([domain]) => domain !== 'ai.onnx')
  const others = domains.length ? `, ${domains.map(([d, v]) => `${d} ${v}`).join(', ')}` : ''
  const lines = [
    `${path}: ${bytes(i.bytes)}, ${count(i.parameters)} parameters, IR version ${i.irVersion}, opset ${i.opset}${others}${i.producer ? `, made by ${i.producer}` : ''}`,
    ...i.inputs.map((v) => `input   ${shape(v)}`),
    ...i.outputs.map((v) => `output  ${shape(v)}`),
    `ops     ${i.nodes}: ${Object.entries(i.ops)
      .map(([op, n]) => `${op} ${n}`)
      .join(', ')}`,
  ]
  if (i.layers.length) {
    const rows = i.layers.map((l) => {
      const about = l.sampled ? '~' : ''
      const known = l.min !== undefined && l.max !== undefined
      return [
        elide(printable(l.name), 36),
        l.op,
        l.dims.join('×'),
        l.storage ? `${l.type} ${l.storage}` : l.type,
        bytes(l.bytes),
        l.sparsity === undefined ? '-' : about + percent(l.sparsity, 1),
        known ? `${about}${short(l.min!)} … ${short(l.max!)}` : '-',
      ]
    })
    lines.push('', table(['layer', 'op', 'shape', 'type', 'bytes', 'zeros', 'range'], rows, [4, 5]))
    const total = i.layers.reduce((sum, l) => sum + l.bytes, 0)
    lines.push(
      '',
      `${i.layers.length} weights, ${bytes(total)}; ${bytes(Math.max(i.bytes - total, 0))} for the rest (norms, biases, graph)`,
    )
  }
  return lines.map(printable).join('\n') + '\n'
}

function shape({ name, type, dims }: InspectedValue): string {
  return `${name}: ${type}${dims === null ? ' of any shape' : ` [${dims.map((d) => d ?? '?').join(', ')}]`}`
}
