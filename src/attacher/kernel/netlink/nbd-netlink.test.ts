/** With a kernel of the test's own, which answers with bytes; the real one is for the tests in a guest. */
import { existsSync } from 'node:fs';
import { describe, expect, test } from '@jest/globals';
import { systemClock } from '../../../base/clock.ts';
import { silentLogger } from '../../../base/logger.ts';
import { VolumeError } from '../../../volumes/errors.ts';
import { openNbdControl, openNbdNetlink, type NetlinkTransport } from './nbd-netlink.ts';
import { decodeGeneric, findValue, type NetlinkMessage } from './netlink-messages.ts';
import { NetlinkError } from './netlink-socket.ts';

const EPERM = 1;
const ENOENT = 2;
const ENOMEM = 12;
const EBUSY = 16;
const EEXIST = 17;
const EINVAL = 22;

const request = {
  index: null,
  sizeBytes: 4096,
  blockSizeBytes: 512,
  serverFlags: 1,
  sockets: [7],
  deadTimeoutSeconds: 30,
  identifier: 'driver/node/volume#1',
};

function hex(...parts: string[]): Buffer {
  return Buffer.from(parts.join('').replaceAll(' ', ''), 'hex');
}

const index5 = '0800 0100 05000000';

/** Answers each command with what the test has put there: bytes, or the errno that it refuses with. */
class ScriptedKernel implements NetlinkTransport {
  familyId = 0x21;
  maxAttribute = 10;
  group = 'nbd_mc_group';
  answers: Record<number, Buffer | number> = {};
  requests: string[] = [];
  listeners = new Map<number, (message: NetlinkMessage | null) => void>();
  isClosed = false;

  async request(type: number, payload: Buffer): Promise<Buffer[]> {
    const message = decodeGeneric(payload);
    if (type === 16) return [this.#family()];
    this.requests.push(`${type}:${message?.command ?? -1}`);
    if (type !== this.familyId) throw new NetlinkError(ENOENT);
    const answer = this.answers[message?.command ?? -1] ?? Buffer.alloc(0);
    if (typeof answer === 'number') throw new NetlinkError(answer);
    return answer.length === 0 ? [] : [answer];
  }

  #family(): Buffer {
    if (this.familyId === 0) throw new NetlinkError(ENOENT);
    const name = Buffer.from(this.group.padEnd(12, '_')).toString('hex');
    return hex(
      ...['01 02 0000', `0600 0100 ${this.familyId.toString(16)}00 0000`, '0800 0300 01000000'],
      `0800 0500 ${this.maxAttribute.toString(16).padStart(2, '0')}000000`,
      ...['2000 0700 1c00 0100', `0800 0200 ${this.familyId.toString(16)}000000`],
      ...['1000 0100', name],
    );
  }

  listen(group: number, onEvent: (message: NetlinkMessage | null) => void): { close(): void } {
    this.listeners.set(group, onEvent);
    return { close: () => this.listeners.delete(group) };
  }

  close(): void {
    this.isClosed = true;
  }
}

function refusing(command: number, errno: number): ScriptedKernel {
  const kernel = new ScriptedKernel();
  kernel.answers[command] = errno;
  return kernel;
}

describe('opening', () => {
  test.each([
    { maxAttribute: 9, hasIdentifiers: false },
    { maxAttribute: 10, hasIdentifiers: true },
    { maxAttribute: 11, hasIdentifiers: true },
  ])('a family of $maxAttribute attributes', async ({ maxAttribute, hasIdentifiers }) => {
    const kernel = new ScriptedKernel();
    kernel.maxAttribute = maxAttribute;
    const nbd = await openNbdControl(kernel, silentLogger);
    expect(nbd.hasIdentifiers).toBe(hasIdentifiers);
    nbd.close();
    expect(kernel.isClosed).toBe(true);
    expect(kernel.listeners.size).toBe(0);
  });

  test('fails without the module', async () => {
    const kernel = new ScriptedKernel();
    kernel.familyId = 0;
    await expect(openNbdControl(kernel, silentLogger)).rejects.toMatchObject({
      code: 'NOT_CAPABLE',
      message:
        'find the netlink family of NBD: the kernel module nbd is not loaded, or this is a network namespace of its own',
    });
    expect(kernel.isClosed).toBe(true);
  });

  test('fails without events', async () => {
    const kernel = new ScriptedKernel();
    kernel.group = 'other';
    const opening = openNbdControl(kernel, silentLogger);
    await expect(opening).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
    expect(kernel.isClosed).toBe(true);
  });

  test('asks the kernel of this machine', async () => {
    const opening = openNbdNetlink({ clock: systemClock, logger: silentLogger });
    if (existsSync('/sys/module/nbd')) (await opening).close();
    else await expect(opening).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
  });
});

describe('CONNECT', () => {
  test('tells the index', async () => {
    const kernel = new ScriptedKernel();
    kernel.answers[1] = hex('01 01 0000', index5);
    const nbd = await openNbdControl(kernel, silentLogger);
    await expect(nbd.connect(request)).resolves.toBe(5);
  });

  test.each([
    { errno: EBUSY, index: 5, code: 'VOLUME_IN_USE' },
    { errno: EEXIST, index: 5, code: 'VOLUME_IN_USE' },
    { errno: EBUSY, index: null, code: 'INTERNAL' },
    { errno: EPERM, index: null, code: 'NOT_CAPABLE' },
    { errno: ENOMEM, index: null, code: 'UNAVAILABLE' },
    { errno: EINVAL, index: 5, code: 'INTERNAL' },
  ])('refused with errno $errno for index $index is $code', async ({ errno, index, code }) => {
    const nbd = await openNbdControl(refusing(1, errno), silentLogger);
    await expect(nbd.connect({ ...request, index })).rejects.toMatchObject({ code });
  });

  test('without an index in its answer is an error', async () => {
    const nbd = await openNbdControl(new ScriptedKernel(), silentLogger);
    await expect(nbd.connect(request)).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
  });
});

describe('RECONFIGURE', () => {
  const identifier = 'driver/node/volume#1';

  test('of a device that is not ours', async () => {
    const nbd = await openNbdControl(refusing(3, EINVAL), silentLogger);
    const change = nbd.reconfigure({ index: 5, identifier, sockets: [7] });
    await expect(change).rejects.toMatchObject({ code: 'PATH_NOT_FOUND' });
    await expect(nbd.isBound(5, identifier)).resolves.toBe(false);
  });

  test('that nobody answers is no answer to whose the device is', async () => {
    const kernel = new ScriptedKernel();
    const nbd = await openNbdControl(kernel, silentLogger);
    await expect(nbd.isBound(5, identifier)).resolves.toBe(true);
    kernel.request = () => Promise.reject(new VolumeError('UNAVAILABLE', 'ask: no answer'));
    await expect(nbd.isBound(5, identifier)).rejects.toMatchObject({ code: 'UNAVAILABLE' });
    const change = nbd.reconfigure({ index: 5, identifier });
    await expect(change).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });

  test('carries what was asked for', async () => {
    const kernel = new ScriptedKernel();
    const payloads: Buffer[] = [];
    const nbd = await openNbdControl(kernel, silentLogger);
    kernel.request = (_type, payload) => {
      payloads.push(payload);
      return Promise.resolve([]);
    };
    await nbd.isBound(5, identifier);
    await nbd.reconfigure({ index: 5, identifier, sockets: [7] });
    const types = payloads.map((each) => decodeGeneric(each)?.attributes.map(({ type }) => type));
    expect(types).toEqual([
      [1, 10],
      [1, 7, 10],
    ]);
    const sent = decodeGeneric(payloads[0] ?? Buffer.alloc(0))?.attributes ?? [];
    expect(findValue(sent, 10)?.toString()).toBe(`${identifier}\0`);
  });
});

test('DISCONNECT is fine when there is nothing, and an error otherwise', async () => {
  await (await openNbdControl(refusing(2, EINVAL), silentLogger)).disconnect(5);
  const nbd = await openNbdControl(refusing(2, EPERM), silentLogger);
  await expect(nbd.disconnect(5)).rejects.toMatchObject({
    code: 'NOT_CAPABLE',
    message: 'disconnect nbd5: not permitted, needs CAP_SYS_ADMIN on the machine',
  });
});

test('STATUS lists, or is an error', async () => {
  const kernel = new ScriptedKernel();
  const nbd = await openNbdControl(kernel, silentLogger);
  await expect(nbd.status()).rejects.toMatchObject({ code: 'PROTOCOL_ERROR' });
  kernel.answers[5] = hex('05 01 0000', '1800 0900 1400 0100', index5, '0500 0200 01 000000');
  await expect(nbd.status()).resolves.toEqual([{ index: 5, connected: true }]);
  kernel.answers[5] = ENOMEM;
  await expect(nbd.status()).rejects.toMatchObject({ code: 'UNAVAILABLE' });
});

test('events tell of dead links and of lost events', async () => {
  const kernel = new ScriptedKernel();
  const nbd = await openNbdControl(kernel, silentLogger);
  const heard: (number | null)[] = [];
  const event = (type: number, payload: Buffer): void => {
    kernel.listeners.get(kernel.familyId)?.({ type, flags: 0, sequence: 0, payload });
  };
  const linkDead = hex('04 01 0000', index5);
  event(kernel.familyId, linkDead); // nobody listens yet
  nbd.onLinkDead((index) => heard.push(index));
  event(kernel.familyId, linkDead);
  event(kernel.familyId + 1, linkDead);
  event(kernel.familyId, hex('01 01 0000', index5));
  event(kernel.familyId, hex('04'));
  kernel.listeners.get(kernel.familyId)?.(null);
  expect(heard).toEqual([5, null]);
});

test('a module that was loaded anew is found again', async () => {
  const kernel = new ScriptedKernel();
  const nbd = await openNbdControl(kernel, silentLogger);
  kernel.familyId = 0x22;
  await nbd.disconnect(5);
  expect(kernel.requests).toEqual(['33:2', '34:2']);
  expect([...kernel.listeners.keys()]).toEqual([0x22]);
  kernel.familyId = 0;
  await expect(nbd.disconnect(5)).rejects.toMatchObject({ code: 'NOT_CAPABLE' });
});
