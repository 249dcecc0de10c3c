/** The volumedriver's API for controllers on other machines: where its certificate comes from, and who may call. */
import { join } from 'node:path';
import { formatEndpoint } from '../api/endpoint.ts';
import type { ListeningServer } from '../api/grpc-server.ts';
import { openCertificateFiles } from '../api/tls/certificate-files.ts';
import { openIssuedCertificate } from '../api/tls/issued-certificate.ts';
import type { OwnCertificate } from '../api/tls/tls-source.ts';
import { startVolumedriverServer } from '../api/volumedriver-server.ts';
import { systemClock } from '../base/clock.ts';
import { describeError, type Logger } from '../base/logger.ts';
import { systemRandom } from '../base/random.ts';
import type { RemoteApi, VolumedriverConfig } from '../config.ts';
import type { ObservedCall } from '../monitoring/call-metrics.ts';
import type { VolumeService } from '../volumes/volume-service.ts';

const listenAgainMs = 2000;

export interface RunningRemoteApi {
  /** In milliseconds since 1970; null while there is no certificate. */
  readonly expiresAtMs: number | null;
  /** Why controllers cannot connect; null when they can. */
  readonly problem: string | null;
  close(): Promise<void>;
}

export interface RemoteApiContext {
  readonly config: VolumedriverConfig;
  readonly service: VolumeService;
  readonly logger: Logger;
  readonly observe: (call: ObservedCall) => void;
}

/**
 * Resolves when the certificate that is there, if any, is in use. Connections are dropped while there is none; where the
 * address cannot be listened on, it is tried again: a node's own volumes do not wait for its controllers.
 */
export async function startRemoteApi(
  remote: RemoteApi,
  { config, service, logger, observe }: RemoteApiContext,
): Promise<RunningRemoteApi> {
  const { driverName } = config;
  const certificate = await openCertificate(remote, config, logger);
  const listener = new PatientListener(
    () =>
      startVolumedriverServer({
        endpoint: remote.listen,
        service,
        logger: logger.child({ api: 'remote' }),
        observe,
        tls: { source: certificate, client: { kind: 'controller', driverName } },
      }),
    logger,
  );
  await listener.start();
  return {
    get expiresAtMs() {
      return certificate.expiresAtMs;
    },
    get problem() {
      return listener.problem ?? certificate.problem;
    },
    close: async () => {
      await listener.close();
      await certificate.close();
    },
  };
}

/** Listens as soon as that is possible. */
class PatientListener {
  readonly #listen: () => Promise<ListeningServer>;
  readonly #logger: Logger;
  readonly #closing = new AbortController();
  #server: ListeningServer | null = null;
  #running: Promise<void> = Promise.resolve();
  problem: string | null = null;

  constructor(listen: () => Promise<ListeningServer>, logger: Logger) {
    this.#listen = listen;
    this.#logger = logger;
  }

  /** Resolves after the first attempt. */
  async start(): Promise<void> {
    if (!(await this.#attempt())) this.#running = this.#tryOn();
  }

  async close(): Promise<void> {
    this.#closing.abort();
    await this.#running;
    await this.#server?.close();
  }

  async #tryOn(): Promise<void> {
    const { signal } = this.#closing;
    do {
      await systemClock.sleep(listenAgainMs, signal).catch(() => undefined); // closing: seen next
    } while (!signal.aborted && !(await this.#attempt()));
  }

  async #attempt(): Promise<boolean> {
    try {
      this.#server = await this.#listen();
      this.problem = null;
      this.#logger.info('remote API listening', {
        endpoint: formatEndpoint(this.#server.endpoint),
      });
      return true;
    } catch (error) {
      const problem = describeError(error);
      if (problem !== this.problem) this.#logger.error('no remote API: trying again', { problem });
      this.problem = problem;
      return false;
    }
  }
}

async function openCertificate(
  { trustFile, certificate }: RemoteApi,
  { driverName, nodeId, dataDirectory }: VolumedriverConfig,
  logger: Logger,
): Promise<OwnCertificate> {
  const identity = { kind: 'volumedriver', driverName, nodeId } as const;
  const common = { identity, trustFile, clock: systemClock, logger };
  if (certificate.kind === 'files') {
    const { certificateFile, keyFile } = certificate;
    return await openCertificateFiles({ ...common, certificateFile, keyFile });
  }
  const { issuer, tokenFile } = certificate;
  const directory = join(dataDirectory, 'tls');
  return await openIssuedCertificate({
    ...common,
    directory,
    issuer,
    tokenFile,
    random: systemRandom,
  });
}
