import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { mkdir, mkdtemp, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { silentLogger, type Logger } from '../base/logger.ts';
import type { VolumeUse } from '../csi/volume-capability.ts';
import { isSameUse, recordUse, StageRecords, type StageRecord } from './stage-records.ts';

const use: VolumeUse = {
  kind: 'mount',
  accessMode: 'SINGLE_NODE_WRITER',
  fsType: 'ext4',
  mountFlags: ['noatime'],
  mountGroup: '',
};

function recordOf(volumeId: string): StageRecord {
  return {
    formatVersion: 1,
    volumeId,
    stagingPath: '/staging',
    generation: 7,
    readOnly: false,
    use: recordUse(use),
    fsType: 'ext4',
    targets: [{ path: '/target', readOnly: true, use: recordUse(use) }],
  };
}

let directory: string;
let warnings: string[];
let records: StageRecords;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'stage-records-'));
  warnings = [];
  const logger: Logger = { ...silentLogger, warn: (message) => void warnings.push(message) };
  records = new StageRecords(join(directory, 'staged'), logger);
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe('StageRecords', () => {
  const ids = [
    { name: 'an id of ours', id: 'backend.01M7Z0435G098YN7EAK7K78AY5' },
    { name: 'a path', id: '../../etc/passwd' },
    { name: 'a hidden file', id: '.hidden' },
    { name: 'any letters', id: 'Dátä 数据\u0000🙂' },
    { name: 'the longest', id: 'x'.repeat(128) },
    { name: 'the longest that needs a digest', id: '/'.repeat(128) },
  ];
  test.each(ids)('keeps and removes a record under $name', async ({ id }) => {
    const record = recordOf(id);
    await records.save(record);
    await records.save(record);
    expect(await records.load(id)).toEqual(record);
    expect(await readdir(directory)).toEqual(['staged']);
    expect(await readdir(join(directory, 'staged'))).toHaveLength(1);
    for (const _ of [1, 2]) await records.remove(id);
    expect(await records.load(id)).toBeUndefined();
    expect(await readdir(join(directory, 'staged'))).toEqual([]);
  });

  test('nobody else may read a record', async () => {
    await records.save(recordOf('v'));
    expect((await stat(join(directory, 'staged'))).mode & 0o777).toBe(0o700);
    expect((await stat(join(directory, 'staged', 'v.json'))).mode & 0o777).toBe(0o600);
  });

  const damaged = [
    { name: 'empty', text: '' },
    { name: 'cut', text: JSON.stringify(recordOf('v')).slice(0, -5) },
    { name: 'of another version', text: JSON.stringify({ ...recordOf('v'), formatVersion: 2 }) },
    { name: 'of another volume', text: JSON.stringify(recordOf('w')) },
    { name: 'without a field', text: JSON.stringify({ ...recordOf('v'), use: undefined }) },
    { name: 'with a wrong type', text: JSON.stringify({ ...recordOf('v'), generation: 'x' }) },
    { name: 'no object', text: 'null' },
  ];
  test.each(damaged)('ignores, and reports, a record that is $name', async ({ text }) => {
    await mkdir(join(directory, 'staged'));
    await writeFile(join(directory, 'staged', 'v.json'), text);
    expect(await records.load('v')).toBeUndefined();
    expect(warnings).toEqual(['stage record ignored']);
    await records.save(recordOf('v'));
    expect(await records.load('v')).toEqual(recordOf('v'));
  });

  test('a crash while writing leaves the earlier record', async () => {
    await records.save(recordOf('v'));
    await writeFile(join(directory, 'staged', 'v.json.new'), '{');
    expect(await records.load('v')).toEqual(recordOf('v'));
    await records.remove('v');
    expect(await readdir(join(directory, 'staged'))).toEqual([]);
  });

  test('a directory that cannot be made is an error with a reason', async () => {
    await writeFile(join(directory, 'staged'), '');
    await expect(records.save(recordOf('v'))).rejects.toMatchObject({
      code: 'UNAVAILABLE',
      message: expect.stringContaining('write stage record of v'),
    });
    await expect(records.load('v')).rejects.toMatchObject({ code: 'UNAVAILABLE' });
  });
});

describe('recorded uses', () => {
  const changes: { name: string; change: Partial<Extract<VolumeUse, { kind: 'mount' }>> }[] = [
    { name: 'another filesystem', change: { fsType: 'xfs' } },
    { name: 'another mode', change: { accessMode: 'SINGLE_NODE_READER_ONLY' } },
    { name: 'other flags', change: { mountFlags: ['relatime'] } },
    { name: 'flags that look alike when joined', change: { mountFlags: ['noat', 'ime'] } },
  ];
  test.each(changes)('differ by $name', ({ change }) => {
    expect(isSameUse(recordUse(use), recordUse({ ...use, ...change }))).toBe(false);
  });

  test('hold no flag', () => {
    const secret = recordUse({ ...use, mountFlags: ['password=hunter2'] });
    expect(JSON.stringify(secret)).not.toContain('hunter2');
    expect(isSameUse(secret, recordUse({ ...use, mountFlags: ['password=hunter2'] }))).toBe(true);
  });
});
