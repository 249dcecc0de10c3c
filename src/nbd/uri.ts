/**
 * Where an NBD server listens and how an export is named: `unix:PATH` and `tcp:HOST:PORT` on command lines,
 * NBD URIs (NetworkBlockDevice/nbd doc/uri.md) between roles. Pure; every bad text is INVALID_ARGUMENT.
 */
import { VolumeError } from '../volumes/errors.ts';

export type NbdAddress =
  | { readonly kind: 'unix'; readonly path: string }
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number };

export interface NbdUri {
  readonly address: NbdAddress;
  readonly exportName: string;
}

/** IANA's port of NBD, for a URI without one. */
export const defaultPort = 10809;

/** sun_path of unix(7) holds 108 bytes with its final zero. */
const maxSocketPathBytes = 107;

/** Parses `unix:PATH` or `tcp:HOST:PORT` (an IPv6 host in brackets). */
export function parseNbdAddress(text: string): NbdAddress {
  if (text.startsWith('unix:')) return unixAddress(text.slice('unix:'.length), text);
  const match = /^tcp:(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]/]+)):([0-9]{1,5})$/.exec(text);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined) throw invalid(text, 'it must be unix:PATH or tcp:HOST:PORT');
  return { kind: 'tcp', host, port: parsePort(match?.[3] ?? '', text) };
}

export function formatNbdAddress(address: NbdAddress): string {
  return address.kind === 'unix'
    ? `unix:${address.path}`
    : `tcp:${hostText(address.host)}:${address.port}`;
}

/** Parses nbd+unix:///NAME?socket=PATH or nbd://HOST[:PORT]/NAME. An absent name is the default export, ''. */
export function parseNbdUri(text: string): NbdUri {
  // Not the URL class: it takes an export named '..' for a way up, and '+' in a socket's path for a space.
  const parts = /^(nbd(?:\+unix)?):\/\/([^/?#]*)(?:\/([^?#]*))?(?:\?([^#]*))?$/.exec(text);
  if (parts === null) throw invalid(text, 'it must start with nbd:// or nbd+unix:///');
  const [scheme, authority = '', name = '', query = ''] = parts.slice(1);
  const exportName = unescape(name, text);
  if (scheme === 'nbd') return { address: tcpAddress(authority, text), exportName };
  if (authority !== '') throw invalid(text, 'nbd+unix has three slashes and no host');
  const socket = query.split('&').find((field) => field.startsWith('socket='));
  if (socket === undefined) throw invalid(text, 'nbd+unix needs ?socket=PATH');
  return { address: unixAddress(unescape(socket.slice('socket='.length), text), text), exportName };
}

/** The URI of an export; characters such as '@' and '#' of the name are escaped. */
export function formatNbdUri(uri: NbdUri): string {
  const name = encodeURIComponent(uri.exportName);
  if (uri.address.kind === 'tcp') {
    return `nbd://${hostText(uri.address.host)}:${uri.address.port}/${name}`;
  }
  // Slashes may stay, which keeps the URI readable.
  const path = encodeURIComponent(uri.address.path).replaceAll('%2F', '/');
  return `nbd+unix:///${name}?socket=${path}`;
}

function tcpAddress(authority: string, text: string): NbdAddress {
  const match = /^(?:\[([0-9A-Fa-f:.]+)\]|([^:[\]]+))(?::([0-9]{1,5}))?$/.exec(authority);
  const host = match?.[1] ?? match?.[2];
  if (host === undefined) throw invalid(text, 'nbd needs HOST or HOST:PORT');
  const port = match?.[3] === undefined ? defaultPort : parsePort(match[3], text);
  return { kind: 'tcp', host: unescape(host, text), port };
}

function hostText(host: string): string {
  return host.includes(':') ? `[${host}]` : host;
}

function unixAddress(path: string, text: string): NbdAddress {
  if (!path.startsWith('/')) throw invalid(text, 'the path of a unix socket must be absolute');
  if (path.includes('\0')) throw invalid(text, 'the path holds a zero byte');
  if (Buffer.byteLength(path) > maxSocketPathBytes) {
    throw invalid(text, `the path of a unix socket is at most ${maxSocketPathBytes} bytes`);
  }
  return { kind: 'unix', path };
}

function parsePort(digits: string, text: string): number {
  const port = Number(digits);
  if (!Number.isInteger(port) || port < 0 || port > 65535)
    throw invalid(text, 'the port must be 0 to 65535');
  return port;
}

function unescape(part: string, text: string): string {
  try {
    return decodeURIComponent(part);
  } catch (cause) {
    throw invalid(text, 'it is badly escaped', cause);
  }
}

function invalid(text: string, why: string, cause?: unknown): VolumeError {
  return new VolumeError('INVALID_ARGUMENT', `read NBD address ${JSON.stringify(text)}: ${why}`, {
    cause,
  });
}
