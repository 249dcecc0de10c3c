import { describe, expect, test } from '@jest/globals';
import { orphanedLoops } from './sandbox-kernel.ts';

describe('orphanedLoops', () => {
  test('are those whose file has lost its path', () => {
    const loopdevices = [
      { name: '/dev/loop0', 'back-file': '/run/driver/file' },
      { name: '/dev/loop1', 'back-file': '/' },
      { name: '/dev/loop2', 'back-file': '/srv/image (deleted)' },
      { name: '/dev/loop3', 'back-file': null },
    ];
    expect(orphanedLoops(JSON.stringify({ loopdevices }))).toEqual(['/dev/loop1']);
  });

  test('are none where losetup prints nothing', () => {
    expect(orphanedLoops('')).toEqual([]);
  });
});
