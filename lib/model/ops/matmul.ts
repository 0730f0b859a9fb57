import type { Dim, ElementType } from '../types'
import { bad, broadcast, op, type InferContext, type Ops } from './op'

function matmul(c: InferContext, ia: number, ib: number, type: ElementType): void {
  const a = c.dims(ia)
  const b = c.dims(ib)
  if (!a || !b) return c.set(0, type, null)
  if (a.length === 0 || b.length === 0) bad(c, 'a scalar operand')
  const [k1, k2] = [a[a.length - 1], b.length === 1 ? b[0] : b[b.length - 2]]
  if (typeof k1 === 'number' && typeof k2 === 'number' && k1 !== k2) bad(c, `inner sizes ${k1} and ${k2}`)
  const batch = broadcast(c, [a.slice(0, -2), b.slice(0, -2)]) as Dim[]
  const rows = a.length === 1 ? [] : [a[a.length - 2] as Dim]
  const columns = b.length === 1 ? [] : [b[b.length - 1] as Dim]
  c.set(0, type, [...batch, ...rows, ...columns])
}

export const matmuls: Ops = {
  MatMul: op((c) => matmul(c, 0, 1, c.type(0))),
  MatMulInteger: op((c) => matmul(c, 0, 1, 'int32')),
  QLinearMatMul: op((c) => matmul(c, 0, 3, c.type(7))),
  'com.microsoft:MatMulNBits': op((c) => {
    const a = c.dims(0)
    const [k, n] = [c.node.int('K', 0), c.node.int('N', 0)]
    const last = a?.[a.length - 1]
    if (a?.length === 0 || (typeof last === 'number' && last !== k)) bad(c, `rows of ${last ?? 'a scalar'} for K = ${k}`)
    c.set(0, c.type(0), a && [...a.slice(0, -1), n])
  }),
  Gemm: op((c) => {
    const a = c.dims(0)
    const b = c.dims(1)
    if ((a && a.length !== 2) || (b && b.length !== 2)) bad(c, 'operands must be matrices')
    const [ta, tb] = [c.node.int('transA', 0) !== 0, c.node.int('transB', 0) !== 0]
    const [k1, k2] = [a?.[ta ? 0 : 1], b?.[tb ? 1 : 0]]
    if (typeof k1 === 'number' && typeof k2 === 'number' && k1 !== k2) bad(c, `inner sizes ${k1} and ${k2}`)
    c.set(0, c.type(0), [a?.[ta ? 1 : 0] ?? null, b?.[tb ? 0 : 1] ?? null])
  }),
}
