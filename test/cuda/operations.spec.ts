// The public functions on device tensors against the same functions on the CPU. Runs with WHITTLE_CUDA_LIBRARY naming the
// emulated library: npm run test:cuda.
import {
  applyMask,
  applyMaskAsync,
  crossEntropy,
  crossEntropyAsync,
  dequantize,
  dequantizeAsync,
  DeviceTensor,
  distill,
  fakeQuantize,
  fakeQuantizeAsync,
  GlobalThreshold,
  importance,
  importanceAsync,
  kthLargest,
  kthLargestAsync,
  mask,
  maskAsync,
  Observer,
  quantize,
  quantizeAsync,
  toDevice,
  WhittleError,
  type Tensor,
  type TensorLike,
  type TypedArray,
} from '../../lib/index'

function normals(seed: number, ...dims: number[]): Tensor<Float32Array> {
  let state = seed
  const uniform = () => ((state = (state * 1103515245 + 12345) % 2 ** 31) + 0.5) / 2 ** 31
  const data = Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()))
  return { type: 'float32', dims, data }
}

/** The same bits in bfloat16, cut. */
const half = (x: Tensor<Float32Array>): Tensor<Uint16Array> => ({
  type: 'bfloat16',
  dims: x.dims,
  data: Uint16Array.from(new Uint32Array(x.data.buffer), (bits) => bits >>> 16),
})

async function caught(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (e) {
    return e instanceof WhittleError ? `${e.code} ${e.parameter}` : String(e)
  }
  return 'nothing'
}

const up = (t: TensorLike | TypedArray): DeviceTensor => toDevice(t)
/** Type, dims and numbers of a tensor wherever it lies. */
const plain = (t: Tensor | DeviceTensor) => {
  const { type, dims, data } = t instanceof DeviceTensor ? t.toHost() : t
  return { type, dims: [...dims], data: [...(data as Float32Array)] }
}

test.each([
  {},
  { axis: 0 },
  { axis: -1, symmetric: false },
  { bits: 4, blockSize: 8, symmetric: false },
  { bits: 3, axis: 1, powerOfTwo: true },
  { bits: 16, convention: 'torch' },
  { rounding: 'stochastic', seed: 77, axis: 0 },
  { scale: 0.25, zeroPoint: 3, type: 'uint8' },
  { scale: 0.5 },
] as const)('quantize and dequantize of %j have the bits of the CPU', async (options) => {
  for (const x of [normals(1, 5, 17), half(normals(2, 5, 17))]) {
    const want = quantize(x, options)
    const there = up(x)
    for (const q of [quantize(there, options), await quantizeAsync(there, options)]) {
      expect([q.data, q.scale, q.zeroPoint].every((t) => t instanceof DeviceTensor)).toBe(true)
      expect([plain(q.data), plain(q.scale), plain(q.zeroPoint)]).toEqual([plain(want), plain(want.scale), plain(want.zeroPoint)])
      expect([q.type, q.dims, q.axis, q.blockSize, q.bits]).toEqual([want.type, want.dims, want.axis, want.blockSize, want.bits])
      const type = x.type as 'float32'
      const back = dequantize(want, { type })
      expect(plain(dequantize(q, { type }))).toEqual(plain(back))
      expect(plain(await dequantizeAsync(q, { type }))).toEqual(plain(back))
    }
  }
})

test('scales and zero points may be tensors on the device, and results go where the caller says', () => {
  const x = normals(3, 4, 6)
  const scale = { type: 'float32', dims: [4], data: Float32Array.of(0.1, 0.2, 0.3, 0.4) }
  const zeroPoint = { type: 'int8', dims: [4], data: Int8Array.of(1, -2, 3, 0) } as const
  const want = quantize(x, { axis: 0, scale: scale.data, zeroPoint: zeroPoint as Tensor })
  const out = up({ type: 'int8', dims: [4, 6], data: new Int8Array(24) })
  const q = quantize(up(x), { axis: 0, scale: up(scale), zeroPoint: up(zeroPoint), out })
  expect(q.data).toBe(out)
  expect(plain(out)).toEqual(plain(want))
  const y = up(normals(4, 4, 6))
  expect(dequantize({ data: q.data, scale: q.scale, zeroPoint: q.zeroPoint, axis: 0 }, { out: y })).toBe(y)
  expect(plain(y)).toEqual(plain(dequantize(want)))
})

test('importance scores elements and groups as on the CPU', async () => {
  const w = normals(5, 6, 4, 9)
  const g = normals(6, 6, 4, 9)
  for (const criterion of ['l1', 'l2', 'square', 'linf', 'sensitivity', 'taylor'] as const)
    for (const axis of [undefined, 0, 1, -1]) {
      const graded = criterion === 'sensitivity' || criterion === 'taylor'
      const view = axis === undefined ? {} : { axis }
      const want = importance(w, { criterion, ...view, ...(graded ? { grad: g } : {}) })
      const options = { criterion, ...view, ...(graded ? { grad: up(g) } : {}) }
      for (const scores of [importance(up(w), options), await importanceAsync(up(w), options)]) {
        const got = plain(scores)
        expect(got.dims).toEqual(want.dims)
        got.data.forEach((s, i) => expect(Math.abs(s - (want.data[i] as number))).toBeLessThanOrEqual(axis === undefined ? 0 : 2 ** -22 * Math.abs(s)))
      }
    }
})

test('masks and what they leave have the bits of the CPU', async () => {
  const w = normals(7, 8, 12)
  for (const options of [{ sparsity: 0.7 }, { sparsity: 0 }, { sparsity: 1 }, { pattern: '2:4' }, { pattern: '1:4', axis: 0 }] as const) {
    const scores = up(importance(w))
    const want = mask(importance(w), options)
    const kept = mask(scores, options)
    expect(kept).toBeInstanceOf(DeviceTensor)
    expect(plain(kept)).toEqual(plain(want))
    expect(plain(await maskAsync(scores, options))).toEqual(plain(want))
    const there = up(w)
    const left = plain(applyMask(w, want))
    expect(plain(applyMask(there, kept))).toEqual(left)
    expect(plain(await applyMaskAsync(there, kept))).toEqual(left)
    expect(applyMask(there, kept, { out: there })).toBe(there)
    expect(plain(there)).toEqual(left)
  }
})

test('masks of every pattern and scope, of one tensor and several', async () => {
  const a = importance(normals(21, 8, 12))
  const b = importance(normals(22, 4, 30))
  const rounded = (t: Tensor): Tensor => ({ ...t, data: Float32Array.from(t.data as Float32Array, (v) => Math.round(v * 4) / 4) })
  for (const options of [
    { threshold: 0.5 },
    { threshold: 0.75, equal: 3 },
    { sparsity: 0.6, scope: 'balanced' },
    { sparsity: 0.5, scope: 'balanced', axis: 1 },
    { sparsity: 0.5, pattern: 'channel' },
    { sparsity: 0.5, pattern: 'channel', axis: 1 },
    { sparsity: 0.5, pattern: { block: [2, 3] } },
    { sparsity: 0.5, pattern: { block: [2, 3] }, scope: 'balanced' },
    { sparsity: 0.7, scope: 'global' },
    { sparsity: 1, scope: 'global' },
    { sparsity: 0.5, pattern: 'channel', scope: 'global' },
    { pattern: '1:3', axis: 1 },
  ] as const)
    for (const scores of [[a, b], [rounded(a), rounded(b)]]) {
      const want = mask(scores, options).map(plain)
      expect(mask(scores.map(up), options).map(plain)).toEqual(want)
      expect((await maskAsync(scores.map(up), options)).map(plain)).toEqual(want)
      expect(plain(mask(up(scores[0] as Tensor), options))).toEqual(plain(mask(scores[0] as Tensor, options)))
    }
  const long = importance(normals(23, 3, 200))
  expect(plain(mask(up(long), { pattern: '70:100' }))).toEqual(plain(mask(long, { pattern: '70:100' })))
  const filters = importance(normals(24, 6, 10), { criterion: 'l2', axis: 0 })
  const dims = [6, 2, 5]
  expect(plain(mask(up(filters), { sparsity: 0.5, pattern: 'channel', dims }))).toEqual(plain(mask(filters, { sparsity: 0.5, pattern: 'channel', dims })))
})

test('scores of blocks, medians and random ones; the k-th largest; thresholds over tensors on either side', async () => {
  const w = normals(25, 8, 12)
  for (const options of [{ block: [2, 4] }, { block: [8, 12], criterion: 'l2' }, { criterion: 'geometricMedian', axis: 1 }, { criterion: 'geometricMedian', axis: 0 }, { criterion: 'random', seed: 5 }, { criterion: 'random', axis: 0 }] as const) {
    const [want, got] = [plain(importance(w, options)), plain(importance(up(w), options))]
    expect(got.dims).toEqual(want.dims)
    near(got.data, want.data, 'seed' in options || options.criterion === 'random' ? 0 : 1e-5)
  }
  const parts = [importance(w), importance(normals(26, 100))]
  for (const k of [1, 2, 77, 196]) {
    expect(kthLargest(parts.map(up), k)).toBe(kthLargest(parts, k))
    expect(await kthLargestAsync(up(parts[1] as Tensor), Math.min(k, 100))).toBe(kthLargest(parts[1] as Tensor, Math.min(k, 100)))
  }
  // Scores that are equal lie on both sides of the threshold, in both tensors.
  const tied = parts.map((t) => ({ ...t, data: Float32Array.from(t.data as Float32Array, (v) => Math.round(v * 2) / 2) }))
  const cases = [[parts, 0.5], [parts, 0], [parts, 1], [tied, 0.5], [tied, 0.9], [tied, 0.02]] as const
  const found = cases.map(([scores, sparsity]) => [scores, scores.map(up), [scores[0] as Tensor, up(scores[1] as Tensor)]].map((list) => {
    const search = new GlobalThreshold(sparsity)
    do for (const scores of list) search.add(scores)
    while (search.next())
    return search.result()
  })) // prettier-ignore
  for (const [here, there, either] of found) {
    expect(there).toEqual(here)
    expect(either).toEqual(here)
  }
  expect(await caught(() => kthLargest(up(normals(1, 4)), 5))).toBe('ERR_RANGE k')
})

test('fake quantization: values and gradients of the CPU', async () => {
  for (const options of [{}, { axis: 0, bits: 4 }, { bits: 4, blockSize: 8, symmetric: false }, { scale: 0.25, zeroPoint: 2, bits: 4 }, { scale: 0.2, qmin: -3, qmax: 5, zeroPoint: 1 }, { rounding: 'stochastic', seed: 3 }] as const) {
    const [x, grad] = [normals(31, 5, 24), normals(32, 5, 24)]
    const want = fakeQuantize(x, { ...options, grad, learned: true, gradientScale: 0.5 })
    const given = { ...options, grad: up(grad), learned: true, gradientScale: 0.5 } as const
    for (const got of [fakeQuantize(up(x), given), await fakeQuantizeAsync(up(x), given)]) {
      for (const name of ['y', 'scale', 'zeroPoint', 'gradX'] as const) expect(plain(got[name] as DeviceTensor)).toEqual(plain(want[name] as Tensor))
      for (const name of ['gradScale', 'gradZeroPoint'] as const) near(plain(got[name] as DeviceTensor).data, plain(want[name] as Tensor).data, 1e-5)
    }
    expect(Object.keys(fakeQuantize(up(x), options))).toEqual(['y', 'scale', 'zeroPoint'])
  }
  const x = up(normals(33, 6))
  expect(await caught(() => fakeQuantize(x, { learned: true }))).toBe('ERR_RANGE learned')
  expect(await caught(() => fakeQuantize(x, { scale: -1 }))).toBe('ERR_RANGE scale')
  expect(await caught(() => fakeQuantize(x, { grad: normals(1, 6) as never }))).toBe('ERR_DEVICE grad')
})

function near(a: readonly number[], b: readonly number[], bound: number): void {
  expect(a.length).toBe(b.length)
  a.forEach((x, i) => expect(Math.abs(x - (b[i] as number))).toBeLessThanOrEqual(bound))
}

test('losses and gradients are those of the CPU', async () => {
  const classes = Int32Array.of(3, 0, -100, 9)
  const labels = { type: 'int32', dims: [4], data: classes }
  const classWeights = { type: 'float32', dims: [10], data: Float32Array.from({ length: 10 }, (_, i) => 0.5 + i / 10) }
  for (const student of [normals(8, 4, 10), half(normals(8, 4, 10))]) {
    const teacher = normals(9, 4, 10)
    for (const reduction of ['mean', 'sum', 'none'] as const) {
      const options = { reduction, ignoreIndex: -100, labelSmoothing: 0.1 }
      const want = crossEntropy(student, classes, { ...options, classWeights })
      const here = { ...options, classWeights: up(classWeights) }
      const soft = distill.kl(student, teacher, { reduction, temperature: 3 })
      const mixed = distill.kl(student, teacher, { ...options, classWeights, temperature: 3, labels: classes, alpha: 0.3 })
      const more = { ...here, temperature: 3, labels: up(labels), alpha: 0.3 }
      for (const [got, expected] of [
        [crossEntropy(up(student), up(labels), here), want],
        [await crossEntropyAsync(up(student), up(labels), here), want],
        [crossEntropy(up(student), up(labels), { ...here, temperature: 3 }), crossEntropy(student, classes, { ...options, classWeights, temperature: 3 })],
        [distill.kl(up(student), up(teacher), { reduction, temperature: 3 }), soft],
        [await distill.klAsync(up(student), up(teacher), more), mixed],
        [distill.js(up(student), up(teacher), { reduction, temperature: 3 }), distill.js(student, teacher, { reduction, temperature: 3 })],
        [await distill.jsAsync(up(student), up(teacher), { reduction }), distill.js(student, teacher, { reduction })],
      ] as const) {
        const lossOf = (l: number | Tensor | DeviceTensor) => (typeof l === 'number' ? [l] : plain(l).data)
        near(lossOf(got.loss), lossOf(expected.loss), 1e-5)
        expect(got.grad).toBeInstanceOf(DeviceTensor)
        near(plain(got.grad).data, plain(expected.grad).data, 1e-6)
      }
    }
  }
})

test('operands of one call lie on one device: ERR_DEVICE names the one that does not', async () => {
  const x = normals(10, 4, 8)
  const there = up(x)
  const host = x as never
  const cases: [() => unknown, string][] = [
    [() => quantize(there, { scale: Float32Array.of(1) as never }), 'scale'],
    [() => quantize(there, { scale: 1, zeroPoint: Int8Array.of(1) as never }), 'zeroPoint'],
    [() => quantize(there, { out: new Int8Array(32) as never }), 'out'],
    [() => quantizeAsync(there, { scale: { type: 'float32', dims: [1], data: Float32Array.of(1) } as never }), 'scale'],
    [() => dequantize({ data: up(new Int8Array(4)), scale: Float32Array.of(1) as never }), 'q.scale'],
    [() => dequantize({ ...quantize(x), scale: up(Float32Array.of(1)) as never }), 'q.scale'],
    [() => importance(there, { criterion: 'taylor', grad: host }), 'grad'],
    [() => importance(x, { criterion: 'taylor', grad: there as never }), 'grad'],
    [() => mask([there, host] as never, { sparsity: 0.5 }), 'scores[1]'],
    [() => mask(up(normals(12, 128, 2)), { pattern: '2:128', axis: 0 }), 'pattern'],
    [() => applyMask(there, new Uint8Array(32) as never), 'mask'],
    [() => applyMask(x, there), 'mask'],
    [() => crossEntropy(there, Int32Array.of(0, 1, 2, 3) as never), 'labels'],
    [() => crossEntropy(there, undefined as never), 'labels'],
    [() => crossEntropyAsync(x, up(Int32Array.of(0, 1, 2, 3))), 'labels'],
    [() => crossEntropy(there, up(Int32Array.of(0, 1, 2, 3)), { classWeights: new Float32Array(8) as never }), 'classWeights'],
    [() => distill.kl(there, host), 'teacher'],
    [() => distill.klAsync(x, there as never), 'teacher'],
    [() => distill.js(there, host), 'teacher'],
    [() => distill.dkd(there, there, Int32Array.of(0) as never), 'labels'],
    [() => fakeQuantize(there, { scale: Float32Array.of(1) as never }), 'scale'],
  ]
  for (const [body, parameter] of cases) expect(await caught(body)).toBe(`ERR_DEVICE ${parameter}`)
})

test('bad values and shapes have the codes of the CPU, and nothing stays behind', async () => {
  const x = up(normals(11, 4, 8))
  const labels = up(Int32Array.of(0, 1, 2, 3))
  const gone = up(Float32Array.of(1))
  gone.dispose()
  const cases: [() => unknown, string][] = [
    [() => quantize(up(Float32Array.of(1, NaN))), 'ERR_RANGE x'],
    [() => quantizeAsync(up(Float32Array.of(1, Infinity))), 'ERR_RANGE x'],
    [() => quantize(x, { scale: -1 }), 'ERR_RANGE scale'],
    [() => quantize(x, { scale: up(Float32Array.of(-1)) }), 'ERR_RANGE scale'],
    [() => quantize(x, { scale: up(Float32Array.of(1, 2)) }), 'ERR_SHAPE scale'],
    [() => quantize(x, { zeroPoint: 1 }), 'ERR_RANGE zeroPoint'],
    [() => quantize(x, { axis: 2 }), 'ERR_RANGE axis'],
    [() => quantize(x, { bit: 4 } as never), 'ERR_RANGE options.bit'],
    [() => quantize(x, { out: up(new Int8Array(8)) }), 'ERR_SHAPE out'],
    [() => quantize(labels as never), 'ERR_DTYPE x.type'],
    [() => quantize(gone), 'ERR_HANDLE x'],
    [() => dequantize({ data: up(Int8Array.of(127)), scale: 3e38 }), 'ERR_RANGE q.scale'],
    [() => importance(x, { criterion: 'taylor' }), 'ERR_RANGE grad'],
    [() => importance(up(Float32Array.of(NaN))), 'ERR_RANGE w'],
    [() => mask(x, {}), 'ERR_RANGE sparsity'],
    [() => mask(x, { pattern: '2:3' }), 'ERR_SHAPE scores'],
    [() => mask(up(Float32Array.of(1, NaN)), { sparsity: 0.5 }), 'ERR_RANGE scores'],
    [() => mask(x, { sparsity: 0.5, out: up(new Uint8Array(32)) }), 'ERR_DTYPE out'],
    [() => applyMask(x, up({ type: 'bool', dims: [32], data: new Uint8Array(32) })), 'ERR_SHAPE mask'],
    [() => crossEntropy(x, up(Int32Array.of(0, 1, 8, 3))), 'ERR_RANGE labels'],
    [() => crossEntropy(x, labels, { classWeights: up(Float32Array.of(1, 1, 1, 1, -1, 1, 1, 1)) }), 'ERR_RANGE classWeights'],
    [() => crossEntropy(x, up(Int32Array.of(0, 1))), 'ERR_SHAPE labels'],
    [() => crossEntropy(x, labels, { outLoss: x }), 'ERR_RANGE outLoss'],
    [() => crossEntropy(up(normals(1, 2, 0)), up(new Int32Array(2))), 'ERR_SHAPE logits'],
    [() => distill.kl(x, up(normals(1, 8, 4))), 'ERR_SHAPE teacher'],
    [() => distill.kl(x, x, { out: x }), 'ERR_RANGE out'],
    [() => distill.klAsync(x, x, { temperature: 0 }), 'ERR_RANGE temperature'],
    [() => distill.kl(x, x, { alpha: 0.5 }), 'ERR_RANGE alpha'],
    [() => distill.kl(up(Float32Array.of(1, NaN)), up(Float32Array.of(1, 2))), 'ERR_RANGE student'],
  ]
  for (const [body, want] of cases) expect(await caught(body)).toBe(want)
})

test('a tensor disposed of in flight still serves the call', async () => {
  const x = normals(12, 64, 33)
  const there = up(x)
  const pending = quantizeAsync(there, { axis: 0 })
  there.dispose()
  expect(plain((await pending).data)).toEqual(plain(quantize(x, { axis: 0 })))
})

test('observers see device tensors as they see others: ranges, parameters, one after the other or at once', async () => {
  const batches = [normals(3, 4, 3, 70), normals(4, 4, 3, 70), normals(5, 2, 3, 9)]
  batches[1]!.data[5] = 40
  for (const method of ['minmax', 'movingAverage', 'percentile', 'entropy', 'mse'] as const)
    for (const axis of [undefined, 1, -1])
      for (const type of ['float32', 'bfloat16'] as const) {
        const given = { method, type: 'uint8' as const, symmetric: false, percentile: 99, ...(axis === undefined ? {} : { axis }), ...(method === 'mse' ? { bins: 256 } : {}) }
        const some = (axis === -1 ? batches.slice(0, 2) : batches).map((b) => (type === 'float32' ? b : half(b)))
        const [here, there, later] = [new Observer(given), new Observer(given), new Observer(given)]
        for (const b of some) {
          here.observe(b)
          there.observe(toDevice(b))
        }
        await Promise.all(some.map((b) => later.observeAsync(toDevice(b))))
        for (const o of [there, later]) {
          expect(o.ranges()).toEqual(here.ranges())
          expect(o.parameters()).toEqual(here.parameters())
        }
      }
})

test('observers refuse what they refuse elsewhere, and change nothing', async () => {
  const observer = new Observer({ method: 'percentile', axis: 0 }).observe(toDevice(normals(1, 3, 20)))
  const before = observer.ranges()
  const bad = normals(2, 3, 20)
  bad.data[7] = NaN
  expect(await caught(() => observer.observe(toDevice(bad)))).toBe('ERR_RANGE x')
  expect(await caught(() => observer.observeAsync(toDevice(bad)))).toBe('ERR_RANGE x')
  expect(await caught(() => observer.observe(toDevice(normals(2, 4, 20))))).toBe('ERR_SHAPE x.dims')
  expect(await caught(() => observer.observe(toDevice(Int32Array.of(1))))).toMatch(/^ERR_(DTYPE x.type|SHAPE x.dims)$/)
  const gone = toDevice(normals(2, 3, 20))
  gone.dispose()
  expect(await caught(() => observer.observe(gone))).toBe('ERR_HANDLE x')
  expect(observer.ranges()).toEqual(before)
})
