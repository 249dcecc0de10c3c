/**
 * Whether processes are safe against a lack of memory, as /proc shows it: no thread of theirs waits for block I/O while
 * it allocates, and the OOM killer takes others first. prctl(2) tells each thread of itself only.
 */
import { readFileSync, readdirSync } from 'node:fs';

/** What PR_SET_IO_FLUSHER sets, in include/linux/sched.h since 5.6: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE. */
const ioFlusherFlags = 0x0008_0000 | 0x0010_0000;

export interface MemorySafety {
  readonly threads: number;
  /** The names of the threads that are no I/O flushers. */
  readonly unsafe: string[];
  readonly oomScore: number;
}

export function memorySafetyOf(pid: number): MemorySafety {
  const folder = `/proc/${pid}`;
  const stats = readdirSync(`${folder}/task`).map((task) =>
    readFileSync(`${folder}/task/${task}/stat`, 'utf8'),
  );
  return {
    threads: stats.length,
    unsafe: stats.flatMap((text) => {
      const end = text.lastIndexOf(')');
      // proc(5): flags is field 9, and the third follows the name.
      const flags = Number(text.slice(end + 2).split(' ')[6]);
      const safe = (flags & ioFlusherFlags) === ioFlusherFlags;
      return safe ? [] : [text.slice(text.indexOf('(') + 1, end)];
    }),
    oomScore: Number(readFileSync(`${folder}/oom_score_adj`, 'utf8')),
  };
}
