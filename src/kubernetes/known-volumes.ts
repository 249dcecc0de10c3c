/** Which PersistentVolume has a volume of ours, and whom to tell about it: the claim that it is for, if there is one. */
import { z } from 'zod';
import { metadataSchema, readObject } from './objects.ts';

/** What an event is about. */
export interface EventTarget {
  readonly apiVersion: 'v1';
  readonly kind: 'PersistentVolumeClaim' | 'PersistentVolume';
  readonly name: string;
  readonly namespace?: string;
  readonly uid: string;
}

export interface KnownVolume {
  readonly volumeId: string;
  readonly target: EventTarget;
}

const volumeSchema = z.object({
  metadata: metadataSchema,
  spec: z.object({
    csi: z.object({ driver: z.string(), volumeHandle: z.string() }).nullish(),
    claimRef: z
      .object({
        namespace: z.string().nullish(),
        name: z.string().nullish(),
        uid: z.string().nullish(),
      })
      .nullish(),
  }),
});

/** Undefined: a volume of another driver. */
export function readKnownVolume(object: unknown, driverName: string): KnownVolume | undefined {
  const { metadata, spec } = readObject(volumeSchema, object, 'read a PersistentVolume');
  if (spec.csi?.driver !== driverName) return undefined;
  const { name, uid } = metadata;
  const { claimRef } = spec;
  const volumeId = spec.csi.volumeHandle;
  // Before it is bound, the claim that a volume is meant for has no uid.
  if (claimRef?.uid && claimRef.name && claimRef.namespace) {
    const claim = { name: claimRef.name, namespace: claimRef.namespace, uid: claimRef.uid };
    return { volumeId, target: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', ...claim } };
  }
  return { volumeId, target: { apiVersion: 'v1', kind: 'PersistentVolume', name, uid } };
}
