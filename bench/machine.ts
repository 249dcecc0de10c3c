/** What a result was measured on: without it, a figure says nothing. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { cpus, loadavg, release, totalmem } from 'node:os';

export interface Machine {
  commit: string;
  changed: boolean;
  kernel: string;
  cpu: string;
  cpus: number;
  memoryBytes: number;
  filesystem: string;
  node: string;
  fio: string;
  loadBefore: number;
}

export function describeMachine(directory: string): Machine {
  const models = cpus();
  return {
    commit: output('git', ['rev-parse', 'HEAD']),
    changed: output('git', ['status', '--porcelain', '--', 'src']) !== '',
    kernel: release(),
    cpu: models[0]?.model ?? 'unknown',
    cpus: models.length,
    memoryBytes: totalmem(),
    filesystem: filesystemOf(directory),
    node: process.version,
    fio: output('fio', ['--version']),
    loadBefore: loadavg()[0] ?? NaN,
  };
}

/** Type and device of the mount that holds the directory. */
function filesystemOf(directory: string): string {
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' '))
    .filter(
      ([, point = '']) =>
        point !== '' && `${directory}/`.startsWith(`${point}/`.replace('//', '/')),
    )
    .sort(([, a = ''], [, b = '']) => a.length - b.length);
  const [device = '', , type = ''] = mounts.at(-1) ?? [];
  return `${type} on ${device}`;
}

/** Empty where the program is missing or this is no clone. */
function output(program: string, args: string[]): string {
  try {
    return execFileSync(program, args, {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim();
  } catch {
    return '';
  }
}
