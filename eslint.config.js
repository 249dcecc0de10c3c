// No file may switch a rule off for itself (noInlineConfig): an exception is made here, for everybody to see.
import tseslint from 'typescript-eslint';
import { layersRule } from './scripts/eslint-layers.ts';

/** Who may import whom under src/. src/main.ts, src/roles and tests outside src/ may import everything. */
const layers = {
  base: [],
  volumes: ['base'],
  monitoring: ['base', 'volumes'],
  nbd: ['base', 'volumes'],
  volumedriver: ['base', 'volumes'],
  api: ['base', 'volumes'],
  attacher: ['base', 'volumes', 'monitoring', 'api', 'nbd'],
  kubernetes: ['base'],
  // Not the clients: a CSI service takes what it calls as an argument.
  csi: ['base', 'volumes', 'api/generated', 'api/grpc-server', 'api/endpoint'],
  controller: ['base', 'volumes', 'api', 'csi', 'kubernetes'],
  node: ['base', 'volumes', 'api', 'csi'],
  cli: ['base', 'volumes', 'api', 'nbd', 'kubernetes'],
};

/** Third-party packages with an owner: nothing else under src/ may import them. */
const owners = {
  '@grpc/': ['src/api/', 'src/csi/'],
  '@bufbuild/': ['src/api/', 'src/csi/'],
  '@kubernetes/client-node': ['src/kubernetes/'],
  winston: ['src/base/logger'],
  koffi: ['src/base/ffi', 'src/volumedriver/disk/', 'src/attacher/'],
  commander: ['src/main.ts', 'src/roles/', 'src/cli/'],
  'cli-table3': ['src/cli/'],
  '@peculiar/': ['src/api/tls/'],
  'prom-client': ['src/monitoring/', 'src/attacher/metrics'],
};

const tests = ['**/*.test.ts', '**/*-contract.ts', 'test/**/*.ts'];

/** The engine takes disk, store, time and chance as arguments, or it could not be simulated. */
const engineSeams = {
  'no-restricted-imports': [
    'error',
    {
      paths: [
        ...['fs', 'fs/promises', 'child_process', 'net', 'os', 'timers', 'timers/promises'].map(
          (name) => ({
            name: `node:${name}`,
            message: 'The engine reaches the world by its arguments.',
          }),
        ),
        {
          name: 'node:crypto',
          importNames: ['randomBytes', 'randomFillSync', 'randomInt', 'randomUUID', 'webcrypto'],
          message: 'Take a Random as an argument.',
        },
      ],
    },
  ],
  'no-restricted-globals': [
    'error',
    ...['Date', 'performance', 'setTimeout', 'setInterval', 'setImmediate'].map((name) => ({
      name,
      message: 'Take a Clock as an argument.',
    })),
    { name: 'process', message: 'Take it as an argument.' },
    { name: 'crypto', message: 'Take a Random as an argument.' },
  ],
  'no-restricted-properties': [
    'error',
    { object: 'Math', property: 'random', message: 'Take a Random as an argument.' },
  ],
};

export default tseslint.config(
  { ignores: ['dist/', 'dist.new.*/', 'coverage/', 'node_modules/', 'src/api/generated/'] },
  { linterOptions: { noInlineConfig: true, reportUnusedDisableDirectives: 'error' } },
  {
    files: ['**/*.ts'],
    extends: [tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      '@typescript-eslint/return-await': ['error', 'always'],
      // A default is a decision, too.
      '@typescript-eslint/switch-exhaustiveness-check': [
        'error',
        { considerDefaultExhaustiveForUnions: true },
      ],
      '@typescript-eslint/consistent-type-imports': 'error',
      '@typescript-eslint/explicit-module-boundary-types': 'error',
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-confusing-void-expression': ['error', { ignoreArrowShorthand: true }],
      // `for (;;)` and `while (true)` are how a bounded wait or a parser is written.
      '@typescript-eslint/no-unnecessary-condition': [
        'error',
        { allowConstantLoopConditions: 'only-allowed-literals' },
      ],
      '@typescript-eslint/no-unused-vars': [
        'error',
        { argsIgnorePattern: '^_', varsIgnorePattern: '^_', caughtErrors: 'all' },
      ],
      // winston's types say less than its classes inherit.
      '@typescript-eslint/no-unsafe-class-instance-assignment': 'off',
      // It takes Promise.withResolvers<void>() for a mistake.
      '@typescript-eslint/no-invalid-void-type': 'off',
      // An async method without await turns what it throws into a rejection, as its interface promises.
      '@typescript-eslint/require-await': 'off',
      'no-restricted-syntax': [
        'error',
        { selector: 'TSEnumDeclaration', message: 'Use an `as const` object.' },
      ],
    },
  },
  {
    rules: {
      eqeqeq: 'error',
      'no-console': 'error',
      'max-lines': ['error', 500],
      'max-params': ['error', 4],
      // A switch counts once: a table of cases is not hard to read.
      complexity: ['error', { max: 12, variant: 'modified' }],
    },
  },
  {
    // Called for every cluster of every write: an options object each time would be garbage each time.
    files: ['src/volumedriver/map/**/*.ts'],
    rules: { 'max-params': ['error', 7] },
  },
  {
    files: ['src/**/*.ts'],
    ignores: tests,
    rules: { 'max-lines-per-function': ['error', { max: 70 }] },
  },
  {
    files: ['src/**/*.ts'],
    plugins: { project: { rules: { layers: layersRule } } },
    rules: { 'project/layers': ['error', { layers, owners }] },
  },
  {
    files: ['src/**/*.ts'],
    ignores: [...tests, 'src/main.ts', 'src/cli/main.ts', 'src/roles/**', 'src/base/**'],
    rules: {
      'no-restricted-globals': [
        'error',
        {
          name: 'process',
          message: 'Only the main files, src/roles and src/base know the process.',
        },
      ],
      'no-restricted-imports': ['error', { paths: ['node:process', 'process'] }],
    },
  },
  {
    files: ['src/volumedriver/**/*.ts'],
    ignores: [...tests, 'src/volumedriver/disk/**', 'src/volumedriver/store/**'],
    rules: engineSeams,
  },
);
