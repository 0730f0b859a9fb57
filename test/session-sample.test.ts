import { Session } from '../lib'
import { agree, attribute, float, floats, graph, modelOf, type Input } from './graphs'

/** Images read between their pixels, against onnxruntime-node; `plan` names the step that does it. */
const places = (dims: readonly number[], seed: number): ReturnType<typeof floats> => {
  const t = floats(dims, seed)
  return { ...t, data: (t.data as Float32Array).map((v) => 1.3 * v) }
}

const modes = ['bilinear', 'nearest', 'bicubic'].flatMap((mode) => ['zeros', 'border', 'reflection'].flatMap((outside) => [0, 1].map((corners) => [mode, outside, corners] as const)))

describe.each(modes)('GridSample, %s, %s, align_corners %d', (mode, outside, corners) => {
  const attributes = { mode: attribute.string(mode), padding_mode: attribute.string(outside), align_corners: attribute.int(corners) }
  test.each([['few channels', 3], ['many', 21]])('%s', async (_, channels) => {
    const inputs: Input[] = [['x', 'float32', ['n', channels, 'h', 'w']], ['g', 'float32', ['n', 'a', 'b', 2]]]
    const of = modelOf(graph(inputs, {}, [['GridSample', ['x', 'g'], ['y'], attributes]], ['y']))
    const feeds = { x: floats([2, channels, 6, 5]), g: places([2, 4, 7, 2], 2) }
    await agree(of, feeds)
    const session = await Session.create(of, { threads: 1 })
    expect(session.plan({ x: [2, channels, 6, 5], g: [2, 4, 7, 2] }).steps.map((s) => s.op)).toContain('grid_sample')
    session.dispose()
  })
})

test('places that are no numbers, or far away, lie outside', async () => {
  const of = modelOf(graph([['x', 'float32', [1, 1, 2, 2]], ['g', 'float32', [1, 1, 5, 2]]], {}, [['GridSample', ['x', 'g'], ['y']]], ['y']))
  const session = await Session.create(of)
  const { y } = await session.run({ x: float([1, 1, 2, 2], 1, 2, 3, 4), g: float([1, 1, 5, 2], NaN, 0, 0, Infinity, -Infinity, 0, 1e30, -1e30, 0, 0) })
  expect(Array.from(y?.data as Float32Array)).toEqual([0, 0, 0, 0, 2.5])
  session.dispose()
})

const regions = float([3, 4], 1, 1, 9, 7, 0, 2, 5.5, 13, -3, -2, 30, 40)
const which = { type: 'int64' as const, dims: [3], data: BigInt64Array.of(1n, 0n, 1n) }
const cases = ['avg', 'max'].flatMap((mode) => ['half_pixel', 'output_half_pixel'].flatMap((how) => [0, 2].map((ratio) => [mode, how, ratio] as const)))

test.each(cases)('RoiAlign, %s, %s, sampling_ratio %d', async (mode, how, ratio) => {
  const attributes = {
    mode: attribute.string(mode), coordinate_transformation_mode: attribute.string(how), sampling_ratio: attribute.int(ratio),
    spatial_scale: attribute.float(0.5), output_height: attribute.int(3), output_width: attribute.int(2),
  } // prettier-ignore
  const inputs: Input[] = [['x', 'float32', ['n', 5, 'h', 'w']], ['r', 'float32', ['m', 4]], ['b', 'int64', ['m']]]
  const of = modelOf(graph(inputs, {}, [['RoiAlign', ['x', 'r', 'b'], ['y'], attributes]], ['y']))
  await agree(of, { x: floats([2, 5, 8, 6]), r: regions, b: which })
  const session = await Session.create(of, { threads: 1 })
  expect(session.plan({ x: [2, 5, 8, 6], r: [3, 4], b: [3] }).steps.map((s) => s.op)).toContain('roi_align')
  session.dispose()
})

test('a region of an image that is not there is an error', async () => {
  const of = modelOf(graph([['x', 'float32', [1, 2, 4, 4]], ['r', 'float32', [1, 4]], ['b', 'int64', [1]]], {}, [['RoiAlign', ['x', 'r', 'b'], ['y']]], ['y']))
  const session = await Session.create(of)
  const feeds = { x: floats([1, 2, 4, 4]), r: float([1, 4], 0, 0, 2, 2) }
  await expect(session.run({ ...feeds, b: { type: 'int64', dims: [1], data: BigInt64Array.of(1n) } })).rejects.toMatchObject({ name: 'WhittleError' })
  await session.run({ ...feeds, b: { type: 'int64', dims: [1], data: BigInt64Array.of(0n) } })
  session.dispose()
})

test.each([
  ['GridSample', [[1, 2, 4, 4], [1, 3, 3, 3]]],
  ['GridSample', [[1, 2, 4, 4], [2, 3, 3, 2]]],
  ['RoiAlign', [[1, 2, 4, 4], [3, 5], [3]]],
  ['RoiAlign', [[1, 2, 4, 4], [3, 4], [2]]],
] as const)('%s of %j is refused by name', async (op, dims) => {
  const inputs = dims.map((d, i): Input => [`x${i}`, i === 2 ? 'int64' : 'float32', d])
  const build = Session.create(modelOf(graph(inputs, {}, [[op, inputs.map(([n]) => n), ['y']]], ['y'])))
  await expect(build).rejects.toMatchObject({ name: 'WhittleError', message: expect.stringContaining(op) as string })
})
