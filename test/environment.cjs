'use strict'
// jest runs tests in a vm context while native code makes objects in the main realm. Share the main realm's classes so
// that toStrictEqual and instanceof compare what users see.
const { TestEnvironment } = require('jest-environment-node')

const shared = [
  'ArrayBuffer', 'SharedArrayBuffer', 'DataView', 'Int8Array', 'Uint8Array', 'Uint8ClampedArray', 'Int16Array', 'Uint16Array',
  'Int32Array', 'Uint32Array', 'Float32Array', 'Float64Array', 'BigInt64Array', 'BigUint64Array', 'Error', 'TypeError',
  'RangeError', 'Promise',
]

module.exports = class extends TestEnvironment {
  constructor(config, context) {
    super(config, context)
    for (const name of shared) this.global[name] = globalThis[name]
  }
}
