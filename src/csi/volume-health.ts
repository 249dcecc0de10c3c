/**
 * What can be wrong with a volume, as CSI 1.13's health calls and Kubernetes' events tell it. Reasons are for
 * machines: each is one CamelCase word and never changes its meaning. 1.12's volume_condition has the message only.
 */
import {
  VolumeHealthErrorType,
  type VolumeHealth,
  type VolumeHealth_VolumeHealthEntry,
} from '../api/generated/csi.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { Volume } from '../volumes/volume.ts';

const { DATA_LOSS, INACCESSIBLE } = VolumeHealthErrorType;

export const volumeProblemKinds = {
  /** It stopped after a failed write or sync. */
  VolumeHalted: INACCESSIBLE,
  /** What is stored of it does not match its checksums. */
  VolumeDamaged: DATA_LOSS,
  /** Its backend does not have it. */
  VolumeMissing: DATA_LOSS,
  /** The volumedriver of its node does not answer. */
  VolumedriverUnreachable: INACCESSIBLE,
  /** An administrator gave its node up. */
  NodeForgotten: DATA_LOSS,
  /** Its device waits for the volumedriver. */
  DeviceWaiting: INACCESSIBLE,
  /** Its device was given up: only a new stage helps. */
  DeviceBroken: INACCESSIBLE,
  /** It is staged, and its device is gone. */
  DeviceMissing: INACCESSIBLE,
  /** The attacher of its node does not answer. */
  AttacherUnreachable: INACCESSIBLE,
  FilesystemShutDown: INACCESSIBLE,
  FilesystemReadOnly: INACCESSIBLE,
} as const satisfies Record<string, VolumeHealthErrorType>;

export type VolumeProblemReason = keyof typeof volumeProblemKinds;

export interface VolumeProblem {
  readonly reason: VolumeProblemReason;
  /** For people: what is wrong, and what to do where that is known. */
  readonly message: string;
}

export function haltedProblem({ halted }: Pick<Volume, 'halted'>): VolumeProblem | undefined {
  if (halted === null) return undefined;
  return {
    reason: 'VolumeHalted',
    message: `the volume stopped, until the pod that uses it is deleted and made again: ${halted}`,
  };
}

/** What an error of a volumedriver says about the volume that it was asked about; undefined: nothing. */
export function problemOfError(error: unknown): VolumeProblem | undefined {
  if (!(error instanceof VolumeError)) return undefined;
  const { code, message } = error;
  if (code === 'CORRUPT') return { reason: 'VolumeDamaged', message };
  if (code === 'HALTED') return { reason: 'VolumeHalted', message };
  if (code === 'VOLUME_NOT_FOUND') return { reason: 'VolumeMissing', message };
  if (code === 'UNAVAILABLE' || code === 'SHUTTING_DOWN' || code === 'PERMISSION_DENIED') {
    return { reason: 'VolumedriverUnreachable', message };
  }
  return undefined;
}

/** Without problems: healthy. Each reason counts once. */
export function volumeHealth(volumeId: string, problems: readonly VolumeProblem[]): VolumeHealth {
  const entries = new Map<string, VolumeHealth_VolumeHealthEntry>();
  for (const { reason, message } of problems) {
    if (!entries.has(reason)) {
      entries.set(reason, { status: volumeProblemKinds[reason], reason, message });
    }
  }
  return { volumeId, healthStatuses: [...entries.values()] };
}
