'use strict'
// npm run build:cuda [-- --release]: whittle_cuda.so by nvcc, put beside the addon. Without nvcc: says so, exit code 0.
// npm run test:cuda [-- --quick] [--seed N]: what can be checked of the CUDA sources without a GPU (docs/cuda.md); its last
// line is `N passed, N failed, N skipped`. --quick is the part that npm test runs.
// node scripts/cuda.cjs --budgets: writes the table of docs/cuda.md anew from test/cuda/budgets.json.
// node scripts/cuda.cjs --selftest: the same cases on a real GPU, then how long operations take there. Without one: exit code 1.
const path = require('node:path')
const fs = require('node:fs')
const os = require('node:os')
const { spawn, spawnSync } = require('node:child_process')
const budgets = require('./budgets.cjs')

const root = path.join(__dirname, '..')
const args = process.argv.slice(2)
const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL || String(os.availableParallelism())
const folder = (name) => path.join(root, 'build', name)
// Where .ci/run puts NVIDIA's wheels on a machine without a toolkit.
const wheels = path.join(folder('cuda-toolkit'), 'nvidia', 'cu13')

function run(command, list, options = {}) {
  const r = spawnSync(command, list, { cwd: root, encoding: 'utf8', maxBuffer: 1 << 26, ...options, env: { ...process.env, ...options.env } })
  return { ok: r.status === 0, status: r.status ?? r.signal ?? r.error?.message, out: r.stdout ?? '', text: (r.stdout ?? '') + (r.stderr ?? '') }
}

/** The same beside others. */
function runBeside(command, list, options = {}) {
  return new Promise((settle) => {
    const child = spawn(command, list, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], ...options, env: { ...process.env, ...options.env } })
    let [out, text] = ['', '']
    child.stdout.setEncoding('utf8').on('data', (chunk) => ((out += chunk), (text += chunk)))
    child.stderr.setEncoding('utf8').on('data', (chunk) => (text += chunk))
    child.on('error', (e) => settle({ ok: false, status: e.message, out, text }))
    child.on('close', (status, signal) => settle({ ok: status === 0, status: status ?? signal, out, text }))
  })
}

/** Steps of one core each, begun in this order, two at a time where there are cores for them. */
async function inTurn(steps) {
  const take = async () => {
    for (let step = steps.shift(); step; step = steps.shift()) await step()
  }
  await Promise.all(Number(jobs) > 1 ? [take(), take()] : [take()])
}

/** nvcc and what it needs in the environment, or undefined. */
function compiler() {
  for (const nvcc of [process.env.CUDACXX, 'nvcc', path.join(wheels, 'bin', 'nvcc')].filter(Boolean)) {
    const r = run(nvcc, ['--version'])
    // The wheels keep libraries where nvcc does not look.
    if (r.ok) return { nvcc, env: nvcc.startsWith(wheels) ? { LIBRARY_PATH: path.join(wheels, 'lib'), CUDACXX: nvcc } : { CUDACXX: nvcc } }
  }
  return undefined
}

/** Folders where a toolkit's headers may lie. */
function includes() {
  const of = (base) => (base ? [path.join(base, 'include'), path.join(base, 'targets', 'x86_64-linux', 'include')] : [])
  const nvcc = compiler()
  // A dry run names the toolkit that a wrapper on PATH stands for.
  const top = nvcc && /^#\$ TOP=(.*)$/m.exec(run(nvcc.nvcc, ['--dryrun', '-E', '-x', 'cu', os.devNull]).text)?.[1]
  const local = fs.existsSync('/usr/local') ? fs.readdirSync('/usr/local').filter((f) => f.startsWith('cuda')).map((f) => `/usr/local/${f}`) : []
  return [process.env.WHITTLE_CUDA_HEADERS, ...[top, process.env.CUDA_PATH, process.env.CUDA_HOME, ...local, wheels, '/usr'].flatMap(of)].filter(Boolean)
}

/** The folder of a header, or undefined. */
const folderOf = (header, ...first) => [...first, ...includes()].find((f) => fs.existsSync(path.join(f, header)))
const headers = () => folderOf('cuda_runtime_api.h')

/** cuBLASLt: WHITTLE_CUBLAS may name a folder with include/ and lib/, as NVIDIA's wheel has them. */
const cublas = process.env.WHITTLE_CUBLAS && process.env.WHITTLE_CUBLAS !== 'none' ? [path.join(process.env.WHITTLE_CUBLAS, 'include')] : []
const blasHeaders = () => folderOf('cublasLt.h', ...cublas)
const kNoBlas = 'no cublasLt.h (a CUDA toolkit, or pip install nvidia-cublas --target DIR and WHITTLE_CUBLAS=DIR/nvidia/cu13)'
const blasOption = () => `-DWHITTLE_CUBLASLT_HEADERS=${blasHeaders() ?? ''}`
/** The fake library, for the sources' own search. */
const fakeBlas = () => (blasHeaders() ? path.join(folder('cuda-emulated'), 'fake_cublaslt.so') : '')

/**
 * Libraries whose functions cuda/<name>_api.h declares: a folder with include/ and lib/, as NVIDIA's wheels have them, may be named
 * by WHITTLE_CUSOLVER and so on. Nothing needs their headers but the check of our own declarations.
 */
const kDeclared = [
  { name: 'cusolver', stem: 'cusolver', header: 'cusolverDn.h', wheel: 'nvidia-cusolver', folder: 'cu13' },
  { name: 'cusparse', stem: 'cusparse', header: 'cusparse.h', wheel: 'nvidia-cusparse', folder: 'cu13' },
  { name: 'cusparselt', stem: 'cusparseLt', header: 'cusparseLt.h', wheel: 'nvidia-cusparselt-cu13', folder: 'cusparselt' },
].map((l) => ({ ...l, upper: l.name.toUpperCase(), given: process.env[`WHITTLE_${l.name.toUpperCase()}`] }))
const foldersOf = (l) => [...(l.given && l.given !== 'none' ? [path.join(l.given, 'include')] : []), path.join(wheels, '..', l.folder, 'include')]
/** Folders for the compiler: the header's, and cuSPARSE's beside cuSPARSELt's. */
function declaredHeaders(l) {
  if (!blasHeaders()) return undefined
  const own = folderOf(l.header, ...foldersOf(l))
  if (l.name !== 'cusparselt' || !own) return own
  const sparse = folderOf('cusparse.h', ...foldersOf(kDeclared[1]))
  return sparse && `${own};${sparse}`
}
const fakeOf = (name) => path.join(folder('cuda-emulated'), `fake_${name}.so`)
const headerOptions = () => [blasOption(), ...kDeclared.map((l) => `-DWHITTLE_${l.upper}_HEADERS=${declaredHeaders(l) ?? ''}`)]
const fakes = () => ({ WHITTLE_CUBLASLT_LIBRARY: fakeBlas(), ...Object.fromEntries(kDeclared.map((l) => [`WHITTLE_${l.upper}_LIBRARY`, fakeOf(l.name)])) })

const launcher = (language) =>
  process.env.CMAKE_CXX_COMPILER_LAUNCHER ? [`-DCMAKE_${language}_COMPILER_LAUNCHER=${process.env.CMAKE_CXX_COMPILER_LAUNCHER}`] : []

/** Builds whittle_cuda.so; answers its path and nvcc's words. */
function build(nvcc, release) {
  const dir = folder(release ? 'cuda-release' : 'cuda')
  const list = ['-S', 'cuda', '-B', dir, blasOption(), ...launcher('CUDA')]
  list.push(release ? '-DCMAKE_CUDA_ARCHITECTURES=75-real;80-real;90-real;100-real;120' : '-DWHITTLE_CUDA_CLEAR=ON')
  const configured = run('cmake', list, { env: nvcc.env })
  if (!configured.ok) return { ...configured, file: '' }
  return { ...run('cmake', ['--build', dir, '--parallel', jobs], { env: nvcc.env }), file: path.join(dir, 'whittle_cuda.so') }
}

// npm refuses packages of some 200 MB; prebuilds carry one such library.
const kMostBytes = 10e6

const total = { passed: 0, failed: 0, skipped: 0 }
function report(name, { passed = 0, failed = 0, print = '' }, start) {
  total.passed += passed
  total.failed += failed
  if (print) console.log(print.trimEnd())
  console.log(`${failed ? 'FAIL' : 'ok  '} ${name.padEnd(34)} ${`${passed} passed, ${failed} failed`.padEnd(24)} ${((Date.now() - start) / 1000).toFixed(1)} s`)
}
/** `WHITTLE_CUBLAS=none` and the like say that a library cannot be had, which is no failure then, even where nothing may be skipped. */
function without(given, name, reason) {
  if (given === 'none') console.log(`NOTE ${name}: ${reason}`)
  else skip(name, reason)
}
const withoutBlas = (name, reason) => without(process.env.WHITTLE_CUBLAS, name, reason)

function skip(name, reason) {
  total.skipped++
  console.log(`SKIP ${name}: ${reason}`)
}

/** What devices() says with `library` in force. */
function devicesWith(library) {
  const script = `console.log(JSON.stringify(require(${JSON.stringify(path.join(root, 'dist'))}).devices().cuda))`
  return run(process.execPath, ['-e', script], { env: { WHITTLE_CUDA_LIBRARY: library, WHITTLE_CUDA: '' } })
}

function checkNvcc(nvcc) {
  const start = Date.now()
  const built = build(nvcc, false)
  if (!built.ok) return report('nvcc, sm_80 and PTX, no spills', { failed: 1, print: built.text }, start)
  // One symbol, and an answer on any machine.
  const symbols = run('nm', ['-D', '--defined-only', built.file]).out.trim().split('\n')
  const one = symbols.length === 1 && symbols[0].endsWith(' whittle_cuda')
  const asked = devicesWith(built.file)
  const sane = asked.ok && ['ready', 'no-driver', 'driver-too-old', 'no-device', 'failed'].includes(JSON.parse(asked.out).state)
  const bad = [one ? '' : `exports ${symbols.join(', ')}`, sane ? '' : `devices(): ${asked.text}`].filter(Boolean)
  report('nvcc, sm_80 and PTX, no spills', { passed: 3 - bad.length, failed: bad.length, print: bad.join('\n') }, start)
  const { kernels, wrong } = budgets.check(folder('cuda'), run(nvcc.nvcc, ['--version']).out)
  report('registers, shared memory, warps', { passed: Math.max(0, kernels - wrong.length), failed: wrong.length, print: wrong.join('\n') }, Date.now())
}

/** NVIDIA's own library, or undefined. */
const libraryOf = (stem, folders) =>
  [...folders, ...includes()]
    .flatMap((f) => ['../lib', '../lib64', '../../lib', '../../../lib64'].map((lib) => path.join(f, lib)))
    .flatMap((f) => (fs.existsSync(f) ? fs.readdirSync(f).filter((n) => new RegExp(`^lib${stem}\\.so\\.\\d+$`).test(n)).map((n) => path.join(f, n)) : []))[0]

/** Every function of NVIDIA's that a source's table names, in NVIDIA's own library. */
function checkSymbols(stem, source, folders, absent) {
  const start = Date.now()
  const name = `symbols of lib${stem}`
  const found = libraryOf(stem, folders)
  if (!found) return absent(name)
  const table = new RegExp(`#define WHITTLE_${stem.toUpperCase()}_FUNCTIONS[^]*?[^\\\\]\\n`).exec(fs.readFileSync(path.join(root, 'cuda', source), 'utf8'))?.[0] ?? ''
  const used = [...table.matchAll(/X\((\w+)\)/g)].map((m) => m[1])
  const has = new Set(run('nm', ['-D', '--defined-only', found], { maxBuffer: 1 << 28 }).out.split('\n').map((l) => l.split(' ').pop().split('@')[0]))
  const missing = used.filter((f) => !has.has(f))
  report(name, { passed: used.length - missing.length, failed: missing.length + (used.length ? 0 : 1), print: missing.join('\n') }, start)
}

// ASan's own words and TSan's; a broken rule of the emulator ends as a failed row.
const sanitizers = () => ({ ...fakes(), ASAN_OPTIONS: 'detect_leaks=0', TSAN_OPTIONS: 'halt_on_error=1', WHITTLE_CPU: 'scalar', WHITTLE_CUDA: '' })

async function rows(name, executable, list, env = sanitizers()) {
  const start = Date.now()
  const r = await runBeside(path.join(folder('cuda-emulated'), executable), list, { env })
  const summary = /^check: (\d+) passed, (\d+) failed/m.exec(r.out)
  if (!summary) return report(name, { failed: 1, print: `${executable} ${list.join(' ')} ended with ${r.status}\n${r.text.slice(-6000)}` }, start)
  const failed = Number(summary[2]) + (!r.ok && summary[2] === '0' ? 1 : 0)
  report(name, { passed: Number(summary[1]), failed, print: failed ? r.out.split('\n').filter((l) => l.startsWith('FAIL')).join('\n') : '' }, start)
  if (executable.startsWith('cuda_check_') && blasHeaders()) checkLaunched(name, executable, r.out)
}

/** Every kernel that a build of the check holds was launched by its run, and every one that the sources name is in the build. */
function checkLaunched(name, executable, out) {
  const start = Date.now()
  const launched = new Set((/^kernels:(.*)$/m.exec(out)?.[1] ?? '').split(' ').filter(Boolean).map((k) => parseInt(k, 16)))
  const symbols = run('nm', ['-C', path.join(folder('cuda-emulated'), executable)]).out.split('\n').map((l) => /^([0-9a-f]+) (\w) (.*)$/.exec(l)).filter(Boolean)
  const base = parseInt(symbols.find((s) => s[3] === '__executable_start')?.[1] ?? '0', 16)
  const kernels = symbols.flatMap((s) => {
    const kernel = /^[tTwW]$/.test(s[2]) && !/\[clone|\{lambda/.test(s[3]) && /whittle::(?:\(anonymous namespace\)::)?((\w+_kernel)(?:<(?:\([^)]*\))?[^(>]*>)?)\(/.exec(s[3])
    return kernel ? [{ name: kernel[2], full: kernel[1], at: parseInt(s[1], 16) - base }] : []
  })
  const folderOfKernels = path.join(root, 'cuda')
  const sources = fs.readdirSync(folderOfKernels).flatMap((f) => [...fs.readFileSync(path.join(folderOfKernels, f), 'utf8').matchAll(/__global__[^;{]*?(\w+_kernel)\(/g)].map((m) => ({ file: f, name: m[1] })))
  const built = new Set(kernels.map((k) => k.name))
  const wrong = [
    ...kernels.filter((k) => !launched.has(k.at)).map((k) => `not launched: ${k.full}`),
    ...sources.filter((s) => !built.has(s.name)).map((s) => `cuda/${s.file}: ${s.name} is not in ${executable}`),
    ...(sources.length ? [] : ['no kernel was found in cuda/']),
  ]
  report(`${name}: every kernel ran`, { passed: kernels.length - Math.min(kernels.length, wrong.length), failed: wrong.length, print: wrong.join('\n') }, start)
}

/**
 * Mistakes that the checks must see: one edit of a source, the configuration that runs it, and what has to be said. Each is
 * a copy under build/; the sources themselves know nothing of it.
 */
const kMistakes = require('../test/cuda/mistakes.json')

/** The source with the mistake made. Throws where the source no longer has the place. */
function brokenText(m) {
  const name = m.header ?? (m.file.includes('.') ? m.file : `${m.file}.cu`)
  const parts = fs.readFileSync(path.join(root, 'cuda', name), 'utf8').split(m.find)
  const at = m.occurrence ?? 1
  if (parts.length <= at || (m.occurrence === undefined && parts.length !== 2)) throw new Error(`mistake ${m.name}: ${parts.length - 1} places of ${JSON.stringify(m.find)} in cuda/${name}`)
  const edited = parts.slice(0, at).join(m.find) + m.replace + parts.slice(at).join(m.find)
  // A mistake in a header: the source with the header written out.
  return m.header ? fs.readFileSync(path.join(root, 'cuda', `${m.file}.cu`), 'utf8').replace(`#include "cuda/${m.header}"`, () => edited.replace('#pragma once', '')) : edited
}

function writeMistakes(list) {
  const base = path.join(folder('cuda-emulated'), 'broken')
  const keep = new Set()
  for (const m of list) {
    const file = path.join(base, m.config, `${m.name}.${m.file}.cu`)
    const text = brokenText(m)
    fs.mkdirSync(path.dirname(file), { recursive: true })
    if (!fs.existsSync(file) || fs.readFileSync(file, 'utf8') !== text) fs.writeFileSync(file, text)
    keep.add(file)
  }
  for (const entry of fs.existsSync(base) ? fs.readdirSync(base, { recursive: true, encoding: 'utf8' }) : [])
    if (entry.endsWith('.cu') && !keep.has(path.join(base, entry))) fs.rmSync(path.join(base, entry))
}

async function checkMistakes(list, seed) {
  const start = Date.now()
  const missed = []
  for (const m of list) {
    const r = await runBeside(path.join(folder('cuda-emulated'), `broken_${m.name}`), [m.family, '--lean', '--seed', seed], { env: sanitizers() })
    if (r.ok || !new RegExp(m.says).test(r.text)) missed.push(`${m.name} (${m.what}) was not caught: exit ${r.status}\n${r.text.slice(-2000)}`)
  }
  report('mistakes that must be caught', { passed: list.length - missed.length, failed: missed.length, print: missed.join('\n') }, start)
}

/** NVIDIA's own libraries, those that are here, opened as on a machine with a GPU: by the sources' loader, on the emulated device. */
function checkOpened() {
  const start = Date.now()
  const library = path.join(folder('cuda-emulated'), 'whittle_cuda.so')
  const files = [{ stem: 'cublasLt', upper: 'CUBLASLT', folders: cublas }, ...kDeclared.map((l) => ({ ...l, folders: foldersOf(l) }))]
    .map((l) => ({ ...l, file: libraryOf(l.stem, l.folders) }))
    .filter((l) => l.file)
  if (!files.length || !fs.existsSync(library)) return
  const env = { WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library, ...Object.fromEntries(files.map((l) => [`WHITTLE_${l.upper}_LIBRARY`, l.file])) }
  const asked = run(process.execPath, [path.join(root, 'dist', 'cli', 'main.js'), 'doctor', '--json'], { env })
  const all = asked.ok ? JSON.parse(asked.out).cuda.libraries : []
  const states = files.map((l) => ({ ...l, reason: 'the library is not listed', ...all.find((a) => a.name.startsWith(`lib${l.stem}.`)) }))
  const wrong = states.filter((l) => l.path !== l.file)
  const [lacking, failed] = [wrong.filter((l) => l.reason.includes('libnvJitLink')), wrong.filter((l) => !l.reason.includes('libnvJitLink'))]
  if (lacking.length) without(process.env.WHITTLE_NVJITLINK, `opening ${lacking.map((l) => `lib${l.stem}`).join(', ')}`, 'libnvJitLink is not beside it (pip install nvidia-nvjitlink)')
  report("NVIDIA's libraries, opened", { passed: files.length - wrong.length, failed: failed.length, print: failed.map((l) => `${l.file}: ${l.reason}\n${asked.ok ? '' : asked.text}`).join('\n') }, start)
}

const realLibrary = (library, more) => ({ WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library, WHITTLE_CPU: 'scalar', ...more })

/** Builds what runs on this CPU; answers the steps that then do. */
function emulated(quick, seed) {
  const include = headers()
  if (!include) {
    skip('emulator', "NVIDIA's headers are not here: a CUDA toolkit, or pip install nvidia-cuda-runtime nvidia-cuda-crt and WHITTLE_CUDA_HEADERS=<folder>")
    return []
  }
  const start = Date.now()
  // Also those that the quick form does not make: sources change, and their places with them.
  try {
    kMistakes.forEach(brokenText)
  } catch (e) {
    report('mistakes that must be caught', { failed: 1, print: e.message }, start)
    return []
  }
  const mistakes = kMistakes.filter((m) => m.config !== 'ptx' && (!quick || m.quick) && (!['cublaslt', 'cusolver', 'svd', 'svd_krylov'].includes(m.file) || blasHeaders()))
  writeMistakes(mistakes)
  const configs = quick ? ['asan'] : ['plain', 'asan', 'tsan']
  const dir = folder('cuda-emulated')
  const configured = run('cmake', ['-S', 'test/cuda', '-B', dir, `-DWHITTLE_CUDA_HEADERS=${include}`, ...headerOptions(), ...launcher('CXX')])
  const targets = ['whittle_cuda', ...kDeclared.map((l) => `fake_${l.name}`), ...(blasHeaders() ? ['fake_cublaslt'] : []), ...kDeclared.filter(declaredHeaders).map((l) => `${l.name}_api`), ...configs.map((c) => `cuda_check_${c}`), ...mistakes.map((m) => `broken_${m.name}`), ...(quick ? [] : ['cuda_selftest'])]
  const built = configured.ok ? run('cmake', ['--build', dir, '--parallel', jobs, '--target', ...targets]) : configured
  report('emulator, build', built.ok ? { passed: 1 } : { failed: 1, print: built.text }, start)
  if (!built.ok) return []
  const asan = () => rows('emulator, address sanitizer', 'cuda_check_asan', ['--lean', '--seed', seed])
  const made = () => checkMistakes(mistakes, seed)
  if (quick) return [asan, made]
  if (blasHeaders()) direct(true, '')
  // What a machine with a GPU runs, in the library's place the emulated one.
  const selftest = () =>
    rows('selftest, on the emulated library', 'cuda_selftest', ['--real', '--lean', '--seed', seed], realLibrary(path.join(dir, 'whittle_cuda.so'), { ...fakes(), ...(fakeBlas() ? {} : { WHITTLE_CUBLASLT_LIBRARY: '/nowhere.so' }) }))
  const tsan = () => rows('emulator, thread sanitizer', 'cuda_check_tsan', ['--lean', '--seed', seed])
  const others = ['2', '3'].map((other) => () => rows(`emulator, seed ${other}`, 'cuda_check_plain', ['--lean', '--seed', other]))
  return [tsan, made, () => rows('emulator', 'cuda_check_plain', ['--seed', seed]), asan, selftest, ...others]
}

/** Specs by jest, as one line. */
async function specs(name, match, env) {
  const start = Date.now()
  const file = path.join(folder('cuda-emulated'), `jest-${name.replace(/\W+/g, '-')}.json`)
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.rmSync(file, { force: true })
  const r = await runBeside(process.execPath, [require.resolve('jest/bin/jest'), '--json', `--outputFile=${file}`, '--testMatch', `<rootDir>/test/cuda/${match}.spec.ts`], { env })
  let data
  try {
    data = JSON.parse(fs.readFileSync(file, 'utf8'))
  } catch {
    data = { numPassedTests: 0, numFailedTests: 1 }
  }
  const failed = data.numFailedTests || (r.ok ? 0 : 1)
  report(name, { passed: data.numPassedTests, failed, print: failed ? r.text.slice(-8000) : '' }, start)
}

/** Medians of operations on device tensors, waiting included. */
const kBench = `
const w = require(process.argv[1])
const at = (type, ...dims) => { const n = dims.reduce((a, b) => a * b, 1)
  const data = type === 'float32' ? Float32Array.from({ length: n }, (_, i) => Math.sin(i)) : type === 'int8' ? Int8Array.from({ length: n }, (_, i) => i * 31) : new Uint16Array(n).fill(0x3c00)
  return w.toDevice({ type, dims, data }) }
const time = (name, unit, work, body) => {
  const out = body()
  const t = Array.from({ length: 15 }, () => { const s = process.hrtime.bigint(); body(out); return Number(process.hrtime.bigint() - s) / 1e9 }).sort((a, b) => a - b)[7]
  console.log(name.padEnd(44), (t * 1e6).toFixed(0).padStart(9) + ' us', (work / t / 1e9).toFixed(1).padStart(9), unit) }
console.log(w.devices().cuda.devices[0].name)
for (const n of [1024, 4096]) {
  for (const type of ['float32', 'float16', 'bfloat16']) { const a = at(type, n, n), b = at(type, n, n); time('gemm ' + type + ' ' + n, 'GFLOP/s', 2 * n ** 3, (out) => w.gemm(a, b, { transposeB: true, out })) }
  const b = w.packInt8(at('int8', n, n), { transpose: true })
  for (const rows of [1, 16, n]) { const a = at('int8', rows, n); time('gemmInt8 ' + rows + ' x ' + n + ', float32 out', 'GOP/s', 2 * rows * n * n, (out) => w.gemmInt8(a, b, { outType: 'float32', out })) }
}
const x = at('float32', 4096, 8192), bytes = 4096 * 8192 * 4
time('quantize int8 by row, 128 MiB', 'GB/s read', bytes, (q) => w.quantize(x, { axis: 0, ...(q ? { out: q } : {}) }))
time('importance l1, 128 MiB', 'GB/s', 2 * bytes, (out) => w.importance(x, { out }))
time('mask 80 %, 128 MiB', 'GB/s read once', bytes, (out) => w.mask(x, { sparsity: 0.8, out }))
const s = at('float32', 512, 32768), t = at('float32', 512, 32768)
time('distill.kl 512 x 32768', 'GB/s', 3 * 512 * 32768 * 4, (r) => w.distill.kl(s, t, { temperature: 2, ...(r ? { out: r.grad } : {}) }))
`

/** The contract's cases and the public functions on the GPU of this machine. */
async function selftest() {
  const nvcc = compiler()
  const given = process.env.WHITTLE_CUDA_LIBRARY
  const built = !given && nvcc ? build(nvcc, false) : undefined
  if (built && !built.ok) return report('whittle_cuda.so', { failed: 1, print: built.text }, Date.now())
  const library = given || built?.file || path.join(root, 'build', 'Release', 'whittle_cuda.so')
  const asked = devicesWith(library)
  const cuda = asked.ok ? JSON.parse(asked.out) : { state: 'failed', reason: asked.text }
  if (cuda.state !== 'ready') return report('a GPU', { failed: 1, print: `${cuda.state}: ${cuda.reason}` }, Date.now())
  console.log(`${cuda.devices.map((d) => `${d.id} ${d.name} (${d.capability})`).join(', ')}; driver ${cuda.driver}, runtime ${cuda.runtime}${cuda.emulated ? '; emulated' : ''}`)
  const include = headers()
  if (!include) skip('contract', "NVIDIA's headers are not here")
  else {
    const start = Date.now()
    const dir = folder('cuda-emulated')
    const configured = run('cmake', ['-S', 'test/cuda', '-B', dir, `-DWHITTLE_CUDA_HEADERS=${include}`, ...headerOptions(), ...launcher('CXX')])
    const made = configured.ok ? run('cmake', ['--build', dir, '--parallel', jobs, '--target', 'cuda_selftest']) : configured
    if (!made.ok) report('contract, build', { failed: 1, print: made.text }, start)
    else for (const seed of ['1', '2', '3']) await rows(`contract, seed ${seed}`, 'cuda_selftest', ['--real', '--seed', seed], realLibrary(library, {}))
  }
  await specs('JavaScript', '{operations,distill,gemm,svd,sparse,session}', { WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library })
  direct(cuda.emulated, library)
  if (cuda.emulated) return skip('times', 'the library is emulated')
  const times = run(process.execPath, ['-e', kBench, path.join(root, 'dist')], { env: { WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library } })
  console.log(times.text.trimEnd())
  const python = process.env.WHITTLE_BENCH_PYTHON || 'python3'
  const torch = run(python, [path.join(root, 'bench', 'gpu_torch.py')])
  if (torch.ok) console.log(torch.out.trimEnd())
  else console.log(`NOTE PyTorch: ${torch.text.trim().split('\n').pop() || 'not here'}`)
}

/** Products beside cuBLASLt called directly: with the toolkit's runtime, or on the emulator, where only that it works is shown. */
function direct(emulated, library) {
  const include = headers()
  if (!include || !blasHeaders()) return withoutBlas('cuBLASLt called directly', include ? kNoBlas : "NVIDIA's headers are not here")
  const start = Date.now()
  const dir = folder('cuda-emulated')
  const target = emulated ? 'cuda_direct_emulated' : 'cuda_direct'
  const configured = run('cmake', ['-S', 'test/cuda', '-B', dir, `-DWHITTLE_CUDA_HEADERS=${include}`, ...headerOptions(), ...launcher('CXX')])
  const made = configured.ok ? run('cmake', ['--build', dir, '--parallel', jobs, '--target', target, ...(emulated ? ['fake_cublaslt'] : [])]) : configured
  if (!made.ok) return report('cuBLASLt called directly, build', { failed: 1, print: made.text }, start)
  const r = run(path.join(dir, target), emulated ? ['--small'] : [], { env: { WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library, ...(emulated ? fakes() : {}) } })
  report('products beside cuBLASLt called directly', { passed: r.ok ? 1 : 0, failed: r.ok ? 0 : 1, print: r.ok && emulated ? '' : r.text }, start)
}

/** The public functions on the emulated library. */
function javaScript(quick) {
  const library = path.join(folder('cuda-emulated'), 'whittle_cuda.so')
  if (!fs.existsSync(library)) {
    skip('JavaScript', 'the emulated library was not built')
    return []
  }
  const modes = quick ? ['late'] : ['eager', 'late', 'random']
  return modes.map((mode) => () => specs(`JavaScript, streams ${mode}`, '*', { WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library, ...fakes(), FAKE_CUDA_MODE: mode }))
}

async function test() {
  const at = args.indexOf('--seed')
  const quick = args.includes('--quick')
  const nvcc = compiler()
  if (process.platform !== 'linux') skip('CUDA', `not on ${process.platform}`)
  else {
    if (nvcc) checkNvcc(nvcc)
    else skip('nvcc', 'no nvcc on PATH (a CUDA toolkit, or the wheels nvidia-cuda-nvcc nvidia-nvvm nvidia-cuda-crt nvidia-cuda-runtime)')
    if (!blasHeaders()) withoutBlas('products by cuBLASLt', kNoBlas)
    checkSymbols('cublasLt', 'cublaslt.cu', cublas, (name) =>
      withoutBlas(name, "NVIDIA's library is not here (pip install nvidia-cublas --target DIR and WHITTLE_CUBLAS=DIR/nvidia/cu13)"),
    )
    for (const l of kDeclared)
      checkSymbols(l.stem, `${l.name}_api.h`, foldersOf(l), (name) =>
        without(l.given, name, `NVIDIA's library is not here (pip install ${l.wheel} --target DIR and WHITTLE_${l.upper}=DIR/nvidia/${l.folder})`),
      )
    const steps = emulated(quick, at >= 0 ? (args[at + 1] ?? '1') : '1')
    const ptx = () => specs('PTX, interpreted', 'ptx/*', { WHITTLE_NVCC: nvcc.nvcc, ...nvcc.env, WHITTLE_CUDA_OBJECTS: path.join(folder('cuda'), 'CMakeFiles', 'whittle_cuda.dir'), WHITTLE_PTX_FULL: quick ? '' : '1', WHITTLE_CUDA: '0' })
    if (!nvcc) skip('PTX, interpreted', 'no nvcc')
    checkOpened()
    // The longest first.
    await inTurn([...steps.slice(0, 1), ...(nvcc ? [ptx] : []), ...javaScript(quick), ...steps.slice(1)])
  }
  end()
}

function end() {
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`)
  process.exitCode = total.failed ? 1 : 0
}

if (args.includes('--test')) {
  test()
} else if (args.includes('--budgets')) {
  budgets.writeTable()
} else if (args.includes('--selftest')) {
  selftest().then(end)
} else {
  const nvcc = compiler()
  if (!nvcc) {
    console.log('build:cuda: skipped, no nvcc on PATH')
  } else {
    const built = build(nvcc, args.includes('--release'))
    if (!built.ok) {
      console.error(built.text)
      process.exitCode = 1
    } else {
      const to = path.join(root, 'build', 'Release', 'whittle_cuda.so')
      fs.mkdirSync(path.dirname(to), { recursive: true })
      fs.copyFileSync(built.file, to)
      const { size } = fs.statSync(to)
      console.log(`${path.relative(root, to)}  ${size} bytes`)
      if (args.includes('--release') && size > kMostBytes) {
        console.error(`build:cuda: ${size} bytes are more than the ${kMostBytes} that a package carries`)
        process.exitCode = 1
      }
    }
  }
}
