// What every instruction does to the registers of a warp. A decoder turns a kernel into steps once; an instruction or a
// modifier that it does not know is an error that names it, before anything runs.
import { arithmetic } from './arithmetic'
import type { Warp } from './machine'
import { PtxError, widthOf, type Instruction, type Kernel, type Operand } from './parse'
import { transfer } from './transfer'
import { warpwide } from './warpwide'

/** Runs an instruction for the lanes of a mask. */
export type Step = (w: Warp, mask: number) => void

export interface Decoder {
  steps: (Step | undefined)[]
  slot: (name: string) => number
  slots: () => number
  constants: () => [number, bigint][]
  symbols: () => [number, string][]
}

/** What decoding one instruction may ask for. */
export interface Decoding {
  instruction: Instruction
  index: number
  op: string[]
  /** The register or constant of operand i; -1 for the sink _. */
  at: (i: number) => number
  names: (i: number) => number[]
  operand: (i: number) => Operand
  slot: (name: string) => number
  /** Bytes of the register, or 8 of a constant. */
  width: (slot: number) => number
  /** The base of a memory operand, and whether it counts 64 bits. */
  address: (i: number) => { slot: number; wide: boolean; offset: number }
  isParameter: (i: number) => boolean
  unsupported: () => never
}

function constant(text: string): bigint | undefined {
  if (/^0[fFdD][0-9a-fA-F]+$/.test(text)) return BigInt(`0x${text.slice(2)}`)
  if (/^-?(0[xX][0-9a-fA-F]+|\d+)U?$/.test(text)) {
    const s = text.replace(/U$/, '')
    return BigInt.asUintN(64, s.startsWith('-') ? -BigInt(s.slice(1)) : BigInt(s))
  }
  return text === 'WARP_SZ' ? 32n : undefined
}

export function decode(kernel: Kernel): Decoder {
  const slots = new Map<string, number>()
  const widths: number[] = []
  const constants: [number, bigint][] = []
  const symbols: [number, string][] = []
  const slot = (name: string): number => {
    if (name === '_') return -1
    const known = slots.get(name)
    if (known !== undefined) return known
    const at = widths.length
    slots.set(name, at)
    const type = kernel.registers.get(name)
    const value = constant(name)
    widths.push(type ? widthOf(type) : 8)
    if (!type && value !== undefined) constants.push([at, value])
    else if (!type) symbols.push([at, name])
    return at
  }
  const steps = kernel.instructions.map((instruction, index) => {
    const { op, operands } = instruction
    const unsupported = (): never => {
      throw new PtxError(`line ${instruction.line}: unsupported instruction ${op.join('.')} in ${instruction.text}`)
    }
    const operand = (i: number): Operand => operands[i] ?? unsupported()
    const d: Decoding = {
      instruction,
      index,
      op,
      operand,
      slot,
      at: (i) => {
        const o = operand(i)
        return o.kind === 'name' ? slot(o.name) : unsupported()
      },
      names: (i) => {
        const o = operand(i)
        return o.kind === 'vector'
          ? o.names.map(slot)
          : o.kind === 'pair'
            ? o.names.map(slot)
            : o.kind === 'name'
              ? [slot(o.name)]
              : unsupported()
      },
      width: (s) => widths[s] ?? 8,
      address: (i) => {
        const o = operand(i)
        if (o.kind !== 'memory') return unsupported()
        const s = slot(o.base)
        return { slot: s, wide: (widths[s] as number) === 8, offset: o.offset }
      },
      isParameter: (i) => {
        const o = operand(i)
        return o.kind === 'memory' && kernel.parameters.some((p) => p.name === o.base)
      },
      unsupported,
    }
    const name = op[0] as string
    if (name === 'bra' || name === 'ret' || name === 'exit' || name === 'trap') return undefined
    if ((name === 'bar' && op[1] === 'sync') || (name === 'barrier' && op[1] === 'sync')) {
      const id = operand(0)
      return operands.length === 1 && id.kind === 'name' && id.name === '0' ? undefined : unsupported()
    }
    return transfer(d) ?? warpwide(d) ?? arithmetic(d) ?? unsupported()
  })
  return { steps, slot, slots: () => widths.length, constants: () => constants, symbols: () => symbols }
}
