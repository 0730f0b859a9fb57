'use strict'
// test/cuda/budgets.json: what ptxas may take for each hot kernel on sm_80, so that the warps it needs are resident, and what a
// unit of its work moves and computes. Held against the objects of the build; docs/cuda.md has the table that follows.
const fs = require('node:fs')
const path = require('node:path')
const { read, residentWarps } = require('./cubin.cjs')

const root = path.join(__dirname, '..')
const docs = path.join(root, 'docs', 'cuda.md')
const budgets = require('../test/cuda/budgets.json')

// Of one A100 (108 multiprocessors at 1.41 GHz), a second. Nothing is contracted, so a product and an addition are two, but for
// the multiply-adds that kernels ask for by name, which are one.
const kPeaks = {
  bytes: 1555e9,
  float32: 108 * 64 * 1.41e9,
  float64: 108 * 32 * 1.41e9,
  special: 108 * 16 * 1.41e9, // exponentials, divisions
  tf32: 78e12, // products of tensor cores
  int8: 312e12,
  dp4a: 108 * 64 * 4 * 1.41e9, // products
}
const kNames = { float32: 'float32 operations', float64: 'float64 operations', special: 'special functions', tf32: 'TF32 products', int8: 'int8 products', dp4a: 'products by dp4a' }
// A kernel that is not listed may take what halves a multiprocessor's warps, not more.
const kOthers = 32

/** `name<1,2>` of a mangled kernel. */
function nameOf(mangled) {
  const found = [...mangled.matchAll(/(?=(\d+)([A-Za-z_]\w*))/g)].map((m) => m[2].slice(0, Number(m[1]))).findLast((n) => n.endsWith('_kernel'))
  if (!found) return mangled
  const list = /^I(.*?E)Ev/.exec(mangled.slice(mangled.indexOf(found) + found.length))
  return list ? `${found}<${[...list[1].matchAll(/(?:NS_\d+[A-Za-z]+E|L[a-z])(\d+)E|^([a-z])(?=E)/g)].map((m) => m[1] ?? m[2]).join(',')}>` : found
}

/** stem/kernel -> { registers, shared } of every object in a build folder of cuda/. */
function taken(build) {
  const folder = path.join(build, 'CMakeFiles', 'whittle_cuda.dir')
  const all = new Map()
  for (const f of fs.readdirSync(folder).filter((f) => f.endsWith('.cu.o')))
    for (const [mangled, use] of read(path.join(folder, f)).kernels) all.set(`${f.slice(0, -5)}/${nameOf(mangled)}`, use)
  return all
}

/** The most registers a thread that keep so many warps. */
function registersFor(b) {
  let most = 255
  while (most > 1 && residentWarps({ registers: most, shared: b.shared }, b.threads) < b.warps) most--
  return most
}

/** What keeps the kernel from being faster on sm_80: the least of the peaks over what a unit takes. */
function limit(b) {
  const [kind, rate] = Object.entries(b.takes).map(([k, n]) => [k, kPeaks[k] / n]).reduce((a, c) => (c[1] < a[1] ? c : a))
  const text = rate >= 1e12 ? `${(rate / 1e12).toPrecision(3)} T` : `${(rate / 1e9).toPrecision(3)} G`
  return `${text} ${b.unit}s/s, ${kind === 'bytes' ? 'memory' : kNames[kind]}`
}

function table() {
  const rows = budgets.map((b) => {
    const takes = Object.entries(b.takes).map(([k, n]) => `${n} ${k === 'bytes' ? 'bytes' : kNames[k]}`).join(', ')
    return `| \`${b.kernel}\` | ${registersFor(b)} | ${b.shared} | ${b.threads} | ${b.warps} | ${takes} per ${b.unit} | ${limit(b)} |`
  })
  return ['| kernel | registers up to | shared bytes | threads a block | warps of 64 | takes | at most, by |', '|---|---|---|---|---|---|---|', ...rows].join('\n')
}

const kPlace = /(<!-- budgets: node scripts\/cuda\.cjs --budgets -->\n)[^]*?(<!-- \/budgets -->)/

function writeTable() {
  fs.writeFileSync(docs, fs.readFileSync(docs, 'utf8').replace(kPlace, (_, a, b) => `${a}${table()}\n${b}`))
}

/** The compiler that the budgets were written with: another one may take a register more. */
const kWritten = '13.0'

/** What is wrong, as lines, and how many kernels were looked at. `version`: what nvcc says of itself. */
function check(build, version) {
  const all = taken(build)
  const wrong = []
  for (const b of budgets) {
    const use = all.get(b.kernel)
    if (!use) wrong.push(`${b.kernel}: no such kernel`)
    else if (use.shared > b.shared) wrong.push(`${b.kernel}: ${use.shared} shared bytes, budget ${b.shared}`)
    else if (residentWarps(use, b.threads) < b.warps)
      wrong.push(`${b.kernel}: ${use.registers} registers leave ${residentWarps(use, b.threads)} warps, budget ${b.warps}`)
  }
  const listed = new Set(budgets.map((b) => b.kernel))
  for (const [kernel, use] of all)
    if (!listed.has(kernel) && residentWarps(use, 256) < kOthers) wrong.push(`${kernel}: ${use.registers} registers, ${use.shared} shared bytes leave ${residentWarps(use, 256)} warps; list it in test/cuda/budgets.json`)
  if (!version.includes(`release ${kWritten},`)) {
    for (const line of wrong) console.log(`NOTE another nvcc than ${kWritten}: ${line}`)
    wrong.length = 0
  }
  if (kPlace.exec(fs.readFileSync(docs, 'utf8'))?.[0].includes(`${table()}\n`) !== true) wrong.push('docs/cuda.md: the table of budgets is not that of test/cuda/budgets.json: node scripts/cuda.cjs --budgets')
  return { kernels: all.size, wrong }
}

module.exports = { check, taken, writeTable, residentWarps }
