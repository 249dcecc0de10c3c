/**
 * Where a cluster lives: u32 writer id, 20 bits object counter, 12 bits cluster index (design: "location").
 * In memory an object is one number, `objectId` = writer × 2^20 + counter, which stays below 2^52, so that it is
 * exact and works as a Map key; a location is the pair (objectId, index). Object id 0 means "stored nowhere": the
 * cluster was never written, or was discarded, and reads as zeroes. Writer ids start at 1.
 */
import { assert } from '../../base/assert.ts';
import {
  clusterIndexBits,
  objectClustersMax,
  objectCounterBits,
  objectCounterMax,
} from './constants.ts';

const countersPerWriter = 2 ** objectCounterBits;

export function makeObjectId(writer: number, counter: number): number {
  assert(writer >= 1 && writer <= 0xffffffff, 'a writer id is a u32 from 1');
  assert(counter >= 0 && counter <= objectCounterMax, 'an object counter has 20 bits');
  return writer * countersPerWriter + counter;
}

export function writerOf(objectId: number): number {
  return Math.floor(objectId / countersPerWriter);
}

export function counterOf(objectId: number): number {
  return objectId % countersPerWriter;
}

/** The low 32 bits of a location on disk; the high 32 bits are the writer id. */
export function locationLow(objectId: number, index: number): number {
  assert(index >= 0 && index < objectClustersMax, 'a cluster index has 12 bits');
  return ((counterOf(objectId) << clusterIndexBits) | index) >>> 0;
}

/** The inverse of (writerOf, locationLow); writer 0 gives object id 0. */
export function objectIdOf(writer: number, low: number): number {
  return writer * countersPerWriter + (low >>> clusterIndexBits);
}

export function indexOf(low: number): number {
  return low & (objectClustersMax - 1);
}

/** An object's name in messages and file names: 8 hexadecimal digits of writer, 5 of counter. */
export function formatObjectId(objectId: number): string {
  const writer = writerOf(objectId).toString(16).padStart(8, '0');
  return `${writer}-${counterOf(objectId).toString(16).padStart(5, '0')}`;
}

/** The inverse of formatObjectId; undefined for any other text. */
export function parseObjectId(text: string): number | undefined {
  const match = /^([0-9a-f]{8})-([0-9a-f]{5})$/.exec(text);
  if (match?.[1] === undefined || match[2] === undefined) return undefined;
  const writer = Number.parseInt(match[1], 16);
  return writer === 0 ? undefined : makeObjectId(writer, Number.parseInt(match[2], 16));
}
