import { expect, test } from '@jest/globals';
import { mountsOn, parseMountInfo } from './mounts.ts';

test('reads mounts with escaped paths and passes over bad lines', () => {
  const text = [
    '36 35 0:39 / /state/fuse/a\\040b\\134c/volume rw,nosuid - fuse /dev/fuse rw,user_id=0',
    'garbage',
    '37 35 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw',
    '',
  ].join('\n');
  expect(parseMountInfo(text)).toEqual([
    { mountpoint: '/state/fuse/a b\\c/volume', deviceNumber: '0:39' },
    { mountpoint: '/', deviceNumber: '8:1' },
  ]);
});

test('finds real mounts', async () => {
  expect((await mountsOn('/proc')).length).toBeGreaterThan(0);
  expect(await mountsOn('/nonexistent')).toEqual([]);
});
