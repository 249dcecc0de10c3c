/**
 * The text that the kernel keeps with a device (BACKEND_IDENTIFIER): DRIVER/INSTANCE/VOLUME#GENERATION. It tells
 * whose device it is and of which volume, for as long as the device exists, whatever became of our records. The parts
 * are escaped, so that none of them can hold a slash, a '#', a line's end or a zero.
 */
import type { AttacherIdentity } from '../strategy.ts';

export interface DeviceIdentity {
  readonly volumeId: string;
  /** What follows the last '#' of the export's name; null without one. */
  readonly generation: string | null;
}

export function encodeIdentifier(
  attacher: AttacherIdentity,
  volumeId: string,
  exportName: string,
): string {
  const at = exportName.lastIndexOf('#');
  const generation = at < 0 ? '' : `#${escape(exportName.slice(at + 1))}`;
  return `${prefixOf(attacher)}${escape(volumeId)}${generation}`;
}

/** Null for a device of somebody else. */
export function decodeIdentifier(attacher: AttacherIdentity, text: string): DeviceIdentity | null {
  const prefix = prefixOf(attacher);
  if (!text.startsWith(prefix)) return null;
  const [volume = '', generation, ...rest] = text.slice(prefix.length).split('#');
  if (volume === '' || volume.includes('/') || rest.length > 0) return null;
  try {
    const volumeId = decodeURIComponent(volume);
    const decoded = generation === undefined ? null : decodeURIComponent(generation);
    return { volumeId, generation: decoded };
  } catch {
    return null; // not escaped by us
  }
}

function prefixOf({ driverName, instanceId }: AttacherIdentity): string {
  return `${escape(driverName)}/${escape(instanceId)}/`;
}

/** A lone surrogate is replaced, as it is where a text becomes UTF-8. */
function escape(part: string): string {
  return encodeURIComponent(part.toWellFormed());
}
