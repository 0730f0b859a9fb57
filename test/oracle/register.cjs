'use strict'
// Lets a plain node process, which a test starts, require the library's TypeScript as it is.
const fs = require('node:fs')
const ts = require('typescript')

require.extensions['.ts'] = (module, file) => {
  const { outputText } = ts.transpileModule(fs.readFileSync(file, 'utf8'), {
    fileName: file,
    compilerOptions: { module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2022, esModuleInterop: true },
  })
  module._compile(outputText, file)
}
