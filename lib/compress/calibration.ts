import { WhittleError } from '../errors'
import type { Model } from '../model/model'
import { isDataType, type Tensor, type TensorLike, type TypedArray } from '../tensor'
import { fail } from '../validate'
import { heldIn, Pieces } from './pieces'
import type { Run } from './progress'
import { placed, Runner } from './runner'

/** One set of inputs by name, as `Session.run` takes them. */
export type Inputs = Readonly<Record<string, TensorLike | TypedArray>>

type Source = Iterable<Inputs> | AsyncIterable<Inputs>

/**
 * Inputs to calibrate on: a few dozen real ones. An array, or anything whose iterator can be asked for anew, is read as often
 * as steps need it and never held; of a generator or stream the values are copied, up to 1 GB. A function is called for
 * each reading, and may answer a promise.
 */
export type CalibrationData = Iterable<Inputs> | AsyncIterable<Inputs> | (() => Source | Promise<Source>)

const kMostHeld = 2 ** 30

/** @internal Calibration inputs that can be read again and again. */
export class Calibration {
  readonly #open: () => Source | Promise<Source>
  #held: Inputs[] | undefined
  readonly #hold: boolean

  private constructor(open: () => Source | Promise<Source>, hold: boolean) {
    this.#open = open
    this.#hold = hold
  }

  /** @throws `ERR_DTYPE` naming `parameter` for what is not iterable */
  static from(value: unknown, parameter = 'options.calibration'): Calibration {
    if (value instanceof Calibration) return value
    if (typeof value === 'function') return new Calibration(value as () => Source | Promise<Source>, false)
    if (!isIterable(value)) fail('ERR_DTYPE', parameter, 'an iterable of inputs', value)
    const source = value as Source
    return new Calibration(() => source, isOneShot(source))
  }

  /**
   * Every set of inputs, checked: objects whose floats are finite.
   *
   * @throws `ERR_RANGE` `calibration` if there is none, or for a NaN or infinity, naming the set and the input
   */
  async *inputs(): AsyncGenerator<Inputs, void, void> {
    if (this.#held) {
      yield* this.#held
      return
    }
    const opened: unknown = await this.#open()
    if (!isIterable(opened)) fail('ERR_DTYPE', 'calibration', 'a function that gives an iterable of inputs', opened)
    const held: Inputs[] = []
    let bytes = 0
    let count = 0
    for await (const inputs of opened as Source) {
      checkInputs(inputs, count)
      placed(inputs, count)
      count++
      if (this.#hold) {
        const copy = copyOf(inputs)
        bytes += byteLengthOf(copy)
        if (bytes > kMostHeld)
          throw new WhittleError(
            'ERR_RANGE',
            'calibration',
            'calibration: more than 1 GB in a source that can be read once only; give an array, or a function that opens it anew',
          )
        held.push(placed(copy, count - 1))
      }
      yield inputs
    }
    if (count === 0)
      throw new WhittleError('ERR_RANGE', 'calibration', 'calibration: expected at least one set of inputs, got none')
    if (this.#hold) this.#held = held
  }

  /**
   * Runs `model` over every set of inputs and shows the values that `fetch` names: any of the outermost graph, inputs of the
   * model among them. A callback that returns false ends the reading. Models whose weights are more than {@link Pieces.limit} run piece
   * by piece.
   */
  async each(
    model: Model,
    fetch: readonly string[],
    run: Run,
    callback: (values: ReadonlyMap<string, Tensor>, index: number, inputs: Inputs) => unknown,
    settings: EachOptions = {},
  ): Promise<void> {
    let index = 0
    for await (const { inputs, found } of this.#results(model, fetch.filter((name) => !model.graph.isInput(name)), run, settings)) {
      const values = new Map<string, Tensor>()
      for (const name of fetch) values.set(name, found[name] ?? given(model, inputs, name))
      if ((await callback(values, index, inputs)) === false) return
      index++
    }
  }

  /**
   * The same, each value shown as it is made and valid during the call only: all of a model's may be more than memory holds. Values of
   * one name come in the order of the sets.
   */
  async look(model: Model, names: readonly string[], run: Run, look: Look, { threads }: { readonly threads?: number } = {}): Promise<void> {
    const inner = names.filter((name) => !model.graph.isInput(name))
    const outer = names.filter((name) => model.graph.isInput(name))
    const sets = this.#told(run, 'calibrate')
    const read = async function* () {
      for await (const inputs of sets) {
        for (const name of outer) look(given(model, inputs, name), name)
        yield inputs
      }
    }
    const pieces = inner.length > 0 ? Pieces.of(model, inner) : undefined
    if (pieces) {
      for await (const _ of pieces.run(read(), { run, threads, look }));
      return
    }
    const runner = inner.length > 0 ? await Runner.create(heldIn(run.scratch, model), inner, threads === undefined ? {} : { threads }) : undefined
    try {
      runner?.tap(inner, look)
      for await (const inputs of read()) await runner?.run(inputs, run.signal ? { signal: run.signal } : {})
    } finally {
      runner?.dispose()
    }
  }

  async *#told(run: Run, phase: EachOptions['phase'] | 'none'): AsyncGenerator<Inputs, void, void> {
    let index = 0
    for await (const inputs of this.inputs()) {
      if (phase === 'none') run.check()
      else await run.tell(phase ?? 'calibrate', index, index + 1)
      yield inputs
      index++
    }
  }

  async *#results(model: Model, asked: readonly string[], run: Run, { threads, phase, inScratch = false }: EachOptions): AsyncGenerator<Result, void, void> {
    const told = this.#told(run, phase)
    const pieces = asked.length > 0 ? Pieces.of(model, asked) : undefined
    if (pieces) {
      yield* pieces.run(told, { run, threads })
      return
    }
    const held = inScratch ? heldIn(run.scratch, model) : model
    const session = asked.length > 0 ? await Runner.create(held, asked, threads === undefined ? {} : { threads }) : undefined
    try {
      const options = { fetch: asked, ...(run.signal ? { signal: run.signal } : {}) }
      for await (const inputs of told) yield { inputs, found: session ? await session.run(inputs, options) : {} }
    } finally {
      session?.dispose()
    }
  }
}

/** @internal Of {@link Calibration.each}. */
export interface EachOptions {
  readonly threads?: number
  /** What `run.tell` hears once for each set; nothing of `'none'`. Default `'calibrate'`. */
  readonly phase?: 'calibrate' | 'evaluate' | 'none'
  /** Whether the session's weights are read into the scratch of `run`, of which the callback then leaves `floats` and `weights` alone. */
  readonly inScratch?: boolean
}

/** @internal A value of the model, valid during the call. */
export type Look = (value: Tensor, name: string) => void

type Result = { readonly inputs: Inputs; readonly found: Readonly<Record<string, Tensor>> }

function given(model: Model, inputs: Inputs, name: string): Tensor {
  const value = inputs[name]
  if (value === undefined)
    throw new WhittleError('ERR_RANGE', 'calibration', `calibration: the model's input ${JSON.stringify(name)} is missing`)
  if (!ArrayBuffer.isView(value)) return value as unknown as Tensor
  const info = model.inputs.find((i) => i.name === name)
  const dims = info?.dims?.every((d) => typeof d === 'number') ? (info.dims as number[]) : [(value as TypedArray).length]
  return { type: info && isDataType(info.type) ? info.type : 'float32', dims, data: value } as unknown as Tensor
}

function isIterable(value: unknown): boolean {
  const it = value as { [Symbol.iterator]?: unknown; [Symbol.asyncIterator]?: unknown } | null | undefined
  return typeof it === 'object' && it !== null && (typeof it[Symbol.iterator] === 'function' || typeof it[Symbol.asyncIterator] === 'function')
}

/** Iterators and streams give themselves as their iterator: what was read is gone. */
function isOneShot(source: Source): boolean {
  if (typeof (source as { next?: unknown }).next === 'function') return true
  return typeof (source as Iterable<Inputs>)[Symbol.iterator] !== 'function' && typeof (source as { read?: unknown }).read === 'function'
}

const dataOf = (value: TensorLike | TypedArray): unknown => (ArrayBuffer.isView(value) ? value : value?.data)

function checkInputs(inputs: unknown, index: number): void {
  if (inputs === null || typeof inputs !== 'object' || ArrayBuffer.isView(inputs) || Array.isArray(inputs))
    fail('ERR_DTYPE', 'calibration', 'inputs by name, e.g. { x: tensor }', inputs)
  for (const [name, value] of Object.entries(inputs as Inputs)) {
    const data = dataOf(value)
    const kind = Object.prototype.toString.call(data)
    if (kind !== '[object Float32Array]' && kind !== '[object Float64Array]') continue
    const floats = data as Float32Array
    for (let i = 0; i < floats.length; i++)
      if (!Number.isFinite(floats[i]))
        throw new WhittleError(
          'ERR_RANGE',
          'calibration',
          `calibration: expected finite values, element ${i} of ${JSON.stringify(name)} in set ${index} is ${floats[i]}`,
        )
  }
}

function copyOf(inputs: Inputs): Inputs {
  return Object.fromEntries(
    Object.entries(inputs).map(([name, value]) => {
      if (ArrayBuffer.isView(value)) return [name, (value as TypedArray).slice()]
      const { data } = value
      return [name, { ...value, data: ArrayBuffer.isView(data) ? (data as TypedArray).slice() : data }]
    }),
  ) as Inputs
}

function byteLengthOf(inputs: Inputs): number {
  let sum = 0
  for (const value of Object.values(inputs)) {
    const data = dataOf(value)
    if (ArrayBuffer.isView(data)) sum += data.byteLength
  }
  return sum
}
