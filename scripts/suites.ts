/**
 * The suites of `make test`: which test files each runs, and how long it may take. A file belongs to the first
 * suite with a fitting pattern; the last suite takes the rest, so that no test file is ever left out.
 */
import { globSync } from 'node:fs';
import { matchesGlob } from 'node:path';

export interface Check {
  readonly name: string;
  readonly command: readonly string[];
}

export interface Suite {
  readonly name: string;
  /** It is reported when it takes longer, and killed and failed after twice as long. */
  readonly budgetMinutes: number;
  /** Of test files, relative to the repository. */
  readonly patterns: readonly string[];
  /** Tests that share the machine's devices run one at a time; others two at a time. */
  readonly inBand: boolean;
  /** Commands that run before the tests, each of which counts as one test. */
  readonly checks?: readonly Check[];
}

export const suites: readonly Suite[] = [
  {
    name: 'static',
    budgetMinutes: 4,
    patterns: ['test/tidy.test.ts', 'scripts/**', 'test/support/{requires,jest}*', 'test/chart/**'],
    inBand: false,
    checks: [
      { name: 'types check', command: ['tsc', '--noEmit', '-p', '.'] },
      { name: 'format (npm run format mends it)', command: ['prettier', '--check', '.'] },
      { name: 'lint', command: ['eslint', '.', '--max-warnings', '0'] },
    ],
  },
  {
    name: 'guest kernels',
    budgetMinutes: 5,
    patterns: ['test/kernel/{attach-kernel,product-kernel,power-cut,grow}.test.ts'],
    inBand: false,
  },
  {
    name: 'attach and kernel',
    budgetMinutes: 5,
    patterns: [
      'src/attacher/**',
      'src/node/**',
      'test/kernel/**',
      'test/demo/**',
      'test/conformance/attach*',
      'test/conformance/csi*',
      'test/e2e/bare/{sandbox,service-forwarder,uml-machine}.test.ts',
    ],
    inBand: true,
  },
  {
    name: 'backend',
    budgetMinutes: 5,
    patterns: ['src/volumedriver/store/**', 'src/api/**'],
    inBand: false,
  },
  { name: 'engine and NBD', budgetMinutes: 8, patterns: ['**'], inBand: false },
];

/** Comes first, whatever suites are asked for: some tests run the built product. */
export const buildCheck: Check = { name: 'dist/ builds', command: ['scripts/build'] };

/** The test files of each suite, by its name. */
export function filesBySuite(root: string): Map<string, string[]> {
  const files = new Map<string, string[]>(suites.map((suite) => [suite.name, []]));
  for (const file of globSync('{src,test,scripts}/**/*.test.ts', { cwd: root }).sort()) {
    files.get(suiteOf(file).name)?.push(file);
  }
  return files;
}

export function suiteOf(file: string): Suite {
  const suite = suites.find(({ patterns }) =>
    patterns.some((pattern) => matchesGlob(file, pattern)),
  );
  if (suite === undefined) throw new Error(`no suite for ${file}`);
  return suite;
}
