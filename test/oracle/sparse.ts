// Products of a masked dense matrix in double precision, from the definition.
export interface OracleSparse {
  readonly n: number
  readonly k: number
  readonly w: ArrayLike<number>
  /** Activations, one array of k a column. */
  readonly x: readonly ArrayLike<number>[]
  readonly bias?: ArrayLike<number>
  readonly activation?: (v: number) => number
}

/** [column][row]: the value, and the size of what was added up, for an error bound. */
export function spmmOracle(o: OracleSparse): { value: number; size: number; terms: number }[][] {
  return o.x.map((column) =>
    Array.from({ length: o.n }, (_, i) => {
      let sum = 0
      let size = 0
      let terms = 0
      for (let p = 0; p < o.k; p++) {
        const w = o.w[i * o.k + p] as number
        if (w === 0) continue
        sum += w * (column[p] as number)
        size += Math.abs(w * (column[p] as number))
        terms++
      }
      const b = o.bias ? (o.bias[i] as number) : 0
      const value = o.activation ? o.activation(sum + b) : sum + b
      return { value, size: size + Math.abs(b), terms }
    }),
  )
}

/** Nearest bfloat16, half to even. */
export function bfloat16(v: number): number {
  const f = new Float32Array([v])
  const u = new Uint32Array(f.buffer)
  const bits = u[0] as number
  const low = bits & 0xffff
  let high = bits >>> 16
  if (low > 0x8000 || (low === 0x8000 && (high & 1) === 1)) high++
  u[0] = (high << 16) >>> 0
  return f[0] as number
}

/** The 16 bits of a number that bfloat16 holds exactly. */
export function bfloat16Bits(v: number): number {
  return (new Uint32Array(new Float32Array([v]).buffer)[0] as number) >>> 16
}
