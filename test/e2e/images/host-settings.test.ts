/** What a build is told of this machine, made of what the machine says of itself. */
import { describe, expect, test } from '@jest/globals';
import { npmCertificates, sourcesFrom } from './host-settings.ts';

describe('sourcesFrom', () => {
  const mirror = 'http://mirror.example/debian/';
  test.each([
    {
      what: 'the mirrors of this machine, for another release',
      targets: `${mirror} bookworm main\n${mirror} bookworm-updates main\nhttp://sec.example/ bookworm-security main\n`,
      sources: [
        `deb ${mirror} trixie main`,
        `deb ${mirror} trixie-updates main`,
        'deb http://sec.example/ trixie-security main',
      ],
    },
    {
      what: 'no archives of others, backports or other components',
      targets: `${mirror} bookworm main\n${mirror} bookworm contrib\nhttp://o.example/ bookworm-pgdg main\nhttp://o.example/ stable main\n${mirror} bookworm-backports main\nhttp://docker.example/ bookworm stable`,
      sources: [`deb ${mirror} trixie main`],
    },
    {
      what: 'Debian itself where the machine has no lists',
      targets: '\n',
      sources: ['deb http://deb.debian.org/debian trixie main'],
    },
    {
      what: 'each only once',
      targets: `${mirror} bookworm main\n${mirror} bookworm main`,
      sources: [`deb ${mirror} trixie main`],
    },
  ])('gives $what', ({ targets, sources }) => {
    expect(sourcesFrom(targets, 'bookworm', 'trixie')).toEqual(sources);
  });
});

describe('npmCertificates', () => {
  test('writes each certificate as one line, and nothing that is none', () => {
    const one = '-----BEGIN CERTIFICATE-----\nAAA\nBBB\n-----END CERTIFICATE-----';
    const two = one.replace('AAA', 'CCC');
    const key = '-----BEGIN PRIVATE KEY-----\nDDD\n-----END PRIVATE KEY-----';
    expect(npmCertificates(`# a note\n${one}\n${key}\n${two}\n`)).toEqual([
      'ca[]="-----BEGIN CERTIFICATE-----\\nAAA\\nBBB\\n-----END CERTIFICATE-----"',
      'ca[]="-----BEGIN CERTIFICATE-----\\nCCC\\nBBB\\n-----END CERTIFICATE-----"',
    ]);
    expect(npmCertificates('')).toEqual([]);
  });
});
