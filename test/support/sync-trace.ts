/** Which files a process syncs while something runs, as strace sees it: fsync(2) and fdatasync(2), by path. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AttachSandbox } from './attach-cleanup.ts';
import { eventually } from './product.ts';

const attachMs = 20_000;

/** The paths that `pid` synced during `work`, one entry per call; each call has succeeded. */
export async function tracedSyncs(
  sandbox: AttachSandbox,
  pid: number,
  work: () => Promise<void>,
): Promise<string[]> {
  const path = join(sandbox.path, 'strace');
  const options = ['-f', '-y', '-e', 'trace=fsync,fdatasync', '-o', path];
  let output = '';
  const strace = sandbox.spawn('strace', [...options, '-p', `${pid}`], (text) => {
    output += text;
  });
  const ended = new Promise<void>((resolve) => {
    strace.once('close', () => {
      resolve();
    });
  });
  try {
    await eventually(`strace is attached: ${output}`, attachMs, () => output.includes('attached'));
    await work();
  } finally {
    strace.kill('SIGINT');
    await ended;
  }
  return parseSyncs(await readFile(path, 'utf8'));
}

/** A call that another thread's line interrupts has two lines: the path is on the first, the result on the second. */
function parseSyncs(text: string): string[] {
  const lines = text.split('\n').filter((line) => /\b(fsync|fdatasync)\b/.test(line));
  const failed = lines.filter((line) => !/= 0$|<unfinished \.\.\.>$/.test(line));
  if (failed.length > 0) throw new Error(`syncs that did not succeed: ${failed.join('; ')}`);
  return lines.flatMap((line) => /\b(?:fsync|fdatasync)\(\d+<([^>]*)>/.exec(line)?.[1] ?? []);
}
