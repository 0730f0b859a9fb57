'use strict'
// What an object of nvcc holds, where it was compiled with --compress-mode=none: the PTX of its kernels, and what ptxas took
// for each. A machine code file for NVIDIA's GPUs is an ELF file: `.text.<kernel>` keeps the number of registers in the upper
// byte of its sh_info (as cuobjdump --dump-resource-usage reports it), `.nv.shared.<kernel>` the bytes that a block shares.
const fs = require('node:fs')

const kCuda = 190 // e_machine

/** Sections of the ELF file that begins at `at`, or none where it is another machine's. */
function sections(data, at) {
  if (data.readUInt16LE(at + 18) !== kCuda || data[at + 4] !== 2) return []
  const table = at + Number(data.readBigUInt64LE(at + 40))
  const [each, count, names] = [58, 60, 62].map((o) => data.readUInt16LE(at + o))
  const all = Array.from({ length: count }, (_, i) => {
    const s = table + i * each
    return { name: data.readUInt32LE(s), from: Number(data.readBigUInt64LE(s + 24)), size: Number(data.readBigUInt64LE(s + 32)), info: data.readUInt32LE(s + 44) }
  })
  const text = (i) => {
    const from = at + all[names].from + i
    return data.toString('latin1', from, data.indexOf(0, from))
  }
  return all.map((s) => ({ ...s, name: text(s.name) }))
}

/** { ptx, kernels: mangled name -> { registers, shared } } of one object; ptx is '' where there is none in the clear. */
function read(file) {
  const data = fs.readFileSync(file)
  const kernels = new Map()
  for (let at = data.indexOf('\x7fELF', 1, 'latin1'); at >= 0 && at + 64 < data.length; at = data.indexOf('\x7fELF', at + 1, 'latin1')) {
    const all = sections(data, at)
    for (const s of all)
      if (s.name.startsWith('.text.'))
        kernels.set(s.name.slice(6), { registers: s.info >>> 24, shared: all.find((o) => o.name === `.nv.shared.${s.name.slice(6)}`)?.size ?? 0 })
  }
  const from = data.indexOf('\n.version ', 0, 'latin1')
  return { ptx: from < 0 ? '' : data.toString('latin1', from, data.indexOf(0, from)), kernels }
}

/** Warps of a multiprocessor of sm_80 that such blocks keep resident (CUDA Programming Guide, "Compute Capabilities"). */
function residentWarps({ registers, shared }, threads) {
  const warps = Math.ceil(threads / 32)
  // Registers are dealt to warps by 256, shared memory to blocks by 128 bytes, of which the system takes 1 KB.
  const ofRegisters = Math.floor(65536 / (Math.ceil((registers * 32) / 256) * 256) / warps)
  const ofShared = Math.floor((164 * 1024) / (Math.ceil(shared / 128) * 128 + 1024))
  return Math.min(Math.floor(64 / warps), 32, ofRegisters, ofShared) * warps
}

module.exports = { read, residentWarps }
