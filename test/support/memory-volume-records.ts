/**
 * What MemoryVolumeService remembers, and the checks and conversions that need no more than one record.
 */
import { VolumeError } from '../../src/volumes/errors.ts';
import type { Page, PageRequest, SnapshotRef } from '../../src/volumes/volume-service.ts';
import type {
  ExportAddress,
  FlushTarget,
  Grant,
  Volume,
  VolumeSource,
} from '../../src/volumes/volume.ts';

const nameBytesMax = 128;
const pageItemsMax = 1000;

export interface VolumeRecord {
  id: string;
  name: string;
  sizeBytes: number;
  /** What CreateVolume asked for, so that its repetition is recognized after the volume grew. */
  createdSizeBytes: number;
  createdAtMs: number;
  source: VolumeSource | null;
  flushTo: FlushTarget;
  grants: Grant[];
  generation: number;
  written: boolean;
  formatting: string | null;
  clients: number;
  halted: string | null;
}

export interface SnapshotRecord {
  id: string;
  name: string;
  claimed: boolean;
  volumeId: string;
  createdAtMs: number;
  sizeBytes: number;
  syncedAtMs: number;
  written: boolean;
  formatting: string | null;
}

/** What a new volume inherits. */
export interface Origin {
  source: VolumeSource | null;
  sizeBytes: number;
  written: boolean;
  formatting: string | null;
}

/** All volumes and snapshots, and how they are found. */
export class MemoryVolumeTables {
  readonly volumes = new Map<string, VolumeRecord>();
  readonly snapshots = new Map<string, SnapshotRecord>();
  /** Ids of volumes with an operation under way. */
  readonly busy = new Set<string>();

  volumeNamed(name: string): VolumeRecord | undefined {
    return [...this.volumes.values()].find((record) => record.name === name);
  }

  find(volume: string): VolumeRecord {
    const record = this.volumes.get(volume) ?? this.volumeNamed(volume);
    if (record === undefined)
      throw new VolumeError('VOLUME_NOT_FOUND', `find volume: there is no ${volume}`);
    return record;
  }

  idle(volume: string): VolumeRecord {
    const record = this.find(volume);
    if (this.busy.has(record.id)) {
      throw new VolumeError(
        'OPERATION_PENDING',
        `volume ${record.name}: another operation is under way`,
      );
    }
    return record;
  }

  findSnapshot(ref: SnapshotRef): SnapshotRecord {
    const byId = this.snapshots.get(ref.snapshot);
    if (ref.volume === undefined) {
      if (byId !== undefined) return byId;
      throw new VolumeError('SNAPSHOT_NOT_FOUND', `find snapshot: there is no ${ref.snapshot}`);
    }
    const volume = this.find(ref.volume);
    const found = this.snapshotsOf(volume.id).find(
      (one) => one === byId || one.name === ref.snapshot,
    );
    if (found !== undefined) return found;
    throw new VolumeError(
      'SNAPSHOT_NOT_FOUND',
      `find snapshot: ${volume.name} has no ${ref.snapshot}`,
    );
  }

  snapshotsOf(volumeId: string): SnapshotRecord[] {
    return [...this.snapshots.values()].filter((snapshot) => snapshot.volumeId === volumeId);
  }

  hasClones(kind: VolumeSource['kind'], id: string): boolean {
    return [...this.volumes.values()].some(({ source }) => {
      if (source?.kind !== kind) return false;
      return (source.kind === 'snapshot' ? source.snapshotId : source.volumeId) === id;
    });
  }

  /** What a new volume starts with; a source may be named, the result has its id. */
  origin(source: VolumeSource | undefined): Origin {
    if (source === undefined)
      return { source: null, sizeBytes: 0, written: false, formatting: null };
    if (source.kind === 'snapshot') {
      const { id, sizeBytes, written, formatting } = this.findSnapshot({
        snapshot: source.snapshotId,
      });
      return { source: { kind: 'snapshot', snapshotId: id }, sizeBytes, written, formatting };
    }
    const { id, sizeBytes, written, formatting } = this.find(source.volumeId);
    return { source: { kind: 'volume', volumeId: id }, sizeBytes, written, formatting };
  }
}

export function publicVolume(record: VolumeRecord): Volume {
  const { createdSizeBytes: _, ...volume } = record;
  return { ...volume, grants: [...record.grants], usedBytes: 0 };
}

export function ulidOf(id: string): string {
  return id.slice(id.indexOf('.') + 1);
}

export function exportAddress(
  exportName: string,
  sizeBytes: number,
  readOnly: boolean,
): ExportAddress {
  const uri = `nbd+unix:///${encodeURIComponent(exportName)}?socket=/run/memory/nbd.sock`;
  return { exportName, uri, sizeBytes, readOnly };
}

export function findGrant(what: string, record: VolumeRecord, generation: number): Grant {
  const grant = record.grants.find((one) => one.generation === generation);
  if (grant === undefined)
    throw new VolumeError('FENCED', `${what}: generation ${generation} is not granted any more`);
  return grant;
}

export function checkName(what: string, name: string): void {
  const length = Buffer.byteLength(name);
  if (length === 0 || length > nameBytesMax) {
    throw new VolumeError(
      'INVALID_ARGUMENT',
      `${what}: a name has 1 to ${nameBytesMax} bytes, not ${length}`,
    );
  }
  if (/\p{Cc}/u.test(name))
    throw new VolumeError('INVALID_ARGUMENT', `${what}: the name has control characters`);
}

export function checkUnused(what: string, record: VolumeRecord): void {
  const [grant] = record.grants;
  if (grant !== undefined)
    throw new VolumeError('VOLUME_IN_USE', `${what}: node ${grant.node} may use ${record.name}`);
  if (record.clients > 0)
    throw new VolumeError('VOLUME_IN_USE', `${what}: ${record.name} has a client`);
}

export function checkSameVolume(
  existing: VolumeRecord,
  wanted: { sizeBytes: number; flushTo: FlushTarget; source: VolumeSource | null },
): void {
  const sameSize =
    wanted.sizeBytes === existing.createdSizeBytes || wanted.sizeBytes === existing.sizeBytes;
  const sameSource = JSON.stringify(wanted.source) === JSON.stringify(existing.source);
  if (sameSize && sameSource && wanted.flushTo === existing.flushTo) return;
  throw new VolumeError(
    'ALREADY_EXISTS',
    `create volume: ${existing.name} exists with other properties`,
  );
}

/** Ids ascend with time, so a token that names the last id of a page survives the removal of that item. */
export function paginate<Item extends { id: string }>(
  kind: string,
  items: Item[],
  page: PageRequest,
): Page<Item> {
  const limit = page.limit === undefined || page.limit === 0 ? pageItemsMax : page.limit;
  if (!Number.isSafeInteger(limit) || limit < 0) {
    throw new VolumeError('INVALID_ARGUMENT', `list ${kind}: a limit of ${limit} makes no sense`);
  }
  let after = '';
  if (page.startToken !== undefined && page.startToken !== '') {
    const [tokenKind, id] = Buffer.from(page.startToken, 'base64url').toString().split(':');
    if (tokenKind !== kind || id === undefined || id === '') {
      throw new VolumeError('BAD_PAGE_TOKEN', `list ${kind}: the token comes from no earlier page`);
    }
    after = id;
  }
  const rest = items.filter((item) => item.id > after);
  const shown = rest.slice(0, limit);
  const last = shown.at(-1);
  if (last === undefined || shown.length === rest.length) return { items: shown };
  return { items: shown, nextToken: Buffer.from(`${kind}:${last.id}`).toString('base64url') };
}
