// What the lanes of a warp do together: shuffles, votes, matches, reductions, products of matrices (TF32 and signed bytes).
import type { Decoding, Step } from './instructions'
import { Fault } from './memory'
import type { Warp } from './machine'
import { widthOf } from './parse'

/**
 * Calls `body` with the lanes of each group that a member mask makes. Lanes that a mask names have to be here, unless they
 * have left; here none can come later, since the other side of a branch runs before or after.
 */
function groups(w: Warp, mask: number, members: number, body: (lanes: number[], members: number) => void): void {
  for (let rest = mask; rest;) {
    const first = 31 - Math.clz32(rest & -rest)
    const m = w.u32[2 * (members * 32 + first)] as number
    const lanes: number[] = []
    for (let l = 0; l < 32; l++) if ((rest >>> l) & 1 && w.u32[2 * (members * 32 + l)] === m) lanes.push(l)
    const here = lanes.reduce((bits, l) => bits | (1 << l), 0)
    if (here & ~m) throw new Fault(`divergence: a lane is outside its own mask 0x${(m >>> 0).toString(16)}`)
    const missing = m & w.live & ~here
    if (missing)
      throw new Fault(`divergence: lanes 0x${(missing >>> 0).toString(16)} of the mask do not get here with the others`)
    body(lanes, m)
    rest &= ~here
  }
}

function shuffle(d: Decoding): Step | undefined {
  const mode = d.op[2] as string
  if (d.op[1] !== 'sync' || d.op[3] !== 'b32' || !['up', 'down', 'bfly', 'idx'].includes(mode)) return undefined
  const [to, flag] = d.names(0)
  const [a, b, c, members] = [d.at(1), d.at(2), d.at(3), d.at(4)]
  return (w, mask) => {
    groups(w, mask, members, (lanes) => {
      const at = (slot: number, l: number): number => w.u32[2 * (slot * 32 + l)] as number
      const answers = lanes.map((l): [number, boolean] => {
        const by = at(b, l) & 31
        const clamp = at(c, l) & 31
        const segment = (at(c, l) >>> 8) & 31
        const most = (l & segment) | (clamp & ~segment)
        const least = l & segment
        const from =
          mode === 'up' ? l - by : mode === 'down' ? l + by : mode === 'bfly' ? l ^ by : least | (by & ~segment)
        const inside = mode === 'up' ? from >= most : from <= most
        const source = inside ? from : l
        if (!lanes.includes(source)) throw new Fault(`a shuffle of lane ${l} reads lane ${source}, which is not there`)
        return [at(a, source), inside]
      })
      lanes.forEach((l, i) => {
        const [value, inside] = answers[i] as [number, boolean]
        w.u32[2 * ((to as number) * 32 + l)] = value
        if (flag !== undefined && flag >= 0) w.u32[2 * (flag * 32 + l)] = inside ? 1 : 0
      })
    })
  }
}

function vote(d: Decoding): Step | undefined {
  const mode = d.op[2] as string
  const source = d.operand(1)
  if (d.op[1] !== 'sync' || !['ballot', 'any', 'all', 'uni'].includes(mode) || source.kind !== 'name') return undefined
  const [to, a, members] = [d.at(0), d.at(1), d.at(2)]
  return (w, mask) => {
    groups(w, mask, members, (lanes) => {
      const bits = lanes.map((l) => {
        const p = w.u32[2 * (a * 32 + l)] as number
        if (p > 1) throw new Fault('a vote on a predicate that nobody wrote')
        return p ^ (source.negated ? 1 : 0)
      })
      const ones = bits.filter((p) => p).length
      const y =
        mode === 'ballot'
          ? lanes.reduce((v, l, i) => v | ((bits[i] as number) << l), 0)
          : mode === 'any'
            ? Number(ones > 0)
            : mode === 'all'
              ? Number(ones === lanes.length)
              : Number(ones === 0 || ones === lanes.length)
      for (const l of lanes) w.u32[2 * (to * 32 + l)] = y
    })
  }
}

function match(d: Decoding): Step | undefined {
  const type = d.op[3] as string
  if (d.op[2] !== 'sync' || (d.op[1] !== 'any' && d.op[1] !== 'all') || !/^b(32|64)$/.test(type)) return undefined
  const all = d.op[1] === 'all'
  const [to, flag] = d.names(0)
  const [a, members] = [d.at(1), d.at(2)]
  const read = (w: Warp, l: number): bigint => BigInt.asUintN(8 * widthOf(type), w.u64[a * 32 + l] as bigint)
  return (w, mask) => {
    groups(w, mask, members, (lanes, m) => {
      const values = lanes.map((l) => read(w, l))
      const one = values.every((v) => v === values[0])
      lanes.forEach((l, i) => {
        const same = lanes.reduce((bits, o, j) => bits | (Number(values[i] === values[j]) << o), 0)
        w.u32[2 * ((to as number) * 32 + l)] = all ? (one ? m : 0) : same
        if (all && flag !== undefined && flag >= 0) w.u32[2 * (flag * 32 + l)] = one ? 1 : 0
      })
    })
  }
}

function reduce(d: Decoding): Step | undefined {
  const [, sync, mode, type] = d.op as [string, string, string, string]
  const plain: Record<string, (x: bigint, y: bigint) => bigint> = {
    add: (x, y) => x + y,
    min: (x, y) => (x < y ? x : y),
    max: (x, y) => (x > y ? x : y),
    and: (x, y) => x & y,
    or: (x, y) => x | y,
    xor: (x, y) => x ^ y,
  }
  const f = plain[mode]
  if (sync !== 'sync' || !f || !/^[bsu]32$/.test(type)) return undefined
  const [to, a, members] = [d.at(0), d.at(1), d.at(2)]
  return (w, mask) => {
    groups(w, mask, members, (lanes) => {
      const y = Number(
        BigInt.asUintN(
          32,
          lanes.map((l) => BigInt((type[0] === 's' ? w.i32 : w.u32)[2 * (a * 32 + l)] as number)).reduce(f),
        ),
      )
      for (const l of lanes) w.u32[2 * (to * 32 + l)] = y
    })
  }
}

// Towards zero from a sum that is as good as exact: at worst that is what tensor cores do.
function truncated(sum: number): number {
  const near = Math.fround(sum)
  if (!(Math.abs(near) > Math.abs(sum)) || !Number.isFinite(near)) return near
  const bits = new DataView(new ArrayBuffer(4))
  bits.setFloat32(0, near)
  bits.setUint32(0, bits.getUint32(0) - 1)
  return bits.getFloat32(0)
}

/** m16n8k8 of TF32 and m16n8k32 of signed bytes, by the fragments of the PTX ISA; every lane of the warp takes part. */
function product(d: Decoding): Step | undefined {
  const shape = d.op.slice(1).join('.')
  const bytes = shape === 'sync.aligned.m16n8k32.row.col.s32.s8.s8.s32'
  if (!bytes && shape !== 'sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32') return undefined
  const [to, a, b, c] = [d.names(0), d.names(1), d.names(2), d.names(3)]
  if (to.length !== 4 || a.length !== 4 || b.length !== 2 || c.length !== 4) return undefined
  const tf32 = (w: Warp, slot: number): number => {
    if ((w.u32[2 * slot] as number) & 0x1fff) throw new Fault('mma: an operand has digits that TF32 has not')
    return w.f32[2 * slot] as number
  }
  const word = (slot: number | undefined, l: number): number => (slot as number) * 32 + l
  return (w, mask) => {
    if (mask !== w.live || mask !== -1)
      throw new Fault('divergence: not every lane takes part in a product of matrices')
    const sums: number[][] = []
    for (let l = 0; l < 32; l++) {
      const [g, t] = [l >> 2, l & 3]
      sums.push(
        c.map((slot, i) => {
          let sum = bytes ? (w.i32[2 * word(slot, l)] as number) : (w.f32[2 * word(slot, l)] as number)
          for (let half = 0; half < 2; half++)
            for (let s = 0; s < 4; s++) {
              const x = word(a[(i >> 1) + 2 * half], 4 * g + s)
              const y = word(b[half], 4 * (2 * t + (i & 1)) + s)
              if (!bytes) sum += tf32(w, x) * tf32(w, y)
              else
                for (let q = 0; q < 32; q += 8) {
                  const [u, v] = [w.i32[2 * x] as number, w.i32[2 * y] as number]
                  sum = (sum + ((u << (24 - q)) >> 24) * ((v << (24 - q)) >> 24)) | 0
                }
            }
          return sum
        }),
      )
    }
    sums.forEach((of, l) =>
      of.forEach((sum, i) => {
        const at = 2 * word(to[i], l)
        if (bytes) w.i32[at] = sum
        else if (sum === sum) w.f32[at] = truncated(sum)
        else w.u32[at] = 0x7fffffff
      }),
    )
  }
}

export function warpwide(d: Decoding): Step | undefined {
  const name = d.op[0] as string
  if (name === 'shfl') return shuffle(d) ?? d.unsupported()
  if (name === 'vote') return vote(d) ?? d.unsupported()
  if (name === 'match') return match(d) ?? d.unsupported()
  if (name === 'mma') return product(d) ?? d.unsupported()
  if (name === 'redux') return reduce(d) ?? d.unsupported()
  if (name === 'activemask') {
    const to = d.at(0)
    return (w, mask) => {
      for (let l = 0; l < 32; l++) if ((mask >>> l) & 1) w.u32[2 * (to * 32 + l)] = mask
    }
  }
  if (name === 'bar' && d.op[1] === 'warp') {
    const members = d.at(0)
    return (w, mask) => groups(w, mask, members, () => undefined)
  }
  return undefined
}
