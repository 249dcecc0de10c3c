/** The steps, run by test/e2e/main.ts against the cluster of $E2E_STATE. @type {import('jest').Config} */
export default {
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': '@swc/jest' },
  testEnvironment: 'node',
  testMatch: ['<rootDir>/test/e2e/steps/*.e2e.ts'],
  testSequencer: '<rootDir>/test/e2e/sequencer.js',
  testTimeout: 120_000,
  cacheDirectory: '<rootDir>/node_modules/.cache/jest',
};
