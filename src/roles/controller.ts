/** The controller's part of the CSI roles: the service over the volumedrivers of one machine or of a cluster. */
import { VolumedriverClient } from '../api/volumedriver-client.ts';
import type { Logger } from '../base/logger.ts';
import type { ControllerConfig, OneMachine } from '../config.ts';
import { createControllerService } from '../controller/controller-service.ts';
import { staticNodes, type NodeRegistry } from '../controller/node-registry.ts';
import { staticVolumedrivers, type Volumedrivers } from '../controller/volumedrivers.ts';
import { ControllerMetrics } from '../monitoring/controller-metrics.ts';
import { startMonitoringIfWanted } from '../monitoring/http-server.ts';
import { hasCode } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { openKubernetesWorld } from './kubernetes-world.ts';
import type { OpenedService } from './plugin.ts';

export interface ControllerContext {
  readonly driverName: string;
  readonly version: string;
  readonly logger: Logger;
  /** Where a cluster's API server is found. */
  readonly env: Readonly<Record<string, string | undefined>>;
}

/** What a controller finds volumedrivers and nodes through. */
export interface World {
  readonly volumedrivers: Volumedrivers;
  readonly nodes: NodeRegistry;
  /** See DeletePolicy in src/controller/create-volume.ts. */
  readonly deletesUnpublishedOnly: boolean;
  /** False while it still starts. */
  readonly ready: () => Promise<boolean>;
  /** For whoever sends calls here: null, or what is still missing to answer them. */
  readonly missing: () => Promise<string | null>;
  readonly close: () => Promise<void>;
}

export async function openController(
  config: ControllerConfig,
  context: ControllerContext,
): Promise<OpenedService<'controller'>> {
  const { overcommit, attachLimit, cluster } = config;
  const { driverName, version, logger } = context;
  const metrics = new ControllerMetrics({ version, driver: driverName });
  const world =
    cluster.kind === 'kubernetes'
      ? await openKubernetesWorld(cluster, { ...context, metrics })
      : openMachine(cluster);
  const { missing } = world;
  const monitoring = await startMonitoringIfWanted(config.metrics, {
    ...{ page: metrics.registry, ready: missing, logger },
  });
  return {
    handlers: createControllerService({ driverName, overcommit, attachLimit, ...world }),
    observe: metrics.observe,
    ready: world.ready,
    close: async () => {
      await monitoring?.close();
      await world.close();
    },
  };
}

function openMachine(machine: OneMachine): World {
  const volumes = new VolumedriverClient(machine.volumedriver);
  return {
    volumedrivers: staticVolumedrivers([volumes]),
    nodes: staticNodes(machine.knownNodes),
    deletesUnpublishedOnly: false,
    ready: () => isReady(volumes),
    missing: async () => ((await isReady(volumes)) ? null : 'the volumedriver does not answer yet'),
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
