import type { Node } from '../node'

/**
 * The letters of an Einsum's operands and of its result; axes that "..." stands for are letters of their own, counted from the right.
 * `undefined`: it is not well formed for operands of these ranks, or one of them is not known.
 */
export function equationOf(node: Node, ranks: readonly (number | undefined)[]): { readonly terms: readonly (readonly string[])[]; readonly result: readonly string[] } | undefined {
  const [left = '', right] = node.string('equation', '').replace(/\s/g, '').split('->')
  const written = left.split(',')
  const all = [...written, ...(right === undefined ? [] : [right])]
  if (written.length !== ranks.length || !all.every((t) => /^[A-Za-z]*(\.\.\.)?[A-Za-z]*$/.test(t))) return undefined
  const dots = written.map((t, i) => (t.includes('...') ? (ranks[i] ?? -1) - t.replace('...', '').length : 0))
  if (dots.some((d) => d < 0)) return undefined
  const most = Math.max(0, ...dots)
  const letters = (term: string, n: number): string[] =>
    term.split('...').flatMap((piece, i) => [...(i > 0 ? Array.from({ length: n }, (_, k) => `.${most - n + k}`) : []), ...piece])
  const terms = written.map((t, i) => letters(t, dots[i] as number))
  if (terms.some((t, i) => t.length !== ranks[i])) return undefined
  const found = terms.flat()
  const once = (c: string): boolean => c.startsWith('.') || found.filter((x) => x === c).length === 1
  const result = right === undefined ? [...new Set(found)].filter(once).sort() : letters(right, right.includes('...') ? most : 0)
  return new Set(result).size === result.length && result.every((c) => found.includes(c)) ? { terms, result } : undefined
}
