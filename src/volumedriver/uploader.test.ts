/** The way to the backend: its order, its patience, and what ends it. */
import { beforeEach, describe, expect, test } from '@jest/globals';
import { StillClock } from '../../test/support/engine-fixture.ts';
import { FaultyStore } from '../../test/support/faulty-store.ts';
import { SimulatedDisk } from '../../test/support/simulated-disk.ts';
import { headerOf, nonceOf, range, testVolume, tlogBytes } from '../../test/support/tlog-bytes.ts';
import { silentLogger } from '../base/logger.ts';
import type { VolumeError } from '../volumes/errors.ts';
import { makeObjectId } from './format/location.ts';
import { keys } from './keys.ts';
import type { SealedObject, SealedTlog } from './log/volume-log.ts';
import { ObjectReader } from './object-reader.ts';
import { MemoryStore } from './store/memory-store.ts';
import { Uploader } from './uploader.ts';

let disk: SimulatedDisk;
let store: FaultyStore;
let clock: StillClock;
let ends: VolumeError[];
let durable: string[];
let uploader: Uploader;

beforeEach(() => {
  disk = new SimulatedDisk();
  disk.makeDirectory('/log');
  store = new FaultyStore(new MemoryStore(disk));
  clock = new StillClock();
  ends = [];
  durable = [];
  uploader = new Uploader({
    disk,
    store,
    reader: new ObjectReader({ disk, store, cacheBytes: 2 ** 20 }),
    clock,
    logger: silentLogger,
    volume: testVolume,
    committedSlot: 4,
    onDurable: ({ path }) => durable.push(path),
    onEnded: (error) => ends.push(error),
  });
});

function sealedObject(counter: number): SealedObject {
  const file = disk.create(`/log/${counter}.sco`);
  file.write([Buffer.alloc(4096, counter)], 0);
  return { objectId: makeObjectId(1, counter), file };
}

function sealedTlog(slot: number): SealedTlog {
  const file = disk.create(`/log/${slot}.tlog`);
  const header = headerOf(slot);
  const bytes = tlogBytes(header, [range(slot)], { sealed: true });
  file.write([bytes], 0);
  return { header, file, sizeBytes: bytes.length };
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn++) await new Promise((resolve) => setImmediate(resolve));
}

async function stored(): Promise<string[]> {
  return (await store.list('')).map(({ key }) => key);
}

const slot = (number: number): string => keys.slot(testVolume, number);
const object = (counter: number): string => keys.object(makeObjectId(1, counter));

describe('a slot', () => {
  test('is committed behind the objects before it, and not held up by those after it', async () => {
    const release = store.blockPuts((key) => key === object(1));
    const releaseLast = store.blockPuts((key) => key === object(3));
    uploader.addObject(sealedObject(1));
    uploader.addObject(sealedObject(2));
    uploader.addTlog(sealedTlog(5));
    uploader.addObject(sealedObject(3));
    await settle();
    expect(await stored()).toEqual([object(2)]);
    expect(uploader.committedSlot).toBe(4);
    release();
    await uploader.committed(5);
    expect(await stored()).toEqual([object(1), object(2), slot(5)]);
    releaseLast();
  });

  test('is committed behind the slot before it, even when its own objects are there', async () => {
    const release = store.blockPuts((key) => key === slot(5));
    uploader.addTlog(sealedTlog(5));
    uploader.addObject(sealedObject(1));
    uploader.addTlog(sealedTlog(6));
    await settle();
    expect(await stored()).toEqual([object(1)]);
    release();
    await uploader.committed(6);
    expect(await stored()).toEqual([object(1), slot(5), slot(6)]);
    expect(uploader.committedSlot).toBe(6);
  });

  test('leaves nothing on the local disk, and was synced before it was stored', async () => {
    let unsynced = '';
    store.delay = (call, key) => {
      const local = key === slot(5) ? '/log/5.tlog' : '/log/1.sco';
      if (call !== 'get' && disk.durableContent(local)?.length === 0) unsynced = key;
      return Promise.resolve();
    };
    uploader.addObject(sealedObject(1));
    uploader.addTlog(sealedTlog(5));
    await uploader.committed(5);
    expect(unsynced).toBe('');
    expect(disk.list('/log')).toEqual([]);
    expect(durable).toEqual(['/log/1.sco', '/log/5.tlog']);
  });

  test('that is there already is waited for by nobody', async () => {
    await uploader.committed(4);
    await uploader.committed(1);
  });
});

describe('a failing backend', () => {
  test.each([
    { what: 'an object that can not be stored', call: 'putFile' },
    { what: 'a slot that can not be stored', call: 'putIfAbsent' },
  ] as const)('is tried again: $what', async ({ call }) => {
    store.fail({ call, nth: 1 });
    uploader.addObject(sealedObject(1));
    uploader.addTlog(sealedTlog(5));
    await settle();
    expect(uploader.committedSlot).toBe(4);
    clock.wakeAll();
    await uploader.committed(5);
    expect(await stored()).toEqual([object(1), slot(5)]);
    expect(ends).toEqual([]);
  });

  test('is tried again for as long as it takes', async () => {
    store.fail({ call: 'anyPut', fromThenOn: true });
    uploader.addTlog(sealedTlog(5));
    for (let round = 0; round < 20; round++) {
      await settle();
      clock.wakeAll();
    }
    expect(uploader.committedSlot).toBe(4);
    store.repair();
    await settle();
    clock.wakeAll();
    await uploader.committed(5);
    expect(ends).toEqual([]);
  });

  test('that lost an answer is found to have done the work', async () => {
    store.fail({ call: 'putIfAbsent', afterwards: true });
    uploader.addTlog(sealedTlog(5));
    await settle();
    clock.wakeAll();
    await uploader.committed(5);
    expect(ends).toEqual([]);
  });
});

describe('an uploader ends', () => {
  test('fenced when the slot is another owner’s, and stores nothing more', async () => {
    const theirs = headerOf(5, { nonce: nonceOf(99), epoch: 7, writer: 8 });
    await store.put(slot(5), [tlogBytes(theirs, [], { sealed: true })]);
    uploader.addTlog(sealedTlog(5));
    uploader.addTlog(sealedTlog(6));
    await expect(uploader.committed(6)).rejects.toMatchObject({
      code: 'FENCED',
      message: expect.stringContaining('(epoch 7, writer 8)'),
    });
    await uploader.settled();
    expect(await stored()).toEqual([slot(5)]);
    expect(ends.map(({ code }) => code)).toEqual(['FENCED']);
    expect(disk.list('/log')).toEqual(['5.tlog', '6.tlog']);
    await expect(uploader.committed(5)).rejects.toMatchObject({ code: 'FENCED' });
  });

  test('fenced when what stands in the slot can not be read', async () => {
    await store.put(slot(5), [Buffer.alloc(500, 1)]);
    uploader.addTlog(sealedTlog(5));
    await expect(uploader.committed(5)).rejects.toMatchObject({ code: 'FENCED' });
  });

  test.each(['/log/1.sco', '/log/5.tlog'])(
    'halted when the sync of %s fails, and tries no second time',
    async (path) => {
      disk.fail({ kind: 'sync', errno: 'EIO', path: (other) => other === path });
      uploader.addObject(sealedObject(1));
      uploader.addTlog(sealedTlog(5));
      await expect(uploader.committed(5)).rejects.toMatchObject({ code: 'HALTED' });
      await uploader.settled();
      clock.wakeAll();
      await settle();
      expect(await stored()).not.toContain(slot(5));
      expect(disk.list('/log')).toContain(path.slice('/log/'.length));
      expect(ends.map(({ code }) => code)).toEqual(['HALTED']);
    },
  );

  test('when it is stopped: waiters learn of it, and what is on its way stays local', async () => {
    const release = store.blockPuts();
    uploader.addObject(sealedObject(1));
    uploader.addTlog(sealedTlog(5));
    await settle();
    const waiting = uploader.committed(5);
    uploader.stop();
    await expect(waiting).rejects.toMatchObject({ code: 'SHUTTING_DOWN' });
    release();
    await uploader.settled();
    expect(disk.list('/log')).toEqual(['1.sco', '5.tlog']);
    expect(uploader.committedSlot).toBe(4);
    expect(ends).toEqual([]);
  });

  test('when it is stopped between two attempts', async () => {
    store.fail({ call: 'anyPut', fromThenOn: true });
    uploader.addTlog(sealedTlog(5));
    await settle();
    uploader.stop();
    await uploader.settled();
    expect(await stored()).toEqual([]);
    expect(disk.list('/log')).toEqual(['5.tlog']);
  });
});
