/**
 * What a TLS connection is made of, while it changes: connections take what is current when they are made, and
 * live on with it.
 */
export interface TlsMaterial {
  /** The CAs whose certificates are accepted. */
  readonly trustPem: string;
  /** Our own certificate, its chain, and its key. */
  readonly own: { readonly certificatePem: string; readonly keyPem: string } | null;
}

export interface TlsSource {
  /** Null while there is none: no connection can be made. */
  readonly material: TlsMaterial | null;
  /** Calls back after each change, until the returned function is called. */
  onChange(listener: () => void): () => void;
}

/** A source that somebody else keeps current. */
export class MaterialCell implements TlsSource {
  #material: TlsMaterial | null = null;
  readonly #listeners = new Set<() => void>();

  get material(): TlsMaterial | null {
    return this.#material;
  }

  set(material: TlsMaterial): void {
    this.#material = material;
    for (const listener of this.#listeners) listener();
  }

  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }
}

/** A volumedriver's own source: with what can be told of its certificate. */
export interface OwnCertificate extends TlsSource {
  /** In milliseconds since 1970; null while there is no certificate. */
  readonly expiresAtMs: number | null;
  /** Why controllers cannot connect now; null when they can. */
  readonly problem: string | null;
  close(): Promise<void>;
}
