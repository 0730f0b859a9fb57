import { onnxruntimeNode } from '../analyze/latency'
import { WhittleError } from '../errors'
import { devices } from '../kernels'
import { medianOf } from '../metrics/evaluate'
import { elide, percent, table } from '../report/format'
import { Session } from '../session'
import type { Tensor } from '../tensor'
import { exitCode, numberOf, onePath, parse, printable, UsageError, type Command } from './args'
import { feedsOf, pairs } from './feeds'

const kHelp = `Usage: whittle bench <model.onnx> [--against onnxruntime] [options]

Times a model: both sides in turn, the same inputs and threads, after a warm-up; medians. Then the time of every layer.

Options
      --against onnxruntime    compare with onnxruntime-node (npm install onnxruntime-node)
      --input NAME=FILE.npy    an input; without one: random numbers, sizes that the model leaves open are 1
      --shape NAME=1x3x48x320  the shape of a random input
      --threads N              threads of either side; default: all
      --runs N                 runs a side; default 30
      --layers N               layers in the table; default 12
      --json                   one JSON document on stdout
  -h, --help                   this text
`

interface Rival {
  run(): Promise<Record<string, Tensor>>
}

async function onnxruntime(file: string, feeds: Record<string, Tensor>, threads: number): Promise<Rival> {
  const ort = onnxruntimeNode()
  if (!ort) throw new WhittleError('ERR_IO', '--against', 'onnxruntime-node is not installed: npm install onnxruntime-node')
  const session = await ort.InferenceSession.create(file, {
    intraOpNumThreads: threads,
    interOpNumThreads: 1,
    logSeverityLevel: 3,
    // Its threads do not spin into the other side's runs.
    extra: { session: { force_spinning_stop: '1' } },
  })
  const given = Object.fromEntries(Object.entries(feeds).map(([name, t]) => [name, new ort.Tensor(t.type, t.data, t.dims)]))
  return { run: async () => (await session.run(given)) as Record<string, Tensor> }
}

/** The largest difference of two sides' outputs, relative to the largest magnitude. */
function distance(ours: Record<string, Tensor>, theirs: Record<string, Tensor>): number {
  let worst = 0
  for (const [name, t] of Object.entries(theirs)) {
    let [far, top] = [0, 1e-30]
    const own = ours[name]?.data
    for (let i = 0; i < t.data.length; i++) {
      top = Math.max(top, Math.abs(Number(t.data[i])))
      far = Math.max(far, Math.abs(Number(t.data[i]) - Number(own?.[i])))
    }
    worst = Math.max(worst, far / top)
  }
  return worst
}

/** @internal */
export const bench: Command = {
  name: 'bench',
  summary: 'time a model, layer by layer and against onnxruntime',
  help: kHelp,
  async run(args, terminal) {
    const text = { type: 'string' } as const
    const many = { type: 'string', multiple: true } as const
    const { values, positionals } = parse(args, { against: text, input: many, shape: many, threads: text, runs: text, layers: text, json: { type: 'boolean' } })
    const file = onePath(positionals, 'model file')
    if (values.against !== undefined && values.against !== 'onnxruntime') throw new UsageError(`--against: expected onnxruntime, got ${JSON.stringify(values.against)}`)
    const whole = (t: string | undefined, flag: string, value: number, most: number): number => {
      const n = t === undefined ? value : numberOf(t, flag)
      if (!Number.isInteger(n) || n < 1 || n > most) throw new UsageError(`${flag}: expected an integer from 1 to ${most}, got ${n}`)
      return n
    }
    const threads = whole(values.threads, '--threads', devices().cpu.threads, 256)
    const runs = whole(values.runs, '--runs', 30, 100_000)
    const layers = whole(values.layers, '--layers', 12, 100_000)
    const session = await Session.create(file, { threads })
    const profiled = await Session.create(file, { threads, profile: true })
    try {
      const feeds = feedsOf(session, pairs(values.input, '--input'), pairs(values.shape, '--shape'), false)
      const rival = values.against ? await onnxruntime(file, feeds, threads) : undefined
      const ours: number[] = []
      const theirs: number[] = []
      let different: number | undefined
      const clock = async <T>(f: () => Promise<T>, into: number[]): Promise<T> => {
        const start = performance.now()
        const value = await f()
        into.push(performance.now() - start)
        return value
      }
      for (let i = 0; i < runs + 3; i++) {
        const a = await clock(() => session.run(feeds, { signal: terminal.signal }), ours)
        const b = rival && (await clock(() => rival.run(), theirs))
        if (i === 0 && b) different = distance(a, b)
        await profiled.run(feeds)
        // What comes first warms up.
        if (i === 2) for (const list of [ours, theirs]) list.length = 0
      }
      const [own, other] = [medianOf(ours), rival ? medianOf(theirs) : undefined]
      const report = profiled.profile()
      const steps = [...report.steps].sort((x, y) => y.ms - x.ms).slice(0, layers)
      const found = {
        file,
        threads,
        runs,
        ours_ms: own,
        ...(other === undefined ? {} : { rival: 'onnxruntime-node', rival_ms: other, ratio: other / own, difference: different }),
        layers: steps.map((s) => ({ op: s.op, node: s.node, ...(s.choice && { choice: s.choice }), ...(s.variant && { variant: s.variant }), ms: s.ms / s.runs, share: s.share })),
      }
      if (values.json) terminal.out(`${JSON.stringify(found, null, 2)}\n`)
      else {
        const lines = [`${printable(file)}, ${threads} thread${threads > 1 ? 's' : ''}, median of ${runs} runs`, `whittle          ${own.toFixed(3)} ms`]
        if (other !== undefined) lines.push(`onnxruntime-node ${other.toFixed(3)} ms, ${(other / own).toFixed(2)} times ours; outputs differ by ${(different ?? 0).toExponential(1)}`)
        const rows = steps.map((s) => [s.op, s.choice ?? '', s.variant ?? '', elide(printable(s.node), 48), `${((s.ms / s.runs) * 1000).toFixed(1)}`, percent(s.share, 1)])
        lines.push('', table(['step', 'way', 'kernels', 'node', 'µs', 'share'], rows, [4, 5]))
        if (report.steps.length > steps.length) lines.push(`… and ${report.steps.length - steps.length} more steps`)
        terminal.out(`${lines.join('\n')}\n`)
      }
      return exitCode.done
    } finally {
      session.dispose()
      profiled.dispose()
    }
  },
}
