/** Runs groups of steps with jest, one after the other, and sums up what they counted. */
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { dirname, join } from 'node:path';
import type { SuiteCounts } from '../../support/jest-reporter.ts';
import type { StepGroup } from '../plan.ts';
import { runCommand } from './commands.ts';

export interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

export interface RunOptions {
  readonly root: string;
  readonly stateFile: string;
  readonly print: (line: string) => void;
  /** No group is started after it has fired. */
  readonly signal?: AbortSignal;
}

const groupLimitMs = 20 * 60_000;

export async function runGroups(
  groups: readonly StepGroup[],
  options: RunOptions,
): Promise<Counts> {
  const sum: Counts = { passed: 0, failed: 0, skipped: 0 };
  for (const group of groups) {
    options.signal?.throwIfAborted();
    const started = performance.now();
    options.print(`\n== steps: ${group.name}`);
    const counts = await runGroup(group, options);
    sum.passed += counts.passed;
    sum.failed += counts.failed;
    sum.skipped += counts.skipped;
    const seconds = Math.round((performance.now() - started) / 1000);
    options.print(
      `== steps: ${group.name}: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped, ${seconds} s (budget ${group.budgetSeconds} s)`,
    );
  }
  return sum;
}

async function runGroup(group: StepGroup, { root, stateFile, print }: RunOptions): Promise<Counts> {
  const folder = mkdtempSync(join(dirname(stateFile), 'results-'));
  try {
    const results = join(folder, 'results.json');
    const files = group.files.map((file) => join(root, 'test/e2e/steps', `${file}.e2e.ts`));
    const end = await runCommand(
      [
        process.execPath,
        join(root, 'node_modules/jest/bin/jest.js'),
        ...['--rootDir', root, '-c', join(root, 'test/e2e/jest.config.js')],
        ...(group.workers === 1 ? ['--runInBand'] : [`--maxWorkers=${group.workers}`]),
        ...['--reporters', join(root, 'test/support/jest-reporter.ts')],
        ...['--runTestsByPath', ...files],
      ],
      {
        cwd: root,
        limitMs: groupLimitMs,
        output: 'inherit',
        env: {
          ...process.env,
          NODE_OPTIONS: `--experimental-vm-modules --no-warnings ${process.env['NODE_OPTIONS'] ?? ''}`,
          E2E_STATE: stateFile,
          E2E_FILES: files.join(','),
          TEST_RESULTS: results,
        },
      },
    );
    if (existsSync(results)) {
      const counts = JSON.parse(readFileSync(results, 'utf8')) as SuiteCounts;
      const wrong = end.code !== 0 && counts.failed === 0;
      return wrong ? { ...counts, failed: 1 } : counts;
    }
    print(`FAIL jest ended without results${end.timedOut ? ': it took too long' : ''}`);
    return { passed: 0, failed: 1, skipped: 0 };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
