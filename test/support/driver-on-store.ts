/**
 * Everything of a volumedriver and a CSI controller in this process, over a store of the test's choice: the real engine
 * on a real disk, its NBD server, its gRPC API on a socket, and the controller as a client of that.
 */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ControllerService } from '../../src/api/generated/csi.ts';
import { GrpcPeer } from '../../src/api/grpc-client.ts';
import { VolumedriverClient } from '../../src/api/volumedriver-client.ts';
import { startVolumedriverServer } from '../../src/api/volumedriver-server.ts';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger } from '../../src/base/logger.ts';
import { systemRandom } from '../../src/base/random.ts';
import { createControllerService } from '../../src/controller/controller-service.ts';
import { staticNodes } from '../../src/controller/node-registry.ts';
import { staticVolumedrivers } from '../../src/controller/volumedrivers.ts';
import { createIdentityService } from '../../src/csi/identity-service.ts';
import { startCsiServer } from '../../src/csi/server.ts';
import { connectNbd, type NbdClient } from '../../src/nbd/client.ts';
import { NbdServer } from '../../src/nbd/server.ts';
import { formatNbdUri, type NbdAddress } from '../../src/nbd/uri.ts';
import { LinuxDisk } from '../../src/volumedriver/disk/linux-disk.ts';
import { openEngine, type EngineOptions } from '../../src/volumedriver/engine.ts';
import { VolumeExports } from '../../src/volumedriver/service/exports.ts';
import { Volumedriver } from '../../src/volumedriver/service/volumedriver.ts';
import type { ObjectStore } from '../../src/volumedriver/store/object-store.ts';

export interface DriverOnStoreOptions {
  /** Makes the backend; `folder` is removed with the driver. */
  readonly makeStore: (folder: string, disk: LinuxDisk) => Promise<ObjectStore> | ObjectStore;
  readonly engine?: Partial<EngineOptions>;
}

export interface DriverOnStore {
  /** The API's client, over its socket. */
  readonly volumes: VolumedriverClient;
  /** Calls of the CSI controller, over its socket. */
  readonly csi: GrpcPeer;
  connect(exportName: string): Promise<NbdClient>;
  close(): Promise<void>;
}

export async function startDriverOnStore(options: DriverOnStoreOptions): Promise<DriverOnStore> {
  const folder = await mkdtemp(join(tmpdir(), 'driver-on-store-'));
  const disk = new LinuxDisk();
  const dataDirectory = join(folder, 'data');
  await mkdir(dataDirectory);
  const store = await options.makeStore(folder, disk);
  const { environment, backendId } = await openEngine({
    ...{ disk, store, dataDirectory, logger: silentLogger },
    ...{ clock: systemClock, random: systemRandom },
    ...{ mapMemoryBytes: 2 ** 24, readCacheBytes: 2 ** 24, reserveBytes: 2 ** 20 },
    ...options.engine,
  });
  const nbd: NbdAddress = { kind: 'unix', path: join(folder, 'nbd.sock') };
  const uri = (exportName: string): string => formatNbdUri({ address: nbd, exportName });
  const service = new Volumedriver(environment, {
    ...{ version: 'test', nodeId: 'node-1', backendId, shared: false, defaultFlushTo: 'local' },
    exportUri: uri,
  });
  await service.start();
  const exports = new VolumeExports(service.catalog, environment.reader);
  const nbdServer = new NbdServer({ exports, logger: silentLogger });
  await nbdServer.listen(nbd);
  const api = { kind: 'unix', path: join(folder, 'api.sock') } as const;
  const apiServer = await startVolumedriverServer({ endpoint: api, service, logger: silentLogger });
  const volumes = new VolumedriverClient(api);
  const csiEndpoint = { kind: 'unix', path: join(folder, 'csi.sock') } as const;
  const driverName = 'csi.volumedriver.io';
  const csiServer = await startCsiServer({
    ...{ endpoint: csiEndpoint, logger: silentLogger },
    identity: createIdentityService({
      ...{ driverName, version: 'test', ready: () => Promise.resolve(true) },
    }),
    controller: createControllerService({
      driverName,
      volumedrivers: staticVolumedrivers([volumes]),
      nodes: staticNodes(['node-1']),
      overcommit: 10,
      attachLimit: 128,
      deletesUnpublishedOnly: false,
    }),
  });
  const csi = new GrpcPeer('the controller', csiEndpoint);
  return {
    volumes,
    csi,
    connect: async (exportName) => await connectNbd(uri(exportName)),
    close: async () => {
      csi.close();
      volumes.close();
      await csiServer.close(200);
      await apiServer.close(200);
      await nbdServer.close({ graceMs: 0, drainMs: 1000 });
      await service.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

/** What the controller says of a snapshot: that of ListSnapshots by its id. */
export async function readyToUse(csi: GrpcPeer, snapshotId: string): Promise<boolean | undefined> {
  const request = { ...{ maxEntries: 0, startingToken: '', sourceVolumeId: '' }, snapshotId };
  const { entries } = await csi.call(
    ControllerService.listSnapshots,
    { ...request, secrets: {} },
    10_000,
  );
  return entries[0]?.snapshot?.readyToUse;
}
