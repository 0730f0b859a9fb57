'use strict'
// npm test [-- --only STEP,STEP] [--long] [--list]
// Everything that must hold, one line a step, failures in full, and a last line of its own: `N passed, N failed` with
// `, N skipped` where something was. Exit code 0 only if nothing failed.
//
// A step that cannot run here says `SKIP <what>: <reason>`. With WHITTLE_CI=1 that is a failure, except for an
// instruction set that this CPU lacks: CI installs everything else itself.
const path = require('node:path')
const fs = require('node:fs')
const os = require('node:os')
const { spawn, spawnSync } = require('node:child_process')

const root = path.join(__dirname, '..')
const ci = process.env.WHITTLE_CI === '1'
const args = process.argv.slice(2)
const env = { ...process.env, ...(args.includes('--long') ? { WHITTLE_LONG: '1' } : {}), CI: process.env.CI ?? '' }
delete env.NODE_OPTIONS
const stepLimitMs = args.includes('--long') ? 3_600_000 : 900_000
const total = { passed: 0, failed: 0, skipped: 0 }

function run(command, list, options = {}) {
  return new Promise((settle) => {
    const child = spawn(command, list, {
      cwd: root,
      env: { ...env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let out = ''
    let text = ''
    const take = (isOut) => (chunk) => {
      if (isOut) out += chunk
      text += chunk
    }
    child.stdout.setEncoding('utf8').on('data', take(true))
    child.stderr.setEncoding('utf8').on('data', take(false))
    const timer = setTimeout(() => child.kill('SIGKILL'), stepLimitMs)
    const end = (ok, status, why) => {
      clearTimeout(timer)
      settle({ ok, status, out, text: text + why })
    }
    child.on('error', (e) => end(false, null, `${e.message}\n`))
    child.on('close', (status, signal) => end(status === 0, status ?? signal, signal ? `ended by ${signal}\n` : ''))
  })
}

const node = (list, options) => run(process.execPath, list, options)
const have = (command) => !spawnSync(command, ['--version'], { stdio: 'ignore' }).error

/** A step that either holds or not. */
function gate(r) {
  return r.ok ? { passed: 1, failed: 0 } : { passed: 0, failed: 1, print: r.text }
}

const skip = (reason) => ({ passed: 0, failed: 0, skipped: 1, skip: reason })

/**
 * Builds the native check in one configuration and runs it; every row is a test. `emulator` runs it on another CPU,
 * where the absence of stronger tiers is the point; `must` names a tier that has to have run there, `only` the one whose
 * rows are run.
 */
async function check(
  config,
  { families = [], emulator = [], must = 'scalar', only = '', lean = false, environment = {} } = {},
) {
  const built = await node([path.join(__dirname, 'check.cjs'), '--config', config, '--build-only'])
  if (!built.ok) return { passed: 0, failed: 1, print: built.text }
  const exe = path.join(root, 'build', `check-${config}`, 'check')
  const command = [...emulator, exe, ...families, ...(lean && !args.includes('--long') ? ['--lean'] : [])]
  if (only) command.push('--variant', only)
  // A red run is to mean a change; other data is tried by the long form, whose seed is printed.
  if (!args.includes('--long')) command.push('--seed', '1')
  const r = await run(command[0], command.slice(1), { env: environment })
  const lines = r.out.split('\n')
  const summary = /^check: (\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(r.out)
  if (!summary)
    return { passed: 0, failed: 1, print: `${command.join(' ')} ended with ${r.status}\n${tail(r.text, 60)}` }
  const result = { passed: Number(summary[1]), failed: Number(summary[2]), print: '', notes: [], absent: 0 }
  if (result.failed > 0) result.print = `${lines[0]}\n${lines.filter((l) => l.startsWith('FAIL')).join('\n')}\n`
  if (!r.ok && result.failed === 0) {
    result.failed++
    result.print = `${command.join(' ')} ended with ${r.status}\n${tail(r.text, 60)}`
  }
  if (families.length === 0 && !lines.some((l) => l.startsWith('PASS') && l.includes(`/${must} `))) {
    result.failed++
    result.print += `no row of tier ${must} ran\n`
  }
  if (emulator.length === 0) {
    const absent = new Map()
    for (const l of lines) {
      const m = /^SKIP [^/]+\/(\w+): (.*)$/.exec(l)
      if (m) absent.set(m[1], m[2])
    }
    for (const [tier, reason] of absent) result.notes.push(`SKIP ${tier}: ${reason} on this CPU`)
    result.absent = absent.size
  }
  return result
}

function emulated(config, emulator, options) {
  if (!have(emulator[0])) return skip(`${emulator[0]} is not installed (apt-get install qemu-user-static)`)
  return check(config, { ...options, emulator, lean: true })
}

function arm64() {
  if (!have('aarch64-linux-gnu-g++')) return skip('no cross compiler (apt-get install g++-aarch64-linux-gnu)')
  return emulated(args.includes('--long') ? 'arm64' : 'arm64-quick', ['qemu-aarch64-static', '-L', '/usr/aarch64-linux-gnu', '-cpu', 'max'], {
    must: 'neon',
    only: 'scalar,neon,neondot,neoni8mm',
  })
}

const isX64 = process.arch === 'x64' && process.platform === 'linux'
const x86 = (cpu, only) =>
  isX64 ? emulated('release', ['qemu-x86_64-static', '-cpu', cpu], { must: only, only }) : skip('needs Linux on x86-64')

async function jest() {
  const file = path.join(fs.mkdtempSync(path.join(os.tmpdir(), 'whittle-jest-')), 'result.json')
  const r = await node([require.resolve('jest/bin/jest'), '--json', `--outputFile=${file}`, '--silent=false'])
  let data
  try {
    data = JSON.parse(fs.readFileSync(file, 'utf8'))
  } catch {
    return { passed: 0, failed: 1, print: tail(r.text, 100) }
  } finally {
    fs.rmSync(path.dirname(file), { recursive: true, force: true })
  }
  const result = { passed: data.numPassedTests, failed: data.numFailedTests, skipped: 0, print: '', notes: [] }
  for (const suite of data.testResults) {
    if (suite.status === 'failed') result.print += suite.message + '\n'
    // A file that does not even load has no failed test of its own.
    if (suite.status === 'failed' && !suite.assertionResults.some((a) => a.status === 'failed')) result.failed++
    for (const a of suite.assertionResults) {
      if (a.status !== 'pending' && a.status !== 'todo') continue
      // `(long)` in a title marks what npm run test:long adds.
      if (a.title.includes('(long)') && !args.includes('--long')) continue
      result.skipped++
      result.notes.push(`SKIP ${path.relative(root, suite.name)}: ${a.title}`)
    }
  }
  if (!r.ok && result.failed === 0) {
    result.failed++
    result.print += tail(r.text, 60)
  }
  return result
}

function tail(text, lines) {
  return text.split('\n').slice(-lines).join('\n')
}

/** The CUDA sources without a GPU: the quick part of npm run test:cuda, whose last line counts. */
async function cuda() {
  const r = await node([path.join(__dirname, 'cuda.cjs'), '--test', ...(args.includes('--long') ? [] : ['--quick'])])
  const summary = /^(\d+) passed, (\d+) failed, (\d+) skipped$/m.exec(r.out)
  if (!summary) return { passed: 0, failed: 1, print: tail(r.text, 60) }
  const [passed, failed, skipped] = summary.slice(1).map(Number)
  const notes = r.out.split('\n').filter((l) => l.startsWith('SKIP '))
  return { passed, failed: failed || (r.ok ? 0 : 1), skipped, notes, print: failed || !r.ok ? r.text : '' }
}

const sanitize = {
  ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=0',
  UBSAN_OPTIONS: 'print_stacktrace=1',
  TSAN_OPTIONS: 'halt_on_error=1',
}
const tsc = require.resolve('typescript/bin/tsc')
const eslint = path.join(path.dirname(require.resolve('eslint/package.json')), 'bin', 'eslint.js')
const typecheck = [tsc, '-p', 'tsconfig.json']

const steps = {
  // The check is built here, since both lanes use what it is made of.
  build: async () => {
    const r = await node([path.join(__dirname, 'build.cjs'), '--native', '--ts'])
    return gate(r.ok ? await node([path.join(__dirname, 'check.cjs'), '--build-only']) : r)
  },
  typecheck: async () => gate(await node(typecheck)),
  lint: async () => gate(await node([eslint, '.'])),
  'check release': () => check('release'),
  'check avx2 only': () => x86('Haswell', 'avx2'),
  'check scalar only': () => x86('Nehalem', 'scalar'),
  'check arm64': arm64,
  'check asan+ubsan': () => check('asan', { lean: true, environment: sanitize }),
  'check tsan': () => check('tsan', { families: ['threads'], lean: true, environment: sanitize }),
  cuda,
  jest,
}

if (args.includes('--list')) {
  console.log(Object.keys(steps).join('\n'))
  process.exit(0)
}
const only = args.includes('--only') ? (args[args.indexOf('--only') + 1] ?? '').split(',') : null
const unknown = only?.find((o) => !Object.keys(steps).some((s) => s === o || s.startsWith(`${o} `)))
if (unknown !== undefined) {
  console.error(`test: no step ${unknown}; there are: ${Object.keys(steps).join(', ')}`)
  process.exit(2)
}

// Answers false where going on makes no sense.
async function take(name) {
  if (only && !only.some((o) => name === o || name.startsWith(`${o} `))) return true
  const start = Date.now()
  const r = await steps[name]()
  const skipped = (r.skipped ?? 0) + (r.absent ?? 0)
  // In CI only the instruction sets that this CPU lacks (`absent`) may be missing.
  if (ci && r.skipped) r.failed += r.skipped
  total.passed += r.passed
  total.failed += r.failed
  total.skipped += ci && r.skipped ? (r.absent ?? 0) : skipped
  if (r.print) console.log(r.print.trimEnd())
  if (r.skip) console.log(`SKIP ${name}: ${r.skip}`)
  for (const note of r.notes ?? []) console.log(note)
  const counts = `${r.passed} passed, ${r.failed} failed${skipped ? `, ${skipped} skipped` : ''}`
  console.log(
    `${r.failed ? 'FAIL' : 'ok  '} ${name.padEnd(18)} ${counts.padEnd(36)} ${((Date.now() - start) / 1000).toFixed(1)} s`,
  )
  return r.failed === 0
}

async function lane(names, rest) {
  for (const name of names) await take(name)
  for (let name = rest.shift(); name; name = rest.shift()) await take(name)
}

async function main() {
  // Nothing after a broken build says anything new.
  if (await take('build')) {
    // Emulators and sanitizers use one core each: two lanes side by side, of about the same length; what is short goes to the
    // one that is free first. Steps that share a build folder share a lane.
    const first = Object.keys(steps).filter((s) => s.startsWith('check ') && !s.includes('san'))
    const rest = ['check tsan', 'typecheck', 'lint']
    await Promise.all([lane([...first, 'cuda'], rest), lane(['jest', 'check asan+ubsan'], rest)])
  }
  console.log(`${total.passed} passed, ${total.failed} failed${total.skipped ? `, ${total.skipped} skipped` : ''}`)
  process.exitCode = total.failed ? 1 : 0
}

main()
