import { expect, test } from '@jest/globals';
import { systemClock } from '../base/clock.ts';
import { DeviceLocks } from './device-locks.ts';

const pending = { code: 'OPERATION_PENDING' };

function gate(): { opened: Promise<string>; open: () => void } {
  const { promise, resolve } = Promise.withResolvers<string>();
  return {
    opened: promise,
    open: () => {
      resolve('done');
    },
  };
}

test('a request keeps other requests and repairs of its volume away, and no others', async () => {
  const locks = new DeviceLocks();
  const { opened, open } = gate();
  const first = locks.request('a', () => opened);
  await expect(locks.request('a', () => Promise.resolve(1))).rejects.toMatchObject(pending);
  await expect(locks.repair('a', () => Promise.resolve(1))).rejects.toMatchObject(pending);
  expect(await locks.request('b', () => Promise.resolve(1))).toBe(1);
  open();
  expect(await first).toBe('done');
  expect(await locks.repair('a', () => Promise.resolve(2))).toBe(2);
});

test.each(['ends well', 'fails'])('a request waits for a repair that %s', async (how) => {
  const locks = new DeviceLocks();
  const { opened, open } = gate();
  const repair = locks.repair('a', async () => {
    await opened;
    if (how === 'fails') throw new Error('no');
  });
  repair.catch(() => undefined);
  await expect(locks.repair('a', () => Promise.resolve())).rejects.toMatchObject(pending);
  let ran = false;
  const request = locks.request('a', () => {
    ran = true;
    return Promise.resolve();
  });
  const second = locks.request('a', () => opened);
  await systemClock.sleep(5);
  expect(ran).toBe(false);
  open();
  // Both waited; the first one goes on.
  await request;
  await expect(second).rejects.toMatchObject(pending);
  expect(ran).toBe(true);
});

test('idle tells whether operations still run', async () => {
  const locks = new DeviceLocks();
  const { opened, open } = gate();
  const request = locks.request('a', () => opened);
  expect(await locks.idle(systemClock, 10)).toBe(false);
  open();
  await request;
  expect(await locks.idle(systemClock, 1000)).toBe(true);
  expect(locks.size).toBe(0);
});
