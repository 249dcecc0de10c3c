import { describe, expect, test } from '@jest/globals';
import { parseMountinfo } from './mountinfo.ts';

const plain = '36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue';

describe('parseMountinfo', () => {
  test('reads every field of the example in the man page', () => {
    expect(parseMountinfo(`${plain}\n`)).toEqual([
      {
        device: '98:0',
        root: '/mnt1',
        mountPoint: '/mnt2',
        options: ['rw', 'noatime'],
        fsType: 'ext3',
        source: '/dev/root',
        superOptions: ['rw', 'errors=continue'],
      },
    ]);
  });

  const optionalFields = [
    { name: 'none', fields: '' },
    { name: 'one', fields: 'shared:7 ' },
    { name: 'several', fields: 'shared:7 master:1 propagate_from:2 unbindable ' },
  ];
  test.each(optionalFields)('accepts optional fields: $name', ({ fields }) => {
    const text = `36 35 98:0 / /mnt2 rw ${fields}- xfs /dev/loop1 ro`;
    expect(parseMountinfo(text)).toMatchObject([{ fsType: 'xfs', source: '/dev/loop1' }]);
  });

  const escapes = [
    { name: 'a space', escaped: '/a\\040b', path: '/a b' },
    { name: 'a tab', escaped: '/a\\011b', path: '/a\tb' },
    { name: 'a newline', escaped: '/a\\012b', path: '/a\nb' },
    { name: 'a backslash', escaped: '/a\\134b', path: '/a\\b' },
    { name: 'a backslash before digits', escaped: '/a\\134040', path: '/a\\040' },
    { name: 'several', escaped: '\\040/\\040', path: ' / ' },
    { name: 'bytes of UTF-8', escaped: '/\\303\\244', path: '/ä' },
    { name: 'plain UTF-8', escaped: '/ä\\040ö', path: '/ä ö' },
    { name: 'no octal number', escaped: '/a\\9b\\0', path: '/a\\9b\\0' },
  ];
  test.each(escapes)('decodes $name', ({ escaped, path }) => {
    const text = `36 35 98:0 / ${escaped} rw - ext4 /dev/loop1 rw`;
    expect(parseMountinfo(text)[0]?.mountPoint).toBe(path);
  });

  const bad = [
    { name: 'an empty text', text: '' },
    { name: 'no separator', text: '36 35 98:0 / /mnt rw shared:1 ext4 /dev/loop1 rw' },
    { name: 'a short line', text: '36 35 98:0 / /mnt' },
    { name: 'nothing after the separator', text: '36 35 98:0 / /mnt rw -' },
    { name: 'no super options', text: '36 35 98:0 / /mnt rw - ext4 /dev/loop1' },
    { name: 'a device that is none', text: '36 35 98 / /mnt rw - ext4 /dev/loop1 rw' },
  ];
  test.each(bad)('skips $name and keeps the other lines', ({ text }) => {
    expect(parseMountinfo(text)).toEqual([]);
    expect(parseMountinfo(`${text}\n${plain}\n`)).toHaveLength(1);
  });

  test('keeps the order of stacked mounts', () => {
    const line = (source: string): string => `36 35 98:0 / /mnt rw - ext4 ${source} rw`;
    const sources = parseMountinfo(`${line('first')}\n${line('second')}`).map(
      ({ source }) => source,
    );
    expect(sources).toEqual(['first', 'second']);
  });
});
