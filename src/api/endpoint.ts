/**
 * Where a role listens or is reached: `unix:PATH` (also unix:///PATH, as CSI writes it) or `tcp:HOST:PORT`. Our
 * APIs have no authentication of their own: a unix socket is protected by its permissions (directory 0700 when
 * we make it, socket 0600), and TCP beyond loopback by mutual TLS, without which it is refused.
 */
import { chmod, lstat, mkdir, unlink } from 'node:fs/promises';
import { connect, isIPv6 } from 'node:net';
import { dirname, resolve } from 'node:path';
import { VolumeError } from '../volumes/errors.ts';

export interface TcpEndpoint {
  readonly kind: 'tcp';
  readonly host: string;
  readonly port: number;
}
export type Endpoint = { readonly kind: 'unix'; readonly path: string } | TcpEndpoint;

/** A name or an address: the rest is the resolver's business. */
const hostPattern = /^[A-Za-z0-9.:%_-]+$/;

/** sockaddr_un holds 108 bytes with the closing zero, unix(7). */
const socketPathBytesMax = 107;
const staleCheckMs = 1000;

/** INVALID_ARGUMENT when it is not an endpoint, or TCP beyond loopback. */
export function parseEndpoint(text: string): Endpoint {
  if (text.startsWith('unix:')) return parseUnix(text);
  if (!text.startsWith('tcp:')) throw bad(text, 'it must be unix:PATH or tcp:HOST:PORT');
  const endpoint = parseTcpEndpoint(text);
  requireProtection(endpoint, false);
  return endpoint;
}

/** TCP on any address, for what is protected in another way or needs no protection; `tcp:` may be left out. */
export function parseTcpEndpoint(text: string): TcpEndpoint {
  const rest = text.replace(/^tcp:(\/\/)?/, '');
  const colon = rest.lastIndexOf(':');
  const host = rest.slice(0, Math.max(colon, 0)).replace(/^\[(.*)\]$/, '$1');
  const portText = rest.slice(colon + 1);
  const port = Number(portText);
  if (!hostPattern.test(host) || !/^\d{1,5}$/.test(portText) || port > 65_535) {
    throw bad(text, 'it must be tcp:HOST:PORT with a port from 0 to 65535');
  }
  return { kind: 'tcp', host, port };
}

/** INVALID_ARGUMENT for TCP beyond loopback without mutual TLS. */
export function requireProtection(endpoint: Endpoint, hasMutualTls: boolean): void {
  if (hasMutualTls || endpoint.kind === 'unix' || isLoopback(endpoint.host)) return;
  throw bad(
    formatEndpoint(endpoint),
    'TCP without mutual TLS is allowed on loopback only (127.0.0.1, ::1, localhost); for other addresses the ' +
      'volumedriver has --remote-api with --tls-ca and --tls-issuer or --tls-cert, which the Helm chart sets up',
  );
}

function parseUnix(text: string): Endpoint {
  const rest = text.slice('unix:'.length);
  const given = rest.startsWith('//') ? rest.slice(2) : rest;
  if (given === '') throw bad(text, 'the path is missing');
  if (given.includes('\0')) throw bad(text, 'abstract sockets are not protected by permissions');
  const path = resolve(given);
  const length = Buffer.byteLength(path);
  if (length > socketPathBytesMax) {
    throw bad(text, `its path has ${length} bytes and a unix socket takes ${socketPathBytesMax}`);
  }
  return { kind: 'unix', path };
}

function isLoopback(host: string): boolean {
  return host === 'localhost' || host === '::1' || /^127\.\d{1,3}\.\d{1,3}\.\d{1,3}$/.test(host);
}

function bad(text: string, why: string): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `endpoint ${JSON.stringify(text)}: ${why}`);
}

export function formatEndpoint(endpoint: Endpoint): string {
  if (endpoint.kind === 'unix') return `unix:${endpoint.path}`;
  return `tcp:${hostPort(endpoint.host, endpoint.port)}`;
}

/** The same place in gRPC's naming. */
export function grpcTarget(endpoint: Endpoint): string {
  if (endpoint.kind === 'unix') return `unix:${endpoint.path}`;
  return hostPort(endpoint.host, endpoint.port);
}

function hostPort(host: string, port: number): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

/**
 * Makes room for a listening socket: creates its directory, and removes a socket that a dead process left.
 * ALREADY_EXISTS when somebody answers there or the path is something else.
 */
export async function prepareSocket(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 });
  const found = await lstat(path).catch((error: unknown) => {
    if (isErrno(error, 'ENOENT')) return null;
    throw error;
  });
  if (found === null) return;
  if (!found.isSocket()) {
    throw new VolumeError(
      'ALREADY_EXISTS',
      `listen on ${path}: something that is not a socket is there`,
    );
  }
  if (await answers(path)) {
    throw new VolumeError(
      'ALREADY_EXISTS',
      `listen on ${path}: another process answers there; stop it first`,
    );
  }
  await unlink(path);
}

/** Only the user that made it may connect. */
export async function protectSocket(path: string): Promise<void> {
  await chmod(path, 0o600);
}

function answers(path: string): Promise<boolean> {
  return new Promise((settle, reject) => {
    const socket = connect(path);
    // A full backlog makes connect wait: somebody is there.
    socket.setTimeout(staleCheckMs, () => {
      socket.destroy();
      settle(true);
    });
    socket.once('connect', () => {
      socket.destroy();
      settle(true);
    });
    socket.once('error', (error) => {
      if (isErrno(error, 'ECONNREFUSED') || isErrno(error, 'ENOENT')) settle(false);
      else reject(error);
    });
  });
}

function isErrno(error: unknown, code: string): boolean {
  return typeof error === 'object' && error !== null && 'code' in error && error.code === code;
}
