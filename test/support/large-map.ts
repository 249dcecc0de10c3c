/**
 * A backend with one volume that is mapped from its first cluster to its last, so that its map has its full size: a
 * page for every MiB and those above them, each stored once and none shared. The product's own parts make it (the
 * service creates the volume, VolumeMap fills and persists the map); only the record of the last checkpoint is put
 * together here, and nothing is synced, since it need not outlive this machine's next crash.
 *
 * The map is what is large: all clusters lie in a few data objects, in which every cluster has a content of its own.
 * No volume owns these objects, as if a clone's parent had them, so each place may be overwritten, discarded and
 * released any number of times. Each 16 MiB of the volume are two runs of places that begin somewhere else.
 */
import { mkdirSync, rmSync, writevSync, openSync, closeSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { systemClock } from '../../src/base/clock.ts';
import { silentLogger } from '../../src/base/logger.ts';
import { systemRandom } from '../../src/base/random.ts';
import { LinuxDisk } from '../../src/volumedriver/disk/linux-disk.ts';
import { openEngine, type Engine } from '../../src/volumedriver/engine.ts';
import { encodeAccounts } from '../../src/volumedriver/format/accounts-blob.ts';
import { clusterChecksum } from '../../src/volumedriver/format/checksum.ts';
import { clusterBytes, objectClustersMax } from '../../src/volumedriver/format/constants.ts';
import type { CheckpointRecord } from '../../src/volumedriver/format/control.ts';
import { makeObjectId } from '../../src/volumedriver/format/location.ts';
import { encodeObjectTail, type ObjectKind } from '../../src/volumedriver/format/object-footer.ts';
import { checksumOf, encodeRecord, type LogRecord } from '../../src/volumedriver/format/record.ts';
import {
  encodeTlogHeader,
  headerChecksum,
  linkOf,
  noNonce,
} from '../../src/volumedriver/format/tlog-header.ts';
import { keys } from '../../src/volumedriver/keys.ts';
import type { PersistedRoot } from '../../src/volumedriver/map/page.ts';
import type { MapObjectWriter } from '../../src/volumedriver/map/volume-map.ts';
import { loadHistory, type History } from '../../src/volumedriver/recovery/history.ts';
import { replayHistory } from '../../src/volumedriver/recovery/replay.ts';
import { Volumedriver } from '../../src/volumedriver/service/volumedriver.ts';
import { FileStore } from '../../src/volumedriver/store/file-store.ts';
import type { VolumeImage } from '../../src/volumedriver/volume-image.ts';

export interface LargeVolume {
  /** As the API has it; the volume's name does as well. */
  readonly id: string;
  readonly name: string;
  /** For `--backend file:`; its node is `node-1`. */
  readonly backendDirectory: string;
  readonly sizeBytes: number;
  /** Map pages that were stored. */
  readonly pages: number;
  /** The 4 KiB that this cluster reads as, until it is written: fills and returns `into`. */
  content(cluster: number, into?: Buffer): Buffer;
}

const name = 'large';
const dataObjects = 16;
const runBytes = objectClustersMax * clusterBytes;
/** More than is dirty at once: nothing is spilled. */
const mapMemoryBytes = 384 * 2 ** 20;
/** 16 MiB runs between two persists: 16384 leaves. */
const runsPerPersist = 1024;
const writevBuffersMax = 1024;

/**
 * Makes `directory`/backend. `sizeBytes` is a multiple of 16 MiB. A TiB takes 4.3 GiB of disk, about 20 seconds of one
 * core and 800 MiB of memory for the while.
 */
export async function buildLargeVolume(directory: string, sizeBytes: number): Promise<LargeVolume> {
  if (sizeBytes % runBytes !== 0) throw new Error('a large volume is a multiple of 16 MiB');
  const backendDirectory = join(directory, 'backend');
  const dataDirectory = join(directory, 'builder');
  const disk = new LinuxDisk();
  disk.makeDirectory(dataDirectory);
  const store = await FileStore.open({ disk, root: backendDirectory, random: systemRandom });
  const engine = await openEngine({
    disk,
    store,
    clock: systemClock,
    random: systemRandom,
    logger: silentLogger,
    dataDirectory,
    mapMemoryBytes,
    readCacheBytes: 0,
    reserveBytes: 0,
  });
  try {
    const id = await createVolume(engine, sizeBytes);
    const builder = new Builder(engine, backendDirectory, id.slice(id.indexOf('.') + 1));
    const pages = await builder.run(sizeBytes);
    return { id, name, backendDirectory, sizeBytes, pages, content: contentOf };
  } finally {
    engine.environment.reader.close();
    engine.environment.pool.close();
    store.close();
    rmSync(dataDirectory, { recursive: true, force: true });
  }
}

/** An empty volume, closed. */
async function createVolume(engine: Engine, sizeBytes: number): Promise<string> {
  const service = new Volumedriver(engine.environment, {
    version: 'test',
    nodeId: 'node-1',
    backendId: engine.backendId,
    shared: false,
    defaultFlushTo: 'local',
    exportUri: () => 'nbd+unix:///none?socket=/none',
  });
  await service.start();
  try {
    return (await service.createVolume({ name, sizeBytes })).id;
  } finally {
    await service.close();
  }
}

class Builder {
  readonly #engine: Engine;
  readonly #root: string;
  readonly #volume: string;
  /** Of each data object, its clusters' checksums. */
  readonly #checksums: Uint32Array[] = [];
  #dataWriter = 0;
  #mapWriter = 0;
  #mapObjects = 0;
  #pages = 0;

  constructor(engine: Engine, root: string, volume: string) {
    this.#engine = engine;
    this.#root = root;
    this.#volume = volume;
  }

  /** Gives the number of pages. */
  async run(sizeBytes: number): Promise<number> {
    const { environment } = this.#engine;
    this.#dataWriter = await environment.takeWriter(this.#volume);
    this.#mapWriter = await environment.takeWriter(this.#volume);
    for (let object = 0; object < dataObjects; object++) this.#writeData(object);
    const history = await loadHistory(environment.store, this.#volume);
    if (history === undefined) throw new Error('the volume was created');
    const { image } = await replayHistory(environment, history, (error) => {
      throw error;
    });
    const root = await this.#fill(image, sizeBytes / runBytes);
    await this.#commit(history, image, root);
    image.close();
    return this.#pages;
  }

  #writeData(object: number): void {
    const objectId = makeObjectId(this.#dataWriter, object);
    const clusters = Array.from({ length: objectClustersMax }, (_, index) =>
      fillPlace(object, index, Buffer.allocUnsafe(clusterBytes)),
    );
    this.#checksums.push(this.#writeObject(objectId, 'data', clusters));
  }

  /** Persists behind the filling, as checkpoints would. */
  async #fill(image: VolumeImage, runs: number): Promise<PersistedRoot | null> {
    let persisting: Promise<unknown> = Promise.resolve();
    for (let run = 0; run < runs; run++) {
      const { object, shift } = startOf(run);
      const objectId = makeObjectId(this.#dataWriter, object);
      const checksums = this.#checksums[object] ?? new Uint32Array(0);
      const cluster = run * objectClustersMax;
      image.map.setRun(cluster, objectId, shift, checksums.subarray(shift));
      if (shift > 0) {
        const rest = cluster + objectClustersMax - shift;
        image.map.setRun(rest, objectId, 0, checksums.subarray(0, shift));
      }
      if (run % runsPerPersist === runsPerPersist - 1) {
        await persisting;
        persisting = this.#persist(image);
      }
    }
    await persisting;
    return await this.#persist(image);
  }

  async #persist(image: VolumeImage): Promise<PersistedRoot | null> {
    await image.map.drained();
    const frozen = image.map.freeze();
    try {
      const [root = null] = await image.map.persist([frozen], this.#mapObjectWriter(image));
      return root;
    } finally {
      frozen.release();
    }
  }

  #mapObjectWriter(image: VolumeImage): MapObjectWriter {
    return {
      allocateObject: () => makeObjectId(this.#mapWriter, this.#mapObjects++),
      writeObject: (objectId, birth, pages) => {
        this.#writeObject(objectId, 'map', pages);
        image.addMapObject(objectId, birth, pages.length);
        this.#pages += pages.length;
        return Promise.resolve();
      },
    };
  }

  /** As a put of the store, but without syncs. Gives the checksums. */
  #writeObject(objectId: number, kind: ObjectKind, clusters: readonly Uint8Array[]): Uint32Array {
    const path = join(this.#root, keys.object(objectId));
    mkdirSync(dirname(path), { recursive: true });
    const checksums = Uint32Array.from(clusters, (cluster, index) =>
      clusterChecksum(cluster, objectId, index),
    );
    const table = { kind, checksums, clusters: new Float64Array(clusters.length) };
    const buffers = [...clusters, encodeObjectTail(objectId, table)];
    const file = openSync(path, 'wx', 0o600);
    try {
      for (let n = 0; n < buffers.length; n += writevBuffersMax) {
        const part = buffers.slice(n, n + writevBuffersMax);
        const length = part.reduce((sum, { byteLength }) => sum + byteLength, 0);
        if (writevSync(file, part) !== length) throw new Error(`${path} was written in part`);
      }
    } finally {
      closeSync(file);
    }
    return checksums;
  }

  /** The next slot: a checkpoint, and nothing since. */
  async #commit(history: History, image: VolumeImage, root: PersistedRoot | null): Promise<void> {
    const { store, random } = this.#engine.environment;
    const slot = history.lastSlot + 1;
    const accounts = keys.accounts(this.#volume, slot);
    await store.put(accounts, [encodeAccounts(image.accounts)]);
    const checkpoint: CheckpointRecord = {
      kind: 'checkpoint',
      replayFrom: slot,
      state: { ...image.state, written: true },
      root,
      snapshotRoots: [],
      accounts,
      doomed: [],
    };
    const { lastHeader } = history;
    const header = encodeTlogHeader({
      ...lastHeader,
      slot,
      checkpointSlot: slot,
      boundary: slot,
      nonce: random.bytes(16).toString('hex'),
      replaces: noNonce,
      previous: linkOf(lastHeader.nonce),
    });
    const records: LogRecord[] = [
      { type: 'control', payload: checkpoint },
      { type: 'end', count: 1 },
    ];
    const tlog = [header];
    let checksum = headerChecksum(header);
    for (const record of records) {
      const bytes = encodeRecord(record, checksum);
      checksum = checksumOf(bytes);
      tlog.push(bytes);
    }
    await store.put(keys.slot(this.#volume, slot), tlog);
  }
}

/** Where a 16 MiB run of the volume begins: each of 65536 runs elsewhere, and neighbours far apart. */
function startOf(run: number): { object: number; shift: number } {
  const start = Math.imul(run, 40503) & (dataObjects * objectClustersMax - 1);
  return { object: start % dataObjects, shift: Math.floor(start / dataObjects) };
}

function contentOf(cluster: number, into: Buffer = Buffer.allocUnsafe(clusterBytes)): Buffer {
  const { object, shift } = startOf(Math.floor(cluster / objectClustersMax));
  return fillPlace(object, (shift + cluster) % objectClustersMax, into);
}

/** What the data object has at this index: no two clusters are alike, nor like zeroes. */
function fillPlace(object: number, index: number, into: Buffer): Buffer {
  const number = 1 + object * objectClustersMax + index;
  const pattern = Buffer.alloc(16);
  for (let word = 0; word < 4; word++) {
    pattern.writeUInt32LE(Math.imul(number, 0x9e3779b1 + 2 * word) >>> 0, 4 * word);
  }
  return into.fill(pattern);
}
