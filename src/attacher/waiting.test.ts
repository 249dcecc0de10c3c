import { expect, test } from '@jest/globals';
import { systemClock } from '../base/clock.ts';
import { abandonAfter } from './waiting.ts';

const limit = { timeoutMs: 20, what: 'do it' };
const late = { code: 'UNAVAILABLE', message: 'do it: no answer after 20 ms' };

test('what ends in time is passed on', async () => {
  expect(await abandonAfter(systemClock, limit, Promise.resolve(7))).toBe(7);
  const failed = Promise.reject(new Error('no'));
  await expect(abandonAfter(systemClock, limit, failed)).rejects.toThrow('no');
});

test('what does not end is left to itself', async () => {
  const never = new Promise<never>(() => undefined);
  await expect(abandonAfter(systemClock, limit, never)).rejects.toMatchObject(late);
});

test('what fails after its time concerns nobody', async () => {
  const { promise, reject } = Promise.withResolvers<never>();
  await expect(abandonAfter(systemClock, limit, promise)).rejects.toMatchObject(late);
  // An unhandled rejection would end the process.
  reject(new Error('later'));
  await systemClock.sleep(5);
});
