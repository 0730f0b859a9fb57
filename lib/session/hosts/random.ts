import { elementTypeOf } from '../../model/types'
import type { Node } from '../../model'
import { isDataType, sizeOf, type Tensor } from '../../tensor'
import { made, numbers, operand, refuse, type Host } from './host'

type Draw = () => number

/**
 * Uniform numbers in [0, 1) of 24 bits: xoshiro128++ (Blackman and Vigna, 2019), its state filled by splitmix32. A node with a `seed` draws the
 * same numbers in every session; each run goes on where the last one ended.
 */
function generator(node: Node): Draw {
  const seed = node.attributes.get('seed')
  let fill = Math.floor(Math.random() * 2 ** 32)
  if (seed?.type === 'float') [fill] = new Uint32Array(Float32Array.of(seed.value).buffer) as unknown as [number]
  else if (seed?.type === 'int') fill = Number(BigInt.asUintN(32, BigInt(seed.value)))
  const s = Uint32Array.from({ length: 4 }, () => {
    fill = (fill + 0x9e3779b9) >>> 0
    let x = Math.imul(fill ^ (fill >>> 16), 0x21f0aaad)
    x = Math.imul(x ^ (x >>> 15), 0x735a2d97)
    return x ^ (x >>> 15)
  }) as Uint32Array & [number, number, number, number]
  const turned = (x: number, by: number): number => (x << by) | (x >>> (32 - by))
  return () => {
    const result = turned(s[0] + s[3], 7) + s[0]
    const shifted = s[1] << 9
    s[2] ^= s[0]
    s[3] ^= s[1]
    s[1] ^= s[2]
    s[0] ^= s[3]
    s[2] ^= shifted
    s[3] = turned(s[3], 11)
    return (result >>> 8) / 2 ** 24
  }
}

/** Normal numbers, by the method of Box and Muller. */
function normals(uniform: Draw): Draw {
  let kept: number | undefined
  return () => {
    if (kept !== undefined) {
      const last = kept
      kept = undefined
      return last
    }
    // Never the logarithm of zero.
    const radius = Math.sqrt(-2 * Math.log(1 - uniform()))
    const angle = 2 * Math.PI * uniform()
    kept = radius * Math.sin(angle)
    return radius * Math.cos(angle)
  }
}

/** The type that a node names, or `otherwise`. */
function typeOf(node: Node, otherwise: Tensor['type']): Tensor['type'] {
  const code = node.int('dtype', 0)
  const type = code === 0 ? otherwise : elementTypeOf(code)
  if (!type || !isDataType(type)) return refuse(node, `dtype ${code}`)
  return type
}

/** A host whose draws go on from run to run. `f` answers for the operands. */
function drawn(f: (node: Node, uniform: Draw, ...operands: (Tensor | undefined)[]) => readonly (Tensor | undefined)[]): Host {
  return (node, scope) => {
    const uniform = generator(node)
    return {
      *run(known) {
        return f(node, uniform, ...node.inputs.map((_, i) => operand(node, scope, known, i)))
      },
    }
  }
}

function filled(node: Node, dims: readonly number[], otherwise: Tensor['type'], draw: Draw): readonly Tensor[] {
  if (dims.some((d) => !Number.isInteger(d) || d < 0)) refuse(node, `shape [${dims.join(', ')}]`)
  return [made(typeOf(node, otherwise), dims, Float64Array.from({ length: sizeOf(dims) }, draw))]
}

const normalOf = (node: Node, uniform: Draw): Draw => {
  const [draw, mean, scale] = [normals(uniform), node.float('mean', 0), node.float('scale', 1)]
  return () => mean + scale * draw()
}

const uniformOf = (node: Node, uniform: Draw): Draw => {
  const [low, high] = [node.float('low', 0), node.float('high', 1)]
  return () => low + (high - low) * uniform()
}

const ofShape = (how: typeof normalOf): Host => drawn((node, uniform) => filled(node, node.ints('shape', []), 'float32', how(node, uniform)))
const likeInput = (how: typeof normalOf): Host => drawn((node, uniform, x) => filled(node, (x as Tensor).dims, (x as Tensor).type, how(node, uniform)))

const bernoulli = drawn((node, uniform, given) => {
  const x = given as Tensor
  const chance = numbers(x)
  return [made(typeOf(node, x.type), x.dims, Float64Array.from(chance, (p) => Number(uniform() < p)))]
})

const multinomial = drawn((node, uniform, given) => {
  const x = given as Tensor
  const [rows, classes] = x.dims as [number, number]
  if (x.dims.length !== 2 || classes === 0) refuse(node, `logarithms of [${x.dims.join(', ')}], want [rows, classes]`)
  const count = node.int('sample_size', 1)
  const all = numbers(x)
  const out = new Float64Array(rows * count)
  for (let r = 0; r < rows; r++) {
    const row = Float64Array.from({ length: classes }, (_, c) => all[r * classes + c] as number)
    const top = row.reduce((a, b) => Math.max(a, b), -Infinity)
    let sum = 0
    const below = row.map((v) => (sum += Math.exp(v - top)))
    if (!(sum > 0 && sum < Infinity)) refuse(node, `row ${r} has no class that could be drawn`)
    for (let i = 0; i < count; i++) {
      const at = uniform() * sum
      out[r * count + i] = below.findIndex((v) => at < v)
    }
  }
  return [made(typeOf(node, 'int32'), [rows, count], out)]
})

/** Inference hands x on; while training each element is dropped by chance, and what stays grows by 1 / (1 - ratio). */
const dropout = drawn((node, uniform, given, ratio, training) => {
  const x = given as Tensor
  const chance = training && Number(training.data[0]) !== 0 ? (ratio ? Number(ratio.data[0]) : 0.5) : 0
  if (!(chance >= 0 && chance < 1)) refuse(node, `a ratio of ${chance}`)
  const mask = Uint8Array.from({ length: x.data.length }, () => Number(chance === 0 || uniform() >= chance))
  const values = numbers(x)
  const kept = chance === 0 ? x : made(x.type, x.dims, Float64Array.from(values, (v, i) => (mask[i] ? v / (1 - chance) : 0)))
  return [kept, { type: 'bool', dims: x.dims, data: mask }]
})

export const draws: Readonly<Record<string, Host>> = {
  RandomNormal: ofShape(normalOf),
  RandomNormalLike: likeInput(normalOf),
  RandomUniform: ofShape(uniformOf),
  RandomUniformLike: likeInput(uniformOf),
  Bernoulli: bernoulli,
  Multinomial: multinomial,
}

/** Where a step of a plan does not do. */
export const dropouts: Readonly<Record<string, Host>> = { Dropout: dropout }
