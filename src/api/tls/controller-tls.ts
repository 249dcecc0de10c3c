/**
 * The controller's side of TLS: the CA in a directory, which is a mounted Secret (tls.crt, tls.key, and ca-bundle.crt
 * with further CAs to trust, if there is one). It signs a certificate for itself, which it keeps in memory and renews,
 * and those of volumedrivers. Files that change are taken when they fit together; until then what was there stays in use.
 */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { assert } from '../../base/assert.ts';
import type { Clock } from '../../base/clock.ts';
import { readFileIfPresent } from '../../base/files.ts';
import { describeError, type Logger } from '../../base/logger.ts';
import { toVolumeError } from '../../volumes/errors.ts';
import { Authority, certificateLifetimeMs, renewalMs } from './authority.ts';
import type { TlsIdentity } from './identity.ts';
import { checkOwn } from './own-certificate.ts';
import { filePollMs, Repetition } from './repetition.ts';
import { MaterialCell, type TlsMaterial, type TlsSource } from './tls-source.ts';
import { formatTime, parseCertificates } from './trust.ts';
import { newKeyPair, publicKeyOfCsr } from './x509.ts';

/** A CA that ends so soon is warned of, once a day. */
const endsSoonMs = 30 * 24 * 3600 * 1000;
const warnEveryMs = 24 * 3600 * 1000;

export interface ControllerTlsOptions {
  readonly directory: string;
  readonly driverName: string;
  readonly clock: Clock;
  readonly logger: Logger;
  /** Of each certificate; 24 h unless given. */
  readonly lifetimeMs?: number;
  readonly pollMs?: number;
}

interface Files {
  certificatePem: string;
  keyPem: string;
  bundlePem: string;
}

/** INVALID_ARGUMENT or UNAVAILABLE says what is wrong with the CA. */
export async function openControllerTls(options: ControllerTlsOptions): Promise<ControllerTls> {
  const tls = new ControllerTls(options);
  await tls.start();
  return tls;
}

export class ControllerTls implements TlsSource {
  readonly #options: ControllerTlsOptions;
  readonly #identity: TlsIdentity;
  readonly #name: string;
  readonly #lifetimeMs: number;
  readonly #pollMs: number;
  readonly #cell = new MaterialCell();
  #files: Files | null = null;
  #authority: Authority | null = null;
  #renewAtMs = 0;
  #problem: string | null = null;
  #warnedAtMs = -Infinity;
  #repetition: Repetition | null = null;

  constructor(options: ControllerTlsOptions) {
    this.#options = options;
    this.#identity = { kind: 'controller', driverName: options.driverName };
    this.#name = join(options.directory, 'tls.crt');
    this.#lifetimeMs = options.lifetimeMs ?? certificateLifetimeMs;
    this.#pollMs = options.pollMs ?? filePollMs;
  }

  get material(): TlsMaterial | null {
    return this.#cell.material;
  }

  onChange(listener: () => void): () => void {
    return this.#cell.onChange(listener);
  }

  async start(): Promise<void> {
    await this.#refresh();
    this.#repetition = new Repetition(
      this.#options.clock,
      () => this.#refreshAgain(),
      this.#pauseMs(),
    );
  }

  /**
   * A certificate and what leads from it to a root, in PEM, for whoever has the request's key. The caller has made sure
   * that the identity is theirs. INVALID_ARGUMENT for a bad request; UNAVAILABLE when the CA can't sign now.
   */
  issue(identity: TlsIdentity, csrDer: Uint8Array): string {
    const publicKey = publicKeyOfCsr(csrDer);
    return this.#sign(this.#authority, identity, publicKey);
  }

  async close(): Promise<void> {
    await this.#repetition?.close();
  }

  async #refreshAgain(): Promise<number> {
    try {
      await this.#refresh();
      this.#problem = null;
    } catch (error) {
      const problem = describeError(error);
      if (problem !== this.#problem) {
        this.#options.logger.error('the CA is not usable: going on as before', { error });
      }
      this.#problem = problem;
    }
    return this.#pauseMs();
  }

  async #refresh(): Promise<void> {
    const files = await this.#read();
    const nowMs = this.#options.clock.now();
    const changed = JSON.stringify(files) !== JSON.stringify(this.#files);
    if (!changed && nowMs < this.#renewAtMs) return;
    const { certificatePem, keyPem, bundlePem } = files;
    const authority = new Authority({ name: this.#name, certificatePem, keyPem });
    const { publicKey, privateKey } = newKeyPair();
    const own = {
      certificatePem: this.#sign(authority, this.#identity, publicKey),
      keyPem: privateKey.export({ format: 'pem', type: 'pkcs8' }).toString(),
    };
    const trustPem = `${certificatePem}\n${bundlePem}`;
    const certificate = checkOwn(own, {
      what: `certificate by the CA ${this.#name}`,
      identity: this.#identity,
      trusted: parseCertificates(`trust bundle ${this.#bundleName}`, trustPem),
      nowMs,
    });
    this.#files = files;
    this.#authority = authority;
    this.#renewAtMs = renewalMs(certificate);
    this.#cell.set({ trustPem, own });
    if (changed) this.#options.logger.info('CA read', aboutAuthority(authority));
    this.#warnOfEnd(authority, nowMs);
  }

  get #bundleName(): string {
    return join(this.#options.directory, 'ca-bundle.crt');
  }

  async #read(): Promise<Files> {
    try {
      return {
        certificatePem: await readFile(this.#name, 'utf8'),
        keyPem: await readFile(join(this.#options.directory, 'tls.key'), 'utf8'),
        bundlePem: (await readFileIfPresent(this.#bundleName)) ?? '',
      };
    } catch (error) {
      throw toVolumeError(error, 'read the CA', 'UNAVAILABLE');
    }
  }

  #sign(
    authority: Authority | null,
    identity: TlsIdentity,
    publicKey: Parameters<Authority['issue']>[1],
  ): string {
    assert(authority !== null, 'start() has read the CA');
    return authority.issue(identity, publicKey, {
      nowMs: this.#options.clock.now(),
      lifetimeMs: this.#lifetimeMs,
    });
  }

  #pauseMs(): number {
    const untilRenewalMs = this.#renewAtMs - this.#options.clock.now();
    return untilRenewalMs > 0 ? Math.min(untilRenewalMs, this.#pollMs) : this.#pollMs;
  }

  #warnOfEnd(authority: Authority, nowMs: number): void {
    const leftMs = authority.expiresAtMs - nowMs;
    if (leftMs > endsSoonMs || nowMs - this.#warnedAtMs < warnEveryMs) return;
    this.#warnedAtMs = nowMs;
    this.#options.logger.warn('the CA expires soon: replace it', aboutAuthority(authority));
  }
}

function aboutAuthority(authority: Authority): Record<string, string> {
  const { subject, fingerprint256 } = authority.certificate;
  return { subject, fingerprint256, expires: formatTime(authority.expiresAtMs) };
}
