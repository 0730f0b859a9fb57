'use strict'
// One CommonJS build holds all state; ESM gets thin re-exports, so `import` and `require` share classes and addon.
const fs = require('node:fs')
const path = require('node:path')
const dist = path.join(__dirname, '..', 'dist')

for (const name of ['index', 'kernels/index', 'model/index']) {
  const file = path.join(dist, name + '.js')
  if (!fs.existsSync(file)) continue
  const base = path.basename(name)
  const names = Object.keys(require(file)).filter((k) => k !== 'default' && k !== '__esModule')
  write(
    path.join(dist, name + '.mjs'),
    `import m from './${base}.js'\nexport const { ${names.join(', ')} } = m\nexport default m\n`,
  )
  write(
    path.join(dist, name + '.d.mts'),
    `export * from './${base}.js'\nimport * as m from './${base}.js'\nexport default m\n`,
  )
}

function write(file, text) {
  if (!fs.existsSync(file) || fs.readFileSync(file, 'utf8') !== text) fs.writeFileSync(file, text)
}
