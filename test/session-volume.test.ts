import { compress, quantizeStatic, Session, type Attribute, type Tensor } from '../lib'
import { agree, attribute, floats, graph, ints, modelOf, type Step, type Values } from './graphs'

const list = (...v: readonly number[]): Attribute => attribute.ints([...v])
const same = (v: string): Attribute => attribute.string(v)
const kDims = ['n', 'c', 'd', 'h', 'w']

/** Runs steps on maps of the sizes, of one batch and of three. */
async function check(steps: readonly Step[], constants: Values, channels: number, sizes: readonly (readonly number[])[], opset = 17): Promise<void> {
  const rank = (sizes[0] as readonly number[]).length + 2
  const dims = kDims.slice(0, rank).map((d, i) => (i === 1 ? channels : d))
  const model = modelOf(graph([['x', 'float32', dims]], constants, steps, ['y']), opset)
  await agree(model, ...sizes.flatMap((s, i) => [1, 3].map((n) => ({ x: floats([n, channels, ...s], i + 2) }))))
}

type Case = readonly [groups: number, ic: number, oc: number, kernel: readonly number[], attributes: Record<string, Attribute>, sizes: readonly (readonly number[])[]]
const convolutions: Readonly<Record<string, Case>> = {
  'by rows': [1, 5, 7, [3, 3, 3], { pads: list(1, 1, 1, 1, 1, 1) }, [[4, 9, 8], [1, 7, 9], [2, 6, 6]]],
  'by tiles': [1, 16, 24, [3, 3, 3], { pads: list(1, 1, 1, 1, 1, 1) }, [[3, 9, 8], [1, 12, 12]]],
  'padding on all sides, strides': [1, 3, 6, [3, 2, 4], { pads: list(2, 0, 1, 1, 1, 3), strides: list(2, 1, 3) }, [[5, 6, 11]]],
  'dilations': [1, 4, 4, [3, 3, 2], { dilations: list(2, 3, 1), pads: list(2, 3, 0, 1, 2, 1) }, [[5, 8, 7], [2, 4, 6]]],
  'more padding than image': [1, 3, 5, [3, 3, 3], { dilations: list(6, 2, 2), pads: list(6, 2, 2, 6, 2, 2) }, [[2, 8, 8], [9, 4, 9]]],
  'groups': [3, 4, 6, [3, 3, 3], { pads: list(1, 1, 1, 1, 1, 1) }, [[3, 7, 8]]],
  'wide groups': [2, 20, 17, [2, 3, 3], { strides: list(1, 2, 1) }, [[3, 7, 8]]],
  'depthwise': [21, 1, 1, [3, 3, 3], { pads: list(1, 1, 1, 1, 1, 1), strides: list(1, 2, 2) }, [[4, 9, 10], [1, 5, 5]]],
  'depthwise, dilated': [6, 1, 1, [2, 5, 3], { dilations: list(2, 1, 1) }, [[4, 9, 10]]],
  'depth alone': [1, 6, 8, [3, 1, 1], { pads: list(1, 0, 0, 1, 0, 0), strides: list(2, 1, 1) }, [[5, 6, 7]]],
  'depth alone, depthwise': [8, 1, 1, [5, 1, 1], { pads: list(2, 0, 0, 2, 0, 0) }, [[5, 6, 7], [1, 4, 4]]],
  'planes alone': [1, 6, 8, [1, 3, 3], { pads: list(0, 1, 1, 0, 1, 1) }, [[4, 6, 7]]],
  'one place, strides': [1, 6, 8, [1, 1, 1], { strides: list(2, 2, 2) }, [[5, 6, 7]]],
  'padding alone': [1, 3, 4, [1, 1, 1], { pads: list(1, 0, 2, 1, 1, 0) }, [[3, 4, 5]]],
  'patches': [1, 3, 32, [2, 4, 4], { strides: list(2, 4, 4) }, [[4, 16, 12], [5, 9, 8]]],
  'SAME_UPPER': [1, 3, 4, [3, 2, 4], { auto_pad: same('SAME_UPPER'), strides: list(2, 2, 3) }, [[5, 7, 8], [6, 6, 9]]],
  'SAME_LOWER': [1, 3, 4, [2, 4, 3], { auto_pad: same('SAME_LOWER'), strides: list(1, 3, 2) }, [[5, 7, 8]]],
  'VALID': [1, 3, 4, [2, 3, 3], { auto_pad: same('VALID') }, [[5, 7, 8]]],
  'one axis': [2, 3, 4, [3], { pads: list(2, 1), strides: list(2), dilations: list(3) }, [[17]]],
  'one axis, SAME_LOWER': [1, 3, 4, [4], { auto_pad: same('SAME_LOWER'), strides: list(3) }, [[17]]],
}

test.each(Object.entries(convolutions))('Conv, %s', async (_, [group, ic, oc, kernel, attributes, sizes]) => {
  const constants = { w: floats([oc * group, ic, ...kernel], 3), b: floats([oc * group], 4), s: floats([oc * group, ...kernel.map(() => 1)], 5) }
  // What follows folds into the step.
  const steps: Step[] = [['Conv', ['x', 'w', 'b'], ['a'], { ...attributes, group: attribute.int(group) }], ['Mul', ['a', 's'], ['m']], ['Sigmoid', ['m'], ['y']]]
  await check(steps, constants, group * ic, sizes)
})

test('few outputs and dilated windows, with residuals', async () => {
  const width = (tap: number, rate: number, rank: number): Record<string, Attribute> => ({
    dilations: list(...Array<number>(rank).fill(rate)),
    pads: list(...Array<number>(2 * rank).fill((tap - 1) * rate / 2)),
  })
  for (const rank of [1, 2]) {
    const taps = (k: number): number[] => Array<number>(rank).fill(k)
    const constants = {
      ...{ a: floats([20, 9, ...taps(3)], 1), b: floats([20], 2), c: floats([20, 20, ...taps(3)], 3) },
      ...{ d: floats([2, 20, ...taps(5)], 4), e: floats([2], 5), f: floats([2, 2, ...taps(3)], 6) },
    }
    const steps: Step[] = [
      ['Conv', ['x', 'a', 'b'], ['wide'], width(3, 3, rank)],
      ['Conv', ['wide', 'c'], ['more'], width(3, 2, rank)],
      ['Add', ['more', 'wide'], ['sum']],
      ['Relu', ['sum'], ['on']],
      ['Conv', ['on', 'd', 'e'], ['few'], width(5, 1, rank)],
      ['Conv', ['few', 'f'], ['again'], width(3, 3, rank)],
      ['Add', ['again', 'few'], ['both']],
      ['Sigmoid', ['both'], ['y']],
    ]
    const model = modelOf(graph([['x', 'float32', ['n', 9, ...taps(0).map((_, i) => `s${i}`)]]], constants, steps, ['y']))
    const sizes = rank === 1 ? [[700], [23]] : [[21, 40], [30, 19]]
    await agree(model, ...sizes.flatMap((s, i) => [1, 3].map((n) => ({ x: floats([n, 9, ...s], i + 2) }))))
    const session = await Session.create(model)
    expect(Object.values(session.plan({ x: [1, 9, ...(sizes[0] as number[])] }).choices)).toEqual(['rows', 'rows', 'narrow', 'narrow'])
    session.dispose()
  }
})

const transposed: Readonly<Record<string, Case>> = {
  'windows apart': [1, 6, 4, [2, 2, 2], { strides: list(2, 2, 2) }, [[3, 4, 5]]],
  'windows apart, cut and extended': [1, 3, 4, [2, 3, 2], { strides: list(2, 3, 2), pads: list(1, 0, 1, 0, 1, 0), output_padding: list(0, 2, 1) }, [[3, 4, 5]]],
  'windows that overlap': [1, 5, 3, [3, 3, 4], { strides: list(2, 1, 2), pads: list(1, 1, 0, 1, 0, 2), output_padding: list(1, 0, 1) }, [[3, 4, 5], [1, 1, 1]]],
  'dilations': [1, 3, 4, [2, 3, 2], { dilations: list(3, 2, 1), strides: list(1, 2, 2) }, [[3, 4, 5]]],
  'output_shape': [1, 3, 4, [3, 3, 3], { strides: list(2, 3, 2), output_shape: list(6, 10, 9) }, [[3, 4, 5]]],
  'depth alone': [1, 3, 4, [4, 1, 1], { strides: list(2, 1, 1), pads: list(1, 0, 0, 1, 0, 0) }, [[3, 4, 5]]],
  'planes alone': [1, 3, 4, [1, 2, 2], { strides: list(1, 2, 2) }, [[3, 4, 5]]],
  'two axes, extended': [1, 3, 4, [2, 2], { strides: list(2, 2), output_padding: list(1, 1) }, [[4, 5]]],
  'one axis': [1, 3, 4, [5], { strides: list(3), pads: list(1, 2), output_padding: list(1) }, [[7]]],
}

test.each(Object.entries(transposed))('ConvTranspose, %s', async (_, [group, ic, oc, kernel, attributes, sizes]) => {
  const constants = { w: floats([ic * group, oc, ...kernel], 3), b: floats([oc * group], 4) }
  await check([['ConvTranspose', ['x', 'w', 'b'], ['a'], { ...attributes, group: attribute.int(group) }], ['Relu', ['a'], ['y']]], constants, group * ic, sizes)
})

const pools: readonly (readonly [op: string, attributes: Record<string, Attribute>, sizes: readonly number[], opset?: number])[] = [
  ['MaxPool', { kernel_shape: list(3, 3, 3), strides: list(2, 2, 2), pads: list(1, 1, 1, 1, 1, 1) }, [5, 8, 9]],
  ['MaxPool', { kernel_shape: list(2, 3, 2), strides: list(2, 2, 3), ceil_mode: attribute.int(1) }, [5, 8, 9]],
  ['MaxPool', { kernel_shape: list(2, 2, 3), dilations: list(2, 3, 1), pads: list(1, 0, 0, 0, 1, 2) }, [5, 8, 9]],
  ['MaxPool', { kernel_shape: list(1, 2, 2), strides: list(1, 2, 2) }, [3, 6, 6]],
  ['MaxPool', { kernel_shape: list(2, 1, 1), strides: list(2, 1, 1) }, [4, 3, 5]],
  ['MaxPool', { kernel_shape: list(1, 1, 1) }, [2, 3, 4]],
  ['MaxPool', { kernel_shape: list(3, 2, 3), strides: list(2, 2, 1), auto_pad: same('SAME_LOWER') }, [4, 5, 6]],
  ['AveragePool', { kernel_shape: list(3, 3, 2), strides: list(2, 1, 2), pads: list(1, 1, 0, 1, 1, 1) }, [5, 6, 7]],
  ['AveragePool', { kernel_shape: list(3, 3, 2), strides: list(2, 1, 2), pads: list(1, 1, 0, 1, 1, 1), count_include_pad: attribute.int(1) }, [5, 6, 7]],
  ['AveragePool', { kernel_shape: list(3, 2, 2), strides: list(2, 2, 2), ceil_mode: attribute.int(1) }, [6, 7, 4]],
  ['AveragePool', { kernel_shape: list(2, 2, 3), dilations: list(2, 1, 3), strides: list(1, 2, 1) }, [5, 6, 9], 19],
  ['AveragePool', { kernel_shape: list(3, 2, 3), strides: list(2, 2, 1), auto_pad: same('SAME_UPPER') }, [4, 5, 6]],
  ['AveragePool', { kernel_shape: list(3), strides: list(2), pads: list(1, 1), count_include_pad: attribute.int(1) }, [9]],
  ['LpPool', { kernel_shape: list(2, 3, 2), strides: list(1, 2, 1), pads: list(1, 0, 0, 0, 1, 1), p: attribute.int(3) }, [3, 5, 4]],
  ['GlobalAveragePool', {}, [3, 5, 4]],
  ['GlobalMaxPool', {}, [3, 5, 4]],
  ['GlobalLpPool', {}, [3, 5, 4]],
]

test.each(pools.map((p, i) => [i, ...p] as const))('pool %i: %s', async (...[, op, attributes, sizes, opset]) => {
  await check([[op, ['x'], ['y'], attributes]], {}, 5, [sizes], opset)
})

const around: Readonly<Record<string, readonly [steps: readonly Step[], constants: Values]>> = {
  'nearest resizing': [[['Resize', ['x', '', 's'], ['y'], { mode: same('nearest'), coordinate_transformation_mode: same('asymmetric'), nearest_mode: same('floor') }]], { s: { type: 'float32', dims: [5], data: Float32Array.of(1, 1, 2, 1.5, 3) } }],
  'linear resizing': [[['Resize', ['x', '', 's'], ['y'], { mode: same('linear') }]], { s: { type: 'float32', dims: [5], data: Float32Array.of(1, 1, 2, 1.5, 0.5) } }],
  'linear resizing of planes': [[['Resize', ['x', '', 's'], ['y'], { mode: same('linear') }]], { s: { type: 'float32', dims: [5], data: Float32Array.of(1, 1, 1, 1.5, 2) } }],
  'normalizations': [
    [['BatchNormalization', ['x', 'g', 'b', 'm', 'v'], ['p']], ['InstanceNormalization', ['p', 'g', 'b'], ['q']], ['PRelu', ['q', 'slope'], ['r']], ['Pad', ['r', 'pads'], ['y'], { mode: same('reflect') }]],
    { g: floats([4], 2), b: floats([4], 3), m: floats([4], 4), v: { type: 'float32', dims: [4], data: Float32Array.of(1, 2, 0.5, 1) }, slope: floats([4, 1, 1, 1], 5), pads: ints(0, 0, 1, 1, 0, 0, 0, 1, 0, 2) },
  ],
  'a residual': [
    [['Conv', ['x', 'w'], ['c'], { pads: list(1, 1, 1, 1, 1, 1) }], ['BatchNormalization', ['c', 'g', 'b', 'm', 'v'], ['p']], ['Add', ['p', 'x'], ['a']], ['Relu', ['a'], ['y']]],
    { w: floats([4, 4, 3, 3, 3], 1), g: floats([4], 2), b: floats([4], 3), m: floats([4], 4), v: { type: 'float32', dims: [4], data: Float32Array.of(1, 2, 0.5, 1) } },
  ],
  'a narrow one before a depthwise one': [
    [['Conv', ['x', 'w'], ['c']], ['Relu', ['c'], ['r']], ['Conv', ['r', 'u'], ['y'], { pads: list(1, 1, 1, 1, 1, 1), group: attribute.int(24) }]],
    { w: floats([24, 4, 1, 1, 1], 1), u: floats([24, 1, 3, 3, 3], 2) },
  ],
}

test.each(Object.entries(around))('maps of three axes: %s', async (_, [steps, constants]) => {
  await check(steps, constants, 4, [[3, 4, 6], [2, 8, 4]])
})

const codes = (dims: readonly number[], type: 'int8' | 'uint8', seed: number): Tensor => {
  const data = floats(dims, seed).data as Float32Array
  return type === 'int8' ? { type, dims, data: Int8Array.from(data, (v) => v * 127) } : { type, dims, data: Uint8Array.from(data, (v) => 128 + v * 127) }
}
const one = (v: number): Tensor => ({ type: 'float32', dims: [], data: Float32Array.of(v) })

test('QLinearConv and ConvInteger over three axes: the padding is the zero point', async () => {
  const zero = (v: number): Tensor => ({ type: 'uint8', dims: [], data: Uint8Array.of(v) })
  const constants = { w: codes([20, 3, 3, 3, 3], 'int8', 3), ws: one(0.02), wz: { type: 'int8', dims: [], data: Int8Array.of(0) } as Tensor, xs: one(0.03), xz: zero(100), ys: one(0.5), yz: zero(120) }
  const pads = { pads: list(1, 1, 1, 1, 1, 1) }
  const steps: Step[] = [['QLinearConv', ['x', 'xs', 'xz', 'w', 'ws', 'wz', 'ys', 'yz'], ['q'], pads], ['DequantizeLinear', ['q', 'ys', 'yz'], ['y']], ['ConvInteger', ['x', 'w', 'xz', 'wz'], ['i'], pads]]
  const model = modelOf(graph([['x', 'uint8', ['n', 3, 'd', 'h', 'w']]], constants, steps, ['y', ['i', 'int32', null]]))
  await agree(model, { x: codes([1, 3, 4, 7, 8], 'uint8', 6) }, { x: codes([3, 3, 1, 6, 5], 'uint8', 7) })
  const session = await Session.create(model)
  expect(session.plan({ x: [1, 3, 4, 7, 8] }).steps.map((s) => s.op)).toContain('conv_int8')
  session.dispose()
})

test('four axes and negative padding are refused by name', async () => {
  const four = modelOf(graph([['x', 'float32', [1, 2, 3, 3, 3, 3]]], { w: floats([2, 2, 2, 2, 2, 2]) }, [['Conv', ['x', 'w'], ['y']]], ['y']))
  await expect(Session.create(four)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_OP', message: expect.stringContaining('a window over 4 axes') as string })
  const cut = modelOf(graph([['x', 'float32', [1, 2, 5, 5, 5]]], { w: floats([2, 2, 2, 2, 2]) }, [['Conv', ['x', 'w'], ['y'], { pads: list(-1, 0, 0, 0, 0, 0) }]], ['y']))
  await expect(Session.create(cut)).rejects.toMatchObject({ code: 'ERR_UNSUPPORTED_OP', message: expect.stringContaining('negative padding') as string })
})

test.each([[1, 8, 8], [8, 1, 1]])('a convolution of %i groups is one step over the map', async (group, ic, oc) => {
  const constants = { w: floats([oc * group, ic, 3, 3, 3], 3) }
  const model = modelOf(graph([['x', 'float32', ['n', 8, 'd', 'h', 'w']]], constants, [['Conv', ['x', 'w'], ['y'], { group: attribute.int(group), pads: list(1, 1, 1, 1, 1, 1) }]], ['y']))
  const session = await Session.create(model)
  expect(session.plan({ x: [1, 8, 4, 7, 8] }).steps.map((s) => s.op)).toEqual(['copy', 'conv_volume', 'copy'])
  session.dispose()
})

test('nets of volumes are quantized, pruned, factorized and folded', async () => {
  const pads = { pads: list(1, 1, 1, 1, 1, 1) }
  const constants = { w: floats([16, 8, 3, 3, 3], 1), u: floats([16, 4, 2, 2, 2], 2), b: floats([16], 3), ...{ m: floats([16], 4), v: { type: 'float32', dims: [16], data: new Float32Array(16).fill(0.8) } as Tensor } }
  const steps: Step[] = [['Conv', ['x', 'w', 'b'], ['c'], pads], ['BatchNormalization', ['c', 'b', 'b', 'm', 'v'], ['n']], ['Relu', ['n'], ['r']], ['MaxPool', ['r'], ['p'], { kernel_shape: list(2, 2, 2), strides: list(2, 2, 2) }], ['ConvTranspose', ['p', 'u'], ['y'], { strides: list(2, 2, 2) }]]
  const model = modelOf(graph([['x', 'float32', ['n', 8, 4, 8, 8]]], constants, steps, ['y']))
  const feeds = { x: floats([2, 8, 4, 8, 8], 5) }
  const integer = await quantizeStatic(model, [feeds])
  const session = await Session.create(integer)
  expect(session.plan({ x: [2, 8, 4, 8, 8] }).steps.map((s) => s.op)).toContain('conv_int8')
  session.dispose()
  for (const step of [{ step: 'prune', structure: 'filter', sparsity: 0.25 }, { step: 'factorize', method: 'tucker', energy: 0.5 }, { step: 'quantize', bits: 4 }] as const) {
    const { model: small, report } = await compress(model, { steps: [{ step: 'fold' }, step] }, { calibration: [feeds] })
    expect(report.steps[1]?.layers.some((l) => l.action !== 'kept')).toBe(true)
    await agree(small, feeds)
  }
})
