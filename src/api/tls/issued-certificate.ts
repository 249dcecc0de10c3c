/**
 * A volumedriver's certificate from the issuer: obtained with the token of the pod, renewed in the middle of its life
 * or as soon as its CA is not trusted any more, and kept on disk, so that a restart needs no issuer. Nothing here ever
 * gives up: a volumedriver without a certificate serves its own node, and says what is missing.
 */
import { readFile } from 'node:fs/promises';
import type { X509Certificate } from 'node:crypto';
import type { Clock } from '../../base/clock.ts';
import { describeError, type Logger } from '../../base/logger.ts';
import type { Random } from '../../base/random.ts';
import { VolumeError } from '../../volumes/errors.ts';
import type { TcpEndpoint } from '../endpoint.ts';
import { requestCertificate } from '../issuer-client.ts';
import { renewalMs } from './authority.ts';
import type { TlsIdentity } from './identity.ts';
import { keep, loadKept } from './kept-certificate.ts';
import { checkOwn, type OwnPem } from './own-certificate.ts';
import { filePollMs, Repetition } from './repetition.ts';
import { MaterialCell, type OwnCertificate, type TlsMaterial } from './tls-source.ts';
import { expiryMs, formatTime, parseCertificates } from './trust.ts';
import { createCsr, newKeyPair } from './x509.ts';

export interface IssuedCertificateOptions {
  readonly identity: Extract<TlsIdentity, { kind: 'volumedriver' }>;
  /** Where the certificate is kept: a directory of its own. */
  readonly directory: string;
  readonly trustFile: string;
  readonly tokenFile: string;
  readonly issuer: TcpEndpoint;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  readonly pollMs?: number;
  /** The pause after the first failure; it doubles with each further one, up to 60 s. */
  readonly retryMs?: number;
}

const retryMsFirst = 1000;
const retryMsMax = 60_000;
const tokenBytesMax = 16 * 1024;

interface Own {
  pem: OwnPem;
  certificate: X509Certificate;
}

export async function openIssuedCertificate(
  options: IssuedCertificateOptions,
): Promise<OwnCertificate> {
  const issued = new IssuedCertificate(options);
  await issued.start();
  return issued;
}

class IssuedCertificate implements OwnCertificate {
  readonly #options: IssuedCertificateOptions;
  readonly #retryMs: number;
  readonly #cell = new MaterialCell();
  #trustPem: string | null = null;
  #trusted: X509Certificate[] = [];
  #trustFailure: string | null = null;
  #own: Own | null = null;
  #failure: string | null = null;
  #failures = 0;
  #nextAttemptMs = -Infinity;
  #repetition: Repetition | null = null;

  constructor(options: IssuedCertificateOptions) {
    this.#options = options;
    this.#retryMs = options.retryMs ?? retryMsFirst;
  }

  get material(): TlsMaterial | null {
    return this.#cell.material;
  }

  get expiresAtMs(): number | null {
    return this.#own === null ? null : expiryMs(this.#own.certificate);
  }

  get problem(): string | null {
    const { expiresAtMs } = this;
    const why = this.#failure === null ? '' : `: ${this.#failure}`;
    if (expiresAtMs === null) return `there is no certificate yet${why}`;
    if (this.#options.clock.now() <= expiresAtMs) return null;
    return `the certificate expired at ${formatTime(expiresAtMs)}${why}`;
  }

  onChange(listener: () => void): () => void {
    return this.#cell.onChange(listener);
  }

  /** Resolves when the kept certificate is in use, if there is a good one. A new one is asked for afterwards. */
  async start(): Promise<void> {
    const { clock, logger } = this.#options;
    await this.#readTrust();
    await this.#loadKept().catch((error: unknown) => {
      logger.warn('the certificate that was kept is not usable', { error });
    });
    this.#repetition = new Repetition(clock, () => this.#turn(), 0);
  }

  async close(): Promise<void> {
    await this.#repetition?.close();
  }

  async #loadKept(): Promise<void> {
    const pem = await loadKept(this.#options.directory);
    if (pem !== null) this.#use(pem, this.#check(pem));
  }

  async #turn(): Promise<number> {
    const { clock, pollMs = filePollMs } = this.#options;
    await this.#readTrust();
    if (this.#needsNew() && clock.now() >= this.#nextAttemptMs) await this.#attempt();
    const nowMs = clock.now();
    const dueMs =
      this.#own !== null && !this.#needsNew()
        ? renewalMs(this.#own.certificate)
        : this.#nextAttemptMs;
    return Math.max(0, Math.min(pollMs, dueMs - nowMs));
  }

  #needsNew(): boolean {
    if (this.#own === null) return true;
    try {
      this.#check(this.#own.pem);
    } catch {
      return true; // such as: its CA is not trusted any more
    }
    return this.#options.clock.now() >= renewalMs(this.#own.certificate);
  }

  async #attempt(): Promise<void> {
    const { clock, directory, logger } = this.#options;
    try {
      const pem = await this.#obtain();
      this.#use(pem, this.#check(pem));
      this.#failure = null;
      this.#failures = 0;
      // However short its life is: no more often than after a failure.
      this.#nextAttemptMs = clock.now() + this.#retryMs;
      logger.info('certificate obtained', { expires: formatTime(this.expiresAtMs ?? 0) });
      await keep(directory, pem).catch((error: unknown) => {
        logger.warn('the certificate is in use but could not be kept: a restart needs the issuer', {
          error,
        });
      });
    } catch (error) {
      this.#failure = describeError(error);
      this.#failures += 1;
      const waitMs = this.#retryPauseMs();
      this.#nextAttemptMs = clock.now() + waitMs;
      const { problem } = this;
      const fields = { error, waitMs: Math.round(waitMs) };
      if (problem === null) logger.warn('certificate not renewed yet', fields);
      else logger.error('no valid certificate: controllers cannot connect', { problem, ...fields });
    }
  }

  async #obtain(): Promise<OwnPem> {
    const { issuer, identity, tokenFile } = this.#options;
    if (this.#trustPem === null) {
      throw new VolumeError('UNAVAILABLE', this.#trustFailure ?? 'no CA is trusted');
    }
    // Kubernetes replaces it long before it expires.
    const token = (await readFile(tokenFile, 'utf8')).trim();
    if (token === '' || token.length > tokenBytesMax) {
      throw new VolumeError('INVALID_ARGUMENT', `token ${tokenFile}: it is empty or too long`);
    }
    const keys = newKeyPair();
    const certificatePem = await requestCertificate({
      issuer,
      driverName: identity.driverName,
      trustPem: this.#trustPem,
      csrDer: createCsr(keys),
      token,
    });
    const keyPem = keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString();
    return { certificatePem, keyPem };
  }

  #check(pem: OwnPem): X509Certificate {
    const { identity, clock } = this.#options;
    const what = 'certificate of this volumedriver';
    return checkOwn(pem, { what, identity, trusted: this.#trusted, nowMs: clock.now() });
  }

  #use(pem: OwnPem, certificate: X509Certificate): void {
    this.#own = { pem, certificate };
    this.#show();
  }

  #show(): void {
    if (this.#trustPem !== null && this.#own !== null) {
      this.#cell.set({ trustPem: this.#trustPem, own: this.#own.pem });
    }
  }

  /** A bundle that cannot be read leaves the one before in use. */
  async #readTrust(): Promise<void> {
    const { trustFile, logger } = this.#options;
    try {
      const trustPem = await readFile(trustFile, 'utf8');
      if (trustPem === this.#trustPem) return;
      this.#trusted = parseCertificates(`trust bundle ${trustFile}`, trustPem);
      this.#trustPem = trustPem;
      this.#trustFailure = null;
      this.#show();
      // A new CA may well be one that the issuer has, too.
      this.#nextAttemptMs = -Infinity;
      logger.info('trust bundle read', { authorities: this.#trusted.length });
    } catch (error) {
      const why = describeError(error);
      if (why !== this.#trustFailure) logger.error('the trust bundle is not usable', { why });
      this.#trustFailure = why;
    }
  }

  /** Between three and five quarters of the doubled pause: many volumedrivers start at once. */
  #retryPauseMs(): number {
    const pauseMs = Math.min(this.#retryMs * 2 ** Math.min(this.#failures - 1, 16), retryMsMax);
    return pauseMs * (0.75 + this.#options.random.bytes(1).readUInt8() / 512);
  }
}
