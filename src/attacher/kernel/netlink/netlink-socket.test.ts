/** Against the controller of generic netlink, which every kernel has. */
import { expect, test } from '@jest/globals';
import { systemClock, type Clock } from '../../../base/clock.ts';
import { decodeFamily, encodeGetFamily, messageTypes } from './netlink-messages.ts';
import { NetlinkEvents, NetlinkSocket } from './netlink-socket.ts';

const controller = encodeGetFamily('nlctrl');

test('asks and is answered', async () => {
  const socket = new NetlinkSocket({ clock: systemClock, timeoutMs: 10_000 });
  const answers = await socket.request(messageTypes.CONTROLLER, controller, 'ask');
  expect(answers.map((each) => decodeFamily(each)?.id)).toEqual([messageTypes.CONTROLLER]);
  socket.close();
});

test('takes requests in turn, and a refusal for itself', async () => {
  const socket = new NetlinkSocket({ clock: systemClock, timeoutMs: 10_000 });
  const requests = ['nlctrl', 'no such family', 'nlctrl'].map((name) =>
    socket.request(messageTypes.CONTROLLER, encodeGetFamily(name), 'ask'),
  );
  const results = await Promise.allSettled(requests);
  expect(results.map(({ status }) => status)).toEqual(['fulfilled', 'rejected', 'fulfilled']);
  await expect(requests[1]).rejects.toMatchObject({ name: 'NetlinkError', code: 'ENOENT' });
  socket.close();
});

test('waits no longer than told, and drops what comes late', async () => {
  let isHasty = true;
  const clock: Clock = {
    ...systemClock,
    sleep: (ms, signal) => (isHasty ? Promise.resolve() : systemClock.sleep(ms, signal)),
  };
  const socket = new NetlinkSocket({ clock, timeoutMs: 10_000 });
  for (let attempt = 0; attempt < 5; attempt++) {
    await expect(ask(socket)).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: 'ask: no answer after 10000 ms',
    });
  }
  isHasty = false;
  await expect(ask(socket)).resolves.toBe(messageTypes.CONTROLLER);
  socket.close();
});

async function ask(socket: NetlinkSocket): Promise<number | undefined> {
  const answers = await socket.request(messageTypes.CONTROLLER, controller, 'ask');
  expect(answers).toHaveLength(1);
  return decodeFamily(answers[0] ?? Buffer.alloc(0))?.id;
}

test('finishes what runs when it is closed, and takes no more', async () => {
  const socket = new NetlinkSocket({ clock: systemClock, timeoutMs: 10_000 });
  const first = ask(socket);
  await Promise.resolve();
  const second = ask(socket);
  const refused = expect(second).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
  socket.close();
  socket.close();
  await Promise.allSettled([first]);
  await refused;
  await expect(ask(socket)).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
});

test('hears nothing where nothing happens, and stops when it is closed', async () => {
  const heard: unknown[] = [];
  let sleeps = 0;
  let stopped = (): void => undefined;
  const aborted = new Promise<void>((resolve) => (stopped = resolve));
  const clock: Clock = {
    ...systemClock,
    async sleep(ms, signal) {
      sleeps++;
      signal?.addEventListener('abort', stopped);
      await systemClock.sleep(ms, signal);
    },
  };
  // The group "notify" of the controller.
  const onEvent = (message: unknown): void => void heard.push(message);
  const events = new NetlinkEvents({ clock, group: 16, onEvent });
  expect(sleeps).toBe(1);
  events.close();
  events.close();
  await aborted;
  expect(heard).toEqual([]);
});

test('cannot listen to what cannot be', () => {
  const options = { clock: systemClock, onEvent: () => undefined };
  expect(() => new NetlinkEvents({ ...options, group: 0 })).toThrow('join the multicast group');
});
