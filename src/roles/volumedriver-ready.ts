/** Whether the volumedriver that a plugin works with can do something yet. */
import { hasCode } from '../volumes/errors.ts';
import type { VolumeService } from '../volumes/volume-service.ts';

/** False while it does not answer (yet). */
export async function isReady(volumes: VolumeService): Promise<boolean> {
  try {
    return (await volumes.info()).ready;
  } catch (error) {
    if (hasCode(error, 'UNAVAILABLE') || hasCode(error, 'SHUTTING_DOWN')) return false;
    throw error;
  }
}
