/** The controller's health RPCs, and the check of one volume that they and the watcher share. */
import type {
  ControllerGetVolumeHealthResponse,
  ControllerListVolumeHealthRequest,
  ControllerListVolumeHealthResponse,
} from '../api/generated/csi.ts';
import { pageLimit } from '../csi/validate.ts';
import {
  haltedProblem,
  problemOfError,
  volumeHealth,
  type VolumeProblem,
} from '../csi/volume-health.ts';
import { hasCode } from '../volumes/errors.ts';
import { volumeById } from './messages.ts';
import { listPage } from './pages.ts';
import { findVolumedriver, requireVolumedriver, type Volumedrivers } from './volumedrivers.ts';

/** VOLUME_NOT_FOUND for a volume that nobody has. */
export async function getVolumeHealth(
  volumedrivers: Volumedrivers,
  volumeId: string,
): Promise<ControllerGetVolumeHealthResponse> {
  const problem = await problemOf(volumedrivers, volumeId);
  return { volumeHealth: volumeHealth(volumeId, problem === undefined ? [] : [problem]) };
}

/** Undefined while nothing is wrong. VOLUME_NOT_FOUND for a volume that nobody has. */
export async function problemOf(
  volumedrivers: Volumedrivers,
  volumeId: string,
): Promise<VolumeProblem | undefined> {
  if ((await findVolumedriver(volumedrivers, volumeId)) === 'forgotten') {
    return { reason: 'NodeForgotten', message: 'the node that had the volume was forgotten' };
  }
  const { volumes } = await requireVolumedriver(volumedrivers, volumeId, 'VOLUME_NOT_FOUND');
  try {
    return haltedProblem(await volumeById(volumes, volumeId));
  } catch (error) {
    const problem = hasCode(error, 'VOLUME_NOT_FOUND') ? undefined : problemOfError(error);
    if (problem === undefined) throw error;
    return problem;
  }
}

/**
 * Volumes with problems, of those that can be listed: what is on a node that does not answer, or is too damaged to be
 * opened, is told by its id only. A page may have fewer entries than asked for, or none, and not be the last.
 */
export async function listVolumeHealth(
  volumedrivers: Volumedrivers,
  request: ControllerListVolumeHealthRequest,
): Promise<ControllerListVolumeHealthResponse> {
  const wish = { limit: pageLimit(request.maxEntries), startToken: request.startingToken };
  const { entries, nextToken } = await listPage(volumedrivers, wish, async (one, page) => {
    const { items, ...more } = await one.volumes.listVolumes(page);
    return { items: items.filter(({ halted }) => halted !== null), ...more };
  });
  return {
    entries: entries.map(({ item }) => {
      const problem = haltedProblem(item);
      return volumeHealth(item.id, problem === undefined ? [] : [problem]);
    }),
    nextToken,
  };
}
