/**
 * Keeps this process going while the kernel is short of memory. Volumes are block devices of the very kernel that their
 * server runs on: to free memory it writes dirty pages to them, and waits for us. If we waited for memory then, neither
 * would go on. So every thread is an I/O flusher (prctl(2), PR_SET_IO_FLUSHER: its allocations never wait for block
 * I/O, its writes are throttled later), and the OOM killer is to take anything else first.
 *
 * The flag is per thread and inherited by what the thread starts, and most threads of Node (V8's, the pool's) are there
 * before our first line runs. It outlives execve(2), though: the first thread sets it and the process replaces itself,
 * before it has done anything else; pid, start time and standard streams stay.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { hasErrno } from './errno.ts';
import { controlThread, errno } from './ffi.ts';
import { describeError } from './logger.ts';

/** What is asked of the system; a double of it in tests. */
export interface FlusherSystem {
  /** prctl(2): its result or a negative errno. */
  controlThread(option: number, argument: number): number;
  /** /proc/self/oom_score_adj, from -1000 to 1000. Throws when it cannot be read. */
  oomScore(): number;
  /** Throws what the kernel refuses. */
  setOomScore(score: number): void;
  /** Runs this program again in this process, with `replaced` true there. Never returns. */
  replaceProcess(): never;
  /** Whether this process has replaced itself already. */
  readonly replaced: boolean;
}

/** Why a process is not, or not fully, protected. */
export interface FlusherProblem {
  readonly what: 'io flusher' | 'oom score';
  readonly reason: string;
  /** What would help, where that is known. */
  readonly advice: string | null;
}

const prSetIoFlusher = 57;
const prGetIoFlusher = 58;
/** -1000 would forbid the OOM killer to take it at all, even when it is itself what takes all the memory. */
const oomScore = -999;
const oomScorePath = '/proc/self/oom_score_adj';
const giveCapability = 'give this role CAP_SYS_RESOURCE';

/** Call it before anything else: it may not return, but start the process from the beginning. */
export function becomeIoFlusher(system: FlusherSystem): FlusherProblem[] {
  const problems: FlusherProblem[] = [];
  const flusher = flusherProblem(system);
  if (flusher !== null) problems.push({ what: 'io flusher', ...flusher });
  try {
    if (system.oomScore() > oomScore) system.setOomScore(oomScore);
  } catch (error) {
    const what = 'oom score';
    problems.push({ what, reason: describeError(error), advice: adviceForOomScore(error) });
  }
  return problems;
}

/** What would help against all of them, in one line; empty when nothing is known to help. */
export function adviceAgainst(problems: readonly FlusherProblem[]): string {
  const advice = problems.map((problem) => problem.advice).filter((each) => each !== null);
  return [...new Set(advice)].join('; ');
}

function adviceForOomScore(error: unknown): string | null {
  if (['EACCES', 'EPERM'].some((code) => hasErrno(error, code))) return giveCapability;
  if (!hasErrno(error, 'EROFS')) return null;
  return `start this role with an oom_score_adj of ${oomScore}, or with a /proc that it may write`;
}

function flusherProblem(system: FlusherSystem): Omit<FlusherProblem, 'what'> | null {
  // Reading the flag takes the same capability as setting it.
  const before = system.controlThread(prGetIoFlusher, 0);
  if (before === 1) return null;
  if (before < 0) return reasonOf(before);
  if (system.replaced) {
    return { reason: 'the flag was lost when the process replaced itself', advice: null };
  }
  const set = system.controlThread(prSetIoFlusher, 1);
  return set < 0 ? reasonOf(set) : system.replaceProcess();
}

function reasonOf(result: number): Omit<FlusherProblem, 'what'> {
  if (result === -errno.EPERM) {
    return { reason: 'the kernel does not allow it', advice: giveCapability };
  }
  if (result === -errno.EINVAL) {
    return { reason: 'this kernel does not know it', advice: 'run Linux 5.6 or newer' };
  }
  return { reason: `prctl failed with errno ${-result}`, advice: null };
}

/** The real system but for what belongs to the process. */
export const linuxFlusherCalls: Omit<FlusherSystem, 'replaceProcess' | 'replaced'> = {
  controlThread,
  oomScore: () => Number(readFileSync(oomScorePath, 'utf8')),
  setOomScore: (score) => {
    writeFileSync(oomScorePath, String(score));
  },
};
