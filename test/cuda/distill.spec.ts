// Distillation losses on device tensors against the same functions on the CPU. Runs with WHITTLE_CUDA_LIBRARY naming the
// emulated library: npm run test:cuda.
import { DeviceTensor, distill, toDevice, WhittleError, type Tensor, type TensorLike, type TypedArray } from '../../lib/index'

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

// Features and hidden states are multiplied by cuBLASLt, or its fake, which its header makes.
const withLibrary = process.env['WHITTLE_CUBLASLT_LIBRARY'] === '' ? test.skip : test
const up = (t: TensorLike | TypedArray): DeviceTensor => toDevice(t)

type Any = Readonly<Record<string, unknown>>

/** Two answers of a loss: the same fields, numbers within `bound` of each other, tensors of the first on the device. */
function near(got: unknown, want: unknown, bound = 2e-6): void {
  expect(Object.keys(got as Any)).toEqual(Object.keys(want as Any))
  for (const [key, w] of Object.entries(want as Any)) {
    const g = (got as Any)[key]
    if (typeof w !== 'number') expect(g).toBeInstanceOf(DeviceTensor)
    const { dims, data } = typeof w === 'number' ? { dims: [], data: [g as number] } : (g as DeviceTensor).toHost()
    const values = typeof w === 'number' ? [w] : [...(w as Tensor<Float32Array>).data]
    if (typeof w !== 'number') expect(dims).toEqual((w as Tensor).dims)
    values.forEach((v, i) => expect(Math.abs((data[i] as number) - v)).toBeLessThanOrEqual(bound * Math.max(1, Math.abs(v))))
  }
}

async function caught(body: () => unknown): Promise<string> {
  try {
    await body()
  } catch (e) {
    return e instanceof WhittleError ? `${e.code} ${e.parameter}` : String(e)
  }
  return 'nothing'
}

test('dkd and several teachers are those of the CPU', async () => {
  const classes = Int32Array.of(3, 0, -100, 9)
  const labels = up({ type: 'int32', dims: [4], data: classes })
  const classWeights = { type: 'float32', dims: [10], data: Float32Array.from({ length: 10 }, (_, i) => 0.5 + i / 10) }
  const weights = Float32Array.of(1, 3)
  for (const student of [normals(8, 2, 2, 10), half(normals(8, 2, 2, 10))])
    for (const reduction of ['mean', 'batchmean', 'sum', 'none'] as const) {
      const [a, b] = [normals(9, 2, 2, 10), normals(10, 2, 2, 10)]
      const [there, one, other] = [up(student), up(a), up(b)]
      const o = { reduction, temperature: 3, ignoreIndex: -100 }
      near(distill.dkd(there, one, labels, o), distill.dkd(student, a, classes, o), 1e-5)
      const soft = { reduction, temperature: 2, weights }
      near(distill.multiTeacher(there, [one, other], { ...soft, weights: up(weights) }), distill.multiTeacher(student, [a, b], soft), 1e-5)
      const hard = { ...o, labelSmoothing: 0.1, alpha: 0.3 }
      const stacked = { type: 'float32', dims: [2, 2, 2, 10], data: Float32Array.of(...a.data, ...b.data) }
      near(
        await distill.multiTeacherAsync(there, up(stacked), { ...hard, labels, classWeights: up(classWeights) }),
        distill.multiTeacher(student, [a, b], { ...hard, labels: classes, classWeights }),
        1e-5,
      )
      const out = up(normals(1, 2, 2, 10))
      expect((await distill.dkdAsync(there, one, labels, { ...o, out })).grad).toBe(out)
    }
})

test('what is wrong with an operand is told by its name', async () => {
  const x = normals(11, 4, 8)
  const there = up(x)
  const labels = up(Int32Array.of(0, 1, 2, 3))
  const cases: [() => unknown, string][] = [
    [() => distill.dkd(there, x as never, labels), 'ERR_DEVICE teacher'],
    [() => distill.dkd(there, there, undefined as never), 'ERR_DEVICE labels'],
    [() => distill.dkdAsync(there, there, up(Int32Array.of(0, 1, 8, 3))), 'ERR_RANGE labels'],
    [() => distill.dkd(there, there, up(Int32Array.of(0, 1))), 'ERR_SHAPE labels'],
    [() => distill.dkd(there, there, labels, { beta: -1 }), 'ERR_RANGE beta'],
    [() => distill.dkd(up(normals(1, 4, 1)), up(normals(1, 4, 1)), labels), 'ERR_SHAPE student'],
    [() => distill.dkd(there, there, labels, { classWeights: there } as never), 'ERR_RANGE options.classWeights'],
    [() => distill.multiTeacher(there, []), 'ERR_SHAPE teachers'],
    [() => distill.multiTeacher(there, [there, x as never]), 'ERR_DEVICE teachers[1]'],
    [() => distill.multiTeacher(there, [there, up(normals(1, 8, 4))]), 'ERR_SHAPE teachers[1]'],
    [() => distill.multiTeacher(there, [there, up(half(x))]), 'ERR_DTYPE teachers[1].type'],
    [() => distill.multiTeacher(there, there), 'ERR_SHAPE teachers'],
    [() => distill.multiTeacher(there, [there], { weights: Float32Array.of(1) as never }), 'ERR_DEVICE weights'],
    [() => distill.multiTeacher(there, [there, there], { weights: up(Float32Array.of(1)) }), 'ERR_SHAPE weights'],
    [() => distill.multiTeacher(there, [there, there], { weights: up(Float32Array.of(1, -1)) }), 'ERR_RANGE weights'],
    [() => distill.multiTeacher(there, [there], { alpha: 0.5 }), 'ERR_RANGE alpha'],
    [() => distill.multiTeacher(up(Float32Array.of(1, NaN)), [up(Float32Array.of(1, 2))]), 'ERR_RANGE student'],
  ]
  for (const [body, want] of cases) expect(await caught(body)).toBe(want)
})

withLibrary('losses on features and relations are those of the CPU', async () => {
  for (const dims of [[6, 5], [3, 5, 4, 3]]) {
    const [batch, ...rest] = dims as [number, number]
    const s = normals(20, ...dims)
    const t = normals(21, ...dims)
    const wide = normals(22, batch, 7, ...rest.slice(1))
    const regressor = normals(23, 7, 5)
    const [a, b] = [up(s), up(t)]
    near(distill.feature(a, b), distill.feature(s, t))
    near(distill.feature(a, up(wide), { regressor: up(regressor) }), distill.feature(s, wide, { regressor }), 1e-5)
    near(await distill.featureAsync(a, up(wide), { regressor: up(regressor) }), distill.feature(s, wide, { regressor }), 1e-5)
    if (dims.length > 2) {
      near(distill.attention(a, up(wide), { p: 3 }), distill.attention(s, wide, { p: 3 }), 1e-5)
      near(await distill.attentionAsync(a, b, { form: 'mean' }), distill.attention(s, t, { form: 'mean' }), 1e-5)
    }
    near(distill.relationDistance(a, up(wide), { delta: 0.5 }), distill.relationDistance(s, wide, { delta: 0.5 }))
    near(await distill.relationDistanceAsync(a, b), distill.relationDistance(s, t))
    near(distill.relationAngle(a, up(wide)), distill.relationAngle(s, wide))
    near(await distill.relationAngleAsync(a, b), distill.relationAngle(s, t))
    near(distill.similarity(a, up(wide)), distill.similarity(s, wide), 1e-5)
    near(await distill.similarityAsync(a, b), distill.similarity(s, t), 1e-5)
    near(distill.correlation(a, up(wide), { gamma: 1, order: 4 }), distill.correlation(s, wide, { gamma: 1, order: 4 }), 1e-5)
    near(await distill.correlationAsync(a, b), distill.correlation(s, t), 1e-5)
    const out = up(s)
    expect(distill.similarity(a, b, { out }).grad).toBe(out)
  }
})

withLibrary('what is wrong with features is told by its name', async () => {
  const x = normals(30, 3, 4)
  const there = up(x)
  const cases: [() => unknown, string][] = [
    [() => distill.feature(there, x as never), 'ERR_DEVICE teacher'],
    [() => distill.feature(there, there, { regressor: x as never }), 'ERR_DEVICE regressor'],
    [() => distill.feature(there, there, { regressor: up(normals(1, 4, 3)) }), 'ERR_SHAPE regressor'],
    [() => distill.feature(there, up(normals(1, 3, 5))), 'ERR_SHAPE teacher'],
    [() => distill.feature(there, there, { out: there }), 'ERR_RANGE out'],
    [() => distill.feature(there, there, { outRegressor: there } as never), 'ERR_RANGE outRegressor'],
    [() => distill.feature(up(half(x)), up(half(x))), 'ERR_DTYPE student.type'],
    [() => distill.attention(there, there), 'ERR_SHAPE student'],
    [() => distill.attentionAsync(up(normals(1, 2, 3, 4)), up(normals(1, 2, 3, 5))), 'ERR_SHAPE teacher'],
    [() => distill.attention(up(normals(1, 2, 3, 4)), up(normals(1, 2, 3, 4)), { p: 9 }), 'ERR_RANGE p'],
    [() => distill.relationDistance(there, up(normals(1, 2, 4))), 'ERR_SHAPE teacher'],
    [() => distill.relationAngle(up(normals(1, 1, 4)), up(normals(1, 1, 4))), 'ERR_SHAPE student'],
    [() => distill.relationAngle(there, there, { delta: 0 }), 'ERR_RANGE delta'],
    [() => distill.correlation(there, there, { order: 17 }), 'ERR_RANGE order'],
    [() => distill.similarityAsync(there, x as never), 'ERR_DEVICE teacher'],
    [() => distill.similarity(there, up({ type: 'float32', dims: [3, 1], data: Float32Array.of(1, NaN, 2) })), 'ERR_RANGE student'],
  ]
  for (const [body, want] of cases) expect(await caught(body)).toBe(want)
})

withLibrary('a divergence from hidden states is that of the CPU', async () => {
  const head = (seed: number, size: number) => ({ hidden: normals(seed, 2, 3, size), weight: normals(seed + 1, 11, size), bias: normals(seed + 2, 11) })
  const there = ({ hidden, weight, bias }: ReturnType<typeof head>) => ({ hidden: up(hidden), weight: up(weight), bias: up(bias) })
  const [s, t] = [head(40, 5), head(50, 8)]
  const logits = normals(60, 2, 3, 11)
  const classes = Int32Array.of(3, 0, -100, 9, 10, 1)
  const hard = { temperature: 2, alpha: 0.3, ignoreIndex: -100, labelSmoothing: 0.1 }
  for (const reduction of ['mean', 'batchmean', 'sum', 'none'] as const) {
    near(distill.linearKl(there(s), there(t), { reduction }), distill.linearKl(s, t, { reduction }), 1e-5)
    const { hidden, weight } = there(s)
    const options = { ...hard, reduction, gradWeight: true } as const
    near(distill.linearKl(there(s), there(t), { ...options, labels: up(classes) }), distill.linearKl(s, t, { ...options, labels: classes }), 1e-5)
    for (const given of [logits, half(logits)])
      near(
        await distill.linearKlAsync({ hidden, weight }, { logits: up(given) }, { ...options, labels: up(classes) }),
        distill.linearKl({ hidden: s.hidden, weight: s.weight }, { logits: given }, { ...options, labels: classes }),
        1e-5,
      )
  }
  const [a, b] = [there(s), there(t)]
  const cases: [() => unknown, string][] = [
    [() => distill.linearKl({ ...a, weight: s.weight as never }, b), 'ERR_DEVICE student.weight'],
    [() => distill.linearKl(a, t as never), 'ERR_DEVICE teacher.hidden'],
    [() => distill.linearKl(a, { logits: logits as never }), 'ERR_DEVICE teacher.logits'],
    [() => distill.linearKl(s, b as never), 'ERR_DEVICE teacher.hidden'],
    [() => distill.linearKl({ ...a, bias: up(normals(1, 10)) }, b), 'ERR_SHAPE student.bias'],
    [() => distill.linearKl(a, { ...b, hidden: up(normals(1, 6, 8)) }), 'ERR_SHAPE teacher.hidden'],
    [() => distill.linearKl(a, b, { labels: up(Int32Array.of(0, 1, 2, 3, 4, 11)) }), 'ERR_RANGE labels'],
    [() => distill.linearKl(a, b, { outWeight: b.weight }), 'ERR_RANGE outWeight'],
    [() => distill.linearKl({ ...a, hidden: up({ ...s.hidden, data: s.hidden.data.map((x, i) => (i === 4 ? NaN : x)) }) }, b), 'ERR_RANGE student.hidden'],
  ]
  for (const [body, want] of cases) expect(await caught(body)).toBe(want)
})
