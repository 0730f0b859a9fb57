// Lint rule: the floors of lib/. A file may import from its own floor and from those below, never from above, and the
// files' imports run in no circle. Type imports may point sideways in a circle (they vanish when compiled), never up.
import fs from 'node:fs'
import path from 'node:path'

// Top to bottom.
const kFloors = [
  ['cli', 'index'],
  ['compress', 'train', 'search', 'data', 'analyze'],
  ['session', 'report', 'metrics'],
  ['model', 'kernels'],
  ['tensor', 'validate', 'native', 'async', 'handle', 'version', 'node-gyp-build'],
  ['errors'],
]

/** The part of lib/ that a file belongs to (its folder, or its own name) and the number of its floor. */
function placeOf(lib, file) {
  const part = path
    .relative(lib, file)
    .split(path.sep)[0]
    .replace(/(\.d)?\.ts$/, '')
  return { part, floor: kFloors.findIndex((f) => f.includes(part)) }
}

function resolve(from, specifier) {
  const base = path.resolve(path.dirname(from), specifier)
  return [`${base}.ts`, `${base}.d.ts`, path.join(base, 'index.ts')].find((f) => fs.existsSync(f))
}

// File name -> the files of lib/ that it imports; read again when a file changes.
const known = new Map()

function importsOf(file) {
  const { mtimeMs } = fs.statSync(file)
  const hit = known.get(file)
  if (hit?.mtimeMs === mtimeMs) return hit.imports
  const imports = []
  for (const m of fs
    .readFileSync(file, 'utf8')
    .matchAll(/^\s*(?:import|export)\b(?!\s+type\b)[^'";]*?from\s+'(\.[^']*)'|\bimport\(\s*'(\.[^']*)'\s*\)/gm)) {
    const to = resolve(file, m[1] ?? m[2])
    if (to) imports.push(to)
  }
  known.set(file, { mtimeMs, imports })
  return imports
}

/** The way from `file` back to `target`, or null. */
function wayBack(file, target, seen = new Set()) {
  if (file === target) return [file]
  if (seen.has(file)) return null
  seen.add(file)
  for (const next of importsOf(file)) {
    const way = wayBack(next, target, seen)
    if (way) return [file, ...way]
  }
  return null
}

export const floors = {
  meta: {
    type: 'problem',
    docs: { description: 'imports in lib/ run downward and in no circle' },
    schema: [],
    messages: {
      unknown: "'{{part}}' has no floor in scripts/floors.mjs",
      up: "'{{from}}' may not import '{{to}}', which lies on a floor above it",
      circle: 'circular import: {{way}}',
      foreign: "lib/ may not import '{{to}}', which lies outside of it",
    },
  },
  create(context) {
    const file = context.filename
    const lib = path.join(context.cwd, 'lib')
    const here = placeOf(lib, file)
    function look(node, source) {
      if (!source || typeof source.value !== 'string' || !source.value.startsWith('.')) return
      const to = resolve(file, source.value)
      if (!to) return
      if (path.relative(lib, to).startsWith('..')) {
        context.report({ node, messageId: 'foreign', data: { to: source.value } })
        return
      }
      const there = placeOf(lib, to)
      if (there.floor < 0) context.report({ node, messageId: 'unknown', data: { part: there.part } })
      else if (here.floor >= 0 && there.floor < here.floor)
        context.report({ node, messageId: 'up', data: { from: here.part, to: there.part } })
      const isType = node.importKind === 'type' || node.exportKind === 'type'
      const way = isType ? null : wayBack(to, file)
      if (way)
        context.report({
          node,
          messageId: 'circle',
          data: { way: [file, ...way].map((f) => path.relative(lib, f)).join(' → ') },
        })
    }
    return {
      Program(node) {
        if (here.floor < 0) context.report({ node, messageId: 'unknown', data: { part: here.part } })
      },
      ImportDeclaration: (node) => look(node, node.source),
      ExportNamedDeclaration: (node) => look(node, node.source),
      ExportAllDeclaration: (node) => look(node, node.source),
      ImportExpression: (node) => look(node, node.source),
    }
  },
}
