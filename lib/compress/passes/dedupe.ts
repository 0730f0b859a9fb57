import { contentHash } from '../../model/fold'
import type { Graph, Initializer } from '../../model/graph'
import type { Model } from '../../model/model'
import { bytes, count } from '../../report/format'
import type { LayerReport } from '../../report/types'
import type { Run } from '../progress'
import { options } from '../../validate'
import type { Context, Pass, PassResult } from './pass'

/** Equal initializers are stored once. Changes no number. */
export interface DedupeStep {
  readonly step: 'dedupe'
}

/** Smaller tensors are merged as well, but not listed one by one. */
const kListed = 256

/** What is compared before a tensor is read as a whole. */
const kSample = 4096

interface Place {
  readonly graph: Graph
  readonly initializer: Initializer
}

/** @internal Readers of equal initializers read the first of them, in subgraphs too. */
export const dedupePass: Pass<DedupeStep> = {
  name: 'dedupe',
  resolve(value, parameter) {
    options(value, parameter, ['step'])
    return { step: 'dedupe' }
  },
  needs: () => [],
  apply,
}

async function apply(model: Model, _step: DedupeStep, { run }: Context): Promise<PassResult> {
  const places = model.graph
    .graphs()
    .flatMap((graph): Place[] => [...graph.initializers.values()].map((initializer) => ({ graph, initializer })))
  const layers: LayerReport[] = []
  let merged = 0
  let saved = 0
  const known = new Map<Initializer['source'], string>()
  const groups = await candidates(places, run)
  for (const [i, group] of groups.entries()) {
    await run.tell('dedupe', i, groups.length, group[0]!.initializer.name)
    const firsts = new Map<string, Place[]>()
    for (const place of group) {
      const key = await contentHash(place.initializer, known)
      run.check()
      const equal = firsts.get(key)
      const first = equal?.find((p) => reaches(place.graph, p))
      if (first && merge(place, first)) {
        merged++
        saved += place.initializer.byteLength
        if (place.initializer.elementCount >= kListed) layers.push(reportOf(place, first))
      } else if (equal) equal.push(place)
      else firsts.set(key, [place])
    }
  }
  await run.tell('dedupe', groups.length, groups.length)
  const summary = merged
    ? `Stored ${count(merged)} equal tensor${merged === 1 ? '' : 's'} once: ${bytes(saved)} less.`
    : 'No two tensors are equal.'
  return { layers, summary }
}

/** Tensors of one type, shape and beginning; alone in that, a tensor has no equal and need not be read. */
async function candidates(places: readonly Place[], run: Run): Promise<Place[][]> {
  const byShape = groupBy(
    places,
    ({ initializer: { type, dims, byteLength } }) => `${type} ${dims.join('x')} ${byteLength}`,
  )
  const found: Place[][] = []
  for (const group of byShape) {
    run.check()
    const begins = groupBy(group, ({ initializer: { source } }) =>
      Buffer.from(source.readSync(0, Math.min(kSample, source.byteLength))).toString('latin1'),
    )
    found.push(...begins)
  }
  await run.tell('dedupe', 0, found.length)
  return found
}

/** Groups of at least two, in the order of their first members. */
function groupBy(places: readonly Place[], key: (place: Place) => string): Place[][] {
  const groups = new Map<string, Place[]>()
  for (const place of places) {
    const k = key(place)
    const group = groups.get(k)
    if (group) group.push(place)
    else groups.set(k, [place])
  }
  return [...groups.values()].filter((g) => g.length > 1)
}

/** True if nodes of `graph` can read that initializer by its name. */
function reaches(graph: Graph, { graph: home, initializer }: Place): boolean {
  for (let g: Graph | undefined = graph; g; g = g.parent) {
    if (g === home) return true
    if (g.defines(initializer.name)) return false
  }
  return false
}

function merge({ graph, initializer }: Place, first: Place): boolean {
  const { name } = initializer
  // Outputs keep their names, and a listed input may be replaced by the caller.
  if (graph.isOutput(name) || graph.isInput(name) || first.graph.isInput(first.initializer.name)) return false
  // A subgraph that has a value of the first one's name cannot read it.
  const shadowed = graph
    .users(name)
    .some((node) => node.subgraphs().some((g) => g.graphs().some((inner) => inner.defines(first.initializer.name))))
  if (shadowed) return false
  graph.replaceUses(name, first.initializer.name)
  graph.initializers.delete(name)
  graph.valueInfo.delete(name)
  return true
}

function reportOf({ graph, initializer }: Place, first: Place): LayerReport {
  const user = first.graph.users(first.initializer.name)[0] ?? graph.nodes[0]
  return {
    name: initializer.name,
    op: user?.opType ?? '',
    weight: initializer.name,
    dims: initializer.dims,
    elements: initializer.elementCount,
    action: 'shared',
    reason: `equal to ${first.initializer.name}`,
    bytesBefore: initializer.byteLength,
    bytesAfter: 0,
  }
}
