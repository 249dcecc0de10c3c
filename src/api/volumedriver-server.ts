/**
 * Offers any VolumeService as the volumedriver's gRPC API. Every field is checked before the service sees it, so
 * that a caller reads which field is wrong; what the values mean is the service's own business.
 */
import { Server } from '@grpc/grpc-js';
import type { Logger } from '../base/logger.ts';
import type {
  CreateVolumeRequest,
  ExportTarget,
  PageRequest,
  RemovalMode,
  SnapshotRef,
  VolumeService,
} from '../volumes/volume-service.ts';
import { apiPolicy } from './api-policy.ts';
import { invalidArgument, requireInteger, requireText, requireValue } from './arguments.ts';
import type { Endpoint } from './endpoint.ts';
import * as wire from './generated/volumedriver.ts';
import {
  addService,
  listen,
  listenSecurely,
  type FinishedCall,
  type ListeningServer,
  type ServiceHandlers,
} from './grpc-server.ts';
import { onlyFor } from './tls/authorize.ts';
import type { TlsIdentity } from './tls/identity.ts';
import { ChangingServerCredentials } from './tls/server-credentials.ts';
import type { TlsSource } from './tls/tls-source.ts';
import {
  flushFromWire,
  modeFromWire,
  snapshotRefFromWire,
  sourceFromWire,
  volumeToWire,
} from './volumedriver-convert.ts';

export interface VolumedriverServerOptions {
  readonly endpoint: Endpoint;
  readonly service: VolumeService;
  readonly logger: Logger;
  /** For an endpoint that other machines reach. */
  readonly tls?: ServerTls;
  /** Learns of each call when it is done. */
  readonly observe?: (call: FinishedCall) => void;
}

export interface ServerTls {
  readonly source: TlsSource;
  /** The one who may call. */
  readonly client: TlsIdentity;
  /** How long a connection is used, so that no peer lives on with certificates of long ago. An hour unless given. */
  readonly connectionMs?: number;
}

const connectionMsDefault = 3600 * 1000;

export async function startVolumedriverServer(
  options: VolumedriverServerOptions,
): Promise<ListeningServer> {
  const { tls, endpoint, logger, observe } = options;
  const server = new Server(
    tls && { 'grpc.max_connection_age_ms': tls.connectionMs ?? connectionMsDefault },
  );
  const handlers: ServiceHandlers = {
    ...volumeHandlers(options.service),
    ...snapshotHandlers(options.service),
    ...useHandlers(options.service),
  };
  const policy = apiPolicy(logger, { observe, authorize: tls && onlyFor(tls.client) });
  addService(server, wire.VolumedriverService, handlers, policy);
  if (tls === undefined) return await listen(server, endpoint);
  const credentials = new ChangingServerCredentials(tls.source, 'certificate');
  return await listenSecurely(server, endpoint, credentials);
}

function volumeHandlers(service: VolumeService) {
  return {
    getInfo: () => service.info(),
    getCapacity: () => service.capacity(),
    createVolume: async (request: wire.CreateVolumeRequest) =>
      volumeToWire(await service.createVolume(createRequest(request))),
    removeVolume: async (request: wire.RemoveVolumeRequest) => {
      await service.removeVolume(requireText('volume', request.volume), removalMode(request.mode));
      return {};
    },
    getVolume: async ({ volume }: wire.GetVolumeRequest) =>
      volumeToWire(await service.getVolume(requireText('volume', volume))),
    listVolumes: async (request: wire.ListVolumesRequest): Promise<wire.ListVolumesResponse> => {
      const { items, nextToken = '' } = await service.listVolumes(pageRequest(request));
      return { volumes: items.map(volumeToWire), nextToken };
    },
    growVolume: async ({ volume, sizeBytes }: wire.GrowVolumeRequest) =>
      volumeToWire(
        await service.growVolume(
          requireText('volume', volume),
          requireInteger('size_bytes', sizeBytes, { min: 1 }),
        ),
      ),
  } satisfies ServiceHandlers;
}

function snapshotHandlers(service: VolumeService) {
  return {
    createSnapshot: (request: wire.CreateSnapshotRequest) =>
      service.createSnapshot({
        volume: requireText('volume', request.volume),
        name: requireText('name', request.name),
        timeoutSeconds: request.timeoutSeconds,
        claimName: request.claimName,
      }),
    removeSnapshot: async (request: wire.RemoveSnapshotRequest) => {
      await service.removeSnapshot(snapshotRef(request.snapshot), removalMode(request.mode));
      return {};
    },
    rollbackSnapshot: async (request: wire.RollbackSnapshotRequest) => {
      await service.rollbackSnapshot(snapshotRef(request.snapshot));
      return {};
    },
    getSnapshot: (request: wire.GetSnapshotRequest) =>
      service.getSnapshot(snapshotRef(request.snapshot)),
    listSnapshots: async (
      request: wire.ListSnapshotsRequest,
    ): Promise<wire.ListSnapshotsResponse> => {
      const filter = {
        ...(request.volume === '' ? {} : { volume: requireText('volume', request.volume) }),
        ...(request.snapshot === '' ? {} : { snapshot: requireText('snapshot', request.snapshot) }),
      };
      const { items, nextToken = '' } = await service.listSnapshots(filter, pageRequest(request));
      return { snapshots: items, nextToken };
    },
    waitSnapshot: (request: wire.WaitSnapshotRequest) =>
      service.waitSnapshot(snapshotRef(request.snapshot), request.timeoutSeconds),
  } satisfies ServiceHandlers;
}

function useHandlers(service: VolumeService) {
  return {
    grant: async ({ volume, node, readOnly }: wire.GrantRequest): Promise<wire.GrantResponse> => {
      const generation = await service.grant(
        requireText('volume', volume),
        requireText('node', node),
        { readOnly },
      );
      return { generation };
    },
    revoke: async ({ volume, node }: wire.RevokeRequest) => {
      await service.revoke(
        requireText('volume', volume),
        node === '' ? null : requireText('node', node),
      );
      return {};
    },
    getExport: (request: wire.GetExportRequest) => service.getExport(exportTarget(request)),
    beginFormatting: async (request: wire.BeginFormattingRequest) => {
      await service.beginFormatting(
        requireText('volume', request.volume),
        requireInteger('generation', request.generation, { min: 1 }),
        requireText('filesystem', request.filesystem),
      );
      return {};
    },
    endFormatting: async (request: wire.EndFormattingRequest) => {
      await service.endFormatting(
        requireText('volume', request.volume),
        requireInteger('generation', request.generation, { min: 1 }),
      );
      return {};
    },
    syncVolume: async ({ volume }: wire.SyncVolumeRequest) => {
      await service.syncVolume(requireText('volume', volume));
      return {};
    },
  } satisfies ServiceHandlers;
}

function createRequest(request: wire.CreateVolumeRequest): CreateVolumeRequest {
  const created: CreateVolumeRequest = {
    name: requireText('name', request.name),
    sizeBytes: requireInteger('size_bytes', request.sizeBytes, { min: 1 }),
  };
  if (request.source !== undefined) {
    created.source = requireValue('source', sourceFromWire(request.source));
    requireText(
      'source',
      created.source.kind === 'snapshot' ? created.source.snapshotId : created.source.volumeId,
    );
  }
  if (request.flushTo !== wire.FlushTarget.FLUSH_TARGET_UNSPECIFIED) {
    created.flushTo = requireValue('flush_to', flushFromWire(request.flushTo));
  }
  return created;
}

function removalMode(mode: wire.RemovalMode): RemovalMode {
  return requireValue('mode', modeFromWire(mode));
}

function snapshotRef(ref: wire.SnapshotRef | undefined): SnapshotRef {
  const { volume, snapshot } = requireValue('snapshot', ref);
  requireText('snapshot', snapshot);
  if (volume !== '') requireText('volume', volume);
  return snapshotRefFromWire({ volume, snapshot });
}

function exportTarget({ target }: wire.GetExportRequest): ExportTarget {
  switch (target?.$case) {
    case 'granted': {
      const volume = requireText('volume', target.value.volume);
      const generation = requireInteger('generation', target.value.generation, { min: 1 });
      return { kind: 'granted', volume, generation };
    }
    case 'plainVolume':
      return { kind: 'plain', volume: requireText('volume', target.value) };
    case 'snapshot':
      return { kind: 'snapshot', snapshot: snapshotRef(target.value) };
    case undefined:
      throw invalidArgument('target', 'it is required');
  }
}

function pageRequest({ limit, startToken }: { limit: number; startToken: string }): PageRequest {
  return {
    ...(limit === 0 ? {} : { limit }),
    ...(startToken === '' ? {} : { startToken }),
  };
}
