import { attribute, Initializer, Node, type Graph } from './graph'

/** One axis of a kernel: taps, their distance, and where the first one lies beside the result's place. */
interface Axis {
  readonly kernel: number
  readonly dilation: number
  readonly begin: number
  /** how much smaller than the map its result is, strides aside */
  readonly reach: number
}

/** A linear map of neighbouring places of `x`: a convolution, or a batch normalization as one of a single tap. */
interface Branch {
  readonly node: Node
  readonly x: string
  readonly strides: readonly number[]
  readonly group: number
  readonly outputs: number
  readonly axes: readonly Axis[]
  /** inputs of a group */
  readonly inputs: number
  /** [outputs][inputs of a group][kernel]; undefined: a factor for each channel, in `scale` */
  readonly weight: Initializer | undefined
  readonly scale?: Float64Array
  readonly bias: () => ArrayLike<number> | undefined
}

function floats(graph: Graph, name: string | undefined): Initializer | undefined {
  const c = name && !graph.isInput(name) ? graph.constant(name) : undefined
  return c?.type === 'float32' ? c : undefined
}

const dataOf = (c: Initializer): Float32Array => c.readSync().data as Float32Array

function convolution(graph: Graph, node: Node): Branch | undefined {
  const w = floats(graph, node.inputs[1])
  const b = floats(graph, node.inputs[2])
  const n = (w?.dims.length ?? 0) - 2
  if (!w || n < 1 || (node.inputs[2] && !b) || (node.string('auto_pad', 'NOTSET') || 'NOTSET') !== 'NOTSET') return undefined
  const list = (name: string, value: number, count = n): readonly number[] => node.ints(name) ?? new Array<number>(count).fill(value)
  const [strides, dilations, pads] = [list('strides', 1), list('dilations', 1), list('pads', 0, 2 * n)]
  if (strides.length !== n || dilations.length !== n || pads.length !== 2 * n || pads.some((p) => p < 0)) return undefined
  const axes = w.dims.slice(2).map((kernel, i): Axis => {
    const [dilation, begin, end] = [kernel === 1 ? 1 : (dilations[i] as number), pads[i] as number, pads[i + n] as number]
    return { kernel, dilation, begin: -begin, reach: (kernel - 1) * dilation - begin - end }
  })
  const outputs = w.dims[0] as number
  if (b && b.elementCount !== outputs) return undefined
  return { node, x: node.inputs[0] as string, strides, group: node.int('group', 1), outputs, axes, inputs: w.dims[1] as number, weight: w, bias: () => b && dataOf(b) }
}

/** A batch normalization beside `like`, which reads the same value and keeps its channels and sizes. */
function normalization(graph: Graph, node: Node, like: Branch): Branch | undefined {
  if (node.int('training_mode', 0) || node.int('spatial', 1) !== 1 || node.outputs.slice(1).some((o) => o)) return undefined
  const all = node.inputs.slice(1).map((name) => floats(graph, name))
  if (node.inputs[0] !== like.x || like.inputs * like.group !== like.outputs || like.strides.some((s) => s !== 1) || all.length !== 4) return undefined
  if (!all.every((c): c is Initializer => c?.elementCount === like.outputs)) return undefined
  const [gamma, beta, mean, variance] = all.map(dataOf) as [Float32Array, Float32Array, Float32Array, Float32Array]
  const epsilon = node.float('epsilon', 1e-5)
  const scale = Float64Array.from(gamma, (g, i) => g / Math.sqrt((variance[i] as number) + epsilon))
  const bias = Float64Array.from(beta, (v, i) => v - (mean[i] as number) * (scale[i] as number))
  return { ...like, node, axes: like.axes.map(() => ({ kernel: 1, dilation: 1, begin: 0, reach: 0 })), weight: undefined, scale, bias: () => bias }
}

/** Whether the kernel of `a` has a place for every tap of `b`. */
function covers(a: Branch, b: Branch): boolean {
  return a.axes.every((p, i) => {
    const q = b.axes[i] as Axis
    const off = q.begin - p.begin
    return p.reach === q.reach && off >= 0 && off % p.dilation === 0 && (q.kernel === 1 || q.dilation === p.dilation) && off + (q.kernel - 1) * q.dilation <= (p.kernel - 1) * p.dilation
  })
}

const alike = (a: Branch, b: Branch): boolean => a.x === b.x && a.outputs === b.outputs && a.group === b.group && a.axes.length === b.axes.length && a.strides.every((s, i) => s === b.strides[i])

/** The sum of branches as one convolution in the form of the first, which covers the others. */
function merged(graph: Graph, all: readonly Branch[]): Node {
  const first = all[0] as Branch
  const kernel = first.axes.map((a) => a.kernel)
  const taps = kernel.reduce((p, k) => p * k, 1)
  const weight = Float64Array.from(dataOf(first.weight as Initializer))
  const bias = new Float64Array(first.outputs)
  const { inputs } = first
  all.forEach((branch, at) => {
    const shift = branch.bias()
    for (let o = 0; shift && o < first.outputs; o++) bias[o]! += shift[o] as number
    if (at === 0) return
    const more = branch.weight && dataOf(branch.weight)
    const own = branch.axes.map((a) => a.kernel)
    const count = own.reduce((p, k) => p * k, 1)
    // Where each of its taps lies in the first one's kernel.
    const places = Array.from({ length: count }, (_, t) => {
      let [place, rest, step] = [0, t, 1]
      for (let i = own.length - 1; i >= 0; i--) {
        const [p, q] = [first.axes[i] as Axis, branch.axes[i] as Axis]
        place += (((q.begin - p.begin) + (rest % q.kernel) * q.dilation) / p.dilation) * step
        rest = Math.floor(rest / q.kernel)
        step *= p.kernel
      }
      return place
    })
    const each = first.outputs / first.group
    for (let o = 0; o < first.outputs; o++)
      if (more) for (let i = 0; i < inputs; i++) for (let t = 0; t < count; t++) weight[(o * inputs + i) * taps + (places[t] as number)]! += more[(o * inputs + i) * count + t] as number
      else weight[(o * inputs + (o - Math.floor(o / each) * inputs)) * taps + (places[0] as number)]! += branch.scale?.[o] as number
  })
  const { node } = first
  const add = (hint: string, dims: readonly number[], data: Float64Array): string => {
    const name = graph.uniqueName(hint)
    graph.addInitializer(Initializer.from(name, { type: 'float32', dims, data: Float32Array.from(data) }))
    return name
  }
  const names = [add(`${node.inputs[1]}.sum`, [first.outputs, inputs, ...kernel], weight), add(`${node.outputs[0]}.bias`, [first.outputs], bias)]
  const result = new Node({ name: node.name, opType: 'Conv', inputs: [first.x, ...names], outputs: [graph.uniqueName(`${node.outputs[0]}.sum`)], attributes: [...node.attributes] })
  result.attributes.set('kernel_shape', attribute.ints(kernel))
  return result
}

/** What a tree of additions adds up, and the additions. */
function terms(graph: Graph, root: Node): { readonly leaves: string[]; readonly adds: Node[] } {
  const leaves: string[] = []
  const adds: Node[] = []
  const stack = [root]
  for (let add = stack.pop(); add; add = stack.pop()) {
    adds.push(add)
    for (const name of add.inputs) {
      const made = graph.producer(name)
      if (made?.is('Add') && made.graph === graph && onlyAdded(graph, made)) stack.push(made)
      else leaves.push(name)
    }
  }
  return { leaves, adds }
}

/** Whether one addition alone reads the result of a node. */
function onlyAdded(graph: Graph, node: Node): boolean {
  const name = node.outputs[0] as string
  const [user, more] = graph.users(name)
  return user !== undefined && !more && user.is('Add') && user.graph === graph && user.inputs[0] !== user.inputs[1] && !graph.isOutput(name)
}

/**
 * Convolutions of one value whose results are added up become one, a batch normalization of that value among them: blocks of
 * RepVGG, MobileOne and their kind as they are trained. Only where one of the kernels has room for all taps. Returns how many nodes are gone.
 */
export function mergeBranches(graph: Graph, opset: number): number {
  if (opset < 7) return 0
  let gone = 0
  for (const root of [...graph.nodes].reverse()) {
    if (!root.is('Add') || root.graph !== graph || onlyAdded(graph, root)) continue
    const { leaves, adds } = terms(graph, root)
    const makers = leaves.map((name) => {
      const node = graph.producer(name)
      return node?.is('Conv', 'BatchNormalization') && node.graph === graph && onlyAdded(graph, node) ? node : undefined
    })
    if (makers.filter((n) => n).length < 2) continue
    const found = makers.map((node) => (node?.is('Conv') ? convolution(graph, node) : undefined))
    const left = new Set(leaves.keys())
    const results: Node[] = []
    const merges: Branch[] = []
    // The widest kernels first: they have room for others.
    const size = (b: Branch | undefined): number => b?.weight?.elementCount ?? 0
    for (const i of [...left].sort((a, b) => size(found[b]) - size(found[a]))) {
      const wide = found[i]
      if (!wide || !left.has(i)) continue
      const others = [...left].flatMap((j) => {
        const maker = makers[j]
        const branch = j === i || !maker ? undefined : maker.is('Conv') ? found[j] : normalization(graph, maker, wide)
        return branch && alike(wide, branch) && covers(wide, branch) ? [[j, branch] as const] : []
      })
      if (others.length === 0) continue
      const all = [wide, ...others.map(([, b]) => b)]
      results.push(merged(graph, all))
      merges.push(...all)
      for (const j of [i, ...others.map(([j]) => j)]) left.delete(j)
    }
    if (results.length === 0) continue
    // Constants come next to the convolution, whose bias takes them.
    const rest = [...left].map((i) => leaves[i] as string).sort((a, b) => Number(Boolean(graph.constant(b))) - Number(Boolean(graph.constant(a))))
    const operands = [...results.map((n) => n.outputs[0] as string), ...rest]
    const output = root.outputs[0] as string
    if (operands.length === 1) (results[0] as Node).outputs = [output]
    const old = new Set([...adds, ...merges.map((b) => b.node)])
    const before = graph.nodes.slice(graph.nodes.indexOf(root)).find((n) => !old.has(n))
    const where = before ? { before } : {}
    for (const node of old) {
      graph.removeNode(node)
      if (node !== root) graph.valueInfo.delete(node.outputs[0] as string)
    }
    for (const node of results) graph.addNode(node, where)
    let sum = operands[0] as string
    operands.slice(1).forEach((operand, i) => {
      const out = i === operands.length - 2 ? output : graph.uniqueName(`${output}.part`)
      graph.addNode(new Node({ name: i === operands.length - 2 ? root.name : '', opType: 'Add', inputs: [sum, operand], outputs: [out] }), where)
      sum = out
    })
    gone += adds.length + merges.length - results.length - (operands.length - 1)
  }
  return gone
}
