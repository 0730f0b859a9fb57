import { overrideRecipe, parseRecipe, presets, resolveRecipe, type Recipe } from '../lib/compress/recipe'
import { matches, parseSelector, selects, unmatchedNames } from '../lib/compress/selectors'

const failure = (run: () => unknown): { code?: string; parameter?: string; message: string } => {
  try {
    run()
  } catch (error) {
    return error as { code: string; parameter: string; message: string }
  }
  throw new Error('expected a refusal')
}

describe('recipes', () => {
  test('a preset resolves to steps with every default written out', () => {
    expect(presets).toEqual(expect.arrayContaining(['int8-weights', 'int4-weights', 'size']))
    const { steps } = resolveRecipe('int8-weights')
    expect(steps[0]).toEqual({ step: 'dedupe' })
    expect(steps[1]).toEqual({
      step: 'quantize',
      format: 'int',
      method: 'nearest',
      coding: 'fixed',
      scale: 'float',
      bits: 8,
      storage: 'folded',
      blockSize: 0,
      maxError: 0.03,
      nonFinite: 'error',
      layers: {},
    })
    expect(resolveRecipe('int4-weights').steps[1]).toMatchObject({ bits: 4, blockSize: 32, storage: 'folded' })
  })

  test('a resolved recipe resolves to itself, so that a report replays', () => {
    const recipe: Recipe = {
      name: 'mine',
      limits: { bytes: 10 },
      steps: [
        { step: 'prune', pattern: '2:4' },
        { step: 'prune', pattern: { block: [4, 1] }, sparsity: 0.5, scope: 'balanced', layers: 'fc*' },
        { step: 'prune', pattern: 'channel', sparsity: 0.25, scope: 'global' },
        { step: 'quantize', bits: 3, layers: { include: ['a'], exclude: ['b'], ops: ['Conv'], minElements: 7 } },
      ],
    }
    const once = resolveRecipe(recipe)
    expect(resolveRecipe(once)).toEqual(once)
    expect(once.steps[0]).toMatchObject({ sparsity: 0.5, scope: 'uniform' })
  })

  test('JSON and YAML say the same', () => {
    const yaml = parseRecipe(
      "limits: { bytes: 3000000 }\nsteps:\n  - step: prune\n    pattern: '2:4'\n  - { step: quantize, bits: 4, layers: [conv*] }\n",
    )
    const json = parseRecipe(
      '{"limits":{"bytes":3000000},"steps":[{"step":"prune","pattern":"2:4"},{"step":"quantize","bits":4,"layers":["conv*"]}]}',
    )
    expect(yaml).toEqual(json)
    expect(resolveRecipe(yaml).steps[1]).toMatchObject({ bits: 4, blockSize: 32, layers: { include: ['conv*'] } })
  })

  test.each([
    ['steps: [', 'recipe', 'ERR_RANGE'],
    ['a: 1\na: 2', 'recipe', 'ERR_RANGE'],
    ['steps: *nobody', 'recipe', 'ERR_RANGE'],
    ['[]', 'recipe', 'ERR_DTYPE'],
    ['steps: []', 'recipe.steps', 'ERR_RANGE'],
    ['stepps: []', 'recipe.stepps', 'ERR_RANGE'],
    ['steps: [quantize]', 'recipe.steps[0]', 'ERR_DTYPE'],
    ['steps: [{ step: shrink }]', 'recipe.steps[0].step', 'ERR_RANGE'],
    ['steps: [{ step: quantize, bit: 8 }]', 'recipe.steps[0].bit', 'ERR_RANGE'],
    ['steps: [{ step: quantize, bits: 9 }]', 'recipe.steps[0].bits', 'ERR_RANGE'],
    ['steps: [{ step: quantize, bits: "8" }]', 'recipe.steps[0].bits', 'ERR_DTYPE'],
    ['steps: [{ step: quantize, blockSize: 4 }]', 'recipe.steps[0].blockSize', 'ERR_RANGE'],
    ['steps: [{ step: quantize, maxError: .nan }]', 'recipe.steps[0].maxError', 'ERR_RANGE'],
    ['steps: [{ step: quantize, storage: other }]', 'recipe.steps[0].storage', 'ERR_RANGE'],
    ['steps: [{ step: quantize, layers: [] }]', 'recipe.steps[0].layers', 'ERR_RANGE'],
    ['steps: [{ step: quantize, layers: { names: [a] } }]', 'recipe.steps[0].layers.names', 'ERR_RANGE'],
    ['steps: [{ step: quantize, layers: { include: [1] } }]', 'recipe.steps[0].layers.include[0]', 'ERR_DTYPE'],
    ['steps: [{ step: prune }]', 'recipe.steps[0].sparsity', 'ERR_RANGE'],
    ['steps: [{ step: prune, sparsity: 1.5 }]', 'recipe.steps[0].sparsity', 'ERR_RANGE'],
    ['steps: [{ step: prune, pattern: "4:2" }]', 'recipe.steps[0].pattern', 'ERR_RANGE'],
    ['steps: [{ step: prune, pattern: "2:4", sparsity: 0.9 }]', 'recipe.steps[0].sparsity', 'ERR_RANGE'],
    ['steps: [{ step: prune, pattern: "2:4", scope: global }]', 'recipe.steps[0].scope', 'ERR_RANGE'],
    [
      'steps: [{ step: prune, pattern: channel, scope: balanced, sparsity: 0.5 }]',
      'recipe.steps[0].scope',
      'ERR_RANGE',
    ],
    [
      'steps: [{ step: prune, pattern: { block: [0, 1] }, sparsity: 0.5 }]',
      'recipe.steps[0].pattern.block[0]',
      'ERR_RANGE',
    ],
    ['steps: [{ step: dedupe, bits: 8 }]', 'recipe.steps[0].bits', 'ERR_RANGE'],
    ['limits: { bytes: -1 }\nsteps: [{ step: dedupe }]', 'recipe.limits.bytes', 'ERR_RANGE'],
    ['limits: { size: 1 }\nsteps: [{ step: dedupe }]', 'recipe.limits.size', 'ERR_RANGE'],
  ])('%j is refused at %s', (text, parameter, code) => {
    expect(failure(() => parseRecipe(text))).toMatchObject({ parameter, code, name: 'WhittleError' })
  })

  test('aliases that would blow up are refused', () => {
    const bomb = [
      'a: &a [x, x, x, x, x, x, x, x, x]',
      ...'bcdefgh'.split('').map((k, i) => `${k}: &${k} [${Array(9).fill(`*${'abcdefgh'[i]}`).join(', ')}]`),
    ].join('\n')
    expect(failure(() => parseRecipe(bomb)).code).toBe('ERR_RANGE')
  })

  test('an unknown preset is refused with the names of the known ones', () => {
    expect(failure(() => resolveRecipe('int9')).message).toContain('int8-weights, int4-weights')
    for (const name of ['constructor', '__proto__', ''])
      expect(failure(() => resolveRecipe(name)).code).toBe('ERR_RANGE')
  })

  test('overrides reach every step they concern and add those that are missing', () => {
    const sparse = resolveRecipe(overrideRecipe('int8-weights', { sparsity: 0.5, bits: 4, storage: 'qdq' })).steps
    expect(sparse.map((s) => s.step)).toEqual(['prune', 'dedupe', 'quantize'])
    expect(sparse[2]).toMatchObject({ bits: 4, blockSize: 32, storage: 'qdq' })
    expect(resolveRecipe(overrideRecipe('int4-weights', { bits: 8 })).steps[1]).toMatchObject({ bits: 8, blockSize: 0 })
    expect(resolveRecipe(overrideRecipe('int4-weights', { bits: 3 })).steps[1]).toMatchObject({
      bits: 3,
      blockSize: 32,
    })
    const only = overrideRecipe({ steps: [{ step: 'prune', sparsity: 0.1 }] }, { sparsity: 0.9, bits: 8 })
    expect((only as Recipe).steps).toEqual([
      { step: 'prune', sparsity: 0.9 },
      { step: 'quantize', bits: 8 },
    ])
  })
})

describe('selectors', () => {
  const layer = { name: 'block.1/conv', op: 'Conv', weight: 'conv_w', elements: 1000 }

  test.each([
    ['*', 'anything', true],
    ['a*c', 'abbc', true],
    ['a*c', 'abbd', false],
    ['a?c', 'abc', true],
    ['a?c', 'ac', false],
    ['block.1/*', 'block.1/conv', true],
    ['block.1/*', 'blockx1/conv', false],
    ['', '', true],
    ['**', '', true],
    ['[a]', '[a]', true],
    ['*a*b*', 'xxaxxbxx', true],
  ])('glob %j on %j is %s', (glob, name, expected) => {
    expect(matches(glob, name)).toBe(expected)
  })

  test('a hostile glob ends at once', () => {
    expect(matches('*a'.repeat(40) + 'b', 'a'.repeat(4000))).toBe(false)
  })

  test('names, ops and sizes decide, exclude wins', () => {
    const chosen = (value: unknown, min = 256): boolean => selects(parseSelector(value, 'layers'), layer, min)
    expect(chosen(undefined)).toBe(true)
    expect(chosen(undefined, 1001)).toBe(false)
    expect(chosen({ minElements: 1000 }, 5000)).toBe(true)
    expect(chosen('conv_w')).toBe(true)
    expect(chosen(['x', 'block*'])).toBe(true)
    expect(chosen('conv')).toBe(false)
    expect(chosen({ ops: ['MatMul'] })).toBe(false)
    expect(chosen({ include: ['*'], exclude: ['*conv'] })).toBe(false)
  })

  test('names that fit nothing are told', () => {
    expect(unmatchedNames(parseSelector({ include: ['conv*', 'fc'], exclude: ['head'] }, 'layers'), [layer])).toEqual([
      'fc',
      'head',
    ])
  })
})
