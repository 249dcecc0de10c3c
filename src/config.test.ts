import { describe, expect, test } from '@jest/globals';
import { parseAll, parseAttacher, type RawOptions } from './config.ts';

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
    const flags = {
      grace: '90',
      mapMemory: '1GiB',
      strategy: 'fuse',
      connections: '2',
      metrics: 'tcp:127.0.0.1:9100',
    };
    const { graceMs, passedOn } = parseAll({ ...minimal, ...flags });
    expect(graceMs).toBe(90_000);
    expect(passedOn).toEqual(flags);
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
    ['a strategy', { strategy: 'loop' }, '--strategy: '],
    ['a number of connections', { connections: '0' }, '--connections: '],
    ['metrics for everybody', { metrics: 'tcp:0.0.0.0:9100' }, '--metrics: '],
    ['a directory too deep for sockets', { dataDir: `/${'d'.repeat(91)}` }, '--attacher: '],
  ])('refuses %s before a role is started', (_, changes, says) => {
    expect(() => parseAll({ ...minimal, ...changes })).toThrow(says);
  });
});

describe('attacher', () => {
  const needed: RawOptions = { listen: 'unix:/attacher.sock', stateDir: '/state' };

  test('chooses by itself and shows no metrics unless told', () => {
    expect(parseAttacher(needed)).toMatchObject({
      strategy: 'auto',
      connections: 1,
      metrics: null,
      reconnectDelaySeconds: 3600,
    });
  });

  test.each<[string, RawOptions, object]>([
    ['a strategy', { strategy: 'kernel' }, { strategy: 'kernel' }],
    ['connections', { connections: '16' }, { connections: 16 }],
    ['metrics', { metrics: 'tcp:127.0.0.1:9100' }, { metrics: { host: '127.0.0.1', port: 9100 } }],
  ])('takes %s', (_, changes, expected) => {
    expect(parseAttacher({ ...needed, ...changes })).toMatchObject(expected);
  });

  test.each<[string, RawOptions, string]>([
    [
      'an unknown strategy',
      { strategy: 'iscsi' },
      '--strategy: it must be one of auto, kernel, fuse',
    ],
    ['no connections', { connections: '0' }, '--connections: it must be a number from 1 to 16'],
    ['too many', { connections: '17' }, '--connections: '],
    ['half a connection', { connections: '1.5' }, '--connections: '],
    ['metrics for everybody', { metrics: 'tcp:0.0.0.0:9100' }, '--metrics: '],
    [
      'metrics on a socket',
      { metrics: 'unix:/metrics.sock' },
      '--metrics: it must be tcp:HOST:PORT',
    ],
    ['metrics nowhere', { metrics: '' }, '--metrics: '],
  ])('refuses %s', (_, changes, says) => {
    expect(() => parseAttacher({ ...needed, ...changes })).toThrow(says);
  });
});
