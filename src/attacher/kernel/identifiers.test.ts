import { describe, expect, test } from '@jest/globals';
import { decodeIdentifier, encodeIdentifier } from './identifiers.ts';

const us = { driverName: 'csi.example.com', instanceId: '0123456789abcdef0123456789abcdef' };
const prefix = `${us.driverName}/${us.instanceId}/`;

describe('identifiers', () => {
  test.each<[string, ...string[]]>([
    ['a volume and its generation', 'vol', 'vol#7', 'vol#7', '7'],
    ['an export without a generation', 'vol', 'vol', 'vol'],
    ['an empty generation', 'vol', 'vol#', 'vol#', ''],
    ['the last of several', 'vol', 'a#1#2', 'vol#2', '2'],
    ['a slash', 'a/b', 'a/b#1', 'a%2Fb#1', '1'],
    ['a hash in the volume', 'a#b', 'x#1', 'a%23b#1', '1'],
    ['what ends texts', 'a\n\0b', 'x#1\n', 'a%0A%00b#1%0A', '1\n'],
    ['other scripts', 'größe', 'x#1', 'gr%C3%B6%C3%9Fe#1', '1'],
    ['a percent sign', '%41', 'x#1', '%2541#1', '1'],
  ])('keep %s', (_name, ...texts) => {
    const [volumeId = '', exportName = '', text = '', generation = null] = texts;
    expect(encodeIdentifier(us, volumeId, exportName)).toBe(`${prefix}${text}`);
    expect(decodeIdentifier(us, `${prefix}${text}`)).toEqual({ volumeId, generation });
  });

  test('survive a lone surrogate', () => {
    const text = encodeIdentifier(us, '\ud800', 'x');
    expect(decodeIdentifier(us, text)).toEqual({ volumeId: '\ufffd', generation: null });
  });

  test.each([
    ['nothing', ''],
    ['another program', 'vol1'],
    ['another driver', `${prefix.replace('csi', 'other')}vol#1`],
    ['another instance', `csi.example.com/f${us.instanceId.slice(1)}/vol#1`],
    ['an instance that begins like ours', `${prefix.slice(0, -1)}0/vol#1`],
    ['no volume', prefix],
    ['no volume but a generation', `${prefix}#1`],
    ['an unescaped slash', `${prefix}a/b#1`],
    ['two generations', `${prefix}a#1#2`],
    ['a broken escape', `${prefix}%zz#1`],
    ['a broken escape of the generation', `${prefix}vol#%C3`],
  ])('are not ours: %s', (_name, text) => {
    expect(decodeIdentifier(us, text)).toBeNull();
  });
});
