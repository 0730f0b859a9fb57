// PTX text to instructions, as far as nvcc emits it for kernels without function calls. What is not understood is an error.

export class PtxError extends Error {}

export interface Instruction {
  /** Split at the dots: ['ld', 'global', 'v4', 'u32']. */
  op: string[]
  operands: Operand[]
  guard?: { register: string; negated: boolean }
  line: number
  text: string
}

/** A register, number, symbol or label as written; {a, b} of vectors; [base + offset] of memory; a|b of two results. */
export type Operand =
  | { kind: 'name'; name: string; negated: boolean }
  | { kind: 'vector'; names: string[] }
  | { kind: 'memory'; base: string; offset: number }
  | { kind: 'pair'; names: [string, string] }

export interface Variable {
  space: string
  bytes: number
  align: number
  init?: Uint8Array
}

export interface Parameter {
  name: string
  /** Of scalars; 'b8' of structs. */
  type: string
  bytes: number
  align: number
  offset: number
}

export interface Kernel {
  name: string
  parameters: Parameter[]
  parameterBytes: number
  registers: Map<string, string>
  variables: Map<string, Variable>
  instructions: Instruction[]
  labels: Map<string, number>
  /** Whether inline assembly of the source is among the instructions. */
  assembly: boolean
}

export interface Module {
  kernels: Map<string, Kernel>
  /** Of module scope: .global, .const, .shared. */
  variables: Map<string, Variable>
}

export const widthOf = (type: string): number => {
  const bits = type === 'pred' ? 8 : Number(/^[bsuf](\d+)(x2)?$/.exec(type)?.[1]) * (type.endsWith('x2') ? 2 : 1)
  if (!Number.isInteger(bits) || bits === 0) throw new PtxError(`the type ${type} is not known`)
  return bits / 8
}

/** `codes_kernel<1,2>` of a mangled name, or `pack_kernel<f>` with a type as it is mangled; a plain name is itself. */
export function kernelName(mangled: string): string {
  // Digits before a length may be the end of a hash.
  const found = [...mangled.matchAll(/(?=(\d+)([A-Za-z_]\w*))/g)]
    .map((m) => (m[2] as string).slice(0, Number(m[1])))
    .findLast((n) => n.endsWith('_kernel'))
  if (!mangled.startsWith('_Z') || !found) return mangled
  const after = mangled.slice(mangled.indexOf(found) + found.length)
  const list = /^I(.*?E)Ev/.exec(after)
  const values = list
    ? [...(list[1] as string).matchAll(/(?:NS_\d+[A-Za-z]+E|L[a-z])(\d+)E|^([a-z])(?=E)/g)].map((m) => m[1] ?? m[2])
    : []
  return list ? `${found}<${values.join(',')}>` : found
}

function operand(text: string, scope: (name: string) => string): Operand {
  let m
  if ((m = /^\{([^}]*)\}$/.exec(text)))
    return { kind: 'vector', names: (m[1] as string).split(',').map((s) => scope(s.trim())) }
  if ((m = /^\[\s*([%$\w.]+)\s*(?:\+\s*(-?\w+))?\s*\]$/.exec(text)))
    return { kind: 'memory', base: scope(m[1] as string), offset: Number(m[2] ?? 0) }
  if ((m = /^([%\w]+)\s*\|\s*([%\w]+)$/.exec(text)))
    return { kind: 'pair', names: [scope(m[1] as string), scope(m[2] as string)] }
  if ((m = /^(!?)(-?[%$\w.]+)$/.exec(text))) return { kind: 'name', name: scope(m[2] as string), negated: m[1] === '!' }
  throw new PtxError(`the operand ${text} is not understood`)
}

function initial(type: string, text: string, bytes: number): Uint8Array {
  const out = new Uint8Array(bytes)
  const each = widthOf(type)
  const view = new DataView(out.buffer)
  text.split(',').forEach((t, i) => {
    const s = t.trim()
    const value = /^0[fF]/.test(s) ? BigInt(`0x${s.slice(2)}`) : BigInt(s.replace(/U$/, ''))
    for (let b = 0; b < each; b++) view.setUint8(i * each + b, Number((value >> BigInt(8 * b)) & 255n))
  })
  return out
}

/** .shared .align 4 .b8 name[128] and the like, with or without an initial value; undefined where it is none. */
function variable(text: string): [string, Variable] | undefined {
  const m =
    /^(?:\.(?:visible|extern|weak)\s+)*\.(shared|global|const|local)\s+(?:\.align\s+(\d+)\s+)?(?:\.attribute\S+\s+)?\.(\w+)\s+([%$\w]+)((?:\[\d*\])*)\s*(?:=\s*(.*))?$/s.exec(
      text,
    )
  if (!m) return undefined
  const each = widthOf(m[3] as string)
  const count = [...(m[5] as string).matchAll(/\[(\d*)\]/g)].reduce((n, d) => n * Number(d[1]), 1)
  const bytes = each * count
  const init = m[6] === undefined ? undefined : initial(m[3] as string, m[6].replace(/[{}]/g, ''), bytes)
  return [m[4] as string, { space: m[1] as string, bytes, align: Number(m[2] ?? each), ...(init ? { init } : {}) }]
}

function parseParameters(text: string): { parameters: Parameter[]; bytes: number } {
  const parameters: Parameter[] = []
  let offset = 0
  for (const part of text
    .split(',')
    .map((s) => s.trim())
    .filter(Boolean)) {
    const m =
      /^\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+(?:\.ptr\s+(?:\.\w+\s+)?(?:\.align\s+\d+\s+)?)?(\w+)(?:\[(\d+)\])?$/.exec(
        part,
      )
    if (!m) throw new PtxError(`the parameter ${part} is not understood`)
    const bytes = widthOf(m[2] as string) * Number(m[4] ?? 1)
    const align = Number(m[1] ?? widthOf(m[2] as string))
    offset = Math.ceil(offset / align) * align
    parameters.push({ name: m[3] as string, type: m[4] ? 'b8' : (m[2] as string), bytes, align, offset })
    offset += bytes
  }
  return { parameters, bytes: offset }
}

/** Statements of a body with their line numbers: instructions, directives, labels, braces. */
function* statements(body: string, first: number): Generator<{ text: string; line: number }> {
  let line = first
  let text = ''
  let start = line
  let vector = 0
  for (let i = 0; i < body.length; i++) {
    const c = body[i] as string
    if (c === '\n') {
      if (text.trim() === '') text = ''
      // .loc and .pragma-like lines end with the line where they carry no semicolon.
      else if (/^\s*\.(loc|file)\b/.test(text)) text = ''
      line++
      text += text ? ' ' : ''
      continue
    }
    if (text.trim() === '') {
      if (/\s/.test(c)) continue
      start = line
      text = ''
      if (c === '{' || c === '}') {
        yield { text: c, line }
        continue
      }
    }
    if (c === '{') vector++
    if (c === '}') vector--
    if (c === ';' && vector === 0) {
      yield { text: text.trim(), line: start }
      text = ''
    } else if (c === ':' && /^[$\w]+$/.test(text.trim()) && body[i + 1] !== ':') {
      yield { text: `${text.trim()}:`, line: start }
      text = ''
    } else text += c
  }
  if (text.trim()) throw new PtxError(`line ${start}: ${text.trim()} has no end`)
}

function parseBody(kernel: Kernel, body: string, first: number): void {
  const scopes: Map<string, string>[] = [new Map()]
  let blocks = 0
  const scope = (name: string): string => scopes.findLast((s) => s.has(name))?.get(name) ?? name
  for (const { text, line } of statements(body, first)) {
    if (text === '{') {
      scopes.push(new Map())
      blocks++
    } else if (text === '}') scopes.pop()
    else if (text.endsWith(':')) kernel.labels.set(text.slice(0, -1), kernel.instructions.length)
    else if (text.startsWith('.reg')) {
      const m = /^\.reg\s+\.(\w+)\s+(.*)$/.exec(text)
      for (const name of (m?.[2] ?? '').split(',').map((s) => s.trim())) {
        const many = /^(.*)<(\d+)>$/.exec(name)
        const names = many ? Array.from({ length: Number(many[2]) }, (_, i) => `${many[1]}${i}`) : [name]
        for (const n of names) {
          const own = scopes.length > 1 ? `${n}#${blocks}` : n
          scopes.at(-1)?.set(n, own)
          kernel.registers.set(own, m?.[1] as string)
        }
      }
    } else if (text.startsWith('.pragma')) continue
    else if (text.startsWith('.')) {
      const v = variable(text)
      if (!v) throw new PtxError(`line ${line}: ${text} is not understood`)
      kernel.variables.set(...v)
    } else {
      const m = /^(?:@(!?)(%\w+)\s+)?([a-z]\w*(?:\.\w+(?:::\w+)*)*)\s*(.*)$/s.exec(text)
      if (!m) throw new PtxError(`line ${line}: ${text} is not understood`)
      if (/^(call|brx)\b/.test(m[3] as string)) throw new PtxError(`line ${line}: unsupported instruction ${m[3]}`)
      const operands = [...(m[4] as string).matchAll(/\s*(\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*)/g)].map((o) =>
        operand((o[1] as string).trim(), scope),
      )
      const guard = m[2] ? { register: scope(m[2]), negated: m[1] === '!' } : undefined
      kernel.instructions.push({ op: (m[3] as string).split('.'), operands, line, text, ...(guard ? { guard } : {}) })
    }
  }
}

export function parse(source: string): Module {
  // Line numbers and places stay.
  const text = source
    .replace(/\/\*.*?\*\//gs, (c) => c.replace(/[^\n]/g, ' '))
    .replace(/\/\/[^\n]*/g, (c) => ' '.repeat(c.length))
  const module: Module = { kernels: new Map(), variables: new Map() }
  if (/(?:^|\n)\s*(?:\.visible\s+|\.weak\s+)*\.func\b/.test(text))
    throw new PtxError('functions are not supported: .func')
  const entry = /\.entry\s+([$\w]+)\s*\(([^)]*)\)\s*((?:\.\w+[^{\n]*\n?\s*)*)\{/g
  const bodies = new Map<Kernel, string>()
  let rest = ''
  let from = 0
  for (let m = entry.exec(text); m; m = entry.exec(text)) {
    rest += text.slice(from, m.index).replace(/\.(visible|weak)\s*$/, '')
    let depth = 1
    let end = entry.lastIndex
    for (; end < text.length && depth > 0; end++) depth += text[end] === '{' ? 1 : text[end] === '}' ? -1 : 0
    if (depth) throw new PtxError(`the kernel ${m[1]} has no end`)
    const { parameters, bytes } = parseParameters(m[2] as string)
    const kernel: Kernel = {
      name: kernelName(m[1] as string),
      parameters,
      parameterBytes: bytes,
      registers: new Map(),
      variables: new Map(),
      instructions: [],
      labels: new Map(),
      assembly: source.slice(m.index, end).includes('// begin inline asm'),
    }
    parseBody(kernel, text.slice(entry.lastIndex, end - 1), text.slice(0, entry.lastIndex).split('\n').length)
    if (module.kernels.has(kernel.name)) throw new PtxError(`two kernels have the name ${kernel.name}`)
    module.kernels.set(kernel.name, kernel)
    bodies.set(kernel, text.slice(entry.lastIndex, end))
    from = entry.lastIndex = end
  }
  rest += text.slice(from)
  for (const statement of rest
    .replace(/^\s*\.(version|target|address_size)\b[^\n]*/gm, '')
    .split(';')
    .map((s) => s.trim())
    .filter(Boolean)) {
    const v = variable(statement)
    if (!v) throw new PtxError(`${statement.slice(0, 80)} is not understood`)
    module.variables.set(...v)
  }
  // What a function shares that was compiled into several kernels lies outside of them: each block has its own.
  for (const [name, v] of module.variables)
    if (v.space === 'shared')
      for (const [kernel, body] of bodies) if (body.includes(name)) kernel.variables.set(name, v)
  return module
}
