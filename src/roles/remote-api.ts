/** The volumedriver's API for controllers on other machines: where its certificate comes from, and who may call. */
import { join } from 'node:path';
import { openCertificateFiles } from '../api/tls/certificate-files.ts';
import { openIssuedCertificate } from '../api/tls/issued-certificate.ts';
import type { OwnCertificate } from '../api/tls/tls-source.ts';
import { startVolumedriverServer } from '../api/volumedriver-server.ts';
import { systemClock } from '../base/clock.ts';
import type { Logger } from '../base/logger.ts';
import { systemRandom } from '../base/random.ts';
import type { RemoteApi, VolumedriverConfig } from '../config.ts';
import type { ObservedCall } from '../monitoring/call-metrics.ts';
import type { VolumeService } from '../volumes/volume-service.ts';

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

/** Listens at once; connections are dropped while there is no certificate. */
export async function startRemoteApi(
  remote: RemoteApi,
  { config, service, logger, observe }: RemoteApiContext,
): Promise<RunningRemoteApi> {
  const { driverName } = config;
  const certificate = await openCertificate(remote, config, logger);
  try {
    const server = await startVolumedriverServer({
      endpoint: remote.listen,
      service,
      logger: logger.child({ api: 'remote' }),
      observe,
      tls: { source: certificate, client: { kind: 'controller', driverName } },
    });
    return {
      get expiresAtMs() {
        return certificate.expiresAtMs;
      },
      get problem() {
        return certificate.problem;
      },
      close: async () => {
        await server.close();
        await certificate.close();
      },
    };
  } catch (error) {
    await certificate.close();
    throw error;
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
