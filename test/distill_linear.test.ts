import { spawnSync } from 'node:child_process'
import * as path from 'node:path'
import { distill, type Tensor } from '../lib/index'
import * as oracle from './oracle/distill'
import { close, codeOf, f32, labelsOf, restart, values } from './oracle/losses'

beforeEach(restart)

describe('linearKl', () => {
  const logitsOf = (hidden: ArrayLike<number>, weight: ArrayLike<number>, bias: ArrayLike<number> | undefined, n: number, c: number): number[][] =>
    oracle.rows(hidden, n).map((x) =>
      Array.from({ length: c }, (_, k) => x.reduce((sum, v, d) => sum + v * (weight[k * x.length + d] as number), bias ? (bias[k] as number) : 0)),
    )
  const head = (n: number, c: number, size: number, scale = 1, biased = true) => ({
    hidden: f32([n, size], scale),
    weight: f32([c, size], 2),
    ...(biased && { bias: f32([c]) }),
  })

  test('is kl of the logits, its gradients those of hidden states, weight and bias', () => {
    for (const [n, c, size, other] of [[1, 2, 1, 1], [3, 70, 2, 3]] as const)
      for (const temperature of [1, 3])
        for (const mode of ['soft', 'labels', 'smooth'] as const)
          for (const reduction of ['batchmean', 'mean', 'sum', 'none'] as const) {
            const [s, t] = [head(n, c, size), head(n, c, other, 1, mode !== 'labels')]
            const teacher = logitsOf(t.hidden.data, t.weight.data, t.bias?.data, n, c)
            const labels = labelsOf(n, c)
            if (n > 1) labels[1] = -1
            const weights = Float32Array.from({ length: c }, (_, i) => 0.5 + (i % 3))
            const hard = { labels, smoothing: mode === 'smooth' ? 0.2 : 0, ignore: -1, ...(mode === 'smooth' && { weights }) }
            const average = reduction === 'mean' || reduction === 'batchmean'
            const count = mode === 'soft' ? n * (reduction === 'mean' ? c : 1) : n > 1 ? n - 1 : n
            const each = (h: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number> | undefined, scaled: boolean): number[] => {
              const x = logitsOf(h, w, b, n, c)
              const soft = oracle.klTerms(x, teacher, temperature).map((row) => row.reduce((p, q) => p + q, 0))
              const softBy = scaled && average ? 1 / count : 1
              if (mode === 'soft') return soft.map((v) => v * softBy)
              const hardBy = scaled && average ? 1 / oracle.hardCount(n, hard) : 1
              return oracle.crossEntropies(x, hard).map((v, i) => (labels[i] === -1 ? 0 : 0.4 * hardBy * v + 0.6 * softBy * (soft[i] as number)))
            }
            const total = (h: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number> | undefined): number => each(h, w, b, true).reduce((p, q) => p + q, 0)
            const o = {
              temperature, reduction, ...(mode !== 'soft' && { labels, alpha: 0.6, ignoreIndex: -1 }),
              ...(mode === 'smooth' && { classWeights: weights, labelSmoothing: 0.2 }),
            } // prettier-ignore
            const [h, w, b] = [s.hidden.data, s.weight.data, s.bias?.data]
            const got = distill.linearKl(s, t, { ...o, gradWeight: true })
            const quick = distill.linearKl(s, t, o)
            const loss = reduction === 'none' ? each(h, w, b, false) : [total(h, w, b)]
            close(values(got.loss), loss, 'loss', 1e-5)
            close(values(quick.loss), loss, 'one pass, loss', 1e-5)
            const slope = oracle.differences(h, (v) => total(v, w, b))
            close(got.grad.data, slope, 'grad', 1e-5)
            close(quick.grad.data, slope, 'one pass, grad', 1e-5)
            expect('gradWeight' in quick).toBe(false)
            if (reduction === 'sum' && (temperature === 3 || c < 10)) {
              close(got.gradWeight.data, oracle.differences(w, (v) => total(h, v, b)), 'gradWeight', 1e-5)
              close((got.gradBias as Tensor<Float32Array>).data, oracle.differences(b as Float32Array, (v) => total(h, w, v)), 'gradBias', 1e-5)
              expect([got.gradWeight.dims, got.gradBias?.dims]).toEqual([[c, size], [c]])
            }
          }
  })

  test('agrees with kl of whole logits over many blocks of samples and classes, on extreme logits and with given ones', () => {
    for (const [n, c, size, scale] of [[300, 70, 3, 1], [5, 5000, 6, 4], [4, 130, 2, 8e3]] as const) {
      const [s, t] = [head(n, c, size, scale, false), head(n, c, size, scale, false)]
      const whole = (x: typeof s): Tensor<Float32Array> => ({
        type: 'float32',
        dims: [n, c],
        data: Float32Array.from(logitsOf(x.hidden.data, x.weight.data, undefined, n, c).flat()),
      })
      const want = distill.kl(whole(s), whole(t), { temperature: 2 })
      // what rounding the logits themselves may cost
      const slack = 4 * scale * 2 ** -22
      const slope = oracle.rows(want.grad.data, n).flatMap((g) => Array.from({ length: size }, (_, d) => g.reduce((sum, v, k) => sum + v * (s.weight.data[k * size + d] as number), 0)))
      const turned = Array.from({ length: c * size }, (_, at) => {
        let sum = 0
        for (let i = 0; i < n; i++) sum += (want.grad.data[i * c + Math.floor(at / size)] as number) * (s.hidden.data[i * size + (at % size)] as number)
        return sum
      })
      for (const teacher of [t, { logits: whole(t) }]) {
        const quick = distill.linearKl(s, teacher, { temperature: 2 })
        const got = distill.linearKl(s, teacher, { temperature: 2, gradWeight: true })
        for (const one of [quick, got]) {
          close([one.loss], [want.loss], 'loss', 1e-6 + slack)
          close(one.grad.data, slope, 'grad', 1e-6 + slack, 1e-4)
        }
        close(got.gradWeight.data, turned, 'gradWeight', 1e-6 + slack * scale, 1e-4)
        expect(got.gradBias).toBeUndefined()
      }
      const bits = new Uint16Array(new Uint32Array(whole(t).data.buffer).map((b) => b >>> 16))
      const half = { type: 'bfloat16', dims: [n, c], data: bits }
      const wide = { type: 'float32', dims: [n, c], data: new Float32Array(Uint32Array.from(bits, (b) => b << 16).buffer) }
      expect(distill.linearKl(s, { logits: half })).toEqual(distill.linearKl(s, { logits: wide }))
    }
  })

  test('leading dims, given memory, threads and the asynchronous twin change nothing', async () => {
    const s = { ...head(6, 300, 5), hidden: f32([2, 3, 5]) }
    const t = { ...head(6, 300, 4), hidden: f32([2, 3, 4]) }
    const want = distill.linearKl(s, t, { gradWeight: true })
    expect(want.grad.dims).toEqual([2, 3, 5])
    expect(distill.linearKl(s, t, { reduction: 'none' }).loss.dims).toEqual([2, 3])
    const [out, outWeight, outBias] = [new Float32Array(30), new Float32Array(1500), new Float32Array(300)]
    const into = distill.linearKl(s, t, { gradWeight: true, out, outWeight, outBias })
    expect([into.grad.data === out, into.gradWeight.data === outWeight, into.gradBias?.data === outBias]).toEqual([true, true, true])
    expect(into).toEqual(want)
    for (const threads of [1, 2]) expect(distill.linearKl(s, t, { gradWeight: true, threads })).toEqual(want)
    expect(await distill.linearKlAsync(s, t, { gradWeight: true })).toEqual(want)
  })

  test('bad input is named', () => {
    const [s, t] = [head(2, 5, 3), head(2, 5, 4)]
    const run = (a: object, b: object, o: object = {}) => () => distill.linearKl(a as typeof s, b as typeof t, o)
    expect(codeOf(run({ hidden: s.hidden }, t))).toBe('ERR_DTYPE student.weight')
    expect(codeOf(run({ ...s, wieght: 1 }, t))).toBe('ERR_RANGE student.wieght')
    expect(codeOf(run({ ...s, weight: f32([5, 4]) }, t))).toBe('ERR_SHAPE student.weight')
    expect(codeOf(run({ ...s, bias: f32([4]) }, t))).toBe('ERR_SHAPE student.bias')
    expect(codeOf(run(s, head(3, 5, 4)))).toBe('ERR_SHAPE teacher.hidden')
    expect(codeOf(run(s, head(2, 6, 4)))).toBe('ERR_SHAPE teacher.weight')
    expect(codeOf(run(s, { logits: f32([2, 4]) }))).toBe('ERR_SHAPE teacher.logits')
    expect(codeOf(run(s, { ...t, logits: f32([2, 5]) }))).toBe('ERR_RANGE teacher.hidden')
    expect(codeOf(run(s, t, { outWeight: new Float32Array(15) }))).toBe('ERR_RANGE outWeight')
    expect(codeOf(run(s, t, { gradWeight: true, out: s.hidden.data }))).toBe('ERR_RANGE out')
    expect(codeOf(run(s, t, { gradWeight: true, outWeight: new Float32Array(14) }))).toBe('ERR_SHAPE outWeight')
    expect(codeOf(run(s, t, { studentDims: [1] }))).toBe('ERR_RANGE options.studentDims')
    expect(codeOf(run(s, t, { labels: new Int32Array([0, 5]) }))).toBe('ERR_RANGE labels[1]')
    expect(codeOf(run(s, t, { temperature: 0 }))).toBe('ERR_RANGE temperature')
    const nan = (x: Tensor<Float32Array>) => ({ ...x, data: x.data.map((v, i) => (i === 3 ? NaN : v)) })
    expect(codeOf(run({ ...s, hidden: nan(s.hidden) }, t, { labels: new Int32Array([0, -1]), ignoreIndex: -1 }))).toBe('ERR_RANGE student.hidden[3]')
    for (const gradWeight of [false, true]) {
      expect(codeOf(run({ ...s, weight: nan(s.weight) }, t, { gradWeight }))).toBe('ERR_RANGE student.weight[3]')
      expect(codeOf(run({ ...s, bias: nan(s.bias as Tensor<Float32Array>) }, t, { gradWeight }))).toBe('ERR_RANGE student.bias[3]')
      expect(codeOf(run(s, { ...t, weight: nan(t.weight) }, { gradWeight }))).toBe('ERR_RANGE teacher.weight[3]')
      expect(codeOf(run(s, { logits: nan(f32([2, 5])) }, { gradWeight }))).toBe('ERR_RANGE teacher.logits[3]')
    }
  })
})

const linux = process.platform === 'linux' ? test : test.skip
linux('linearKl over 8 x 128256 classes takes less than a quarter of two logit tensors', () => {
  const dist = path.join(__dirname, '..', 'dist')
  const script = `const { distill } = require(${JSON.stringify(dist)}), fs = require('node:fs');
    const kb = (name) => Number(fs.readFileSync('/proc/self/status', 'utf8').match(name + ':\\\\s+(\\\\d+)')[1]);
    const fill = (n) => { const x = new Float32Array(n); for (let i = 0; i < n; i++) x[i] = (i % 77) / 77 - 0.5; return x };
    const head = (c) => ({ hidden: { type: 'float32', dims: [8, 32], data: fill(256) }, weight: { type: 'float32', dims: [c, 32], data: fill(c * 32) } });
    const [s, t] = [head(128256), head(128256)], out = new Float32Array(256);
    distill.linearKl(head(3), head(3), { out, threads: 1 });
    fs.writeFileSync('/proc/self/clear_refs', '5'); // the peak starts anew
    const before = kb('VmRSS');
    distill.linearKl(s, t, { out, threads: 1 });
    console.log((kb('VmHWM') - before) * 1024)`
  const used = Number(spawnSync(process.execPath, ['-e', script], { encoding: 'utf8' }).stdout)
  expect(used).toBeGreaterThan(0)
  expect(used).toBeLessThan((8 * 128256 * 4 * 2) / 4)
})
