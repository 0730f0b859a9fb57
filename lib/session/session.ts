import { WhittleError } from '../errors'
import { pin } from '../async'
import { Handle, handleObject, registerHandle } from '../handle'
import { Model, type Dim } from '../model'
import { checkDevice, type DeviceTensor } from '../kernels/device'
import { native } from '../native'
import { isDataType, type Tensor, type TensorLike } from '../tensor'
import { fail, integer, options as checkOptions, tensor } from '../validate'
import { callAgain, isPlain, namesOf, outputsFor, pickOutputs, remember, type Seen } from './again'
import { prepare } from './prepare'
import { answers, fresh, isDeviceTensor, letGo, resident } from './resident'
import { Profiler, type ProfileReport } from './profile'
import { checkDeviceOps, kCpu, place, type Placed } from './device'
import { Constants, type RunArguments } from './program'
import { Fallback } from './foreign'
import { checkOps, execute, Stage, type NativeCall, type RunEvent, type Waiting } from './stages'
import { checkTune, Tuner, type CheckedTune } from './tune'
import type { PlanReport, PlanStep, RunOptions, SessionInputs, SessionOptions, SessionValue, TapFunction } from './types'

type Steps = Generator<RunEvent, Map<string, Tensor>, void>

class SessionHandle extends Handle {
  constructor(object: unknown) {
    super('Session', object)
  }
}
registerHandle('Session', (object) => new SessionHandle(object))

/**
 * A model ready to run, on the CPU or a GPU: lowered once for each set of input shapes to a flat list of kernels, with batch
 * normalization, activations and residual additions folded into products, weights packed for this machine, and working
 * memory laid out beforehand. A run is one native call.
 *
 * Float32 results agree with ONNX's definition to rounding: sums are taken in another order than other runtimes take
 * them, and constant scales are folded into weights in double precision.
 *
 * @example
 * const session = await Session.create('model.onnx', { threads: 2 })
 * const { y } = await session.run({ x: { type: 'float32', dims: [1, 3, 224, 224], data } })
 */
export class Session {
  #model!: Model
  #handle!: SessionHandle
  readonly #threads: number
  readonly #profiler: Profiler | undefined
  #constants!: Constants
  #placed: Placed
  readonly #tune: CheckedTune
  readonly #fallback: Fallback | undefined
  #stage!: Stage
  #given: Model
  /** the same without fusion, where every value has its name; made when such a name is asked for */
  #plain: Stage | undefined
  #plainModel: Model | undefined
  readonly #taps = new Map<string, Set<TapFunction>>()
  #last: Seen | undefined
  /** The model's inputs, those with default values left out. */
  readonly inputs: readonly SessionValue[]
  readonly outputs: readonly SessionValue[]

  private constructor(model: Model, threads: number, profile: boolean, tune: CheckedTune, fallback: Fallback | undefined, placed: Placed) {
    this.#profiler = profile ? new Profiler() : undefined
    this.#given = model
    this.#fallback = fallback
    this.#threads = threads
    this.#tune = tune
    this.#placed = placed
    this.#open()
    const { graph } = this.#model
    this.inputs = graph.inputs
      .filter((i) => !graph.initializers.has(i.name))
      .map(({ name, type, dims }) => ({ name, type, dims }))
    this.outputs = graph.outputs.map(({ name, type, dims }) => ({ name, type, dims }))
  }

  /**
   * Prepares a model. Where all input shapes are fixed the plan is made at once, else at the first run of each shape.
   *
   * @param model a model, the path of an ONNX file, or its bytes
   * @throws {WhittleError} `ERR_UNSUPPORTED_OP` naming the node for an op without kernel, `ERR_MODEL_FORMAT`, `ERR_IO`,
   * `ERR_DEVICE` for a fallback that is not installed; `ERR_RANGE` for a `tune` that names no kernel of a layer
   */
  static async create(model: Model | string | Uint8Array | ArrayBuffer, options?: SessionOptions): Promise<Session> {
    const { threads, profile, fallback, tune, device } = checkOptions(options, 'options', ['threads', 'profile', 'fallback', 'tune', 'device'])
    if (profile !== undefined && typeof profile !== 'boolean') fail('ERR_DTYPE', 'options.profile', 'a boolean', profile)
    if (fallback !== undefined && fallback !== 'onnxruntime') fail('ERR_RANGE', 'options.fallback', "'onnxruntime'", fallback)
    const n = threads === undefined ? 0 : integer(threads, 'options.threads', 1, 256)
    const how = checkTune(tune)
    const placed = place(device)
    if (device !== undefined && device !== 'cpu' && (fallback !== undefined || tune !== undefined))
      fail('ERR_RANGE', fallback !== undefined ? 'options.fallback' : 'options.tune', "nothing where options.device is not 'cpu'", fallback ?? tune)
    const loaded = model instanceof Model ? model : await Model.load(model)
    const session = new Session(loaded, n, profile === true, how, fallback && new Fallback(loaded, n), placed)
    // Branches and bodies have names of their own.
    if (typeof how === 'object' && !session.#given.graph.nodes.some((node) => node.subgraphs().length > 0))
      for (const name of Object.keys(how.choices)) session.#checkNames([name], `options.tune.${name}`)
    const fixed = session.inputs.map((i) => i.dims)
    if (fixed.every((d) => d?.every((x) => typeof x === 'number')))
      session.plan(Object.fromEntries(session.inputs.map((i) => [i.name, i.dims as readonly number[]])))
    await session.#fallback?.open()
    return session
  }

  /**
   * Runs the model off the main thread.
   *
   * @param inputs a tensor for each input, by name
   * @returns the outputs by name
   * @throws {WhittleError} `ERR_SHAPE`, `ERR_DTYPE` naming the input; `ERR_UNSUPPORTED_OP`; `ERR_ABORTED`; `ERR_HANDLE`
   * after {@link dispose}
   */
  run(inputs: SessionInputs, options: RunOptions & { location: 'device' }): Promise<Record<string, DeviceTensor>>
  run(inputs: SessionInputs, options?: RunOptions): Promise<Record<string, Tensor>>
  async run(inputs: SessionInputs, options?: RunOptions): Promise<Record<string, Tensor | DeviceTensor>> {
    const again = this.#again(inputs, options)
    if (again) {
      await this.#callAsync(again, null)
      return this.#answers(namesOf(again), again.outputs, options, inputs)
    }
    const { tensors, names, signal } = this.#prepare(inputs, options)
    if (signal?.aborted) throw new WhittleError('ERR_ABORTED', 'options.signal', 'options.signal: aborted')
    let flag: Int32Array | null = null
    const stop = (): void => void (flag && Atomics.store(flag, 0, 1))
    if (signal) {
      flag = new Int32Array(new SharedArrayBuffer(4))
      signal.addEventListener('abort', stop, { once: true })
    }
    const taps = this.#tapped()
    let steps: Steps | undefined
    let told = false
    try {
      // Plans are made at once, so that what is wrong with the inputs is known before anything runs.
      steps = this.#begin(tensors, names, taps, options)
      for (;;) {
        let step: ReturnType<Steps['next']>
        try {
          step = steps.next()
        } catch (error) {
          if (told || !this.#retake(error)) throw error
          steps = this.#begin(tensors, names, taps, options)
          continue
        }
        if (step.done) return this.#answers(names, pickOutputs(step.value, names), options, inputs)
        if ('wait' in step.value) {
          await this.#waitFor(step.value, signal)
          continue
        }
        if ('tapped' in step.value) {
          told = true
          for (const look of taps.get(step.value.tapped) ?? []) await look(step.value.view, step.value.tapped)
          continue
        }
        await this.#callAsync(step.value, flag)
        if (!this.#fallback && isPlain(options)) this.#last = remember(step.value, tensors, names)
      }
    } finally {
      steps?.return(new Map())
      signal?.removeEventListener('abort', stop)
    }
  }

  /** {@link run} on this thread. What {@link SessionOptions.fallback} left to onnxruntime-node cannot run so: `ERR_UNSUPPORTED_OP`. */
  runSync(inputs: SessionInputs, options: RunOptions & { location: 'device' }): Record<string, DeviceTensor>
  runSync(inputs: SessionInputs, options?: RunOptions): Record<string, Tensor>
  runSync(inputs: SessionInputs, options?: RunOptions): Record<string, Tensor | DeviceTensor> {
    const again = this.#again(inputs, options)
    if (again) {
      this.#call(again)
      return this.#answers(namesOf(again), again.outputs, options, inputs)
    }
    const { tensors, names } = this.#prepare(inputs, options)
    const taps = this.#tapped()
    let steps = this.#begin(tensors, names, taps, options)
    try {
      for (;;) {
        let step: ReturnType<Steps['next']>
        try {
          step = steps.next()
        } catch (error) {
          if (!this.#leave(error)) throw error
          steps = this.#begin(tensors, names, taps, options)
          continue
        }
        if (step.done) return this.#answers(names, pickOutputs(step.value, names), options, inputs)
        if ('wait' in step.value) {
          const { waits } = step.value
          throw new WhittleError('ERR_UNSUPPORTED_OP', waits, `runSync: ${waits} runs in onnxruntime-node, which is asynchronous only: use run`)
        }
        if ('tapped' in step.value) {
          for (const look of taps.get(step.value.tapped) ?? []) finish(look(step.value.view, step.value.tapped))
          continue
        }
        this.#call(step.value)
        if (!this.#fallback && isPlain(options)) this.#last = remember(step.value, tensors, names)
      }
    } finally {
      steps.return(new Map())
    }
  }

  /**
   * Has `view` called with a value of the graph in every later run, as soon as the value is there, so that many values can be
   * looked at without holding them all. It sees row-major tensors of the value's own type, in an order that agrees with the
   * graph. What it throws ends the run and is thrown by it; runs under way keep the functions that they began with.
   *
   * Values that fusion would swallow are kept apart, which costs speed; one inside a fused formula (a GELU, an attention) has
   * the session keep the weights a second time, for a plan without such formulas. Values of subgraphs (loop bodies) cannot be seen.
   *
   * @param name a value of the model, or several; inputs and outputs too
   * @param view told the tensor and its name; see {@link TapFunction} for how long it is good
   * @returns ends it
   * @throws {WhittleError} `ERR_RANGE` for a name that is no value of the model, `ERR_DTYPE`, `ERR_HANDLE`
   *
   * @example
   * const range = new Map<string, number>()
   * const end = session.tap(['conv1', 'conv2'], (view, name) => range.set(name, Math.max(range.get(name) ?? 0, ...view.data)))
   * for (const x of images) await session.run({ x })
   * end()
   */
  tap(name: string | readonly string[], view: TapFunction): () => void {
    this.#object()
    if (this.#placed.index >= 0) throw new WhittleError('ERR_DEVICE', 'name', `name: values on ${this.#placed.name} cannot be tapped; fetch them`)
    const names = this.#checkNames(typeof name === 'string' ? [name] : name, 'name')
    if (typeof view !== 'function') fail('ERR_DTYPE', 'view', 'a function', view)
    // Of its own, so that the same function may tap a value twice.
    const look: TapFunction = (t, n) => view(t, n)
    for (const n of names) {
      const all = this.#taps.get(n)
      if (all) all.add(look)
      else this.#taps.set(n, new Set([look]))
    }
    return () => {
      for (const n of names) {
        const all = this.#taps.get(n)
        if (all?.delete(look) && all.size === 0) this.#taps.delete(n)
      }
    }
  }

  /**
   * The plan for inputs of these dims, by name. Where a plan also depends on what an input holds (a flag, a length), give a
   * tensor instead of its dims; where it depends on what the model finds on the way, the plan up to there is told.
   */
  plan(dims: Readonly<Record<string, readonly number[] | TensorLike>>): PlanReport {
    this.#object()
    const known = new Map<string, { type: Tensor['type']; dims: readonly number[]; data?: Tensor['data'] }>()
    for (const [name, given] of Object.entries(dims)) {
      const type = this.inputs.find((i) => i.name === name)?.type
      if (Array.isArray(given)) known.set(name, { type: type as Tensor['type'], dims: given })
      else known.set(name, tensor(given, `dims.${name}`, [type && isDataType(type) ? type : 'float32']))
    }
    this.#checkDims(new Map([...known].map(([name, k]) => [name, k.dims])), 'dims')
    const names = this.outputs.map((o) => o.name)
    let action: ReturnType<Stage['action']> | undefined
    while (!action)
      try {
        action = this.#stage.action(known, names)
      } catch (error) {
        if (!this.#retake(error)) throw error
      }
    const { plan } = action
    const choices = Object.fromEntries(plan?.program.steps.flatMap(({ choice }) => (choice ? [[choice.layer, choice.name]] : [])) ?? [])
    const hosts = this.#placed.index < 0 ? [] : action.hosts.map(({ node }): PlanStep => ({ op: node.opType, node: node.label, place: 'cpu' }))
    return { choices, steps: [...(plan?.report ?? []), ...hosts, ...(this.#fallback?.steps.flat() ?? [])], arenaBytes: plan?.arenaBytes ?? 0, weightBytes: native().sessionBytes(this.#object()) }
  }

  /**
   * Times of the steps of all runs so far.
   *
   * @throws {WhittleError} `ERR_RANGE` unless the session was created with `profile: true`
   *
   * @example
   * fs.writeFileSync('trace.json', JSON.stringify(session.profile().trace))
   */
  profile(): ProfileReport {
    if (!this.#profiler) fail('ERR_RANGE', 'options.profile', 'a session created with { profile: true }', false)
    return this.#profiler.report()
  }

  /** Where the session computes: `cpu`, or a GPU such as `cuda:0`. With `device: 'auto'` a plan may still bring it to the CPU. */
  get device(): string {
    return this.#placed.name
  }

  /** Why `device: 'auto'` came to the CPU; `''` otherwise. */
  get deviceReason(): string {
    return this.#placed.reason
  }

  /**
   * Runs on a GPU so far that were one recorded call. A plan is recorded at its second run, if it has the memory of an earlier one; what
   * is profiled or may be aborted runs step by step.
   */
  get replays(): number {
    return native().sessionReplays(this.#object())
  }

  /** Frees native memory. Runs in flight end first. */
  dispose(): void {
    this.#handle.dispose()
    this.#fallback?.release()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  /** A native session where it is to be, with the model prepared for it. */
  #open(): void {
    const { index, name } = this.#placed
    const object = native().sessionNew([...this.#given.graph.initializers.values()].reduce((sum, i) => sum + i.byteLength, 0), index)
    if (!object) throw new WhittleError('ERR_OUT_OF_MEMORY', 'model', 'model: no memory for a session')
    this.#handle = new SessionHandle(object)
    this.#constants = index < 0 ? new Constants(object, new Tuner(this.#tune, this.#threads)) : new Constants(object, undefined, name)
    try {
      this.#build(object)
    } catch (error) {
      if (!this.#leave(error)) throw error
    }
  }

  /** Whether the session goes on on the CPU, for want of a kernel elsewhere. */
  #leave(error: unknown): boolean {
    const { free, index } = this.#placed
    if (!free || index < 0 || !(error instanceof WhittleError) || error.code !== 'ERR_UNSUPPORTED_OP') return false
    this.#handle.dispose()
    this.#placed = { ...kCpu, reason: error.message }
    this.#open()
    return true
  }

  /** Prepares the model; what has no kernel goes to the fallback, where there is one. */
  #build(object: object): void {
    for (;;)
      try {
        if (this.#fallback) this.#given = this.#fallback.model()
        this.#model = prepare(this.#given)
        checkOps(this.#model.graph)
        if (this.#placed.index >= 0) checkDeviceOps(this.#model, this.#placed.name)
        break
      } catch (error) {
        if (!this.#fallback?.take(error, true)) throw error
      }
    this.#stage = new Stage(this.#model, object, this.#constants, this.#fallback)
    this.#plain = this.#plainModel = undefined
  }

  /** Whether the fallback takes what a plan could not be made of; plans are then made anew. */
  #retake(error: unknown): boolean {
    if (this.#leave(error)) return true
    if (!this.#fallback?.take(error, false)) return false
    this.#build(this.#object())
    return true
  }

  /** The one call of a run that is like the last one; undefined where it is not. */
  #again(inputs: unknown, options: unknown): NativeCall | undefined {
    if (!this.#last || !isPlain(options) || this.#taps.size > 0) return undefined
    this.#object()
    return callAgain(this.#last, inputs, this.#placed, this.#fresh(options as RunOptions | undefined))
  }

  /** Makes memory for results, where they are asked for. */
  #fresh(options: RunOptions | undefined): (plan: NativeCall['plan']) => Tensor[] {
    return options?.location === 'device' ? fresh(this.#placed) : outputsFor
  }

  #begin(tensors: ReadonlyMap<string, Tensor>, names: readonly string[], taps: ReadonlyMap<string, unknown>, options: RunOptions | undefined): Steps {
    return execute(this.#stageFor([...names, ...taps.keys()]), tensors, names, [...taps.keys()], this.#fresh(options))
  }

  /** The results by name, as a run answers them. */
  #answers(names: readonly string[], found: readonly Tensor[], options: RunOptions | undefined, inputs: SessionInputs): Record<string, Tensor> {
    const all = this.#placed.index < 0 ? found : answers(found, options?.location === 'device', this.#placed, inputs)
    return Object.fromEntries(names.map((name, i) => [name, all[i] as Tensor]))
  }

  async #callAsync(call: NativeCall, flag: Int32Array | null): Promise<void> {
    const { args, done } = this.#arguments(call, flag)
    args[2] = args[2].map((d) => (ArrayBuffer.isView(d) ? pin(d) : d))
    this.#ended(await native().sessionRunAsync(...args), call)
    done()
  }

  #call(call: NativeCall): void {
    const { args, done } = this.#arguments(call, null)
    this.#ended(native().sessionRun(...args), call)
    done()
  }

  #ended(status: number, { outputs }: NativeCall): void {
    if (status !== 0) letGo(outputs)
    checkDevice(status, 'inputs')
  }

  async #waitFor({ waits, wait }: Waiting, signal: AbortSignal | undefined): Promise<void> {
    const start = performance.now()
    await wait()
    const part = this.#fallback?.steps.find(([step]) => step.node === waits)
    if (part) this.#profiler?.record(part, Float64Array.of((performance.now() - start) * 1e6), start)
    if (signal?.aborted) throw new WhittleError('ERR_ABORTED', 'options.signal', 'options.signal: aborted')
  }

  #object(): object {
    return handleObject(this.#handle, 'Session', 'session')
  }

  #prepare(inputs: unknown, given: RunOptions | undefined): { tensors: Map<string, Tensor>; names: readonly string[]; signal: AbortSignal | undefined } {
    this.#object()
    if (inputs === null || typeof inputs !== 'object' || Array.isArray(inputs) || ArrayBuffer.isView(inputs))
      fail('ERR_DTYPE', 'inputs', 'an object of tensors by name', inputs)
    const { fetch, signal, location } = checkOptions(given, 'options', ['fetch', 'signal', 'location'])
    if (location !== undefined && location !== 'host' && location !== 'device') fail('ERR_RANGE', 'options.location', "'host' or 'device'", location)
    const names = fetch === undefined ? this.outputs.map((o) => o.name) : this.#checkNames(fetch, 'options.fetch')
    const tensors = new Map<string, Tensor>()
    for (const [name, value] of Object.entries(inputs)) {
      const known = this.inputs.find((i) => i.name === name)
      if (!known) fail('ERR_RANGE', `inputs.${name}`, `one of the model's inputs (${this.inputs.map((i) => i.name).join(', ')})`, name)
      if (!isDataType(known.type)) fail('ERR_DTYPE', `inputs.${name}`, 'an input that holds numbers', known.type)
      if (isDeviceTensor(value)) {
        tensors.set(name, resident(value, `inputs.${name}`, known.type, this.#placed))
        continue
      }
      const shape = typeof value === 'object' && ArrayBuffer.isView(value) && known.dims?.every((d) => typeof d === 'number') ? known.dims : undefined
      tensors.set(name, tensor(value, `inputs.${name}`, [known.type], shape))
    }
    this.#checkDims(new Map([...tensors].map(([name, t]) => [name, t.dims])), 'inputs')
    return { tensors, names, signal: signal as AbortSignal | undefined }
  }

  /** What the native call takes, and what is to be done after it. */
  #arguments({ plan, inputs, outputs, part }: NativeCall, cancel: Int32Array | null): { args: RunArguments; done: () => void } {
    let times: Float64Array | null = null
    if (this.#profiler) times = part ? (part.times.all ??= new Float64Array(plan.report.length)) : new Float64Array(plan.report.length)
    const start = this.#profiler ? performance.now() : 0
    const args: RunArguments = [this.#object(), plan.number, inputs.map((t) => t.data), outputs.map((t) => t.data), this.#threads, times, cancel, part?.arena ?? null, part?.from ?? 0, part?.to ?? 0]
    const ends = !part || part.last
    return { args, done: () => void (times && ends && this.#profiler?.record(plan.report, times, start)) }
  }

  #checkNames(given: unknown, parameter: string): readonly string[] {
    if (!Array.isArray(given) || given.length === 0) fail('ERR_DTYPE', parameter, 'an array of names of values', given)
    for (const name of given)
      if (typeof name !== 'string' || name === '' || !(this.#model.graph.defines(name) || this.#unfused().graph.defines(name)))
        fail('ERR_RANGE', parameter, 'names of values of the model', name)
    return [...new Set(given as string[])]
  }

  #unfused(): Model {
    return (this.#plainModel ??= prepare(this.#given, true))
  }

  /** The graph as it runs best, or one that still has all these values. */
  #stageFor(names: readonly string[]): Stage {
    if (names.every((name) => this.#model.graph.defines(name))) return this.#stage
    const object = this.#object()
    return (this.#plain ??= new Stage(this.#unfused(), object, new Constants(object, this.#constants.tuner, this.#constants.device), this.#fallback))
  }

  /** The taps of a run that begins now. */
  #tapped(): ReadonlyMap<string, readonly TapFunction[]> {
    return new Map([...this.#taps].map(([name, all]) => [name, [...all]]))
  }

  /** Every input present, of the right rank, fixed sizes kept and symbols equal wherever they occur. */
  #checkDims(given: ReadonlyMap<string, readonly number[]>, parameter: string): Map<string, readonly number[]> {
    const symbols = new Map<string, readonly [number, string]>()
    const out = new Map<string, readonly number[]>()
    for (const input of this.inputs) {
      const dims = given.get(input.name)
      const what = `${parameter}.${input.name}`
      if (!dims) fail('ERR_SHAPE', what, 'a tensor: the model needs this input', undefined)
      const want = input.dims
      if (want && want.length !== dims.length) fail('ERR_SHAPE', what, `rank ${want.length} (${show(want)})`, show(dims))
      want?.forEach((d, i) => {
        const got = dims[i] as number
        if (typeof d === 'number' && d !== got) fail('ERR_SHAPE', what, `dims ${show(want)}`, show(dims))
        if (typeof d !== 'string') return
        const [size, where] = symbols.get(d) ?? [got, input.name]
        if (size !== got) fail('ERR_SHAPE', what, `size ${size} for ${d} on axis ${i}, as in ${where}`, got)
        symbols.set(d, [size, where])
      })
      out.set(input.name, dims)
    }
    for (const name of given.keys()) if (!out.has(name)) fail('ERR_RANGE', `${parameter}.${name}`, `one of the model's inputs`, name)
    return out
  }
}

/** A tap that takes time cannot be waited for in a synchronous run. */
function finish(answer: unknown): void {
  if (answer === null || typeof answer !== 'object' || typeof (answer as PromiseLike<unknown>).then !== 'function') return
  ;(answer as PromiseLike<unknown>).then(undefined, () => undefined)
  fail('ERR_DTYPE', 'view', 'a function that answers no promise: runSync cannot wait for it', answer)
}

function show(dims: readonly Dim[]): string {
  return `[${dims.map((d) => d ?? '?').join(', ')}]`
}
