import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemRandom } from '../base/random.ts';
import {
  decodeRecord,
  encodeRecord,
  phases,
  RecordStore,
  volumeKey,
  type AttachmentRecord,
} from './records.ts';

const record: AttachmentRecord = {
  version: 1,
  instanceId: 'i',
  bootId: 'b',
  volumeId: 'backend.01H',
  uri: 'nbd+unix:///v?socket=/s',
  readOnly: false,
  strategy: 'fuse',
  phase: 'attached',
  details: { device: '/dev/loop1' },
};

describe('the form of records', () => {
  test('survives encoding, for any content', () => {
    const records = fc.record({
      version: fc.constant(1 as const),
      instanceId: fc.string(),
      bootId: fc.string(),
      volumeId: fc.string({ minLength: 1 }),
      uri: fc.string(),
      readOnly: fc.boolean(),
      strategy: fc.string(),
      phase: fc.constantFrom(...phases),
      details: fc.option(fc.constant({ daemon: { pid: 7, startTime: '12' }, device: null })),
    });
    fc.assert(
      fc.property(records, (any) => {
        expect(decodeRecord(encodeRecord(any))).toEqual({ record: any });
      }),
    );
  });

  const bad = [
    ['nothing', ''],
    ['half a record', encodeRecord(record).slice(0, 40)],
    ['another version', encodeRecord(record).replace('"version": 1', '"version": 2')],
    ['a missing field', JSON.stringify({ ...record, uri: undefined })],
    ['an unknown phase', JSON.stringify({ ...record, phase: 'flying' })],
    ['an array', '[]'],
    ['null', 'null'],
  ] as const;
  test.each(bad)('tells the problem with %s', (_, text) => {
    expect(decodeRecord(text)).toEqual({ problem: expect.stringMatching(/./) });
  });
});

describe('RecordStore', () => {
  let folder = '';
  let store: RecordStore;
  beforeEach(async () => {
    folder = await mkdtemp(join(tmpdir(), 'records-'));
    store = new RecordStore(folder);
  });
  afterEach(async () => {
    await rm(folder, { recursive: true });
  });

  test('keeps records and the instance id', async () => {
    const instanceId = await store.open(systemRandom);
    const key = volumeKey(record.volumeId);
    expect(await store.read(key)).toBeNull();
    await store.write(record);
    await store.write({ ...record, phase: 'detaching' });
    const again = new RecordStore(folder);
    expect(await again.open(systemRandom)).toBe(instanceId);
    expect(await again.list()).toEqual([{ key, record: { ...record, phase: 'detaching' } }]);
    await again.remove(key);
    await again.remove(key);
    expect(await again.list()).toEqual([]);
    expect(await readdir(join(folder, 'records'))).toEqual([]);
  });

  test('makes a new instance id in place of a torn one', async () => {
    await writeFile(join(folder, 'instance'), 'abc');
    expect(await store.open(systemRandom)).toMatch(/^[0-9a-f]{32}$/);
  });

  test('removes what a crash in the middle of a write left, and nothing else', async () => {
    await store.open(systemRandom);
    await store.write(record);
    const records = join(folder, 'records');
    const kept = ['README', '.README.tmp', `${volumeKey(record.volumeId)}.json`];
    await writeFile(join(records, 'README'), 'hello');
    await writeFile(join(records, '.README.tmp'), 'hello');
    await writeFile(join(records, '.2222222222222222.json.tmp'), 'torn');
    await writeFile(join(records, `.${volumeKey(record.volumeId)}.json.tmp`), 'torn');
    await new RecordStore(folder).open(systemRandom);
    expect((await readdir(records)).sort()).toEqual(kept.sort());
    expect(await store.list()).toEqual([{ key: volumeKey(record.volumeId), record }]);
  });

  test('reports bad records beside good ones and passes over other files', async () => {
    await store.open(systemRandom);
    await store.write(record);
    const records = join(folder, 'records');
    await writeFile(join(records, '0000000000000000.json'), '{');
    await writeFile(join(records, '1111111111111111.json'), encodeRecord(record));
    await writeFile(join(records, '.2222222222222222.json.tmp'), 'torn');
    await writeFile(join(records, 'README'), 'hello');
    const listed = await store.list();
    expect(listed).toHaveLength(3);
    expect(listed).toContainEqual({ key: volumeKey(record.volumeId), record });
    expect(listed).toContainEqual({
      key: '1111111111111111',
      problem: 'it belongs to another volume',
    });
  });
});
