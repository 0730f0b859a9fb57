import { WhittleError } from '../../errors'
import { captured, Initializer, Model, Node, ValueInfo, type Graph } from '../../model'
import { allocate, sizeOf, type Tensor } from '../../tensor'
import { prepareBody } from '../prepare'
import type { RunEvent } from '../stages'
import { operand, pick, type Host, type HostScope, type Inner } from './host'

/** Tensors of one shape along a new first axis, or along `axis` of size 1 each. */
function stack(parts: readonly Tensor[], axis: number): Tensor {
  const [first] = parts as [Tensor]
  const dims = [...first.dims]
  const outer = sizeOf(dims.slice(0, axis))
  const inner = sizeOf(dims.slice(axis))
  dims.splice(axis, 0, parts.length)
  const data = allocate(first.type, outer * parts.length * inner)
  parts.forEach((t, i) => {
    for (let o = 0; o < outer; o++) data.set(t.data.subarray(o * inner, (o + 1) * inner) as never, (o * parts.length + i) * inner)
  })
  return { type: first.type, dims, data }
}

/** A body as a model of its own: what it takes from outside becomes inputs or constants. */
class Body {
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly stage: Inner
  readonly #outside: readonly string[]

  constructor(body: Graph, scope: HostScope) {
    const outside = new Set<string>()
    captured(body, outside)
    const copy = body.clone()
    this.inputs = body.inputs.map((i) => i.name)
    this.outputs = body.outputs.map((o) => o.name)
    const more: string[] = []
    for (const name of outside) {
      const { graph } = scope.model
      const constant = graph.constant(name)
      const maker = graph.producer(name)
      if (constant) copy.addInitializer(constant)
      else if (maker?.is('DequantizeLinear') && maker.inputs.every((i) => !i || graph.constant(i))) {
        // Weights stay codes where they are used.
        for (const i of maker.inputs) if (i && !copy.initializers.has(i)) copy.addInitializer(graph.constant(i) as Initializer)
        const { name: label, opType, inputs, outputs, attributes } = maker
        copy.addNode(new Node({ name: label, opType, inputs, outputs, attributes }))
      } else more.push(name)
    }
    this.#outside = more
    copy.inputs = [...copy.inputs, ...more.map((name) => new ValueInfo(name, 'undefined', null))]
    const model = prepareBody(new Model({ graph: copy, opsets: scope.model.opsets, irVersion: 8 }))
    this.stage = scope.inner(model)
  }

  *run(known: ReadonlyMap<string, Tensor>, values: readonly Tensor[]): Generator<RunEvent, Tensor[], void> {
    const given = new Map<string, Tensor>()
    for (const name of this.#outside) given.set(name, known.get(name) as Tensor)
    this.inputs.forEach((name, i) => given.set(name, values[i] as Tensor))
    const found = yield* this.stage.execute(given, [...new Set(this.outputs)])
    return this.outputs.map((name) => found.get(name) as Tensor)
  }
}

function bodyOf(node: Node, scope: HostScope): Body {
  const a = node.attributes.get('body')
  if (a?.type !== 'graph') throw new WhittleError('ERR_MODEL_FORMAT', node.label, `${node.opType} ${node.label}: no body`)
  return new Body(a.value, scope)
}

/** Turns of a loop whose end nothing tells. */
const kTurns = 2 ** 31

const loop: Host = (node, scope) => {
  const body = bodyOf(node, scope)
  const carried = node.inputs.length - 2
  const scanned = body.outputs.length - 1 - carried
  if (carried < 0 || scanned < 0 || body.inputs.length !== 2 + carried)
    throw new WhittleError('ERR_MODEL_FORMAT', node.label, `Loop ${node.label}: ${node.inputs.length} inputs for a body of ${body.inputs.length}`)
  return {
    *run(known) {
      const most = operand(node, scope, known, 0)
      const turns = most ? Math.min(Number(most.data[0]), kTurns) : kTurns
      let condition = operand(node, scope, known, 1) ?? { type: 'bool', dims: [], data: Uint8Array.of(1) }
      let values = Array.from({ length: carried }, (_, i) => operand(node, scope, known, i + 2) as Tensor)
      const rows: Tensor[][] = Array.from({ length: scanned }, () => [])
      for (let i = 0; i < turns && Number(condition.data[0]) !== 0; i++) {
        const turn: Tensor = { type: 'int64', dims: [], data: BigInt64Array.of(BigInt(i)) }
        const results = yield* body.run(known, [turn, condition, ...values])
        condition = results[0] as Tensor
        values = results.slice(1, 1 + carried)
        rows.forEach((list, k) => list.push(results[1 + carried + k] as Tensor))
      }
      return [...values, ...rows.map((list, k) => collected(node, list, 0, carried + k))]
    },
    forget: () => body.stage.forget(),
  }
}

function collected(node: Node, rows: readonly Tensor[], axis: number, output: number): Tensor {
  const [first] = rows
  if (!first) {
    if (node.outputs[output]) throw new WhittleError('ERR_UNSUPPORTED_OP', node.label, `${node.opType} ${node.label}: rows of no turn, whose shape nothing tells`)
    return { type: 'float32', dims: [0], data: new Float32Array(0) }
  }
  const odd = rows.find((r) => r.type !== first.type || r.dims.join() !== first.dims.join())
  if (odd) throw new WhittleError('ERR_SHAPE', node.label, `${node.opType} ${node.label}: rows of [${first.dims.join(', ')}] and [${odd.dims.join(', ')}]`)
  return stack(rows, axis < 0 ? axis + first.dims.length + 1 : axis)
}

const scan: Host = (node, scope) => {
  const body = bodyOf(node, scope)
  const n = node.int('num_scan_inputs', 0)
  const carried = node.inputs.length - n
  const scanned = body.outputs.length - carried
  if (n < 1 || carried < 0 || scanned < 0 || body.inputs.length !== node.inputs.length)
    throw new WhittleError('ERR_MODEL_FORMAT', node.label, `Scan ${node.label}: ${node.inputs.length} inputs for a body of ${body.inputs.length}`)
  const list = (name: string, count: number): readonly number[] => node.ints(name, new Array<number>(count).fill(0))
  const [inAxes, outAxes] = [list('scan_input_axes', n), list('scan_output_axes', scanned)]
  const [inBack, outBack] = [list('scan_input_directions', n), list('scan_output_directions', scanned)]
  return {
    *run(known) {
      let values = Array.from({ length: carried }, (_, i) => operand(node, scope, known, i) as Tensor)
      const series = Array.from({ length: n }, (_, i) => {
        const t = operand(node, scope, known, carried + i) as Tensor
        const a = inAxes[i] as number
        const axis = a < 0 ? a + t.dims.length : a
        return { t, axis, length: t.dims[axis] as number }
      })
      const turns = series[0]?.length ?? 0
      const odd = series.find((s) => s.length !== turns)
      if (odd) throw new WhittleError('ERR_SHAPE', node.label, `Scan ${node.label}: series of ${turns} and ${odd.length}`)
      const rows: Tensor[][] = Array.from({ length: scanned }, () => [])
      for (let i = 0; i < turns; i++) {
        const now = series.map(({ t, axis }, k) => {
          const at = inBack[k] ? turns - 1 - i : i
          const dims = t.dims.filter((_, j) => j !== axis)
          return pick(t, sizeOf(t.dims.slice(0, axis)), turns, sizeOf(t.dims.slice(axis + 1)), [at], dims)
        })
        const results = yield* body.run(known, [...values, ...now])
        values = results.slice(0, carried)
        rows.forEach((r, k) => (outBack[k] ? r.unshift(results[carried + k] as Tensor) : r.push(results[carried + k] as Tensor)))
      }
      return [...values, ...rows.map((r, k) => collected(node, r, outAxes[k] as number, carried + k))]
    },
    forget: () => body.stage.forget(),
  }
}

export const control: Readonly<Record<string, Host>> = { Loop: loop, Scan: scan }
