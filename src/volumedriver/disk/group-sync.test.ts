import { describe, expect, test } from '@jest/globals';
import { GroupSync } from './group-sync.ts';

/** Runs that end when told to, each with what had been written when it began. */
function makeGroup(): {
  group: GroupSync;
  write: (what: string) => void;
  runs: { covers: string; end: PromiseWithResolvers<void> }[];
} {
  let written = '';
  const runs: { covers: string; end: PromiseWithResolvers<void> }[] = [];
  const group = new GroupSync(() => {
    const end: PromiseWithResolvers<void> = Promise.withResolvers();
    runs.push({ covers: written, end });
    return end.promise;
  });
  return { group, write: (what) => (written += what), runs };
}

describe('GroupSync', () => {
  test('starts at once, and shares the next run among all who come meanwhile', async () => {
    const { group, write, runs } = makeGroup();
    write('a');
    const first = group.sync();
    write('b');
    const second = group.sync();
    write('c');
    const third = group.sync();
    expect(runs.map(({ covers }) => covers)).toEqual(['a']);
    runs[0]?.end.resolve();
    await first;
    expect(runs.map(({ covers }) => covers)).toEqual(['a', 'abc']);
    expect(group.idle).toBe(false);
    runs[1]?.end.resolve();
    await Promise.all([second, third]);
    expect(runs).toHaveLength(2);
    expect(group.idle).toBe(true);
  });

  test('a failure is told to those who waited for that run only', async () => {
    const { group, runs } = makeGroup();
    const first = group.sync();
    const second = group.sync();
    runs[0]?.end.reject(new Error('lost'));
    await expect(first).rejects.toThrow('lost');
    runs[1]?.end.resolve();
    await second;
  });

  test('one who asks when a run has just ended starts or joins a new one, never two', async () => {
    const { group, runs } = makeGroup();
    const again = group.sync().then(async () => {
      await group.sync();
    });
    const second = group.sync();
    runs[0]?.end.resolve();
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    expect(runs).toHaveLength(2);
    runs[1]?.end.resolve();
    await second;
    for (let turn = 0; turn < 10; turn++) await Promise.resolve();
    runs[2]?.end.resolve();
    await again;
    expect(runs).toHaveLength(3);
  });
});
