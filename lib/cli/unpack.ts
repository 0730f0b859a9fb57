import { WhittleError } from '../errors'
import { FileBytes } from '../model/bytes'
import { Model } from '../model/model'
import { isWhittle } from '../model/whittle/container'
import { bytes } from '../report/format'
import { exitCode, onePath, parse, printable, UsageError, type Command, type Terminal } from './args'
import { ProgressBar } from './progress'

const kOptions = { output: { type: 'string', short: 'o' }, json: { type: 'boolean' } } as const

const kUnpackHelp = `Usage: whittle unpack <in.whittle> -o <out.onnx> [--json]

Turns a .whittle container back into the ONNX file that was packed, byte for byte. Models above 1.5 GB get their weights
in a file beside, <out.onnx>.data. The output appears when all is written and every checksum held, or not at all.

Options
  -o, --output <file>  where the ONNX file goes (needed)
      --json           one JSON document on stdout
  -h, --help           this text
`

const kPackHelp = `Usage: whittle pack <in.onnx> -o <out.whittle> [--json]

Stores a model entropy-coded, without changing a bit of it: whittle unpack gives the ONNX file back, and whittle run,
inspect and bench read the container as it is. Quantized and pruned models shrink by a fifth to four fifths, float ones by
a sixth. (whittle compress -o <out.whittle> does both at once.)

Options
  -o, --output <file>  where the container goes (needed); its name ends in .whittle
      --json           one JSON document on stdout
  -h, --help           this text
`

/** @internal */
export const unpack: Command = {
  name: 'unpack',
  summary: 'turn a .whittle container back into ONNX',
  help: kUnpackHelp,
  async run(args, terminal) {
    const { input, output, json } = read(args)
    if (/\.whittle$/i.test(output)) throw new UsageError('-o: an ONNX file is written; its name cannot end in .whittle')
    const file = new FileBytes(input)
    try {
      if (!isWhittle(file)) throw new WhittleError('ERR_MODEL_FORMAT', input, `${input}: not a .whittle container`)
    } finally {
      file.close()
    }
    return convert(input, output, json, terminal)
  },
}

/** @internal */
export const pack: Command = {
  name: 'pack',
  summary: 'store a model entropy-coded, without changing it',
  help: kPackHelp,
  async run(args, terminal) {
    const { input, output, json } = read(args)
    if (!/\.whittle$/i.test(output)) throw new UsageError('-o: the name of a container ends in .whittle')
    return convert(input, output, json, terminal)
  },
}

function read(args: readonly string[]): { input: string; output: string; json: boolean } {
  const { values, positionals } = parse(args, kOptions)
  const input = onePath(positionals, 'input file')
  if (!values.output) throw new UsageError('-o <file> is missing: where shall the result go?')
  return { input, output: onePath([values.output], 'output file'), json: values.json === true }
}

async function convert(input: string, output: string, json: boolean, terminal: Terminal): Promise<number> {
  const bar = new ProgressBar(terminal)
  const model = await Model.load(input)
  try {
    const saved = await model.save(output, {
      signal: terminal.signal,
      onProgress: ({ bytes: done, total }) => bar.update('write', done, total, output),
    })
    bar.clear()
    const before = model.fileBytes
    const share = ((100 * saved.bytes) / Math.max(1, before)).toFixed(1)
    terminal.out(
      json
        ? `${JSON.stringify({ input, output, before: { bytes: before }, after: { bytes: saved.bytes }, files: saved.files }, null, 2)}\n`
        : printable(`${input} → ${output}: ${bytes(before)} → ${bytes(saved.bytes)} (${share} %)\n`),
    )
  } finally {
    bar.clear()
    model.close()
  }
  return exitCode.done
}
