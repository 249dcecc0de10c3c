/**
 * The object that a volume's log is filling (its open SCO): a file of clusters, cluster i at byte i × 4096, to which
 * sealing adds the table and footer of format/object-footer.ts.
 */
import { assert } from '../../base/assert.ts';
import type { DiskFile } from '../disk/disk.ts';
import { clusterChecksum } from '../format/checksum.ts';
import { clusterBytes, objectClustersMax } from '../format/constants.ts';
import { encodeObjectTail, type ObjectKind } from '../format/object-footer.ts';

export class OpenObject {
  readonly objectId: number;
  readonly file: DiskFile;
  readonly #kind: ObjectKind;
  readonly #checksums = new Uint32Array(objectClustersMax);
  readonly #clusters = new Float64Array(objectClustersMax);
  #count = 0;

  constructor(objectId: number, kind: ObjectKind, file: DiskFile) {
    this.objectId = objectId;
    this.#kind = kind;
    this.file = file;
  }

  /** Clusters stored so far: the index of the next one. */
  get count(): number {
    return this.#count;
  }

  get room(): number {
    return objectClustersMax - this.#count;
  }

  /**
   * Stages clusters behind those that are stored: computes their checksums. Nothing counts as stored before commit(),
   * so a failed write leaves the object as it was. `data` is whole clusters; `at` is the index of the first. The checksums
   * stay as they are once committed.
   */
  stage(at: number, cluster: number, data: Buffer): Uint32Array {
    const count = data.length / clusterBytes;
    assert(at + count <= objectClustersMax, 'the clusters fit into the object');
    for (let i = 0; i < count; i++) {
      const bytes = data.subarray(i * clusterBytes, (i + 1) * clusterBytes);
      this.#checksums[at + i] = clusterChecksum(bytes, this.objectId, at + i);
      this.#clusters[at + i] = cluster + i;
    }
    return this.#checksums.subarray(at, at + count);
  }

  /** Writes staged clusters in one call. Throws OUT_OF_SPACE or INTERNAL and stores nothing then. */
  writeStaged(buffers: readonly Buffer[]): void {
    this.#write(buffers);
  }

  commit(count: number): void {
    this.#count += count;
  }

  /** Appends table and footer; the object is complete then and takes no more clusters. */
  seal(): void {
    const tail = encodeObjectTail(this.objectId, {
      kind: this.#kind,
      checksums: this.#checksums.subarray(0, this.#count),
      clusters: this.#clusters.subarray(0, this.#count),
    });
    this.#write([tail]);
  }

  /** What a failed write left behind would lie behind the footer of a shorter object, and take space from a full disk. */
  #write(buffers: readonly Buffer[]): void {
    const end = this.#count * clusterBytes;
    try {
      this.file.write(buffers, end);
    } catch (error) {
      this.file.truncate(end);
      throw error;
    }
  }
}
