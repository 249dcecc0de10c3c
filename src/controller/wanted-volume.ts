/** What a CreateVolume call asks for, with every field checked, and whether a volume is that. */
import type { CreateVolumeRequest, VolumeContentSource } from '../api/generated/csi.ts';
import { invalid, requireString } from '../csi/validate.ts';
import {
  parseCapabilities,
  type FilesystemType,
  type VolumeUse,
} from '../csi/volume-capability.ts';
import { VolumeError } from '../volumes/errors.ts';
import type { FlushTarget, Volume, VolumeSource } from '../volumes/volume.ts';
import { isWithin, parseRange, type SizeRange } from './capacity-range.ts';
import { parseVolumeParameters } from './parameters.ts';
import type { Volumedriver } from './volumedrivers.ts';

export interface WantedVolume {
  readonly name: string;
  readonly uses: readonly VolumeUse[];
  readonly range: SizeRange;
  readonly source: VolumeSource | undefined;
  /** Undefined: the backend's default. */
  readonly flushTo: FlushTarget | undefined;
  readonly fsType: FilesystemType | undefined;
}

/** INVALID_ARGUMENT before anything is looked up. */
export function parseWanted(request: CreateVolumeRequest): WantedVolume {
  const name = requireString('name', request.name);
  const uses = parseCapabilities('volume_capabilities', request.volumeCapabilities);
  const range = parseRange(request.capacityRange);
  const { flushTo, fsType } = parseVolumeParameters(request.parameters);
  if (Object.keys(request.mutableParameters).length > 0) {
    throw invalid('mutable_parameters', 'volumes have none');
  }
  const source = parseSource(request.volumeContentSource);
  return { name, uses, range, source, flushTo, fsType };
}

function parseSource(source: VolumeContentSource | undefined): VolumeSource | undefined {
  if (source === undefined) return undefined;
  if (source.type === undefined) throw invalid('volume_content_source', 'it names no source');
  if (source.type.$case === 'volume') {
    const field = 'volume_content_source.volume.volume_id';
    return { kind: 'volume', volumeId: requireString(field, source.type.value.volumeId) };
  }
  const field = 'volume_content_source.snapshot.snapshot_id';
  return { kind: 'snapshot', snapshotId: requireString(field, source.type.value.snapshotId) };
}

/** As the volumedriver has it: safe unless asked otherwise, where another node may take over. */
export function flushTargetOf(
  wanted: Pick<WantedVolume, 'flushTo'>,
  { shared }: Pick<Volumedriver, 'shared'>,
): FlushTarget {
  return wanted.flushTo ?? (shared ? 'backend' : 'local');
}

/**
 * ALREADY_EXISTS unless the volume, found by its name, is what is asked for. Made by an earlier call, it may have
 * grown since; its source may be gone. Which filesystem the earlier call asked for is not known: the node's first
 * stage decides, and tells a later one that asks for another.
 */
export function checkCompatible(
  volume: Volume,
  wanted: WantedVolume,
  volumedriver: Pick<Volumedriver, 'shared'>,
): void {
  const same =
    isWithin(wanted.range, volume.sizeBytes) &&
    volume.flushTo === flushTargetOf(wanted, volumedriver) &&
    sourceId(volume.source) === sourceId(wanted.source ?? null);
  if (same) return;
  throw new VolumeError(
    'ALREADY_EXISTS',
    `create volume ${wanted.name}: it exists with another size, source or flushTo`,
  );
}

function sourceId(source: VolumeSource | null): string {
  if (source === null) return '';
  return source.kind === 'volume' ? `volume ${source.volumeId}` : `snapshot ${source.snapshotId}`;
}
