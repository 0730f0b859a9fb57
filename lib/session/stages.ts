import { WhittleError } from '../errors'
import { Model, reads, type Graph, type Node } from '../model'
import { hold } from '../async'
import { checkDevice } from '../kernels/device'
import { native } from '../native'
import { allocate, sizeOf, viewAs, type Tensor } from '../tensor'
import { outputsFor } from './again'
import type { Folded } from './fold'
import { hasHost, hostOf, kSequence, tensorOf, type Foreign, type HostRun, type Inner } from './hosts'
import { knownTensor } from './lowering'
import { kernelOf, lower, type Lowered, type Tap } from './plan'
import { refuse } from './device'
import { isResident } from './resident'
import { Constants } from './program'
import { reportOf } from './report'
import type { PlanStep } from './types'
import { specialize, type Known, type Special } from './specialize'

/** Inputs by whose content an op decides its shape or its work: they must be known when a plan is made. */
const kDeciding: Readonly<Record<string, readonly number[]>> = {
  Reshape: [1], Expand: [1], Tile: [1], ConstantOfShape: [0], Range: [0, 1, 2], Slice: [1, 2, 3, 4], Squeeze: [1], Unsqueeze: [1],
  Split: [1], Pad: [1, 3], TopK: [1], OneHot: [1], Resize: [1, 2, 3], Upsample: [1], CumSum: [1], Trilu: [1], If: [0],
  ReduceSum: [1], ReduceMean: [1], ReduceMax: [1], ReduceMin: [1], ReduceProd: [1], ReduceL1: [1], ReduceL2: [1],
  ReduceSumSquare: [1], ReduceLogSum: [1], ReduceLogSumExp: [1], CenterCropPad: [1], AffineGrid: [1],
} // prettier-ignore

/** Ops through which inference follows the content of small tensors. */
const kFollowed = new Set(
  ('Add Sub Mul Div Mod Pow Min Max Sum Neg Abs Sqrt Floor Ceil Reciprocal Not And Or Xor Equal Greater Less GreaterOrEqual LessOrEqual ' +
    'Where Cast Identity Reshape Squeeze Unsqueeze Slice Concat Gather Split Expand Range Transpose ReduceSum ReduceProd ReduceMax ReduceMin ' +
    'ConstantOfShape').split(' '),
)

/** A plan of the native side. */
export interface Plan extends Lowered {
  readonly number: number
  readonly report: readonly PlanStep[]
  readonly arenaBytes: number
  /** runs that are between two calls of it */
  uses: number
  forgotten: boolean
}

/** What is done for inputs as they are known: a plan, then nodes that need to see data, then the rest with what they found. */
export interface Action {
  readonly plan: Plan | undefined
  /** tapped values that need no computing */
  readonly told: ReadonlyMap<string, Tensor>
  readonly hosts: readonly { readonly node: Node; readonly run: HostRun }[]
  /** undefined: all is done */
  readonly next: Stage | undefined
}

/** Plans kept for other inputs; the one used longest ago goes first. */
const kPlans = 16
/** Content longer than this decides nothing. */
const kContent = 64

/** The answer where content is asked for that is not there yet. */
const kUnknown: Action = { plan: undefined, told: new Map(), hosts: [], next: undefined }

const kContentTypes = new Set(['int64', 'int32', 'bool', 'float32'])

/**
 * A graph from one point of its execution on. Most graphs have one stage. Where a shape or a branch depends on data, the
 * graph is cut: what can be planned runs, and with what it found the rest is planned, once for each set of shapes.
 */
export class Stage {
  readonly #model: Model
  readonly #session: object
  readonly #constants: Constants
  /** inputs whose content is part of the key */
  readonly #contents: Set<string>
  readonly #folded: Folded
  readonly #foreign: Foreign | undefined
  readonly #actions = new Map<string, Action>()

  constructor(model: Model, session: object, constants: Constants, foreign?: Foreign, contents: Iterable<string> = [], folded: Folded = new Map()) {
    this.#foreign = foreign
    this.#folded = folded
    this.#model = model
    this.#session = session
    this.#constants = constants
    this.#contents = new Set(contents)
  }

  /** Whether plans depend on what inputs hold. */
  get looks(): boolean {
    return this.#contents.size > 0
  }

  /** `known`: all values that are there; a tensor without data is only good where its content does not matter. */
  action(
    known: ReadonlyMap<string, { type: Tensor['type']; dims: readonly number[]; data?: Tensor['data'] | undefined }>,
    fetch: readonly string[],
    taps: readonly string[] = [],
  ): Action {
    for (;;) {
      const facts = new Map<string, Known>()
      for (const [name, { type, dims, data }] of known)
        facts.set(name, { type, dims, content: this.#contents.has(name) ? contentOf(type, dims, data) : undefined, blind: !readable(data) })
      const key = JSON.stringify([[...facts].map(([name, f]) => [name, f.dims, f.content ?? 0]), fetch, taps])
      const found = this.#actions.get(key)
      if (found) {
        this.#actions.delete(key)
        this.#actions.set(key, found)
        return found
      }
      const made = this.#make(facts, fetch, taps)
      if (!made) continue
      if (made === kUnknown) return made
      this.#actions.set(key, made)
      if (this.#actions.size > kPlans) {
        const [oldest, old] = this.#actions.entries().next().value as [string, Action]
        this.#actions.delete(oldest)
        forget(old, this.#session)
      }
      return made
    }
  }

  /** A plan that was forgotten while a run stood between two of its parts. */
  release(plan: Plan): void {
    native().sessionForget(this.#session, plan.number)
  }

  forget(): void {
    for (const a of this.#actions.values()) forget(a, this.#session)
    this.#actions.clear()
  }

  /** Undefined: more content must be looked at. */
  #make(facts: ReadonlyMap<string, Known>, fetch: readonly string[], taps: readonly string[]): Action | undefined {
    const special = specialize(this.#model, facts, this.#folded, [...fetch, ...taps])
    const { graph, shapes } = special
    const live = liveNodes(special, [...fetch, ...taps])
    const told = new Map<string, Tensor>()
    for (const name of taps) {
      const t = knownTensor(shapes.get(name, graph)) ?? graph.constant(name)?.readSync()
      if (t) told.set(name, t)
    }
    const waiting = taps.filter((name) => !told.has(name))
    const { blocked, behind } = sortOut(special, live)
    if (blocked.length === 0) {
      // No plan can hand a list on, and none need: it is there.
      const tensors = fetch.filter((name) => facts.get(name)?.type !== kSequence)
      const idle = tensors.length === 0 && fetch.length > 0 && waiting.length === 0
      return { plan: idle ? undefined : this.#plan(special, tensors, live, waiting), told, hosts: [], next: undefined }
    }

    // Content that is there already is looked at before anything runs.
    const before = this.#contents.size
    for (const node of blocked)
      for (const name of deciding(node)) {
        const stack = [name]
        const seen = new Set<string>()
        while (stack.length > 0) {
          const at = stack.pop() as string
          if (seen.has(at)) continue
          seen.add(at)
          const fact = facts.get(at)
          const maker = graph.producer(at)
          if (fact) {
            if ((at === name || isSmall(fact)) && kContentTypes.has(fact.type) && !fact.content) this.#contents.add(at)
          } else if (maker && kFollowed.has(maker.opType) && maker.is()) stack.push(...maker.inputs.filter((i) => i))
        }
      }
    if (this.#contents.size > before) return undefined
    if ([...facts].some(([name, f]) => f.blind && this.#contents.has(name))) return kUnknown

    const ready = new Set([...live].filter((n) => !behind.has(n) && !blocked.includes(n)))
    const later = [...blocked, ...behind].flatMap((n) => [...reads(n)])
    const outputs = [...new Set([...later, ...fetch])].filter((name) => {
      const maker = graph.producer(name)
      return maker && ready.has(maker) && !(knownTensor(shapes.get(name, graph)) && !fetch.includes(name))
    })
    const tapped = waiting.filter((name) => {
      const maker = graph.producer(name)
      return maker !== undefined && ready.has(maker)
    })
    const plan = outputs.length + tapped.length > 0 ? this.#plan(special, outputs, ready, tapped) : undefined
    // The rest goes on from here: branches that were chosen stay chosen.
    const rest = new Model({ graph, opsets: this.#model.opsets, irVersion: this.#model.irVersion })
    const hosts: { node: Node; run: HostRun }[] = []
    for (const node of blocked) {
      // What decides is there only after the plan: the node's turn comes then.
      const maker = hostOf(node, graph, shapes)
      if (maker) hosts.push({ node, run: maker(node, { model: rest, type: (name) => shapes.get(name, graph)?.type as Tensor['type'], inner: (model) => this.#inner(model), foreign: this.#foreign }) })
    }
    if (!plan && hosts.length === 0) {
      const [node] = blocked as [Node]
      throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${node.opType} ${node.label}: its shape depends on data in a way that sessions cannot follow`)
    }
    return { plan, told, hosts, next: new Stage(rest, this.#session, this.#constants, this.#foreign, this.#contents, this.#folded) }
  }

  #inner(model: Model): Inner {
    // Names of a body are its own: so are its constants.
    const stage = new Stage(model, this.#session, new Constants(this.#session, this.#constants.tuner?.inner(), this.#constants.device))
    return { execute: (given, fetch) => execute(stage, given, fetch), forget: () => stage.forget() }
  }

  #plan(special: Special, fetch: readonly string[], live: ReadonlySet<Node>, taps: readonly string[]): Plan {
    const lowered = lower(special, fetch, live, this.#constants, taps)
    const numbers = lowered.program.encode()
    const number = native().sessionPlan(this.#session, numbers.length, numbers)
    if (typeof number !== 'number') {
      // Sizes that no node may have: attributes that do not fit its operands.
      const step = lowered.program.steps[Number(/^step (\d+)/.exec(number)?.[1] ?? -1)]
      const node = step?.node ?? 'model'
      const [, lacking] = /: device: (.*)$/.exec(number) ?? []
      if (lacking && step) refuse(step.op, node, this.#constants.device ?? 'the device', lacking)
      if (number.endsWith('no memory on the device')) throw new WhittleError('ERR_OUT_OF_MEMORY', 'model', `model: ${number}`)
      if (number.endsWith('the device failed')) checkDevice(4, 'model')
      throw new WhittleError('ERR_MODEL_FORMAT', node, `${node}: attributes or operands that do not fit: ${number}`)
    }
    this.#constants.tuner?.save()
    const report = reportOf(lowered.program, this.#constants.device)
    return { ...lowered, number, report, arenaBytes: lowered.program.arenaBytes, uses: 0, forgotten: false }
  }
}

function forget(action: Action, session: object): void {
  if (action.plan) {
    action.plan.forgotten = true
    if (action.plan.uses === 0) native().sessionForget(session, action.plan.number)
  }
  for (const h of action.hosts) h.run.forget?.()
  action.next?.forget()
}

/** What inference follows: lists, and one value of any rank. */
function isSmall({ dims }: { dims: readonly number[] }): boolean {
  const size = sizeOf(dims)
  return size === 1 || (dims.length <= 1 && size <= kContent)
}

/** Values on a GPU are not looked at. */
function readable(data: unknown): boolean {
  return ArrayBuffer.isView(data)
}

function contentOf(type: string, dims: readonly number[], data: Tensor['data'] | undefined): readonly number[] | undefined {
  return readable(data) && kContentTypes.has(type) && isSmall({ dims }) ? Array.from(data as Iterable<number | bigint>, Number) : undefined
}

function deciding(node: Node): string[] {
  const at = node.is() ? (kDeciding[node.opType] ?? []) : []
  return at.flatMap((i) => node.inputs[i] || [])
}

/** Nodes whose results reach `wanted` and must run; what inference knows whole need not. */
function liveNodes({ graph, shapes }: Special, wanted: readonly string[]): Set<Node> {
  const live = new Set<Node>()
  const stack = [...wanted]
  while (stack.length > 0) {
    const name = stack.pop() as string
    if (knownTensor(shapes.get(name, graph))) continue
    const node = graph.producer(name)
    if (!node || live.has(node)) continue
    live.add(node)
    stack.push(...reads(node))
  }
  return live
}

/** Nodes that cannot be planned, and those behind them. */
function sortOut({ graph, shapes }: Special, live: ReadonlySet<Node>): { blocked: Node[]; behind: Set<Node> } {
  const blocked: Node[] = []
  const behind = new Set<Node>()
  const late = new Set<string>()
  const decided = (name: string): boolean => graph.constant(name) !== undefined || knownTensor(shapes.get(name, graph)) !== undefined
  for (const node of graph.topologicalOrder()) {
    if (!live.has(node)) continue
    if ([...reads(node)].some((name) => late.has(name))) behind.add(node)
    else if (hostOf(node, graph, shapes) || deciding(node).some((name) => !decided(name))) blocked.push(node)
    else {
      kernelOf(node)
      continue
    }
    for (const o of node.outputs) if (o) late.add(o)
  }
  return { blocked, behind }
}

/** One call of a plan, as a run needs it done. */
export interface NativeCall {
  readonly plan: Plan
  readonly inputs: readonly Tensor[]
  readonly outputs: readonly Tensor[]
  /** whether it is all that a run with inputs of these types and dims does, whatever they hold */
  readonly whole?: boolean
  /** where taps cut the plan: steps [from, to) over working memory that lives from cut to cut */
  readonly part?: { readonly arena: Uint8Array; readonly from: number; readonly to: number; readonly last: boolean; readonly times: { all?: Float64Array } }
}

/** A value that somebody wants to look at; good until the generator goes on. */
export interface Tapped {
  readonly tapped: string
  readonly view: Tensor
}

/** Work of another runtime, to be waited for. */
export interface Waiting {
  /** label of the node */
  readonly waits: string
  wait(): Promise<void>
}

export type RunEvent = NativeCall | Tapped | Waiting

/** Runs a graph: yields what is to be run natively and what is to be looked at, and answers `fetch`. */
export function* execute(
  stage: Stage,
  given: ReadonlyMap<string, Tensor>,
  fetch: readonly string[],
  taps: readonly string[] = [],
  fresh: (plan: Plan) => Tensor[] = outputsFor,
): Generator<RunEvent, Map<string, Tensor>, void> {
  const known = new Map(given)
  let waiting = taps
  function* tell(values: ReadonlyMap<string, Tensor>): Generator<RunEvent, void, void> {
    const now = waiting.filter((name) => values.has(name))
    waiting = waiting.filter((name) => !values.has(name))
    for (const tapped of now) yield { tapped, view: tensorOf(tapped, values.get(tapped) as Tensor) }
  }
  yield* tell(given)
  for (let at: Stage | undefined = stage; at; ) {
    const action: Action = at.action(known, fetch, waiting)
    if (action === kUnknown) {
      const name = [...known].find(([, t]) => isResident(t))?.[0]
      throw new WhittleError('ERR_DEVICE', `inputs.${name}`, `inputs.${name}: the plan depends on what an input on the device holds; give a tensor of the host`)
    }
    const { plan } = action
    yield* tell(action.told)
    if (plan) {
      // What other nodes are to see is brought to the host.
      const outputs = action.next ? outputsFor(plan) : fresh(plan)
      const inputs = plan.inputs.map((name) => known.get(name) as Tensor)
      if (plan.taps.length > 0) {
        yield* inParts(plan, inputs, outputs, stage)
        waiting = waiting.filter((name) => !plan.taps.some((t) => t.name === name))
      } else yield { plan, inputs, outputs, whole: at === stage && !action.next && action.hosts.length === 0 && taps.length === 0 && !at.looks }
      plan.outputs.forEach((o, i) => known.set(o.name, outputs[i] as Tensor))
    }
    for (const { node, run } of action.hosts) {
      for (const name of reads(node)) {
        const t = known.get(name)
        if (t && isResident(t)) known.set(name, t.tensor.toHost())
      }
      const results: readonly (Tensor | undefined)[] = yield* run.run(known)
      node.outputs.forEach((name, i) => {
        const t = results[i]
        if (name && t) known.set(name, t)
      })
      yield* tell(new Map(node.outputs.flatMap((name, i) => (results[i] ? [[name, results[i]] as const] : []))))
    }
    at = action.next
  }
  return known
}

/** A plan with its taps: what lies in the working memory is looked at between the steps, where it lies. */
function* inParts(plan: Plan, inputs: readonly Tensor[], outputs: readonly Tensor[], stage: Stage): Generator<RunEvent, void, void> {
  // Other runs may push the plan out of the cache meanwhile; and nobody may take the memory away from under a run.
  const whole = allocate('uint8', plan.arenaBytes + 128, 'session')
  hold(whole.buffer as ArrayBuffer)
  const arena = whole.subarray(native().sessionArena(whole as Uint8Array)).subarray(0, Math.max(plan.arenaBytes, 64)) as Uint8Array
  const times = {}
  plan.uses++
  try {
    let from = 0
    for (const tap of plan.taps) {
      if (tap.after > from) yield { plan, inputs, outputs, part: { arena, from, to: tap.after, last: false, times } }
      from = tap.after
      yield { tapped: tap.name, view: viewOf(tap, arena, outputs) }
    }
    yield { plan, inputs, outputs, part: { arena, from, to: plan.report.length, last: true, times } }
  } finally {
    plan.uses--
    if (plan.forgotten && plan.uses === 0) stage.release(plan)
  }
}

function viewOf({ type, dims, memory }: Tap, arena: Uint8Array, outputs: readonly Tensor[]): Tensor {
  if (memory.place === 'output') return { type, dims: [...dims], data: (outputs[memory.at] as Tensor).data }
  return { type, dims: [...dims], data: viewAs(type, arena.buffer, arena.byteOffset + memory.at, sizeOf(dims)) }
}

/** Ops that planning itself takes care of. */
const kPlanned = new Set(['Shape', 'Size', 'If', 'Constant'])

/** Refuses a graph with an op that nothing here can run. */
export function checkOps(graph: Graph): void {
  for (const { name, kind } of [...graph.inputs, ...graph.outputs])
    if (kind !== 'tensor' && kind !== 'unknown') throw new WhittleError('ERR_UNSUPPORTED_OP', name, `${name}: a ${kind} where sessions take and answer tensors`)
  graph.walk((node) => {
    if (node.is('If')) checkBranches(node)
    if (!(node.is() && kPlanned.has(node.opType)) && !hasHost(node)) kernelOf(node)
  })
}

/** Branches must answer as many values as the node, of the same declared types. */
function checkBranches(node: Node): void {
  const branches = node.subgraphs()
  const bad = (what: string): never => {
    throw new WhittleError('ERR_MODEL_FORMAT', node.label, `If ${node.label}: ${what}`)
  }
  if (branches.length !== 2) bad(`${branches.length} branches`)
  for (const g of branches) if (g.outputs.length !== node.outputs.length) bad(`a branch of ${g.outputs.length} outputs for ${node.outputs.length}`)
  node.outputs.forEach((_, i) => {
    const [a, b] = branches.map((g) => g.outputs[i]?.type)
    if (a !== b && a !== 'undefined' && b !== 'undefined') bad(`branches of type ${a} and ${b}`)
  })
}
