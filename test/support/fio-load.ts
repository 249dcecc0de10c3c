/** fio on files of a mounted volume, pass after pass: each writes all blocks in random order and verifies them. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { runCommand } from '../../src/base/command.ts';
import { eventually } from './real-driver.ts';

/** One file, written by one process of fio. */
export interface FioFile {
  readonly name: string;
  /** Such as --bs and --size. */
  readonly shape: readonly string[];
}

export class FioLoad {
  passes = 0;
  ended = false;
  readonly #folder: string;
  readonly #files: readonly FioFile[];
  readonly #seed: number;
  #stopped = false;

  constructor(folder: string, files: readonly FioFile[], seed: number) {
    this.#folder = folder;
    this.#files = files;
    this.#seed = seed;
  }

  stop(): void {
    this.#stopped = true;
  }

  /** Until stop() or until a pass fails, which rejects. */
  async run(): Promise<void> {
    try {
      while (!this.#stopped) {
        const more = ['--rw=randwrite', `--randseed=${this.#seed + this.passes}`];
        await Promise.all(this.#files.map((file) => runFio(this.#folder, file, more)));
        this.passes++;
      }
    } finally {
      this.ended = true;
    }
  }
}

export async function runFio(
  folder: string,
  { name, shape }: FioFile,
  more: readonly string[],
): Promise<void> {
  const args = [
    ...[`--name=${name}`, `--filename=${join(folder, name)}`, '--direct=1', '--ioengine=libaio'],
    ...['--iodepth=8', '--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--minimal'],
    ...[...shape, ...more],
  ];
  await runCommand('fio', args, { timeoutMs: 150_000 });
}

/** I/O of the device ends again. A FUSE daemon looks for its server every 1, 2, 4, 8 and then 16 s. */
export async function deviceProgress(device: string): Promise<void> {
  const path = `/sys/block/${device}/stat`;
  const before = await readFile(path, 'utf8');
  const ended = (stat: string): string[] => [0, 4].map((at) => stat.trim().split(/ +/)[at] ?? '');
  await eventually('I/O goes on', 60_000, async () => {
    return ended(await readFile(path, 'utf8')).join() !== ended(before).join();
  });
}
