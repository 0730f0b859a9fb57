import { WhittleError } from '../../errors'
import { Initializer, MemorySource, ValueInfo } from '../../model/graph'
import type { Model } from '../../model/model'
import { opOf } from '../../model/ops'
import { inferShapes } from '../../model/ops/infer'
import type { Axis, CoupleContext, Cut } from '../../model/ops/op'
import { elementBitsOf, type ElementType } from '../../model/types'
import { sizeOf } from '../../tensor'
import { ComputedSource, type KeepBudget } from '../computed'
import type { Group, Structure } from './groups'
import { scaleTargets } from './sizes'

/** @internal Units of a group that go. */
export interface Removal {
  readonly group: Group
  /** Ascending. */
  readonly units: readonly number[]
}

/** @internal Indices by tensor and axis. */
export type Gone = Map<string, Map<number, Set<number>>>

/** @internal Which indices of which axes of which tensors the removals take. */
export function goneIndices(removals: readonly Removal[]): Gone {
  const gone: Gone = new Map()
  for (const { group, units } of removals)
    for (const { tensor, axis, per, indices } of group.members) {
      const axes = gone.get(tensor) ?? new Map<number, Set<number>>()
      gone.set(tensor, axes)
      const set = axes.get(axis) ?? new Set<number>()
      axes.set(axis, set)
      for (const u of units) for (let k = 0; k < per; k++) set.add(indices[u * per + k]!)
    }
  return gone
}

/** @internal Takes indices out of a tensor's bytes: `kept[axis]` are those that stay, `undefined` for all. */
export function takeIndices(bytes: Uint8Array, dims: readonly number[], width: number, kept: readonly (readonly number[] | undefined)[]): Uint8Array {
  let source = bytes
  let sizes = [...dims]
  kept.forEach((keep, axis) => {
    if (!keep) return
    const inner = sizeOf(sizes.slice(axis + 1)) * width
    const outer = sizeOf(sizes.slice(0, axis))
    const from = sizes[axis]! * inner
    const out = new Uint8Array(outer * keep.length * inner)
    let at = 0
    for (let o = 0; o < outer; o++)
      for (const k of keep) {
        out.set(source.subarray(o * from + k * inner, o * from + (k + 1) * inner), at)
        at += inner
      }
    source = out
    sizes = sizes.map((d, i) => (i === axis ? keep.length : d))
  })
  return source
}

/**
 * @internal Removes units from the model that `structure` was found in: weights lose their indices, and attributes and shape
 * inputs follow. Large results are computed when they are read.
 *
 * @throws `ERR_MODEL_FORMAT` where shapes do not come out as they should; the model is then of no use
 */
export function cut(model: Model, { coupling, dims, other }: Structure, removals: readonly Removal[], budget: KeepBudget): void {
  const { graph, opsets } = model
  const gone = new Set<number>()
  for (const { group, units } of removals) for (const u of units) gone.add(group.roots[u]!)
  if (gone.size === 0) return
  const keptOf = new Map<string, readonly number[] | undefined>()
  const changed = new Map<string, (readonly number[] | undefined)[]>()
  for (const place of coupling.places()) {
    const { value, axis, size } = place
    const roots = coupling.rootsOf(place)
    if (!roots.some((r) => gone.has(r))) continue
    const kept = Array.from({ length: size }, (_, i) => i).filter((i) => !gone.has(roots[i]!))
    keptOf.set(`${value}\0${axis}`, kept)
    const axes = changed.get(value) ?? coupling.dims(value)!.map(() => undefined)
    axes[axis] = kept
    changed.set(value, axes)
  }
  const kept = (a: Axis): readonly number[] | undefined => keptOf.get(`${a.value}\0${a.axis}`)
  const changes = [...graph.nodes].flatMap((node) => {
    if (![...node.inputs, ...node.outputs].some((n) => n && changed.has(n))) return []
    const found: { readonly cut: Cut; readonly change: (cut: Cut) => void }[] = []
    const axis = (value: string, axis: number): Axis => ({ value, axis, size: coupling.dims(value)?.[axis] ?? 0 })
    const [inputs, outputs] = [node.inputs, node.outputs]
    const ends = {
      node,
      graph,
      opset: opsets.get(node.domain) ?? 1,
      in: (i: number, a: number) => axis(inputs[i] ?? '', a),
      out: (o: number, a: number) => axis(outputs[o] ?? '', a),
    }
    const after: Cut = {
      ...ends,
      kept,
      size: (a) => kept(a)?.length,
      lengthOf: (value) => coupling.dims(value)?.[0],
      typeOf: (value) => coupling.typeOf(value) as ElementType,
    }
    const context: CoupleContext = {
      ...ends,
      ...coupling.views(node),
      couple: () => undefined,
      leave: () => undefined,
      weight: () => undefined,
      pick: () => 0,
      onCut: (change) => void found.push({ cut: after, change }),
    }
    opOf(node)?.channels?.(context)
    return found
  })
  for (const { cut: after, change } of changes) change(after)
  const wanted = (value: string): readonly number[] | undefined => coupling.dims(value)?.map((n, a) => changed.get(value)?.[a]?.length ?? n)
  scaleTargets(model, dims, wanted)

  for (const [value, axes] of changed) {
    const tensor = graph.initializers.get(value)
    if (tensor) graph.setInitializer(value, cutTensor(tensor, axes, budget))
    const info = graph.valueInfo.get(value)
    if (info?.dims) graph.valueInfo.set(value, new ValueInfo(value, info.type, info.dims.map((d, a) => axes[a]?.length ?? d)))
  }
  graph.removeDeadNodes()
  graph.removeDeadInitializers()
  verify(model, dims, wanted)
  // Nothing may be fixed to the sizes that it was found with: of others the same shares are left.
  if (!other) return
  verify(model, other.dims, (value) => {
    const [was, now] = [coupling.dims(value), wanted(value)]
    return other.shapes.get(value, graph)?.dims?.map((n, a) => (typeof n === 'number' && was?.[a] && now ? (n * now[a]!) / was[a] : n)) as readonly number[] | undefined
  })
}

function cutTensor(tensor: Initializer, axes: readonly (readonly number[] | undefined)[], budget: KeepBudget): Initializer {
  const width = elementBitsOf(tensor.type) / 8
  const dims = tensor.dims.map((d, a) => axes[a]?.length ?? d)
  const compute = (): Uint8Array => takeIndices(tensor.source.readSync(0, tensor.byteLength), tensor.dims, width, axes)
  const bytes = sizeOf(dims) * width
  const source = budget.take(bytes) ? new MemorySource(compute()) : new ComputedSource(bytes, compute)
  return new Initializer(tensor.name, tensor.type, dims, source)
}

/** Every value has the shape that it should have: what a graph computes out of shapes is found out here. */
function verify(model: Model, sizes: Structure['dims'], wanted: (value: string) => readonly (number | string | null)[] | undefined): void {
  const shapes = inferShapes(model.graph, model.opsets, { dims: sizes })
  for (const node of model.graph.nodes)
    for (const o of node.outputs) {
      const expected = o ? wanted(o) : undefined
      if (!expected?.every((d) => typeof d === 'number')) continue
      const got = shapes.get(o, model.graph)?.dims
      if (!got || got.length !== expected.length || got.some((d, i) => d !== expected[i]))
        throw new WhittleError('ERR_MODEL_FORMAT', node.label, `${node.opType} ${node.label}: its shape [${got?.join(', ') ?? '?'}] should be [${expected.join(', ')}] after pruning`)
    }
  model.check()
}
