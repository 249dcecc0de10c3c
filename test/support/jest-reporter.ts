/**
 * What `make test` shows of a jest run: a line for each file, every failure in full, every skipped test with its
 * reason. Counts go to the file named by $TEST_RESULTS, from which scripts/run-suites.ts sums up all suites.
 * A test that is skipped without a reason (not by requires.ts) counts as failed.
 */
import { writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import type { AggregatedResult, Reporter, Test, TestCaseResult, TestResult } from '@jest/reporters';

export interface SuiteCounts {
  passed: number;
  failed: number;
  skipped: number;
  /** How many tests each reason skipped. */
  skipReasons: Record<string, number>;
}

export default class SuiteReporter implements Reporter {
  readonly #counts: SuiteCounts = { passed: 0, failed: 0, skipped: 0, skipReasons: {} };

  onTestFileResult(test: Test, result: TestResult): void {
    const lines = describeFile(result, relative(test.context.config.rootDir, test.path));
    const counts = countFile(result);
    this.#counts.passed += counts.passed;
    this.#counts.failed += counts.failed;
    this.#counts.skipped += counts.skipped;
    for (const [reason, count] of Object.entries(counts.skipReasons)) {
      this.#counts.skipReasons[reason] = (this.#counts.skipReasons[reason] ?? 0) + count;
    }
    process.stdout.write(`${lines.join('\n')}\n`);
  }

  onRunComplete(_contexts: unknown, results: AggregatedResult): void {
    if (results.wasInterrupted) this.#counts.failed += 1;
    const file = process.env['TEST_RESULTS'];
    if (file !== undefined) writeFileSync(file, JSON.stringify(this.#counts));
  }

  /** Makes jest's own exit code agree with the counts. */
  getLastError(): Error | undefined {
    return this.#counts.failed > 0 ? new Error(`${this.#counts.failed} tests failed`) : undefined;
  }
}

function countFile(result: TestResult): SuiteCounts {
  const counts: SuiteCounts = { passed: 0, failed: 0, skipped: 0, skipReasons: {} };
  for (const testCase of result.testResults) {
    const reason = isSkip(testCase) ? skipReason(testCase) : undefined;
    if (testCase.status === 'passed') counts.passed += 1;
    else if (reason === undefined) counts.failed += 1;
    else {
      counts.skipped += 1;
      counts.skipReasons[reason] = (counts.skipReasons[reason] ?? 0) + 1;
    }
  }
  // The file itself failed: it does not load, or its environment found something left behind.
  if (result.testExecError !== undefined) counts.failed += 1;
  return counts;
}

function isSkip(testCase: TestCaseResult): boolean {
  return testCase.status === 'pending' || testCase.status === 'disabled';
}

/** The reason in the name of a test, or of a group around it, that requires.ts skipped. */
export function skipReason(testCase: TestCaseResult): string | undefined {
  for (const title of [testCase.title, ...testCase.ancestorTitles]) {
    const reason = /\[(needs [^\]]*)\]$/.exec(title)?.[1];
    if (reason !== undefined) return reason;
  }
  return undefined;
}

function describeFile(result: TestResult, path: string): string[] {
  const counts = countFile(result);
  const seconds = ((result.perfStats.end - result.perfStats.start) / 1000).toFixed(1);
  const summary = `${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped`;
  const lines = [`${counts.failed > 0 ? 'FAIL' : 'ok  '} ${path}: ${summary}, ${seconds} s`];
  for (const testCase of result.testResults) {
    if (!isSkip(testCase)) continue;
    const reason = skipReason(testCase) ?? 'FAILED: skipped without a reason';
    const name = [...testCase.ancestorTitles, testCase.title].join(' > ');
    lines.push(`  SKIP ${name.replace(` [${reason}]`, '')}: ${reason}`);
  }
  if (counts.failed > 0) {
    if (result.failureMessage) lines.push(result.failureMessage.trimEnd());
    for (const entry of result.console ?? []) lines.push(`  console: ${entry.message}`);
  }
  return lines;
}
