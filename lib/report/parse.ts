import { WhittleError } from '../errors'
import { describe } from '../validate'
import type { AnalysisSection, ReportSection } from './types'

/** Checks one value of a document; `where` names it in messages. */
type Check = (value: unknown, where: string) => void

function refuse(where: string, expected: string, got: unknown): never {
  throw new WhittleError('ERR_MODEL_FORMAT', where, `${where}: expected ${expected}, got ${describe(got)}`)
}

const text: Check = (v, where) => void (typeof v === 'string' || refuse(where, 'a string', v))
const number: Check = (v, where) => void ((typeof v === 'number' && Number.isFinite(v)) || refuse(where, 'a number', v))
const flag: Check = (v, where) => void (typeof v === 'boolean' || refuse(where, 'true or false', v))
const anything: Check = () => undefined
const orNull =
  (check: Check): Check =>
  (v, where) =>
    v === null ? undefined : check(v, where)
const list =
  (check: Check): Check =>
  (v, where) =>
    Array.isArray(v) ? v.forEach((x, i) => check(x, `${where}[${i}]`)) : refuse(where, 'a list', v)
const pair: Check = (v, where) => {
  list(number)(v, where)
  if ((v as unknown[]).length !== 2) refuse(where, 'two numbers', v)
}
const record =
  (check: Check): Check =>
  (v, where) => {
    if (v === null || typeof v !== 'object' || Array.isArray(v)) refuse(where, 'an object', v)
    for (const [key, value] of Object.entries(v)) check(value, `${where}.${key}`)
  }
/** Fields by name; those whose name ends in `?` may be missing, others that are not listed are let through. */
const fields =
  (shape: Readonly<Record<string, Check>>): Check =>
  (v, where) => {
    if (v === null || typeof v !== 'object' || Array.isArray(v)) refuse(where, 'an object', v)
    for (const [name, check] of Object.entries(shape)) {
      const key = name.replace('?', '')
      const value = (v as Record<string, unknown>)[key]
      if (value !== undefined || !name.endsWith('?')) check(value, `${where}.${key}`)
    }
  }

const figures = fields({ bytes: number, parameters: number, 'accuracy?': number, 'latency?': number })
const dims = list(number)

const layer = fields({
  name: text, op: text, weight: text, dims, 'dimsAfter?': dims, elements: number, action: text, 'reason?': text,
  'bits?': number, 'blockSize?': number, bytesBefore: number, bytesAfter: number, 'error?': orNull(number), 'sparsity?': number,
}) // prettier-ignore

const report = fields({
  version: text,
  model: text,
  recipe: fields({ name: text, steps: list(fields({ step: text })) }),
  before: figures,
  after: figures,
  steps: list(fields({ step: text, summary: text, layers: list(layer) })),
  limits: list(fields({ name: text, limit: number, actual: number, met: flag })),
  'blame?': list(fields({ layer: text, weight: text, snr: orNull(number), ownSnr: orNull(number), spared: flag, 'accuracyCost?': number })),
  'attempts?': list(fields({ spared: list(text), 'steps?': list(fields({ step: text })), bytes: number, 'accuracy?': number })),
})

const histogram = fields({ min: number, max: number, counts: list(number) })
const distribution = fields({
  elements: number, mean: number, std: number, sparsity: number, histogram,
  clips: fields({ minmax: pair, percentile: pair, mse: pair, mseBits: number }),
}) // prettier-ignore

const picture: Check = (v, where) => {
  fields({ rows: number, columns: number, cells: text, cell: pair })(v, where)
  const { rows, columns, cells } = v as { rows: number; columns: number; cells: string }
  if (!(rows > 0 && columns > 0) || cells.length !== rows * columns || !/^\d*$/.test(cells)) refuse(`${where}.cells`, `${rows * columns} digits`, cells)
}

const spectrum: Check = (v, where) => {
  fields({ shape: pair, at: list(number), values: list(number), computed: number, rank90: orNull(number), rank99: orNull(number), breakEven: number })(v, where)
  const { at, values } = v as { at: number[]; values: number[] }
  if (at.length !== values.length || at.length === 0) refuse(`${where}.values`, `${at.length || 'some'} values, as many as places`, values)
}

const analysis = fields({
  version: text, model: text, bytes: number, parameters: number, 'macs?': number, 'macsByType?': record(number), sparsity: number,
  'energy?': fields({ joules: number }),
  shapes: record(orNull(list(anything))),
  'accuracy?': number,
  notes: list(text),
  layers: list(fields({
    name: text, op: text, weight: text, type: text, dims, elements: number, bytes: number, 'macs?': number, values: distribution,
    snrByBits: record(orNull(number)), 'spectrum?': spectrum, 'mask?': picture, 'input?': distribution, 'output?': distribution,
    'sensitivity?': list(fields({ change: text, 'bits?': number, 'sparsity?': number, 'snr?': orNull(number), 'accuracy?': number })),
  })),
}) // prettier-ignore

const measurement = fields({ label: text, bytes: number, 'runtime?': text, 'accuracy?': number, 'latency?': number, 'reference?': flag })

const sectionOf: Check = (v, where) => {
  if (v !== null && typeof v === 'object' && 'report' in v)
    fields({ title: text, report, 'measurements?': list(measurement), 'accuracyName?': text, 'analysis?': analysis, 'resultAnalysis?': analysis })(v, where)
  else fields({ title: text, analysis })(v, where)
}

/**
 * Sections of a report out of JSON: what `whittle compress --json`, `--report x.json` or `whittle analyze --json` wrote.
 *
 * @param source the JSON text
 * @param name of the file, for messages and as a title where the document has none
 * @throws {WhittleError} `ERR_MODEL_FORMAT` naming the field that does not fit
 * @example
 * const html = renderHtml(parseReport(fs.readFileSync('report.json', 'utf8'), 'report.json'))
 */
export function parseReport(source: string, name = 'report'): (ReportSection | AnalysisSection)[] {
  let value: unknown
  try {
    value = JSON.parse(source)
  } catch (cause) {
    throw new WhittleError('ERR_MODEL_FORMAT', name, `${name}: expected JSON: ${(cause as Error).message}`, { cause })
  }
  const given = value as { steps?: unknown; layers?: unknown; sections?: unknown; model?: unknown } | null
  if (given === null || typeof given !== 'object') refuse(name, 'a report or an analysis', value)
  const title = typeof given.model === 'string' && given.model ? given.model : name
  const sections: unknown = Array.isArray(value) ? value : given.sections !== undefined ? given.sections : given.steps !== undefined ? [{ title, report: value }] : given.layers !== undefined ? [{ title, analysis: value }] : [value]
  list(sectionOf)(sections, name)
  if ((sections as unknown[]).length === 0) refuse(name, 'at least one section', sections)
  return sections as (ReportSection | AnalysisSection)[]
}
