import { WhittleError } from '../errors'
import { toHalves } from '../model/half'
import { attribute, type Node } from '../model/node'
import { ValueInfo } from '../model/types'
import type { Model } from '../model/model'
import { Session, type RunOptions, type TapFunction } from '../session'
import type { Tensor } from '../tensor'
import type { Inputs } from './calibration'
import { ease } from './paged'

/** Places of sets of inputs among those that a caller gave. */
const kPlaces = new WeakMap<Inputs, number>()

/** @internal What is wrong with `inputs` names this place in `calibration`. */
export function placed(inputs: Inputs, place: number): Inputs {
  kPlaces.set(inputs, place)
  return inputs
}

type Threads = { readonly threads?: number }

/**
 * @internal A model that is run to look at its values. Nodes that sessions have no kernel for run in onnxruntime-node, where that is
 * installed, so that every model that some runtime takes can be calibrated on.
 */
export class Runner {
  readonly #model: Model
  readonly #names: readonly string[]
  readonly #threads: Threads
  readonly #taps: (readonly [readonly string[], TapFunction])[] = []
  #session: Session
  #whole: boolean
  #told = false

  private constructor(model: Model, names: readonly string[], threads: Threads, session: Session, whole: boolean) {
    this.#model = model
    this.#names = names
    this.#threads = threads
    this.#session = session
    this.#whole = whole
  }

  /**
   * @param names values that will be fetched or tapped, beside the outputs
   * @throws {WhittleError} as `Session.create`; `ERR_UNSUPPORTED_OP` says what onnxruntime-node would help
   */
  static async create(given: Model, names: readonly string[] = [], threads: Threads = {}): Promise<Runner> {
    const model = seeded(given)
    try {
      const session = await Session.create(model, threads)
      // What the weights were read into.
      ease()
      return new Runner(model, names, threads, session, true)
    } catch (error) {
      return new Runner(model, names, threads, await withFallback(error, model, names, threads), false)
    }
  }

  /** As `Session.tap`. */
  tap(names: readonly string[], look: TapFunction): void {
    const told: TapFunction = (view, name) => {
      this.#told = true
      return look(view, name)
    }
    this.#taps.push([names, told])
    this.#session.tap(names, told)
  }

  /**
   * As `Session.run`, but float32 values also go where a step made an input float16. What a session cannot do may show only now,
   * where shapes hang on the inputs.
   */
  async run(given: Inputs, options: RunOptions = {}): Promise<Record<string, Tensor>> {
    try {
      return await this.#run(given, options)
    } catch (error) {
      throw ofCalibration(error, given)
    }
  }

  async #run(given: Inputs, options: RunOptions): Promise<Record<string, Tensor>> {
    const inputs = this.#halved(given)
    const asked = { fetch: this.#model.graph.outputs.map((o) => o.name), ...options }
    try {
      const found = await this.#session.run(inputs, asked)
      // The first run lays weights out anew.
      ease()
      return found
    } catch (error) {
      // A second run would tell taps what they heard already.
      if (!this.#whole || this.#told) throw error
      const session = await withFallback(error, this.#model, this.#names, this.#threads)
      this.#session.dispose()
      this.#session = session
      this.#whole = false
      for (const [names, look] of this.#taps) session.tap(names, look)
      return await session.run(inputs, asked)
    }
  }

  #halved(inputs: Inputs): Inputs {
    const names = this.#model.graph.inputs.filter((i) => i.type === 'float16').map((i) => i.name)
    const made = names.flatMap((name) => {
      const value = inputs[name]
      if (value === undefined || ArrayBuffer.isView(value) || value.type !== 'float32') return []
      return [[name, { type: 'float16', dims: value.dims, data: toHalves(value.data as Float32Array) }] as const]
    })
    return made.length > 0 ? { ...inputs, ...Object.fromEntries(made) } : inputs
  }

  dispose(): void {
    this.#session.dispose()
  }
}

const kRandom = ['RandomNormal', 'RandomNormalLike', 'RandomUniform', 'RandomUniformLike', 'Bernoulli', 'Multinomial', 'Dropout'] as const

/** What a model draws by chance is drawn alike whenever it is calibrated, so that the same recipe makes the same bytes. */
function seeded(model: Model): Model {
  const isOpen = (node: Node): boolean => node.is(...kRandom) && !node.attributes.has('seed')
  let open = 0
  model.graph.walk((node) => void (open += Number(isOpen(node))))
  if (open === 0) return model
  const copy = model.clone()
  copy.graph.walk((node) => void (isOpen(node) && node.attributes.set('seed', node.is('Dropout') ? attribute.int(open--) : attribute.float(open--))))
  return copy
}

/** A caller knows a session's `inputs` as `calibration`. */
function ofCalibration(error: unknown, inputs: Inputs): unknown {
  if (!(error instanceof WhittleError) || !error.parameter?.startsWith('inputs')) return error
  const place = kPlaces.get(inputs)
  const name = place === undefined ? 'calibration' : `calibration[${place}]`
  return new WhittleError(error.code, error.parameter.replace('inputs', name), error.message.replace('inputs', name), { cause: error })
}

async function withFallback(
  error: unknown,
  model: Model,
  names: readonly string[],
  threads: Threads,
): Promise<Session> {
  if (!(error instanceof WhittleError) || error.code !== 'ERR_UNSUPPORTED_OP') throw error
  const open = model.clone()
  const { graph } = open
  // What lies between two nodes there can only be had as an output.
  const inner = [...new Set(names)].filter((name) => graph.producer(name) && !graph.isOutput(name))
  graph.outputs = [...graph.outputs, ...inner.map((name) => new ValueInfo(name, 'undefined', null, 'unknown'))]
  try {
    return await Session.create(open, { ...threads, fallback: 'onnxruntime' })
  } catch (cause) {
    if (!(cause instanceof WhittleError) || cause.code !== 'ERR_DEVICE') throw cause
    const { parameter, message } = error
    throw new WhittleError(
      'ERR_UNSUPPORTED_OP',
      parameter,
      `${message}; calibration would run it in onnxruntime-node (npm install onnxruntime-node), which cannot be loaded`,
      { cause },
    )
  }
}
