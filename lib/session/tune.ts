import { WhittleError } from '../errors'
import { native } from '../native'
import { allocate, type TypedArray } from '../tensor'
import { describe, fail } from '../validate'
import type { Census } from './cost'
import { Constants, Program, type Argument, type Memory } from './program'
import { readMeasured, writeMeasured, type Measured } from './tunecache'

/** Ways to compute a layer with weights that lie whole. */
export const kDenseWays: readonly string[] = ['dense', 'rows', 'tiles', 'tiles2', 'narrow']

/** The kernel that each layer runs on, by the name of the layer's result. */
export type Choices = Readonly<Record<string, string>>

/** How kernels are chosen; see `SessionOptions.tune`. */
export type Tune = 'model' | 'measure' | Choices | { readonly choices: Choices }

/** @internal */
export type CheckedTune = 'model' | 'measure' | { readonly choices: Choices }

/** One way to compute a layer. */
export interface Candidate {
  readonly name: string
  /** by the model of this CPU's kernels */
  readonly cost: number
}

/** A layer that may run in several ways. */
export interface Layer<C extends Candidate> {
  /** name of its result in the graph */
  readonly name: string
  /** all that its time depends on, in words */
  readonly shape: string
  readonly candidates: readonly C[]
  readonly op: string
  /** bytes of what it reads and writes */
  readonly bytes: { readonly x: number; readonly residual: number; readonly out: number }
  /** the step's numbers and operands */
  readonly step: (candidate: C, constants: Constants, x: Memory, residual: Memory | null, out: Memory) => readonly Argument[]
}

/** Candidates of any layer that are measured, besides the dense ones: the best by the model. */
const kMeasured = 3
const kRounds = 7
/** Rounds end after this many milliseconds a layer, but not before three. */
const kPatience = 60

/** @internal Chooses, by whichever way the session was told, and remembers what it learned. */
export class Tuner {
  readonly #saved: ReadonlyMap<string, string> | undefined
  readonly #measures: boolean
  readonly #threads: number
  readonly #census = new Map<string, Census | undefined>()
  #measured: Measured | undefined

  constructor(tune: CheckedTune, threads: number) {
    this.#measures = tune === 'measure'
    this.#saved = typeof tune === 'string' ? undefined : new Map(Object.entries(tune.choices))
    this.#threads = threads
  }

  /** For a loop's body, whose names are its own. */
  inner(): Tuner {
    return new Tuner(this.#measures ? 'measure' : 'model', this.#threads)
  }

  /** What weights hold, looked at once. */
  census(key: string, look: () => Census | undefined): Census | undefined {
    if (!this.#census.has(key)) this.#census.set(key, look())
    return this.#census.get(key)
  }

  choose<C extends Candidate>(layer: Layer<C>): C {
    const { candidates, name } = layer
    const saved = this.#saved?.get(name)
    if (saved !== undefined) {
      const found = candidates.find((c) => c.name === saved)
      if (!found)
        throw new WhittleError('ERR_RANGE', `options.tune.${name}`, `options.tune.${name}: expected one of ${candidates.map((c) => c.name).join(', ')}, got ${JSON.stringify(saved)}`)
      return found
    }
    const best = candidates.reduce((a, b) => (b.cost < a.cost ? b : a))
    if (!this.#measures || candidates.length < 2) return best
    this.#measured ??= readMeasured(this.#threads)
    const known = this.#measured.layers.get(layer.shape)
    const found = candidates.find((c) => c.name === known)
    if (found) return found
    const measured = this.#measure(layer) ?? best
    this.#measured.layers.set(layer.shape, measured.name)
    this.#measured.fresh.add(layer.shape)
    return measured
  }

  /** Has what was measured written, where it can be. */
  save(): void {
    if (this.#measured && this.#measured.fresh.size > 0) writeMeasured(this.#measured)
  }

  /** The fastest here and now; undefined where nothing could be run. */
  #measure<C extends Candidate>(layer: Layer<C>): C | undefined {
    const sparse = layer.candidates.filter((c) => c.cost > 0).sort((a, b) => a.cost - b.cost)
    const tried = layer.candidates.filter((c) => !isSparse(c.name) || sparse.filter((s) => isSparse(s.name)).slice(0, kMeasured).includes(c))
    const session = native().sessionNew(0, -1)
    if (!session) return undefined
    const inputs: TypedArray[] = [bytes(layer.bytes.x), ...(layer.bytes.residual ? [bytes(layer.bytes.residual)] : [])]
    const outputs = [allocate('uint8', layer.bytes.out)]
    const runs = tried.flatMap((candidate) => {
      const constants = new Constants(session)
      const program = new Program()
      const x = program.input(layer.bytes.x)
      const residual = layer.bytes.residual ? program.input(layer.bytes.residual) : null
      const out = program.memory('uint8', layer.bytes.out)
      program.step(layer.op, layer.name, ...layer.step(candidate, constants, x, residual, out))
      program.bindOutput(out)
      const numbers = program.encode()
      const plan = native().sessionPlan(session, numbers.length, numbers)
      if (typeof plan !== 'number') return []
      const times = new Float64Array(1)
      const run = (): number => {
        const status = native().sessionRun(session, plan, inputs, outputs, this.#threads, times, null, null, 0, 0)
        return status === 0 ? (times[0] as number) : Infinity
      }
      return run() < Infinity ? [{ candidate, run, best: Infinity }] : []
    })
    const end = performance.now() + kPatience
    for (let round = 0; round < kRounds && (round < 3 || performance.now() < end); round++) for (const r of runs) r.best = Math.min(r.best, r.run())
    return runs.reduce<(typeof runs)[number] | undefined>((a, b) => (a && a.best <= b.best ? a : b), undefined)?.candidate
  }
}

/** Whether a choice names a sparse format. */
export function isSparse(name: string): boolean {
  return name === 'csr' || /^\d+[x:]\d+$/.test(name)
}

/** Activations as they might be: floats about 1 in size, codes of all kinds. */
function bytes(count: number): Uint8Array {
  const floats = Float32Array.from({ length: Math.ceil(count / 4) }, (_, i) => (((i * 2654435761) >>> 8) / 2 ** 24 - 0.5) * 2)
  return new Uint8Array(floats.buffer).subarray(0, count)
}

/** Checks `options.tune`. */
export function checkTune(given: unknown): CheckedTune {
  if (given === undefined || given === 'model' || given === 'measure') return given ?? 'model'
  const expected = `'model', 'measure', or the plan of a session`
  if (typeof given === 'string') fail('ERR_RANGE', 'options.tune', expected, given)
  if (given === null || typeof given !== 'object' || Array.isArray(given) || ArrayBuffer.isView(given)) fail('ERR_DTYPE', 'options.tune', expected, given)
  const inner = (given as { choices?: unknown }).choices
  const choices = inner !== undefined && typeof inner !== 'string' ? inner : given
  if (choices === null || typeof choices !== 'object' || Array.isArray(choices)) fail('ERR_DTYPE', 'options.tune.choices', 'an object of names of kernels', choices)
  const copy: Record<string, string> = {}
  for (const [name, choice] of Object.entries(choices)) {
    if (typeof choice !== 'string') fail('ERR_DTYPE', `options.tune.${name}`, 'the name of a kernel', choice)
    if (!kDenseWays.includes(choice) && !isSparse(choice)) fail('ERR_RANGE', `options.tune.${name}`, `'${kDenseWays.join("', '")}', 'csr', or a pattern such as '1x4' or '2:4'`, describe(choice))
    copy[name] = choice
  }
  return { choices: copy }
}
