import tseslint from 'typescript-eslint'
import { floors } from './scripts/floors.mjs'

export default tseslint.config(
  {
    ignores: ['build/', 'dist/', 'prebuilds/', 'demo/out/', 'bench/rivals/venv/', '**/node_modules/', 'test/fixtures/'],
  },
  ...tseslint.configs.recommended,
  {
    files: ['**/*.ts'],
    rules: {
      // The compiler (noUnusedLocals, noUnusedParameters) holds this.
      '@typescript-eslint/no-unused-vars': 'off',
      'prefer-const': ['error', { destructuring: 'all' }],
      // Generators and getters of object literals have no other way to their owner.
      '@typescript-eslint/no-this-alias': 'off',
      // An empty interface is where a user's declarations merge, or a name for documentation.
      '@typescript-eslint/no-empty-object-type': ['error', { allowInterfaces: 'with-single-extends' }],
    },
  },
  {
    files: ['lib/**/*.ts'],
    plugins: { whittle: { rules: { floors } } },
    rules: { 'whittle/floors': 'error', 'no-console': 'error' },
  },
  // Opened at the first call that needs it, so not by an import.
  { files: ['lib/native.ts', 'lib/compress/recipe.ts'], rules: { '@typescript-eslint/no-require-imports': 'off' } },
  { files: ['test/**/*.ts'], rules: { '@typescript-eslint/no-explicit-any': 'off' } },
  { files: ['lib/cli/**/*.ts'], rules: { 'no-console': 'off' } },
  {
    files: ['**/*.cjs', '**/*.mjs'],
    rules: { '@typescript-eslint/no-require-imports': 'off' },
  },
)
