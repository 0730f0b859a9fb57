// The PTX of scores and masks of groups, and of fake quantization, interpreted: against the CPU's functions.
import { fakeQuantize, importance, mask } from '../../../lib/index'
import { struct } from './launches'
import { expectBusy, expectNear, Files, full, kBlock, normals, schedules } from './support'

const files = new Files()
beforeAll(() => files.compile('select_mask', 'quantize_train'), 300000)

const blocks = (threads: number): number => Math.ceil(threads / kBlock)

test.each([[8, 12, 2, 3], [6, 64, 3, 32]] as const)('blocks of [%d, %d] by [%d, %d]: scores, and the mask that they paint', (rows, cols, r, c) => {
  for (const schedule of schedules) {
    const run = files.runner(schedule)
    const { gpu, flags, launch } = files.open(run, 'select_mask')
    const x = normals(1, rows * cols)
    const tensor = { type: 'float32', dims: [rows, cols], data: x } as const
    const count = (rows / r) * (cols / c)
    const lanes = r * c <= 16 ? 1 : 32
    const out = gpu.put(4 * count)
    launch('blocks_kernel', blocks(count * lanes), kBlock, 1, gpu.put(x), 0, cols, r, c, cols / c, count, lanes, out, flags)
    expectNear(new Float32Array(gpu.get(out, 4 * count)), importance(tensor, { block: [r, c] }).data as Float32Array, 1e-6)
    const flagsOf = Uint8Array.from({ length: count }, (_, i) => (i * 7) % 3 & 1)
    const painted = gpu.put(rows * cols)
    launch('expand_kernel', blocks(rows * cols), kBlock, gpu.put(flagsOf), r, cols / c, c, rows * cols, painted)
    const want = Uint8Array.from({ length: rows * cols }, (_, i) => flagsOf[Math.floor(i / cols / r) * (cols / c) + Math.floor((i % cols) / c)] as number)
    expect(new Uint8Array(gpu.get(painted, rows * cols))).toEqual(want)
  }
})

test.each([[1, 5, 40], [3, 4, 100]] as const)('groups of [%d, %d, %d]: distances, and the largest of each', (outer, axis, inner) => {
  for (const schedule of schedules) {
    const run = files.runner(schedule)
    const { gpu, flags, launch } = files.open(run, 'select_mask')
    const n = outer * axis * inner
    const x = normals(2, n).map((v, i) => (i % 3 ? v : Math.round(v)))
    const tensor = { type: 'float32', dims: [outer, axis, inner], data: x } as const
    const at = gpu.put(x)
    const out = gpu.put(4 * axis)
    launch('median_kernel', axis, kBlock, at, axis, inner, outer * inner, out, flags)
    expectNear(new Float32Array(gpu.get(out, 4 * axis)), importance(tensor, { criterion: 'geometricMedian', axis: 1 }).data as Float32Array, 1e-6)
    for (const sparsity of full ? [0, 0.4, 1] : [0.4]) {
      const want = mask(tensor, { sparsity, scope: 'balanced', axis: 1 }).data as Uint8Array
      const kept = want.reduce((a, b) => a + b, 0) / axis
      const got = gpu.put(n)
      launch('balanced_kernel', axis, kBlock, at, axis, inner, outer * inner, kept, got, flags)
      expect(new Uint8Array(gpu.get(got, n))).toEqual(want)
    }
    const random = gpu.put(4 * n)
    launch('random_kernel', blocks(n), kBlock, 9, n, random)
    expect(new Float32Array(gpu.get(random, 4 * n))).toEqual((importance(tensor, { criterion: 'random', seed: 9 }).data as Float32Array).slice())
    if (outer === 1) expectBusy(run, 'random_kernel', 1.2)
  }
})

test.each([[0, 1], [1, 5], [8, 5]] as const)('fake quantization by blocks of %d along an axis of %d, with gradients', (block, axis) => {
  for (const schedule of schedules) {
    const run = files.runner(schedule)
    const { gpu, flags, launch } = files.open(run, 'quantize_train')
    const inner = 24
    const n = axis * inner
    const [x, dy] = [normals(3, n), normals(4, n)]
    const whole = axis === 1
    // Blocks lie along the last axis: there the geometry's axis is `inner`.
    const view = block > 1 ? { outer: axis, axis: inner, inner: 1, block } : { outer: 1, axis, inner, block: 0 }
    const want = fakeQuantize({ type: 'float32', dims: [axis, inner], data: x }, { bits: 4, symmetric: false, ...(block > 1 ? { blockSize: block } : whole ? {} : { axis: 0 }), grad: dy, learned: true })
    const scale = want.scale.data
    const zero = want.zeroPoint.data
    const many = view.block ? Math.ceil(view.axis / view.block) : view.axis
    const geometry = struct(...[n, view.axis, view.inner, view.block, many, view.outer, scale.length].map((v) => ['u32', v] as ['u32', number]), ['u8', Number(whole)])
    const form = struct(...[4, 0, 0, 15, 0, 0, 0].map((v) => ['u32', v] as ['u32', number]))
    const [dx, ddy, ds, dz, y, gx] = [gpu.put(x), gpu.put(dy), gpu.put(scale), gpu.put(zero), gpu.put(4 * n), gpu.put(4 * n)]
    launch('check_steps_kernel', blocks(scale.length), kBlock, ds, dz, form, scale.length, flags)
    launch('fake_kernel', blocks(n), kBlock, dx, geometry, ds, dz, form, y, ddy, gx, flags)
    expect(new Float32Array(gpu.get(y, 4 * n))).toEqual(want.y.data.slice())
    expect(new Float32Array(gpu.get(gx, 4 * n))).toEqual((want.gradX?.data as Float32Array).slice())
    const partial = gpu.put(16 * scale.length)
    const [gs, gz] = [gpu.put(4 * scale.length), gpu.put(4 * scale.length)]
    launch('fake_sums_kernel', blocks(scale.length * 32), kBlock, dx, ddy, geometry, ds, dz, form, 1, partial)
    launch('fake_finish_kernel', blocks(scale.length), kBlock, partial, scale.length, 1, 1, gs, gz)
    expectNear(new Float32Array(gpu.get(gs, 4 * scale.length)), want.gradScale?.data as Float32Array, 1e-5)
    expectNear(new Float32Array(gpu.get(gz, 4 * scale.length)), want.gradZeroPoint?.data as Float32Array, 1e-5)
    expect(new Int32Array(gpu.get(flags, 4))[0]).toBe(0)
    expectBusy(run, 'fake_kernel', 1.3)
  }
})

test('every kernel that holds inline assembly has run', () => expect(files.missing()).toEqual([]))
