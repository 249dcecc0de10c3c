/** Where helm is: `$HELM`, or what test/e2e/tools/build has built and cached. Nothing is built here. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');

let found: string | null | undefined;

/** The program's path; null when there is none. */
export function findHelm(): string | null {
  found ??= lookForHelm();
  return found;
}

function lookForHelm(): string | null {
  const given = process.env['HELM'] ?? '';
  if (given !== '') return given;
  const build = join(root, 'test/e2e/tools/build');
  const run = spawnSync(build, ['--cached', 'helm'], { encoding: 'utf8', timeout: 20_000 });
  const helm = join(run.stdout.trim(), 'helm');
  return run.status === 0 && existsSync(helm) ? helm : null;
}
