import { sizeOf } from '../../tensor'
import type { Lower } from '../lowering'
import type { Value } from '../value'
import { channelsLast, imageOf } from './window'

const kModes: readonly string[] = ['nearest', 'linear', 'cubic']
const kOutside: readonly string[] = ['zeros', 'border', 'reflection']

/** Images read at places of a grid; for maps of two axes. */
const gridSample: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const [v, places] = node.inputs.map((i) => l.lazy(i, node)) as [Value, Value]
  l.float(v, node)
  l.float(places, node)
  const dims = l.dims(name, node)
  const order = channelsLast(4)
  const [x, grid] = [l.inOrder(v, order, node), l.rowMajor(places, node)]
  const out = l.make('float32', dims, order)
  const [n, h, w, c] = imageOf(v.dims)
  const mode = kModes.findIndex((m) => node.string('mode', 'linear').endsWith(m))
  const outside = kOutside.indexOf(node.string('padding_mode', 'zeros'))
  l.program.step('grid_sample', node.label, n, h, w, c, sizeOf(dims.slice(2)), mode, outside, node.int('align_corners', 0) ? 1 : 0, x.memory, grid.memory, out.memory)
  l.define(name, out, node)
}

const roiAlign: Lower = (node, l) => {
  const name = node.outputs[0] as string
  const [v, regions, batch] = node.inputs.map((i) => l.lazy(i, node)) as [Value, Value, Value]
  l.float(v, node)
  l.float(regions, node)
  const dims = l.dims(name, node)
  const order = channelsLast(4)
  const [x, rois, which] = [l.inOrder(v, order, node), l.rowMajor(regions, node), l.rowMajor(batch, node)]
  const out = l.make('float32', dims, order)
  const half = node.string('coordinate_transformation_mode', 'half_pixel') === 'half_pixel'
  const sizes = [...imageOf(v.dims), ...[0, 2, 3].map((i) => dims[i] as number)]
  const how = [node.int('sampling_ratio', 0), node.float('spatial_scale', 1), half ? 1 : 0, node.string('mode', 'avg') === 'max' ? 1 : 0]
  l.program.step('roi_align', node.label, ...sizes, ...how, x.memory, rois.memory, which.memory, out.memory)
  l.define(name, out, node)
}

export const sampling: Readonly<Record<string, Lower>> = { GridSample: gridSample, RoiAlign: roiAlign }
