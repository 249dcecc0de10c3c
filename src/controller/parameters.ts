/**
 * StorageClass and VolumeSnapshotClass parameters. An unknown key is refused: a misspelt `flushTo` that is ignored
 * would cost data. Keys under csi.storage.k8s.io/ come from the sidecars (names of claims, secrets) and are
 * tolerated; one of them means something to us.
 */
import { invalid } from '../csi/validate.ts';
import {
  filesystemTypes,
  isFilesystemType,
  type FilesystemType,
} from '../csi/volume-capability.ts';
import { flushTargets, type FlushTarget } from '../volumes/volume.ts';

export interface VolumeParameters {
  /** Undefined: the backend's default. */
  readonly flushTo?: FlushTarget;
  /** For callers that leave this key in, as the Kubernetes provisioner does not: it moves it to the capability. */
  readonly fsType?: FilesystemType;
}

const kubernetesPrefix = 'csi.storage.k8s.io/';
const fsTypeKey = `${kubernetesPrefix}fstype`;

/** INVALID_ARGUMENT for an unknown key or value. */
export function parseVolumeParameters(
  parameters: Readonly<Record<string, string>>,
): VolumeParameters {
  const parsed: { flushTo?: FlushTarget; fsType?: FilesystemType } = {};
  for (const [key, value] of Object.entries(parameters)) {
    if (key === 'flushTo') parsed.flushTo = parseFlushTarget(value);
    else if (key === fsTypeKey) parsed.fsType = parseFilesystem(value);
    else if (!key.startsWith(kubernetesPrefix)) throw unknownKey(key, ['flushTo']);
  }
  return parsed;
}

/** There are none of our own. INVALID_ARGUMENT for any. */
export function checkSnapshotParameters(parameters: Readonly<Record<string, string>>): void {
  const unknown = Object.keys(parameters).find((key) => !key.startsWith(kubernetesPrefix));
  if (unknown !== undefined) throw unknownKey(unknown, []);
}

function parseFlushTarget(value: string): FlushTarget {
  const target = flushTargets.find((known) => known === value);
  if (target !== undefined) return target;
  throw invalid('parameters.flushTo', `it must be ${flushTargets.join(' or ')}`);
}

function parseFilesystem(value: string): FilesystemType {
  if (isFilesystemType(value)) return value;
  throw invalid(`parameters.${fsTypeKey}`, `it must be ${filesystemTypes.join(' or ')}`);
}

function unknownKey(key: string, known: readonly string[]): Error {
  const hint = known.length === 0 ? 'there are none' : `known are: ${known.join(', ')}`;
  return invalid('parameters', `there is no ${JSON.stringify(key)}; ${hint}`);
}
