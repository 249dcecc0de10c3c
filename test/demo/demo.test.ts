/** `make demo` as a whole: what it says, how it ends, and that nothing is left, in its best story and after Ctrl-C. */
import { spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { afterEach, describe, expect } from '@jest/globals';
import { testRequires, type Requirement } from '../support/requires.ts';

const script = resolve(import.meta.dirname, '../../scripts/demo');
const limitMs = 150_000;
const mounts: Requirement[] = [
  ...(['linux', 'root', 'fuse', 'loop'] as const),
  ...(['tool:qemu-storage-daemon', 'tool:mkfs.xfs', 'tool:mkfs.ext4'] as const),
];

interface Ending {
  readonly exitCode: number | null;
  readonly output: string;
}

const running = new Set<ChildProcess>();

/** Plays it until it ends. As soon as it says `interruptAt`, it gets what Ctrl-C sends. */
async function play(demo: 'nbd' | '', interruptAt?: string): Promise<Ending> {
  const child = spawn(script, [], {
    env: { ...process.env, DEMO: demo },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  running.add(child);
  let output = '';
  let interrupted = false;
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output += text;
      if (interrupted || interruptAt === undefined || !output.includes(interruptAt)) return;
      interrupted = true;
      if (child.pid !== undefined) process.kill(-child.pid, 'SIGINT');
    });
  }
  const limit = setTimeout(() => child.kill('SIGTERM'), limitMs);
  const exitCode = await new Promise<number | null>((settle) => child.once('close', settle));
  clearTimeout(limit);
  running.delete(child);
  return { exitCode, output };
}

function expectNothingLeft(output: string): void {
  const folder = /^All of it happens in (.*), which is removed at the end\.$/m.exec(output)?.[1];
  if (folder === undefined) throw new Error(`no folder in: ${output}`);
  expect(existsSync(folder)).toBe(false);
  expect(readFileSync('/proc/self/mountinfo', 'utf8')).not.toContain(folder);
  expect(commandLines().filter((line) => line.includes(folder))).toEqual([]);
}

function commandLines(): string[] {
  return readdirSync('/proc').flatMap((name) => {
    try {
      return /^\d+$/.test(name) ? readFileSync(`/proc/${name}/cmdline`, 'utf8') : [];
    } catch {
      return []; // it has ended
    }
  });
}

function expectWholeStory({ exitCode, output }: Ending): void {
  const lines = output.trimEnd().split('\n');
  expect({ exitCode, last: lines.slice(-25) }).toMatchObject({ exitCode: 0 });
  expect(lines.at(-1)).toMatch(/^That was the whole story, in \d+(\.\d+)? s\.$/);
  expect(output).toMatch(/^ {4}pause of the writer at kill -9 +\d+(\.\d+)? s$/m);
  // It goes into a log: no colours, nothing overwritten.
  expect(output).not.toMatch(/[^\n\x20-\x7e\u2000-\uffff]/);
}

describe('make demo', () => {
  // A test that ran into its limit: the demo cleans up by itself.
  afterEach(() => {
    for (const child of running) child.kill('SIGTERM');
  });

  testRequires(
    mounts,
    'plays the story with mounts and leaves nothing',
    async () => {
      const ending = await play('');
      expectWholeStory(ending);
      expect(ending.output).toContain('xfs grown, in use');
      expectNothingLeft(ending.output);
    },
    2 * limitMs,
  );

  testRequires(
    ['linux'],
    'plays the story over NBD and leaves nothing',
    async () => {
      const ending = await play('nbd');
      expectWholeStory(ending);
      expectNothingLeft(ending.output);
    },
    2 * limitMs,
  );

  testRequires(
    mounts,
    'cleans up after Ctrl-C in the middle of a kill',
    async () => {
      const { exitCode, output } = await play('', 'kill -9 ');
      expect(exitCode).toBe(130);
      expect(output).toMatch(/Interrupted by SIGINT: cleaning up\.\nEverything is cleaned up\.\n$/);
      expectNothingLeft(output);
    },
    2 * limitMs,
  );

  testRequires(
    ['linux'],
    'cleans up after Ctrl-C over NBD',
    async () => {
      const { exitCode, output } = await play('nbd', 'CreateVolume');
      expect(exitCode).toBe(130);
      expectNothingLeft(output);
    },
    2 * limitMs,
  );
});
