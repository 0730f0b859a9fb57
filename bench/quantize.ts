// Quantizing and back, 16.8 M elements. Scales are given, so that each side reads its input once; `range` cases find
// them first.
import { dequantize, quantize, type QuantizeOptions } from '../lib/index'
import type { Bench } from './harness/bench'
import { close } from './harness/bench'
import type { Case, Prepared, Rival } from './harness/types'

const kRows = 4096
const kColumns = 4096
const kSize = kRows * kColumns
const kDims = [kRows, kColumns]

const float = (dims: readonly number[]) => ({ type: 'float32', dims }) as const
const byte = (dims: readonly number[]) => ({ type: 'int8', dims }) as const
// torch multiplies by the reciprocal of the scale: near a tie it may give the neighbouring code.
const neighbours = close({ share: 1e-3, step: 1 })

function javascript(bench: Bench, x: Float32Array, scale: Float32Array, axis: number | null): Rival {
  const q = new Int8Array(kSize)
  const run = (): void => {
    for (let r = 0; r < kRows; r++)
      for (let c = 0; c < kColumns; c++) {
        const v = Math.fround(x[r * kColumns + c]! / scale[axis === null ? 0 : axis === 0 ? r : c]!)
        const f = Math.floor(v)
        const d = v - f
        const n = d < 0.5 || (d === 0.5 && f % 2 === 0) ? f : f + 1
        q[r * kColumns + c] = n < -128 ? -128 : n > 127 ? 127 : n
      }
  }
  return bench.js(run, () => q)
}

function toInt8(axis: number | null): Case {
  const job = axis === null ? 'tensor' : `axis${axis}`
  return {
    case: `f32s8${job}_${kRows}x${kColumns}`,
    prepare: async (bench): Promise<Prepared> => {
      const x = bench.normal(kSize)
      const count = axis === null ? 1 : kDims[axis]!
      const scale = bench.uniform(count, 0.02, 0.04)
      const out = new Int8Array(kSize)
      const tensor = { ...float(kDims), data: x }
      const options: QuantizeOptions = { axis, scale, type: 'int8', out }
      const zero = new Int8Array(count)
      const attributes: Record<string, number> = axis === null ? {} : { axis }
      const model = {
        opset: 13,
        nodes: [{ op: 'QuantizeLinear', inputs: ['x', 's', 'z'], outputs: ['y'], attributes }],
        inputs: { x: float(kDims) },
        outputs: { y: byte(kDims) },
        initializers: {
          s: { ...float(axis === null ? [] : [count]), data: scale },
          z: { ...byte(axis === null ? [] : [count]), data: zero },
        },
      }
      const inputs = { x: { data: x, dims: kDims }, s: { data: scale, dims: [count] } }
      const torch =
        axis === null
          ? 'ty = torch.quantize_per_tensor(tx, float(s[0]), 0, torch.qint8)'
          : `ty = torch.quantize_per_channel(tx, ts, tz, ${axis}, torch.qint8)`
      return {
        ours: () => quantize(tensor, options),
        result: () => out,
        rivals: [
          javascript(bench, x, scale, axis),
          bench.onnx({ model, feeds: { x: { type: 'float32', dims: kDims, data: x } } }),
          bench.rival('onnxruntime', { inputs: { x: inputs.x }, model, op: "y = session.run(None, {'x': x})[0]", result: 'y' }),
          bench.rival('torch', {
            inputs,
            setup: `tx = torch.from_numpy(x)\nts = torch.from_numpy(s).double()\ntz = torch.zeros(${count}, dtype=torch.int64)`,
            op: torch,
            result: 'ty.int_repr().numpy()',
          }),
        ],
        check: neighbours,
        bound: bench.dram({ read: 4 * kSize, write: kSize }),
      }
    },
  }
}

/** Scales from the values: what compressing weights does. */
function withRange(name: string, options: QuantizeOptions, codes: Int8Array | Uint8Array): Case {
  return {
    case: `f32${name}_${kRows}x${kColumns}`,
    prepare: (bench): Prepared => {
      const x = bench.normal(kSize)
      const tensor = { ...float(kDims), data: x }
      const first = quantize(tensor, options)
      const out = { ...first, data: codes }
      const inputs = { x: { data: x, dims: kDims } }
      // numpy's own way to the same codes, symmetric int8 rows only
      const numpy = bench.rival('numpy', {
        inputs,
        op: 's = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)\ny = np.rint(x / s).astype(np.int8)',
        result: 'y',
      })
      return {
        ours: () => quantize(tensor, { ...options, out }),
        result: () => codes,
        rivals: options.axis === 0 && options.blockSize === undefined ? [numpy] : [],
        check: neighbours,
        bound: bench.dram({ read: 4 * kSize, write: codes.length }),
      }
    },
  }
}

const back: Case = {
  case: `s8f32tensor_${kRows}x${kColumns}`,
  prepare: (bench): Prepared => {
    const data = bench.int8(kSize)
    const out = new Float32Array(kSize)
    const scale = Float32Array.of(0.031)
    const q = { ...byte(kDims), data, scale }
    const model = {
      opset: 13,
      nodes: [{ op: 'DequantizeLinear', inputs: ['x', 's', 'z'], outputs: ['y'] }],
      inputs: { x: byte(kDims) },
      outputs: { y: float(kDims) },
      initializers: { s: { ...float([]), data: scale }, z: { ...byte([]), data: new Int8Array(1) } },
    }
    const inputs = { x: { data, dims: kDims } }
    return {
      ours: () => dequantize(q, { out }),
      result: () => out,
      rivals: [
        bench.onnx({ model, feeds: { x: { type: 'int8', dims: kDims, data } } }),
        bench.rival('onnxruntime', { inputs, model, op: "y = session.run(None, {'x': x})[0]", result: 'y' }),
        bench.rival('torch', {
          inputs,
          setup: 'tq = torch._make_per_tensor_quantized_tensor(torch.from_numpy(x), 0.031, 0)',
          op: 'ty = tq.dequantize()',
          result: 'ty.numpy()',
        }),
      ],
      check: close({ rtol: 2e-7 }),
      bound: bench.dram({ read: kSize, write: 4 * kSize }),
    }
  },
}

export const cases: readonly Case[] = [
  toInt8(null),
  toInt8(0),
  toInt8(1),
  withRange('s8range0', { axis: 0 }, new Int8Array(kSize)),
  withRange('u4range32', { bits: 4, blockSize: 32, symmetric: false }, new Uint8Array(kSize / 2)),
  back,
]
