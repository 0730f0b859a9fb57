import type { Graph } from '../graph'
import type { Initializer } from '../initializer'
import type { Attribute, Node } from '../node'
import { elementCodeOf, type ValueInfo } from '../types'
import { encodeTensor, tensorUnchanged, type Placement } from './tensor'
import type { FunctionDef, FunctionWas, GraphWas, Header, ModelParts, ModelWas, NodeWas, Origin } from './reader'
import { Fields, Rope } from './wire'

/** What {@link encodeModel} needs of a model. `origin` is missing for a model that was made, not read. */
export interface Encodable extends Header, Omit<ModelParts, 'header' | 'origin'> {
  readonly origin: Origin<ModelWas> | undefined
}

/**
 * Writes models. Whatever is as it was in the file is copied from there, tag by tag; in a message that changed, the
 * changed fields take the place of the old ones, and fields that are not understood stay where they were.
 */
export class Encoder {
  readonly #place: (t: Initializer) => Placement

  constructor(place: (t: Initializer) => Placement) {
    this.#place = place
  }

  model(m: Encodable): Rope {
    const o = m.origin
    const rope = new Rope()
    if (o && this.modelUnchanged(m)) return rope.range(o.bytes, o.start, o.end)
    const was = o?.was
    const out = new Message(rope, o)
    const text = (no: number, value: string, old: string | undefined): void =>
      out.single(no, value === (old ?? ''), () => value && rope.text(no, value))
    out.single(1, m.irVersion === was?.irVersion, () => rope.int(1, m.irVersion))
    text(2, m.producerName, was?.producerName)
    text(3, m.producerVersion, was?.producerVersion)
    text(4, m.domain, was?.domain)
    out.single(5, m.modelVersion === (was?.modelVersion ?? 0), () => rope.int(5, m.modelVersion))
    text(6, m.docString, was?.docString)
    out.single(7, false, () => rope.message(7, this.graph(m.graph)))
    out.list(8, was !== undefined && samePairs([...m.opsets], was.opsets), [...m.opsets], (pair) =>
      rope.message(8, encodeOpset(pair)),
    )
    out.list(14, samePairs([...m.metadata], was?.metadata ?? []), [...m.metadata], ([key, value]) =>
      rope.message(14, new Rope().text(1, key).text(2, value)),
    )
    const functions =
      was !== undefined &&
      m.functions.length === was.functions.length &&
      m.functions.every((f, i) => f.origin === was.functions[i] && this.functionUnchanged(f))
    out.list(25, functions, m.functions, (f) => rope.message(25, this.function(f)))
    out.finish()
    return rope
  }

  modelUnchanged(m: Encodable): boolean {
    const was = m.origin?.was
    return (
      was !== undefined &&
      m.irVersion === was.irVersion &&
      m.producerName === was.producerName &&
      m.producerVersion === was.producerVersion &&
      m.domain === was.domain &&
      m.modelVersion === was.modelVersion &&
      m.docString === was.docString &&
      samePairs([...m.opsets], was.opsets) &&
      samePairs([...m.metadata], was.metadata) &&
      m.functions.length === was.functions.length &&
      m.functions.every((f, i) => f.origin === was.functions[i] && this.functionUnchanged(f)) &&
      m.graph.origin === was.graph &&
      this.graphUnchanged(m.graph)
    )
  }

  graph(g: Graph): Rope {
    const o = g.origin as Origin<GraphWas> | undefined
    const rope = new Rope()
    if (o && this.graphUnchanged(g)) return rope.range(o.bytes, o.start, o.end)
    const was = o?.was
    const out = new Message(rope, o)
    const initializers = [...g.initializers.values()]
    const valueInfo = [...g.valueInfo.values()]
    out.list(
      1,
      this.#same(g.nodes, was?.nodes, (n) => this.nodeUnchanged(n)),
      g.nodes,
      (n) => rope.message(1, this.node(n)),
    )
    out.single(2, g.name === was?.name, () => g.name && rope.text(2, g.name))
    out.list(
      5,
      this.#same(initializers, was?.initializers, (t) => tensorUnchanged(t, this.#place(t))),
      initializers,
      (t) => rope.message(5, encodeTensor(t, this.#place(t))),
    )
    out.list(11, this.#same(g.inputs, was?.inputs, valueUnchanged), g.inputs, (v) => rope.message(11, encodeValue(v)))
    out.list(12, this.#same(g.outputs, was?.outputs, valueUnchanged), g.outputs, (v) =>
      rope.message(12, encodeValue(v)),
    )
    out.list(13, this.#same(valueInfo, was?.valueInfo, valueUnchanged), valueInfo, (v) =>
      rope.message(13, encodeValue(v)),
    )
    out.finish()
    return rope
  }

  graphUnchanged(g: Graph): boolean {
    const was = (g.origin as Origin<GraphWas> | undefined)?.was
    return (
      was !== undefined &&
      g.name === was.name &&
      this.#same(g.nodes, was.nodes, (n) => this.nodeUnchanged(n)) &&
      this.#same([...g.initializers.values()], was.initializers, (t) => tensorUnchanged(t, this.#place(t))) &&
      this.#same(g.inputs, was.inputs, valueUnchanged) &&
      this.#same(g.outputs, was.outputs, valueUnchanged) &&
      this.#same([...g.valueInfo.values()], was.valueInfo, valueUnchanged)
    )
  }

  node(n: Node): Rope {
    const o = n.origin as Origin<NodeWas> | undefined
    const rope = new Rope()
    if (o && this.nodeUnchanged(n)) return rope.range(o.bytes, o.start, o.end)
    const was = o?.was
    const out = new Message(rope, o)
    out.list(1, was !== undefined && sameList(n.inputs, was.inputs), n.inputs, (name) => rope.text(1, name))
    out.list(2, was !== undefined && sameList(n.outputs, was.outputs), n.outputs, (name) => rope.text(2, name))
    out.single(3, n.name === (was?.name ?? ''), () => n.name && rope.text(3, n.name))
    out.single(4, n.opType === was?.opType, () => rope.text(4, n.opType))
    out.list(5, was !== undefined && this.#sameAttributes(n, was), [...n.attributes], ([key, a]) =>
      rope.message(5, this.attribute(key, a)),
    )
    out.single(7, n.domain === (was?.domain ?? ''), () => n.domain && rope.text(7, n.domain))
    out.finish()
    return rope
  }

  nodeUnchanged(n: Node): boolean {
    const was = (n.origin as Origin<NodeWas> | undefined)?.was
    return (
      was !== undefined &&
      n.name === was.name &&
      n.opType === was.opType &&
      n.domain === was.domain &&
      sameList(n.inputs, was.inputs) &&
      sameList(n.outputs, was.outputs) &&
      this.#sameAttributes(n, was)
    )
  }

  attribute(name: string, a: Attribute): Rope {
    const o = a.origin as Origin<unknown> | undefined
    const rope = new Rope()
    if (o && this.#attributeUnchanged(a)) return rope.range(o.bytes, o.start, o.end)
    // Lists of plain values are immutable: a changed attribute with a record is one whose graph or tensor changed.
    const out = new Message(rope, o)
    const kinds = {
      float: 1,
      int: 2,
      string: 3,
      tensor: 4,
      graph: 5,
      floats: 6,
      ints: 7,
      strings: 8,
      tensors: 9,
      graphs: 10,
      opaque: 0,
    }
    out.single(1, o !== undefined, () => rope.text(1, name))
    const lists = new Rope()
    switch (a.type) {
      case 'float':
        out.single(2, false, () => rope.float(2, a.value))
        break
      case 'int':
        out.single(3, false, () => rope.int(3, a.value))
        break
      case 'string':
        out.single(4, false, () => rope.text(4, a.value))
        break
      case 'tensor':
        out.single(5, false, () => rope.message(5, encodeTensor(a.value, this.#place(a.value))))
        break
      case 'graph':
        out.single(6, false, () => rope.message(6, this.graph(a.value)))
        break
      case 'floats':
        for (const v of a.value) lists.float(7, v)
        out.list(7, false, [lists], (all) => rope.rope(all))
        break
      case 'ints':
        for (const v of a.value) lists.int(8, v)
        out.list(8, false, [lists], (all) => rope.rope(all))
        break
      case 'strings':
        out.list(9, false, a.value, (v) => rope.text(9, v))
        break
      case 'tensors':
        out.list(10, false, a.value, (t) => rope.message(10, encodeTensor(t, this.#place(t))))
        break
      case 'graphs':
        out.list(11, false, a.value, (g) => rope.message(11, this.graph(g)))
        break
      case 'opaque':
        break
    }
    if (a.type !== 'opaque') out.single(20, false, () => rope.int(20, kinds[a.type]))
    out.finish()
    return rope
  }

  #attributeUnchanged(a: Attribute): boolean {
    const o = a.origin as Origin<unknown> | undefined
    if (!o) return false
    switch (a.type) {
      case 'tensor':
        return a.value === o.was && tensorUnchanged(a.value, this.#place(a.value))
      case 'graph':
        return a.value.origin === o.was && this.graphUnchanged(a.value)
      case 'tensors':
        return a.value === o.was && a.value.every((t) => tensorUnchanged(t, this.#place(t)))
      case 'graphs':
        return this.#same(a.value, o.was as readonly unknown[], (g) => this.graphUnchanged(g))
      case 'float':
        return Object.is(a.value, o.was)
      default:
        return a.value === o.was
    }
  }

  #sameAttributes(n: Node, was: NodeWas): boolean {
    if (n.attributes.size !== was.attributes.length) return false
    let i = 0
    for (const [key, a] of n.attributes) {
      const [oldKey, old] = was.attributes[i++] as readonly [string, Attribute]
      if (key !== oldKey || a.type !== old.type || a.origin !== old.origin || !this.#attributeUnchanged(a)) return false
    }
    return true
  }

  function(f: FunctionDef): Rope {
    const o = f.origin as Origin<FunctionWas> | undefined
    const rope = new Rope()
    if (o && this.functionUnchanged(f)) return rope.range(o.bytes, o.start, o.end)
    const was = o?.was
    const out = new Message(rope, o)
    out.single(1, o !== undefined, () => rope.text(1, f.name))
    out.list(4, o !== undefined, f.graph.inputs, (v) => rope.text(4, v.name))
    out.list(5, o !== undefined, f.graph.outputs, (v) => rope.text(5, v.name))
    out.list(
      7,
      this.#same(f.graph.nodes, was?.nodes, (n) => this.nodeUnchanged(n)),
      f.graph.nodes,
      (n) => rope.message(7, this.node(n)),
    )
    out.list(9, was !== undefined && samePairs([...f.opsets], was.opsets), [...f.opsets], (pair) =>
      rope.message(9, encodeOpset(pair)),
    )
    out.single(10, o !== undefined, () => rope.text(10, f.domain))
    out.single(13, o !== undefined, () => f.overload && rope.text(13, f.overload))
    out.finish()
    return rope
  }

  functionUnchanged(f: FunctionDef): boolean {
    const was = (f.origin as Origin<FunctionWas> | undefined)?.was
    return (
      was !== undefined &&
      samePairs([...f.opsets], was.opsets) &&
      this.#same(f.graph.nodes, was.nodes, (n) => this.nodeUnchanged(n))
    )
  }

  #same<T extends { origin: unknown }>(
    list: readonly T[],
    was: readonly unknown[] | undefined,
    unchanged: (t: T) => boolean,
  ): boolean {
    return was !== undefined && list.length === was.length && list.every((t, i) => t.origin === was[i] && unchanged(t))
  }
}

function sameList(a: readonly string[], b: readonly string[]): boolean {
  return a === b || (a.length === b.length && a.every((v, i) => v === b[i]))
}

function samePairs(a: readonly (readonly [string, unknown])[], b: readonly (readonly [string, unknown])[]): boolean {
  return a.length === b.length && a.every(([key, value], i) => key === b[i]?.[0] && value === b[i][1])
}

function encodeOpset([domain, version]: readonly [string, number]): Rope {
  return new Rope().text(1, domain).int(2, version)
}

function valueUnchanged(v: ValueInfo): boolean {
  const was = (v.origin as Origin<ValueInfo> | undefined)?.was
  return (
    was !== undefined &&
    v.name === was.name &&
    v.type === was.type &&
    v.kind === was.kind &&
    (v.dims === was.dims ||
      (v.dims !== null &&
        was.dims !== null &&
        v.dims.length === was.dims.length &&
        v.dims.every((d, i) => d === was.dims?.[i])))
  )
}

function encodeValue(v: ValueInfo): Rope {
  const o = v.origin as Origin<ValueInfo> | undefined
  const rope = new Rope()
  if (o && valueUnchanged(v)) return rope.range(o.bytes, o.start, o.end)
  const typed = o !== undefined && valueUnchanged(v.renamed(o.was.name))
  const out = new Message(rope, o)
  out.single(1, false, () => rope.text(1, v.name))
  out.single(2, typed, () => {
    if (v.kind !== 'tensor') return
    const tensor = new Rope().int(1, elementCodeOf(v.type))
    if (v.dims) {
      const shape = new Rope()
      for (const d of v.dims) {
        const dim = new Rope()
        if (typeof d === 'number') dim.int(1, d)
        else if (d !== null) dim.text(2, d)
        shape.message(1, dim)
      }
      tensor.message(2, shape)
    }
    rope.message(2, new Rope().message(1, tensor))
  })
  out.finish()
  return rope
}

type Write = () => unknown

/**
 * Rewrites one message: fields are declared, then {@link finish} goes through the old message and puts each in the place
 * where it was. Fields without a place follow at the end, in the order of declaration; undeclared ones are copied.
 */
class Message {
  readonly #rope: Rope
  readonly #origin: Origin<unknown> | undefined
  readonly #fields = new Map<number, { same: boolean; writes: Write[]; at: number }>()

  constructor(rope: Rope, origin: Origin<unknown> | undefined) {
    this.#rope = rope
    this.#origin = origin
  }

  single(no: number, same: boolean, write: Write): void {
    this.#fields.set(no, { same: same && this.#origin !== undefined, writes: [write], at: 0 })
  }

  list<T>(no: number, same: boolean, items: readonly T[], write: (item: T) => unknown): void {
    this.#fields.set(no, {
      same: same && this.#origin !== undefined,
      writes: items.map((item) => () => write(item)),
      at: 0,
    })
  }

  finish(): void {
    const o = this.#origin
    if (o) {
      const slots = new Map<number, number>()
      for (const f = new Fields(o.bytes, o.start, o.end); f.next();) slots.set(f.no, (slots.get(f.no) ?? 0) + 1)
      for (const f = new Fields(o.bytes, o.start, o.end); f.next();) {
        const field = this.#fields.get(f.no)
        if (!field || field.same) {
          this.#rope.range(o.bytes, f.tag, f.end)
          continue
        }
        const left = (slots.get(f.no) as number) - 1
        slots.set(f.no, left)
        // The last place takes all that remain.
        do field.writes[field.at++]?.()
        while (left === 0 && field.at < field.writes.length)
      }
    }
    for (const field of this.#fields.values())
      if (!field.same) while (field.at < field.writes.length) field.writes[field.at++]?.()
  }
}
