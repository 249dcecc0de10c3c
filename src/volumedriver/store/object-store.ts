/**
 * The backend: immutable objects under keys. Keys are segments of [A-Za-z0-9._-] joined by '/'. Failures are
 * VolumeErrors: UNAVAILABLE when the outcome is not known or a retry may help, OUT_OF_SPACE, CORRUPT, INTERNAL.
 * Whatever a put acknowledged survives a power cut of the machine that called it.
 */
import type { Capacity } from '../../volumes/volume.ts';

export interface ObjectStore {
  /** A short name for messages, such as file:/var/lib/volumes. */
  readonly description: string;

  /**
   * Creates the object unless the key exists; true when this call created it. The commit primitive: of any number of
   * concurrent callers exactly one gets true, and nobody ever sees a partial object.
   */
  putIfAbsent(key: string, data: readonly Uint8Array[]): Promise<boolean>;

  /** Stores an object whose key is never used for other content; storing the same again is harmless. */
  put(key: string, data: readonly Uint8Array[]): Promise<void>;

  /**
   * Resolves once an object that is there survives a power cut: one that an earlier process was storing when it died may
   * be seen before it does. Stores without such a state leave it out.
   */
  confirm?(key: string): Promise<void>;

  /**
   * Stores a finished file that will not change any more; as put. A store on the same filesystem links it instead of
   * copying. The caller has synced the file, and may remove its own name for it afterwards.
   */
  putFile(key: string, path: string): Promise<void>;

  /** The object, or a range of it (clipped at its end); undefined when the key doesn't exist. */
  get(key: string, range?: ByteRange): Promise<Buffer | undefined>;

  /** Keys that start with `prefix`, in byte order, after `startAfter`; at most `limit` (1000). */
  list(prefix: string, options?: { startAfter?: string; limit?: number }): Promise<ObjectInfo[]>;

  /** Removes the object; nothing to do when it is gone. */
  delete(key: string): Promise<void>;

  /** Where the object lies as a local file that may be read directly; undefined for stores that have none. */
  localFile(key: string): string | undefined;

  /** Space of the store, null when it has no bound that can be known. */
  capacity(): Promise<Capacity | null>;
}

export interface ByteRange {
  offset: number;
  length: number;
}

export interface ObjectInfo {
  key: string;
  sizeBytes: number;
}
