/** A server's side of TLS 1.3, with certificates that change while it listens. Connections that exist live on. */
import { constants } from 'node:crypto';
import type { SecureContextOptions } from 'node:tls';
import { ServerCredentials } from '@grpc/grpc-js';
import type { TlsSource } from './tls-source.ts';

type Watcher = Parameters<ServerCredentials['_addWatcher']>[0];

const handshakeMs = 10_000;

export class ChangingServerCredentials extends ServerCredentials {
  readonly #source: TlsSource;
  readonly #clients: 'certificate' | 'anybody';
  #ignoreChanges: (() => void) | null = null;

  /** `certificate`: who shows none that leads to a CA of the source gets no connection. */
  constructor(source: TlsSource, clients: 'certificate' | 'anybody') {
    const checked = clients === 'certificate';
    super(
      {
        requestCert: checked,
        rejectUnauthorized: checked,
        handshakeTimeout: handshakeMs,
        minVersion: 'TLSv1.3',
      },
      contextOf(source, clients) ?? undefined,
    );
    this.#source = source;
    this.#clients = clients;
  }

  override _addWatcher(watcher: Watcher): void {
    super._addWatcher(watcher);
    if (this.#ignoreChanges !== null) return;
    const update = (): void => {
      this.updateSecureContextOptions(contextOf(this.#source, this.#clients));
    };
    this.#ignoreChanges = this.#source.onChange(update);
    update();
  }

  override _removeWatcher(watcher: Watcher): void {
    super._removeWatcher(watcher);
    if (this.getWatcherCount() > 0) return;
    this.#ignoreChanges?.();
    this.#ignoreChanges = null;
  }

  override _equals(other: ServerCredentials): boolean {
    return this === other;
  }
}

/** Null, and every connection is dropped, while there is no certificate to show. */
function contextOf(
  { material }: TlsSource,
  clients: 'certificate' | 'anybody',
): SecureContextOptions | null {
  if (!material?.own) return null;
  return {
    ...(clients === 'certificate' && { ca: material.trustPem }),
    cert: material.own.certificatePem,
    key: material.own.keyPem,
    minVersion: 'TLSv1.3',
    // A session that is resumed shows no certificate: it might be one that has expired since.
    secureOptions: constants.SSL_OP_NO_TICKET,
  };
}
