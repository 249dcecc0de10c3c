import { describe, expect, test } from '@jest/globals';
import { daemonArguments, nbdNodeName, nbdNodeNumber, nbdNodeOptions } from './qemu-options.ts';

const rest = { nodeName: 'nbd-1', readOnly: false, reconnectDelaySeconds: 3600 };

describe('nbdNodeOptions', () => {
  const cases = [
    {
      name: 'a unix socket',
      uri: 'nbd+unix:///volume?socket=/run/v.sock',
      server: { type: 'unix', path: '/run/v.sock' },
      exportName: 'volume',
    },
    {
      name: 'an escaped name and path',
      uri: 'nbd+unix:///01H%237?socket=/run/a%20b%2Cc%26d',
      server: { type: 'unix', path: '/run/a b,c&d' },
      exportName: '01H#7',
    },
    {
      name: 'a snapshot',
      uri: 'nbd+unix:///v%40s?socket=/s',
      server: { type: 'unix', path: '/s' },
      exportName: 'v@s',
    },
    {
      name: 'TCP',
      uri: 'nbd://127.0.0.1:10810/v',
      server: { type: 'inet', host: '127.0.0.1', port: '10810' },
      exportName: 'v',
    },
    {
      name: 'TCP with the default port',
      uri: 'nbd://localhost/v',
      server: { type: 'inet', host: 'localhost', port: '10809' },
      exportName: 'v',
    },
    {
      name: 'IPv6',
      uri: 'nbd://[::1]:99/v',
      server: { type: 'inet', host: '::1', port: '99' },
      exportName: 'v',
    },
    {
      name: 'no name',
      uri: 'nbd+unix:///?socket=/s',
      server: { type: 'unix', path: '/s' },
      exportName: '',
    },
  ];
  test.each(cases)('translates $name', ({ uri, server, exportName }) => {
    expect(nbdNodeOptions({ uri, ...rest })).toEqual({
      driver: 'nbd',
      'node-name': 'nbd-1',
      server,
      export: exportName,
      'reconnect-delay': 3600,
      'read-only': false,
      discard: 'unmap',
    });
  });

  test.each([
    '',
    'volume',
    'http://h/v',
    'nbd+unix:///v',
    'nbd+unix:///v?socket=relative',
    'nbd:///v',
  ])('refuses %j', (uri) => {
    expect(() => nbdNodeOptions({ uri, ...rest })).toThrow(
      expect.objectContaining({ code: 'INVALID_ARGUMENT' }),
    );
  });
});

describe('daemonArguments', () => {
  const request = {
    uri: 'nbd+unix:///v?socket=/s',
    readOnly: true,
    reconnectDelaySeconds: 60,
    mountpoint: '/state,1/volume',
    qmpSocketPath: '/state,1/qmp',
    pidFilePath: '/state,1/pid',
  };

  test('makes a read-only device read-only at every level', () => {
    const args = daemonArguments(request);
    const json = args.filter((arg) => arg.startsWith('{')).map((arg) => JSON.parse(arg) as object);
    expect(json).toMatchObject([
      { driver: 'nbd', 'read-only': true },
      { driver: 'raw', file: 'nbd-1', 'read-only': true },
      { type: 'fuse', writable: false, growable: false, mountpoint: '/state,1/volume' },
    ]);
  });

  test('escapes commas where qemu splits at them', () => {
    expect(daemonArguments(request)).toContain(
      'socket,id=qmp,path=/state,,1/qmp,server=on,wait=off',
    );
    expect(daemonArguments(request)).toContain('/state,1/pid');
  });
});

test('numbers nbd nodes', () => {
  expect(nbdNodeNumber(nbdNodeName(12))).toBe(12);
  for (const other of ['volume', 'nbd-', 'nbd-x', '#block123', 'nbd-1x'])
    expect(nbdNodeNumber(other)).toBeNull();
});
