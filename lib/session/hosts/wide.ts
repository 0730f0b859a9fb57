import { sizeOf, type Tensor } from '../../tensor'
import { axisOf, lines, made, nearestEven, numbers, plain, refuse, strides, type Host } from './host'

const kFunctions: Readonly<Record<string, (v: number) => number>> = {
  Ceil: Math.ceil, Floor: Math.floor, Round: nearestEven, Relu: (v) => (v < 0 ? 0 : v), Reciprocal: (v) => 1 / v, Sqrt: Math.sqrt,
  Exp: Math.exp, Log: Math.log, Sigmoid: (v) => 1 / (1 + Math.exp(-v)), Softplus: (v) => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v))), Softsign: (v) => v / (1 + Math.abs(v)),
  Sin: Math.sin, Cos: Math.cos, Tan: Math.tan, Asin: Math.asin, Acos: Math.acos, Atan: Math.atan,
  Sinh: Math.sinh, Cosh: Math.cosh, Tanh: Math.tanh, Asinh: Math.asinh, Acosh: Math.acosh, Atanh: Math.atanh,
} // prettier-ignore

const each = (f: (v: number) => number): Host =>
  plain((_, given) => {
    const x = given as Tensor
    return [made(x.type, x.dims, Float64Array.from(numbers(x), f))]
  })

const softmax = (logarithm: boolean): Host =>
  plain((node, given) => {
    const x = given as Tensor
    const axis = axisOf(node, node.int('axis', -1), x.dims.length)
    const all = numbers(x)
    const out = new Float64Array(all.length)
    lines(x.dims, axis, (at, n) => {
      let [top, sum] = [-Infinity, 0]
      for (let i = 0; i < n; i++) top = Math.max(top, all[at(i)] as number)
      for (let i = 0; i < n; i++) sum += Math.exp((all[at(i)] as number) - top)
      for (let i = 0; i < n; i++) {
        const v = (all[at(i)] as number) - top
        out[at(i)] = logarithm ? v - Math.log(sum) : Math.exp(v) / sum
      }
    })
    return [made(x.type, x.dims, out)]
  })

/** Products of stacks of matrices; integers of 64 bits wrap around as others do. */
const matmul = plain((node, left, right) => {
  const [a, b] = [left as Tensor, right as Tensor]
  const [da, db] = [a.dims.length === 1 ? [1, ...a.dims] : a.dims, b.dims.length === 1 ? [...b.dims, 1] : b.dims]
  const [m, k] = da.slice(-2) as [number, number]
  const [rows, n] = db.slice(-2) as [number, number]
  const rank = Math.max(da.length, db.length) - 2
  const [la, lb] = [da, db].map((d) => [...new Array<number>(rank + 2 - d.length).fill(1), ...d.slice(0, -2)]) as [number[], number[]]
  if (k !== rows || la.some((d, i) => d !== lb[i] && d !== 1 && lb[i] !== 1)) refuse(node, `a product of [${a.dims.join(', ')}] and [${b.dims.join(', ')}]`)
  const lead = la.map((d, i) => (d === 1 ? (lb[i] as number) : d))
  const [own, sa, sb] = [strides(lead), strides(la), strides(lb)]
  const count = sizeOf(lead)
  const long = a.type === 'int64' || a.type === 'uint64'
  const [x, y] = [a.data, b.data] as unknown as [number[], number[]]
  const out = long ? new BigInt64Array(count * m * n) : new Float64Array(count * m * n)
  for (let t = 0; t < count; t++) {
    let [pa, pb] = [0, 0]
    for (let i = 0; i < rank; i++) {
      const c = Math.floor(t / (own[i] as number)) % (lead[i] as number)
      pa += la[i] === 1 ? 0 : c * (sa[i] as number)
      pb += lb[i] === 1 ? 0 : c * (sb[i] as number)
    }
    for (let i = 0; i < m; i++)
      for (let j = 0; j < n; j++) {
        let sum = (long ? 0n : 0) as number
        for (let p = 0; p < k; p++) sum += (x[(pa * m + i) * k + p] as number) * (y[(pb * k + p) * n + j] as number)
        out[(t * m + i) * n + j] = sum as never
      }
  }
  const dims = [...lead, ...(a.dims.length === 1 ? [] : [m]), ...(b.dims.length === 1 ? [] : [n])]
  if (!long) return [made(a.type, dims, out as Float64Array)]
  const data = a.type === 'int64' ? (out as BigInt64Array) : new BigUint64Array(out.buffer as ArrayBuffer)
  return [{ type: a.type, dims, data }]
})

/** Ops on float64, and on integers, that kernels know in float32 only. */
export const wides: Readonly<Record<string, Host>> = {
  ...Object.fromEntries(Object.entries(kFunctions).map(([op, f]) => [op, each(f)])),
  Softmax: softmax(false),
  LogSoftmax: softmax(true),
  MatMul: matmul,
}
