import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { devices, setThreads, WhittleError } from '../lib/index'

const dist = JSON.stringify(path.join(__dirname, '..', 'dist'))

function child(script: string, env: Record<string, string>): string {
  const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, ...env }, encoding: 'utf8' })
  return r.stdout + r.stderr
}

const report = `try { console.log(require(${dist}).devices().cpu.variant) } catch (e) { console.log(e.code, e.parameter, e.message) }`

test('names a supported variant as active', () => {
  const { cpu } = devices()
  expect(cpu.tiers.find((t) => t.name === cpu.variant)?.supported).toBe(true)
  expect(cpu.caches.l1d).toBeGreaterThan(0)
})

test('gives a reason for every tier that is not supported, and none for those that are', () => {
  for (const t of devices().cpu.tiers) expect(t.missing === '').toBe(t.supported)
})

test('WHITTLE_CPU forces every tier that this machine has, and takes', () => {
  for (const t of devices().cpu.tiers.filter((t) => t.supported))
    expect(child(report, { WHITTLE_CPU: t.name }).trim()).toBe(t.name)
})

test('WHITTLE_CPU that names an absent or unknown tier is an error', () => {
  const absent = devices().cpu.tiers.find((t) => !t.supported)
  if (absent) expect(child(report, { WHITTLE_CPU: absent.name })).toMatch(/^ERR_DEVICE WHITTLE_CPU .*no/)
  expect(child(report, { WHITTLE_CPU: 'sse9' })).toMatch(/^ERR_DEVICE WHITTLE_CPU .*sse9.*expected one of/)
})

test('WHITTLE_THREADS must be an integer from 1 to 256', () => {
  const threads = `try { console.log(require(${dist}).devices().cpu.threads) } catch (e) { console.log(e.code, e.parameter) }`
  expect(child(threads, { WHITTLE_THREADS: '3' }).trim()).toBe('3')
  for (const bad of ['0', '-1', '2x', '1000']) expect(child(threads, { WHITTLE_THREADS: bad }).trim()).toBe('ERR_RANGE WHITTLE_THREADS')
})

test('setThreads changes the default and refuses nonsense', () => {
  const before = devices().cpu.threads
  setThreads(1)
  expect(devices().cpu.threads).toBe(1)
  setThreads(before)
  for (const bad of [0, 257, 1.5, NaN, '2', undefined]) expect(() => setThreads(bad as number)).toThrow(WhittleError)
})

test('importing the package loads no native code', () => {
  const script = `require(${dist}); console.log(Object.keys(require.cache).some((k) => k.endsWith('.node')))`
  expect(child(script, {}).trim()).toBe('false')
})

test('says why there is no CUDA, and refuses a WHITTLE_CUDA that means nothing', () => {
  const cuda = `try { console.log(JSON.stringify(require(${dist}).devices().cuda)) } catch (e) { console.log(e.code, e.parameter) }`
  expect(JSON.parse(child(cuda, { WHITTLE_CUDA: '0' }))).toMatchObject({
    available: false,
    state: 'hidden',
    reason: 'hidden by WHITTLE_CUDA=0',
    devices: [],
  })
  expect(JSON.parse(child(cuda, { WHITTLE_CUDA: '' }))).toMatchObject({ available: expect.any(Boolean), state: expect.any(String) })
  expect(child(cuda, { WHITTLE_CUDA: 'yes' }).trim()).toBe('ERR_RANGE WHITTLE_CUDA')
})

test.each([
  ['a library that is not there', '/nowhere/whittle_cuda.so', 'library-missing', /no \/nowhere\/whittle_cuda.so/],
  ['a path that is not absolute', 'whittle_cuda.so', 'library-missing', /not absolute/],
  ['a file that is no library', __filename, 'library-broken', /cannot be loaded/],
  ['a folder', __dirname, 'library-broken', /cannot be loaded/],
  ['a library of something else', path.join(__dirname, '..', 'build', 'Release', 'whittle.node'), 'library-broken', /does not export/],
])('%s as the CUDA backend is a reason, and the CPU works', (_, library, state, reason) => {
  if (process.platform !== 'linux') return
  const script = `const w = require(${dist}); console.log(JSON.stringify([w.devices().cuda, w.quantize(Float32Array.of(1, 2)).data[1]]))`
  const [cuda, code] = JSON.parse(child(script, { WHITTLE_CUDA: '', WHITTLE_CUDA_LIBRARY: library }))
  expect(cuda).toMatchObject({ available: false, state, reason: expect.stringMatching(reason), devices: [] })
  expect(code).toBe(127)
})

test('a tensor for a GPU that is not there is ERR_DEVICE with the reason', () => {
  const script = `try { require(${dist}).toDevice(Float32Array.of(1)) } catch (e) { console.log(e.code, e.parameter, e.message) }`
  expect(child(script, { WHITTLE_CUDA: '0' })).toMatch(/^ERR_DEVICE device .*cuda:0 was asked for, but hidden by WHITTLE_CUDA=0/)
})

test('every family reports the tier that its kernels resolved to', () => {
  const kernels = `console.log(Object.values(require(${dist}).devices().cpu.kernels).join())`
  expect(new Set(child(kernels, { WHITTLE_CPU: 'scalar' }).trim().split(','))).toEqual(new Set(['scalar']))
  for (const tier of ['avx2', 'neon'])
    if (devices().cpu.tiers.find((t) => t.name === tier)?.supported)
      expect(new Set(child(kernels, { WHITTLE_CPU: tier }).trim().split(','))).toEqual(new Set([tier]))
})
