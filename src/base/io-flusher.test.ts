import { describe, expect, test } from '@jest/globals';
import { controlThread, errno } from './ffi.ts';
import { becomeIoFlusher, linuxFlusherCalls, type FlusherSystem } from './io-flusher.ts';

/** Thrown where the real one does not return. */
class Replaced extends Error {}

interface Machine {
  flag: number;
  oomScore: number;
  capable: boolean;
  /** Result of every prctl instead. */
  prctl?: number;
  keepsFlag?: boolean;
}

/** Runs the program, and again when it replaces itself, as the kernel would. */
function run(machine: Machine): { starts: number; problems: unknown } {
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
        if (!machine.capable) throw new Error('EACCES: permission denied');
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

const capability = expect.stringContaining('CAP_SYS_RESOURCE') as unknown;

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

  test.each<[string, Machine, unknown[]]>([
    [
      'without the capability',
      { flag: 0, oomScore: 0, capable: false },
      [
        { what: 'io flusher', reason: capability },
        { what: 'oom score', reason: capability },
      ],
    ],
    [
      'where somebody else has set the score',
      { flag: 0, oomScore: -999, capable: false },
      [{ what: 'io flusher', reason: capability }],
    ],
    [
      'on an old kernel',
      { flag: 0, oomScore: 0, capable: true, prctl: -errno.EINVAL },
      [{ what: 'io flusher', reason: expect.stringContaining('5.6') }],
    ],
    [
      'where prctl fails otherwise',
      { flag: 0, oomScore: 0, capable: true, prctl: -errno.ENOSYS },
      [{ what: 'io flusher', reason: expect.stringContaining(String(errno.ENOSYS)) }],
    ],
  ])('says what is missing and goes on %s', (_, machine, problems) => {
    expect(run(machine)).toEqual({ starts: 1, problems });
  });

  test('does not start again and again where the flag is lost', () => {
    const machine = { flag: 0, oomScore: 0, capable: true, keepsFlag: false };
    expect(run(machine)).toEqual({
      starts: 2,
      problems: [{ what: 'io flusher', reason: expect.stringContaining('lost') }],
    });
  });
});

test('prctl answers with its result or an errno', () => {
  const getDumpable = 3;
  expect([0, 1, 2]).toContain(controlThread(getDumpable, 0));
  expect(controlThread(123_456, 0)).toBe(-errno.EINVAL);
  expect(linuxFlusherCalls.oomScore()).toBeGreaterThanOrEqual(-1000);
});
