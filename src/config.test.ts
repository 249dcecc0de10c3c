import { describe, expect, test } from '@jest/globals';
import { parseAll, type RawOptions } from './config.ts';

const minimal: RawOptions = {
  dataDir: '/data',
  backend: 'file:/backend',
  csi: 'unix:/csi.sock',
  nodeId: 'node-1',
};

describe('all', () => {
  test('needs little', () => {
    expect(parseAll(minimal)).toMatchObject({
      attacher: 'unix:/data/run/attacher.sock',
      graceMs: 30_000,
      passedOn: {},
    });
  });

  test('passes on what its roles take', () => {
    const { graceMs, passedOn } = parseAll({ ...minimal, grace: '90', mapMemory: '1GiB' });
    expect(graceMs).toBe(90_000);
    expect(passedOn).toEqual({ grace: '90', mapMemory: '1GiB' });
  });

  test('says of each missing flag once that it is required', () => {
    expect(() => parseAll({})).toThrow(
      ['--data-dir', '--backend', '--csi', '--node-id']
        .map((flag) => `${flag}: it is required`)
        .join('\n'),
    );
  });

  test.each<[string, RawOptions, string]>([
    ['a size of a role', { mapMemory: 'much' }, '--map-memory: '],
    ['another size', { readCache: '1G' }, '--read-cache: '],
    ['an empty size', { reserve: '' }, '--reserve: '],
    ['a time', { grace: 'soon' }, '--grace: '],
    ['a time of the attacher', { reconnectDelay: '-1' }, '--reconnect-delay: '],
    ['a directory too deep for sockets', { dataDir: `/${'d'.repeat(91)}` }, '--attacher: '],
  ])('refuses %s before a role is started', (_, changes, says) => {
    expect(() => parseAll({ ...minimal, ...changes })).toThrow(says);
  });
});
