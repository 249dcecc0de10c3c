import { describe, expect, test } from '@jest/globals';
import { resolve } from 'node:path';
import {
  formatEndpoint,
  grpcTarget,
  parseEndpoint,
  parseTcpEndpoint,
  requireProtection,
  type Endpoint,
} from './endpoint.ts';

describe('an endpoint', () => {
  test.each<[string, Endpoint, string]>([
    ['unix:/run/a.sock', { kind: 'unix', path: '/run/a.sock' }, 'unix:/run/a.sock'],
    ['unix:///run/a.sock', { kind: 'unix', path: '/run/a.sock' }, 'unix:/run/a.sock'],
    ['unix:a.sock', { kind: 'unix', path: resolve('a.sock') }, `unix:${resolve('a.sock')}`],
    ['tcp:127.0.0.1:9000', { kind: 'tcp', host: '127.0.0.1', port: 9000 }, '127.0.0.1:9000'],
    ['tcp://localhost:0', { kind: 'tcp', host: 'localhost', port: 0 }, 'localhost:0'],
    ['tcp:[::1]:9000', { kind: 'tcp', host: '::1', port: 9000 }, '[::1]:9000'],
  ])('%s is understood', (text, endpoint, target) => {
    expect(parseEndpoint(text)).toEqual(endpoint);
    expect(grpcTarget(endpoint)).toBe(target);
    expect(parseEndpoint(formatEndpoint(endpoint))).toEqual(endpoint);
  });

  test.each<[string, string]>([
    ['', 'unix:PATH or tcp:HOST:PORT'],
    ['/run/a.sock', 'unix:PATH or tcp:HOST:PORT'],
    ['unix:', 'the path is missing'],
    ['unix:\0abstract', 'abstract sockets'],
    [`unix:/${'x'.repeat(107)}`, '108 bytes'],
    ['tcp:9000', 'tcp:HOST:PORT'],
    ['tcp:127.0.0.1:', 'tcp:HOST:PORT'],
    ['tcp:127.0.0.1:99999', '0 to 65535'],
    ['tcp:127.0.0.1:1e3', 'tcp:HOST:PORT'],
    ['tcp:0.0.0.0:9000', 'mutual TLS'],
    ['tcp:0.0.0.0:9000', '--remote-api with --tls-ca and --tls-issuer or --tls-cert'],
    ['tcp:127.0.0.1 :9000', 'tcp:HOST:PORT'],
    ['tcp:a/b:9000', 'tcp:HOST:PORT'],
    ['tcp:node-2:9000', 'mutual TLS'],
    ['tcp:127.evil.com:9000', 'mutual TLS'],
  ])('%j is refused', (text, why) => {
    expect(() => parseEndpoint(text)).toThrow(why);
  });
});

describe('an endpoint with TLS', () => {
  test.each<[string, string, number]>([
    ['tcp:0.0.0.0:9809', '0.0.0.0', 9809],
    ['tcp://10.96.0.7:443', '10.96.0.7', 443],
    ['10.96.0.7:443', '10.96.0.7', 443],
    ['issuer.storage.svc:9808', 'issuer.storage.svc', 9808],
    ['tcp:[::]:9809', '::', 9809],
    ['fd00::10:9808', 'fd00::10', 9808],
  ])('%s may be anywhere', (text, host, port) => {
    const endpoint = parseTcpEndpoint(text);
    expect(endpoint).toEqual({ kind: 'tcp', host, port });
    requireProtection(endpoint, true);
    expect(() => {
      requireProtection(endpoint, false);
    }).toThrow('TCP without mutual TLS');
  });

  test.each(['', 'tcp:', 'unix:/a', ':443', 'host', 'host:', 'host:port', 'host:65536', 'a b:1'])(
    'is not %j',
    (text) => {
      expect(() => parseTcpEndpoint(text)).toThrow('tcp:HOST:PORT');
    },
  );
});
