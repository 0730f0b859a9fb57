// The interpreter itself, over PTX written by hand: what instructions answer, and what it refuses.
import { bfloatBits, fma64, fmaExact, fmaNarrow, halfBits, narrow, ofBfloat, ofHalf, rint } from './floats'
import { Gpu, type Schedule } from './machine'
import { kGlobalBase, Memory } from './memory'
import { kernelName, parse } from './parse'

/** A kernel of one block: `body` leaves %v of each thread, which is stored at out[tid]; %i is the thread, %in a second buffer. */
function source(body: string, type = 'u32', shared = ''): string {
  return `
.version 9.0
.target sm_80
.address_size 64
.entry test(.param .u64 p_out, .param .u64 p_in)
{
  .reg .pred %p<8>; .reg .b16 %h<8>; .reg .b32 %r<32>; .reg .f32 %f<16>; .reg .f64 %d<16>; .reg .b64 %rd<16>;
  .reg .b32 %i; .reg .b64 %out; .reg .b64 %in; .reg .b${type.slice(1)} %v;
  ${shared}
  ld.param.u64 %out, [p_out];
  ld.param.u64 %in, [p_in];
  mov.u32 %i, %tid.x;
  ${body}
  mul.wide.u32 %rd15, %i, ${Number(type.slice(1)) / 8};
  add.s64 %rd14, %out, %rd15;
  st.global.${type} [%rd14], %v;
  ret;
}`
}
const memory = new Memory('global', kGlobalBase, 1 << 16)

interface Run {
  threads?: number
  type?: 'u32' | 'f32' | 'f64' | 'u64'
  input?: ArrayBufferView
  shared?: string
  schedule?: Schedule
  grid?: number
}
function run(
  body: string,
  { threads = 32, type = 'u32', input = new Uint32Array(1), shared = '', schedule = {}, grid = 1 }: Run = {},
): { out: number[]; gpu: Gpu; traffic: { units: number; ideal: number; space: string; instruction: string }[] } {
  const gpu = new Gpu(parse(source(body, type, shared)), schedule, memory)
  const width = Number(type.slice(1)) / 8
  const out = gpu.put(threads * width)
  const profile = gpu.launch('test', grid, threads, [out, gpu.put(input)])
  const bytes = gpu.get(out, threads * width)
  const of = { u32: Uint32Array, f32: Float32Array, f64: Float64Array, u64: BigUint64Array }[type]
  return { out: [...(new of(bytes) as Uint32Array)], gpu, traffic: [...profile.traffic.values()] }
}
const f32 = (x: number): string => `0f${new Uint32Array(Float32Array.of(x).buffer)[0]!.toString(16).padStart(8, '0')}`
const f64 = (x: number): string =>
  `0d${new BigUint64Array(Float64Array.of(x).buffer)[0]!.toString(16).padStart(16, '0')}`
/** One value, made by every lane. */
const one = (body: string, type: 'u32' | 'f32' | 'f64' | 'u64' = 'u32'): number => {
  const { out } = run(body, { threads: 1, type })
  return out[0] as number
}

test('fused products round once, in every direction', () => {
  let state = 7
  const wrong: number[][] = []
  const random = (): number =>
    ((state = (state * 1103515245 + 12345) % 2 ** 31) / 2 ** 31 - 0.5) * 2 ** ((state % 60) - 30)
  for (let i = 0; i < 4000; i++) {
    const [a, b, c] = [random(), random(), i % 3 ? random() : 0] as const
    const d = i % 2 ? c : -(a * b) * (1 + (i % 5) * 2 ** -52)
    if (fma64(a, b, d) !== fmaExact(a, b, d)) wrong.push([a, b, d])
  }
  expect(wrong).toEqual([])
  for (const [a, b, c] of [[1e-200, 1e-150, 1e-320], [1.5, 5e-324, 0], [1e300, 1e300, -1e300], [2 ** -600, 2 ** -500, 2 ** -1074]] as const) expect(fma64(a, b, c)).toBe(fmaExact(a, b, c)) // prettier-ignore
  // A tie of float32 that only the third operand's last bit breaks: a rounding to double before would lose it.
  const tie = 1 + 2 ** -24
  expect(fmaNarrow(1, 1, 2 ** -24, 'f32', 'rn')).toBe(1)
  expect(fmaNarrow(Math.fround(1 + 2 ** -12), Math.fround(1 + 2 ** -12), 2 ** -80, 'f32', 'rn')).toBe(
    Math.fround(1 + 2 ** -11 + 2 ** -23),
  )
  expect(fmaNarrow(Math.fround(1 + 2 ** -12), Math.fround(1 + 2 ** -12), -(2 ** -80), 'f32', 'rn')).toBe(1 + 2 ** -11)
  expect([narrow(tie, 'f32', 'rp'), narrow(tie, 'f32', 'rm'), narrow(-tie, 'f32', 'rz')]).toEqual([1 + 2 ** -23, 1, -1])
  expect(one(`fma.rm.f32 %v, ${f32(1)}, ${f32(1)}, ${f32(-(2 ** -40))};`, 'f32')).toBe(1 - 2 ** -24)
  expect(one(`fma.rn.f64 %v, ${f64(1 + 2 ** -52)}, ${f64(1 - 2 ** -53)}, ${f64(-1)};`, 'f64')).toBe(
    2 ** -52 - 2 ** -53 - 2 ** -105,
  )
})

test('floats of 16 bits are widened exactly and narrowed to nearest even', () => {
  const wrong: number[] = []
  for (let h = 0; h < 65536; h++) {
    if (((h & 0x7c00) !== 0x7c00 || !(h & 0x3ff)) && halfBits(ofHalf(h)) !== h) wrong.push(h)
    if (((h & 0x7f80) !== 0x7f80 || !(h & 0x7f)) && bfloatBits(ofBfloat(h)) !== h) wrong.push(h)
  }
  expect(wrong).toEqual([])
  const half = (x: number): number => one(`cvt.rn.f16.f32 %h1, ${f32(x)}; cvt.u32.u16 %v, %h1;`)
  expect([
    half(65519),
    half(65520),
    half(2 ** -25),
    half(2 ** -24 * 1.5),
    half(1 + 2 ** -11),
    half(-0),
    half(NaN),
  ]).toEqual([0x7bff, 0x7c00, 0, 2, 0x3c00, 0x8000, 0x7fff])
  expect(one(`cvt.rn.bf16x2.f32 %v, ${f32(1)}, ${f32(-2)};`)).toBe(0x3f80c000)
})

test('conversions clamp, round and treat NaN as the device does', () => {
  const to = (op: string, x: number): number => one(`cvt.${op}.f32 %v, ${f32(x)};`) | 0
  expect([
    to('rni.s32', 2.5),
    to('rni.s32', -3.5),
    to('rzi.s32', -3.9),
    to('rmi.s32', -3.1),
    to('rni.s32', 3e9),
    to('rni.s32', -3e9),
    to('rni.s32', NaN),
  ]).toEqual([2, -4, -3, -4, 2147483647, -2147483648, 0])
  expect(one(`cvt.rzi.s32.f64 %v, ${f64(NaN)};`)).toBe(0x80000000)
  expect(one(`cvt.sat.f32.f32 %v, ${f32(NaN)};`, 'f32')).toBe(0)
  expect(one(`cvt.rn.f32.u32 %v, 16777217;`, 'f32')).toBe(16777216)
  expect(one(`mov.u64 %rd1, 9007199791611905; cvt.rn.f32.u64 %v, %rd1;`, 'f32')).toBe(2 ** 53 + 2 ** 30)
  expect([rint(0.5), rint(1.5), rint(-2.5)]).toEqual([0, 2, -2])
})

test('minima, maxima and comparisons know NaN and the zeros', () => {
  const [nan, one1] = [f32(NaN), f32(1)]
  expect(one(`min.f32 %v, ${nan}, ${one1};`, 'f32')).toBe(1)
  expect(one(`max.NaN.f32 %f1, ${nan}, ${one1}; mov.b32 %v, %f1;`)).toBe(0x7fffffff)
  expect(Object.is(one(`min.f32 %v, ${f32(0)}, ${f32(-0)};`, 'f32'), -0)).toBe(true)
  const compare = (op: string): number => one(`setp.${op}.f32 %p1, ${nan}, ${one1}; selp.u32 %v, 1, 0, %p1;`)
  expect(['eq', 'ne', 'lt', 'ge', 'nan', 'num', 'neu', 'ltu'].map(compare)).toEqual([0, 0, 0, 0, 1, 0, 1, 1])
})

test('integers wrap, widen and shift as their types say', () => {
  expect(one('mul.hi.u32 %v, 4294967295, 4294967295;')).toBe(4294967294)
  expect(one('mad.lo.s32 %v, 65537, 65537, -1;')).toBe(131072)
  expect(one('mul.wide.s32 %rd1, -3, 5; shr.s64 %rd2, %rd1, 1; cvt.u32.u64 %v, %rd2;') | 0).toBe(-8)
  expect(one('shr.s32 %v, -8, 33;') | 0).toBe(-1)
  expect(one('shl.b32 %v, 1, 32;')).toBe(0)
  expect(one('mov.u32 %r1, 0x80ff017f; dp4a.s32.s32 %v, %r1, 0x01010101, 5;') | 0).toBe(127 + 1 - 1 - 128 + 5)
  expect(one('mov.u32 %r1, 0x80ff017f; dp4a.u32.u32 %v, %r1, 0x01010101, 5;')).toBe(127 + 1 + 255 + 128 + 5)
  expect(one('prmt.b32 %v, 0x33221100, 0x77665544, 0x7250;')).toBe(0x77225500)
  expect(one('lop3.b32 %v, 12, 10, 6, 0x96;')).toBe(12 ^ 10 ^ 6)
  expect(one('bfe.s32 %v, 0xf0, 4, 4;') | 0).toBe(-1)
  expect(one('mov.b64 %rd1, {7, 9}; mov.b64 %rd2, {5, 6}; bfi.b64 %rd3, %rd2, %rd1, 32, 32; mov.b64 {%r1, %r2}, %rd3; mad.lo.s32 %v, %r2, 100, %r1;')).toBe(507)
  expect(one('mov.b64 %rd1, {7, 9}; mov.b64 {_, %v}, %rd1;')).toBe(9)
  expect(one('mov.b64 %rd1, {5, 0x80000001}; mov.b64 %rd2, {6, 0x3ff00000}; copysign.f64 %rd3, %rd1, %rd2; mov.b64 {_, %v}, %rd3;') >>> 0).toBe(0xbff00000)
  expect(one('min.s32 %r1, -1, 1; max.u32 %v, %r1, 1;')).toBe(4294967295)
})

test('approximate division', () => {
  expect(one(`div.approx.ftz.f32 %v, ${f32(7)}, ${f32(-2)};`, 'f32')).toBeCloseTo(-3.5, 5)
  expect(one(`div.approx.f32 %v, ${f32(1)}, ${f32(2 ** 127)};`, 'f32')).toBe(0)
  expect(one(`div.approx.f32 %v, ${f32(Infinity)}, ${f32(2 ** 127)};`, 'f32')).toBeNaN()
  expect(one(`div.approx.ftz.f32 %v, ${f32(1)}, ${f32(2 ** -130)};`, 'f32')).toBe(Infinity)
})

test('lanes of a warp exchange, vote and match', () => {
  const lanes = Array.from({ length: 32 }, (_, i) => i)
  expect(run('shfl.sync.bfly.b32 %v, %i, 5, 31, -1;').out).toEqual(lanes.map((l) => l ^ 5))
  expect(run('shfl.sync.up.b32 %v|%p1, %i, 3, 0, -1;').out).toEqual(lanes.map((l) => (l < 3 ? l : l - 3)))
  expect(run('shfl.sync.down.b32 %r1|%p1, %i, 1, 0x181f, -1; selp.u32 %v, %r1, 99, %p1;').out).toEqual(
    lanes.map((l) => (l % 8 === 7 ? 99 : l + 1)),
  )
  expect(run('and.b32 %r1, %i, 1; setp.eq.u32 %p1, %r1, 0; vote.sync.ballot.b32 %v, %p1, -1;').out[0]).toBe(0x55555555)
  expect(run('shr.u32 %r1, %i, 3; match.any.sync.b32 %v, %r1, -1;').out[9]).toBe(0xff00)
  expect(run('redux.sync.add.u32 %v, %i, -1;').out[3]).toBe(496)
})

test('both sides of a branch run, lanes meet again, and atomics add up', () => {
  const body = `
  and.b32 %r1, %i, 3;
  mov.u32 %v, 0;
  mov.u32 %r2, 0;
Loop:
  setp.ge.u32 %p1, %r2, %r1;
  @%p1 bra Done;
  add.s32 %r2, %r2, 1;
  add.s32 %v, %v, 10;
  bra.uni Loop;
Done:
  setp.lt.u32 %p2, %i, 16;
  @%p2 bra Low;
  add.s32 %v, %v, 1;
  bra.uni Meet;
Low:
  add.s32 %v, %v, 2;
Meet:
  activemask.b32 %r3;
  setp.ne.u32 %p3, %r3, 0xffffffff;
  @%p3 trap;
  atom.global.add.u32 %r4, [%in], %v;`
  const { out, gpu } = run(body)
  expect(out).toEqual(Array.from({ length: 32 }, (_, l) => (l & 3) * 10 + (l < 16 ? 2 : 1)))
  expect(gpu).toBeDefined()
})

const kShare = '.shared .align 4 .b8 box[4096];'
const kStore = 'mov.u32 %r1, box; mad.lo.s32 %r2, %i, 4, %r1; st.shared.u32 [%r2], %i;'
const kLoad = 'sub.s32 %r3, 127, %i; mad.lo.s32 %r4, %r3, 4, %r1; ld.shared.u32 %v, [%r4];'

test('a barrier orders warps; without it there is a race in every order', () => {
  for (const order of ['forward', 'reversed', 'random'] as const) {
    const options = { threads: 128, shared: kShare, schedule: { order } }
    expect(run(`${kStore} bar.sync 0; ${kLoad}`, options).out).toEqual(Array.from({ length: 128 }, (_, i) => 127 - i))
    expect(() => run(`${kStore} ${kLoad}`, options)).toThrow(/race: |uninitialized: /)
  }
  expect(() => run(`st.global.u32 [%in], 1; mov.u32 %v, 0;`, { grid: 2, threads: 1 })).toThrow(
    /race: two warps or blocks write/,
  )
  expect(() => run(`st.global.u32 [%in], %i; mov.u32 %v, 0;`)).toThrow(/two lanes of one store write different values/)
})

test('what the device leaves undefined is an error by name', () => {
  const cases: [string, RegExp][] = [
    ['ld.global.u32 %v, [%in+4];', /out of bounds: 4 bytes at global address .*, 1 behind the end/],
    ['ld.global.u32 %v, [%out];', /uninitialized: 4 bytes of global memory/],
    ['ld.global.u32 %v, [%in+2];', /misaligned: 4 bytes/],
    ['ld.global.v2.u32 {%v, %r1}, [%in+4];', /misaligned: 8 bytes/],
    ['st.global.u32 [%in], 5; ld.global.nc.u32 %v, [%in];', /race: ld.global.nc/],
    [
      'setp.lt.u32 %p1, %i, 9; @%p1 bra Some; bra.uni End; Some: shfl.sync.bfly.b32 %r1, %i, 1, 31, -1; End: mov.u32 %v, 0;',
      /divergence: lanes 0xfffffe00/,
    ],
    [
      'setp.lt.u32 %p1, %i, 9; @%p1 bra Some; bra.uni End; Some: bar.sync 0; End: mov.u32 %v, 0;',
      /a barrier that some lanes of a warp do not reach/,
    ],
    ['@%p7 mov.u32 %v, 1;', /a predicate that nobody wrote/],
    ['Loop: bra.uni Loop;', /never ends/],
  ]
  for (const [body, message] of cases) expect(() => run(body)).toThrow(message)
  const two = { threads: 64 }
  expect(() => run('setp.ge.u32 %p1, %i, 32; @%p1 ret; bar.sync 0; mov.u32 %v, 0;', two)).toThrow(
    /bar.sync after threads of the block have left/,
  )
})

test('an instruction or a modifier that is not known is an error before anything runs', () => {
  for (const name of [
    'tex.1d.v4.f32.s32',
    'div.full.f32',
    'add.cc.u32',
    'bar.red.popc.u32',
    'wgmma.fence',
    'cvt.rs.f16x2.f32',
    'mul24.lo.u32',
    'st.global.v8.u32',
    'shfl.b32',
  ])
    expect(() => run(`${name} %v, %i, %i, %i;`)).toThrow(name)
  expect(() => run('call.uni foo, (%i);')).toThrow('unsupported instruction call.uni')
  expect(() => parse('.version 9.0\n.func foo() { ret; }')).toThrow('.func')
  expect(() => run('add.u32 %v, %i, nowhere;')).toThrow('nowhere')
})

test('sectors and bank passes are counted for each request', () => {
  const input = new Uint32Array(32 * 33)
  const reads = (stride: number, at = 0): number =>
    run(`mul.wide.u32 %rd1, %i, ${stride}; add.s64 %rd2, %in, %rd1; ld.global.u32 %v, [%rd2+${at}];`, { input })
      .traffic[0]!.units
  expect([reads(4), reads(4, 4), reads(8), reads(32), reads(0)]).toEqual([4, 5, 8, 32, 1])
  const passes = (stride: number): number => {
    const t = run(`mov.u32 %r1, box; mad.lo.s32 %r2, %i, ${stride}, %r1; st.shared.u32 [%r2], 7; mov.u32 %v, 0;`, {
      shared: kShare,
    }).traffic
    return t.find((x) => x.space === 'shared')!.units
  }
  expect([passes(4), passes(8), passes(16), passes(128), passes(0)]).toEqual([1, 2, 4, 32, 1])
  const wide = run(
    'mov.u32 %r1, box; mad.lo.s32 %r2, %i, 16, %r1; mov.u32 %v, 0; st.shared.v4.u32 [%r2], {%i, %i, %i, %i};',
    { shared: kShare },
  ).traffic.find((x) => x.space === 'shared')!
  expect([wide.units, wide.ideal]).toEqual([4, 4])
})

test('approximate functions go to the side that the launch asks for', () => {
  const [low, middle, high] = ([-1, 0, 1] as const).map(
    (approximate) =>
      run(`ex2.approx.ftz.f32 %v, ${f32(1.5)};`, { type: 'f32', threads: 1, schedule: { approximate } })
        .out[0] as number,
  ) as [number, number, number]
  expect([low < middle, middle < high, Math.abs(high / middle - 1) <= 2 ** -21]).toEqual([true, true, true])
})

test("local memory is a thread's own, and generic addresses find their space", () => {
  const body = `
  mov.u64 %rd1, depot;
  cvta.local.u64 %rd2, %rd1;
  st.u32 [%rd2+4], %i;
  mov.u64 %rd3, box;
  cvta.shared.u64 %rd4, %rd3;
  mul.wide.u32 %rd5, %i, 4;
  add.s64 %rd4, %rd4, %rd5;
  ld.local.u32 %r1, [%rd1+4];
  st.u32 [%rd4], %r1;
  ld.u32 %r2, [%rd4];
  ld.u32 %r3, [%in];
  add.s32 %v, %r2, %r3;`
  const { out } = run(body, { shared: `${kShare} .local .align 8 .b8 depot[16];`, input: Uint32Array.of(100) })
  expect(out).toEqual(Array.from({ length: 32 }, (_, i) => 100 + i))
})

test('names of kernels survive the hashes before them', () => {
  expect(
    kernelName('_ZN7whittle43_GLOBAL__N__64f99aa0_10_distill_cu_ba82aa1711loss_kernelILi256EEEvNS0_9ArgumentsEPi'),
  ).toBe('loss_kernel<256>')
  expect(
    kernelName(
      '_ZN7whittle44_GLOBAL__N__380a0450_11_quantize_cu_a136cc6c12codes_kernelILNS_9FloatTypeE1ELi16EEEvPKvPi',
    ),
  ).toBe('codes_kernel<1,16>')
})
