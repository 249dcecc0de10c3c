/**
 * The volumes of one node, wherever its volumedriver is at the time of a call: it may be replaced by another pod, or
 * be gone. What it cannot do now is told with the node's name, and, when it does not answer, with what to do about it.
 */
import { VolumeError } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';
import { ForwardedVolumes } from './forwarded-volumes.ts';

/** Finds the volumedriver that is there; UNAVAILABLE when none answers. now: an answer of a moment ago does not count. */
export type Reach = (when: 'lately' | 'now') => Promise<VolumeService>;

/** What a retry may find mended: gone, stopping, or not trusted yet. */
const unansweredCodes = ['UNAVAILABLE', 'SHUTTING_DOWN', 'PERMISSION_DENIED'] as const;

export function nodeVolumes(nodeId: string, reach: Reach): VolumeService {
  const reached: Reach = async (when) => {
    try {
      return await reach(when);
    } catch (error) {
      throw isUnanswered(error) ? silent(nodeId, error) : error;
    }
  };
  return new ForwardedVolumes(async (work) => {
    const volumes = await reached('lately');
    try {
      return await work(volumes);
    } catch (error) {
      if (!isUnanswered(error)) throw error;
      // Is it the volumedriver that does not answer, or something behind it?
      await reached('now');
      throw new VolumeError('UNAVAILABLE', `node ${nodeId}: ${error.message}`, { cause: error });
    }
  });
}

function isUnanswered(error: unknown): error is VolumeError {
  return error instanceof VolumeError && unansweredCodes.some((code) => code === error.code);
}

function silent(nodeId: string, cause: VolumeError): VolumeError {
  return new VolumeError(
    'UNAVAILABLE',
    `node ${nodeId} does not answer: ${cause.message}; bring it back, or, when it never comes back, ` +
      `give up its volumes with: vdctl node forget ${nodeId}`,
    { cause },
  );
}
