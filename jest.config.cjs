module.exports = {
  testEnvironment: '<rootDir>/test/environment.cjs',
  testMatch: ['<rootDir>/test/**/*.test.ts'],
  transform: { '^.+\\.ts$': ['ts-jest', { tsconfig: 'tsconfig.json', diagnostics: false }] },
  // A global of the test's vm context costs 200 times a variable's read: a minute of Math.abs in the oracles.
  sandboxInjectedGlobals: [
    'Math', 'Number', 'Array', 'Object', 'Buffer', 'Map', 'Set', 'BigInt', 'Float32Array', 'Float64Array',
    'Int8Array', 'Uint8Array', 'Int16Array', 'Uint16Array', 'Int32Array', 'Uint32Array', 'DataView', 'ArrayBuffer',
  ],
  maxWorkers: 2,
  testTimeout: 60000,
}
