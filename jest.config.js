/** Run by scripts/jest, as native ESM. @type {import('jest').Config} */
export default {
  extensionsToTreatAsEsm: ['.ts'],
  transform: { '^.+\\.ts$': '@swc/jest' },
  testEnvironment: '<rootDir>/test/support/jest-environment.ts',
  testMatch: ['<rootDir>/{src,test,scripts}/**/*.test.ts'],
  testTimeout: 30_000,
  maxWorkers: 2,
  // Outside of TMPDIR, which is new for each run of a suite and must be empty after it.
  cacheDirectory: '<rootDir>/node_modules/.cache/jest',
};
