import { WhittleError } from '../errors'
import { weightOps } from '../model/weights'
import { boolean, fail, integer, nearest, oneOf, options } from '../validate'

/**
 * Which layers a step works on.
 *
 * Names are globs (`*` any run of characters, `?` one character, everything else literal) and are compared with the
 * name of the node as well as with the name of its weight tensor; `exclude` wins over `include`.
 */
export interface LayerSelector {
  /** Default: every layer. */
  readonly include?: readonly string[]
  readonly exclude?: readonly string[]
  /** Op types, e.g. `['Conv', 'MatMul']`. Default: every op that has weights. */
  readonly ops?: readonly string[]
  /** Smaller weights are left as they are. The default depends on the step. */
  readonly minElements?: number
  /** Choosing nothing is an error, a typing mistake more likely than a wish, and so is a name that fits no weight; `true`: neither is. */
  readonly optional?: boolean
}

/** A {@link LayerSelector}, or names and globs alone, which is short for its `include`. */
export type Layers = LayerSelector | string | readonly string[]

/** What a selector looks at. */
export interface Selectable {
  readonly name: string
  readonly op: string
  readonly weight: string
  readonly elements: number
}

/** @internal Checks a selector and brings it to its long form. */
export function parseSelector(value: unknown, parameter: string): LayerSelector {
  if (value === undefined) return {}
  if (typeof value === 'string' || Array.isArray(value)) return { include: globs(value, parameter) }
  const given = options(value, parameter, ['include', 'exclude', 'ops', 'minElements', 'optional'])
  return {
    ...(given.include === undefined ? {} : { include: globs(given.include, `${parameter}.include`) }),
    ...(given.exclude === undefined ? {} : { exclude: globs(given.exclude, `${parameter}.exclude`) }),
    ...(given.ops === undefined ? {} : { ops: globs(given.ops, `${parameter}.ops`).map((op, i) => oneOf(op, `${parameter}.ops[${i}]`, weightOps)) }),
    ...(given.minElements === undefined
      ? {}
      : { minElements: integer(given.minElements, `${parameter}.minElements`, 0) }),
    ...(given.optional === undefined ? {} : { optional: boolean(given.optional, `${parameter}.optional`) }),
  }
}

function globs(value: unknown, parameter: string): string[] {
  const list = typeof value === 'string' ? [value] : value
  if (!Array.isArray(list)) fail('ERR_DTYPE', parameter, 'a string or a list of strings', value)
  if (list.length === 0)
    throw new WhittleError('ERR_RANGE', parameter, `${parameter}: expected at least one name, got an empty list`)
  return list.map((item, i) => {
    if (typeof item !== 'string' || item === '') fail('ERR_DTYPE', `${parameter}[${i}]`, 'a name or glob', item)
    return item
  })
}

/** @internal True if `name` fits `glob`. Linear in both lengths for one star, never exponential. */
export function matches(glob: string, name: string): boolean {
  let g = 0
  let n = 0
  let star = -1
  let mark = 0
  while (n < name.length)
    if (glob[g] === '*') {
      star = g++
      mark = n
    } else if (g < glob.length && (glob[g] === '?' || glob[g] === name[n])) {
      g++
      n++
    } else if (star >= 0) {
      g = star + 1
      n = ++mark
    } else return false
  while (glob[g] === '*') g++
  return g === glob.length
}

/** @internal Whether `layer` is chosen; `defaultMin` applies where the selector has no `minElements`. */
export function selects(selector: LayerSelector, layer: Selectable, defaultMin: number): boolean {
  const named = (list: readonly string[]): boolean =>
    list.some((g) => matches(g, layer.name) || matches(g, layer.weight))
  if (selector.ops && !selector.ops.includes(layer.op)) return false
  if (layer.elements < (selector.minElements ?? defaultMin)) return false
  if (selector.include && !named(selector.include)) return false
  return !(selector.exclude && named(selector.exclude))
}

/**
 * @internal A selector whose names fit nothing is a typing error, not a wish to do nothing.
 *
 * @returns the error, which `compress` completes by the step
 */
export function unmatchedError(selector: LayerSelector, layers: readonly Selectable[]): WhittleError | undefined {
  if (selector.optional) return undefined
  const unmatched = unmatchedNames(selector, layers)
  if (unmatched.length === 0) return undefined
  const known = layers.flatMap((l) => [l.name, l.weight])
  const [only] = unmatched
  const hint = unmatched.length === 1 ? nearest(only, known) : ''
  return new WhittleError('ERR_RANGE', 'layers', `layers: no weight is called ${unmatched.map((u) => JSON.stringify(u)).join(', ')}${hint}`)
}

/** @internal The error where a selector that says something chooses none of the weights that there are. */
export function emptyError({ optional, ...selector }: LayerSelector, layers: number, defaultMin = 0, ops?: readonly string[]): WhittleError | undefined {
  if (optional || layers === 0 || Object.keys(selector).length === 0) return undefined
  const standard = [
    ...(selector.minElements === undefined && defaultMin > 1 ? [`of ${defaultMin} values or more`] : []),
    ...(selector.ops === undefined && ops ? [`of ${ops.join(', ')}`] : []),
  ].join(', ')
  return new WhittleError('ERR_RANGE', 'layers', `layers: expected to choose at least one of ${layers} weights, got ${JSON.stringify(selector)}, which fits none${standard && ` ${standard}`}`)
}

/** @internal */
export function unmatchedNames(selector: LayerSelector, layers: readonly Selectable[]): string[] {
  const names = [...(selector.include ?? []), ...(selector.exclude ?? [])]
  return names.filter((g) => !layers.some((l) => matches(g, l.name) || matches(g, l.weight)))
}
