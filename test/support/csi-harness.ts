/**
 * The whole driver on one CSI socket without an engine: the real controller and node services over
 * MemoryVolumeService and loop devices. csi-sanity and raw clients are pointed at it. Needs root to stage volumes.
 */
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { silentLogger, type Logger } from '../../src/base/logger.ts';
import { createControllerService } from '../../src/controller/controller-service.ts';
import { staticNodes } from '../../src/controller/node-registry.ts';
import { staticVolumedrivers } from '../../src/controller/volumedrivers.ts';
import { createIdentityService } from '../../src/csi/identity-service.ts';
import { startCsiServer } from '../../src/csi/server.ts';
import { createNodeService } from '../../src/node/node-service.ts';
import { LoopDeviceService } from './loop-device-service.ts';
import { MemoryVolumeService } from './memory-volume-service.ts';

const driverName = 'csi.volumedriver.io';
const nodeId = 'node-1';

export interface CsiHarness {
  readonly socketPath: string;
  readonly volumes: MemoryVolumeService;
  readonly devices: LoopDeviceService;
  close(): Promise<void>;
}

/** Keeps everything below `directory`, which exists and is removed with the harness. */
export async function startCsiHarness(
  directory: string,
  logger: Logger = silentLogger,
): Promise<CsiHarness> {
  const volumes = new MemoryVolumeService({ nodeId });
  const devices = new LoopDeviceService(join(directory, 'devices'), volumes);
  const socketDirectory = join(directory, 'run');
  await mkdir(socketDirectory, { mode: 0o700 });
  const socketPath = join(socketDirectory, 'csi.sock');
  const server = await startCsiServer({
    endpoint: { kind: 'unix', path: socketPath },
    identity: createIdentityService({
      driverName,
      version: '0.0.0-test',
      ready: () => Promise.resolve(true),
    }),
    controller: createControllerService({
      driverName,
      volumedrivers: staticVolumedrivers([volumes]),
      nodes: staticNodes([nodeId]),
      overcommit: 10,
      attachLimit: 128,
      deletesUnpublishedOnly: false,
    }),
    node: createNodeService({
      driverName,
      nodeId,
      stateDirectory: join(directory, 'state'),
      volumes,
      devices,
      logger,
    }),
    logger,
  });
  return {
    socketPath,
    volumes,
    devices,
    close: async () => {
      await server.close(2_000);
      await devices.dispose();
      await rm(directory, { recursive: true, force: true });
    },
  };
}
