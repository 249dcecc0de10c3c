/**
 * Who somebody is: the one URI that a certificate names. Host names mean nothing here, since pods and nodes have new
 * addresses all the time. A URI has exactly one spelling, so that two of them can be compared as texts.
 */
import { assert } from '../../base/assert.ts';

export type TlsIdentity =
  | { readonly kind: 'controller'; readonly driverName: string }
  | { readonly kind: 'volumedriver'; readonly driverName: string; readonly nodeId: string };

/** Names of drivers and nodes have at most 253 bytes. */
const uriLengthMax = 2048;

/** `volumedriver://DRIVER/controller` or `volumedriver://DRIVER/volumedriver/NODE`. */
export function formatIdentity(identity: TlsIdentity): string {
  assert(identity.driverName !== '', 'an identity has a driver name');
  const base = `volumedriver://${encode(identity.driverName)}`;
  if (identity.kind === 'controller') return `${base}/controller`;
  assert(identity.nodeId !== '', 'the identity of a volumedriver has a node');
  return `${base}/volumedriver/${encode(identity.nodeId)}`;
}

/** Null for anything that formatIdentity() would not have made. */
export function parseIdentity(uri: string): TlsIdentity | null {
  if (uri.length > uriLengthMax) return null;
  const parts = /^volumedriver:\/\/([^/]+)\/(?:(controller)|volumedriver\/([^/]+))$/.exec(uri);
  const driverName = decode(parts?.[1]);
  if (parts === null || driverName === null) return null;
  const nodeId = decode(parts[3]);
  let identity: TlsIdentity;
  if (parts[2] !== undefined) identity = { kind: 'controller', driverName };
  else if (nodeId !== null) identity = { kind: 'volumedriver', driverName, nodeId };
  else return null;
  return formatIdentity(identity) === uri ? identity : null;
}

/**
 * The identity in a certificate, from the text that Node makes of its subjectAltName; null unless that holds one of
 * our URIs and nothing else. Node puts quotes around values that could be taken for two; ours need none.
 */
export function identityOfAltName(subjectAltName: string | undefined): TlsIdentity | null {
  if (subjectAltName?.startsWith('URI:') !== true) return null;
  return parseIdentity(subjectAltName.slice('URI:'.length));
}

export function isSameIdentity(left: TlsIdentity, right: TlsIdentity): boolean {
  return formatIdentity(left) === formatIdentity(right);
}

/** RFC 3986's unreserved characters stay; all others are percent-encoded, also those that encodeURIComponent leaves. */
function encode(text: string): string {
  return encodeURIComponent(text.toWellFormed()).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}

function decode(text: string | undefined): string | null {
  if (text === undefined) return null;
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}
