import { op, readSmall, unknown, type InferContext, type Ops } from './op'

export const control: Ops = {
  Constant: op((c) => {
    const a = [...c.node.attributes].find(([key]) => key.startsWith('value') || key === 'sparse_value')?.[1]
    if (!a) return
    if (a.type === 'tensor') c.set(0, a.value.type, a.value.dims, readSmall(a.value))
    else if (a.type === 'float') c.set(0, 'float32', [])
    else if (a.type === 'floats') c.set(0, 'float32', [a.value.length])
    else if (a.type === 'int') c.set(0, 'int64', [], typeof a.value === 'number' ? [a.value] : undefined)
    else if (a.type === 'ints') c.set(0, 'int64', [a.value.length], c.node.ints('value_ints'))
    else if (a.type === 'string') c.set(0, 'string', [])
    else if (a.type === 'strings') c.set(0, 'string', [a.value.length])
  }),
  If: op((c) => {
    const branches = c.node.subgraphs()
    c.node.outputs.forEach((_, i) => {
      const results = branches.map((g) => {
        const name = g.outputs[i]?.name
        return name === undefined ? undefined : c.inner(g, name)
      })
      const [first] = results
      if (!first || results.some((r) => !r || r.type !== first.type)) return
      const same = results.every((r) => r?.dims?.length === first.dims?.length)
      const dims =
        same && first.dims ? first.dims.map((d, j) => (results.every((r) => r?.dims?.[j] === d) ? d : null)) : null
      c.set(i, first.type, dims)
    })
  }),
  // How often a body runs is not known, and so no shape is.
  Loop: op((c) => bodyOutputs(c, c.node.inputs.length - 2, 1)),
  Scan: op((c) => bodyOutputs(c, c.node.inputs.length - c.node.int('num_scan_inputs', 0), 0)),
}

/** Types of what is carried through a body, then of what it lays down; `first` outputs of the body come before. */
function bodyOutputs(c: InferContext, carried: number, first: number): void {
  const [body] = c.node.subgraphs()
  c.node.outputs.forEach((_, i) => {
    const name = body?.outputs[i + first]?.name
    const inner = body && name !== undefined ? c.inner(body, name) : undefined
    const type = inner?.type ?? (i < carried ? c.type(i + (first ? 2 : 0)) : 'undefined')
    c.set(i, type, i >= carried && inner?.dims ? unknown(inner.dims.length + 1) : null)
  })
}
