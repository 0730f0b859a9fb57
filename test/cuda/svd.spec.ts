// Decompositions of device tensors against the CPU's. Runs with WHITTLE_CUDA_LIBRARY naming the emulated library, and
// WHITTLE_CUSOLVER_LIBRARY and WHITTLE_CUBLASLT_LIBRARY the fakes (the latter empty without its header): npm run test:cuda.
import { DeviceTensor, lowRank, lowRankAsync, svd, svdAsync, toDevice, WhittleError, type Floats, type SvdOptions, type Tensor } from '../../lib/index'

type Matrix = Tensor<Floats>
const matrix = (type: 'float32' | 'float64', seed: number, ...dims: number[]): Matrix => {
  const from = Float64Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(seed + i * 1.7 + (i * i) / 91) * 2)
  return { type, dims, data: type === 'float32' ? Float32Array.from(from) : from }
}
/** Float64, with singular values that fall quickly. */
const decaying = (m: number, n: number): Matrix => {
  const data = new Float64Array(m * n)
  for (let i = 0; i < m; i++)
    for (let j = 0; j < n; j++)
      for (let k = 0; k < Math.min(m, n); k++) data[i * n + j] = (data[i * n + j] as number) + 0.7 ** k * Math.sin(i * (k + 1.3)) * Math.cos(j * (k + 0.6) + k)
  return { type: 'float64', dims: [m, n], data }
}

async function caught(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (e) {
    return e instanceof WhittleError ? `${e.code} ${e.parameter}` : String(e)
  }
  return 'nothing'
}

const close = (a: ArrayLike<number | bigint>, b: ArrayLike<number | bigint>, bound: number): void => {
  expect(a.length).toBe(b.length)
  let most = 0
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(Number(a[i]) - Number(b[i])))
  expect(most).toBeLessThanOrEqual(bound)
}

const withLibrary = process.env['WHITTLE_CUBLASLT_LIBRARY'] === '' ? test.skip : test
const tests = [{}, { rank: 2 }, { vectors: false }, { energy: 0.9 }, { tolerance: 0.3 }, { tolerance: 0.2, rank: 3 }] as const

withLibrary('svd answers the triplets of the CPU, in both types, tall, wide and in stacks', async () => {
  for (const type of ['float32', 'float64'] as const)
    for (const dims of [[7, 4], [4, 7], [5, 5], [1, 3], [2, 2, 6, 4]]) // prettier-ignore
      for (const wanted of tests) {
        const a = matrix(type, dims.length, ...dims)
        const options = 'rank' in wanted ? { ...wanted, rank: Math.min(wanted.rank, ...dims.slice(-2)) } : wanted
        const want = svd(a, options as SvdOptions)
        const bound = type === 'float32' ? 3e-6 : 1e-12
        const there = toDevice(a)
        for (const got of type === 'float32' ? [svd(there, options as SvdOptions)] : [await svdAsync(there, options as SvdOptions)]) {
          expect([got.rank, got.method, got.converged]).toEqual([want.rank, 'full', true])
          expect(Math.abs(got.error - want.error)).toBeLessThan(bound * 10)
          expect(Math.abs(got.relativeError - want.relativeError)).toBeLessThan(bound)
          for (const key of ['u', 's', 'v'] as const) {
            expect(got[key]?.dims).toEqual(want[key]?.dims)
            if (got[key]) close(got[key].toHost().data, want[key]?.data as Floats, bound)
          }
        }
      }
})

withLibrary('the randomized method reports what the CPU reports, and a seed gives the same bits', async () => {
  const a = decaying(96, 80)
  const there = toDevice(a)
  const want = svd(a, { rank: 4, method: 'randomized' })
  const got = svd(there, { rank: 4, method: 'randomized' })
  expect([got.rank, got.method, got.converged, got.iterations]).toEqual([want.rank, want.method, want.converged, want.iterations])
  close(got.s.toHost().data, want.s.data, 1e-6)
  expect(Math.abs(got.error - want.error)).toBeLessThan(1e-6)
  expect(svd(there, { rank: 4 }).method).toBe('randomized')
  expect((await svdAsync(there, { rank: 4 })).u.toHost()).toEqual(got.u.toHost())
  expect(svd(there, { rank: 4, seed: 1 }).u.toHost()).not.toEqual(got.u.toHost())
  const adaptive = svd(there, { method: 'randomized', tolerance: 0.1 })
  expect(adaptive.rank).toBe(svd(a, { method: 'randomized', tolerance: 0.1 }).rank)
  expect(adaptive.u.dims).toEqual([96, adaptive.rank])
})

withLibrary('lowRank answers the factors of the CPU', async () => {
  const w = matrix('float32', 3, 9, 6)
  for (const options of [{}, { rank: 2 }, { maxError: 0.4 }, { energy: 0.8 }]) {
    const want = lowRank(w, options)
    for (const got of [lowRank(toDevice(w), options), await lowRankAsync(toDevice(w), options)]) {
      const { a, b, ...rest } = got
      expect(a.dims).toEqual(want.a.dims)
      close(a.toHost().data, want.a.data, 3e-6)
      close(b.toHost().data, want.b.data, 3e-6)
      for (const [key, value] of Object.entries(rest)) {
        const other = want[key as keyof typeof rest]
        if (key === 'iterations') continue
        if (typeof value === 'number') expect([key, Math.abs(value - Number(other)) < 1e-5]).toEqual([key, true])
        else expect([key, value]).toEqual([key, other])
      }
    }
  }
})

test.each([
  ['WHITTLE_CUSOLVER_LIBRARY', /cusolver|CUSOLVER/i],
  ['WHITTLE_CUBLASLT_LIBRARY', /cublaslt/i],
])('without %s svd is ERR_DEVICE with the reason, and the rest goes on', (variable, words) => {
  const { spawnSync } = jest.requireActual<typeof import('node:child_process')>('node:child_process')
  const dist = JSON.stringify(require.resolve('../../dist'))
  const script = `const w = require(${dist}); const a = w.toDevice({ type: 'float32', dims: [2, 2], data: Float32Array.of(1, 2, 3, 4) })
    for (const body of [() => w.svd(a), () => w.lowRank(a)]) try { body() } catch (e) { console.log(e.code, e.parameter, e.message) }
    console.log(w.importance(a).toHost().data[3])`
  const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, [variable]: '/nowhere.so' }, encoding: 'utf8' })
  const lines = r.stdout.trim().split('\n')
  expect(lines[0]).toMatch(/^ERR_DEVICE a /)
  expect(lines[0]).toMatch(words)
  expect(lines.slice(1)).toEqual([expect.stringMatching(/^ERR_DEVICE w /), '4'])
})

withLibrary('bad operands and options are refused as on the CPU', async () => {
  const a = toDevice(matrix('float32', 1, 4, 3))
  const bad = matrix('float32', 1, 4, 3)
  bad.data[5] = NaN
  const cases: [() => unknown, string][] = [
    [() => svd(toDevice(Float32Array.of(1, 2))), 'ERR_SHAPE a'],
    [() => svd(toDevice({ type: 'float32', dims: [0, 2], data: new Float32Array(0) })), 'ERR_SHAPE a'],
    [() => svd(toDevice({ type: 'int8', dims: [1, 2], data: Int8Array.of(1, 2) })), 'ERR_DTYPE a.type'],
    [() => svd(toDevice(bad)), 'ERR_RANGE a'],
    [() => svdAsync(toDevice(bad)), 'ERR_RANGE a'],
    [() => svd(toDevice({ type: 'float32', dims: [2, 2], data: new Float32Array(4).fill(3e38) })), 'ERR_RANGE a'],
    [() => svd(a, { rank: 4 }), 'ERR_RANGE rank'],
    [() => svd(a, { energy: 0 }), 'ERR_RANGE energy'],
    [() => svd(a, { tolerance: 2 }), 'ERR_RANGE tolerance'],
    [() => svd(a, { method: 'fast' as never }), 'ERR_RANGE method'],
    [() => svd(a, { ranks: 1 } as never), 'ERR_RANGE options.ranks'],
    [() => lowRank(toDevice(bad)), 'ERR_RANGE w'],
    [() => lowRank(toDevice(matrix('float32', 1, 2, 4, 3))), 'ERR_SHAPE w'],
    [() => lowRank(a, { maxError: 2 }), 'ERR_RANGE maxError'],
    [() => lowRank(a, { secondMoments: new Float32Array(9) }), 'ERR_DEVICE secondMoments'],
  ]
  for (const [body, want] of cases) expect(await caught(body)).toBe(want)
  const gone = toDevice(matrix('float32', 1, 2, 2))
  gone.dispose()
  expect(await caught(() => svd(gone))).toBe('ERR_HANDLE a')
  expect(svd(a).u).toBeInstanceOf(DeviceTensor)
})
