import { Initializer, Model, Node, ValueInfo, Graph } from '../../model'
import { fromHalf, toHalf } from '../../model/half'
import { allocate, sizeOf, type Tensor } from '../../tensor'
import { codesOf } from '../codes'
import { prepareBody } from '../prepare'
import { made, numbers, operand, plain, refuse, strides, type Host } from './host'

const kFloat = new Float32Array(1)
const kBits = new Uint32Array(kFloat.buffer)

function toBrain(v: number): number {
  kFloat[0] = v
  const bits = kBits[0] as number
  if (Number.isNaN(v)) return 0x7fc0
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

function fromBrain(b: number): number {
  kBits[0] = b << 16
  return kFloat[0] as number
}

/** Numbers of a tensor of a short float type too. */
function read(t: Tensor): ArrayLike<number> {
  if (t.type === 'int4' || t.type === 'uint4') return codesOf(t)
  const bits = t.type === 'float16' || t.type === 'bfloat16' ? new Uint16Array(t.data.buffer, t.data.byteOffset, t.data.length) : undefined
  if (!bits) return numbers(t)
  return Float32Array.from(bits, t.type === 'float16' ? fromHalf : fromBrain)
}

function write(type: Tensor['type'], dims: readonly number[], values: ArrayLike<number>): Tensor {
  if (type === 'int4' || type === 'uint4') {
    const data = allocate(type, values.length)
    for (let i = 0; i < values.length; i++) (data as Uint8Array)[i >> 1]! |= (Math.trunc(values[i] as number) & 15) << ((i & 1) * 4)
    return { type, dims, data }
  }
  if (type !== 'float16' && type !== 'bfloat16') {
    const whole = type.startsWith('int') || type.startsWith('uint')
    return made(type, dims, type === 'bool' ? Array.from(values, (v) => (v ? 1 : 0)) : whole ? Array.from(values, Math.trunc) : values)
  }
  const data = allocate(type, values.length)
  const bits = new Uint16Array(data.buffer, data.byteOffset, data.length)
  for (let i = 0; i < bits.length; i++) bits[i] = type === 'float16' ? toHalf(values[i] as number) : toBrain(values[i] as number)
  return { type, dims, data }
}

const cast: Host = (node, scope) => plain((n, x) => [write(scope.type(n.outputs[0] as string), (x as Tensor).dims, read(x as Tensor))])(node, scope)

function broadcast(a: readonly number[], b: readonly number[]): number[] {
  const rank = Math.max(a.length, b.length)
  return Array.from({ length: rank }, (_, i) => {
    const [p, q] = [a[i - rank + a.length] ?? 1, b[i - rank + b.length] ?? 1]
    return p === 1 ? q : p
  })
}

/** An operation of two operands whose types may differ: the result is of the first one's. */
function mixed(f: (a: number, b: number) => number): Host {
  return plain((node, first, second) => {
    const [a, b] = [first as Tensor, second as Tensor]
    const dims = broadcast(a.dims, b.dims)
    const own = strides(dims)
    const at = (t: Tensor, i: number): number => {
      const s = strides(t.dims)
      let place = 0
      t.dims.forEach((d, k) => {
        const axis = k + dims.length - t.dims.length
        if (d !== 1 && d !== dims[axis]) refuse(node, `[${a.dims.join(', ')}] and [${b.dims.join(', ')}]`)
        if (d !== 1) place += (Math.floor(i / (own[axis] as number)) % d) * (s[k] as number)
      })
      return place
    }
    const [p, q] = [read(a), read(b)]
    return [write(a.type, dims, Float64Array.from({ length: sizeOf(dims) }, (_, i) => f(p[at(a, i)] as number, q[at(b, i)] as number)))]
  })
}

const clip = plain((_, given, low, high) => {
  const x = given as Tensor
  const [from, to] = [low ? Number(read(low)[0]) : -Infinity, high ? Number(read(high)[0]) : Infinity]
  return [write(x.type, x.dims, Array.from(read(x), (v) => Math.min(Math.max(v, from), to)))]
})

/** Of codes of 4 bits, which no step can move one by one. */
const transpose = plain((node, given) => {
  const x = given as Tensor
  const perm = node.ints('perm') ?? x.dims.map((_, i) => x.dims.length - 1 - i)
  const dims = perm.map((p) => x.dims[p] as number)
  const [own, to] = [strides(x.dims), strides(dims)]
  const all = read(x)
  const at = (i: number): number => dims.reduce((s, d, k) => s + (Math.floor(i / (to[k] as number)) % d) * (own[perm[k] as number] as number), 0)
  return [write(x.type, dims, Float64Array.from({ length: all.length }, (_, i) => all[at(i)] as number))]
})

const isInf = plain((node, given) => {
  const x = given as Tensor
  const [up, down] = [node.int('detect_positive', 1) !== 0, node.int('detect_negative', 1) !== 0]
  return [made('bool', x.dims, Array.from(read(x), (v) => ((up && v === Infinity) || (down && v === -Infinity) ? 1 : 0)))]
})

/** Runs a node for which some operands must be constants as a model of its own, in which they are. */
function baked(...constant: readonly number[]): Host {
  return (node, scope) => ({
    *run(known) {
      const graph = new Graph(node.label)
      const given = new Map<string, Tensor>()
      const inputs: ValueInfo[] = []
      node.inputs.forEach((name, i) => {
        const t = operand(node, scope, known, i)
        if (!t || given.has(name) || graph.initializers.has(name)) return
        if (constant.includes(i)) graph.addInitializer(Initializer.from(name, t))
        else {
          given.set(name, t)
          inputs.push(new ValueInfo(name, t.type, t.dims))
        }
      })
      graph.inputs = inputs
      const { name, opType, domain, outputs, attributes } = node
      graph.addNode(new Node({ name, opType, domain, inputs: node.inputs, outputs, attributes }))
      const wanted = outputs.filter((o) => o)
      graph.outputs = wanted.map((o) => new ValueInfo(o, 'undefined', null))
      const inner = scope.inner(prepareBody(new Model({ graph, opsets: scope.model.opsets, irVersion: 8 })))
      try {
        const found = yield* inner.execute(given, wanted)
        return outputs.map((o) => (o ? found.get(o) : undefined))
      } finally {
        inner.forget()
      }
    },
  })
}

export const conversions: Readonly<Record<string, Host>> = {
  Transpose: transpose,
  Cast: cast,
  CastLike: cast,
  Pow: mixed(Math.pow),
  Min: mixed(Math.min),
  Max: mixed(Math.max),
  Mod: (node, scope) => mixed(node.int('fmod', 0) ? (a, b) => a % b : (a, b) => a - b * Math.floor(a / b))(node, scope),
  Clip: clip,
  IsInf: isInf,
}

/** Operands that are weights where they are constants. */
export const weights: Readonly<Record<string, readonly number[]>> = { Conv: [1, 2], ConvTranspose: [1, 2], BatchNormalization: [1, 2, 3, 4] }

export const bakeries: Readonly<Record<string, Host>> = Object.fromEntries(Object.entries(weights).map(([op, at]) => [op, baked(...at)]))
