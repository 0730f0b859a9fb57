import type { Session } from '../session'
import { allocate, isDataType, sizeOf, type Tensor } from '../tensor'
import { UsageError } from './args'
import { readNpy } from './npy'

/** @internal `name=value` options as a map. */
export function pairs(given: readonly string[] | undefined, flag: string): Map<string, string> {
  const out = new Map<string, string>()
  for (const text of given ?? []) {
    const at = text.indexOf('=')
    if (at < 1 || at === text.length - 1) throw new UsageError(`${flag}: expected NAME=VALUE, got ${JSON.stringify(text)}`)
    const name = text.slice(0, at)
    if (out.has(name)) throw new UsageError(`${flag}: ${name} is given twice`)
    out.set(name, text.slice(at + 1))
  }
  return out
}

/** @internal `1x3x48x320` as dims. */
export function dimsOf(text: string, name: string): number[] {
  const dims = text === 'scalar' ? [] : text.split(/[x,]/).map((d) => (/^\d+$/.test(d) ? Number(d) : NaN))
  if (dims.some((d) => !(d < 2 ** 31))) throw new UsageError(`--shape: expected ${name}=1x3x224x224, got ${JSON.stringify(text)}`)
  return dims
}

/**
 * @internal A tensor for each input: from a file, or random numbers of a given shape. Sizes that are symbols are 1 unless
 * `strict`; integers are zeros.
 */
export function feedsOf(session: Session, files: Map<string, string>, shapes: Map<string, string>, strict: boolean): Record<string, Tensor> {
  const known = new Set(session.inputs.map((i) => i.name))
  for (const name of [...files.keys(), ...shapes.keys()])
    if (!known.has(name)) throw new UsageError(`the model has no input ${JSON.stringify(name)}; it has ${[...known].join(', ')}`)
  let state = 1
  const random = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 31 - 1
  }
  const feeds: Record<string, Tensor> = {}
  for (const { name, type, dims } of session.inputs) {
    const file = files.get(name)
    const shape = shapes.get(name)
    if (file !== undefined) {
      feeds[name] = readNpy(file)
      continue
    }
    const show = `${type} [${dims?.map((d) => d ?? '?').join(', ') ?? 'any shape'}]`
    if (shape === undefined && (strict || !dims)) throw new UsageError(`input ${name} (${show}) is missing: give --input ${name}=FILE.npy`)
    const size = shape !== undefined ? dimsOf(shape, name) : (dims ?? []).map((d) => (typeof d === 'number' ? d : 1))
    if (!isDataType(type)) throw new UsageError(`input ${name} is of type ${type}`)
    const data = allocate(type, sizeOf(size))
    if (type === 'float32' || type === 'float64') for (let i = 0; i < data.length; i++) data[i] = random() as never
    feeds[name] = { type, dims: size, data }
  }
  return feeds
}
