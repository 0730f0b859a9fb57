import { table } from '../report/format'
import { writeFileWhole } from '../report/write'
import { Session } from '../session'
import type { Tensor } from '../tensor'
import { exitCode, numberOf, onePath, parse, printable, type Command } from './args'
import { feedsOf, pairs } from './feeds'
import { writeNpy } from './npy'

const kHelp = `Usage: whittle run <model.onnx> --input NAME=FILE.npy … [options]

Runs a model once and says what came out.

Options
      --input NAME=FILE.npy    an input, as numpy.save writes it; repeat for each
      --shape NAME=1x3x48x320  random numbers of this shape instead of a file (integers: zeros)
      --output NAME=FILE.npy   write an output, or any value of the graph, to a file; repeat
      --threads N              threads to use
      --profile FILE.json      write the time of every step as a Chrome trace
      --json                   one JSON document on stdout
  -h, --help                   this text
`

/** @internal */
export const run: Command = {
  name: 'run',
  summary: 'run a model once',
  help: kHelp,
  async run(args, terminal) {
    const text = { type: 'string' } as const
    const many = { type: 'string', multiple: true } as const
    const { values, positionals } = parse(args, { input: many, shape: many, output: many, threads: text, profile: text, json: { type: 'boolean' } })
    const path = onePath(positionals, 'model file')
    const outputs = pairs(values.output, '--output')
    const [files, shapes] = [pairs(values.input, '--input'), pairs(values.shape, '--shape')]
    const threads = values.threads === undefined ? {} : { threads: numberOf(values.threads, '--threads') }
    const session = await Session.create(path, { ...threads, profile: values.profile !== undefined })
    try {
      const feeds = feedsOf(session, files, shapes, true)
      const fetch = [...new Set([...session.outputs.map((o) => o.name), ...outputs.keys()])]
      const start = performance.now()
      const results = await session.run(feeds, { fetch, signal: terminal.signal })
      const ms = performance.now() - start
      for (const [name, file] of outputs) writeNpy(file, results[name] as Tensor)
      if (values.profile !== undefined) writeFileWhole(values.profile, JSON.stringify(session.profile().trace))
      const rows = Object.entries(results).map(([name, t]) => ({ name, type: t.type, dims: t.dims, ...summary(t) }))
      if (values.json) terminal.out(`${JSON.stringify({ file: path, ms, outputs: rows }, null, 2)}\n`)
      else {
        const lines = rows.map((r) => [printable(r.name), r.type, `[${r.dims.join(', ')}]`, show(r.min), show(r.max), show(r.mean), r.first.map(show).join(' ')])
        terminal.out(`${table(['output', 'type', 'shape', 'min', 'max', 'mean', 'first'], lines, [3, 4, 5])}\n\n${ms.toFixed(1)} ms with planning\n`)
      }
      return exitCode.done
    } finally {
      session.dispose()
    }
  },
}

function summary({ data }: Tensor): { min: number | null; max: number | null; mean: number | null; first: number[] } {
  let [min, max, sum] = [Infinity, -Infinity, 0]
  for (let i = 0; i < data.length; i++) {
    const v = Number(data[i])
    min = Math.min(min, v)
    max = Math.max(max, v)
    sum += v
  }
  const known = data.length > 0
  return { min: known ? min : null, max: known ? max : null, mean: known ? sum / data.length : null, first: Array.from(data.slice(0, 4) as Iterable<number | bigint>, Number) }
}

function show(v: number | null): string {
  return v === null ? '-' : Number.isInteger(v) ? String(v) : v.toPrecision(5)
}
