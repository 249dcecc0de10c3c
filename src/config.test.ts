import { describe, expect, test } from '@jest/globals';
import {
  parseAll,
  parseAttacher,
  parseController,
  parsePlugin,
  parseVolumedriver,
  type RawOptions,
} from './config.ts';

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
    ['metrics on a socket', { metrics: 'unix:/metrics.sock' }, '--metrics: '],
    ['a directory too deep for sockets', { dataDir: `/${'d'.repeat(91)}` }, '--attacher: '],
  ])('refuses %s before a role is started', (_, changes, says) => {
    expect(() => parseAll({ ...minimal, ...changes })).toThrow(says);
  });
});

describe('controller', () => {
  const machine: RawOptions = {
    csi: 'unix:/csi.sock',
    volumedriver: 'unix:/api.sock',
    knownNodes: 'n1,n2',
  };
  const kubernetes: RawOptions = {
    csi: 'unix:/csi.sock',
    namespace: 'storage',
    volumedriverSelector: 'app=volumedriver',
    volumedriverPort: '9809',
    tlsCaDir: '/ca',
  };

  test('of one machine is told its volumedriver and its nodes', () => {
    expect(parseController(machine).controller).toEqual({
      overcommit: 10,
      attachLimit: 128,
      metrics: null,
      cluster: {
        kind: 'machine',
        volumedriver: { kind: 'unix', path: '/api.sock' },
        knownNodes: ['n1', 'n2'],
      },
    });
  });

  test('in Kubernetes is told where to look, and issues certificates only when told', () => {
    const cluster = {
      kind: 'kubernetes',
      namespace: 'storage',
      volumedriverSelector: 'app=volumedriver',
      volumedriverPort: 9809,
      caDirectory: '/ca',
      issuer: null,
    };
    expect(parseController(kubernetes).controller?.cluster).toEqual(cluster);
    const issuing = { ...kubernetes, issuer: 'tcp:0.0.0.0:9808', issuerServiceAccount: 'plane' };
    expect(parseController(issuing).controller?.cluster).toEqual({
      ...cluster,
      issuer: { address: { host: '0.0.0.0', port: 9808 }, serviceAccount: 'plane' },
    });
  });

  test.each<[string, RawOptions, string]>([
    ['nothing at all', { ...machine, volumedriver: undefined }, '--volumedriver: it is required'],
    ['no selector', { ...kubernetes, volumedriverSelector: undefined }, '--volumedriver-selector:'],
    ['a port beyond all', { ...kubernetes, volumedriverPort: '65536' }, '--volumedriver-port:'],
    ['a relative CA', { ...kubernetes, tlsCaDir: 'ca' }, '--tls-ca-dir:'],
    ['both worlds', { ...kubernetes, ...machine }, '--known-nodes: with --namespace'],
    ['an issuer for anybody', { ...kubernetes, issuer: 'tcp:[::]:1' }, '--issuer-service-account'],
    ['no overcommit', { ...machine, overcommit: '0' }, '--overcommit: '],
    ['half a limit', { ...machine, attachLimit: '1.5' }, '--attach-limit: '],
  ])('refuses %s', (_, raw, says) => {
    expect(() => parseController(raw)).toThrow(says);
  });

  test('names a missing flag once, also where two roles take it', () => {
    expect(() => parsePlugin({})).toThrow(
      ['--csi', '--volumedriver', '--attacher', '--node-id', '--state-dir', '--known-nodes']
        .map((flag) => `${flag}: it is required`)
        .join('\n'),
    );
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
    ['metrics anywhere', { metrics: 'tcp:[::]:9100' }, { metrics: { host: '::', port: 9100 } }],
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
    ['metrics on a socket', { metrics: 'unix:/metrics.sock' }, 'it must be tcp:HOST:PORT'],
    ['metrics nowhere', { metrics: '' }, '--metrics: '],
  ])('refuses %s', (_, changes, says) => {
    expect(() => parseAttacher({ ...needed, ...changes })).toThrow(says);
  });
});

describe('volumedriver', () => {
  const needed: RawOptions = {
    dataDir: '/data',
    backend: 'file:/backend',
    nbd: 'unix:/nbd.sock',
    api: 'unix:/api.sock',
  };
  const withIssuer: RawOptions = {
    remoteApi: 'tcp:0.0.0.0:9809',
    tlsCa: '/tls/ca.crt',
    tlsIssuer: '10.96.0.7:9808',
    tlsToken: '/token',
  };
  const withFiles: RawOptions = {
    remoteApi: 'tcp:[::]:9809',
    tlsCa: '/tls/ca.crt',
    tlsCert: '/tls/tls.crt',
    tlsKey: '/tls/tls.key',
  };

  test('is not reached from other machines and not watched unless told', () => {
    expect(parseVolumedriver(needed)).toMatchObject({
      driverName: 'csi.volumedriver.io',
      remote: null,
      metrics: null,
    });
  });

  test('takes an issuer of certificates', () => {
    expect(parseVolumedriver({ ...needed, ...withIssuer, driverName: 'csi.a' })).toMatchObject({
      driverName: 'csi.a',
      remote: {
        listen: { kind: 'tcp', host: '0.0.0.0', port: 9809 },
        trustFile: '/tls/ca.crt',
        certificate: {
          kind: 'issuer',
          issuer: { kind: 'tcp', host: '10.96.0.7', port: 9808 },
          tokenFile: '/token',
        },
      },
    });
  });

  test('takes certificates of others, and metrics anywhere', () => {
    const metrics = 'tcp:0.0.0.0:9810';
    expect(parseVolumedriver({ ...needed, ...withFiles, metrics })).toMatchObject({
      remote: {
        listen: { kind: 'tcp', host: '::', port: 9809 },
        certificate: {
          kind: 'files',
          certificateFile: '/tls/tls.crt',
          keyFile: '/tls/tls.key',
        },
      },
      metrics: { host: '0.0.0.0', port: 9810 },
    });
  });

  test.each<[string, RawOptions, string]>([
    ['an API beyond loopback without TLS', { api: 'tcp:10.0.0.1:9809' }, 'has --remote-api'],
    ['a remote API without TLS', { remoteApi: 'tcp:0.0.0.0:9809' }, '--tls-ca: it is required'],
    [
      'a remote API without a certificate',
      { remoteApi: 'tcp:0.0.0.0:9809', tlsCa: '/ca' },
      '--remote-api: it needs --tls-issuer and --tls-token, or --tls-cert and --tls-key',
    ],
    ['a remote API without trust', { ...withIssuer, tlsCa: undefined }, '--tls-ca: it is required'],
    ['a remote API on a socket', { ...withIssuer, remoteApi: 'unix:/a' }, '--remote-api: '],
    ['an issuer without a token', { ...withIssuer, tlsToken: undefined }, '--tls-token: it is'],
    ['an issuer without a port', { ...withIssuer, tlsIssuer: '10.96.0.7' }, '--tls-issuer: '],
    ['both kinds', { ...withFiles, ...withIssuer }, '--tls-cert: with --tls-issuer'],
    ['a certificate without its key', { ...withFiles, tlsKey: undefined }, '--tls-key: it is'],
    ['a relative path', { ...withFiles, tlsCa: 'ca.crt' }, '--tls-ca: it must be an absolute'],
    ['TLS for nothing', { tlsCa: '/ca' }, '--tls-ca: it is for --remote-api'],
    ['metrics on a socket', { metrics: 'unix:/m' }, '--metrics: '],
  ])('refuses %s', (_, changes, says) => {
    expect(() => parseVolumedriver({ ...needed, ...changes })).toThrow(says);
  });
});
