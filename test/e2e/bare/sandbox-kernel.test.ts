import { describe, expect, test } from '@jest/globals';
import { orphanedLoops } from './sandbox-kernel.ts';

const losetup = (...devices: [name: string, device: string | null][]): string =>
  JSON.stringify({
    loopdevices: devices.map(([name, device]) => ({ name, 'back-maj:min': device })),
  });
const mountInfo = `
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
61 22 0:51 / /run/fuse rw,nosuid - fuse.fuse export rw`;

describe('orphanedLoops', () => {
  test('are those on file systems of processes that are mounted nowhere', () => {
    const printed = losetup(
      ['/dev/loop0', '  0:51'],
      ['/dev/loop1', '  0:52'],
      ['/dev/loop2', '254:0'],
      ['/dev/loop3', '  8:1'],
      ['/dev/loop4', null],
    );
    expect(orphanedLoops(printed, mountInfo)).toEqual(['/dev/loop1']);
  });

  test('are none where losetup prints nothing', () => {
    expect(orphanedLoops('', mountInfo)).toEqual([]);
  });
});
