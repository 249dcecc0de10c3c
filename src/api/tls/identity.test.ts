import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  formatIdentity,
  identityOfAltName,
  isSameIdentity,
  parseIdentity,
  type TlsIdentity,
} from './identity.ts';

const driverName = 'csi.example';
const name = fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme' });
const identities = fc.oneof(
  fc.record({ kind: fc.constant('controller' as const), driverName: name }),
  fc.record({ kind: fc.constant('volumedriver' as const), driverName: name, nodeId: name }),
);

describe('an identity', () => {
  test.each<[string, TlsIdentity]>([
    ['volumedriver://csi.example/controller', { kind: 'controller', driverName }],
    [
      'volumedriver://csi.example/volumedriver/node-1.example',
      { kind: 'volumedriver', driverName, nodeId: 'node-1.example' },
    ],
    [
      'volumedriver://csi.example/volumedriver/a%2Fcontroller%2C%27%2A',
      { kind: 'volumedriver', driverName, nodeId: "a/controller,'*" },
    ],
  ])('%s', (uri, identity) => {
    expect(formatIdentity(identity)).toBe(uri);
    expect(parseIdentity(uri)).toEqual(identity);
    expect(identityOfAltName(`URI:${uri}`)).toEqual(identity);
  });

  test('comes back as it was, whatever its names are', () => {
    fc.assert(
      fc.property(identities, (identity) => {
        const uri = formatIdentity(identity);
        expect(parseIdentity(uri)).toEqual(identity);
        expect(uri).toMatch(/^[a-zA-Z0-9%:/._~-]+$/);
      }),
    );
  });

  test('is the same only when all of it is', () => {
    fc.assert(
      fc.property(identities, identities, (left, right) => {
        const same = JSON.stringify(Object.entries(left)) === JSON.stringify(Object.entries(right));
        expect(isSameIdentity(left, right)).toBe(same);
      }),
    );
  });

  test.each([
    '',
    'volumedriver://',
    'volumedriver:///controller',
    'volumedriver://csi.example',
    'volumedriver://csi.example/',
    'volumedriver://csi.example/controller/',
    'volumedriver://csi.example/controller/n1',
    'volumedriver://csi.example/Controller',
    'VOLUMEDRIVER://csi.example/controller',
    'volumedriver://csi.example/volumedriver',
    'volumedriver://csi.example/volumedriver/',
    'volumedriver://csi.example/volumedriver/n1/n2',
    'volumedriver://csi.example/volumedriver/n%31',
    'volumedriver://csi.example/volumedriver/n%2f',
    'volumedriver://csi.example/volumedriver/n%FF',
    'volumedriver://csi.example/volumedriver/n 1',
    'volumedriver://csi.example/volumedriver/n1?x',
    'https://csi.example/controller',
  ])('is not %j', (uri) => {
    expect(parseIdentity(uri)).toBeNull();
  });

  test('is not endless', () => {
    expect(parseIdentity(`volumedriver://csi.example/volumedriver/${'n'.repeat(3000)}`)).toBeNull();
  });

  test('is not made of noise', () => {
    fc.assert(
      fc.property(fc.string({ maxLength: 60 }), (text) => {
        const identity = parseIdentity(`volumedriver://${text}`);
        if (identity !== null) expect(formatIdentity(identity)).toBe(`volumedriver://${text}`);
      }),
    );
  });

  test.each<[string, string | undefined]>([
    ['no names', undefined],
    ['a host name', 'DNS:csi.example'],
    ['a second name', 'URI:volumedriver://csi.example/controller, DNS:csi.example'],
    ['a second URI', 'URI:volumedriver://a/controller, URI:volumedriver://b/controller'],
    ['a quoted name', 'URI:"volumedriver://csi.example/controller"'],
    ['a name of another kind', 'DNS:"x", URI:volumedriver://csi.example/controller'],
  ])('is not in a certificate with %s', (_, subjectAltName) => {
    expect(identityOfAltName(subjectAltName)).toBeNull();
  });
});
