import { Graph } from '../graph'
import type { Initializer } from '../initializer'
import { Node, type Attribute, type Int } from '../node'
import { elementTypeOf, ValueInfo, type Dim, type ElementType } from '../types'
import type { ExternalFiles } from './external'
import { readPair, readTensor } from './tensor'
import { malformed, type Bytes } from '../bytes'
import { Fields } from './wire'

/** Protobuf's own limit of 100 nested messages, in graphs. */
const kMaxGraphDepth = 32

/** @internal A message as it lies in the file, and what was read from it. The writer compares, and copies what is unchanged. */
export interface Origin<T> {
  readonly bytes: Bytes
  readonly start: number
  readonly end: number
  readonly was: T
}

/** A function that the model defines itself: a graph without types, called by `domain` and `name`. */
export interface FunctionDef {
  readonly name: string
  readonly domain: string
  readonly overload: string
  readonly graph: Graph
  readonly opsets: Map<string, number>
  /** @internal the file's own record */
  readonly origin: unknown
}

/** @internal */
export interface NodeWas {
  readonly name: string
  readonly opType: string
  readonly domain: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: readonly (readonly [string, Attribute])[]
}

/** @internal Lists hold the origins of the members, in order. */
export interface GraphWas {
  readonly name: string
  readonly nodes: readonly unknown[]
  readonly initializers: readonly unknown[]
  readonly inputs: readonly unknown[]
  readonly outputs: readonly unknown[]
  readonly valueInfo: readonly unknown[]
}

/** @internal */
export interface FunctionWas {
  readonly nodes: readonly unknown[]
  readonly opsets: readonly (readonly [string, number])[]
}

/** @internal */
export interface ModelWas extends Header {
  readonly graph: unknown
  readonly opsets: readonly (readonly [string, number])[]
  readonly metadata: readonly (readonly [string, string])[]
  readonly functions: readonly unknown[]
}

/** The plain fields of a model. */
export interface Header {
  irVersion: number
  producerName: string
  producerVersion: string
  domain: string
  modelVersion: Int
  docString: string
}

/** @internal */
export interface ModelParts {
  readonly header: Header
  readonly graph: Graph
  readonly opsets: Map<string, number>
  readonly metadata: Map<string, string>
  readonly functions: FunctionDef[]
  readonly origin: Origin<ModelWas>
}

/** Reads a `ModelProto`: everything but weights. */
export function readModel(bytes: Bytes, external: ExternalFiles): ModelParts {
  const fields = new Fields(bytes, 0, bytes.length)
  const reader = new Reader(bytes, external)
  const header: Header = {
    irVersion: -1,
    producerName: '',
    producerVersion: '',
    domain: '',
    modelVersion: 0,
    docString: '',
  }
  let graph: Graph | undefined
  const opsets = new Map<string, number>()
  const metadata = new Map<string, string>()
  const functions: FunctionDef[] = []
  while (fields.next())
    switch (fields.no) {
      case 1:
        header.irVersion = fields.small()
        break
      case 2:
        header.producerName = fields.lossyText()
        break
      case 3:
        header.producerVersion = fields.lossyText()
        break
      case 4:
        header.domain = fields.lossyText()
        break
      case 5:
        header.modelVersion = fields.int()
        break
      case 6:
        header.docString = fields.lossyText()
        break
      case 7:
        if (graph) malformed(bytes.label, 'more than one graph')
        graph = reader.graph(fields.message(), 0)
        break
      case 8:
        reader.opset(fields.message(), opsets)
        break
      case 14: {
        const [key, value] = readPair(fields.message())
        metadata.set(key, value)
        break
      }
      case 25:
        functions.push(reader.function(fields.message()))
        break
    }
  if (!Number.isInteger(header.irVersion) || header.irVersion < 1 || header.irVersion > 1e6)
    malformed(bytes.label, bytes.length === 0 ? 'the file is empty' : 'no valid ir_version: this is not an ONNX model')
  if (!graph) malformed(bytes.label, 'a model without a graph')
  if (opsets.size === 0) {
    if (header.irVersion >= 3) malformed(bytes.label, 'a model without opset_import')
    opsets.set('', 1)
  }
  const names = new Set<string>()
  for (const f of functions) {
    const key = JSON.stringify([f.domain, f.name, f.overload])
    if (names.has(key)) malformed(bytes.label, `function ${f.domain}:${f.name} is defined twice`)
    names.add(key)
  }
  const was: ModelWas = {
    ...header,
    graph: graph.origin,
    opsets: [...opsets],
    metadata: [...metadata],
    functions: functions.map((f) => f.origin),
  }
  return { header, graph, opsets, metadata, functions, origin: { bytes, start: 0, end: bytes.length, was } }
}

class Reader {
  readonly #bytes: Bytes
  readonly #external: ExternalFiles

  constructor(bytes: Bytes, external: ExternalFiles) {
    this.#bytes = bytes
    this.#external = external
  }

  graph(fields: Fields, depth: number): Graph {
    if (depth > kMaxGraphDepth) this.#fail(`graphs nested more than ${kMaxGraphDepth} deep`)
    const start = fields.end
    const graph = new Graph()
    const nodes: Node[] = []
    const inputs: ValueInfo[] = []
    const outputs: ValueInfo[] = []
    const sparse: { name: string; origin: unknown }[] = []
    while (fields.next())
      switch (fields.no) {
        case 1:
          nodes.push(this.node(fields.message(), depth))
          break
        case 2:
          graph.name = fields.text()
          break
        case 5: {
          const t = readTensor(fields.message(), this.#external, `initializer ${graph.initializers.size}`)
          if (!t.name) this.#fail(`initializer ${graph.initializers.size} has no name`)
          if (graph.initializers.has(t.name)) this.#fail(`two initializers named ${t.name}`)
          graph.initializers.set(t.name, t)
          break
        }
        case 11:
          inputs.push(this.value(fields.message()))
          break
        case 12:
          outputs.push(this.value(fields.message()))
          break
        case 13: {
          const info = this.value(fields.message())
          // Exporters do repeat annotations; all are kept in the file, and the last one counts.
          graph.valueInfo.set(info.name, info)
          break
        }
        case 15:
          sparse.push(this.sparse(fields.message(), sparse.length))
          break
      }
    graph.inputs = inputs
    graph.outputs = outputs
    graph.sparseInitializers = sparse
    graph.setNodes(nodes)
    const was: GraphWas = {
      name: graph.name,
      nodes: nodes.map((n) => n.origin),
      initializers: [...graph.initializers.values()].map((t) => t.origin),
      inputs: inputs.map((v) => v.origin),
      outputs: outputs.map((v) => v.origin),
      valueInfo: [...graph.valueInfo.values()].map((v) => v.origin),
    }
    graph.origin = this.#origin(start, fields, was)
    return graph
  }

  node(fields: Fields, depth: number): Node {
    const start = fields.end
    const inputs: string[] = []
    const outputs: string[] = []
    const attributes = new Map<string, Attribute>()
    let name = ''
    let opType = ''
    let domain = ''
    while (fields.next())
      switch (fields.no) {
        case 1:
          inputs.push(fields.text())
          break
        case 2:
          outputs.push(fields.text())
          break
        case 3:
          name = fields.text()
          break
        case 4:
          opType = fields.text()
          break
        case 5: {
          const [key, value] = this.attribute(fields.message(), depth)
          if (attributes.has(key)) this.#fail(`node ${name || opType}: attribute ${key} is given twice`)
          attributes.set(key, value)
          break
        }
        case 7:
          domain = fields.text()
          break
      }
    if (!opType) this.#fail(`node ${name || '(no name)'} has no op_type`)
    const node = new Node({ name, opType, domain, inputs, outputs, attributes })
    const was: NodeWas = {
      name,
      opType,
      domain: node.domain,
      inputs: node.inputs,
      outputs: node.outputs,
      attributes: [...attributes],
    }
    node.origin = this.#origin(start, fields, was)
    return node
  }

  attribute(fields: Fields, depth: number): [string, Attribute] {
    const start = fields.end
    let name = ''
    let reference: string | undefined
    let code = 0
    let float = 0
    let int: Int = 0
    let string = ''
    let tensor: Initializer | undefined
    let graph: Graph | undefined
    const floats: number[] = []
    const ints: Int[] = []
    const strings: string[] = []
    const tensors: Initializer[] = []
    const graphs: Graph[] = []
    let seen = 0
    while (fields.next()) {
      switch (fields.no) {
        case 1:
          name = fields.text()
          break
        case 2:
          float = fields.float()
          break
        case 3:
          int = fields.int()
          break
        case 4:
          string = fields.lossyText()
          break
        case 5:
          if (tensor) this.#fail(`attribute ${name}: two tensors`)
          tensor = readTensor(fields.message(), this.#external, `attribute ${name}`)
          break
        case 6:
          if (graph) this.#fail(`attribute ${name}: two graphs`)
          graph = this.graph(fields.message(), depth + 1)
          break
        case 7:
          fields.floats(floats)
          break
        case 8:
          fields.ints(ints)
          break
        case 9:
          strings.push(fields.lossyText())
          break
        case 10:
          tensors.push(readTensor(fields.message(), this.#external, `attribute ${name}`))
          break
        case 11:
          graphs.push(this.graph(fields.message(), depth + 1))
          break
        case 20:
          code = fields.small()
          break
        case 21:
          reference = fields.text()
          break
      }
      if (fields.no >= 2 && fields.no <= 11) seen ||= fields.no
    }
    if (!name) this.#fail('an attribute without a name')
    // Files of IR version 1 have no type field: the field that is there tells.
    if (code === 0 && seen) code = seen - 1
    const missing = (): never => this.#fail(`attribute ${name}: its type says ${code}, but no such value is there`)
    const build = (): Attribute => {
      switch (code) {
        case 1:
          return { type: 'float', value: float }
        case 2:
          return { type: 'int', value: int }
        case 3:
          return { type: 'string', value: string }
        case 4:
          return tensor
            ? { type: 'tensor', value: tensor }
            : reference
              ? { type: 'opaque', value: undefined }
              : missing()
        case 5:
          return graph ? { type: 'graph', value: graph } : reference ? { type: 'opaque', value: undefined } : missing()
        case 6:
          return { type: 'floats', value: Object.freeze(floats) }
        case 7:
          return { type: 'ints', value: Object.freeze(ints) }
        case 8:
          return { type: 'strings', value: Object.freeze(strings) }
        case 9:
          return { type: 'tensors', value: Object.freeze(tensors) }
        case 10:
          return { type: 'graphs', value: Object.freeze(graphs) }
        default:
          return { type: 'opaque', value: undefined }
      }
    }
    const built = build()
    const was =
      built.type === 'graph'
        ? built.value.origin
        : built.type === 'graphs'
          ? built.value.map((g) => g.origin)
          : built.value
    const made: Attribute = { ...built, origin: this.#origin(start, fields, was), ...(reference ? { reference } : {}) }
    return [name, made]
  }

  value(fields: Fields): ValueInfo {
    const start = fields.end
    let name = ''
    let kind: ValueInfo['kind'] = 'unknown'
    let type: ElementType = 'undefined'
    let dims: Dim[] | null = null
    while (fields.next())
      if (fields.no === 1) name = fields.text()
      else if (fields.no === 2) {
        const inner = fields.message()
        while (inner.next())
          if (inner.no === 1 || inner.no === 8) {
            kind = inner.no === 1 ? 'tensor' : 'sparse'
            const tensor = inner.message()
            while (tensor.next())
              if (tensor.no === 1) type = elementTypeOf(tensor.small()) ?? 'undefined'
              else if (tensor.no === 2) dims = this.#shape(tensor.message())
          } else {
            const kinds: Record<number, ValueInfo['kind']> = { 4: 'sequence', 5: 'map', 7: 'opaque', 9: 'optional' }
            kind = kinds[inner.no] ?? kind
          }
      }
    if (!name) this.#fail('a graph value without a name')
    const info = new ValueInfo(name, type, dims, kind)
    return new ValueInfo(name, type, dims, kind, this.#origin(start, fields, info))
  }

  #shape(fields: Fields): Dim[] {
    const dims: Dim[] = []
    while (fields.next())
      if (fields.no === 1) {
        let dim: Dim = null
        const inner = fields.message()
        while (inner.next())
          if (inner.no === 1) {
            const size = inner.small()
            // Old exporters write -1 or 0 for "any". 0 is also an honest size, so it stays.
            dim = Number.isSafeInteger(size) && size >= 0 ? size : null
          } else if (inner.no === 2) dim = inner.lossyText() || null
        dims.push(dim)
        if (dims.length > 64) this.#fail('a shape of more than 64 dimensions')
      }
    return dims
  }

  sparse(fields: Fields, index: number): { name: string; origin: unknown } {
    const start = fields.end
    let name = ''
    while (fields.next())
      if (fields.no === 1 || fields.no === 2) {
        const t = readTensor(fields.message(), this.#external, `sparse initializer ${index}`)
        if (t.source.kind === 'external') this.#fail(`sparse initializer ${index}: external data is not supported here`)
        if (fields.no === 1) name = t.name
      }
    if (!name) this.#fail(`sparse initializer ${index} has no name`)
    return { name, origin: this.#origin(start, fields, undefined) }
  }

  opset(fields: Fields, into: Map<string, number>): void {
    let domain = ''
    let version = 1
    while (fields.next())
      if (fields.no === 1) domain = fields.text()
      else if (fields.no === 2) version = fields.small()
    if (domain === 'ai.onnx') domain = ''
    if (!Number.isSafeInteger(version) || version < 1) this.#fail(`opset ${domain || 'ai.onnx'}: version ${version}`)
    if (into.has(domain) && into.get(domain) !== version)
      this.#fail(`opset ${domain || 'ai.onnx'} is imported in two versions`)
    into.set(domain, version)
  }

  function(fields: Fields): FunctionDef {
    const start = fields.end
    const opsets = new Map<string, number>()
    const nodes: Node[] = []
    const inputs: ValueInfo[] = []
    const outputs: ValueInfo[] = []
    const unknown = (name: string): ValueInfo => new ValueInfo(name, 'undefined', null, 'unknown')
    let name = ''
    let domain = ''
    let overload = ''
    while (fields.next())
      switch (fields.no) {
        case 1:
          name = fields.text()
          break
        case 4:
          inputs.push(unknown(fields.text()))
          break
        case 5:
          outputs.push(unknown(fields.text()))
          break
        case 7:
          nodes.push(this.node(fields.message(), 0))
          break
        case 9:
          this.opset(fields.message(), opsets)
          break
        case 10:
          domain = fields.text()
          break
        case 13:
          overload = fields.text()
          break
      }
    const graph = new Graph(name)
    graph.inputs = inputs
    graph.outputs = outputs
    graph.setNodes(nodes)
    const was: FunctionWas = { nodes: nodes.map((n) => n.origin), opsets: [...opsets] }
    return { name, domain, overload, graph, opsets, origin: this.#origin(start, fields, was) }
  }

  #origin<T>(start: number, fields: Fields, was: T): Origin<T> {
    return { bytes: this.#bytes, start, end: fields.limit, was }
  }

  #fail(message: string): never {
    malformed(this.#bytes.label, message)
  }
}
