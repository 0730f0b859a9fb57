import { elementTypeOf } from '../types'
import { op, type InferContext, type Op, type Ops } from './op'

/** Of a shape that an attribute tells, or of the input's. */
function drawn(otherwise?: 'float32'): Op {
  return op((c) => {
    const like = otherwise === undefined
    c.set(0, typeOf(c, otherwise ?? c.type(0)), like ? c.dims(0) : (c.node.ints('shape') ?? null))
  })
}

function typeOf(c: InferContext, otherwise: ReturnType<InferContext['type']>): ReturnType<InferContext['type']> {
  const code = c.node.int('dtype', 0)
  return code === 0 ? otherwise : (elementTypeOf(code) ?? 'undefined')
}

export const randoms: Ops = {
  RandomNormal: drawn('float32'),
  RandomUniform: drawn('float32'),
  RandomNormalLike: drawn(),
  RandomUniformLike: drawn(),
  Bernoulli: drawn(),
  Multinomial: op((c) => {
    const rows = c.dims(0)?.[0]
    c.set(0, typeOf(c, 'int32'), rows === undefined ? null : [rows, c.node.int('sample_size', 1)])
  }),
}
