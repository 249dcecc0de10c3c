import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  defaultPort,
  formatNbdAddress,
  formatNbdUri,
  parseNbdAddress,
  parseNbdUri,
  type NbdUri,
} from './uri.ts';

describe('addresses', () => {
  test.each([
    ['unix:/run/a b.sock', { kind: 'unix', path: '/run/a b.sock' }],
    ['tcp:127.0.0.1:10809', { kind: 'tcp', host: '127.0.0.1', port: 10809 }],
    ['tcp:[::1]:0', { kind: 'tcp', host: '::1', port: 0 }],
    ['tcp:localhost:1', { kind: 'tcp', host: 'localhost', port: 1 }],
  ])('%s is read and written', (text, address) => {
    expect(parseNbdAddress(text)).toEqual(address);
    expect(formatNbdAddress(parseNbdAddress(text))).toBe(text);
  });

  test.each([
    ['nothing', ''],
    ['a relative path', 'unix:a.sock'],
    ['an empty path', 'unix:'],
    ['a path longer than sun_path', `unix:/${'a'.repeat(107)}`],
    ['a zero byte', 'unix:/a\0b'],
    ['no port', 'tcp:localhost'],
    ['a port above 65535', 'tcp:localhost:65536'],
    ['a bare IPv6 host', 'tcp:::1:10'],
    ['another scheme', 'udp:localhost:1'],
  ])('%s is refused', (_, text) => {
    expect(() => parseNbdAddress(text)).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });
});

describe('URIs', () => {
  test.each<[string, NbdUri]>([
    [
      'nbd+unix:///vol%40snap?socket=/run/v.sock',
      { address: { kind: 'unix', path: '/run/v.sock' }, exportName: 'vol@snap' },
    ],
    [
      'nbd+unix:///vol%237?socket=/run/a%20%26b.sock',
      { address: { kind: 'unix', path: '/run/a &b.sock' }, exportName: 'vol#7' },
    ],
    ['nbd+unix:///?socket=/s', { address: { kind: 'unix', path: '/s' }, exportName: '' }],
    ['nbd+unix:///..?socket=/s', { address: { kind: 'unix', path: '/s' }, exportName: '..' }],
    ['nbd://host:99/v', { address: { kind: 'tcp', host: 'host', port: 99 }, exportName: 'v' }],
    ['nbd://[::1]:99/v', { address: { kind: 'tcp', host: '::1', port: 99 }, exportName: 'v' }],
  ])('%s is read and written', (text, uri) => {
    expect(parseNbdUri(text)).toEqual(uri);
    expect(formatNbdUri(uri)).toBe(text);
  });

  test('a plus sign in the path of a socket is a plus sign', () => {
    expect(parseNbdUri('nbd+unix:///v?socket=/a+b').address).toMatchObject({ path: '/a+b' });
  });

  test('the port may be left out', () => {
    expect(parseNbdUri('nbd://host').address).toMatchObject({ port: defaultPort });
  });

  test.each([
    ['no URI', 'vol'],
    ['another scheme', 'http://host/v'],
    ['TLS', 'nbds://host/v'],
    ['no socket', 'nbd+unix:///v'],
    ['a host beside a socket', 'nbd+unix://host/v?socket=/s'],
    ['no host', 'nbd:///v'],
    ['bad escapes', 'nbd://host/%zz'],
    ['a host with bad escapes', 'nbd://%zz/v'],
    ['a bad port', 'nbd://host:99999/v'],
    ['a relative socket', 'nbd+unix:///v?socket=s'],
  ])('%s is refused', (_, text) => {
    expect(() => parseNbdUri(text)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }));
  });

  test('any export name and path survive', () => {
    const name = fc.string({ unit: 'grapheme', maxLength: 30 });
    const path = fc.string({ unit: 'grapheme-ascii', maxLength: 60 }).map((tail) => `/${tail}`);
    fc.assert(
      fc.property(name, path, (exportName, socketPath) => {
        const uri: NbdUri = { address: { kind: 'unix', path: socketPath }, exportName };
        expect(parseNbdUri(formatNbdUri(uri))).toEqual(uri);
      }),
    );
  });
});
