/**
 * A volumedriver's certificate in files that somebody else keeps current, such as cert-manager. They are read again
 * when they change, and taken when they fit together; until then what was there stays in use.
 */
import { readFile } from 'node:fs/promises';
import type { Clock } from '../../base/clock.ts';
import { describeError, type Logger } from '../../base/logger.ts';
import type { TlsIdentity } from './identity.ts';
import { checkOwn } from './own-certificate.ts';
import { filePollMs, Repetition } from './repetition.ts';
import { MaterialCell, type OwnCertificate, type TlsMaterial } from './tls-source.ts';
import { expiryMs, formatTime, parseCertificates } from './trust.ts';

export interface CertificateFilesOptions {
  readonly trustFile: string;
  readonly certificateFile: string;
  readonly keyFile: string;
  readonly identity: TlsIdentity;
  readonly clock: Clock;
  readonly logger: Logger;
  readonly pollMs?: number;
}

/** Files that cannot be used are waited for: the volumedriver has other work meanwhile. */
export async function openCertificateFiles(
  options: CertificateFilesOptions,
): Promise<OwnCertificate> {
  const files = new CertificateFiles(options);
  await files.start();
  return files;
}

class CertificateFiles implements OwnCertificate {
  readonly #options: CertificateFilesOptions;
  readonly #cell = new MaterialCell();
  /** What was taken last. */
  #texts = '';
  #expiresAtMs: number | null = null;
  #failure: string | null = null;
  #wasGood = false;
  #repetition: Repetition | null = null;

  constructor(options: CertificateFilesOptions) {
    this.#options = options;
  }

  get material(): TlsMaterial | null {
    return this.#cell.material;
  }

  get expiresAtMs(): number | null {
    return this.#expiresAtMs;
  }

  get problem(): string | null {
    const { clock, certificateFile } = this.#options;
    if (this.#expiresAtMs === null) return this.#failure ?? 'there is no certificate yet';
    if (clock.now() <= this.#expiresAtMs) return null;
    const why = this.#failure === null ? '' : `; ${this.#failure}`;
    return `certificate ${certificateFile}: it expired at ${formatTime(this.#expiresAtMs)}${why}`;
  }

  onChange(listener: () => void): () => void {
    return this.#cell.onChange(listener);
  }

  async start(): Promise<void> {
    const { clock, pollMs = filePollMs } = this.#options;
    const turn = async (): Promise<number> => {
      await this.#refresh();
      return pollMs;
    };
    this.#repetition = new Repetition(clock, turn, await turn());
  }

  async close(): Promise<void> {
    await this.#repetition?.close();
  }

  async #refresh(): Promise<void> {
    const { logger } = this.#options;
    let failure: string | null = null;
    try {
      await this.#take();
    } catch (error) {
      failure = describeError(error);
    }
    const isNew = failure !== null && failure !== this.#failure;
    this.#failure = failure;
    if (isNew) logger.error('certificate files are not usable', { why: failure });
    const { problem } = this;
    if (this.#wasGood && problem !== null) logger.error('no valid certificate', { why: problem });
    this.#wasGood = problem === null;
  }

  async #take(): Promise<void> {
    const { trustFile, certificateFile, keyFile, identity, clock, logger } = this.#options;
    const trustPem = await readFile(trustFile, 'utf8');
    const own = {
      certificatePem: await readFile(certificateFile, 'utf8'),
      keyPem: await readFile(keyFile, 'utf8'),
    };
    const texts = JSON.stringify([trustPem, own]);
    if (texts === this.#texts) return;
    const trusted = parseCertificates(`trust bundle ${trustFile}`, trustPem);
    const what = `certificate ${certificateFile}`;
    const certificate = checkOwn(own, { what, identity, trusted, nowMs: clock.now() });
    this.#texts = texts;
    this.#expiresAtMs = expiryMs(certificate);
    this.#cell.set({ trustPem, own });
    logger.info('certificate read', { expires: formatTime(this.#expiresAtMs) });
  }
}
