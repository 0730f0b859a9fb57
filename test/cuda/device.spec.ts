// Runs with WHITTLE_CUDA_LIBRARY naming the emulated library: npm run test:cuda.
import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { adopt, devices, DeviceTensor, kmeans, toDevice, toDeviceAsync, WhittleError } from '../../lib/index'

const dist = JSON.stringify(path.join(__dirname, '..', '..', 'dist'))

function child(script: string, env: Record<string, string>): string {
  const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, ...env }, encoding: 'utf8' })
  return r.stdout + r.stderr
}

function caught(body: () => unknown): string {
  try {
    body()
  } catch (e) {
    return `${(e as WhittleError).code} ${(e as WhittleError).parameter}`
  }
  return 'nothing'
}

test('devices() lists the emulated device and says that it is emulated', () => {
  expect(devices().cuda).toMatchObject({
    available: true,
    state: 'ready',
    reason: '',
    emulated: true,
    devices: [{ id: 'cuda:0', name: 'emulated device 0', capability: '8.0' }],
  })
})

test.each([
  [{ FAKE_CUDA_DRIVER: '0' }, 'no-driver', /no NVIDIA driver/],
  [{ FAKE_CUDA_DRIVER: '12020' }, 'driver-too-old', /speaks CUDA 12\.2, the backend needs 13/],
  [{ FAKE_CUDA_DEVICES: '0' }, 'no-device', /no GPU/],
])('%j gives the state %s', (env, state, reason) => {
  const cuda = JSON.parse(child(`console.log(JSON.stringify(require(${dist}).devices().cuda))`, env as Record<string, string>))
  expect(cuda).toMatchObject({ available: false, state, reason: expect.stringMatching(reason) })
})

test.each(['float32', 'float64', 'float16', 'int8', 'int64', 'uint4', 'bool'] as const)('a tensor of %s comes back as it went', (type) => {
  const data = {
    float32: Float32Array.of(1, -2, NaN, 4, 5, 6),
    float64: Float64Array.of(1, 2, 3, 4, 5, Infinity),
    float16: Uint16Array.of(1, 2, 3, 4, 5, 6),
    int8: Int8Array.of(-1, 2, -3, 4, -5, 6),
    int64: BigInt64Array.of(1n, 2n, -3n, 4n, 5n, 6n),
    uint4: Uint8Array.of(0x21, 0x43, 0x65),
    bool: Uint8Array.of(0, 1, 1, 0, 1, 0),
  }[type]
  const there = toDevice({ type, dims: [2, 3], data })
  expect(there).toMatchObject({ type, dims: [2, 3], location: 'cuda:0', byteLength: data.byteLength })
  expect(there.toHost()).toEqual({ type, dims: [2, 3], data })
  there.dispose()
})

test('asynchronous copies, empty tensors, scalars and a given out', async () => {
  const big = Float32Array.from({ length: 100_000 }, (_, i) => i)
  const there = await toDeviceAsync(big, 'cuda')
  const out = new Float32Array(100_000)
  expect((await there.toHostAsync(out)).data).toBe(out)
  expect(out[99_999]).toBe(99_999)
  expect(toDevice(new Float32Array(0)).toHost()).toEqual({ type: 'float32', dims: [0], data: new Float32Array(0) })
  expect(toDevice({ type: 'float32', dims: [], data: Float32Array.of(7) }).toHost().data[0]).toBe(7)
})

test('data of a device tensor, and functions for the CPU, say where it lies', () => {
  const there = toDevice(Float32Array.of(1, 2))
  expect(caught(() => there.data)).toBe('ERR_DEVICE data')
  expect(caught(() => kmeans(there as never, { clusters: 2 }))).toBe('ERR_DEVICE x')
})

test('a token opens it elsewhere, and a disposed one is refused', () => {
  const there = toDevice({ type: 'int8', dims: [1, 2], data: Int8Array.of(3, 4) })
  const other = adopt(structuredClone(there.share())) as DeviceTensor
  there.dispose()
  expect(other.toHost()).toEqual({ type: 'int8', dims: [1, 2], data: Int8Array.of(3, 4) })
  expect(there.disposed).toBe(true)
  expect(caught(() => there.toHost())).toBe('ERR_HANDLE tensor')
})

test('bad arguments', () => {
  const x = Float32Array.of(1)
  expect(caught(() => toDevice(x, 'cuda:7'))).toBe('ERR_DEVICE device')
  for (const bad of ['gpu', 'cuda:', 'cuda:-1', 'cuda:x', '']) expect(caught(() => toDevice(x, bad))).toBe('ERR_RANGE device')
  expect(caught(() => toDevice(x, 0 as never))).toBe('ERR_DTYPE device')
  expect(caught(() => toDevice('x' as never))).toBe('ERR_DTYPE tensor')
  expect(caught(() => toDevice(x).toHost(new Float64Array(1)))).toBe('ERR_DTYPE out')
  expect(caught(() => toDevice(x).toHost(new Float32Array(2)))).toBe('ERR_SHAPE out')
})

test('a full device is ERR_OUT_OF_MEMORY, and what is disposed of makes room', () => {
  const script = `const w = require(${dist}); const x = new Float32Array(1000); const kept = [w.toDevice(x)]
    try { for (;;) kept.push(w.toDevice(x)) } catch (e) { console.log(e.code, e.parameter) }
    kept.forEach((t) => t.dispose()); console.log(w.toDevice(x).toHost().data.length)`
  expect(child(script, { FAKE_CUDA_MEMORY: '9000' }).trim().split('\n')).toEqual(['ERR_OUT_OF_MEMORY tensor', '1000'])
})

test('tensors of two devices in one call are ERR_DEVICE, and each device serves its own', () => {
  const script = `const w = require(${dist}); const x = new Float32Array([1, -2, 3]); const a = w.toDevice(x, 'cuda:0'), b = w.toDevice(x, 'cuda:1')
    for (const body of [() => w.distill.kl(a, b), () => w.distill.kl(a, a, { out: b })])
      try { body() } catch (e) { console.log(e.code, e.parameter, /cuda:0.*cuda:1/.test(e.message)) }
    const q = w.quantize(b); console.log(q.data.location, q.scale.location, q.data.toHost().data.join())`
  expect(child(script, { FAKE_CUDA_DEVICES: '2' }).trim().split('\n')).toEqual(['ERR_DEVICE teacher true', 'ERR_DEVICE out true', 'cuda:1 cuda:1 42,-85,127'])
})

test('a device that is lost says so by name from then on; the other one, the CPU and the process go on', () => {
  // The third launch is the second call's on cuda:1.
  const script = `const w = require(${dist}); const x = new Float32Array([1, -2, 3]); const a = w.toDevice(x, 'cuda:0'), b = w.toDevice(x, 'cuda:1')
    const say = (e) => console.log(e.code, e.parameter, /device 1: unspecified launch failure/.test(e.message))
    const ask = (body) => { try { body(); console.log('done') } catch (e) { say(e) } }
    ask(() => w.importance(a)); ask(() => w.importance(b)); ask(() => w.importance(b)); ask(() => b.toHost()); ask(() => w.toDevice(x, 'cuda:1'))
    w.importanceAsync(b).catch(say).then(() => { b.dispose(); console.log(w.importance(a).toHost().data.join(), w.importance({ type: 'float32', dims: [3], data: x }).data.join()) })`
  const lines = child(script, { FAKE_CUDA_DEVICES: '2', FAKE_CUDA_LOSE_DEVICE: '2' }).trim().split('\n')
  expect(lines).toEqual(['done', 'done', 'ERR_DEVICE w true', 'ERR_DEVICE tensor true', 'ERR_DEVICE tensor true', 'ERR_DEVICE out true', '1,2,3 1,2,3'])
})
