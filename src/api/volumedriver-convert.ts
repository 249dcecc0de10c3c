/**
 * Between the nouns of src/volumes and their messages in proto/volumedriver.proto. Pure. Proto3 has no null, so
 * an empty string stands for it; a message that leaves out what it must have is a PROTOCOL_ERROR of the peer.
 */
import { VolumeError } from '../volumes/errors.ts';
import type { ExportTarget, RemovalMode, SnapshotRef } from '../volumes/volume-service.ts';
import type { FlushTarget, Volume, VolumeSource } from '../volumes/volume.ts';
import * as wire from './generated/volumedriver.ts';

export function volumeToWire(volume: Volume): wire.Volume {
  return {
    id: volume.id,
    name: volume.name,
    sizeBytes: volume.sizeBytes,
    createdAtMs: volume.createdAtMs,
    source: volume.source === null ? undefined : sourceToWire(volume.source),
    flushTo: flushToWire(volume.flushTo),
    grants: volume.grants.map((grant) => ({ ...grant })),
    generation: volume.generation,
    written: volume.written,
    formatting: volume.formatting ?? '',
    usedBytes: volume.usedBytes,
    clients: volume.clients,
    halted: volume.halted ?? '',
  };
}

export function volumeFromWire(volume: wire.Volume): Volume {
  const flushTo = flushFromWire(volume.flushTo);
  if (flushTo === undefined) {
    throw new VolumeError(
      'PROTOCOL_ERROR',
      `volume ${volume.id}: its flush target is ${volume.flushTo}`,
    );
  }
  return {
    id: volume.id,
    name: volume.name,
    sizeBytes: volume.sizeBytes,
    createdAtMs: volume.createdAtMs,
    source: sourceFromWire(volume.source) ?? null,
    flushTo,
    grants: volume.grants.map(({ node, readOnly, generation }) => ({ node, readOnly, generation })),
    generation: volume.generation,
    written: volume.written,
    formatting: volume.formatting === '' ? null : volume.formatting,
    usedBytes: volume.usedBytes,
    clients: volume.clients,
    halted: volume.halted === '' ? null : volume.halted,
  };
}

export function sourceToWire(source: VolumeSource): wire.VolumeSource {
  return source.kind === 'snapshot'
    ? { kind: { $case: 'snapshotId', value: source.snapshotId } }
    : { kind: { $case: 'volumeId', value: source.volumeId } };
}

export function sourceFromWire(source: wire.VolumeSource | undefined): VolumeSource | undefined {
  switch (source?.kind?.$case) {
    case 'snapshotId':
      return { kind: 'snapshot', snapshotId: source.kind.value };
    case 'volumeId':
      return { kind: 'volume', volumeId: source.kind.value };
    case undefined:
      return undefined;
  }
}

export function flushToWire(target: FlushTarget | undefined): wire.FlushTarget {
  switch (target) {
    case 'local':
      return wire.FlushTarget.FLUSH_TARGET_LOCAL;
    case 'backend':
      return wire.FlushTarget.FLUSH_TARGET_BACKEND;
    case undefined:
      return wire.FlushTarget.FLUSH_TARGET_UNSPECIFIED;
  }
}

/** undefined for "unspecified" and for values that we do not know. */
export function flushFromWire(target: wire.FlushTarget): FlushTarget | undefined {
  if (target === wire.FlushTarget.FLUSH_TARGET_LOCAL) return 'local';
  if (target === wire.FlushTarget.FLUSH_TARGET_BACKEND) return 'backend';
  return undefined;
}

export function modeToWire(mode: RemovalMode): wire.RemovalMode {
  return mode === 'strict'
    ? wire.RemovalMode.REMOVAL_MODE_STRICT
    : wire.RemovalMode.REMOVAL_MODE_DEFERRED;
}

/** undefined for values that we do not know. */
export function modeFromWire(mode: wire.RemovalMode): RemovalMode | undefined {
  if (mode === wire.RemovalMode.REMOVAL_MODE_STRICT) return 'strict';
  if (mode === wire.RemovalMode.REMOVAL_MODE_DEFERRED) return 'deferred';
  return undefined;
}

export function snapshotRefToWire(ref: SnapshotRef): wire.SnapshotRef {
  return { volume: ref.volume ?? '', snapshot: ref.snapshot };
}

export function snapshotRefFromWire(ref: wire.SnapshotRef): SnapshotRef {
  return ref.volume === ''
    ? { snapshot: ref.snapshot }
    : { volume: ref.volume, snapshot: ref.snapshot };
}

export function targetToWire(target: ExportTarget): wire.GetExportRequest {
  switch (target.kind) {
    case 'granted': {
      const { volume, generation } = target;
      return { target: { $case: 'granted', value: { volume, generation } } };
    }
    case 'plain':
      return { target: { $case: 'plainVolume', value: target.volume } };
    case 'snapshot':
      return { target: { $case: 'snapshot', value: snapshotRefToWire(target.snapshot) } };
  }
}
