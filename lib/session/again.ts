import { allocate, sizeOf, type Tensor } from '../tensor'
import { tensor } from '../validate'
import type { Placed } from './device'
import { isDeviceTensor, resident } from './resident'
import { tensorOf } from './hosts'
import type { NativeCall, Plan } from './stages'
import type { RunOptions } from './types'

/** A plan that was all there was to a run, and the inputs of that run: one with the same types and dims needs no more thought. */
export interface Seen {
  readonly plan: Plan
  readonly inputs: ReadonlyMap<string, Pick<Tensor, 'type' | 'dims'>>
}

/** What to remember of a call; undefined where it was not the whole run, or answers anything but these outputs. */
export function remember(call: NativeCall, inputs: ReadonlyMap<string, Tensor>, outputs: readonly string[]): Seen | undefined {
  const { plan, whole } = call
  if (!whole || outputs.length !== plan.outputs.length || plan.outputs.some((o, i) => o.name !== outputs[i])) return undefined
  return { plan, inputs: new Map([...inputs].map(([name, { type, dims }]) => [name, { type, dims }])) }
}

/** The one call of a run that is like the one seen; undefined where it is not. What is wrong with a tensor is told here as well. */
export function callAgain({ plan, inputs }: Seen, given: unknown, placed: Placed, outputs: (plan: Plan) => Tensor[]): NativeCall | undefined {
  if (plan.forgotten || given === null || typeof given !== 'object') return undefined
  const entries = Object.entries(given)
  if (entries.length !== inputs.size) return undefined
  const found: Tensor[] = []
  for (const [name, value] of entries) {
    const like = inputs.get(name)
    if (!like || ArrayBuffer.isView(value)) return undefined
    const t = isDeviceTensor(value) ? resident(value, `inputs.${name}`, like.type, placed) : tensor(value, `inputs.${name}`, [like.type])
    if (t.dims.length !== like.dims.length || t.dims.some((d, i) => d !== like.dims[i])) return undefined
    const at = plan.inputs.indexOf(name)
    if (at >= 0) found[at] = t
  }
  return { plan, inputs: found, outputs: outputs(plan) }
}

/** Whether a run with these options answers the model's outputs, and cannot be aborted. */
export function isPlain(options: unknown): boolean {
  if (options === undefined) return true
  if (options === null || typeof options !== 'object') return false
  const { location, ...rest } = options as RunOptions
  return (location === 'host' || location === 'device') && Object.keys(rest).length === 0
}

export function pickOutputs(found: ReadonlyMap<string, Tensor>, names: readonly string[]): Tensor[] {
  return names.map((name) => tensorOf(name, found.get(name) as Tensor))
}

export function namesOf({ plan }: NativeCall): string[] {
  return plan.outputs.map((o) => o.name)
}

/** Fresh memory for what a plan answers. */
export function outputsFor(plan: Plan): Tensor[] {
  return plan.outputs.map((o): Tensor => ({ type: o.type, dims: [...o.dims], data: allocate(o.type, sizeOf(o.dims)) }))
}
