/** Who may call: read from the certificate that the connection was made with, for each call. */
import type { PeerCertificate } from 'node:tls';
import { VolumeError } from '../../volumes/errors.ts';
import { formatIdentity, identityOfAltName, isSameIdentity, type TlsIdentity } from './identity.ts';

/** Lets this one call, and throws PERMISSION_DENIED for everybody else. */
export function onlyFor(
  allowed: TlsIdentity,
): (path: string, peer: PeerCertificate | null) => void {
  return (path, peer) => {
    const caller = identityOfAltName(peer?.subjectaltname);
    if (caller !== null && isSameIdentity(caller, allowed)) return;
    const who = caller === null ? 'somebody without an identity of ours' : formatIdentity(caller);
    throw new VolumeError(
      'PERMISSION_DENIED',
      `${path}: the caller is ${who}, and only ${formatIdentity(allowed)} may call`,
    );
  };
}
