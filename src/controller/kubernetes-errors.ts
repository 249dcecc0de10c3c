/** What goes wrong between a controller and the Kubernetes API, as our own errors. */
import { isKubernetesError } from '../kubernetes/errors.ts';
import { toVolumeError, VolumeError } from '../volumes/errors.ts';

/** UNAVAILABLE for whatever a retry may find mended, permissions included: somebody has to grant them. */
export async function fromKubernetes<Result>(
  what: string,
  ask: () => Promise<Result>,
): Promise<Result> {
  try {
    return await ask();
  } catch (error) {
    if (!isKubernetesError(error)) throw toVolumeError(error, what);
    throw new VolumeError('UNAVAILABLE', `${what}: ${error.message}`, { cause: error });
  }
}
