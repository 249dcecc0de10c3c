/**
 * Tests that need more than Node: root, a tool, a kernel feature. A test whose needs are not met is skipped,
 * and its name says why, so that the reporter can list it: no test is ever skipped in silence.
 *
 *   testRequires(['root', 'tool:fio'], 'keeps data over a restart', async () => { ... });
 *   describeRequires(['loop', 'tool:mkfs.xfs'], 'on a real device', () => { ... });
 *
 * REQUIRE_TOOLS=1, set by `make test` as root once it has installed everything, turns a missing tool or Python
 * module into a failure. What a machine cannot help (its kernel, the user) stays a skip.
 */
import { accessSync, constants, existsSync } from 'node:fs';
import { spawnSync } from 'node:child_process';
import { delimiter, join } from 'node:path';
import { describe, test } from '@jest/globals';
import { findHelm } from './helm.ts';

export type Requirement =
  | 'root'
  | 'linux'
  /** /dev/fuse. */
  | 'fuse'
  /** Free loop devices. */
  | 'loop'
  /** A kernel with the NBD client. */
  | 'kernel-nbd'
  /** What installs the chart. It is built with Go, which `make test` does without. */
  | 'helm'
  /** A program on the PATH (sbin included). */
  | `tool:${string}`
  /** A module that Debian's python3 imports. */
  | `python:${string}`
  /** A file or device. */
  | `path:${string}`;

export interface Unmet {
  readonly reason: string;
  /** An installable tool, that is, no property of the machine. */
  readonly installable: boolean;
}

/** Why the requirements are not met here; undefined when they are. */
export function unmetRequirement(requirements: readonly Requirement[]): Unmet | undefined {
  for (const requirement of requirements) {
    const unmet = check(requirement);
    if (unmet !== undefined) return unmet;
  }
  return undefined;
}

export function testRequires(
  requirements: readonly Requirement[],
  name: string,
  body: () => Promise<void> | void,
  timeoutMs?: number,
): void {
  const unmet = unmetRequirement(requirements);
  if (unmet === undefined) test(name, body, timeoutMs);
  else if (mustFail(unmet)) test(name, () => failFor(unmet));
  else test.skip(skippedName(name, unmet), body);
}

export function describeRequires(
  requirements: readonly Requirement[],
  name: string,
  body: () => void,
): void {
  const unmet = unmetRequirement(requirements);
  if (unmet === undefined) describe(name, body);
  else if (mustFail(unmet))
    describe(name, () => {
      test('has what it needs', () => failFor(unmet));
    });
  else describe.skip(skippedName(name, unmet), body);
}

function mustFail(unmet: Unmet): boolean {
  return unmet.installable && process.env['REQUIRE_TOOLS'] === '1';
}

function failFor(unmet: Unmet): never {
  throw new Error(`REQUIRE_TOOLS=1, but this test ${unmet.reason}`);
}

/** The reporter looks for this form: see skipReason of jest-reporter.ts. */
function skippedName(name: string, unmet: Unmet): string {
  return `${name} [${unmet.reason}]`;
}

function check(requirement: Requirement): Unmet | undefined {
  const machine = (met: boolean, need: string): Unmet | undefined =>
    met ? undefined : { reason: `needs ${need}`, installable: false };
  switch (requirement) {
    case 'root':
      return machine(process.getuid?.() === 0, 'root');
    case 'linux':
      return machine(process.platform === 'linux', 'Linux');
    case 'fuse':
      return machine(isUsable('/dev/fuse'), 'a usable /dev/fuse');
    case 'loop':
      return machine(isUsable('/dev/loop-control'), 'a usable /dev/loop-control');
    case 'kernel-nbd':
      return machine(existsSync('/sys/module/nbd'), 'a kernel with nbd');
    case 'helm':
      return machine(findHelm() !== null, 'helm: scripts/chart builds it');
  }
  const value = requirement.slice(requirement.indexOf(':') + 1);
  if (requirement.startsWith('tool:')) return checkTool(value);
  if (requirement.startsWith('python:')) return checkPython(value);
  return machine(existsSync(value), value);
}

function checkTool(tool: string): Unmet | undefined {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  const found = folders.some((folder) => folder !== '' && isExecutable(join(folder, tool)));
  return found ? undefined : { reason: `needs the tool ${tool}`, installable: true };
}

const pythonModules = new Map<string, boolean>();

function checkPython(module: string): Unmet | undefined {
  let found = pythonModules.get(module);
  if (found === undefined) {
    const run = spawnSync('/usr/bin/python3', ['-c', `import ${module}`], { timeout: 20_000 });
    found = run.status === 0;
    pythonModules.set(module, found);
  }
  return found ? undefined : { reason: `needs the Python module ${module}`, installable: true };
}

function isExecutable(path: string): boolean {
  return isAccessible(path, constants.X_OK);
}

function isUsable(device: string): boolean {
  return isAccessible(device, constants.R_OK | constants.W_OK);
}

function isAccessible(path: string, mode: number): boolean {
  try {
    accessSync(path, mode);
    return true;
  } catch {
    return false;
  }
}
