/** The controller's part of the CSI roles: where it finds volumedrivers and nodes. */
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import type { Logger } from '../base/logger.ts';
import type { ControllerConfig, OneMachine } from '../config.ts';
import { createControllerService } from '../controller/controller-service.ts';
import { staticNodes, type NodeRegistry } from '../controller/node-registry.ts';
import { staticVolumedrivers, type Volumedrivers } from '../controller/volumedrivers.ts';
import { hasCode, VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import type { OpenedService } from './plugin.ts';

interface ControllerContext {
  readonly driverName: string;
  readonly version: string;
  readonly logger: Logger;
}

/** What a controller finds volumedrivers and nodes through. */
interface World {
  readonly volumedrivers: Volumedrivers;
  readonly nodes: NodeRegistry;
  readonly ready: () => Promise<boolean>;
  readonly close: () => Promise<void>;
}

export function openController(
  config: ControllerConfig,
  context: ControllerContext,
): Promise<OpenedService<'controller'>> {
  const { overcommit, attachLimit, cluster } = config;
  if (cluster.kind === 'kubernetes') {
    throw new VolumeError('NOT_IMPLEMENTED', '--namespace: it is not part of this version yet');
  }
  const world = openMachine(cluster);
  const { volumedrivers, nodes } = world;
  return Promise.resolve({
    handlers: createControllerService({
      ...{ driverName: context.driverName, volumedrivers, nodes, overcommit, attachLimit },
    }),
    ready: world.ready,
    close: world.close,
  });
}

function openMachine(machine: OneMachine): World {
  const volumes = new VolumedriverClient(machine.volumedriver);
  return {
    volumedrivers: staticVolumedrivers([volumes]),
    nodes: staticNodes(machine.knownNodes),
    ready: () => isReady(volumes),
    close: () => {
      volumes.close();
      return Promise.resolve();
    },
  };
}

/** False while the volumedriver does not answer (yet). */
async function isReady(volumes: VolumeService): Promise<boolean> {
  try {
    return (await volumes.info()).ready;
  } catch (error) {
    if (hasCode(error, 'UNAVAILABLE') || hasCode(error, 'SHUTTING_DOWN')) return false;
    throw error;
  }
}
