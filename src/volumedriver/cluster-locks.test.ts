/** Requests that overlap take turns; others don't wait. */
import { describe, expect, test } from '@jest/globals';
import { ClusterLocks } from './cluster-locks.ts';

interface Held {
  done: Promise<string>;
  release: (error?: Error) => void;
}

class Bench {
  readonly locks = new ClusterLocks();
  readonly events: string[] = [];

  hold(name: string, from: number, to: number): Held {
    const gate = Promise.withResolvers<undefined>();
    const done = this.locks.run(from, to, async () => {
      this.events.push(`${name} begins`);
      await gate.promise;
      this.events.push(`${name} ends`);
      return name;
    });
    done.catch(() => undefined);
    const release = (error?: Error): void => {
      if (error === undefined) gate.resolve(undefined);
      else gate.reject(error);
    };
    return { done, release };
  }
}

async function turns(): Promise<void> {
  for (let i = 0; i < 20; i++) await Promise.resolve();
}

describe('locks on clusters', () => {
  test('are idle until one is held, and again after it', async () => {
    const bench = new Bench();
    expect(bench.locks.idle).toBe(true);
    const held = bench.hold('a', 0, 1);
    expect(bench.locks.idle).toBe(false);
    held.release();
    expect(await held.done).toBe('a');
    expect(bench.locks.idle).toBe(true);
  });

  test.each([
    { what: 'the same', from: 4, to: 8, waits: true },
    { what: 'an inner part', from: 5, to: 6, waits: true },
    { what: 'a whole around it', from: 0, to: 99, waits: true },
    { what: 'its first cluster', from: 0, to: 5, waits: true },
    { what: 'its last cluster', from: 7, to: 9, waits: true },
    { what: 'what ends where it begins', from: 2, to: 4, waits: false },
    { what: 'what begins where it ends', from: 8, to: 9, waits: false },
  ])('hold back $what: $waits', async ({ from, to, waits }) => {
    const bench = new Bench();
    const first = bench.hold('a', 4, 8);
    const second = bench.hold('b', from, to);
    await turns();
    expect(bench.events.includes('b begins')).toBe(!waits);
    first.release();
    second.release();
    expect(await Promise.all([first.done, second.done])).toEqual(['a', 'b']);
  });

  test('are given in the order of asking, through those that wait', async () => {
    const bench = new Bench();
    const [a, b, c] = [bench.hold('a', 0, 2), bench.hold('b', 1, 4), bench.hold('c', 3, 5)];
    const other = bench.hold('d', 5, 6);
    c.release();
    b.release();
    other.release();
    await turns();
    expect(bench.events).toEqual(['a begins', 'd begins', 'd ends']);
    a.release();
    await Promise.all([a.done, b.done, c.done]);
    expect(bench.events.slice(3)).toEqual(['a ends', 'b begins', 'b ends', 'c begins', 'c ends']);
  });

  test('are given on after a failure, which only its own request sees', async () => {
    const bench = new Bench();
    const [a, b] = [bench.hold('a', 0, 2), bench.hold('b', 1, 4)];
    a.release(new Error('no'));
    b.release();
    await expect(a.done).rejects.toThrow('no');
    expect(await b.done).toBe('b');
    expect(bench.locks.idle).toBe(true);
  });
});
