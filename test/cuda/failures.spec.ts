// Operations where memory runs out at random, where cuBLASLt has no algorithm and where libraries are missing: errors by name, and
// then the results that there are without failures. In processes of their own. Runs with WHITTLE_CUDA_LIBRARY naming the emulated
// library: npm run test:cuda.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { cudaLibraries } from '../../lib/kernels/devices'

const dist = JSON.stringify(join(__dirname, '..', '..', 'dist'))
const products = cudaLibraries()[0]?.path !== ''

/** Name -> the result as text, or the error's code; `failures`: how often memory ran out before it came. */
function outcomes(env: Record<string, string>): Record<string, string | number> {
  const script = `const w = require(${dist})
    const f = (n, ...dims) => ({ type: 'float32', dims, data: Float32Array.from({ length: n }, (_, i) => Math.sin(i * i)) })
    const b = (n, ...dims) => ({ type: 'int8', dims, data: Int8Array.from({ length: n }, (_, i) => i * 37) })
    const mask = { type: 'bool', dims: [8, 16], data: Uint8Array.from({ length: 128 }, (_, i) => Number(i % 3 === 0)) }
    let failures = 0
    const t = (x) => again(() => w.toDevice(x))
    const again = (body) => { for (;;) try { return body() } catch (e) { if (e.code !== 'ERR_OUT_OF_MEMORY') throw e; failures++ } }
    const text = (x) => x && x.toHost ? again(() => x.toHost()).data.join() : ArrayBuffer.isView(x) ? x.join() : x && typeof x === 'object' ? Object.keys(x).sort().map((k) => text(x[k])).join(';') : String(x)
    const x = t(f(128, 8, 16)), y = t(f(128, 8, 16)), a = t(b(640, 40, 16)), c = t(b(256, 16, 16)), on = t(mask), z = t(f(48, 16, 3))
    const all = {
      quantize: () => w.quantize(x, { axis: 0 }),
      importance: () => w.importance(x, { axis: 0 }),
      mask: () => w.mask(x, { sparsity: 0.5 }),
      applyMask: () => w.applyMask(x, on),
      kl: () => w.distill.kl(x, y, { temperature: 2 }),
      similarity: () => w.distill.similarity(x, y),
      gemm: () => w.gemm(x, y, { transposeB: true }),
      gemmInt8: () => w.gemmInt8(a, c),
      spmm: () => w.spmm(w.sparsify(x, { format: 'csr' }), z),
      svd: () => w.svd(x).s,
    }
    const out = {}
    for (const [name, body] of Object.entries(all)) try { out[name] = text(again(body)) } catch (e) { out[name] = e.code + ' ' + e.message }
    console.log(JSON.stringify({ ...out, failures }))`
  const r = spawnSync(process.execPath, ['-e', script], { env: { ...process.env, ...env }, encoding: 'utf8' })
  if (r.status !== 0) throw new Error(`ended with ${r.status ?? r.signal}: ${r.stdout}${r.stderr}`)
  return JSON.parse(r.stdout) as Record<string, string | number>
}

const { failures: none, ...clean } = outcomes({})

test('without failures every operation answers', () => {
  expect(none).toBe(0)
  for (const [name, text] of Object.entries(clean)) if (products || !/gemm$|svd|similarity/.test(name)) expect([name, text]).toEqual([name, expect.not.stringMatching(/^ERR_/)])
})

test('memory that runs out at random is ERR_OUT_OF_MEMORY, and the next try has the same result', () => {
  const { failures, ...found } = outcomes({ FAKE_CUDA_FAIL_RATE: '7' })
  expect(failures).toBeGreaterThan(5)
  expect(found).toEqual(clean)
})

test.each([
  ['no algorithm', { FAKE_CUBLASLT_NONE: '1' }, /^ERR_DEVICE .*no algorithm/],
  ['no library', { WHITTLE_CUBLASLT_LIBRARY: '/nowhere/libcublasLt.so' }, /^ERR_DEVICE .*cublasLt/],
] as const)('%s: what needs cuBLASLt says so, all else has its result', (_, env, words) => {
  if (!products) return
  const found = outcomes(env)
  const { gemm, similarity, svd, failures, ...rest } = found
  for (const text of [gemm, similarity, svd]) expect(text).toEqual(expect.stringMatching(words))
  expect(failures).toBe(0)
  for (const [name, text] of Object.entries(rest)) expect([name, text]).toEqual([name, clean[name]])
})
