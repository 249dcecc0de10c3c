import { describe, expect, test } from '@jest/globals';
import { controlThread, errno } from './ffi.ts';
import {
  adviceAgainst,
  becomeIoFlusher,
  linuxFlusherCalls,
  type FlusherProblem,
  type FlusherSystem,
} from './io-flusher.ts';

/** Thrown where the real one does not return. */
class Replaced extends Error {}

interface Machine {
  flag: number;
  oomScore: number;
  capable: boolean;
  /** Result of every prctl instead. */
  prctl?: number;
  keepsFlag?: boolean;
  /** Errno of every change of the score. */
  oomErrno?: string;
}

/** Runs the program, and again when it replaces itself, as the kernel would. */
function run(machine: Machine): { starts: number; problems: FlusherProblem[] } {
  for (let starts = 1; ; starts += 1) {
    const system: FlusherSystem = {
      replaced: starts > 1,
      controlThread: (option, argument) => {
        if (machine.prctl !== undefined) return machine.prctl;
        if (!machine.capable) return -errno.EPERM;
        if (option === 57) machine.flag = argument;
        return option === 58 ? machine.flag : 0;
      },
      oomScore: () => machine.oomScore,
      setOomScore: (score) => {
        const code = machine.oomErrno ?? (machine.capable ? null : 'EACCES');
        if (code !== null) throw Object.assign(new Error(`${code}: refused`), { code });
        machine.oomScore = score;
      },
      replaceProcess: () => {
        throw new Replaced();
      },
    };
    try {
      return { starts, problems: becomeIoFlusher(system) };
    } catch (error) {
      if (!(error instanceof Replaced) || starts > 3) throw error;
      if (machine.keepsFlag === false) machine.flag = 0;
    }
  }
}

const capability = 'give this role CAP_SYS_RESOURCE';

describe('an I/O flusher', () => {
  test('replaces itself once, and is then protected', () => {
    const machine = { flag: 0, oomScore: 0, capable: true };
    expect(run(machine)).toEqual({ starts: 2, problems: [] });
    expect(machine).toEqual({ flag: 1, oomScore: -999, capable: true });
  });

  test('goes on where the flag was inherited, and leaves a lower score', () => {
    const machine = { flag: 1, oomScore: -1000, capable: true };
    expect(run(machine)).toEqual({ starts: 1, problems: [] });
    expect(machine.oomScore).toBe(-1000);
  });

  test.each<[string, Machine, [FlusherProblem['what'], RegExp][], string]>([
    [
      'without the capability',
      { flag: 0, oomScore: 0, capable: false },
      [
        ['io flusher', /not allow/],
        ['oom score', /EACCES/],
      ],
      capability,
    ],
    [
      'where somebody else has set the score',
      { flag: 0, oomScore: -999, capable: false },
      [['io flusher', /not allow/]],
      capability,
    ],
    [
      'on an old kernel',
      { flag: 0, oomScore: 0, capable: true, prctl: -errno.EINVAL },
      [['io flusher', /does not know/]],
      'run Linux 5.6 or newer',
    ],
    [
      'on an old kernel without the capability',
      { flag: 0, oomScore: 0, capable: false, prctl: -errno.EINVAL },
      [
        ['io flusher', /does not know/],
        ['oom score', /EACCES/],
      ],
      `run Linux 5.6 or newer; ${capability}`,
    ],
    [
      'where prctl fails otherwise',
      { flag: 0, oomScore: 0, capable: true, prctl: -errno.ENOSYS },
      [['io flusher', new RegExp(`errno ${errno.ENOSYS}$`)]],
      '',
    ],
    [
      'where /proc is read-only',
      { flag: 1, oomScore: 0, capable: true, oomErrno: 'EROFS' },
      [['oom score', /EROFS/]],
      'start this role with an oom_score_adj of -999, or with a /proc that it may write',
    ],
    [
      'where the score cannot be set otherwise',
      { flag: 1, oomScore: 0, capable: true, oomErrno: 'EIO' },
      [['oom score', /EIO/]],
      '',
    ],
    [
      'where the flag is lost, and does not start again and again',
      { flag: 0, oomScore: 0, capable: true, keepsFlag: false },
      [['io flusher', /lost/]],
      '',
    ],
  ])('says what is missing and what helps, and goes on, %s', (_, machine, expected, advice) => {
    const { starts, problems } = run(machine);
    expect(starts).toBe(machine.keepsFlag === false ? 2 : 1);
    expect(problems).toMatchObject(
      expected.map(([what, reason]) => ({ what, reason: expect.stringMatching(reason) })),
    );
    expect(adviceAgainst(problems)).toBe(advice);
  });
});

test('prctl answers with its result or an errno', () => {
  const getDumpable = 3;
  expect([0, 1, 2]).toContain(controlThread(getDumpable, 0));
  expect(controlThread(123_456, 0)).toBe(-errno.EINVAL);
  expect(linuxFlusherCalls.oomScore()).toBeGreaterThanOrEqual(-1000);
});
