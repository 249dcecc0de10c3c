import { describe, expect, test } from '@jest/globals';
import { isLoopPath, parseLosetup } from './loop-devices.ts';

describe('parseLosetup', () => {
  test('reads what losetup prints, padding included', () => {
    const text = `{"loopdevices": [
      {"name": "/dev/loop0", "back-file": "/", "back-ino": 1, "back-maj:min": "       0:39 "},
      {"name": "/dev/loop1", "back-file": null, "back-ino": "7", "back-maj:min": null}
    ]}`;
    expect(parseLosetup(text)).toEqual([
      { path: '/dev/loop0', inode: 1, deviceNumber: '0:39' },
      { path: '/dev/loop1', inode: 7, deviceNumber: null },
    ]);
  });

  test('takes no output as no devices', () => {
    expect(parseLosetup('\n')).toEqual([]);
  });

  test.each(['{', '{"loopdevices": 1}', '{"loopdevices": [{}]}'])('refuses %j', (text) => {
    expect(() => parseLosetup(text)).toThrow(expect.objectContaining({ code: 'PROTOCOL_ERROR' }));
  });
});

test('knows paths of loop devices', () => {
  expect(['/dev/loop0', '/dev/loop128'].every(isLoopPath)).toBe(true);
  expect(['/dev/loop', '/dev/loop-control', '/dev/sda', '/dev/loop1p1', ''].some(isLoopPath)).toBe(
    false,
  );
});
