/** Where everything lies in the backend. Numbers in keys are hexadecimal of fixed width, so that keys sort by number. */
import { createHash } from 'node:crypto';
import { counterOf, writerOf } from './format/location.ts';

export const keys = {
  backend: 'backend',
  writerPrefix: 'writers/',
  writer: (writer: number): string => `writers/${hex(writer, 8)}`,
  object: (objectId: number): string =>
    `objects/${hex(writerOf(objectId), 8)}/${hex(counterOf(objectId), 5)}`,
  objectsOfWriter: (writer: number): string => `objects/${hex(writer, 8)}/`,
  volumePrefix: 'volumes/',
  slotPrefix: (volume: string): string => `volumes/${volume}/slots/`,
  slot: (volume: string, slot: number): string => `volumes/${volume}/slots/${hex(slot, 14)}`,
  accountsPrefix: (volume: string): string => `volumes/${volume}/accounts/`,
  /** `id` is an object id, which no second blob ever has: slots are numbered anew behind a tail that was cut. */
  accounts: (volume: string, id: number): string => `volumes/${volume}/accounts/${hex(id, 14)}`,
  /** Which volume a snapshot belongs to. */
  snapshot: (snapshot: string): string => `snapshots/${snapshot}`,
  snapshotPrefix: 'snapshots/',
  volumeName: (name: string): string => `names/volumes/${nameHash(name)}`,
  volumeNamePrefix: 'names/volumes/',
  /** Names of snapshots that were claimed backend-wide (CSI). */
  snapshotName: (name: string): string => `names/snapshots/${nameHash(name)}`,
  snapshotNamePrefix: 'names/snapshots/',
} as const;

function hex(value: number, digits: number): string {
  return value.toString(16).padStart(digits, '0');
}

/** Names may be any Unicode; a key may not. */
function nameHash(name: string): string {
  return createHash('sha256').update(name, 'utf8').digest('hex');
}

/** The number at the end of a key that `keys` made. */
export function numberOfKey(key: string): number {
  return Number.parseInt(key.slice(key.lastIndexOf('/') + 1), 16);
}
