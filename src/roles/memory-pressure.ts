/** Makes a role that block I/O depends on safe against a lack of memory, as far as this node lets it: base/io-flusher.ts. */
import { adviceAgainst, becomeIoFlusher, linuxFlusherCalls } from '../base/io-flusher.ts';
import type { Logger } from '../base/logger.ts';

/** Set for the program that this one replaced itself by, so that it does so once only. */
const replacedMark = 'VOLUMEDRIVER_REPLACED';

/** Call it before anything of the role begins: it may start the process again from its beginning. */
export function withstandMemoryPressure(logger: Logger): void {
  if (process.platform !== 'linux') return;
  const replaced = process.env[replacedMark] === '1';
  Reflect.deleteProperty(process.env, replacedMark);
  const problems = becomeIoFlusher({ ...linuxFlusherCalls, replaced, replaceProcess });
  if (problems.length === 0) return;
  const advice = adviceAgainst(problems);
  const what = 'not protected against a lack of memory';
  logger.warn(advice === '' ? what : `${what}: ${advice}`, {
    effect: 'a node short of memory may hang in writing to its volumes, or kill this process',
    reasons: problems.map(({ what, reason }) => `${what}: ${reason}`),
  });
}

function replaceProcess(): never {
  const { execPath, execArgv, argv, env } = process;
  const args = [execPath, ...execArgv, ...argv.slice(1)];
  // Keeps the standard streams and closes all else. It aborts the process when it fails.
  if (process.execve !== undefined) process.execve(execPath, args, { ...env, [replacedMark]: '1' });
  throw new Error('this Node has no process.execve: 24 or newer is needed');
}
