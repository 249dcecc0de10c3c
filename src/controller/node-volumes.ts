/**
 * The volumes of one node, wherever its volumedriver is at the time of a call: it may be replaced by another pod, or
 * be gone. What it cannot do now is told with the node's name, and, when it does not answer, with what to do about it.
 */
import { hasCode, VolumeError } from '../volumes/errors.ts';
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
      if (!isUnanswered(error) && !isMissing(error)) throw error;
      // Is it the volumedriver that does not answer, or something behind it? Was it that of another backend, which was
      // started behind the same address a moment ago? What that one does not have is not gone.
      await reached('now');
      if (!isUnanswered(error)) throw error;
      throw new VolumeError('UNAVAILABLE', `node ${nodeId}: ${error.message}`, { cause: error });
    }
  });
}

function isUnanswered(error: unknown): error is VolumeError {
  return error instanceof VolumeError && unansweredCodes.some((code) => code === error.code);
}

function isMissing(error: unknown): boolean {
  return hasCode(error, 'VOLUME_NOT_FOUND') || hasCode(error, 'SNAPSHOT_NOT_FOUND');
}

function silent(nodeId: string, cause: VolumeError): VolumeError {
  return new VolumeError(
    'UNAVAILABLE',
    `node ${nodeId} does not answer: ${cause.message}; bring it back, or, when it never comes back, ` +
      `give up its volumes with: vdctl node forget ${nodeId}`,
    { cause },
  );
}
