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

// Batches that meet by broadcasting keep a table on the device; weights and arenas lie there too.
const kSession = `const w = require(${dist}), { Session, Model, Graph, Node, ValueInfo, Initializer } = w
  const f = (...dims) => ({ type: 'float32', dims, data: Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, (_, i) => Math.sin(i * i)) })
  const graph = new Graph('net')
  graph.inputs = [new ValueInfo('x', 'float32', ['n', 1, 2, 16]), new ValueInfo('z', 'float32', [3, 8, 4])]
  graph.addInitializer(Initializer.from('w', f(16, 8)))
  graph.addNode(new Node({ opType: 'MatMul', name: 'a', inputs: ['x', 'w'], outputs: ['t'] }))
  graph.addNode(new Node({ opType: 'Softmax', name: 's', inputs: ['t'], outputs: ['u'] }))
  graph.addNode(new Node({ opType: 'MatMul', name: 'b', inputs: ['u', 'z'], outputs: ['y'] }))
  graph.outputs = [new ValueInfo('y', 'float32', null)]
  const model = new Model({ graph, opsets: [['', 18]], irVersion: 8 })
  const z = f(3, 8, 4), seen = {}
  const note = (e) => { const said = e.code + (e.code === 'ERR_OUT_OF_MEMORY' ? '' : ' ' + e.message); seen[said] = (seen[said] ?? 0) + 1 }
  const done = () => console.log(JSON.stringify(seen))
`
const sessions = (script: string, env: Record<string, string>): Record<string, number> => {
  const r = spawnSync(process.execPath, ['-e', `${kSession};(async () => { ${script}; done() })()`], { env: { ...process.env, ...env }, encoding: 'utf8' })
  if (r.status !== 0) throw new Error(`ended with ${r.status ?? r.signal}: ${r.stdout}${r.stderr}`)
  return JSON.parse(r.stdout) as Record<string, number>
}

test('sessions whose memory runs out at random say so, and the next try is right', () => {
  const seen = sessions(
    `const host = await Session.create(model)
    const again = async (body) => { for (let i = 0; i < 100; i++) try { return await body() } catch (e) { note(e) } }
    for (let k = 0; k < 12; k++) {
      const s = await again(() => Session.create(model, { device: 'cuda' }))
      for (const n of [3, 5, 3, 5, 5]) {
        const feeds = { x: f(n, 1, 2, 16), z }
        const [want, got] = [(await host.run(feeds)).y.data, (await again(() => s.run(feeds)))?.y.data]
        if (!got || want.some((v, i) => !(Math.abs(v - got[i]) < 1e-5))) note({ code: 'wrong', message: 'y' })
      }
      s.dispose()
    }`,
    { FAKE_CUDA_FAIL_RATE: '5' },
  )
  expect(Object.keys(seen)).toEqual(['ERR_OUT_OF_MEMORY'])
  expect(seen['ERR_OUT_OF_MEMORY']).toBeGreaterThan(5)
})

test('sessions on a device that is lost say so whatever they do, and those of another go on', () => {
  const seen = sessions(
    `const [first, other] = [await Session.create(model, { device: 'cuda:0' }), await Session.create(model, { device: 'cuda:1' })]
    const feeds = { x: f(2, 1, 2, 16), z }
    for (const n of [2, 2, 4]) await first.run({ x: f(n, 1, 2, 16), z }).catch(note)
    await Session.create(model, { device: 'cuda:0' }).then((s) => s.run(feeds)).catch(note)
    const [a, b] = [await other.run(feeds), await (await Session.create(model)).run(feeds)]
    if (a.y.data.some((v, i) => !(Math.abs(v - b.y.data[i]) < 1e-5))) note({ code: 'wrong', message: 'y' })`,
    { FAKE_CUDA_DEVICES: '2', FAKE_CUDA_LOSE_DEVICE: '0' },
  )
  expect(Object.keys(seen).map((k) => k.replace(/ .*: device/, ' device'))).toEqual(expect.arrayContaining(['ERR_DEVICE device 0: unspecified launch failure']))
  expect(Object.keys(seen).filter((k) => !/^ERR_DEVICE .*device 0: unspecified launch failure/.test(k))).toEqual([])
  expect(Object.values(seen).reduce((a, b) => a + b)).toBe(4)
})
